"""Does a map of tasks hang on a few layers? T̄, its tree and its clusters from layers drawn with replacement.

As many layers are drawn as there are, the same in all modules, and T̄ (`analysis.task_map`) made of them with the
same normalisation. For each resample: the tree, and which of the tree's merges (sets of tasks) it has too, as
bootstrap support of phylogenies (Felsenstein 1985); Spearman's correlation of its distances with those of T̄; and
with known clusters the Mantel r and the NMI of `analysis.task_clusters`.

This is no confidence about other tasks, training seeds or data sets, all of which move every layer: it says how much
layers agree. Layers next to each other resemble each other, so drawing them one by one makes results look steadier
than they are; `block` draws runs of so many neighbours (moving blocks, round the end; Künsch 1989).

What nothing looks like: a resample shares layers with T̄, so its correlation with T̄ is about 1/√2 even where layers
have nothing in common. The merges of 6, 12, 30 unrelated tasks (random subspaces, 16 layers) have a median support of
0.4, 0.2, 0.1, and the best of them about 0.6, up to 0.9: below 0.95 it says little. The merge of all tasks is in
every tree and says nothing. Where distances tie, one of several trees is made.

Missing pairs: as in `analysis.task_map`. A resample in which a pair has no layer is not used; `used` counts the others.

Felsenstein, "Confidence limits on phylogenies: an approach using the bootstrap", Evolution 39, 1985.
Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17, 1989.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy.cluster import hierarchy
from scipy.stats import rankdata

from analysis.inference import check_resampling
from analysis.mantel import all_equal
from analysis.task_clusters import pair_scores, partition_scores, why_none
from analysis.task_map import Normalise, _square, complete, mean_distances, means, places_of
from analysis.task_tree import Linkage, Tree, cut, members, task_tree

__all__ = ["Spread", "Stability", "layer_stability"]


class Spread(NamedTuple):
    """A number of T̄, and of the T̄ of resamples."""

    value: float
    """Of all layers."""
    mean: float
    sd: float
    low: float
    """The percentile limits of the resamples."""
    high: float
    reason: str | None = None
    """Why all is NaN."""


class Stability(NamedTuple):
    """How much layers agree."""

    tree: Tree
    """Of T̄, for the tasks kept: a leaf or row k is task `kept[k]`."""
    members: np.ndarray
    """bool `[n - 1, n]`: which tasks each merge holds."""
    support: np.ndarray
    """`[n - 1]`: the share of resamples whose tree has that very set of tasks."""
    rank_correlation: Spread
    """Spearman's, over pairs, of T̄ with that of the resample; 1 for T̄ itself."""
    mantel: Spread
    nmi: Spread
    kept: np.ndarray
    """int `[n]`: the tasks that have distances."""
    used: int
    """Resamples in which all pairs have a distance."""
    reason: str | None = None
    """Why there is nothing."""


