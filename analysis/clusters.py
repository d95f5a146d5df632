"""How clustered tasks are in hidden-state space, and how far a map of it can be trusted: numbers with their null.

A map (`analysis.embedding`) persuades whether or not there is anything to see, so `cluster_scores` measures each layer
in the space where the model works (or on a map, if given its points), by Euclidean distance:

``silhouette``   mean over points of (b - a) / max(a, b): a is the mean distance to the other points of the own cluster,
                 b the least mean distance to the points of another cluster; 0 where a point is alone in its cluster
                 and where a = b (Rousseeuw 1987). Range [-1, 1].
``knn_purity``   mean over points of the share of the k nearest other points that have the same label. Range [0, 1].
                 Points that tie for the last places share them equally.
``nmi``          2 I(C; K) / (H(C) + H(K)) of labels C and k-means clusters K, as many as labels (Strehl & Ghosh 2002,
                 with the arithmetic mean of the entropies). Range [0, 1].
``*_across``     the first two, with points of the own group (task) left out. Points of a cluster that has one group
                 have then nothing to be near to and do not count; NaN if no point does.

Larger always means more clustered. No value changes under a rotation, reflection or shift of the space or one scale
factor for all of it; all do under a scale per feature. For cosine distances, divide each row by its length first.

The null makes a value readable. Labels are usually clusters of tasks, and prompts of one task share a template: they
lie together, so any clustering of tasks looks good, even one drawn by lot. With tasks as `groups`, the null permutes
the labels of whole groups, which are all that was ever assigned, and ``*_across`` says what remains when no point may
look at its own task. Without groups points are permuted, which is right only if they are independent. One-sided
p = (b + 1) / (m + 1), b of m permutations reach the value (Phipson & Smyth 2010). If the labels can be handed out in no
more than m other ways, each is taken once: p is exact. Ways that only rename clusters reach the value of their twin, so
with one group per cluster p = 1.

Distances are float64, on the host, whatever the dtype: neighbours may be a thousandth of the norm away, of which
products of float32 matrices keep nothing. They are rounded to 24 bits, so that those equal but for rounding are equal.
NaN in all scores of a layer means 0/0: its points are all equal. float64 features count as such only if jax has x64
enabled. Memory: about 30 n² bytes, and 20 n · clusters · permutations without groups.

Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", JCAM 20, 1987.
Strehl & Ghosh, "Cluster ensembles", JMLR 3, 2002. Phipson & Smyth, "Permutation p-values should never be zero",
SAGMB 9, 2010. Venna & Kaski, "Neighborhood preservation in nonlinear projection methods", ICANN 2001.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from analysis.arrays import Layers, prepare
from analysis.embedding import centred_layers

__all__ = ["ClusterScores", "Score", "cluster_scores", "trustworthiness"]

# Letters of shapes and einsums: l layers, i points, g groups, c clusters, p ways to hand out labels, the actual first.


class Score(NamedTuple):
    """A measure and its permutation null; each `[L]`, or `[L, clusters]`."""

    value: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    p_value: np.ndarray


class ClusterScores(NamedTuple):
    """All measures of all layers, and the null that they are held against."""

    overall: dict[str, Score]  # by measure, `[L]`
    by_cluster: dict[str, Score]  # over the points of one cluster, `[L, clusters]`; nmi has none
    clusters: list  # the labels, in the order of that axis
    permuted: Literal["groups", "points"]
    permutations: int  # besides the labels as they are
    exact: bool  # these are all there are. The null's mean and sd then include the labels as they are


def cluster_scores(
    xs: Layers,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    permutations: int = 200,
    k: int = 10,
    n_init: int = 10,
    seed: int = 0,
    mask: ArrayLike | None = None,
) -> ClusterScores:
    """How clustered the points xs `[L, n, d]` are by label, layer by layer; definitions in the module docstring.

    Every point counts once, so a task with more points counts more. All layers see the same permutations.

    Args:
        labels: cluster of each point `[n]`, of any type that sorts.
        groups: task of each point `[n]`; each has one label. Adds the ``*_across`` scores.
        k: neighbours for ``knn_purity``.
        n_init: starts of scikit-learn's k-means, of which the best counts.
        seed: of the permutations and of k-means.
        mask: bool `[n]`; points where it is False are left out.

    Raises:
        ValueError: a row is not finite, a group has several labels, or there are too few clusters or neighbours.
    """
    layers, keep = prepare({"xs": xs}, mask)
    label, clusters = _ids("labels", labels, keep)
    group, tasks = (np.arange(len(label)),) * 2 if groups is None else _ids("groups", groups, keep)
    order = np.argsort(group, kind="stable")  # the points of a group are contiguous from here on
    label, group = label[order], group[order]
    starts, sizes = np.flatnonzero(np.diff(group, prepend=-1)), np.bincount(group)
    mixed = group[label != label[starts][group]]
    if len(mixed):
        found = clusters[np.unique(label[group == mixed[0]])].tolist()
        raise ValueError(f"groups: each needs one label, but {tasks.tolist()[mixed[0]]!r} has {found}")
    if len(clusters) < 2 or permutations < 1 or not 1 <= k <= len(group) - sizes.max():
        raise ValueError(
            f"expected two clusters or more, permutations >= 1, and 1 <= k <= {len(group) - sizes.max()} (the points "
            f"outside the largest group); got {len(clusters)} clusters, {permutations = }, {k = }"
        )

    ways, exact = _arrangements(label[starts], permutations, np.random.default_rng(seed))  # [p, g]
    member = (ways[:, :, None] == np.arange(len(clusters))).astype(np.float64)  # [p, g, c]
    alone = np.take_along_axis(sizes @ member, ways, 1) == sizes  # the group is all of its cluster
    points = {"": np.broadcast_to(sizes, ways.shape)} | ({} if groups is None else {"_across": sizes * ~alone})

    totals: dict[str, list[np.ndarray]] = {}  # sums of a measure over the points of a group, [p, g] a layer
    nmi = []
    for x in centred_layers("xs", layers, keep):
        square = _squared_distances(x[order])
        missing = 0.0 if square.any() else np.nan
        near = np.add.reduceat(np.sqrt(square, dtype=np.float64), starts, 1)  # [i, g]
        for across in points:
            own = group[:, None] == group if across else np.eye(len(group), dtype=bool)
            own_sum, own_points = (near[np.arange(len(group)), group, None], sizes[group, None]) if across else (0, 1)
            silhouettes = _silhouettes(near, member, ways, group, starts, own_sum, own_points)
            totals.setdefault("silhouette" + across, []).append(silhouettes + missing)
            weight = np.add.reduceat(np.add.reduceat(_neighbours(square, k, own), starts, 0), starts, 1)  # [g, g]
            shared = np.einsum("gpc,pgc->pg", np.tensordot(weight, member, (1, 1)), member)
            totals.setdefault("knn_purity" + across, []).append(shared / k + missing)
        found = np.eye(len(clusters))[_k_means(x, square, len(clusters), n_init, seed)[order]]
        nmi.append(_nmi(member.transpose(0, 2, 1) @ np.add.reduceat(found, starts, 0)) + missing)

    overall, by_cluster = {"nmi": _score(np.stack(nmi), exact)}, {}
    for measure, total in totals.items():
        count = points["_across" if measure.endswith("_across") else ""]
        with np.errstate(invalid="ignore"):  # no point counts: documented as NaN
            overall[measure] = _score(np.sum(total, 2) / count.sum(1), exact)
            shares = np.einsum("lpg,pgc->lpc", total, member) / np.einsum("pg,pgc->pc", count, member)
        by_cluster[measure] = _score(shares, exact)
    unit: Literal["groups", "points"] = "points" if groups is None else "groups"
    return ClusterScores(overall, by_cluster, clusters.tolist(), unit, len(ways) - 1, exact)


def trustworthiness(
    xs: Layers, maps: Layers, *, k: int = 10, permutations: int = 200, seed: int = 0, mask: ArrayLike | None = None
) -> Score:
    """How far the k nearest points on the maps `[L, n, 2]` are near in xs `[L, n, d]` too -> Score `[L]`.

    1 - 2 / (n k (2n - 3k - 1)) · Σ (r - k) over points and those of their k neighbours on the map whose rank r by
    distance in xs is above k (Venna & Kaski 2001). Range [0, 1], about 0.5 for a map of nothing. Ties share their
    places. The null permutes the points of the map. NaN where all points of either are equal.

    Args:
        k: below n / 2.
        permutations: of the null, drawn from seed.
        mask: bool `[n]`; points where it is False are left out.

    Raises:
        ValueError: not one map a layer, a row is not finite, permutations < 1, or k is not in 1 to below n / 2.
    """
    layers, drawn, keep = prepare({"xs": xs, "maps": maps}, mask)
    n = int(np.asarray(keep).sum())
    if len(layers) != len(drawn):
        raise ValueError(f"expected one map for each layer, got xs {layers.shape}, maps {drawn.shape}")
    if permutations < 1 or not 1 <= k < n / 2:
        raise ValueError(f"expected permutations >= 1 and 1 <= k < n / 2; got {permutations = }, {k = }, {n = }")
    from scipy.stats import rankdata

    rows, itself = np.tile(np.arange(n), (permutations, 1)), np.eye(n, dtype=bool)
    orders = [np.arange(n), *np.random.default_rng(seed).permuted(rows, axis=1)]
    values = []
    for x, y in zip(centred_layers("xs", layers, keep), centred_layers("maps", drawn, keep), strict=True):
        true, seen = _squared_distances(x), _squared_distances(y)
        excess = np.maximum(rankdata(np.where(itself, -1, true), axis=1) - 1 - k, 0)
        i, j = np.nonzero(weight := _neighbours(seen, k, itself))
        lost = np.array([weight[i, j] @ excess[order[i], order[j]] for order in orders])
        missing = 0.0 if true.any() and seen.any() else np.nan
        values.append(1 - 2 / (n * k * (2 * n - 3 * k - 1)) * lost + missing)
    return _score(np.stack(values), exact=False)


# --- one layer --------------------------------------------------------------------------------------------------------


def _squared_distances(x: np.ndarray) -> np.ndarray:
    """Centred x `[n, d]` -> float32 `[n, n]`, in a unit of about x. What may be nothing but rounding is 0."""
    x = x / (np.abs(x).max() or 1)
    size = (x * x).sum(1)
    size = size[:, None] + size
    square = size - 2 * (x @ x.T)
    return np.where(square > 1e-13 * size, square, 0).astype(np.float32)


def _silhouettes(near, member, ways, group, starts, own_sum, own_points) -> np.ndarray:
    """Sums of distances near `[i, g]`, and what a point leaves out of its cluster -> sums of silhouettes `[p, g]`."""
    points = np.bincount(group) @ member  # [p, c]
    sums = []
    for part in np.array_split(np.arange(len(ways)), 1 + points.size * len(near) // 2**23):  # a few 64 MB at a time
        own = ways[part][:, group].T[:, :, None]  # [i, p, 1]
        total = np.tensordot(near, member[part], (1, 1))  # [i, p, c]
        others = np.take_along_axis(points[part][None], own, 2)[:, :, 0] - own_points
        with np.errstate(invalid="ignore", divide="ignore"):  # `where` drops 0/0
            a = (np.take_along_axis(total, own, 2)[:, :, 0] - own_sum) / others
            mean = total / points[part]
            np.put_along_axis(mean, own, np.inf, 2)
            b = mean.min(2)
            value = np.where((others > 0) & (a != b), (b - a) / np.maximum(a, b), 0)
        sums.append(np.add.reduceat(value, starts, 0).T)
    return np.concatenate(sums)


def _neighbours(square: np.ndarray, k: int, left_out: np.ndarray) -> np.ndarray:
    """`[i, i]`: 1 where the second is one of the first's k nearest, a share where it ties for the last places."""
    square = np.where(left_out, np.inf, square)
    last = np.partition(square, k - 1, 1)[:, k - 1, None]
    nearer, tied = square < last, square == last
    return nearer + tied * ((k - nearer.sum(1)) / tied.sum(1))[:, None]


