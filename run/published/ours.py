"""The quantities that papers print, from a study's own results, with 95 % intervals.

Intervals of curves are over tasks, drawn with replacement and of equal weight (percentiles of the replicates for
quartiles, BCa for means, Fisher's for correlations); those of spectral projections are over layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from analysis.correlation import correlation_by_layer
from analysis.inference import bootstrap_mean
from run.figures import same_layer

QUARTILES = {"q1": 0.25, "median": 0.5, "q3": 0.75}
#: Our columns of results/readability.csv for the published covariates.
COVARIATES = {"flesch_kincaid": "flesch_kincaid", "coleman_liau": "coleman_liau", "data_size": "train_examples"}
#: Our measures of projections for the published columns.
PROJECTED = {"l1": "lp", "rec": "rec", "h_s1": "entropy_s1", "h_s2": "entropy_s2"}
LEAST_TASKS = 4  # for a correlation
REPLICATES = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Ours:
    """A curve of ours, or one value: float64 arrays over `layers`; NaN for what is missing."""

    layers: tuple[str, ...]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray  # of tasks (layers, for a projection) with a value
    debiased: np.ndarray | None = None  # where `value` is of biased CKA: the same of the debiased estimate

    def at(self, layer: str) -> dict[str, float]:
        """Value, interval, count and debiased value at one layer; NaN where there is no such layer."""
        names = ("value", "low", "high", "count", "debiased")
        i = self.layers.index(layer) if layer in self.layers else None
        arrays = {name: getattr(self, name) for name in names}
        return {k: float("nan") if i is None or own is None else float(own[i]) for k, own in arrays.items()}


def cka_quartiles(cka: xr.Dataset, tasks: Sequence[str], pair: str, seed: int = 0) -> dict[str, Ours]:
    """Quartiles and median over tasks of the biased same-layer CKA of `pair`, by statistic."""
    chosen = cka.sel(task=[task for task in cka.task.values if task in tasks])
    biased, debiased = (same_layer(chosen, pair, estimator) for estimator in ("biased", "debiased"))
    layers = tuple(str(name) for name in cka.layer_a.values)
    found, other = quartiles(biased, seed), quartiles(debiased, seed, replicates=0).value
    return {
        name: Ours(layers, found.value[q], found.low[q], found.high[q], found.tasks, other[q])
        for q, name in enumerate(QUARTILES)
    }


class Quartiles(NamedTuple):
    """float64 `[3, L]`, and of `tasks` int `[L]`."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    tasks: np.ndarray  # that have a value


def quartiles(values: np.ndarray, seed: int = 0, *, replicates: int = REPLICATES) -> Quartiles:
    """Lower quartile, median and upper quartile over tasks of `[tasks, L]`, with 95 % intervals.

    Linear between order statistics, as in box plots. Of one task there is a value and no interval; no replicates, no
    intervals.
    """
    levels = list(QUARTILES.values())
    value, low, high = (np.full((len(levels), values.shape[1]), np.nan) for _ in range(3))
    for layer, column in enumerate(values.T):
        there = np.sort(column[np.isfinite(column)])
        if not len(there):
            continue
        value[:, layer] = _sorted_quantiles(there, levels)
        if len(there) > 1 and replicates:
            order = np.sort(np.random.default_rng(seed).integers(len(there), size=(replicates, len(there))), axis=1)
            low[:, layer], high[:, layer] = np.quantile(_sorted_quantiles(there[order], levels), [0.025, 0.975], axis=0)
    return Quartiles(value, low, high, np.isfinite(values).sum(0))


def _sorted_quantiles(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Quantiles `[..., levels]` of values that are sorted along the last axis."""
    place = np.asarray(levels) * (values.shape[-1] - 1)
    before = np.floor(place).astype(int)
    after = np.minimum(before + 1, values.shape[-1] - 1)
    return values[..., before] + (place - before) * (values[..., after] - values[..., before])


def dimensions(spectrum: xr.Dataset, tasks: Sequence[str], model: str) -> Ours:
    """Mean over tasks of the directions that hold the variance, under `model`."""
    chosen = spectrum.spectrum.sel(measure="dimensions", model=model)
    values = chosen.sel(task=[task for task in spectrum.task.values if task in tasks]).transpose("task", "layer").values
    return _means(tuple(str(name) for name in spectrum.layer.values), values.astype(np.float64))


def most_dimensions(spectrum: xr.Dataset, tasks: Sequence[str], hidden_size: int) -> float:
    """What their mean over tasks cannot exceed: prompts less one, or the hidden size."""
    n = spectrum.n.sel(task=[task for task in spectrum.task.values if task in tasks]).values
    return float(np.minimum(n - 1, hidden_size).mean()) if len(n) else float("nan")


def correlations(table: pd.DataFrame, cka: xr.Dataset, tasks: Sequence[str], pair: str, measure: str) -> Ours | str:
    """Pearson's r over tasks of the biased same-layer CKA of `pair` with `measure`, or why there is none.

    From the table of results/readability.csv.
    """
    known = set(cka.task.values.astype(str))
    rows = table[table.task.isin([task for task in tasks if task in known])]
    if len(rows) < LEAST_TASKS:
        return f"a correlation needs {LEAST_TASKS} tasks or more; there are {len(rows)}"
    covariate = rows[COVARIATES[measure]].to_numpy(np.float64)
    if not np.ptp(covariate[np.isfinite(covariate)]) > 0:
        return f"{COVARIATES[measure].replace('_', ' ')} is the same for all tasks"
    chosen = cka.sel(task=rows.task.values)
    biased, debiased = (
        correlation_by_layer(same_layer(chosen, pair, estimator), covariate, permutations=0)
        for estimator in ("biased", "debiased")
    )
    layers = tuple(str(name) for name in cka.layer_a.values)
    return Ours(layers, biased.r, biased.low, biased.high, biased.n, debiased.r)


def projection(adapters: xr.Dataset, onto: str, projected: str, quantity: str) -> Ours:
    """Mean over layers and modules of a spectral projection; the only layer is called `all`."""
    chosen = adapters.value.sel(measure=PROJECTED[quantity], task_i=onto, task_j=projected)
    by_layer = chosen.mean("module").values.astype(np.float64)
    return _means(("all",), by_layer[:, None])


def _means(layers: tuple[str, ...], values: np.ndarray) -> Ours:
    """Means over the first axis, with intervals where there are two values or more."""
    if len(values) > 1:
        found = bootstrap_mean(values)
        return Ours(layers, found.value, found.low, found.high, found.n)
    none = np.full(len(layers), np.nan)
    value = values[0] if len(values) else none
    return Ours(layers, value, none, none, np.isfinite(value).astype(int))