def layer_stability(
    distances: ArrayLike,
    clusters: Sequence | None = None,
    *,
    expected: ArrayLike | None = None,
    normalise: Normalise = "none",
    linkage: Linkage = "average",
    block: int = 1,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Stability:
    """Stability of T̄ from distances `[K, N, N]`, or `[M, L, N, N]` (then normalised: T̄ is the mean over modules).

    Args:
        clusters: known ones, a name a task `[N]`; without, there is no Mantel r and no NMI.
        expected: and normalise, as in `mean_distances`. linkage: as in `task_tree`.
        block: neighbouring layers drawn together; 1 to K.
        replicates: at least 100, drawn from seed. level: share of resamples between low and high.

    Raises:
        ValueError: arguments that do not go together; says which.
    """
    check_resampling(replicates, level)
    mean = mean_distances(distances, expected, normalise=normalise)
    if mean.overall is None:
        raise ValueError("several modules need normalise='expected' or 'own': their distances have levels of their own")
    values, absent = places_of(distances, expected, normalise)
    layers, tasks = values.shape[1], absent.shape[-1]
    if not 1 <= block <= layers:
        raise ValueError(f"block must be in 1..{layers}, the number of layers, got {block}")
    names = None if clusters is None else np.asarray(clusters)
    if names is not None and names.shape != (tasks,):
        raise ValueError(f"clusters must name each of the {tasks} tasks, got shape {names.shape}")

    tree = task_tree(mean.overall, linkage=linkage)
    _, _, reason = complete(mean.overall)
    if reason is not None:
        nothing = Spread(*(float("nan"),) * 5, reason)
        none = np.empty((0, len(mean.kept)), bool)
        return Stability(tree, none, np.empty(0), nothing, nothing, nothing, mean.kept, 0, reason)
    whole = _square(values, tasks)[..., mean.kept[:, None], mean.kept]
    i, j = np.triu_indices(len(mean.kept), 1)
    drawn = means(whole[..., i, j], _draws(layers, block, replicates, seed), normalise)[1]  # [b, p]
    drawn = drawn[~np.isnan(drawn).any(1)]
    pairs = mean.overall[i, j]

    inside = members(tree.linkage)
    trees = [hierarchy.linkage(d, linkage) for d in drawn]
    held = [{row.tobytes() for row in members(merges)} for merges in trees]
    support = (
        np.mean([[row.tobytes() in sets for row in inside] for sets in held], 0)
        if held
        else np.full(len(inside), np.nan)
    )

    if len(pairs) < 3:
        correlation = _spread(None, None, level, "two tasks have one distance")
    elif all_equal(pairs):
        correlation = _spread(None, None, level, "all distances are equal")
    else:
        ranks = rankdata(np.vstack([pairs, drawn]).astype(np.float32), axis=1)
        ranks = ranks - ranks.mean(1, keepdims=True)
        with np.errstate(invalid="ignore"):
            correlation = _spread(
                1.0, ranks[1:] @ ranks[0] / np.linalg.norm(ranks[1:], axis=1) / np.linalg.norm(ranks[0]), level
            )
    r, nmi = _known(names, mean.kept, pairs, drawn, tree.linkage, trees, level)
    return Stability(tree, inside, support, correlation, r, nmi, mean.kept, len(drawn))


def _known(names, kept, pairs, drawn, linkage, trees, level):
    """Spreads of the Mantel r and of the NMI with known clusters."""
    reason: str | None = "no clusters are given"
    if names is not None:
        distinct, label = np.unique(names[kept], return_inverse=True)
        reason = why_none(label, pairs)
    if reason is not None:
        return (_spread(None, None, level, reason),) * 2
    i, j = np.triu_indices(len(kept), 1)
    same = (label[i] == label[j])[None]
    r = [pair_scores(d, same)["mantel"][0] for d in (pairs, *drawn)]
    nmi = [partition_scores(label[None], cut(merges, len(distinct)))["nmi"][0] for merges in (linkage, *trees)]
    return _spread(r[0], np.array(r[1:]), level), _spread(nmi[0], np.array(nmi[1:]), level)


def _spread(value, drawn, level, reason=None):
    drawn = np.empty(0) if drawn is None else drawn[~np.isnan(drawn)]
    if reason is None and not len(drawn):
        reason = "no resample has all pairs"
    if reason is not None:
        return Spread(*(float("nan"),) * 5, reason)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Spread(float(value), float(drawn.mean()), float(drawn.std()), float(low), float(high))


def _draws(layers: int, block: int, replicates: int, seed: int) -> np.ndarray:
    """How often each layer is drawn `[b, layers]`; as many in all as there are layers."""
    starts = np.random.default_rng(seed).integers(layers, size=(replicates, -(-layers // block)))
    drawn = ((starts[:, :, None] + np.arange(block)) % layers).reshape(replicates, -1)[:, :layers]
    return (drawn[:, :, None] == np.arange(layers)).sum(1).astype(np.float64)
