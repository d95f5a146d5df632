"""The tables of a study's report: labelled results in, rows of texts out."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from run.figures import mean_present, same_layer
from run.findings import listed, number


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


def bands_table(bands: pd.DataFrame) -> list[dict[str, str]]:
    """Rows curves, band, layers, begins, explained, p; the last two once for each set of curves."""
    rows = []
    for row in bands.itertuples():
        first = row.band == 1
        rows.append(
            {
                "curves": str(row.curves) if first else "",
                "band": str(row.band),
                "layers": f"{row.first} to {row.last}".replace(" to block", " to"),
                "begins": f"{row.begins_low} to {row.begins_high}".replace(" to block", " to")
                if row.begins_low
                else "",
                "explained": f"{row.explained:.2f}" if first else "",
                "p": "missing" if np.isnan(row.p_value) else f"{row.p_value:.3f}" if first else "",
            }
        )
    return rows


def ablation_table(ds: xr.Dataset) -> dict[str, Any]:
    """What each task keeps of its adapter's gain under some masks: {masks, rows: [{task, model, n, loss, shares}]}."""
    masks = [str(mask) for mask, kind in zip(ds.mask.values, ds.kind.values, strict=True) if kind == "band"]
    rows = []
    for task in ds.task.values:
        for model in ds.model.values:
            own = ds.sel(task=task, model=model)
            if not int(own.n):
                continue
            losses = [number(float(own.loss.sel(mask=mask))) for mask in ("base", "full")]
            shares = []
            for mask in masks:
                share, low, high = (float(own[name].sel(mask=mask)) for name in ("share", "share_low", "share_high"))
                shares.append("missing" if np.isnan(share) else f"{share:.2f} ({low:.2f} to {high:.2f})")
            rows.append(
                {"task": str(task), "model": str(model), "n": str(int(own.n)), "losses": losses, "shares": shares}
            )
    return {"masks": [mask.replace("band ", "blocks ") for mask in masks], "rows": rows}
