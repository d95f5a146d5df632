"""Trains LoRA adapters for many tasks over one frozen model: the multi-task model E and a control model per task.

    python -m run.finetune STUDY --tasks capital_city film_reviews --steps 200

STUDY is a folder. It gets `adapters/E` and `adapters/TASK` (PEFT folders, which the real peft loads), `metrics.jsonl`
and `results/losses.csv`. The same command again goes on where it stopped, and skips what is done.

    python -m run.finetune STUDY --eval-only --adapter merged=FOLDER

trains nothing and measures held-out losses, also of other PEFT folders: those go to `results/adapter_losses.csv`.

`--json`: `losses`, rows of both files; `trained`, adapters; `failed`, the steps that others failed at, by name.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import shutil
import zlib
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from lorajax.distributed import DistributedConfig, from_first, is_first, start
from lorajax.errors import LorajaxError
from lorajax.files import write_text
from lorajax.lora.adapter import take, with_classes
from lorajax.lora.peft import save_adapter
from lorajax.training.checkpoints import read_rows
from lorajax.training.loop import train
from lorajax.training.tracking import Kind, Tracker, open_trackers
from run import recipes
from run.lock import study_lock
from run.losses import OTHER, OWN, measure_losses
from run.options import MULTI_TASK, StudyConfig, named_adapters
from run.recipes import Recipe
from run.study_folder import StudyFolder
from run.terminal import PartlyFailed, command, result, say, training_view, wrote
from run.workbench import Workbench, even_groups

#: In a group's folder: the names of its adapters, and those whose training failed, with the step.
FLEET, FAILED = "fleet.json", "failed.json"

#: Those that --help explains.
MAIN_FLAGS = ("model", "recipe", "data", "tasks", "train_examples", "rank", "steps", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Train LoRA adapters for many tasks over one frozen model, all of them in one compiled step."""

    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="STUDY")]]
    """Folder of the study: made new, or gone on with."""
    config: tyro.conf.OmitArgPrefixes[StudyConfig] = StudyConfig()
    only: tuple[str, ...] = ()
    """Adapters to train: `E` and task names. All when none is named."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    track: tuple[Kind, ...] = ()
    """Show the metrics in `tensorboard` or `wandb` too; each needs the extra of that name."""
    profile: int = 0
    """Steps of each group to profile on the device, into training/GROUP/profile; 0 for none."""
    processes: tyro.conf.OmitArgPrefixes[DistributedConfig] = DistributedConfig()

    def __post_init__(self):
        if self.checkpoint_every < 1:
            raise LorajaxError(f"--checkpoint-every must be at least 1, found {self.checkpoint_every}")
        if self.profile < 0:
            raise LorajaxError(f"--profile is a number of steps, 0 or more, found {self.profile}")


@dataclasses.dataclass(frozen=True)
class FinetuneFlags(Finetune):
    """Train LoRA adapters over one frozen model, or measure the held-out losses of adapters that are there."""

    eval_only: bool = False
    """Train nothing: measure held-out losses. The study's own settings hold; no others need to be given."""
    adapter: tuple[str, ...] = ()
    """NAME=FOLDER of PEFT folders to measure too, such as a merged adapter; goes with --eval-only."""

    def __post_init__(self):
        super().__post_init__()
        if self.adapter and not self.eval_only:
            raise LorajaxError("--adapter goes with --eval-only: adapters that are there are not trained on")


def evaluate(options: FinetuneFlags, bench: Workbench | None = None) -> StudyFolder:
    """Measures held-out losses under the study's adapters and those of `options.adapter`, and returns the study."""
    with contextlib.ExitStack() as stack:
        found = StudyFolder(options.out, from_first(lambda: StudyFolder.open(options.out).record))
        others = named_adapters(options.adapter, taken=found.record["data"]["tasks"])
        from_first(lambda: stack.enter_context(study_lock(options.out)))
        if bench is None:
            given = options.config != StudyConfig()
            bench = Workbench.prepare(options.config) if given else Workbench.prepare(found.config, mesh="auto")
        study = StudyFolder.shared(options.out, bench.config, bench.facts())
        if not others and not any(study.is_trained(name) for name in (MULTI_TASK, *bench.tasks)):
            raise LorajaxError(f"{study.path}: no adapter is trained yet: python -m run.finetune {study.path}")
        measure_losses(study, bench, others)
        _tell(study)
        return study


