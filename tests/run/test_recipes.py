"""Recipes: what they set, what a flag overrides, and the dry run of a study."""

import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig
from lorajax.training import loop
from lorajax.training.config import TrainConfig
from run import finetune, recipes, study
from run.dry_run import _plan_command, _with_steps
from run.options import StudyConfig
from run.plan import Plan
from run.report import flags
from run.study import Study, from_recipe, parse_bases, study_bases, without_recipe_bases
from tests.run.test_commands import run
from tests.tiny import tiny_checkpoint


def parsed(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        return recipes.cli(Study, from_recipe, prog="study", description=None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model small enough to plan in seconds."""
    return tiny_checkpoint(tmp_path_factory.mktemp("recipe") / "tiny")


@pytest.fixture(scope="module")
def own(model):
    """A recipe of the user's."""
    file = model.parent / "mine.toml"
    file.write_text(
        f'about = "a try"\n[flags]\nmodel = "{model}"  # nearby\ntasks = ["arithmetic", "number_words"]\n'
        "epochs = 0.5\ntrain_examples = 16\nmax_length = 64\nmax_answer = 16\n"
    )
    return file


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_that_come_with_the_package(name):
    recipe = recipes.load(name)
    options = from_recipe(recipe)
    assert (options.config.recipe, options.out) == (name, Path("studies") / name)
    flags = options.config.flat() | {"bases": list(options.bases)}
    assert all(flags[key] == value for key, value in recipe.flags.items())
    assert recipe.about
    if name != "demo":  # every number of a published experiment has its source beside it
        assert set(recipe.sources) >= set(recipe.flags) - {"bases"}


def test_a_flag_counts_more_than_the_recipe(own):
    options = parsed("studies/x", "--recipe", own, "--epochs", "2", "--tasks", "arithmetic")
    assert options.out == Path("studies/x")
    assert (options.config.recipe, options.config.train.epochs) == (str(own), 2)
    assert options.config.data.tasks == ("arithmetic",)
    assert options.config.data.train_examples == 16
    assert parsed(f"--recipe={own}").out == Path("studies/mine")
    assert parsed("studies/x").config == StudyConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[flags]\nstep = 3\n", "unknown settings: step"),
        ("[flags]\nsteps = 0\n", "--steps must be at least 1, found 0"),
        ("about = 3\n", r"about = 3 is not expected in a recipe; expected about \(str\)"),
        ("[flag]\nsteps = 3\n", "flag = .* is not expected"),
        ("[flags\n", r"bad\.toml"),
    ],
)
def test_bad_recipes_are_named(tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(LorajaxError, match=message):
        parsed("--recipe", tmp_path / "bad.toml")


def test_unknown_recipe():
    with pytest.raises(LorajaxError, match="--recipe layer_by_layer: no such recipe; did you mean layer-by-layer"):
        parsed("--recipe", "layer_by_layer")
    with pytest.raises(LorajaxError, match=r"none\.toml"):
        parsed("--recipe", "none.toml")


def test_dry_run_tells_and_does_nothing(own, tmp_path, capsys):
    run(study, tmp_path / "s", "--recipe", own, "--unseen", "number_words", "--dry-run")
    told = capsys.readouterr().out
    assert "nearby" in told  # the source of the model
    assert "given" in told  # of --unseen
    assert "Data: 2 tasks of builtin" in told
    assert "1 of E, 1 of each control model (0.5 epochs); a group of adapters that are trained together takes 1" in told
    assert "memory of each device" in told
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("packing", ["--packing", "--no-packing"])
def test_dry_run_plans_the_batches_of_the_training(model, tmp_path, capsys, monkeypatch, packing):
    """What is planned for is the largest batch that the training then takes: rows, and tokens of a row."""
    flags = ["--model", model, "--tasks", "arithmetic", "capital_city", "--steps", "6", "--batch-size", "3"]
    flags += ["--train-examples", "12", "--test-examples", "8", "--max-length", "256", "--rank", "2", packing]
    run(study, tmp_path / "s", *flags, "--dry-run")
    planned = re.search(r"batch of an adapter: (\d+) rows of (\d+) tokens, which hold", capsys.readouterr().out)
    taken, step = set(), loop._Programs.__call__

    def watched(self, layout, state, batch):
        taken.add((layout, batch["tokens"].shape[1:]))
        return step(self, layout, state, batch)

    monkeypatch.setattr(loop._Programs, "__call__", watched)
    run(finetune, tmp_path / "s", *flags)
    assert all(shape == (layout.rows, layout.length) for layout, shape in taken)
    assert tuple(map(int, planned.groups())) == tuple(max(sizes) for sizes in zip(*(s for _, s in taken), strict=True))


def test_dry_run_without_the_data_of_the_recipe(own, tmp_path, capsys):
    """What a recipe itself names need not be here; what is given with a flag must be."""
    missing = tmp_path / "none"
    with pytest.raises(LorajaxError, match=f"data '{missing}': no such folder"):
        run(study, "--recipe", own, "--data", missing, "--dry-run")
    away = tmp_path / "away.toml"
    away.write_text(own.read_text().replace("[flags]", f'[flags]\ndata = "{missing}"'))
    run(study, "--recipe", away, "--tasks", "--dry-run")
    told = capsys.readouterr().out
    assert f"data: not here to be counted. data '{missing}': no such folder" in told
    assert "planned for 24 tasks" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "{data}"), r"a\.jsonl:7: not JSON"),
        (("--tasks", "capital_citty"), "unknown task 'capital_citty': did you mean capital_city?"),
        (("--model", "nomodel", "--tasks", "arithmetic"), "nomodel"),
    ],
)
def test_dry_run_ends_with_the_error_that_the_study_would(tmp_path, flags, message):
    rows = [{"task": "a", "cluster": "c", "input": f"q {i}", "targets": [str(i)]} for i in range(40)]
    lines = [json.dumps(row) for row in rows]
    lines[6] = lines[6][:-5]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(LorajaxError, match=message):
        run(study, tmp_path / "s", *(flag.format(data=tmp_path / "data") for flag in flags), "--dry-run")


