"""Does a matrix of distances between tasks, T̄ (`analysis.task_map`), agree with clusters that are known beforehand?

Each task has the name of its cluster. Larger always means that tasks of one cluster are closer:

``auc``         the chance that a pair from one cluster is closer than a pair from two (ties count half), over all such
                pairs of pairs. Range [0, 1], 0.5 is chance. 2 auc - 1 is R of ANOSIM (Clarke 1993).
``mantel``      correlation over pairs of distance with "from two clusters" (1, else 0) (Mantel 1967). Range [-1, 1].
``silhouette``  mean over tasks of (b - a) / max(a, b), a the mean distance to the others of the cluster, b the least
                mean distance to another cluster; 0 for a task alone in its cluster (Rousseeuw 1987). Range [-1, 1].
``purity``      share of tasks whose nearest other task is of the same cluster, those that tie for it sharing; tasks
                alone in their cluster do not count. Range [0, 1].
``nmi``         2 I(C; K) / (H(C) + H(K)) of clusters C and as many K that the tree (`analysis.task_tree`) is cut into
                (arithmetic mean of entropies, as scikit-learn). Range [0, 1]; above 0 by chance.
``ari``         the adjusted Rand index of the same (Hubert & Arabie 1985). At most 1; 0 is chance.

None changes when T̄ is multiplied by a number; only ``auc`` and ``purity`` do not under any increasing map.

The null hands out the names to the tasks in another order; cluster sizes stay. One-sided p = (b + 1) / (m + 1), b of
m permutations reach the value (Phipson & Smyth 2010). If there are no more than m other ways, each is taken once: p
is exact. Ways that only rename clusters reach the value too: two clusters of three tasks have 20 ways, and p is never
below 2 / 20. The hypothesis is that tasks are exchangeable: nothing but the names tells them apart. Two variants of
one task under two names are not, and make p too small; the test says that clusters are more than names, not why. That
they share their prompts, or the length of their outputs, is one reason why they could be.

Missing: tasks without any distance are left out. ``auc`` and ``mantel`` take the pairs there are; the others need
all. NaN, with a reason, for one cluster only, for clusters of one task each, and where all distances are equal.

Clarke, "Non-parametric multivariate analyses of changes in community structure", Austral. J. Ecol. 18, 1993.
Hubert & Arabie, "Comparing partitions", J. Classif. 2, 1985. Rousseeuw, "Silhouettes", JCAM 20, 1987.
Mantel, "The detection of disease clustering and a generalized regression approach", Cancer Research 27, 1967.
Phipson & Smyth, "Permutation p-values should never be zero", SAGMB 9, 2010.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy.stats import rankdata

from analysis.clusters import _arrangements, _neighbours, _nmi, _silhouettes
from analysis.mantel import TaskScore, all_equal, task_score
from analysis.task_map import complete
from analysis.task_tree import Linkage, cut, task_tree

__all__ = ["Agreement", "cluster_agreement"]

# Letters of shapes: n tasks, c clusters, k those found, p pairs of tasks, m ways to hand out names, the actual first.


class Agreement(NamedTuple):
    """What the clusters and T̄ have in common."""

    scores: dict[str, TaskScore]
    """By the names in the module docstring."""
    clusters: list
    """The distinct names, of the tasks that have distances."""
    found: np.ndarray
    """int `[n]`: which cluster of the cut tree a task is in; -1 where there is none."""
    permutations: int
    """Besides the names as they are."""
    exact: bool
    """These are all there are. The nulls' mean and sd then include the names as they are."""


