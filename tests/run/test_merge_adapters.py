"""Merging from the command line, and what a merged adapter is worth on the tasks of a study."""

import csv
import json
import shutil
import sys

import jax
import numpy as np
import pytest

from lorajax.data import builtin
from lorajax.data.prompts import PromptConfig, tokenize
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.lora.merge import MergeConfig, merge_adapters
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.models.checkpoint import load
from run import finetune, score
from run import merge_adapters as command
from run.finetune import FinetuneFlags, evaluate
from run.losses import measure_losses
from run.options import DataConfig, StudyConfig
from run.study_folder import StudyFolder
from run.workbench import Workbench
from tests.conftest import randomize
from tests.tiny import TINY, tiny_checkpoint

TASKS = ("capital_city", "arithmetic")
LORA = LoraConfig(rank=2, targets=("all-linear",), init="independent")


def run(module, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        module.main()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of random adapters with its losses, its workbench, and two of the adapters merged."""
    folder = tmp_path_factory.mktemp("studies")
    config = StudyConfig(
        model=str(tiny_checkpoint(folder / "tiny")),
        data=DataConfig(tasks=TASKS, train_examples=4, test_examples=5),
        prompt=PromptConfig(max_length=256),
        lora=LORA,
    )
    bench = Workbench.prepare(config)
    study = StudyFolder.create(folder / "study", bench.config, bench.facts())
    for seed, name in enumerate(("E", *TASKS)):
        adapter = randomize(init_adapter(TINY, LORA, [name], seed=seed), seed=seed)
        notes = {"model": study.record["model"]["fingerprint"]}
        save_adapter(adapter, LORA, study.adapter(name), base=bench.config.model, notes=notes)
    run(command, folder / "merged", *map(study.adapter, TASKS), "--method", "average")
    measure_losses(study, bench, {"merged": folder / "merged"})
    return study.path, bench, folder / "merged"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "copy")


def losses(study, name="adapter_losses.csv") -> dict:
    with (study / "results" / name).open(newline="") as file:
        return {(row["task"], row["model"]): row for row in csv.DictReader(file)}


def sources(made):
    return [made[0] / "adapters" / task for task in TASKS]


class TestMerging:
    def test_writes_the_merged_adapter_and_where_it_is_from(self, made, tmp_path, capsys):
        flags = ["--method", "ties", "--weights", "0.5", "-2", "--rank", "3", "--density", "0.4"]
        run(command, tmp_path / "out", *sources(made), *flags)
        said = capsys.readouterr().out
        expected = merge_adapters(
            [load_adapter(folder, TINY)[0] for folder in sources(made)],
            MergeConfig("ties", (0.5, -2.0), rank=3, density=0.4),
        )
        found, lora = load_adapter(tmp_path / "out", TINY)
        for path, module in expected.adapter.items():
            np.testing.assert_array_equal(found[path].a, module.a)
            np.testing.assert_array_equal(found[path].b, module.b)
        assert (lora.rank, lora.scale) == (3, 1.0)
        assert f"{100 * expected.discarded():.2f} %" in said
        notes = json.loads((tmp_path / "out" / "lorajax.json").read_text())
        study = StudyFolder.open(made[0])
        assert notes["model"] == study.record["model"]["fingerprint"]
        own = notes["merged"]
        assert (own["method"], own["weights"], own["rank"], own["density"]) == ("ties", [0.5, -2.0], 3, 0.4)
        assert [source["adapter"] for source in own["adapters"]] == [study.adapter_fingerprint(task) for task in TASKS]
        assert own["discarded"]["all"] == expected.discarded()
        keys = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert keys["base_model_name_or_path"] == study.record["config"]["model"]

    def test_again_replaces_what_was_merged(self, made, tmp_path):
        out = tmp_path / "out"
        run(command, out, *sources(made))
        first = load_adapter(out, TINY)[0]
        run(command, out, sources(made)[0], "--weights", "-1", "--base", made[1].config.model)
        negated, whole = load_adapter(out, TINY)[0], load_adapter(sources(made)[0], TINY)[0]
        assert first["mlp.up_proj"].a.shape[-1] == 4
        for path, module in negated.items():
            update = np.asarray(module.a[:, 0] @ module.b[:, 0]) * np.asarray(module.scale)[..., None]
            want = np.asarray(whole[path].a[:, 0] @ whole[path].b[:, 0]) * np.asarray(whole[path].scale)[..., None]
            np.testing.assert_allclose(update, -want, atol=1e-6)

    def test_nothing_else_is_overwritten(self, made, copy, tmp_path):
        def fails(message, *arguments):
            before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
            with pytest.raises(LorajaxError, match=message):
                run(command, *arguments)
            assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

        trained = copy / "adapters" / "E"
        fails("E: holds adapter_config.json, and no adapter that was merged before", trained, *sources(made))
        fails("copy: holds adapters, and no adapter that was merged before", copy, *sources(made))
        fails("study.json: is a file; expected a folder", copy / "study.json", *sources(made))
        fails("E: is also to be merged", trained, trained, *sources(made))

    def test_adapters_of_different_models(self, made, copy, tmp_path):
        other = copy / "adapters" / "arithmetic"
        keys, notes = other / "adapter_config.json", other / "lorajax.json"
        text = keys.read_text()
        keys.write_text(text.replace("tiny", "elsewhere/tiny"))
        with pytest.raises(LorajaxError, match="is an adapter of .*/tiny, .*arithmetic of .*elsewhere/tiny: if they"):
            run(command, tmp_path / "out", sources(made)[0], other)
        run(command, tmp_path / "out", sources(made)[0], other, "--base", made[1].config.model)
        keys.write_text(json.dumps(json.loads(text) | {"base_model_name_or_path": None}))
        with pytest.raises(LorajaxError, match=r"arithmetic/adapter_config\.json: names no base model; name it with"):
            run(command, tmp_path / "out", sources(made)[0], other)
        keys.write_text(text)
        notes.write_text(json.dumps({"model": "0123456789abcdef"}))
        with pytest.raises(LorajaxError, match="arithmetic: was trained over the base model 0123456789abcdef, and"):
            run(command, tmp_path / "new", sources(made)[0], other)
        notes.unlink()  # an adapter of other tools: nothing is known
        run(command, tmp_path / "new", sources(made)[0], other)
        assert (tmp_path / "new").exists()

    def test_files_that_are_not_what_they_should_be(self, made, tmp_path):
        for folder, message in ((made[0], "adapter_config.json: No such file"), (tmp_path / "no", "No such file")):
            with pytest.raises(LorajaxError, match=message):
                run(command, tmp_path / "out", folder)
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "adapter_config.json").write_text("{")
        with pytest.raises(LorajaxError, match=r"bad/adapter_config\.json: not JSON"):
            run(command, tmp_path / "out", tmp_path / "bad")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("out",), "expected OUT and at least one ADAPTER"),
            (("out", "a", "b", "--weights", "1"), "--weights: 1 numbers for 2 adapters"),
            (("out", "a", "--density", "0.5"), "--density goes with ties, dare and knots"),
            (("out", "a", "--rank", "0"), "--rank must be at least 1, found 0"),
            (("out", "a", "--method", "mean"), "--method"),
        ],
    )
    def test_flags(self, arguments, message, capsys):
        with pytest.raises(SystemExit) as ended:
            run(command, *arguments)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err.replace("│\n│ ", "")

    def test_help_teaches(self, capsys):
        with pytest.raises(SystemExit) as ended:
            run(command, "--help")
        said = capsys.readouterr().out
        assert ended.value.code == 0
        for word in ("--method", "--weights", "--density", "--rank", "--trim", "--base", "knots", "--eval-only"):
            assert word in said


class TestEvaluating:
    def test_losses_again_by_hand(self, made):
        """From the files alone: one example at a time, without packing."""
        folder, bench, merged = made
        checkpoint = load(bench.config.model)
        assert set(losses(folder)) == {(task, "merged") for task in TASKS}
        assert set(losses(folder, "losses.csv")) == {(task, model) for task in TASKS for model in "EC"}
        test = builtin.load("arithmetic", n_train=4, n_test=5).test
        examples = tokenize(test, checkpoint.tokenizer, PromptConfig(max_length=256))
        program = jax.jit(lambda ids, adapter: jax.nn.log_softmax(checkpoint.model.logits(checkpoint.model(ids, adapter).hidden)[0, 0]))  # fmt: skip
        row = losses(folder)["arithmetic", "merged"]
        for column, adapter in (("before", None), ("after", load_adapter(merged, TINY)[0])):
            total = count = 0
            for prompt, answer in zip(examples.prompts, examples.answers, strict=True):
                ids = np.concatenate([prompt, answer])
                scores = program(np.pad(ids, (0, 256 - len(ids)))[None, None], adapter)
                total -= float(sum(scores[len(prompt) + i - 1, token] for i, token in enumerate(answer)))
                count += len(answer)
            assert (float(row[column]), int(row["tokens"])) == (pytest.approx(total / count, abs=2e-5), count)
        assert row["before"] != row["after"]

    def test_eval_only_from_the_command_line(self, made, copy, capsys):
        shutil.rmtree(copy / "results")
        run(finetune, copy, "--eval-only", "--adapter", f"merged={made[2]}")
        table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("arithmetic")][-1]
        for name in ("losses.csv", "adapter_losses.csv"):
            found, want = losses(copy, name), losses(made[0], name)
            assert list(found) == list(want)
            for key, row in found.items():
                assert float(row["after"]) == pytest.approx(float(want[key]["after"]), abs=1e-5)
                assert row["adapter"] == want[key]["adapter"]
        shown = [f"{float(losses(copy)['arithmetic', 'merged'][column]):.3f}" for column in ("before", "after")]
        assert [table[1], table[-1]] == shown
        assert not (copy / "training").exists()
        assert not (copy / "metrics.jsonl").exists()

    def test_only_what_is_new_is_measured(self, made, copy, capsys, tmp_path):
        folder, bench, merged = made
        before = losses(copy)
        evaluate(FinetuneFlags(copy, eval_only=True, adapter=(f"merged={merged}",)), bench)
        assert "measuring" not in capsys.readouterr().out
        evaluate(FinetuneFlags(copy, eval_only=True, adapter=(f"twice={merged}",)), bench)
        after = losses(copy)  # what is not named this time stays
        assert {key: after[key] for key in before} == before
        for task in TASKS:
            assert float(after[task, "twice"]["after"]) == pytest.approx(
                float(before[task, "merged"]["after"]), abs=1e-5
            )
        run(command, tmp_path / "other", *sources(made), "--weights", "3", "-1")
        evaluate(FinetuneFlags(copy, eval_only=True, adapter=(f"merged={tmp_path / 'other'}",)), bench)
        assert all(losses(copy)[task, "merged"]["after"] != before[task, "merged"]["after"] for task in TASKS)
        assert losses(copy, "losses.csv") == losses(folder, "losses.csv")

    def test_scores(self, made, copy, capsys):
        flags = ["--examples", "2", "--max-new-tokens", "3", "--only", "arithmetic"]
        run(score, copy, *flags, "--adapter", f"merged={made[2]}", f"multi={copy / 'adapters' / 'E'}")
        assert "multi" in capsys.readouterr().out
        lines = [json.loads(line) for line in (copy / "results" / "generations.jsonl").read_text().splitlines()]
        texts = {
            m: [line["text"] for line in lines if line["model"] == m] for m in ("base", "E", "C", "merged", "multi")
        }
        assert all(len(own) == 2 for own in texts.values())
        assert texts["multi"] == texts["E"] != texts["merged"]
        before = (copy / "results" / "scores.csv").read_text()
        run(score, copy, *flags)  # without them, theirs stay
        assert "3 of 3 pairs of task and model are scored already" in capsys.readouterr().out
        assert (copy / "results" / "scores.csv").read_text() == before

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("merged", "--adapter merged: expected NAME=FOLDER"),
            ("=x", "--adapter =x: expected NAME=FOLDER"),
            ("e=x", "--adapter e=x: the name 'e' is in use"),
            ("arithmetic=x", "--adapter arithmetic=x: the name 'arithmetic' is in use"),
            ("base=x", "the name 'base' is in use"),
            ("x=nowhere", r"--adapter x=nowhere: no adapter_config\.json in nowhere; expected a PEFT folder"),
        ],
    )
    def test_bad_names(self, made, value, message):
        for module, flags in ((finetune, ["--eval-only"]), (score, [])):
            with pytest.raises(LorajaxError, match=message):
                run(module, made[0], *flags, "--adapter", value)

    def test_other_mistakes(self, made, copy, tmp_path, capsys):
        with pytest.raises(LorajaxError, match=r"study\.json: no such file; make a study first"):
            run(finetune, tmp_path / "new", "--eval-only")
        assert not (tmp_path / "new").exists()
        with pytest.raises(LorajaxError, match="holds another study: .*config.rank is 2 there and 5 here"):
            run(finetune, copy, "--eval-only", "--model", made[1].config.model, "--tasks", *TASKS, "--rank", "5")
        with pytest.raises(SystemExit):
            run(finetune, copy, "--adapter", "x=y")
        assert "--adapter goes with --eval-only" in capsys.readouterr().err.replace("│\n│ ", "")
        shutil.rmtree(copy / "adapters")
        with pytest.raises(LorajaxError, match="no adapter is trained yet: python -m run.finetune"):
            evaluate(FinetuneFlags(copy, eval_only=True), made[1])