def test_another_model_has_precedence_over_the_bases_of_a_recipe():
    options = parsed("studies/x", "--recipe", "task-vectors")
    assert len(without_recipe_bases(options).bases) == 2
    assert without_recipe_bases(parsed("studies/x", "--recipe", "task-vectors", "--model", "smollm2")).bases == ()
    bases = ("--bases", "a=smollm2", "b=other")
    kept = without_recipe_bases(parsed("studies/x", "--recipe", "task-vectors", "--model", "smollm2", *bases))
    assert kept.bases == ("a=smollm2", "b=other")


def test_the_command_for_another_machine_plans_the_same():
    """Whatever flag is given, in whichever group."""
    train = TrainConfig(steps=700, batch_size=3, packing=False, remat="block")
    options = Plan(
        "llama2-7b", fleet=3, examples=50, train=train, lora=LoraConfig(targets=("q_proj", "k_proj"), rank=3)
    )
    words = shlex.split(_plan_command(options))
    assert words[:3] == ["python", "-m", "run.plan"]
    assert tyro.cli(Plan, args=words[3:]) == dataclasses.replace(options, topology="v5e:4x4")


def test_a_group_takes_as_long_as_its_longest_member():
    options = _with_steps(Plan(fleet=2), [100, 10, 10, 10])
    assert options.train.steps == 55  # (100, 10) and (10, 10)
    assert _with_steps(Plan(fleet=4), [100, 10, 10, 10]).train.steps == 100


def test_a_report_s_flags_are_those_that_differ_from_the_recipe(own):
    """The command they make gives the same settings again."""
    changed = ("--train-examples", "1000", "--max-length", "80", "--seed", "3", "--tasks", "arithmetic")
    config = parsed("studies/x", "--recipe", own, *changed).config
    assert parsed("studies/x", *shlex.split(flags(config.flat()))).config == config
    gone = config.flat() | {"recipe": "no/such/file.toml"}
    assert parsed("studies/x", *shlex.split(flags(gone))).config.flat() == config.flat() | {"recipe": ""}


def test_several_bases_do_not_go_into_a_study(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(LorajaxError, match="is a study of one model; name another folder"):
        study_bases(Study(tmp_path, bases=("a=x", "b=y")))


def test_finetune_takes_a_recipe_too(own, tmp_path):
    run(finetune, tmp_path / "s", "--recipe", own, "--steps", "1", "--epochs", "0", "--test-examples", "4")
    record = json.loads((tmp_path / "s/study.json").read_text())
    assert record["config"]["recipe"] == str(own)
    assert set(record["data"]["tasks"]) == {"arithmetic", "number_words"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["instruct"], "--bases instruct: expected NAME=MODEL"),
        (["=x", "b=y"], "this name cannot be used"),
        (["a/b=x", "b=y"], "this name cannot be used"),
        (["a=x", "A=y"], "the name 'A' is in use"),
        (["results=x", "b=y"], "the name 'results' is in use"),
        (["a=x"], "a single base; name two or more"),
    ],
)
def test_bad_bases(entries, message):
    with pytest.raises(LorajaxError, match=message):
        parse_bases(entries)
