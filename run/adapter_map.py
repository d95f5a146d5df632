"""The map of adapters: mean distances over layers, where tasks lie by them, their tree, and how clusters go with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.mantel import TaskScore
from analysis.pair_auc import pair_auc
from analysis.task_clusters import cluster_agreement
from analysis.task_map import MeanDistances, map_tasks, mean_distances
from analysis.task_stability import layer_stability
from analysis.task_tree import Linkage, Tree, task_tree
from lorajax.errors import LorajaxError


@dataclasses.dataclass(frozen=True)
class MapConfig:
    """Of the map of tasks."""

    map_measure: str = "grassmann_columns"
    """The distance it is made of: grassmann_columns, grassmann_rows, l2, l2_equal_norm or cosine (as 1 - cosine)."""
    linkage: Linkage = "average"
    """How the tree measures the distance of two groups."""
    permutations: int = 1000
    """Of the clusters' names over tasks, for what chance gives."""
    replicates: int = 1000
    """Resamples of the layers, for the tree's support."""
    map_seed: int = 0
    """Of permutations and resamples."""

    def __post_init__(self):
        if self.map_measure not in DISTANCES:
            raise LorajaxError(f"--map-measure is one of {', '.join(DISTANCES)}, found {self.map_measure}")
        for name, least in (("permutations", 1), ("replicates", 100)):
            if (value := getattr(self, name)) < least:
                raise LorajaxError(f"--{name} must be at least {least}, found {value}")


#: Measures that are distances, and what makes one of them.
DISTANCES = {
    "grassmann_columns": lambda x: x,
    "grassmann_rows": lambda x: x,
    "l2": lambda x: x,
    "l2_equal_norm": lambda x: x,
    "cosine": lambda x: 1 - x,
}


SCORES = [
    "grouping",
    "score",
    "value",
    "low",
    "high",
    "null_mean",
    "null_sd",
    "p_value",
    "adapters",
    "groups",
    "reason",
]


@dataclasses.dataclass(frozen=True)
class AdapterMap:
    """Mean distances and what is made of them."""

    mean: MeanDistances
    modules: list[str]
    tree: Tree
    places: pd.DataFrame
    """A row for each adapter: name, cluster, order (in the tree), pca_1, pca_2, mds_1, mds_2."""
    scores: pd.DataFrame
    """A row for each grouping and score: value, low, high, null_mean, null_sd, p_value, n, reason."""
    merges: pd.DataFrame
    """A row for each merge of the tree: members, height, support."""
    dropped: list[str]
    """Adapters without any distance."""
    unit: str
    """What 1 is."""
    measure: str
    """What the distances are."""
    method: str
    """Linkage of the tree."""

    def dataset(self) -> xr.Dataset:
        """Mean distances `[module, task_i, task_j]`, `all` being their mean, in shares of what the config says."""
        names = [str(name) for name in self.mean.tasks]
        means = (
            self.mean.by_module if self.mean.overall is None else np.stack([self.mean.overall, *self.mean.by_module])
        )
        labels = self.modules if self.mean.overall is None else ["all", *self.modules]
        attrs: dict[str, Any] = {"unit": self.unit, "measure": self.measure, "method": self.method}
        if len(self.tree.linkage):
            attrs["linkage"] = self.tree.linkage.ravel()
        return xr.Dataset(
            {"distance": (("module", "task_i", "task_j"), means)},
            coords={"module": labels, "task_i": names, "task_j": names},
            attrs=attrs,
        )


