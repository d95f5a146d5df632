"""Scoring a study of random adapters: what is written, what is done again, and what is refused."""

import csv
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from lorajax.data import builtin
from lorajax.data.prompts import PromptConfig, tokenize
from lorajax.errors import LorajaxError
from lorajax.generation import Answer
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.models.checkpoint import load
from lorajax.scores import exact_match, rouge_l, strict_match
from run import score
from run.options import DataConfig, StudyConfig
from run.study_folder import StudyFolder
from run.workbench import Workbench
from tests.conftest import randomize
from tests.run.test_lock import HOLD
from tests.tiny import TINY, tiny_checkpoint

TASKS = ("capital_city", "arithmetic")
FLAGS = ["--examples", "5", "--batch-size", "3", "--max-new-tokens", "8"]
LORA = LoraConfig(rank=2, targets=("all-linear",), init="independent")


def run(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        score.main()


def put_adapter(study: StudyFolder, name: str, seed: int):
    adapter = randomize(init_adapter(TINY, LORA, [name]), seed=seed)
    save_adapter(adapter, LORA, study.adapter(name), base="tiny")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A study with random adapters and no results."""
    folder = tmp_path_factory.mktemp("studies")
    config = StudyConfig(
        model=str(tiny_checkpoint(folder / "tiny")),
        data=DataConfig(tasks=TASKS, train_examples=4, test_examples=7),
        prompt=PromptConfig(max_length=256),
        lora=LORA,
    )
    bench = Workbench.prepare(config)
    study = StudyFolder.create(folder / "study", bench.config, bench.facts())
    for seed, name in enumerate(("E", *TASKS)):
        put_adapter(study, name, seed)
    return study.path


@pytest.fixture(scope="module")
def scored(fresh, tmp_path_factory):
    """The same with its scores."""
    folder = shutil.copytree(fresh, tmp_path_factory.mktemp("scored") / "study")
    run(folder, *FLAGS)
    return folder


@pytest.fixture
def copy(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "copy")


def rows(folder) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "results" / "scores.csv").open(newline="") as file:
        return {(row["task"], row["model"]): row for row in csv.DictReader(file)}


def lines(folder) -> dict[tuple[str, str], list[dict]]:
    found: dict = {}
    for text in (folder / "results" / "generations.jsonl").open(encoding="utf-8", newline="\n"):
        line = json.loads(text)
        found.setdefault((line["task"], line["model"]), []).append(line)
    return found


def test_answers_again_by_hand(scored):
    """From the files alone: one prompt at a time, every token from scratch."""
    study = StudyFolder.open(scored)
    checkpoint = load(study.config.model)
    test = builtin.load("arithmetic", n_train=4, n_test=7).test
    prompts = tokenize(test, checkpoint.tokenizer, study.config.prompt).prompts
    texts = set()
    logits = jax.jit(lambda ids, adapter: checkpoint.model.logits(checkpoint.model(ids, adapter).hidden)[0, 0])
    for model, name in (("base", None), ("E", "E"), ("C", "arithmetic")):
        adapter = None if name is None else load_adapter(study.adapter(name), TINY)[0]
        for i in (0, 4):
            ids = prompts[i].tolist()
            for _ in range(8):
                scores = logits(np.pad(ids, (0, 128 - len(ids)))[None, None], adapter)
                ids.append(int(scores[len(ids) - 1].argmax()))
            answer = ids[len(prompts[i]) :]
            answer = answer[: answer.index(2)] if 2 in answer else answer  # 2 is the end of a sequence
            line = lines(scored)["arithmetic", model][i]
            assert (line["id"], line["references"]) == (i, list(test[i].targets))
            assert line["text"] == checkpoint.tokenizer.decode(answer, skip_special_tokens=True)
            assert (line["tokens"], line["stopped"]) == (len(answer), len(answer) < 8)
            texts.add(line["text"])
    assert len(texts) > 3


def test_scores_are_those_of_the_answers(scored):
    found, answers = rows(scored), lines(scored)
    assert list(found) == list(answers) == [(task, model) for task in TASKS for model in ("base", "E", "C")]
    study = StudyFolder.open(scored)
    for (task, model), row in found.items():
        own = answers[task, model]
        assert list(row) == score.COLUMNS
        assert [line["id"] for line in own] == list(range(5))
        assert row["n"] == "5"
        for name, measure in (("exact_match", exact_match), ("strict_match", strict_match), ("rouge_l", rouge_l)):
            assert float(row[name]) == pytest.approx(
                np.mean([measure(x["text"], x["references"]) for x in own]), abs=1e-6
            )
        assert int(row["tokens"]) == sum(line["tokens"] for line in own)
        assert int(row["stopped"]) == sum(line["stopped"] for line in own)
        assert row["settings"] == "greedy max_new_tokens=8"
        name = {"base": None, "E": "E", "C": task}[model]
        assert row["adapter"] == ("" if name is None else study.adapter_fingerprint(name))
    assert {row["cluster"] for row in found.values()} == {"closed_book_qa", "misc"}
    assert not [path for path in scored.rglob("*") if path.name.startswith(".")]  # no lock, nothing half-written


def test_right_answers_are_scored_as_such(copy, monkeypatch, capsys):
    """Answers put into the models' mouths: E's are right but for the case, C's right to the letter."""
    bench = Workbench.prepare(StudyFolder.open(copy).config)

    def spoken(model, adapter, prompts, *, report, **_):
        examples, encode = bench.tasks["capital_city"].test, bench.checkpoint.tokenizer.encode
        texts = [["\u2028", text.upper(), f" {text}\n"] for text in (e.targets[0] for e in examples[: len(prompts[0])])]
        report(len(prompts[0]))
        return [[Answer(np.asarray(encode(row[n]), np.int32), True) for row in texts] for n in range(3)]

    monkeypatch.setattr(score, "generate", spoken)
    options = score.Score(copy, only=("capital_city",), examples=6)
    score.score(options, bench)
    found = [rows(copy)["capital_city", model] for model in ("base", "E", "C")]
    assert [float(row["exact_match"]) for row in found] == [0, 1, 1]
    assert [float(row["strict_match"]) for row in found] == [0, 0, 1]
    assert float(found[0]["rouge_l"]) == 0
    assert [row["stopped"] for row in found] == ["6", "6", "6"]
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("capital_city")]
    assert table[-1][:5] == ["capital_city", "6", "0.000", "1.000", "1.000"]
    assert lines(copy)["capital_city", "base"][0]["text"] == "\u2028"  # which ends a line for some readers
    before = (copy / "results" / "generations.jsonl").read_bytes()
    score.score(options, bench)
    assert "3 of 3 pairs of task and model are scored already" in capsys.readouterr().out
    assert (copy / "results" / "generations.jsonl").read_bytes() == before


