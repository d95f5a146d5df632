"""How commands speak: `--json` and `--quiet` of each, plain output where nobody watches, exit codes, help in a screen."""

import contextlib
import csv
import importlib
import inspect
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tyro
import xarray as xr
from rich.console import Console

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import init_adapter
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.training.loop import Progress
from lorajax.training.stopping import Stopped
from run import __main__ as command_line
from run import terminal
from run.__main__ import COMMANDS
from run.finetune import FinetuneFlags
from run.study_folder import StudyFolder
from run.terminal import EXIT_CODES, PartlyFailed, command, result, say, show_table, training_view, wrote
from run.workbench import Workbench
from tests.conftest import randomize
from tests.tiny import TINY, tiny_checkpoint

FLAGS = [
    "--tasks", "arithmetic", "capital_city", "--steps", "2", "--batch-size", "2", "--train-examples", "8",
    "--test-examples", "8", "--max-length", "256", "--rank", "2",
]  # fmt: skip

#: Flags of each command that reads the study, fewer than by default of what takes long.
ON_STUDY = {
    "finetune": ["--eval-only"],
    "cka_all_layers": ["--permutations", "0", "--bootstrap", "100", "--pairs", "base:C"],
    "spectrum": [],
    "embed_tasks": ["--points", "4", "--maps", "1", "--label-permutations", "5"],
    "readability": [],
    "ablate_layers": ["--tasks", "arithmetic", "--models", "C", "--examples", "4", "--masks", "prefix"],
    "compare_adapters": ["--draws", "20", "--permutations", "20", "--replicates", "100"],
    "score": ["--only", "arithmetic", "--examples", "2", "--max-new-tokens", "3"],
    "report": [],
}

#: Those that are everyday: the others take longer, and say what they say by the same functions.
QUICK = ("finetune", "cka_all_layers")
MARKED = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ON_STUDY]


def run(name, *arguments, expected=0):
    """Stdout and stderr of a command, in this process, as its own would."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        main = importlib.import_module(f"run.{name}").main if isinstance(name, str) else name
        try:
            command(main)
        except SystemExit as end:
            code = end.code
    assert code == expected, err.getvalue()
    return out.getvalue(), err.getvalue()


def read_json(text):
    """The one object in `text`; NaN is no JSON."""
    assert text.count("\n") == 1

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def rows(file):
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def assert_same(found, want, rel=2e-5):
    """Objects and rows of a CSV file: as text, or as numbers to the digits that the file has; empty is null."""
    assert len(found) == len(want) > 0
    for own, row in zip(found, want, strict=True):
        assert set(own) == set(row)
        for key, value in own.items():
            if isinstance(value, str):
                assert value == row[key]
            else:
                number = float(row[key] or "nan")
                assert value is None if math.isnan(number) else value == pytest.approx(number, rel=rel, abs=1e-6), key


@pytest.fixture(autouse=True, scope="module")
def _programs():
    """Compiled programs of tests are kept elsewhere than those of commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "keep_compiled_programs", lambda: None)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def study(model, tmp_path_factory):
    """A study of random adapters with the losses and CKA that other commands read."""
    folder = tmp_path_factory.mktemp("terminal") / "s"
    config = tyro.cli(FinetuneFlags, args=[str(folder), "--model", str(model), *FLAGS]).config
    bench = Workbench.prepare(config)
    made = StudyFolder.create(folder, bench.config, bench.facts())
    for seed, name in enumerate(("E", *bench.tasks)):
        adapter = randomize(init_adapter(TINY, config.lora, [name]), seed=seed)
        save_adapter(adapter, config.lora, made.adapter(name), base=str(model))
    for name in ("finetune", "cka_all_layers"):
        run(name, folder, *ON_STUDY[name])
    return folder


def check_finetune(found, folder):
    assert_same(found["losses"], rows(folder / "losses.csv"))
    assert (found["trained"], found["failed"]) == (["E", "arithmetic", "capital_city"], {})


def check_cka_all_layers(found, folder):
    assert_same(found["cka"], rows(folder / "cka_by_layer.csv"))
    assert_same(found["bands"], rows(folder / "bands.csv"))
    assert found["tasks"] == ["arithmetic", "capital_city"]
    assert found["cka"][0]["mean"] is None  # the embedding of the last token is constant: 0/0


def check_spectrum(found, folder):
    table = rows(folder / "spectrum.csv")
    assert {(row["model"], row["layer"]) for row in found["spectrum"]} == {(r["model"], r["layer"]) for r in table}
    for own in found["spectrum"]:
        mine = [r for r in table if (r["model"], r["layer"]) == (own["model"], own["layer"])]
        for measure in {r["measure"] for r in mine}:
            values = [float(r["spectrum"]) for r in mine if r["measure"] == measure and r["spectrum"]]
            assert own[measure] == (pytest.approx(np.mean(values), rel=2e-5, abs=1e-9) if values else None)


