"""The commands as people use them, on a random checkpoint small enough to train in seconds."""

import csv
import html
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from lorajax.errors import LorajaxError
from lorajax.lora.peft import load_adapter
from run import cka_all_layers, export, finetune, report, study
from run.__main__ import COMMANDS
from run.compare_adapters import is_compared
from run.finetune import Finetune, even_groups, pending_groups
from run.options import StudyConfig
from run.page.contents import FIGURES
from run.study_folder import StudyFolder
from tests.tiny import TINY, tiny_checkpoint

TASKS = ("arithmetic", "capital_city", "number_words")
FLAGS = [
    "--tasks", *TASKS, "--steps", "6", "--batch-size", "2", "--train-examples", "12", "--test-examples", "10",
    "--max-length", "256", "--rank", "2", "--targets", "all-linear", "--fleet-size", "3", "--learning-rate", "5e-3",
]  # fmt: skip


def run(module, *arguments):
    """Runs a command in this process, as from its command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        module.main()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    """A finished study."""
    folder = tmp_path_factory.mktemp("studies") / "done"
    run(study, folder, "--model", model, *FLAGS)
    return folder


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "copy")


def test_study_holds_what_it_says(done):
    record = json.loads((done / "study.json").read_text())
    assert set(record["data"]["tasks"]) == set(TASKS)
    assert record["model"]["layers"] == ["embedding", "block 1", "block 2", "final norm"]
    assert sorted(p.name for p in (done / "adapters").iterdir()) == sorted(["E", *TASKS])
    rows = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]["loss"]) == {"E", *TASKS}
    losses = list(csv.DictReader((done / "results" / "losses.csv").open()))
    assert [(row["task"], row["model"]) for row in losses] == [(t, m) for t in TASKS for m in "EC"]
    assert all(float(row["after"]) < float(row["before"]) for row in losses)
    page = (done / "report.html").read_text()
    # Three tasks are too few for correlations, two blocks too few for bands.
    absent = {"readability", "ablation", "published_curves", "published_projections"}
    assert set(re.findall(r'<figure class="plot" id="(\w+)"', page)) == FIGURES.keys() - absent
    assert "By their adapters' weights, the nearest tasks are" in html.unescape(page)
    assert {p.suffix for p in (done / "figures").iterdir()} == {".svg"}
    assert not [p for p in done.rglob("*") if p.name.startswith(".")]  # nothing half-written
    assert len(list((done / "training").glob("*/fleet.json"))) == 2
    assert not list((done / "training").glob("*/checkpoints"))


def test_a_comparison_of_adapters_counts_with_its_map_only(copy):
    assert is_compared(StudyFolder.open(copy))
    (copy / "results" / "task_map.nc").unlink()
    assert not is_compared(StudyFolder.open(copy))


def test_cka_is_labelled_and_missing_where_constant(done):
    data = xr.load_dataset(done / "results" / "cka.nc", engine="h5netcdf")
    assert data["cka"].dims == ("pair", "estimator", "task", "layer_a", "layer_b")
    assert list(data["pair"].values) == ["base | C", "E | C", "base | E"]
    assert list(data["task"].values) == list(TASKS)  # of different lengths, the longer ones last
    assert list(data["cluster"].values) == ["misc", "closed_book_qa", "misc"]
    assert "no cka has been computed" not in (done / "report.html").read_text().lower()
    # The last prompt token is ":" for every prompt, so the embedding cannot be compared, and everything above can.
    assert np.isnan(data["cka"].sel(layer_a="embedding")).all()
    assert np.isfinite(data["cka"].isel(layer_a=slice(1, None), layer_b=slice(1, None))).all()
    assert set(data["reason"].sel(layer="embedding").values.ravel()) == {"constant features: all 10 rows are equal"}
    assert set(data["reason"].isel(layer=slice(1, None)).values.ravel()) == {""}
    assert set(data["n"].values) == {10}
    assert len((done / "results" / "cka.csv").read_text().splitlines()) == 1 + data["cka"].size


def test_cka_values_again_by_hand(done, model):
    """From the files alone: adapters as PEFT folders, states by one unbatched call, CKA from its definition."""
    from lorajax.data import builtin
    from lorajax.data.prompts import PromptConfig, tokenize
    from lorajax.models.checkpoint import load

    checkpoint = load(str(model))
    test = builtin.load("arithmetic", n_train=12, n_test=10).test
    prompts = tokenize(test, checkpoint.tokenizer, PromptConfig(max_length=256)).prompts

    def states(adapter):
        rows = [checkpoint.model(p[None, None], adapter, collect=lambda h: h[0, 0, -1]).states for p in prompts]
        return np.asarray(rows, np.float64).swapaxes(0, 1)

    def cka(x, y):
        x, y = x - x.mean(0), y - y.mean(0)
        return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))

    base, multi, control = (
        states(None if name is None else load_adapter(done / "adapters" / name, checkpoint.model.config)[0])
        for name in (None, "E", "arithmetic")
    )
    data = xr.load_dataset(done / "results" / "cka.nc", engine="h5netcdf")["cka"]
    data = data.sel(task="arithmetic", estimator="biased")
    for pair, (a, b) in {"base | C": (base, control), "E | C": (multi, control), "base | E": (base, multi)}.items():
        want = [[cka(a[i], b[j]) for j in range(1, 4)] for i in range(1, 4)]
        np.testing.assert_allclose(data.sel(pair=pair).values[1:, 1:], want, atol=2e-5)


def test_again_does_nothing(done, model, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*.safetensors")}
    run(study, done, "--model", model, *FLAGS)
    said = capsys.readouterr().out
    assert "4 of 4 adapters are trained already" in said
    assert "CKA of 3 of 3 tasks is there already" in said
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_lost_pieces_are_made_again_and_equal(copy, model):
    """E was trained in a fleet of two, and is now trained alone: the same to rounding."""
    before, _ = load_adapter(copy / "adapters" / "E", TINY)
    losses = list(csv.DictReader((copy / "results" / "losses.csv").open()))
    shutil.rmtree(copy / "adapters" / "E")
    (copy / "results" / "losses.csv").unlink()
    run(finetune, copy, "--model", model, *FLAGS)
    after, _ = load_adapter(copy / "adapters" / "E", TINY)
    for path in before:
        np.testing.assert_allclose(after[path].b, before[path].b, atol=1e-5)
    for row, again in zip(losses, csv.DictReader((copy / "results" / "losses.csv").open()), strict=True):
        assert (row["task"], row["model"]) == (again["task"], again["model"])
        np.testing.assert_allclose(float(row["after"]), float(again["after"]), atol=1e-4)


def test_new_adapters_make_old_results_stale(copy, model, capsys):
    file = copy / "adapters" / "capital_city" / "adapter_model.safetensors"
    file.write_bytes((copy / "adapters" / "arithmetic" / "adapter_model.safetensors").read_bytes())
    run(cka_all_layers, copy)
    assert "CKA of 2 of 3 tasks is there already" in capsys.readouterr().out


def test_losses_of_replaced_adapters_are_measured_again(copy, model):
    def losses():
        rows = csv.DictReader((copy / "results" / "losses.csv").open())
        return {(row["task"], row["model"]): (row["after"], row["adapter"]) for row in rows}

    before = losses()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(copy / "adapters" / "arithmetic" / name, copy / "adapters" / "capital_city" / name)
    run(finetune, copy, "--model", model, *FLAGS)
    assert {key for key, value in losses().items() if value != before[key]} == {("capital_city", "C")}


def test_a_changed_scale_makes_results_stale(copy, capsys):
    file = copy / "adapters" / "E" / "adapter_config.json"
    file.write_text(file.read_text().replace('"lora_alpha": 16', '"lora_alpha": 64'))
    run(cka_all_layers, copy, "--tasks", "arithmetic")
    assert "already" not in capsys.readouterr().out
    # Only what is current is in the joined file.
    assert list(xr.load_dataset(copy / "results" / "cka.nc", engine="h5netcdf")["task"].values) == ["arithmetic"]


def test_comparing_one_task_keeps_the_others(copy):
    run(cka_all_layers, copy, "--tasks", "arithmetic")
    assert list(xr.load_dataset(copy / "results" / "cka.nc", engine="h5netcdf")["task"].values) == list(TASKS)


def test_killed_between_saving_and_tidying(copy, model):
    """The log is joined and checkpoints go even when every adapter is there already."""
    log = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").unlink()
    group = next((copy / "training").glob("*/fleet.json")).parent
    (group / "checkpoints" / "6").mkdir(parents=True)
    (copy / ".study.json.0123abcd.tmp").write_text("{")
    (copy / "adapters" / ".E.0123abcd.tmp").mkdir()
    run(finetune, copy, "--model", model, *FLAGS)
    assert (copy / "metrics.jsonl").read_text() == log
    assert not (group / "checkpoints").exists()


def test_settings_without_effect_may_change(copy, model, monkeypatch):
    monkeypatch.chdir(model.parent)
    run(finetune, copy, "--model", model.name, *FLAGS, "--fleet-size", "2", "--remat", "block")


@pytest.mark.slow  # its quicker sister is in tests/faults
def test_a_killed_study_resumes(model, tmp_path):
    """SIGKILL in the middle of training, in a process of its own; then the same command again."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "run.finetune", str(folder), "--model", str(model), *FLAGS]
    command += ["--checkpoint-every", "2"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.strip().startswith("step 5/6"):
                process.kill()
    assert process.returncode != 0
    assert not (folder / "adapters").exists()
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert "step 1/6" not in again.stdout.split("group 2 of")[0]
    assert sorted(p.name for p in (folder / "adapters").iterdir()) == sorted(["E", *TASKS])


def test_groups_are_even():
    names = [f"t{i}" for i in range(11)]
    assert [len(g) for g in even_groups(names, 10)] == [6, 5]
    assert [len(g) for g in even_groups(names, 11)] == [11]
    assert [name for g in even_groups(names, 4) for name in g] == names
    # A fleet that a mesh's axis divides is laid over it.
    assert [len(g) for g in even_groups(names[:7], 4, data=4)] == [4, 3]
    assert [len(g) for g in even_groups(names[:6], 10, data=4)] == [6]


def test_begun_and_planned_groups_go_on(tmp_path):
    folder = StudyFolder(tmp_path, {})
    names = [f"t{i}" for i in range(6)]
    (tmp_path / "training" / "t3").mkdir(parents=True)
    (tmp_path / "training" / "t3" / "fleet.json").write_text(json.dumps(["t3", "t4"]))
    assert pending_groups(folder, names, []) == ([], names)  # nothing to go on from
    (tmp_path / "training" / "t3" / "checkpoints" / "10").mkdir(parents=True)
    assert pending_groups(folder, names, []) == ([["t3", "t4"]], ["t0", "t1", "t2", "t5"])
    planned = [["t0", "t1"], ["t2", "t3"]]  # the second one clashes with what was begun
    assert pending_groups(folder, names, planned) == ([["t3", "t4"], ["t0", "t1"]], ["t2", "t5"])
    assert pending_groups(folder, ["t1"], planned) == ([], ["t1"])  # t0 is trained: the group is not whole


class TestBadInput:
    """Each ends with a message that names what is wrong, and leaves what is there as it was."""

    def fails(self, message, module, *arguments):
        with pytest.raises(LorajaxError, match=message):
            run(module, *arguments)

    def test_unknown_task(self, model, tmp_path):
        self.fails(
            "unknown task 'arithmetics': did you mean arithmetic",
            finetune,
            tmp_path / "s",
            "--model",
            model,
            "--tasks",
            "arithmetics",
        )
        assert not (tmp_path / "s").exists()

    def test_folder_of_another_study(self, copy, model):
        before = (copy / "study.json").read_text()
        flags = [*FLAGS, "--seed", "1", "--alpha", "3"]
        self.fails(
            r"holds another study: config\.alpha is 16\.0 there and 3\.0 here; config\.seed is 0",
            finetune,
            copy,
            "--model",
            model,
            *flags,
        )
        assert (copy / "study.json").read_text() == before

    def test_folder_of_something_else(self, model, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        self.fails(r"holds thesis\.tex but no study\.json", finetune, tmp_path, "--model", model, *FLAGS)
        assert (tmp_path / "thesis.tex").read_text() == "precious"

    def test_out_is_a_file(self, model, tmp_path):
        (tmp_path / "file").write_text("x")
        self.fails(
            "is a file; expected a folder|Not a directory", finetune, tmp_path / "file", "--model", model, *FLAGS
        )

    def test_cka_before_training(self, model, tmp_path):
        self.fails(r"study\.json: no such file; make a study first", cka_all_layers, tmp_path)

    def test_cka_without_the_multi_task_model(self, copy):
        shutil.rmtree(copy / "adapters" / "E")
        self.fails("the multi-task model E is not trained yet", cka_all_layers, copy)

    def test_cka_of_an_unknown_task(self, done):
        self.fails("--tasks arithmetik: no trained adapter", cka_all_layers, done, "--tasks", "arithmetik")

    def test_only_an_unknown_adapter(self, done, model):
        self.fails("--only F: no such adapter", finetune, done, "--model", model, *FLAGS, "--only", "F")

    def test_too_long(self, model, tmp_path):
        flags = [*FLAGS, "--max-length", "9999"]
        self.fails(
            "--max-length 9999 is more than the 512 positions", finetune, tmp_path / "s", "--model", model, *flags
        )

    def test_broken_record(self, copy, model):
        (copy / "study.json").write_text("{")
        self.fails(r"study\.json: not JSON", cka_all_layers, copy)

    def test_task_named_like_a_path(self, model, tmp_path):
        row = {"task": "../x", "cluster": "nli", "input": "a", "targets": ["b"]}
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "x.jsonl").write_text(f"{json.dumps(row)}\n" * 5)
        self.fails(
            r"task '\.\./x': this name cannot be used",
            finetune,
            tmp_path / "s",
            "--model",
            model,
            "--data",
            tmp_path / "data",
        )

    def test_too_few_test_rows(self, model, tmp_path):
        rows = [{"task": "x", "cluster": "nli", "input": f"a {i}", "targets": ["b"]} for i in range(6)]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.fails(
            r"task 'x': \d test rows; the debiased CKA needs 4",
            finetune, tmp_path / "s", "--model", model, "--data", tmp_path,
        )  # fmt: skip

    def refused(self, message, capsys, *arguments):
        """A flag's value is refused when the command line is read."""
        with pytest.raises(SystemExit) as left:
            run(finetune, *arguments)
        assert left.value.code == 2
        assert message in capsys.readouterr().err.replace("│\n│ ", "")

    @pytest.mark.parametrize("flag", ["--checkpoint-every", "--fleet-size", "--train-examples", "--steps", "--rank"])
    def test_zero(self, capsys, tmp_path, flag):
        self.refused(f"{flag} must be at least 1, found 0", capsys, tmp_path / "s", flag, "0")

    @pytest.mark.parametrize("flag", ["--clip", "--seed", "--weight-decay"])
    def test_negative(self, capsys, tmp_path, flag):
        self.refused(f"{flag} must be 0 or more, found -1", capsys, tmp_path / "s", flag, "-1")

    def test_names_that_share_a_folder(self, model, tmp_path):
        pairs = [(t, i) for t in ("nli", "NLI") for i in range(40)]
        rows = [{"task": t, "cluster": "nli", "input": f"a {i}", "targets": ["b"]} for t, i in pairs]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.fails("cannot be used beside", finetune, tmp_path / "s", "--model", model, "--data", tmp_path)

    def test_tokenizer_larger_than_the_embedding(self, tmp_path):
        import dataclasses

        small = tiny_checkpoint(tmp_path / "m", dataclasses.replace(TINY, vocab_size=100))
        message = r"its tokenizer gives token \d+, its embedding has 100 rows"
        self.fails(message, finetune, tmp_path / "s", "--model", small, *FLAGS)

    def test_out_that_cannot_be_made(self, model, tmp_path):
        (tmp_path / "file").write_text("x")
        self.fails("could not be written|Not a directory", finetune, tmp_path / "file" / "s", "--model", model, *FLAGS)
        self.fails("exists and is not empty", export, model, tmp_path / "file")

    @pytest.mark.slow
    def test_no_space(self, model, tmp_path, monkeypatch):
        """A full disk while an adapter is written: the error says so, and nothing half-written stays."""
        from safetensors import SafetensorError

        from lorajax.lora import peft

        def full(*_, **__):  # what safetensors raises, whatever the system's error was
            raise SafetensorError("I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(peft, "save_file", full)
        self.fails(
            "adapters/E: could not be written: I/O error: No space left on device",
            finetune,
            tmp_path / "s",
            "--model",
            model,
            *FLAGS,
        )
        assert list((tmp_path / "s" / "adapters").iterdir()) == []
        monkeypatch.undo()
        run(finetune, tmp_path / "s", "--model", model, *FLAGS)  # and goes on from the last checkpoint

    def test_report_without_study(self, tmp_path):
        self.fails("study", report, tmp_path)


def test_export_merged(done, model, tmp_path):
    run(export, model, tmp_path / "out", "--adapter", done / "adapters" / "E")
    from lorajax.models.checkpoint import load

    merged, base = load(str(tmp_path / "out")), load(str(model))
    adapter, _ = load_adapter(done / "adapters" / "E", TINY)
    tokens = np.arange(40).reshape(1, 1, 40)
    np.testing.assert_allclose(merged.model(tokens).hidden, base.model(tokens, adapter).hidden, atol=2e-5)
    assert merged.tokenizer("abc")["input_ids"] == base.tokenizer("abc")["input_ids"]


def test_settings_round_trip():
    config = StudyConfig()
    assert StudyConfig.from_flat(json.loads(json.dumps(config.flat()))) == config
    with pytest.raises(LorajaxError, match="unknown settings: colour"):
        StudyConfig.from_flat(config.flat() | {"colour": 1})


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name, monkeypatch, capsys):
    """Every command explains itself."""
    monkeypatch.setattr(sys, "argv", [f"run.{name}", "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"run.{name}").main()
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert f"python -m run.{name}" in told
    if name != "report":
        assert "default" in told


@pytest.mark.slow
def test_a_command_has_two_names():
    plain = subprocess.run([sys.executable, "-m", "run.report", "--help"], capture_output=True, text=True, check=True)
    script = subprocess.run(
        [sys.executable, "-m", "run", "report", "--help"], capture_output=True, text=True, check=True
    )
    assert plain.stdout == script.stdout


def test_exit_codes(tmp_path):
    failed = subprocess.run(
        [sys.executable, "-m", "run", "cka_all_layers", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr
    assert subprocess.run([sys.executable, "-m", "run", "dance"], capture_output=True, check=False).returncode == 2


def test_the_default_options_are_the_documented_ones():
    options = Finetune(out="x")
    assert options.config.model == "smollm2"
    assert options.config.lora.targets == ("q_proj", "v_proj")
