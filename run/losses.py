"""Held-out losses of a study: what training bought, task by task, for E and for each control model."""

from __future__ import annotations

import csv
import functools
import io
from pathlib import Path

from lorajax.distributed import from_first
from lorajax.files import write_text
from lorajax.lora.adapter import Adapter, stack, zeros_like
from lorajax.lora.peft import load_adapter
from lorajax.training.evaluate import Evaluator
from run.options import MULTI_TASK
from run.study_folder import StudyFolder
from run.terminal import progress, say, show_table
from run.workbench import Workbench

COLUMNS = ["task", "cluster", "model", "tokens", "before", "after", "adapter"]

#: Rows of test examples in the model at a time, under each of base, E and C.
EVALUATION_ROWS = 16


def measure_losses(study: StudyFolder, bench: Workbench) -> None:
    """Held-out answer loss of every task, before (base) and after training, under E and under its own control model."""
    file = study.results / "losses.csv"
    names = (MULTI_TASK, *bench.tasks)
    trained = from_first(lambda: {n: study.adapter_fingerprint(n) for n in names if study.is_trained(n)})
    # A row counts while its adapter is the one that is there.
    known = {(row["task"], row["model"]): row for row in from_first(lambda: _read_csv(file))}
    adapter_of = {key: trained.get(MULTI_TASK if key[1] == "E" else key[0]) for key in known}
    known = {key: row for key, row in known.items() if row.get("adapter") == adapter_of[key]}
    wanted = [
        (task, kind) for task in bench.tasks for kind in ("E", "C") if (MULTI_TASK if kind == "E" else task) in trained
    ]
    if missing := [key for key in wanted if key not in known]:
        say(f"measuring held-out losses of {len({task for task, _ in missing})} tasks")
        model = bench.checkpoint.model
        evaluate = Evaluator(model, rows=EVALUATION_ROWS, pad=bench.pad)

        def adapter(kind: str, task: str) -> Adapter:
            return load_adapter(study.adapter(MULTI_TASK if kind == "E" else task), model.config)[0]

        with progress() as bar:
            line = bar.add_task("held-out loss", total=len(bench.tasks), note="")
            for task in bench.tasks:
                kinds = [kind for kind in ("E", "C") if (task, kind) in missing]
                if kinds:
                    chosen = [adapter(kind, task) for kind in kinds]
                    losses, tokens = evaluate(stack([zeros_like(chosen[0]), *chosen]), bench.test[task])
                    for kind, after in zip(kinds, losses[1:], strict=True):
                        known[task, kind] = {
                            "task": task,
                            "cluster": bench.tasks[task].cluster,
                            "model": kind,
                            "tokens": str(tokens),
                            "before": f"{losses[0]:.6f}",
                            "after": f"{after:.6f}",
                            "adapter": trained[MULTI_TASK if kind == "E" else task],
                        }
                    # After every task: a crash costs one of them.
                    text = _csv([known[key] for key in wanted if key in known])
                    from_first(functools.partial(write_text, file, text))
                bar.advance(line)
    show_table(
        "Held-out loss, nats per answer token",
        ["task", "base", "E", "C"],
        [
            [
                task,
                f"{float(next(known[key]['before'] for key in wanted if key[0] == task)):.3f}",
                *(f"{float(known[task, kind]['after']):.3f}" if (task, kind) in wanted else "-" for kind in ("E", "C")),
            ]
            for task in bench.tasks
            if any(key[0] == task for key in wanted)
        ],
    )


def _csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text("utf-8").splitlines())) if file.exists() else []