class TestWhatIsDoneAgain:
    def test_nothing(self, copy, capsys, monkeypatch):
        before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
        monkeypatch.setattr(Workbench, "prepare", None)  # the model is not even loaded
        run(copy, *FLAGS)
        assert "6 of 6 pairs of task and model are scored already" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before

    def test_tasks_asked_for_with_other_settings(self, copy):
        before, answers = rows(copy), lines(copy)
        run(copy, *FLAGS, "--only", "arithmetic", "--temperature", "1.5", "--seed", "3")
        after = rows(copy)
        assert list(after) == list(before)
        for key, row in after.items():
            drawn = "max_new_tokens=8 temperature=1.5 top_k=0 top_p=1.0 seed=3"
            assert row["settings"] == (drawn if key[0] == "arithmetic" else "greedy max_new_tokens=8")
            assert (lines(copy)[key] == answers[key]) == (key[0] != "arithmetic")

    def test_scores_of_another_adapter(self, copy, capsys):
        study, before = StudyFolder.open(copy), lines(copy)
        shutil.rmtree(study.adapter("E"))
        put_adapter(study, "E", seed=11)
        run(copy, *FLAGS)
        assert "4 of 6 pairs" in capsys.readouterr().out
        after = lines(copy)
        assert {key for key in after if after[key] != before[key]} == {(task, "E") for task in TASKS}
        assert rows(copy)["arithmetic", "E"]["adapter"] == study.adapter_fingerprint("E")

    def test_lost_answers(self, copy):
        before = {path: path.read_bytes() for path in (copy / "results").iterdir()}
        (copy / "results" / "generations.jsonl").unlink()
        run(copy, *FLAGS)
        assert {path: path.read_bytes() for path in (copy / "results").iterdir()} == before

    def test_what_a_crash_left_out(self, fresh, scored, tmp_path, monkeypatch, capsys):
        folder = shutil.copytree(fresh, tmp_path / "study")
        real, tasks = score.generate, []

        def breaks(*arguments, **keywords):
            if tasks:
                raise KeyboardInterrupt
            tasks.append("first")
            return real(*arguments, **keywords)

        monkeypatch.setattr(score, "generate", breaks)
        with pytest.raises(KeyboardInterrupt):
            run(folder, *FLAGS)
        monkeypatch.undo()
        assert list(rows(folder)) == [(TASKS[0], model) for model in ("base", "E", "C")]
        capsys.readouterr()
        run(folder, *FLAGS)
        assert "3 of 6 pairs" in capsys.readouterr().out
        assert lines(folder) == lines(scored)

    def test_models_that_are_there(self, copy, capsys):
        study = StudyFolder.open(copy)
        shutil.rmtree(study.adapter("arithmetic"))
        run(copy, *FLAGS)
        assert list(rows(copy))[3:] == [("arithmetic", "base"), ("arithmetic", "E")]
        table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("arithmetic")]
        assert table[-1][-1] == "-"