def check_embed_tasks(found, folder):
    table = {(r["measure"], r["layer"], r["statistic"], r["model"]): r["score"] for r in rows(folder / "embedding_scores.csv")}  # fmt: skip
    assert len(table) == 4 * len(found["clusters"])
    for own in found["clusters"]:
        for statistic in ("value", "null_mean", "null_sd", "p_value"):
            text = table[own["measure"], own["layer"], statistic, own["model"]]
            assert own[statistic] == (pytest.approx(float(text), rel=2e-5) if text else None)


def check_readability(found, folder):
    assert_same(found["readability"], rows(folder / "readability.csv"))
    assert found["correlations"] == []  # of two tasks there is none


def check_ablate_layers(found, folder):
    (own,) = found["ablation"]
    table = {r["mask"]: r for r in rows(folder / "ablation.csv")}
    assert (own["task"], own["model"], own["n"]) == ("arithmetic", "C", 4)
    for mask in ("base", "full"):
        assert own[mask] == pytest.approx(float(table[mask]["loss"]), abs=1e-6)


def check_compare_adapters(found, folder):
    assert_same(found["rec"], [r for r in rows(folder / "projection.csv") if r["projection"] == "rec"])
    assert_same(found["scores"], rows(folder / "task_map_scores.csv"))
    with xr.open_dataset(folder / "task_map.nc", engine="h5netcdf") as space:
        distances = space.distance.sel(module="all").values
    assert [(d["a"], d["b"]) for d in found["distances"]] == [("arithmetic", "capital_city")]
    assert found["distances"][0]["distance"] == distances[0, 1]


def check_score(found, folder):
    assert_same(found["scores"], [r for r in rows(folder / "scores.csv") if r["task"] == "arithmetic"])


def check_report(found, folder):
    assert found["report"] == str(folder.parent / "report.html")


@pytest.mark.parametrize("name", MARKED)
def test_json_tells_what_the_files_hold(study, name):
    out, _ = run(name, study, *ON_STUDY[name], "--json")
    found = read_json(out)
    globals()[f"check_{name}"](found, study / "results")
    assert "error" not in found
    documented = re.findall(r"`(\w+)`", importlib.import_module(f"run.{name}").__doc__.partition("`--json`")[2])
    assert set(found) - {"files"} <= {*documented, "report"}
    assert found["files"]
    assert all((study / file).exists() for file in found["files"])  # absolute paths
    # Again, with nothing left to do: the same. With --quiet the same files, and nothing else.
    assert read_json(run(name, study, *ON_STUDY[name], "--json")[0]) == found
    assert run(name, study, *ON_STUDY[name], "--quiet") == ("".join(f"{file}\n" for file in found["files"]), "")


@pytest.mark.slow
def test_json_of_a_training(model, tmp_path):
    out, err = run("finetune", tmp_path / "s", "--model", model, *FLAGS, "--json")
    check_finetune(read_json(out), tmp_path / "s" / "results")
    assert "step 2/2" in err  # all else is on stderr


