"""What a report says and shows of adapters compared by their weights: from the files of `run.compare_adapters`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.inference import benjamini_hochberg
from lorajax.errors import LorajaxError
from run import figures
from run.findings import number

NULL = "random_subspaces"
SURE = 0.05
FEW = 3  # tasks beyond one in each group: with fewer, a pair or two would speak for all
SHARE = "grassmann_columns_share"


def compared(results: Path, shared_start: bool = False) -> dict[str, Any] | None:
    """The compared `pairs`, `figures` by name, `findings`, `projections`, `scores`, and `words` for what was measured.

    None where nothing was compared yet, or was not finished.

    Args:
      shared_start: all adapters were trained from the same A.

    Raises:
      LorajaxError: a file that is there cannot be read.
    """
    if not all((results / f"{name}.nc").exists() for name in ("adapters", "task_map")):
        return None
    try:
        pairs, means = (xr.load_dataset(results / f"{name}.nc", engine="h5netcdf") for name in ("adapters", "task_map"))
        places, scores = (
            pd.read_csv(
                results / f"{name}.csv", keep_default_na=False, na_values=[""], dtype={"name": str, "cluster": str}
            )
            for name in ("task_map", "task_map_scores")
        )
    except (OSError, ValueError, pd.errors.EmptyDataError) as error:
        raise LorajaxError(f"{results}: the comparison of adapters cannot be read: {error}; do it again") from None
    if pairs.attrs.get("provenance") != means.attrs.get("provenance"):
        return None
    places["cluster"] = places["cluster"].fillna("")
    settings = json.loads(pairs.attrs["provenance"])
    return {
        "words": {"variant": settings["variant"], "p": f"{settings['p']:g}", "form": settings["form"]}
        | {name: means.attrs[name] for name in ("measure", "method", "unit")},
        "pairs": pairs,
        "figures": drawn(pairs, means, places, results / "projection.csv"),
        "findings": [*map_findings(means, scores), *projection_findings(pairs, shared_start)],
        "projections": projection_rows(pairs),
        "scores": score_rows(scores),
    }


def drawn(pairs: xr.Dataset, means: xr.Dataset, places: pd.DataFrame, projections: Path) -> dict[str, Figure]:
    """The figures that there is something for, by name."""
    made = {"adapter_spectra": figures.adapter_spectra(pairs)}
    if means.sizes["task_i"] > 1 and (places.order >= 0).all():
        made["adapter_heatmaps"] = figures.distance_heatmaps(means, places)
        if SHARE in pairs.measure.values:
            made["adapter_layers"] = figures.distances_by_layer(pairs, SHARE)
            made["adapter_layer_heatmaps"] = figures.layer_heatmaps_of_adapters(pairs, places, SHARE)
        made["adapter_map"] = figures.adapter_map(places)
        made["adapter_tree"] = figures.adapter_tree(means.attrs["linkage"], places)
        if projections.exists():
            made["projections"] = figures.projection_heatmaps(pd.read_csv(projections, keep_default_na=False), places)
    return made


def map_findings(means: xr.Dataset, scores: pd.DataFrame) -> list[str]:
    """The nearest pairs, and whether tasks of one cluster are nearer than others."""
    distances = means.distance.isel(module=0).values
    names = [str(name) for name in means.task_i.values]
    i, j = np.triu_indices(len(names), 1)
    there = np.flatnonzero(np.isfinite(distances[i, j]))
    if len(there) < 3:
        return []
    order = there[np.argsort(distances[i, j][there])]
    near = ", ".join(f"{names[i[k]]} and {names[j[k]]} ({number(distances[i[k], j[k]])})" for k in order[:3])
    far = order[-1]
    unit = means.attrs.get("unit", "")
    said = [
        f"By their adapters' weights, the nearest tasks are {near}; the farthest are {names[i[far]]} and "
        f"{names[j[far]]} ({number(distances[i[far], j[far]])}{', ' + unit if unit else ''})."
    ]
    for grouping, own in scores.groupby("grouping", sort=False):
        auc = own[own.score == "auc"]
        if not len(auc) or not np.isfinite(auc.value.iloc[0]):
            continue
        row = auc.iloc[0]
        interval = f" (95 %: {row.low:.2f} to {row.high:.2f})" if np.isfinite(row.low) else ""
        chance = f"p = {row.p_value:.3f}" if row.p_value > SURE else f"p = {row.p_value:.3f}, {grouping}s given by lot"
        if row.adapters - row.groups < FEW:
            tasks = f"{row.adapters} tasks in {row.groups} {grouping}s"
            said.append(f"Whether tasks of one {grouping} are nearer, {tasks} do not tell: hardly two share one.")
            continue
        said.append(
            f"A pair of tasks of one {grouping} is nearer than a pair of two with probability "
            f"{row.value:.2f}{interval}; {chance}."
        )
    return said


def projection_findings(pairs: xr.Dataset, shared_start: bool = False) -> list[str]:
    """For how many ordered pairs REC is above either null model; and what the first of them does not tell."""
    table = _projections(pairs)
    if table is None or not len(table):
        return []
    sure, used = (int((benjamini_hochberg(table[p].to_numpy()) <= SURE).sum()) for p in ("p", "p_use"))
    said = (
        f"Spectral projections: REC exceeds that of unrelated updates with the same spectra by "
        f"{(table.rec - table.chance).mean():+.3f} in the mean, and for {sure} of {len(table)} ordered pairs of tasks "
        f"(false discoveries at most {SURE:.0%}); with the spaces kept and their directions paired by lot, for {used}."
    )
    if shared_start:
        said += (
            " All adapters started from one A, so what they read overlaps whatever the tasks are; the second counts."
        )
    return [said]


def projection_rows(pairs: xr.Dataset, most: int = 5) -> list[dict[str, str]]:
    """The ordered pairs whose REC is most and least above chance: tasks, L1, REC, H(S1), H(S2), beside chance."""
    table = _projections(pairs)
    if table is None:
        return []
    ordered = table.assign(excess=table.rec - table.chance).sort_values("excess", ascending=False)
    if len(ordered) > 2 * most:
        ordered = pd.concat([ordered.head(most), ordered.tail(most)])
    return [
        {
            "pair": f"{row.i} → {row.j}",
            "rec": f"{row.rec:.3f} ({row.chance:.3f})",
            "z": f"{row.z:.1f}",
            "p": f"{row.p:.3f}",
        }
        | {
            "lp": f"{row.lp:.3g} ({row.lp_chance:.3g})",
            "h1": f"{row.h1:.3f}",
            "h2": f"{row.h2:.3f} ({row.h2_chance:.3f})",
        }
        | {"columns": f"{row.columns:.3f} ({row.columns_chance:.3f})"}
        for row in ordered.itertuples()
    ]


def _projections(pairs: xr.Dataset) -> pd.DataFrame | None:
    """A row for each ordered pair of different tasks that has a value."""
    if "null" not in pairs:
        return None
    of = pairs["null"].sel(null_model=NULL)
    names = [str(name) for name in pairs.task.values]
    i, j = np.nonzero(~np.eye(len(names), dtype=bool))

    def column(measure: str, statistic: str) -> np.ndarray:
        return of.sel(projection=measure, statistic=statistic).transpose("task_i", "task_j").values[i, j].astype(float)

    h1 = pairs.value.sel(measure="entropy_s1").mean(("module", "layer")).transpose("task_i", "task_j").values[i, j]
    table = pd.DataFrame(
        {
            "i": [names[k] for k in i],
            "j": [names[k] for k in j],
            "rec": column("rec", "value"),
            "chance": column("rec", "null_mean"),
            "z": column("rec", "z"),
            "p": column("rec", "p_value"),
            "p_use": pairs["null"]
            .sel(null_model="permuted_pairs", projection="rec", statistic="p_value")
            .transpose("task_i", "task_j")
            .values[i, j],
            "lp": column("lp", "value"),
            "lp_chance": column("lp", "null_mean"),
            "h1": h1,
            "h2": column("entropy_s2", "value"),
            "h2_chance": column("entropy_s2", "null_mean"),
            "columns": column("capture_columns", "value"),
            "columns_chance": column("capture_columns", "null_mean"),
        }
    )
    return table[np.isfinite(table.rec)]


def score_rows(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Rows what, value, chance, p of how the map goes with what is known of the tasks."""
    words = {
        "auc": "a pair of one {} is nearer (probability)",
        "mantel": "correlation of distances with different {}s (Mantel)",
        "silhouette": "silhouette of the {}s",
        "purity": "nearest task is of the same {} (share)",
        "nmi": "tree cut into as many groups: NMI with the {}s",
        "ari": "the same: adjusted Rand index",
    }
    rows = []
    for row in scores.itertuples():
        interval = f" ({row.low:.2f} to {row.high:.2f})" if np.isfinite(row.low) else ""
        value = "missing" if np.isnan(row.value) else f"{row.value:.2f}{interval}"
        chance, p = ("", "") if np.isnan(row.value) else (f"{row.null_mean:.2f}", f"{row.p_value:.3f}")
        rows.append({"what": words[row.score].format(row.grouping), "value": value, "chance": chance, "p": p})
    return rows
