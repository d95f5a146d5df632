"""Writes a study's report: one HTML file that holds its figures, tables, cautions, and what they were made from.

    python -m run.report STUDY

STUDY gets `report.html`, which needs no network, script or other file, and `figures/*.svg`. Every sentence under
"Summary" is computed from the numbers in the study. A part that is not computed yet is named, with the command for it.
The same results give the same report, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import tyro
import xarray as xr
from markupsafe import Markup

from lorajax.errors import LorajaxError
from lorajax.files import write_text
from run import figures
from run.figures import mean_present, same_layer
from run.findings import cka_findings, count, listed, loss_findings, number, warnings
from run.options import StudyConfig
from run.study_folder import StudyFolder
from run.terminal import command, say


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a study's report again from its results."""

    study: tyro.conf.Positional[Path]
    """Folder of a study: it holds study.json."""


def build(study: Path) -> Path:
    """Writes the report of the study in `study`, and its figures; returns the path of `report.html`.

    Raises:
      LorajaxError: `study` holds no study, or a result in it cannot be read.
    """
    folder = StudyFolder.open(study)
    if absent := {"model", "data", "config"} - folder.record.keys():
        raise LorajaxError(f"{study / 'study.json'}: expected the keys model, data and config; no {sorted(absent)[0]}")
    losses, cka = read_losses(folder.results / "losses.csv"), read_cka(folder.results / "cka.nc")
    metrics = read_metrics(study / "metrics.jsonl")
    drawn = {}
    if cka is not None:
        drawn["cka_by_layer"] = figures.layer_boxplot(cka)
        drawn["cka_all_layers"] = figures.layer_heatmaps(cka)
        drawn["cka_by_task"] = figures.task_curves(cka)
        drawn["cka_estimators"] = figures.estimator_gap(cka)
    if losses is not None:
        drawn["losses"] = figures.loss_bars(losses)
    if metrics is not None:
        drawn["training"] = figures.training_curves(metrics)
    paths = {name: figures.save(figure, study / "figures" / f"{name}.svg") for name, figure in drawn.items()}
    templates = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    page = jinja2.Environment(
        loader=templates, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
    html = page.render(
        name=study.resolve().name,
        quoted=shlex.quote(study.resolve().name),
        record=folder.record,
        figures={name: inline(path.read_text("utf-8"), name) for name, path in paths.items()},
        findings=(loss_findings(losses) if losses is not None else []) + (cka_findings(cka) if cka is not None else []),
        losses=None if losses is None else loss_table(losses),
        cka=None if cka is None else cka_table(cka),
        prompts=None if cka is None else prompts(cka),
        missing=[] if cka is None else missing_layers(cka),
        warnings=warnings(folder.record, losses, cka),
        provenance=None if cka is None else provenance(cka),
        flags=flags(folder.record["config"]),
    )
    write_text(study / "report.html", html)
    return study / "report.html"


def read_losses(file: Path) -> pd.DataFrame | None:
    """The table of held-out losses, or None when there is none yet."""
    if not file.exists():
        return None
    numbers = ["tokens", "before", "after"]
    try:  # as text first: a task may be called "NA"
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        table[numbers] = table[numbers].apply(pd.to_numeric)
        table = table[["task", "cluster", "model", *numbers]]
    except (ValueError, KeyError) as error:
        raise LorajaxError(f"{file}: expected columns task, cluster, model, tokens, before, after: {error}") from None
    return table if len(table) else None


def read_cka(file: Path) -> xr.Dataset | None:
    """The labelled CKA results, or None when there are none yet."""
    if not file.exists():
        return None
    try:
        ds = xr.load_dataset(file, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise LorajaxError(f"{file}: cannot be read as netCDF: {error}") from None
    if absent := {"cka", "n", "reason", "duplicates", "cluster"} - set(ds.variables):
        raise LorajaxError(f"{file}: no variable {sorted(absent)[0]}; write it again: python -m run.cka_all_layers")
    return ds


def read_metrics(file: Path) -> pd.DataFrame | None:
    """The training log as a table with columns step, model, loss, grad_norm; None when there is none yet."""
    rows = []
    for at, line in enumerate(file.read_text("utf-8").splitlines() if file.exists() else [], start=1):
        try:
            row = json.loads(line)
            norms = row.get("grad_norm", {})
            rows += [(row["step"], model, loss, norms.get(model)) for model, loss in row["loss"].items()]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise LorajaxError(f'{file}, line {at}: expected {{"step": ..., "loss": {{...}}}}') from None
    return pd.DataFrame(rows, columns=["step", "model", "loss", "grad_norm"]) if rows else None


def loss_table(losses: pd.DataFrame) -> list[dict[str, str]]:
    """Rows task, cluster, tokens, before, E, C: what each model came to, and the change from the base model."""
    rows = []
    for task, both in losses.groupby("task", sort=False):
        first = both.iloc[0]
        row = {"task": task, "cluster": first.cluster, "tokens": f"{first.tokens:.0f}", "before": number(first.before)}
        for model in ("E", "C"):
            found = both[both.model == model]
            ends = [f"{number(r.after)} ({r.after - r.before:+.3f})" for r in found.itertuples()]
            row[model] = ends[0].replace(" (+nan)", "") if ends else "not measured"
        rows.append(row)
    return rows


def cka_table(ds: xr.Dataset) -> dict[str, Any]:
    """Same-layer debiased CKA of each task at a few depths: {layers, rows: [{task, cluster, n, pairs}]}."""
    labels = [str(label) for label in ds.layer_a.values]
    blocks = [i for i, label in enumerate(labels) if label.startswith("block ")]
    depths = {blocks[round(share * (len(blocks) - 1))] for share in (0, 1 / 3, 2 / 3, 1)} if blocks else set()
    picked = sorted(depths | {0, len(labels) - 1})
    values = {pair: same_layer(ds, pair) for pair in ("base | C", "E | C")}
    rows = [
        {
            "task": str(task),
            "cluster": str(ds.cluster.values[t]),
            "n": str(ds.n.values[t]),
            "pairs": {pair: [number(table[t, i]) for i in picked] for pair, table in values.items()},
        }
        for t, task in enumerate(ds.task.values)
    ]
    means = {pair: [number(value) for value in mean_present(table)[picked]] for pair, table in values.items()}
    rows.append({"task": "mean over tasks", "cluster": "", "n": "", "pairs": means})
    return {"layers": [labels[i] for i in picked], "rows": rows}


def prompts(ds: xr.Dataset) -> str:
    """How many tasks and test prompts stand behind a figure."""
    low, high = int(ds.n.min()), int(ds.n.max())
    return f"{count(ds.n.size, 'task')}, n = {low if low == high else f'{low} to {high}'} test prompts each"


def provenance(ds: xr.Dataset) -> str:
    """What the CKA results were made from, indented for reading."""
    return json.dumps(json.loads(ds.attrs.get("provenance", "{}")), indent=2, ensure_ascii=False)


def missing_layers(ds: xr.Dataset) -> list[dict[str, str]]:
    """Rows layer, models, tasks, reason: all that same-layer CKA lacks, and why."""
    why: dict[tuple[int, str, str], list[str]] = defaultdict(list)  # (layer, reason, task) -> models or pairs
    reasons = ds.reason.transpose("model", "task", "layer").values.astype(str)
    tasks, models = ds.task.values.astype(str), ds.model.values.astype(str).tolist()
    for m, t, layer in np.argwhere(reasons != ""):
        reason = reasons[m, t, layer].replace(f"all {ds.n.values[t]} rows", "all n rows")
        why[layer, reason, tasks[t]].append(models[m])
    for pair in ds.pair.values.astype(str):
        sides = [models.index(side) for side in pair.split(" | ")]
        for t, layer in np.argwhere(np.isnan(same_layer(ds, pair)) & (reasons[sides] == "").all(0)):
            why[layer, "no reason was recorded", tasks[t]].append(pair)
    alike: dict[tuple[int, str, str], list[str]] = defaultdict(list)  # (layer, models, reason) -> tasks
    for (layer, reason, task), who in why.items():
        alike[layer, ", ".join(who), reason].append(task)
    return [
        {
            "layer": str(ds.layer.values[layer]),
            "models": who,
            "tasks": f"all {len(names)}" if len(names) == len(tasks) > 1 else listed(names),
            "reason": reason,
        }
        for (layer, who, reason), names in sorted(alike.items())
    ]


def flags(config: dict[str, Any]) -> str:
    """The command-line flags that give `config`: those that differ from this version's defaults."""
    defaults, words = StudyConfig().flat(), []
    for key, value in config.items():
        if key in defaults and defaults[key] == value:
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(str(v) for v in (value if isinstance(value, list) else [value]))]
    return shlex.join(words)


def inline(svg: str, name: str) -> Markup:
    """The `<svg>` element of a file, for an HTML page: ids made unique by `name`, and its caption as its label."""
    body = svg[svg.index("<svg") :]

    def own(tag: re.Match[str]) -> str:
        text = re.sub(r' id="', f' id="{name}-', tag.group())
        return re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)

    def size(head: re.Match[str]) -> str:
        width = float(head.group(2)) / 9  # in rem: 7 inches are as wide as the page
        style = f"width:{width:.2f}rem;min-width:{width * 0.65:.2f}rem"
        return f'<svg role="img" aria-labelledby="{name}-caption" style="{style}" {head.group(1)}'

    body = re.sub(r"<[^>]+>", own, body)
    return Markup(re.sub(r'<svg ([^>]*?) width="([\d.]+)pt"', size, body, count=1))


def main() -> None:
    """Entry point of `python -m run.report`."""
    say(str(build(tyro.cli(Report, description=__doc__, prog="python -m run.report").study)))


if __name__ == "__main__":
    command(main)