@pytest.mark.parametrize("name", QUICK)
def test_piped_output_is_plain(study, monkeypatch, name):
    """No escape codes and no boxes, even where colour is asked for; lines are not cut at any width."""
    for variable, value in (("FORCE_COLOR", "1"), ("COLUMNS", "40"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(variable, value)
    out, err = run(name, study, *ON_STUDY[name])
    assert not re.search("[\x1b\u2500-\u257f\u2580-\u259f\r]", out + err)
    assert f"wrote {study}" in out


@pytest.mark.parametrize("words", [["--help"], ["report", "--help"]], ids=" ".join)
def test_a_reader_may_leave(words):
    """As `head` does: no traceback, and the exit code of a closed pipe."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from run.__main__ import main; main()", *words]
    with open(write, "wb") as out:
        ended = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_columns_are_as_wide_as_they_are():
    long = "a" * 300
    out, _ = run(lambda: show_table("A title that is longer", ["name", "x"], [[long, "1"], ["[bold]b[/]", "2"]]))
    lines = [line.split() for line in out.strip().splitlines()]
    assert lines[1:] == [["name", "x"], [long, "1"], ["[bold]b[/]", "2"]]


class Screen(io.StringIO):
    def isatty(self):
        return True


def on_screen(monkeypatch, main, *arguments, height=12, **environment):
    """What `main` writes to a terminal of 80 columns."""
    screen = Screen()
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": str(height), **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with contextlib.redirect_stdout(screen):
        command(main)
    return screen.getvalue()


def test_no_color_is_honoured(monkeypatch):
    def main():
        show_table("Title", ["name", "x"], [["a", "1"]])
        with terminal.progress() as bar:
            bar.advance(bar.add_task("work", total=2, note=""))

    coloured = re.compile(r"\x1b\[[\d;]*3[0-9]")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured.search(on_screen(monkeypatch, main))
    plain = on_screen(monkeypatch, main, NO_COLOR="1")
    assert "Title" in plain
    assert not coloured.search(plain)


def test_quiet_on_a_terminal(monkeypatch, tmp_path):
    def main():
        say("chatter")
        show_table("Title", ["name"], [["a"]])
        with terminal.progress() as bar:
            bar.advance(bar.add_task("work", total=2, note=""))
        wrote(tmp_path / "a", tmp_path / "b", note=": two files")

    assert on_screen(monkeypatch, main, "--quiet") == f"{tmp_path / 'a'}\n{tmp_path / 'b'}\n"


def steps(names, count, ended=()):
    """Progress of a fleet whose losses fall by 0.1 a step from 10 on; those in `ended` made one step."""
    for step in range(1, count + 1):
        active = [name for name in names if step == 1 or name not in ended]
        yield Progress(
            step, count, dict.fromkeys(active, 10 - 0.1 * step), 1234.0, 60.0, dict.fromkeys(active, 1e-3 * step)
        )


def train(names, count, ended=()):
    with training_view(names, count) as report:
        for now in steps(names, count, ended):
            report(now)


class TestTraining:
    def last_frame(self, monkeypatch, names, height):
        text = on_screen(monkeypatch, lambda: train(names, 30, names[1:2]), height=height)
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")
        return [line.split() for line in plain[plain.rindex("adapter") :].strip().splitlines()]

    def test_a_table_of_the_losses(self, monkeypatch):
        lines = self.last_frame(monkeypatch, ["E", "a", "b"], 40)
        # Means of the last ten steps, 21 to 30, less those of the first ten.
        assert lines[2] == ["E", "30", "7.450", "-2.000", "3.0e-02"]
        assert lines[3] == ["a", "1", "9.900", "+0.000", "1.0e-03"]
        assert lines[-1][:1] + lines[-1][-2:] == ["training", "1,234", "tokens/s"]

    def test_no_more_rows_than_fit(self, monkeypatch):
        names = [f"task_{i}" for i in range(30)]
        lines = self.last_frame(monkeypatch, names, 12)
        assert len(lines) < 12
        assert [line[0] for line in lines[2:6]] == names[:4]
        assert lines[6] == ["mean", "of", "26", "more", "7.450", "-2.000"]

    def test_lines_where_nobody_watches(self):
        out, _ = run(lambda: train(["E", "a"], 40))
        assert len(out.splitlines()) == 21  # the first step, and a twentieth of them
        assert out.splitlines()[1] == "  step 2/40  mean loss 9.800  1,234 tokens/s  1 min 00 s left"
        assert run(lambda: train(["E"], 40), "--quiet")[0] == ""


class TestJson:
    def test_types(self):
        def main():
            print("of a library")
            result(a=np.float32(0.5), b=np.array([1.0, math.nan]), c=math.inf, d={"e": (1, None, True)}, f="ü")

        out, err = run(main, "--json")
        assert read_json(out) == {"files": [], "a": 0.5, "b": [1, None], "c": None, "d": {"e": [1, None, True]}, "f": "ü"}  # fmt: skip
        assert err == "of a library\n"

    def test_merge(self, study, tmp_path):
        """The norm is that of the product of the factors in the file."""
        parts = [study / "adapters" / name for name in ("arithmetic", "capital_city")]
        found = read_json(run("merge_adapters", tmp_path / "m", *parts, "--json")[0])
        adapter = load_adapter(tmp_path / "m", TINY)[0]
        squares = {
            path: float(sum(np.sum((s * a @ b) ** 2) for a, b, s in zip(own.a[:, 0], own.b[:, 0], own.scale.ravel(), strict=True)))
            for path, own in adapter.items()
        }  # fmt: skip
        assert {m["module"]: m["norm"] for m in found["modules"]} == pytest.approx({p: s**0.5 for p, s in squares.items()}, rel=1e-4)  # fmt: skip
        assert found["norm"] == pytest.approx(sum(squares.values()) ** 0.5, rel=1e-4)
        assert found["files"] == [str(tmp_path / "m")]
        assert run("merge_adapters", tmp_path / "m", *parts, "--quiet") == (f"{tmp_path / 'm'}\n", "")

    def test_export(self, model, tmp_path):
        found = read_json(run("export", model, tmp_path / "out", "--json")[0])
        assert found == {"files": [str(tmp_path / "out")]}
        assert (tmp_path / "out" / "config.json").exists()

    @pytest.mark.slow
    def test_plan(self, model):
        arguments = ["--model", model, "--fleet", "1", "--length", "16", "--no-search", "--tasks", "2"]
        found = read_json(run("plan", *arguments, "--json")[0])
        memory = {name: line["value"] for name, line in found["memory of each device"].items()}
        parts = [value for name, value in memory.items() if name not in ("total", "memory of a device", "fits")]
        assert memory["total"] == sum(parts)
        text, err = run("plan", *arguments, "--quiet")
        assert f"{memory['total'] / 1e6:.2f} MB" in text
        assert "compiling" not in text + err

    @pytest.mark.slow
    def test_dry_run(self, model, tmp_path):
        found = read_json(run("study", tmp_path / "s", "--model", model, *FLAGS, "--dry-run", "--json")[0])
        assert found["settings"]["model"] == str(model)
        assert found["data"]["tasks"]["arithmetic"] == {"cluster": "misc", "examples": 8, "test": 8, "seen": True}
        assert found["study"]["adapters"]["value"] == 3
        assert not (tmp_path / "s").exists()

    def test_dry_run_reads_the_data_as_the_study_would(self, model, tmp_path):
        """Bad rows that are passed over are told, test prompts counted, and rows are as long as the texts need."""
        rows = [{"task": "a", "cluster": "c", "input": f"q {i}", "targets": [str(i)]} for i in range(40)]
        (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, rows), "{"]) + "\n")
        flags = ("--data", tmp_path / "a.jsonl", "--model", model, "--skip-bad-rows", "1", "--steps", "2", "--dry-run")
        out, err = run("study", tmp_path / "s", *flags, "--json")
        told = read_json(out)
        counts = told["data"]["tasks"]["a"]
        assert counts["examples"] + counts["test"] == 40
        assert "bad row passed over" in err
        assert f"fewer than 40 test prompts, so wide intervals: a ({counts['test']})" in err
        assert "which hold any batch of these texts" in err
        assert told["study"]["hours"]["value"] > 0

    @pytest.mark.slow
    def test_a_study_has_what_its_commands_have(self, model, tmp_path):
        arguments = [tmp_path / "s", "--model", model, *FLAGS, "--ablation-examples", "0"]
        found = read_json(run("study", *arguments, "--json")[0])
        for name in ("finetune", "cka_all_layers", "spectrum", "embed_tasks", "readability", "compare_adapters"):
            globals()[f"check_{name}"](found, tmp_path / "s" / "results")
        assert found["report"] == str(tmp_path / "s" / "report.html") == found["files"][-1]
        assert read_json(run("study", *arguments, "--json")[0]) == found  # nothing was left to do
        assert run("study", *arguments, "--quiet") == ("".join(f"{file}\n" for file in found["files"]), "")

    @pytest.mark.slow
    def test_several_bases(self, model, tmp_path):
        bases = ["--bases", f"a={model}", f"b={model}"]
        found = read_json(run("study", tmp_path / "s", *bases, *FLAGS, "--ablation-examples", "0", "--json")[0])
        assert list(found["bases"]) == ["a", "b"]
        check_finetune(found["bases"]["b"], tmp_path / "s" / "b" / "results")
        assert found["files"][-1] == found["report"] == str(tmp_path / "s" / "report.html")
        assert found["bases"]["a"]["report"] in found["files"]


class TestExitCodes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere/s", "--rank", "0"], "--rank must be at least 1, found 0"),
            (["nowhere/s", "--rnk", "1"], "Unrecognized options: --rnk, 1"),
            (["nowhere/s", "--lr", "1"], "Unrecognized options: --lr, 1. Perhaps you meant: --learning-rate"),
            (["nowhere/s", "--zzz"], "Unrecognized options: --zzz. --help names this command's flags"),
            (["nowhere/s", "--recipe", "none"], "--recipe none: no such recipe"),
            (["nowhere/s", "--eval-only"], "no such file; make a study first"),
        ],
    )
    def test_bad_input(self, arguments, message):
        out, err = run("finetune", *arguments, "--json", expected=2)
        found = read_json(out)
        assert list(found) == ["error"]
        assert message in found["error"]
        assert err == f"error: {found['error']}\n"
        assert run("finetune", *arguments, "--quiet", expected=2) == ("", err)

    def test_some_adapters_failed(self, study, model, tmp_path):
        """Losses of the others are told too. The study is put back as it was."""
        folder, training = study, study / "training" / "planted"
        training.mkdir(parents=True)
        try:
            (training / "failed.json").write_text('{"capital_city": 2}')
            out, err = run("finetune", folder, "--model", model, *FLAGS, "--json", expected=3)
        finally:
            (training / "failed.json").unlink()
            training.rmdir()
        found = read_json(out)
        assert found["failed"] == {"capital_city": 2}
        assert_same(found["losses"], rows(folder / "results" / "losses.csv"))
        assert f"error: {found['error']}" in err
        assert "'capital_city' at step 2; all others are trained" in found["error"]

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (LorajaxError("said"), 2),
            (PartlyFailed("said"), 3),
            (Stopped(3, 6, 15), 143),
            (Stopped(3, 6, 2), 130),
            (KeyboardInterrupt(), 130),
        ],
        ids=repr,
    )
    def test_each(self, error, code):
        def main():
            result(a=1)
            raise error

        found = read_json(run(main, "--json", expected=code)[0])
        assert found == {"files": [], "a": 1, "error": "said"} if code == 3 else list(found) == ["error"]
        assert str(code) in EXIT_CODES or str(code) in EXIT_CODES["128 + n"]
        assert run(main, "--quiet", expected=code)[1].strip().endswith(found["error"])

    def test_a_crash_keeps_its_traceback(self):
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            patch.setattr(sys, "argv", ["command", "--json"])
            with pytest.raises(ZeroDivisionError):
                command(lambda: 1 / 0)
        assert read_json(out.getvalue()) == {"error": "ZeroDivisionError: division by zero"}


class TestHelp:
    def asked(self, name, monkeypatch):
        """What the command hands to `cli`."""
        seen = {}

        def record(kind, **how):
            seen.update(how, kind=kind)
            raise SystemExit

        module = importlib.import_module(f"run.{name}")
        monkeypatch.setattr(command_line, "cli", record)
        if hasattr(module, "cli"):
            monkeypatch.setattr(module, "cli", record)
        monkeypatch.setattr(sys, "argv", ["command"])
        with pytest.raises(SystemExit):
            module.main()
        return seen

    @pytest.mark.parametrize("name", COMMANDS)
    def test_one_screen(self, name, monkeypatch):
        """Main flags in forty lines at a hundred columns, the others named below, all of them with their defaults."""
        monkeypatch.setenv("COLUMNS", "100")
        short, every = (run(name, flag)[0] for flag in ("--help", "--help-all"))
        lines = short.splitlines()
        assert max(map(len, lines)) <= 100
        assert next(i for i, line in enumerate([*lines, "more flags"]) if line.startswith("more flags")) <= 36
        assert len(lines) <= 50
        flags = set(re.findall(r"^│ (--[a-z][\w-]*)", every, re.MULTILINE)) - {"--help", "--help-all"}
        named = {flag.replace("[no-]", "") for flag in re.findall(r"--(?:\[no-\])?[a-z][\w-]*", short)}
        assert flags <= named
        assert {"--quiet", "--json"} <= named
        assert all(flag in every for flag in ("--quiet", "--json"))

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_example_is_a_command_line(self, name, monkeypatch, tmp_path):
        (tmp_path / "studies" / "demo").mkdir(parents=True)
        (tmp_path / "studies" / "demo" / "study.json").touch()  # as after `make demo`
        monkeypatch.chdir(tmp_path)
        seen = self.asked(name, monkeypatch)
        assert seen["prog"] == f"python -m run.{name}"
        assert tyro.cli(seen["kind"], args=shlex.split(seen["example"]), console_outputs=False)
        assert not {"quiet", "json"} & set(inspect.signature(seen["kind"]).parameters)  # of no recorded settings

    def test_defaults_are_those_of_the_recipe(self, monkeypatch):
        assert "(default: 25)" in run("study", "--help", "--recipe", "demo")[0]

    def test_commands_without_jax(self):
        """Of the list of commands, in a process of its own: quick, with the exit codes."""
        code = (
            "import sys; sys.argv = ['lorajax', '--help']\n"
            "try:\n    from run.__main__ import main; main()\n"
            "except SystemExit as end:\n    sys.exit(end.code or ('jax' in sys.modules) * 9)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        for word in (*COMMANDS, *EXIT_CODES, "--quiet", "--json"):
            assert f"  {word} " in done.stdout
        assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_console_is_put_back():
    """A command leaves nothing behind for the next one in the same process."""
    run(lambda: None, "--json")
    assert isinstance(terminal._console, Console)
    assert terminal._voice == terminal._Voice()
