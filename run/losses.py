"""Held-out losses of a study: what training bought, task by task, for E and for each control model.

An encoder's answers are classes, and `tokens` counts examples. Before training there is no head to give them: all
classes of the task are alike, and the loss is the logarithm of their number. Files have three columns more, for what
the adapter answers: `accuracy`; `majority`, the accuracy of always giving the commonest class; `matthews` correlation.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lorajax.confusion import accuracy, majority, matthews
from lorajax.distributed import from_first
from lorajax.files import write_text
from lorajax.lora.adapter import stack, zeros_like
from lorajax.lora.peft import load_adapter
from lorajax.training.evaluate import Evaluator
from run.options import MULTI_TASK
from run.study_folder import StudyFolder, folder_fingerprint
from run.terminal import on_terminal, progress, say, show_table
from run.workbench import Workbench

COLUMNS = ["task", "cluster", "model", "tokens", "before", "after", "adapter"]
OF_CLASSES = {"accuracy": accuracy, "majority": majority, "matthews": matthews}

#: The study's own models, and where their losses are; those of other adapters are in a file of their own.
MODELS, OWN, OTHER = ("E", "C"), "losses.csv", "adapter_losses.csv"

#: Rows of test examples in the model at a time, under each of base, E and C.
EVALUATION_ROWS = 16


def measure_losses(study: StudyFolder, bench: Workbench, others: Mapping[str, Path] | None = None) -> None:
    """Held-out answer loss of every task, before (base) and after training, under E and under its own control model.

    `others` are PEFT folders by name: every task is measured under each of them too.
    """
    others = others or {}
    files = {OWN: study.results / OWN, OTHER: study.results / OTHER}

    def name(key: tuple[str, str]) -> str:
        return {"E": MULTI_TASK, "C": key[0]}.get(key[1], key[1])

    def folder(name: str) -> Path:
        return others[name] if name in others else study.adapter(name)

    names = (MULTI_TASK, *bench.tasks)
    trained = from_first(
        lambda: {n: folder_fingerprint(folder(n)) for n in (*names, *others) if n in others or study.is_trained(n)}
    )
    # A row counts while its adapter is the one that is there; of adapters that are not named, that is not known.
    rows = from_first(lambda: [row for file in files.values() for row in _read_csv(file)])
    known = {(row["task"], row["model"]): row for row in rows}
    known = {
        key: row
        for key, row in known.items()
        if row.get("adapter") == trained.get(name(key)) or key[1] not in (*MODELS, *others)
    }

    def knows(key: tuple[str, str]) -> bool:
        """Whether the head of an encoder's adapter has the classes of the task: E's has none of unseen tasks."""
        return key[1] != "E" or key[0] in bench.seen

    wanted = [(task, model) for task in bench.tasks for model in (*MODELS, *others) if name((task, model)) in trained]
    if missing := [key for key in wanted if key not in known]:
        say(f"measuring held-out losses of {len({task for task, _ in missing})} tasks")
        model = bench.checkpoint.model
        evaluate = Evaluator(model, rows=EVALUATION_ROWS, pad=bench.pad)

        def write() -> None:
            kept = {
                OWN: [key for key in wanted if key[1] in MODELS],
                OTHER: [key for key in known if key[1] not in MODELS],
            }
            for file, keys in kept.items():
                if found := [known[key] for key in keys if key in known]:
                    from_first(functools.partial(write_text, files[file], _csv(found)))

        with progress() as bar:
            line = bar.add_task("held-out loss", total=len(bench.tasks), note="")
            for task in bench.tasks:
                if keys := [key for key in missing if key[0] == task]:
                    if not on_terminal():
                        say(f"  held-out losses: {task}")
                    chosen = [load_adapter(folder(name(key)), model.config)[0] for key in keys]
                    found = evaluate.measure(stack([zeros_like(chosen[0]), *chosen]), bench.test[task])
                    for i, key in enumerate(keys, 1):
                        known[key] = {
                            "task": task,
                            "cluster": bench.tasks[task].cluster,
                            "model": key[1],
                            "tokens": str(found.tokens),
                            "before": f"{found.loss[0]:.6f}",
                            "after": f"{found.loss[i]:.6f}",
                            "adapter": trained[name(key)],
                            **(_scores(found.confusion[i]) if found.confusion is not None and knows(key) else {}),
                        }
                    write()  # after every task: a crash costs one of them
                bar.advance(line)
    models = (*MODELS, *others)
    show_table(
        f"Held-out loss, nats per {'answer token' if bench.classes is None else 'example'}",
        ["task", "base", *models],
        [
            [
                task,
                f"{float(next(known[key]['before'] for key in wanted if key[0] == task)):.3f}",
                *(f"{float(known[task, m]['after']):.3f}" if (task, m) in wanted else "-" for m in models),
            ]
            for task in bench.tasks
            if any(key[0] == task for key in wanted)
        ],
    )
    _show_accuracy(bench, known, models)


def _show_accuracy(bench: Workbench, known: Mapping[tuple[str, str], dict[str, str]], models: Sequence[str]) -> None:
    """Prints how often an encoder's adapters are right."""
    rows = []
    for task in bench.tasks:
        own = {model: known[task, model] for model in models if known.get((task, model), {}).get("accuracy")}
        cells = [f"{float(own[model]['accuracy']):.3f}" if model in own else "-" for model in models]
        rows += [[task, f"{float(row['majority']):.3f}", *cells] for row in list(own.values())[:1]]
    if rows:
        show_table("Held-out accuracy", ["task", "commonest class", *models], rows)


def _scores(confusion: np.ndarray) -> dict[str, str]:
    return {name: f"{float(score(confusion)):.6f}" for name, score in OF_CLASSES.items()}


def _csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    columns = COLUMNS + [name for name in OF_CLASSES if any(name in row for row in rows)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text("utf-8").splitlines())) if file.exists() else []
