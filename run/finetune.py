"""Trains LoRA adapters for many tasks over one frozen model: the multi-task model E and a control model per task.

    python -m run.finetune STUDY --tasks capital_city film_reviews --steps 200

STUDY is a folder. It gets `adapters/E` and `adapters/TASK` (PEFT folders, which the real peft loads), `metrics.jsonl`
and `results/losses.csv`. The same command again goes on where it stopped, and skips what is done.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import zlib
from pathlib import Path

import tyro

from lorajax.data.batching import Stream
from lorajax.errors import LorajaxError
from lorajax.files import write_text
from lorajax.lora.adapter import Adapter, init_adapter, stack, take, zeros_like
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.training.evaluate import Evaluator
from lorajax.training.loop import Fleet, Progress, train
from run.options import MULTI_TASK, StudyConfig
from run.study_folder import StudyFolder
from run.terminal import command, console, duration, progress, say, show_table
from run.workbench import Workbench

COLUMNS = ["task", "cluster", "model", "tokens", "before", "after", "adapter"]

#: Test examples in the model at a time, under each of base, E and C.
EVALUATION_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Train LoRA adapters for many tasks over one frozen model, all of them in one compiled step."""

    out: tyro.conf.Positional[Path]
    """Folder of the study: made new, or gone on with."""
    config: tyro.conf.OmitArgPrefixes[StudyConfig] = StudyConfig()
    only: tuple[str, ...] = ()
    """Adapters to train: `E` and task names. All when none is named."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""

    def __post_init__(self):
        if self.checkpoint_every < 1:
            raise LorajaxError(f"--checkpoint-every must be at least 1, found {self.checkpoint_every}")


def finetune(options: Finetune, bench: Workbench | None = None) -> StudyFolder:
    """Trains what is not trained yet, measures held-out losses, and returns the study."""
    bench = bench or Workbench.prepare(options.config)
    options = dataclasses.replace(options, config=bench.config)
    study = StudyFolder.create(options.out, options.config, bench.facts())
    names = members(options, bench)
    missing = [name for name in names if not study.is_trained(name)]
    if done := len(names) - len(missing):
        say(f"{done} of {len(names)} adapters are trained already")
    groups = pending_groups(study, missing, options.config.fleet_size)
    for i, group in enumerate(groups):
        say(f"training {len(group)} adapters together, group {i + 1} of {len(groups)}: {', '.join(group)}")
        train_group(study, bench, group, checkpoint_every=options.checkpoint_every)
    tidy(study)
    measure_losses(study, bench)
    return study


def members(options: Finetune, bench: Workbench) -> list[str]:
    """The adapters to train: E first, then one per task."""
    everyone = [MULTI_TASK, *bench.tasks]
    for name in options.only:
        if name not in everyone:
            raise LorajaxError(f"--only {name}: no such adapter in this study; there are: {', '.join(everyone)}")
    return [name for name in everyone if not options.only or name in options.only]


def pending_groups(study: StudyFolder, missing: list[str], most: int) -> list[list[str]]:
    """Which adapters to train together: groups that were begun go on as they were, the rest is cut evenly."""
    fleets = sorted((study.path / "training").glob("*/fleet.json"))
    begun = [json.loads(f.read_text("utf-8")) for f in fleets if any((f.parent / "checkpoints").glob("[0-9]*"))]
    begun = [group for group in begun if set(group) & set(missing)]
    rest = [name for name in missing if not any(name in group for group in begun)]
    # Even groups: 11 adapters in fleets of 10 are trained as 6 and 5, not as 10 and 1.
    count = -(-len(rest) // most)
    return begun + [rest[len(rest) * i // count : len(rest) * (i + 1) // count] for i in range(count)]


def train_group(study: StudyFolder, bench: Workbench, names: list[str], *, checkpoint_every: int) -> None:
    """Trains the adapters `names` as one fleet, and saves each as a PEFT folder."""
    config, model = bench.config, bench.checkpoint.model
    sets = {name: list(bench.train.values()) if name == MULTI_TASK else [bench.train[name]] for name in names}
    fleet = Fleet(
        names=tuple(names),
        adapter=init_adapter(model.config, config.lora, names, seed=config.train.seed),
        streams=tuple(Stream(name, sets[name], seed=config.train.seed) for name in names),
        shape=bench.shape,
        pad=bench.pad,
    )
    folder = study.path / "training" / f"{names[0]}-{zlib.crc32(json.dumps(names).encode()):08x}"
    write_text(folder / "fleet.json", json.dumps(names))
    with progress() as bar:
        line = bar.add_task("training", total=config.train.steps, note="compiling")

        def report(now: Progress) -> None:
            mean = sum(now.loss.values()) / len(now.loss)
            note = f"loss {mean:.3f}  {now.tokens_per_second:,.0f} tokens/s  {duration(now.seconds_left)} left"
            bar.update(line, completed=now.step, note=note)
            if not console.is_terminal and (now.step % max(1, now.steps // 20) == 0 or now.step == 1):
                say(f"  step {now.step}/{now.steps}  {note}")

        adapter = train(
            model,
            fleet,
            config.train,
            folder,
            dropout=config.lora.dropout,
            checkpoint_every=checkpoint_every,
            report=report,
        )
    for i, name in enumerate(names):
        notes = {"name": name, "study": study.record["config"], "model": study.record["model"]["fingerprint"]}
        save_adapter(take(adapter, [i]), config.lora, study.adapter(name), base=config.model, notes=notes)


def tidy(study: StudyFolder) -> None:
    """Joins the groups' logs into the study's `metrics.jsonl`, and deletes what only training needs."""
    rows: dict[int, dict] = {}
    for log in sorted((study.path / "training").glob("*/metrics.jsonl")):
        for line in log.read_text("utf-8").splitlines():
            row = json.loads(line)
            joined = rows.setdefault(row["step"], {"step": row["step"]})
            for key in row.keys() - {"step"}:
                joined.setdefault(key, {}).update(row[key])
    write_text(study.path / "metrics.jsonl", "".join(json.dumps(rows[step]) + "\n" for step in sorted(rows)))
    for file in (study.path / "training").glob("*/fleet.json"):
        if all(study.is_trained(name) for name in json.loads(file.read_text("utf-8"))):
            shutil.rmtree(file.parent / "checkpoints", ignore_errors=True)


def measure_losses(study: StudyFolder, bench: Workbench) -> None:
    """Held-out answer loss of every task, before (base) and after training, under E and under its own control model."""
    file = study.results / "losses.csv"
    trained = {n: study.adapter_fingerprint(n) for n in (MULTI_TASK, *bench.tasks) if study.is_trained(n)}
    # A row counts while its adapter is the one that is there.
    known = {(row["task"], row["model"]): row for row in _read_csv(file)}
    adapter_of = {key: trained.get(MULTI_TASK if key[1] == "E" else key[0]) for key in known}
    known = {key: row for key, row in known.items() if row.get("adapter") == adapter_of[key]}
    wanted = [
        (task, kind) for task in bench.tasks for kind in ("E", "C") if (MULTI_TASK if kind == "E" else task) in trained
    ]
    if missing := [key for key in wanted if key not in known]:
        say(f"measuring held-out losses of {len({task for task, _ in missing})} tasks")
        model = bench.checkpoint.model
        evaluate = Evaluator(model, batch_size=EVALUATION_BATCH, pad=bench.pad)
        adapters = {name: load_adapter(study.adapter(name), model.config)[0] for name in trained}
        with progress() as bar:
            line = bar.add_task("held-out loss", total=len(bench.tasks), note="")
            for task in bench.tasks:
                kinds = [kind for kind in ("E", "C") if (task, kind) in missing]
                if kinds:
                    chosen: list[Adapter] = [adapters[MULTI_TASK if kind == "E" else task] for kind in kinds]
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
                bar.advance(line)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(known[key] for key in wanted)
        write_text(file, text.getvalue())
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


def _read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text("utf-8").splitlines())) if file.exists() else []


def main() -> None:
    """Entry point of `python -m run.finetune`."""
    finetune(tyro.cli(Finetune, description=__doc__, prog="python -m run.finetune"))


if __name__ == "__main__":
    command(main)