def _k_means(x: np.ndarray, square: np.ndarray, clusters: int, n_init: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    distinct = int((~np.tril(square == 0, -1).any(1)).sum())
    with threadpool_limits(1):  # a wait for other threads at each small step costs more than they save
        return KMeans(min(clusters, distinct), n_init=n_init, random_state=seed).fit(x).labels_


def _nmi(table: np.ndarray) -> np.ndarray:
    """Contingency tables `[p, c, k]` -> `[p]`."""

    def entropy(count):
        share = count / count.sum(1, keepdims=True)
        return -(share * np.log(np.where(share > 0, share, 1))).sum(1)

    both = entropy(table.sum(2)) + entropy(table.sum(1))
    return 2 * (both - entropy(table.reshape(len(table), -1))) / both


# --- the null and the arguments ---------------------------------------------------------------------------------------


def _score(values: np.ndarray, exact: bool) -> Score:
    """Values `[l, p, ...]` -> Score. What equals the value but for rounding reaches it."""
    value, null = values[:, 0], values if exact else values[:, 1:]
    reached = (values >= values[:, :1] - 1e-9).mean(1)
    return Score(value, null.mean(1), null.std(1), np.where(np.isnan(value), np.nan, reached))


def _arrangements(labels: np.ndarray, permutations: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """labels `[g]` -> themselves, then random permutations or all that differ `[p, g]`; whether these are all."""
    ways = math.factorial(len(labels)) // math.prod(math.factorial(int(count)) for count in np.bincount(labels))
    if ways - 1 > permutations:
        return np.stack([labels, *rng.permuted(np.tile(labels, (permutations, 1)), axis=1)]), False
    return np.stack([labels, *(way for way in _all_orders(labels) if (way != labels).any())]), True


def _all_orders(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Each distinct order of labels once, in lexicographic order."""
    way = np.sort(labels)
    while True:
        yield way.copy()
        rises = np.flatnonzero(way[:-1] < way[1:])
        if not len(rises):
            return
        i = rises[-1]
        j = np.flatnonzero(way > way[i])[-1]
        way[[i, j]] = way[[j, i]]
        way[i + 1 :] = way[: i - len(way) : -1].copy()


def _ids(what: str, names: ArrayLike, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One name a point -> the index of each point's among the distinct names, and these."""
    names = np.asarray(names)
    if names.shape != keep.shape:
        raise ValueError(f"{what} must name each of the {len(keep)} points, got shape {names.shape}")
    distinct, ids = np.unique(names[np.asarray(keep)], return_inverse=True)
    return ids, distinct