class TestBadInput:
    def fails(self, message, *arguments):
        with pytest.raises(LorajaxError, match=message):
            run(*arguments)

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--examples", "--examples must be at least 1, found 0"),
            ("--batch-size", "--batch-size must be at least 1, found 0"),
            ("--max-new-tokens", "--max-new-tokens must be at least 1, found 0"),
        ],
    )
    def test_options(self, fresh, flag, message, capsys):
        with pytest.raises(SystemExit) as ended:
            run(fresh, flag, "0")
        assert ended.value.code == 2
        assert message in capsys.readouterr().err

    def test_unknown_task(self, fresh):
        message = "--only dance: no trained adapter in .*; there are: capital_city, arithmetic"
        self.fails(message, fresh, "--only", "dance")

    def test_no_study_or_no_adapters(self, fresh, tmp_path):
        self.fails("no such file; make a study first", tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()
        folder = shutil.copytree(fresh, tmp_path / "study")
        shutil.rmtree(folder / "adapters")
        self.fails("no adapter is trained yet: python -m run.finetune", folder)

    def test_files_of_another_kind(self, copy):
        answers, scores = copy / "results" / "generations.jsonl", copy / "results" / "scores.csv"
        text = answers.read_text("utf-8")
        answers.write_text(text + "{\n", "utf-8")
        self.fails("generations.jsonl: line 31: expected a JSON object with task and model", copy, *FLAGS)
        answers.write_text(text, "utf-8")
        scores.write_text("task,model\n", "utf-8")
        self.fails("scores.csv: expected the columns task, cluster, .* found .*'task', 'model'", copy, *FLAGS)

    def test_a_study_that_another_command_writes_to(self, fresh):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(fresh)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout.readline() == "held\n"
            self.fails("another command is writing to this study", fresh)
        finally:
            holder.communicate()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--help")
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "python -m run.score STUDY" in said
    for flag in ("--only", "--examples", "--max-new-tokens", "--temperature", "--top-p", "--seed"):
        assert flag in said