def cluster_agreement(
    matrix: ArrayLike,
    clusters: Sequence,
    *,
    permutations: int = 1000,
    linkage: Linkage = "average",
    seed: int = 0,
) -> Agreement:
    """Agreement of T̄ `[n, n]` with clusters, one name a task `[n]`; definitions in the module docstring.

    Args:
        permutations: of the names, drawn from seed.
        linkage: of the tree that is cut, as in `task_tree`.

    Raises:
        ValueError: the matrix is no matrix of distances, or the arguments do not go together.
    """
    D, kept, incomplete = complete(matrix)
    n = len(np.asarray(matrix))
    names = np.asarray(clusters)
    if names.shape != (n,) or permutations < 1:
        raise ValueError(
            f"expected a cluster for each of the {n} tasks, and permutations >= 1; got {names.shape}, {permutations}"
        )
    distinct, label = np.unique(names[kept], return_inverse=True)
    i, j = np.triu_indices(len(kept), 1)
    there = ~np.isnan(D[i, j])
    i, j = i[there], j[there]
    reason = incomplete if len(kept) < 2 else why_none(label, D[i, j])
    found = np.full(n, -1)
    if reason is not None:
        return Agreement(dict.fromkeys(MEASURES, _missing(reason)), distinct.tolist(), found, 0, False)

    ways, exact = _arrangements(label, permutations, np.random.default_rng(seed))
    values = pair_scores(D[i, j], ways[:, i] == ways[:, j])
    if incomplete is None:
        k = cut(task_tree(D, linkage=linkage).linkage, len(distinct))
        found[kept] = k
        values |= _task_scores(D, ways) | partition_scores(ways, k)
    scores = {measure: task_score(values[measure], exact) for measure in MEASURES if measure in values}
    for measure in MEASURES:
        if measure not in scores:
            scores[measure] = _missing(incomplete)
        elif np.isnan(scores[measure].value):
            scores[measure] = _missing("no pair of one cluster has a distance, or none of two")
    return Agreement(scores, distinct.tolist(), found, len(ways) - 1, exact)


MEASURES = ("auc", "mantel", "silhouette", "purity", "nmi", "ari")


def _missing(reason):
    return TaskScore(*(float("nan"),) * 4, reason)


def why_none(label: np.ndarray, distances: np.ndarray) -> str | None:
    """Why clusters `[n]`, as ints from 0, of tasks with these distances have no agreement; None if they have."""
    clusters = label.max() + 1
    if clusters == 1:
        return "all tasks are in one cluster"
    if clusters == len(label):
        return "every task is a cluster of its own"
    return "all distances are equal" if all_equal(distances) else None


def pair_scores(distances: np.ndarray, same: np.ndarray) -> dict[str, np.ndarray]:
    """Distances `[p]`, which pairs are from one cluster, bool `[m, p]` -> by measure `[m]`; NaN if all are or none."""
    ranks = rankdata(distances.astype(np.float32))
    ones = same.sum(1)
    both = ones * (same.shape[1] - ones)
    away = distances - distances.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = (both + ones * (ones + 1) / 2 - same @ ranks) / both
        r = -(same @ away) / np.sqrt((away @ away) * both / same.shape[1])
    return {"auc": auc, "mantel": r}


def _task_scores(D: np.ndarray, ways: np.ndarray) -> dict[str, np.ndarray]:
    """D `[n, n]`, names `[m, n]` -> by measure `[m]`."""
    n = len(D)
    each = np.arange(n)
    member = (ways[:, :, None] == np.arange(ways.max() + 1)).astype(np.float64)
    silhouettes = _silhouettes(D, member, ways, each, each, 0, 1)
    nearest = _neighbours(D.astype(np.float32), 1, np.eye(n, dtype=bool))
    i, j = np.nonzero(nearest)
    shared = (ways[:, i] == ways[:, j]) @ nearest[i, j]
    accompanied = (np.bincount(ways[0])[ways[0]] > 1).sum()  # the same number in all ways
    return {"silhouette": silhouettes.mean(1), "purity": shared / accompanied}


def partition_scores(ways: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Names `[m, n]` and clusters found `[n]`, both as ints from 0 -> by measure `[m]`."""
    member = (ways[:, :, None] == np.arange(ways.max() + 1)).astype(np.float64)
    table = np.einsum("mnc,nk->mck", member, np.eye(found.max() + 1)[found])

    def pairs(count):
        return (count * (count - 1) / 2).sum(tuple(range(1, count.ndim)))

    together, rows, columns = pairs(table), pairs(table.sum(2)), pairs(table.sum(1))
    chance = rows * columns / (len(found) * (len(found) - 1) / 2)
    with np.errstate(invalid="ignore"):
        ari = (together - chance) / ((rows + columns) / 2 - chance)
    return {"nmi": _nmi(table), "ari": ari}