def finetune(options: Finetune, bench: Workbench | None = None) -> StudyFolder:
    """Trains what is not trained yet, measures held-out losses, and returns the study."""
    with contextlib.ExitStack() as stack:
        from_first(lambda: stack.enter_context(study_lock(options.out)))
        return _finetune(options, bench or Workbench.prepare(options.config))


def _finetune(options: Finetune, bench: Workbench) -> StudyFolder:
    options = dataclasses.replace(options, config=bench.config)
    study = StudyFolder.shared(options.out, bench.config, bench.facts())
    names = members(options, bench)
    missing = from_first(lambda: [name for name in names if not study.is_trained(name)])
    if done := len(names) - len(missing):
        say(f"{done} of {len(names)} adapters are trained already")
    for name, step in from_first(lambda: failures(study)).items():
        if name in missing:
            missing.remove(name)
            say(f"adapter {name!r} is left out: its loss was not finite at step {step}")
    groups = plan_groups(study, bench, missing)
    for i, group in enumerate(groups):
        say(f"training {len(group)} adapters together, group {i + 1} of {len(groups)}: {', '.join(group)}")
        train_group(study, bench, group, options)
    from_first(lambda: tidy(study))
    measure_losses(study, bench)
    _tell(study)
    return study


def _tell(study: StudyFolder) -> None:
    """Tells the results there are, of this run and of earlier ones."""
    if not is_first():
        return
    files = [file for file in (study.results / OWN, study.results / OTHER) if file.exists()]
    trained = [name for name in (MULTI_TASK, *study.record["data"]["tasks"]) if study.is_trained(name)]
    rows = [row for file in files for row in csv.DictReader(file.read_text("utf-8").splitlines())]
    words = ("task", "cluster", "model", "adapter")
    losses = [{k: v if k in words else float(v) if v else None for k, v in row.items()} for row in rows]
    result(losses=losses, trained=trained, failed=failures(study))
    wrote(*map(study.adapter, trained), *files)


def complain(study: StudyFolder) -> None:
    """Raises PartlyFailed when training of an adapter failed."""
    if failed := failures(study):
        told = ", ".join(f"{name!r} at step {step}" for name, step in failed.items())
        raise PartlyFailed(
            f"{study.path}: the loss was no longer finite of adapter {told}; all others are trained. "
            "In a new study, try a lower --learning-rate, or --per-adapter NAME.learning_rate=..."
        )


def members(options: Finetune, bench: Workbench) -> list[str]:
    """The adapters to train: E first, then one per task."""
    everyone = [MULTI_TASK, *bench.tasks]
    bench.config.train.check_names(everyone)
    for name in options.only:
        if name not in everyone:
            raise LorajaxError(f"--only {name}: no such adapter in this study; there are: {', '.join(everyone)}")
    return [name for name in everyone if not options.only or name in options.only]


def plan_groups(study: StudyFolder, bench: Workbench, missing: list[str]) -> list[list[str]]:
    """The groups that the adapters `missing` are trained in, decided once for a study: how much memory is free when it
    is gone on with must change nothing."""
    file = study.path / "training" / "groups.json"
    new: dict[str, Any] = {"fleet_size": None, "groups": []}
    saved = from_first(lambda: json.loads(file.read_text("utf-8")) if file.exists() else new)
    kept = saved["groups"] if saved["fleet_size"] == bench.config.fleet_size else []
    # Those that make as many steps belong together: one that is done takes part, frozen, until the last one is.
    missing = sorted(missing, key=lambda name: -bench.steps(name))
    begun, rest = from_first(lambda: pending_groups(study, missing, kept))
    groups = begun + (even_groups(rest, bench.fleet_size(rest), data=bench.mesh.shape["data"]) if rest else [])
    named = {name for group in groups for name in group}
    # What is asked for later, after --only, stays as it was planned.
    plan = [group for group in kept if not set(group) & named] + groups
    text = json.dumps({"fleet_size": bench.config.fleet_size, "groups": plan})
    from_first(lambda: _keep_plan(study, file, text, groups))
    return groups


def _keep_plan(study: StudyFolder, file: Path, text: str, groups: list[list[str]]) -> None:
    """Writes the plan, and clears away groups that were given up before they had a checkpoint."""
    write_text(file, text)
    named = {name for group in groups for name in group}
    for fleet in sorted((study.path / "training").glob(f"*/{FLEET}")):
        group = json.loads(fleet.read_text("utf-8"))
        if group not in groups and set(group) & named and not any(map(study.is_trained, group)):
            shutil.rmtree(fleet.parent)


