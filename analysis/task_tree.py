"""The tree of tasks: hierarchical clustering of their distances T̄ (`analysis.task_map`), by SciPy.

Two clusters are merged when they are the nearest, average linkage (UPGMA: the mean over pairs between the two) unless
another is asked for. Heights have the unit of T̄; with these linkages a merge is never below one it holds. Linkages
that need points in a Euclidean space (Ward, centroid) are not offered: T̄ is not Euclidean.

The cophenetic correlation (Sokal & Rohlf 1962) is that of T̄ with the heights at which two tasks meet: how much of T̄
the tree tells. Range [-1, 1]. It is no evidence of clusters: average linkage of nothing but noise gives 0.7 for 6
tasks, 0.55 for 12 and 0.3 for 60. `analysis.task_clusters` has a null.

A tree depends on nothing but the order of distances (single and complete linkage) or is the same for T̄ times a number
(all). Where merges tie, one of them comes first, and the tree is one of several.

Sokal & Rohlf, "The comparison of dendrograms by objective methods", Taxon 11, 1962.
Bar-Joseph, Gifford & Jaakkola, "Fast optimal leaf ordering for hierarchical clustering", Bioinformatics 17, 2001.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from analysis.arrays import check_choice
from analysis.task_map import complete

__all__ = ["Linkage", "Tree", "cut", "members", "task_tree"]

Linkage = Literal["average", "complete", "single", "weighted"]


class Tree(NamedTuple):
    """A hierarchical clustering of the n' tasks that have distances."""

    linkage: np.ndarray
    """`[n' - 1, 4]` as SciPy has it: the two merged, their height, the number of tasks; leaf k is task `leaves[k]`."""
    leaves: np.ndarray
    """int `[n']`: rows of the matrix."""
    order: np.ndarray
    """int `[n']`: rows of the matrix from left to right, with neighbours as near as the tree allows."""
    cophenetic: float
    """Correlation of heights with distances; NaN for two tasks, or where all distances are equal."""
    reason: str | None = None
    """Why there is no tree; the linkage is empty then."""


def task_tree(matrix: ArrayLike, *, linkage: Linkage = "average") -> Tree:
    """The dendrogram of T̄ `[n, n]`; no tree, with a reason, where fewer than two tasks or not all pairs have distances.

    Raises:
        ValueError: the matrix is no matrix of distances, or no such linkage.
    """
    check_choice("linkage", linkage, get_args(Linkage))
    D, kept, reason = complete(matrix)
    if reason is not None:
        return Tree(np.empty((0, 4)), kept, kept, float("nan"), reason)
    pairs = squareform(D, checks=False)
    merges = hierarchy.linkage(pairs, linkage, optimal_ordering=True)
    heights = hierarchy.cophenet(merges)
    correlation = float("nan")
    if min(np.ptp(heights), np.ptp(pairs)) > 1e-12 * pairs.max():
        correlation = float(np.corrcoef(heights, pairs)[0, 1])
    return Tree(merges, kept, kept[hierarchy.leaves_list(merges)], correlation)


def members(linkage: np.ndarray) -> np.ndarray:
    """Which leaves each merge holds: linkage `[n - 1, 4]` -> bool `[n - 1, n]`; the last holds all."""
    n = len(linkage) + 1
    inside = np.eye(2 * n - 1, n, dtype=bool)
    for step, (a, b) in enumerate(linkage[:, :2].astype(int)):
        inside[n + step] = inside[a] | inside[b]
    return inside[n:]


def cut(linkage: np.ndarray, clusters: int) -> np.ndarray:
    """A tree's linkage `[n - 1, 4]` with its last `clusters` - 1 merges undone -> int `[n]`, the cluster of each leaf.

    Clusters are numbered by their first leaf.

    Raises:
        ValueError: clusters is not in 1..n.
    """
    n = len(linkage) + 1
    if not 1 <= clusters <= n:
        raise ValueError(f"clusters must be in 1..{n}, the number of tasks, got {clusters}")
    label = np.arange(n)
    for inside in members(linkage)[: n - clusters]:
        label[inside] = label[inside].min()
    return np.unique(label, return_inverse=True)[1]
