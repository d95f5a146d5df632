"""What does each adapter answer? Held-out prompts are answered by the base model, by E and by each task's own C.

    python -m run.score STUDY
    python -m run.score STUDY --only capital_city --examples 16 --temperature 0.7 --top-p 0.9
    python -m run.score STUDY --adapter merged=FOLDER

The answers are compared with the accepted ones of the data:

    exact_match    share of answers equal to one of them, without case, punctuation and articles (as SQuAD compares)
    strict_match   share equal to the letter, but for white space around them
    rouge_l        mean overlap of words in order, 0 to 1 (ROUGE-L, F-measure): for answers of several words

STUDY must hold trained adapters (python -m run.finetune). It gets `results/scores.csv`, a row for each task and model,
and `results/generations.jsonl`, a line for each answer, so that scores can be looked behind. Both are written after
every task; what is there, of the same adapters and the same settings, is not done again.

A base model that was never shown how an answer ends goes on until --max-new-tokens: its exact match is then 0, whatever
it knows. The column `stopped` counts the answers that came to an end. `--json`: `scores`, rows of scores.csv.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from lorajax.errors import LorajaxError
from lorajax.files import write_text
from lorajax.generation import Answer, GenerateConfig, generate, stop_tokens
from lorajax.lora.adapter import stack, zeros_like
from lorajax.lora.peft import load_adapter
from lorajax.models.kinds import decoder
from lorajax.scores import exact_match, rouge_l, strict_match
from run.__main__ import cli
from run.lock import study_lock
from run.options import MULTI_TASK, named_adapters
from run.study_folder import StudyFolder, folder_fingerprint
from run.terminal import command, on_terminal, progress, result, say, show_table, wrote
from run.workbench import Workbench

SCORES_FILE, ANSWERS_FILE = "scores.csv", "generations.jsonl"
MODELS = ("base", "E", "C")
SCORES = {"exact_match": exact_match, "strict_match": strict_match, "rouge_l": rouge_l}
NUMBERS = ["n", *SCORES, "tokens", "stopped"]
COLUMNS = ["task", "cluster", "model", *NUMBERS, "settings", "adapter"]

Key = tuple[str, str]  # task and model


@dataclasses.dataclass(frozen=True)
class Score:
    """Let the base model, the multi-task model and each task's control model answer, and score the answers."""

    study: tyro.conf.Positional[Path]
    """Folder of a study with trained adapters."""
    only: tuple[str, ...] = ()
    """Tasks to score; all that have an adapter when none is named."""
    adapter: tuple[str, ...] = ()
    """NAME=FOLDER of PEFT folders that answer too, such as a merged adapter."""
    examples: int = 64
    """Held-out prompts of each task at most."""
    batch_size: int = 16
    """Prompts in the model at a time, under each of the three models."""
    generate: tyro.conf.OmitArgPrefixes[GenerateConfig] = GenerateConfig()

    def __post_init__(self):
        for name in ("examples", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise LorajaxError(f"--{name.replace('_', '-')} must be at least 1, found {value}")

    @property
    def settings(self) -> str:
        """What the answers depend on besides the models."""
        if self.generate.temperature == 0:
            return f"greedy max_new_tokens={self.generate.max_new_tokens}"
        return " ".join(f"{name}={value}" for name, value in dataclasses.asdict(self.generate).items())


@dataclasses.dataclass(frozen=True)
class Scored:
    """A row of scores.csv, and the lines of generations.jsonl that it sums up."""

    row: dict[str, str]
    lines: list[dict[str, Any]]


def score(options: Score, bench: Workbench | None = None) -> StudyFolder:
    """Scores what is missing, writes it, and returns the study."""
    study = StudyFolder.open(options.study)
    with study_lock(study.path):
        others = named_adapters(options.adapter, taken=study.record["data"]["tasks"])
        adapters = fingerprints(study, others)
        wanted = _wanted(study, adapters, options)
        # Scores of adapters that are no longer there are dropped; others stay, though this call is not asked for them.
        read, models = _read(study), (*MODELS, *others)
        known = {
            key: own for key, own in read.items() if own.row["adapter"] == adapters.get(key) or key[1] not in models
        }
        if len(known) < len(read):
            _write(study, known)
        missing = [key for key in wanted if not _is_done(study, known.get(key), key[0], options)]
        if done := len(wanted) - len(missing):
            say(f"{done} of {len(wanted)} pairs of task and model are scored already")
        if missing:
            bench = bench or Workbench.prepare(study.config, mesh="auto")
            tasks = list(dict.fromkeys(task for task, _ in missing))
            with progress() as bar:
                line = bar.add_task("answers", total=sum(_count(study, task, options) for task in tasks), note="")
                for i, task in enumerate(tasks):
                    if not on_terminal():
                        say(f"  answers: {task} ({i + 1} of {len(tasks)})")
                    bar.update(line, note=task)
                    asked = {m: others.get(m, study.adapter(_adapter(task, m))) for m in models if (task, m) in missing}
                    given = answer(study, bench, task, asked, options, lambda more: bar.advance(line, more))
                    for model, answers in zip(asked, given, strict=True):
                        known[task, model] = summarize(bench, task, model, answers, options, adapters[task, model])
                    _write(study, known)
    show(rows := [known[key].row for key in wanted])
    result(scores=[row | {name: float(row[name]) for name in NUMBERS} for row in rows])
    wrote(study.results / SCORES_FILE, study.results / ANSWERS_FILE)
    return study


def answer(
    study: StudyFolder,
    bench: Workbench,
    task: str,
    models: Mapping[str, Path],
    options: Score,
    report: Callable[[int], None] = lambda more: None,
) -> list[list[Answer]]:
    """What each of `models`, folders by name, answers to the first held-out prompts, all in the same programs."""
    model = decoder(bench.checkpoint.model, "run.score (results/losses.csv has the accuracies of an encoder)")
    loaded = {m: load_adapter(folder, model.config)[0] for m, folder in models.items() if m != "base"}
    base = [zeros_like(adapter) for adapter in loaded.values()][:1]
    parts = [base[0] if m == "base" else loaded[m] for m in models] if loaded else []
    prompts = bench.test[task].prompts[: _count(study, task, options)]
    so_far = 0

    def advance(count: int) -> None:
        nonlocal so_far
        report(count - so_far)
        so_far = count

    return generate(
        model,
        stack(parts) if parts else None,
        [prompts] * len(models),
        config=options.generate,
        stop_tokens=stop_tokens(model.config, bench.checkpoint.tokenizer),
        pad=bench.pad,
        # Draws depend on the prompt, and not on which others are asked for.
        numbers=[zlib.crc32(f"{task} {i}".encode()) for i in range(len(prompts))],
        batch_size=options.batch_size,
        report=advance,
    )


def summarize(
    bench: Workbench, task: str, model: str, answers: Sequence[Answer], options: Score, adapter: str
) -> Scored:
    """The scores of one model's answers to one task's first held-out prompts."""
    decode, examples = bench.checkpoint.tokenizer.decode, bench.tasks[task].test[: len(answers)]
    texts = [str(decode(answer.tokens.tolist(), skip_special_tokens=True)) for answer in answers]
    means = {
        name: np.mean([measure(text, example.targets) for text, example in zip(texts, examples, strict=True)])
        for name, measure in SCORES.items()
    }
    row = {
        "task": task,
        "cluster": bench.tasks[task].cluster,
        "model": model,
        "n": str(len(answers)),
        **{name: f"{mean:.6f}" for name, mean in means.items()},
        "tokens": str(sum(len(answer.tokens) for answer in answers)),
        "stopped": str(sum(answer.stopped for answer in answers)),
        "settings": options.settings,
        "adapter": adapter,
    }
    lines = [
        {
            "task": task,
            "model": model,
            "id": i,
            "references": list(example.targets),
            "text": text,
            "tokens": len(answer.tokens),
            "stopped": answer.stopped,
        }
        for i, (example, text, answer) in enumerate(zip(examples, texts, answers, strict=True))
    ]
    return Scored(row, lines)


def fingerprints(study: StudyFolder, others: Mapping[str, Path]) -> dict[Key, str]:
    """The models that can be asked about each task, in the order of the files, and their adapters' fingerprints."""
    tasks, named = study.record["data"]["tasks"], {name: folder_fingerprint(path) for name, path in others.items()}
    there = {name: study.adapter_fingerprint(name) for name in (MULTI_TASK, *tasks) if study.is_trained(name)}
    found: dict[Key, str] = {}
    for task in tasks:
        if own := {m: there[_adapter(task, m)] for m in ("E", "C") if _adapter(task, m) in there} | named:
            found |= {(task, model): value for model, value in {"base": "", **own}.items()}
    return found


def show(rows: Sequence[dict[str, str]]) -> None:
    """Prints exact match and ROUGE-L of every task, and their means where all models have answered."""
    shown = ("exact_match", "rouge_l")
    cells: dict[str, dict[Key, float]] = {}
    for row in rows:
        cells.setdefault(row["task"], {}).update({(name, row["model"]): float(row[name]) for name in shown})
    models = dict.fromkeys([*MODELS, *(row["model"] for row in rows)])
    columns = [(name, model) for name in shown for model in models]
    counts = {row["task"]: row["n"] for row in rows}
    body = [
        [task, counts[task], *(f"{own[key]:.3f}" if key in own else "-" for key in columns)]
        for task, own in cells.items()
    ]
    whole = [own for own in cells.values() if len(own) == len(columns)]
    if len(whole) > 1:
        means = [f"{np.mean([own[key] for own in whole]):.3f}" for key in columns]
        body.append([f"mean of {len(whole)} tasks", "", *means])
    titles = {"exact_match": "exact", "rouge_l": "ROUGE-L"}
    show_table(
        "Answers to held-out prompts", ["task", "n", *(f"{titles[name]}\n{model}" for name, model in columns)], body
    )


def _wanted(study: StudyFolder, adapters: dict[Key, str], options: Score) -> list[Key]:
    if not adapters:
        raise LorajaxError(f"{study.path}: no adapter is trained yet: python -m run.finetune {study.path}")
    tasks = list(dict.fromkeys(task for task, _ in adapters))
    for task in options.only:
        if task not in tasks:
            raise LorajaxError(f"--only {task}: no trained adapter in {study.path}; there are: {', '.join(tasks)}")
    return [key for key in adapters if not options.only or key[0] in options.only]


def _adapter(task: str, model: str) -> str:
    return MULTI_TASK if model == "E" else task


def _count(study: StudyFolder, task: str, options: Score) -> int:
    return min(options.examples, study.record["data"]["tasks"][task]["test"])


def _is_done(study: StudyFolder, own: Scored | None, task: str, options: Score) -> bool:
    n = _count(study, task, options)
    return own is not None and own.row["settings"] == options.settings and int(own.row["n"]) == n == len(own.lines)


def _read(study: StudyFolder) -> dict[Key, Scored]:
    """What the two files hold; nothing where one is missing."""
    scores, answers = study.results / SCORES_FILE, study.results / ANSWERS_FILE
    if not scores.exists() or not answers.exists():
        return {}
    lines: dict[Key, list[dict[str, Any]]] = {}
    # Not splitlines: texts may hold other characters that it takes for the end of a line.
    for i, text in enumerate(answers.read_text("utf-8").removesuffix("\n").split("\n")):
        try:
            line = json.loads(text)
            lines.setdefault((line["task"], line["model"]), []).append(line)
        except (ValueError, KeyError, TypeError):
            raise LorajaxError(
                f"{answers}: line {i + 1}: expected a JSON object with task and model; delete the file to score again"
            ) from None
    rows = csv.DictReader(scores.read_text("utf-8").splitlines())
    if (found := rows.fieldnames) != COLUMNS:
        raise LorajaxError(f"{scores}: expected the columns {', '.join(COLUMNS)}, found {found}; delete the file")
    return {(row["task"], row["model"]): Scored(row, lines.get((row["task"], row["model"]), [])) for row in rows}


def _write(study: StudyFolder, known: Mapping[Key, Scored]) -> None:
    tasks, models = list(study.record["data"]["tasks"]), list(dict.fromkeys([*MODELS, *(m for _, m in known)]))
    results = [known[task, model] for task in tasks for model in models if (task, model) in known]
    # Answers first: a row whose answers are not there is made again.
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for own in results for line in own.lines]
    write_text(study.results / ANSWERS_FILE, "".join(lines))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(own.row for own in results)
    write_text(study.results / SCORES_FILE, text.getvalue())


def main() -> None:
    """Entry point of `python -m run.score`."""
    score(cli(Score, prog="python -m run.score", description=__doc__, example="studies/demo"))


if __name__ == "__main__":
    command(main)
