"""Tables that a report draws from and no other command writes: it writes them to `results` itself."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import xarray as xr

#: Of a long run, means over so many equal parts.
MOST_STEPS = 400


def training_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """The course of training: model, step, loss, grad_norm; over equal numbers of steps where there are many.

    Columns used: step, model, loss, grad_norm. The step of a mean is the middle of its steps.
    """
    first = int(metrics.step.min())
    width = math.ceil((int(metrics.step.max()) - first + 1) / MOST_STEPS)
    start = (metrics.step - first) // width * width + first
    means = metrics.assign(step=start + (width - 1) / 2).groupby(["model", "step"], sort=False, as_index=False)
    return means[["loss", "grad_norm"]].mean()


def layer_distances(pairs: xr.Dataset, measure: str) -> pd.DataFrame:
    """One measure of every unordered pair of tasks: module, layer ("block 1" is 0 in the files), task_i, task_j, share.

    From the dataset of `results/adapters.nc`.
    """
    values = pairs.value.sel(measure=measure).transpose("module", "layer", "task_i", "task_j")
    i, j = np.triu_indices(values.sizes["task_i"], 1)
    modules, names = (values[name].values.astype(str) for name in ("module", "task_i"))
    layers = [f"block {layer + 1}" for layer in values.layer.values]
    index = pd.MultiIndex.from_product([modules, layers, range(len(i))], names=["module", "layer", "pair"])
    table = pd.DataFrame({"share": values.values[:, :, i, j].ravel()}, index=index).reset_index()
    pair = table.pop("pair").to_numpy()
    table.insert(2, "task_i", names[i[pair]])
    table.insert(3, "task_j", names[j[pair]])
    return table


def spectra_table(pairs: xr.Dataset) -> pd.DataFrame:
    """Singular values of each task's updates over their largest, median over layers.

    From the dataset of `results/adapters.nc`; columns name, cluster, module, direction, share_of_largest.
    """
    s = pairs.singular_value.transpose("task", "module", "layer", "direction").values.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        s = s / s[..., :1]
    there = np.isfinite(s).any(2)
    median = np.full(there.shape, np.nan)
    median[there] = np.nanmedian(np.moveaxis(s, 2, -1)[there], axis=-1)
    names, modules, directions = (pairs[name].values.astype(str) for name in ("task", "module", "direction"))
    index = pd.MultiIndex.from_product([names, modules, directions], names=["name", "module", "direction"])
    table = pd.DataFrame({"share_of_largest": median.ravel()}, index=index).reset_index()
    clusters = dict(zip(names, pairs.cluster.values.astype(str), strict=True))
    table.insert(1, "cluster", table["name"].map(clusters))
    return table.dropna(subset="share_of_largest")
