"""Which layers does a task need? Trained adapters are applied in some layers only, and the held-out loss is measured.

    python -m run.ablate_layers STUDY
    python -m run.ablate_layers STUDY --bands 1-9,10-15,16-30 --masks band,without --models C

Similar hidden states say where a task may live; this says what happens without a layer. Kinds of masks, each for every
layer k of L:

    single    the adapter in layer k alone
    prefix    in layers 1 to k
    suffix    in layers k to L
    without   in all layers but k; also in all but each of --bands
    band      in each of --bands alone

The share of a mask is what it keeps of the adapter's gain over the base model. Shares do not add up over layers, and a
mask may do harm (below 0) or good (above 1); there is none where the 95 % interval of the gain itself includes 0.
Losses are means over answer tokens, as in results/losses.csv. (An encoder's are means over examples; its head, trained
with the adapter, stays under every mask, so its base is this head on the base model's hidden states.) Intervals are of
a bootstrap over test examples, paired with the whole adapter; they are not corrected for the number of masks, and say
nothing of other training runs. STUDY must hold trained adapters. It gets `results/ablation.nc` (labelled arrays),
`results/ablation.csv`, and the losses of every example in `results/ablation/`. What is done is not done again.
`--json`: `ablation`, a row for each task and model, with the losses `base` and `full`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import xarray as xr

from lorajax.data.prompts import first
from lorajax.errors import LorajaxError
from lorajax.files import write_text
from lorajax.lora.adapter import init_adapter, stack, take, zeros_like
from lorajax.lora.masks import KINDS, Ablation, Band, LayerMask, costliest, layer_masks, smallest_band
from lorajax.lora.peft import load_adapter
from lorajax.training.ablation import MaskedLosses
from run.__main__ import cli
from run.lock import study_lock
from run.options import MULTI_TASK
from run.study_folder import StudyFolder
from run.task_results import write
from run.terminal import command, on_terminal, progress, result, say, show_table, wrote
from run.workbench import Workbench

MODELS = ("C", "E")
NAMED = 3  # costly layers that are named for each task
Key = tuple[str, str]  # task and model

VARIABLES = {
    "loss": "held-out loss, nats per answer token, or per example of an encoder",
    "difference": "loss minus that of the whole adapter",
    "error": "standard error of the difference, paired over examples",
    "low": "difference, lower end of its 95 % interval",
    "high": "difference, upper end of its 95 % interval",
    "share": "share of the adapter's gain over the base model that is kept",
    "share_low": "share, lower end of its 95 % interval",
    "share_high": "share, upper end of its 95 % interval",
}
FINDINGS = {
    "n": "test examples; 0 where nothing was measured",
    "tokens": "answer tokens of the test examples",
    "reason": "why there are no shares",
    "smallest_band": "of the masks measured, the fewest layers in a row that keep 90 % of the gain",
    "costliest": "single layers whose removal costs most, of those that cost more than 0 at 95 %",
}


@dataclasses.dataclass(frozen=True)
class AblateLayers:
    """Apply each trained adapter in some layers only, and measure what is left of its gain."""

    study: tyro.conf.Positional[Path]
    """Folder of a study with trained adapters."""
    tasks: tuple[str, ...] = ()
    """Tasks to measure; all that have an adapter when none is named."""
    models: tuple[str, ...] = ()
    """C (each task's own adapter), E (the multi-task one), or C,E; those that are trained when none is named."""
    masks: tuple[str, ...] = KINDS
    """Kinds of masks, such as prefix,suffix."""
    bands: tuple[str, ...] = ()
    """Bands of layers for the kinds band and without, such as 1-9,10-15,16-30."""
    examples: int = 128
    """Held-out examples of each task at most."""
    fleet_size: int = 8
    """Masks in the model at a time."""
    batch_size: int = 4
    """Rows in the model at a time under each mask; a row is as long as the longest example and holds several."""

    def __post_init__(self):
        for name, least in (("examples", 2), ("fleet_size", 1), ("batch_size", 1)):
            if (value := getattr(self, name)) < least:
                raise LorajaxError(f"--{name.replace('_', '-')} must be at least {least}, found {value}")
        for name, known in (("models", MODELS), ("masks", KINDS)):
            for word in _words(getattr(self, name)):
                if word not in known:
                    raise LorajaxError(f"--{name} {word}: expected some of {', '.join(known)}")
        kinds, spans = set(_words(self.masks)), self.spans
        if not kinds - {"band"} and not spans:
            raise LorajaxError("--masks band: there is no band; name some, such as --bands 1-9,10-15")
        if spans and not kinds & {"band", "without"}:
            raise LorajaxError(f"--bands is for the masks band and without; found --masks {','.join(sorted(kinds))}")

    @property
    def spans(self) -> list[Band]:
        """First and last layer of each band."""
        found = []
        for word in _words(self.bands):
            if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", word)):
                raise LorajaxError(f"--bands {word}: expected first and last layer, such as 1-9")
            found.append((int(match[1]), int(match[2] or match[1])))
        return found


def ablate_layers(options: AblateLayers, bench: Workbench | None = None) -> StudyFolder:
    """Measures what is missing under the masks, writes it, and returns the study."""
    study = StudyFolder.open(options.study)
    with study_lock(study.path):
        layers = [name for name in study.record["model"]["layers"] if name.startswith("block ")]
        try:
            wanted = layer_masks(_words(options.masks), len(layers), options.spans)
        except ValueError as error:
            raise LorajaxError(f"--bands: {error}") from None
        provenance = _provenance(study, options.examples)
        keys = _keys(study, provenance, options)
        known = {key: own for key, text in provenance.items() if (own := _read(_file(study, key), text))}
        there = {key: set(known[key].masks) if key in known else set() for key in keys}
        missing = {key: rest for key in keys if (rest := tuple(mask for mask in wanted if mask not in there[key]))}
        if done := len(keys) - len(missing):
            say(f"masked losses of {done} of {len(keys)} pairs of task and model are there already")
        if missing:
            bench = bench or Workbench.prepare(study.config, mesh="auto")
            for key, new in _measure(study, bench, missing, options):
                # Masks of an earlier call stay.
                known[key] = known[key].joined(new) if key in known else new
                write(_to_dataset(known[key], layers, provenance[key]), _file(study, key))
        results = summary({key: known[key] for key in provenance if key in known}, layers)
        clusters = study.record["data"]["tasks"]
        results.coords["cluster"] = "task", [clusters[task]["cluster"] for task in results["task"].values]
        facts = {f"{task} {model}": json.loads(provenance[task, model]) for task, model in known}
        results.attrs["provenance"] = json.dumps(facts)
        write(results, study.results / "ablation.nc")
        rows = results[list(VARIABLES)].to_dataframe().reset_index().dropna(subset="loss")
        write_text(study.results / "ablation.csv", rows.to_csv(index=False, float_format="%.6f"))
        show(results)
        ends = {mask: results["loss"].sel(mask=mask).reset_coords(drop=True) for mask in ("base", "full")}
        result(ablation=results[list(FINDINGS)].assign(ends).to_dataframe().reset_index().query("n > 0"))
        wrote(study.results / "ablation.nc", study.results / "ablation.csv")
    return study


def _measure(
    study: StudyFolder, bench: Workbench, missing: dict[Key, tuple[LayerMask, ...]], options: AblateLayers
) -> Iterator[tuple[Key, Ablation]]:
    """What is missing, one pair of task and model after another."""
    model = bench.checkpoint.model
    keep = {key: np.stack([mask.keep(model.config.num_layers) for mask in masks]) for key, masks in missing.items()}
    counts = {key: len(np.unique(rows, axis=0)) for key, rows in keep.items()}
    tests = {task: first(examples, options.examples) for task, examples in bench.test.items()}
    members = min(options.fleet_size, max(counts.values()))
    losses = MaskedLosses(model, list(tests.values()), members=members, rows=options.batch_size, pad=bench.pad)
    # Lower ranks are filled up with zeros: adapters of one shape share a program.
    rank = max(bench.lora(name).rank for name in (MULTI_TASK, *bench.tasks))
    shape = zeros_like(init_adapter(model.config, dataclasses.replace(bench.config.lora, rank=rank), ["shape"]))
    with progress() as bar:
        line = bar.add_task("masks", total=sum(counts.values()), note="")
        for i, (key, masks) in enumerate(missing.items()):
            if not on_terminal():
                say(f"  {counts[key]} masks: {key[0]}, {key[1]} ({i + 1} of {len(missing)})")
            own = load_adapter(study.adapter(_adapter(*key)), model.config)[0]
            adapter, report = take(stack([shape, own]), [1]), functools.partial(bar.advance, line)
            yield key, Ablation(masks, *losses(adapter, keep[key], tests[key[0]], report=report))


def summary(known: dict[Key, Ablation], layers: Sequence[str]) -> xr.Dataset:
    """Losses, shares and their intervals as labelled arrays; NaN for what was not measured."""
    tasks = list(dict.fromkeys(task for task, _ in known))
    models = [model for model in MODELS if any(model == own for _, own in known)]
    masks = tuple(sorted({mask for own in known.values() for mask in own.masks}, key=lambda mask: mask.place))
    each = {name: np.full((len(tasks), len(models), len(masks)), np.nan) for name in VARIABLES}
    once: dict[str, np.ndarray] = {name: np.full((len(tasks), len(models)), "", object) for name in FINDINGS}
    once |= {name: np.zeros((len(tasks), len(models)), int) for name in ("n", "tokens")}
    for (task, model), own in known.items():
        at = tasks.index(task), models.index(model)
        values, reason = own.statistics()
        for name in VARIABLES:
            each[name][*at, [masks.index(mask) for mask in own.masks]] = values[name]
        band, costly = smallest_band(own.masks, values["share"]), costliest(own.masks, values)[:NAMED]
        costs = ", ".join(layers[mask.first - 1] for mask in costly)
        found = (len(own.tokens), own.tokens.sum(), reason, band.label if band else "", costs)
        for name, value in zip(FINDINGS, found, strict=True):
            once[name][at] = value
    return xr.Dataset(
        {name: (("task", "model", "mask"), each[name], {"long_name": text}) for name, text in VARIABLES.items()}
        | {name: (("task", "model"), once[name], {"long_name": text}) for name, text in FINDINGS.items()},
        coords={"task": tasks, "model": models, **_coordinates(masks, layers)},
    )


def show(results: xr.Dataset) -> None:
    """Prints the smallest band that keeps the gain, and the layers that cost most, of every task and model."""
    rows = []
    for task, model in itertools.product(results["task"].values, results["model"].values):
        own = results.sel(task=task, model=model)
        if not int(own["n"]):
            continue
        losses = [f"{float(own['loss'].sel(mask=mask)):.3f}" for mask in ("base", "full")]
        share, band = "-", str(own["smallest_band"].item())
        if band:
            ends = (float(own[f"share{end}"].sel(mask=band)) for end in ("", "_low", "_high"))
            share = "{:.2f} ({:.2f} to {:.2f})".format(*ends)
        costly = [name.removeprefix("block ") for name in own["costliest"].item().split(", ") if name]
        costs = ", ".join(f"block {k} {float(own['difference'].sel(mask=f'without {k}')):+.3f}" for k in costly)
        rows.append([str(task), str(model), str(int(own["n"])), *losses, band or "-", share, costs or "-"])
        if reason := own["reason"].item():
            say(f"{task}, {model}: no shares: {reason}")
    columns = ["task", "model", "n", "base", "full", "fewest layers\nfor 90 %", "share", "costly to remove"]
    # What the masks were not for is left out: single blocks are removed by `--masks without`.
    there = [i for i in range(len(columns)) if i < 5 or any(row[i] != "-" for row in rows)]
    columns, rows = [columns[i] for i in there], [[row[i] for i in there] for row in rows]
    show_table("Held-out loss with the adapter in some layers only, in nats", columns, rows)


def _keys(study: StudyFolder, trained: Collection[Key], options: AblateLayers) -> list[Key]:
    """The pairs that were asked for."""
    if not trained:
        raise LorajaxError(f"{study.path}: no adapter is trained yet: python -m run.finetune {study.path}")
    tasks, models = options.tasks, _words(options.models)
    for task, model in itertools.product(tasks or [""], models or [""]):
        if not any(task in ("", t) and model in ("", m) for t, m in trained):
            asked = f"--tasks {task}" * bool(task) + " " * bool(task and model) + f"--models {model}" * bool(model)
            there = ", ".join(f"{t} ({m})" for t, m in trained)
            raise LorajaxError(f"{asked}: no trained adapter in {study.path}; there are: {there}")
    return [(t, m) for t, m in trained if (not tasks or t in tasks) and (not models or m in models)]


def _adapter(task: str, model: str) -> str:
    return MULTI_TASK if model == "E" else task


def _words(values: Sequence[str]) -> list[str]:
    return [word.strip() for value in values for word in value.split(",") if word.strip()]


def _provenance(study: StudyFolder, examples: int) -> dict[Key, str]:
    """What the losses of each trained pair depend on."""
    record, tasks = study.record, study.record["data"]["tasks"]
    adapters = {n: study.adapter_fingerprint(n) for n in (MULTI_TASK, *tasks) if study.is_trained(n)}
    facts = {"version": record["version"], **{name: record[name]["fingerprint"] for name in ("model", "data")}}
    keys = [(task, model) for task in tasks for model in MODELS if _adapter(task, model) in adapters]
    return {key: json.dumps(facts | {"examples": examples, "adapter": adapters[_adapter(*key)]}) for key in keys}


def _file(study: StudyFolder, key: Key) -> Path:
    return study.results / "ablation" / key[1] / f"{key[0]}.nc"


def _coordinates(masks: Sequence[LayerMask], layers: Sequence[str]) -> dict[str, Any]:
    names = ["", *layers]
    return {
        "mask": [mask.label for mask in masks],
        "kind": ("mask", [mask.kind for mask in masks]),
        "first": ("mask", [names[mask.first] for mask in masks]),
        "last": ("mask", [names[mask.last] for mask in masks]),
        "layer": list(layers),
        "kept": (("mask", "layer"), np.stack([mask.keep(len(layers)) for mask in masks])),
    }


def _to_dataset(own: Ablation, layers: Sequence[str], provenance: str) -> xr.Dataset:
    variables = {"nats": (("mask", "example"), own.nats), "tokens": (("example",), own.tokens)}
    return xr.Dataset(variables, coords=_coordinates(own.masks, layers), attrs={"provenance": provenance})


def _read(file: Path, provenance: str) -> Ablation | None:
    """What the file holds; None where it is not there or holds what another adapter gave."""
    if not file.exists():
        return None
    with xr.open_dataset(file, engine="h5netcdf") as data:
        if data.attrs.get("provenance") != provenance:
            return None
        names = ["", *data["layer"].values]
        spans = [[names.index(name) for name in data[end].values] for end in ("first", "last")]
        masks = tuple(LayerMask(str(kind), *span) for kind, *span in zip(data["kind"].values, *spans, strict=True))
        return Ablation(masks, data["nats"].values, data["tokens"].values)


def main() -> None:
    """Entry point of `python -m run.ablate_layers`."""
    ablate_layers(cli(AblateLayers, prog="python -m run.ablate_layers", description=__doc__, example="studies/demo"))


if __name__ == "__main__":
    command(main)