def pending_groups(
    study: StudyFolder, missing: list[str], planned: list[list[str]]
) -> tuple[list[list[str]], list[str]]:
    """Groups to go on with, and the adapters in none: begun groups go on as they were, planned ones if whole."""
    fleets = sorted((study.path / "training").glob(f"*/{FLEET}"))
    begun = [json.loads(f.read_text("utf-8")) for f in fleets if any((f.parent / "checkpoints").glob("[0-9]*"))]
    groups = [group for group in begun if set(group) & set(missing)]
    taken = {name for group in groups for name in group}
    groups += [group for group in planned if set(group) <= set(missing) - taken]
    taken = {name for group in groups for name in group}
    return groups, [name for name in missing if name not in taken]


def train_group(study: StudyFolder, bench: Workbench, names: list[str], options: Finetune) -> None:
    """Trains the adapters `names` as one fleet, and saves each as a PEFT folder."""
    config = bench.config
    folder = study.path / "training" / f"{names[0]}-{zlib.crc32(json.dumps(names).encode()):08x}"
    from_first(lambda: write_text(folder / FLEET, json.dumps(names)))

    def trackers(step: int) -> list[Tracker]:
        if not is_first():
            return []
        name = f"{study.path.name} {names[0]} +{len(names) - 1}"
        settings = {**study.record["config"], "adapters": names}
        return open_trackers(options.track, folder, name=name, config=settings, resume_from=step, say=say)

    with training_view(names, max(map(bench.steps, names))) as report:
        trained = train(
            bench.checkpoint.model,
            bench.fleet(names),
            config.train,
            folder,
            dropout=config.lora.dropout,
            checkpoint_every=options.checkpoint_every,
            report=report,
            trackers=trackers,
            profile_steps=options.profile,
        )
    adapter = jax.device_get(trained.adapter)  # what one process does alone is no business of the devices

    def save() -> None:
        for i, name in enumerate(names):
            if name not in trained.failed:
                notes = {"name": name, "study": study.record["config"], "model": study.record["model"]["fingerprint"]}
                notes["steps"] = trained.steps[name]
                own = with_classes(take(adapter, [i]), bench.own_classes(name))
                save_adapter(own, bench.lora(name), study.adapter(name), base=config.model, notes=notes)
        if trained.failed:
            write_text(folder / FAILED, json.dumps(trained.failed))

    from_first(save)


def failures(study: StudyFolder) -> dict[str, int]:
    """Adapters whose training failed, with the step at which their loss or gradient was not finite."""
    found: dict[str, int] = {}
    for file in sorted((study.path / "training").glob(f"*/{FAILED}")):
        found |= json.loads(file.read_text("utf-8"))
    return found


def tidy(study: StudyFolder) -> None:
    """Joins the groups' logs into the study's `metrics.jsonl`, and deletes what only training needs."""
    rows: dict[int, dict] = {}
    # The later one counts, should an adapter be trained a second time.
    logs = (study.path / "training").glob("*/metrics.jsonl")
    for log in sorted(logs, key=lambda log: ((log.parent / FLEET).stat().st_mtime_ns, log)):
        for row in read_rows(log):
            joined = rows.setdefault(row["step"], {"step": row["step"]})
            for key, values in row.items():
                if key != "step":
                    joined.setdefault(key, {}).update(values)
    write_text(study.path / "metrics.jsonl", "".join(json.dumps(rows[step]) + "\n" for step in sorted(rows)))
    failed = failures(study)
    for file in (study.path / "training").glob(f"*/{FLEET}"):
        if all(study.is_trained(name) or name in failed for name in json.loads(file.read_text("utf-8"))):
            shutil.rmtree(file.parent / "checkpoints", ignore_errors=True)


def from_recipe(recipe: Recipe) -> FinetuneFlags:
    """The settings of a recipe; those that only `run.study` has are left out."""
    own = {key: value for key, value in recipe.flags.items() if key in StudyConfig().flat()}
    return FinetuneFlags(Path("studies", recipe.name), StudyConfig.from_flat(own | {"recipe": recipe.name}))


def main() -> None:
    """Entry point of `python -m run.finetune`."""
    options = recipes.cli(
        FinetuneFlags,
        from_recipe,
        prog="python -m run.finetune",
        description=__doc__,
        example="studies/first --tasks capital_city film_reviews --steps 200",
        main=(*MAIN_FLAGS, "batch_size", "fleet_size", "only", "eval_only"),
    )
    start(options.processes)
    evaluate(options) if options.eval_only else complain(finetune(options))


if __name__ == "__main__":
    command(main)