def make_map(pairs: xr.Dataset, names: Sequence[str], clusters: Sequence[str], config: MapConfig) -> AdapterMap:
    """The map of the adapters `names`, from `measure_pairs`'s dataset.

    Distances of modules differ in level with their sizes: Grassmann distances are divided by what random subspaces
    have, others by the module's own mean, before modules are averaged.

    Raises:
      LorajaxError: the measure that the map is made of was not computed.
    """
    measure = config.map_measure
    if measure not in pairs.measure.values:
        raise LorajaxError(f"--map-measure {measure}: not among the measures computed; add its family to --measures")
    T = pairs.value.sel(measure=measure).transpose("module", "layer", "task_i", "task_j").values.astype(np.float64)
    T = _clean(DISTANCES[measure](T))
    expected = None
    if measure.startswith("grassmann"):
        chance = pairs.expected.sel(side=measure.removeprefix("grassmann_"))
        expected = chance.transpose("module", "layer", "task_i", "task_j").values.astype(np.float64)
        # Spaces that are all of a weight's dimensions have no distance to compare with.
        T = np.where(expected > 0, T, np.nan)
        expected = np.where(expected > 0, expected, np.nan)
    how = {"expected": expected, "normalise": "own" if expected is None else "expected"}
    mean = mean_distances(T, tasks=list(names), **how)  # type: ignore[arg-type]
    assert mean.overall is not None
    own = [clusters[i] for i in mean.kept]
    kept = [names[i] for i in mean.kept]
    tree = task_tree(mean.overall, linkage=config.linkage)
    places = pd.DataFrame({"name": kept, "cluster": own, "order": _ranks(tree, len(kept))})
    for method in ("pca", "mds"):
        found = map_tasks(mean.overall, method)  # type: ignore[arg-type]
        places[f"{method}_1"], places[f"{method}_2"] = found.points[:, 0], found.points[:, 1]
    stability = layer_stability(
        T,
        linkage=config.linkage,
        replicates=config.replicates,
        seed=config.map_seed,
        **how,  # type: ignore[arg-type]
    )
    merges = pd.DataFrame(
        {
            "members": ["; ".join(kept[i] for i in np.flatnonzero(row)) for row in stability.members],
            "height": stability.tree.linkage[:, 2],
            "support": stability.support,
        }
    )
    tasks = [name.split("/")[-1] for name in kept]
    if len(set(tasks)) < len(kept):  # adapters of one task are no evidence for clusters of tasks
        scores = _scores("task", mean.overall, tasks, config)
        distances, firsts = _by_task(mean.overall, tasks)
        scores = _scores("cluster", distances, [own[i] for i in firsts], config) + scores
    else:
        scores = _scores("cluster", mean.overall, own, config)
    return AdapterMap(
        mean,
        [str(m) for m in pairs.module.values],
        tree,
        places,
        pd.DataFrame(scores, columns=SCORES),
        merges,
        [str(d) for d in mean.dropped],
        "1: by chance" if expected is not None else "1: the mean pair",
        measure,
        config.linkage,
    )


def _scores(grouping: str, distances: np.ndarray, labels: list[str], config: MapConfig) -> list[dict]:
    """How the distances go with the labels; tasks without one are left out."""
    known = np.flatnonzero([bool(label) for label in labels])
    D, named = distances[np.ix_(known, known)], np.array(labels, str)[known]
    if len(known) < 2:
        return []
    agreement = cluster_agreement(
        D, named.tolist(), permutations=config.permutations, linkage=config.linkage, seed=config.map_seed
    )
    same = named[:, None] == named
    other = ~np.eye(len(named), dtype=bool)
    interval = pair_auc(D, same & other, ~same)
    rows = []
    for score, found in agreement.scores.items():
        own: TaskScore = found
        low, high = (interval.low, interval.high) if score == "auc" else (np.nan, np.nan)
        rows.append(
            {"grouping": grouping, "score": score, "value": own.value, "low": low, "high": high}
            | {"null_mean": own.null_mean, "null_sd": own.null_sd, "p_value": own.p_value}
            | {"adapters": len(known), "groups": len(set(named)), "reason": own.reason or ""}
        )
    return rows


def _by_task(distances: np.ndarray, tasks: list[str]) -> tuple[np.ndarray, list[int]]:
    """Mean distances of the adapters of two tasks `[tasks, tasks]`, 0 of a task and itself; their first adapters."""
    distinct = list(dict.fromkeys(tasks))
    member = np.array([[task == name for task in tasks] for name in distinct], float)
    there = np.isfinite(distances).astype(float)
    with np.errstate(invalid="ignore"):
        means = (member @ np.nan_to_num(distances) @ member.T) / (member @ there @ member.T)
    np.fill_diagonal(means, 0)
    return means, [tasks.index(name) for name in distinct]


def _ranks(tree: Tree, count: int) -> np.ndarray:
    order = np.full(count, -1)
    order[tree.order] = np.arange(len(tree.order))
    return order


def _clean(T: np.ndarray) -> np.ndarray:
    """Distances without what rounding left: exactly symmetric, 0 on the diagonal, not negative."""
    T = np.maximum((T + T.swapaxes(-1, -2)) / 2, 0)
    i = np.arange(T.shape[-1])
    T[..., i, i] = np.where(np.isnan(T[..., i, i]), np.nan, 0)
    return T
