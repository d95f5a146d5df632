"""Maps of tasks: T̄, the mean of their distances over layers and modules, and coordinates made of it.

Distances T come as `[K, N, N]`, N tasks in K places (the layers of one module), or as `[M, L, N, N]` by module and
layer: symmetric, 0 on the diagonal, NaN where a pair is missing (`analysis.grassmann.grassmann_all_pairs` and its
like).

**T̄** is the mean over layers, for each module. What it is made of has a level of its own: random 8-dimensional
subspaces of 4096 dimensions are farther apart than those of 1024, so that distances of two modules can be averaged
only as shares:

``none``      T as it is. Then there is no mean over several modules.
``expected``  each place's distances over what chance gives there (`analysis.grassmann.expected_distance`): 1 is chance.
``own``       each module's T̄ over its mean over pairs: what sets modules apart as wholes is gone.

Missing: a pair is the mean of the places it has (`places` counts them: where layers differ in level, pairs with other
places are not alike), and modules likewise. A task without any distance, in all places, is dropped and named. What is
made of T̄ leaves out tasks that have none in it, and is NaN, with a reason, where one pair more is missing.

**Coordinates.** ``pca``: principal components of the rows of T̄, each row being the features of a task, centred. A
task is then near to those that have the same profile of distances. ``mds``: classical scaling (Torgerson 1952),
points whose Euclidean distances are T̄, if there are such: axes are eigenvectors of -½ J (T̄ᵢⱼ²) J, J = I - 11ᵀ/n,
and its eigenvalues their sums of squares. Distances that no points can have (T̄ need not be Euclidean) make negative
ones, which no axis shows. Their share of Σ|λ| is what the map cannot hold. Both have a floor: n tasks that are all
equally far apart, as unrelated ones nearly are, give n - 1 equal axes, so a share is to be compared with 1/(n - 1);
the axes of equal eigenvalues can be turned at will. An axis points to where its largest coordinate is, of equal ones
the first.

Unit of T̄: that of T, or a share. Coordinates scale with T̄, shares do not. float64 on the host. The tree of T̄ is
made by `analysis.task_tree`; how it goes with what is known of the tasks, and with other distances:
`analysis.task_clusters`, `analysis.mantel`, `analysis.pair_auc`; how much of it hangs on single layers:
`analysis.task_stability`.

Torgerson, "Multidimensional scaling: I. Theory and method", Psychometrika 17, 1952.
Mardia, "Some properties of classical multi-dimensional scaling", Comm. Stat. A 7, 1978 (shares of |λ|).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike

from analysis.arrays import check_choice
from analysis.embedding import _principal_components

__all__ = ["MeanDistances", "Normalise", "TaskMap", "as_distances", "complete", "map_tasks", "mean_distances"]

Normalise = Literal["none", "expected", "own"]

# Letters of shapes: m modules, l layers, n tasks, p pairs i < j, b resamples.


class MeanDistances(NamedTuple):
    """T̄ of the tasks that have distances."""

    overall: np.ndarray | None
    """`[n, n]`, the mean over modules; None if they are several and not normalised."""
    by_module: np.ndarray
    """`[M, n, n]`; NaN where a pair has no layer in that module."""
    places: np.ndarray
    """int `[M, n, n]`: of how many layers each is the mean; 0 on the diagonal."""
    tasks: list
    """Names, as given, of the n tasks kept."""
    kept: np.ndarray
    """int `[n]`: which of the N they are."""
    dropped: list
    """Names of those missing everywhere."""


def mean_distances(
    distances: ArrayLike,
    expected: ArrayLike | None = None,
    *,
    normalise: Normalise = "none",
    tasks: Sequence | None = None,
) -> MeanDistances:
    """T̄ from distances `[K, N, N]` (one module) or `[M, L, N, N]`; definitions in the module docstring.

    Args:
        expected: what chance gives, for "expected": one number a place, `[K]` or `[M, L]` (or `[M, 1]`), or one a
            pair, of the shape of distances, where ranks differ among tasks.
        normalise: "none", "expected" or "own".
        tasks: their N names; 0 to N - 1 if not given.

    Raises:
        ValueError: these are no distances (says where), or the arguments do not go together.
    """
    values, absent = places_of(distances, expected, normalise)
    names = list(range(absent.shape[-1])) if tasks is None else list(tasks)
    if len(names) != absent.shape[-1]:
        raise ValueError(f"tasks must name each of the {absent.shape[-1]} tasks, got {len(names)} names")
    i, j = np.triu_indices(len(names), 1)
    # First those that the places themselves call missing: they must not take the only other task with them.
    keep = np.array(~absent.all((0, 1)))
    paired = np.zeros(len(names), bool)
    there = (~np.isnan(values)).any((0, 1))
    paired[i[there]] = paired[j[there]] = True
    keep = keep & paired if keep.sum() > 1 else keep
    among = keep[i] & keep[j]
    values = values[:, :, among]
    by_module, overall = means(values, np.ones((1, values.shape[1])), normalise)
    single = len(values) == 1 or normalise != "none"
    return MeanDistances(
        _square(overall[0], keep.sum()) if single else None,
        _square(by_module[:, 0], keep.sum()),
        _square((~np.isnan(values)).sum(1), keep.sum()),
        [name for name, k in zip(names, keep, strict=True) if k],
        np.flatnonzero(keep),
        [name for name, k in zip(names, keep, strict=True) if not k],
    )


def means(values: np.ndarray, weights: np.ndarray, normalise: Normalise) -> tuple[np.ndarray, np.ndarray]:
    """Distances `[m, l, p]`, weights of layers `[b, l]` -> means by module `[m, b, p]`, and over modules `[b, p]`."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        by_module = (weights @ np.where(there, values, 0)) / (weights @ there)
    if normalise == "own":
        with np.errstate(invalid="ignore"):  # all tasks equal: 0/0
            by_module = by_module / _mean(by_module, -1)[..., None]
    return by_module, _mean(by_module, 0)


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """Of what is there; NaN where nothing is."""
    there = ~np.isnan(x)
    with np.errstate(invalid="ignore"):
        return np.where(there, x, 0).sum(axis) / there.sum(axis)


# --- coordinates ------------------------------------------------------------------------------------------------------


class TaskMap(NamedTuple):
    """Tasks as points."""

    points: np.ndarray
    """`[n, dims]`; 0 on axes beyond the last, NaN for a task without distances."""
    eigenvalues: np.ndarray
    """`[n']`, descending, one for each task with distances. pca: sum of squares along the axis; mds: of -½ J T̄² J."""
    share: np.ndarray
    """Eigenvalues over Σ|λ|: the share of variance of an axis; below 0 what an mds map cannot hold."""
    reason: str | None = None
    """Why all is NaN."""


def map_tasks(matrix: ArrayLike, method: Literal["pca", "mds"] = "pca", *, dims: int = 2) -> TaskMap:
    """Coordinates of tasks from T̄ `[n, n]`. See the module docstring for the methods and their floor.

    Raises:
        ValueError: the matrix is no matrix of distances, no such method, or dims < 1.
    """
    check_choice("method", method, ("pca", "mds"))
    if dims < 1:
        raise ValueError(f"dims must be at least 1, got {dims}")
    D, kept, reason = complete(matrix)
    points = np.full((len(np.asarray(matrix)), dims), np.nan)
    if reason is None and not D.any():
        reason = "all tasks are at distance 0"
    if reason is not None:
        nothing = np.full(len(kept), np.nan)
        return TaskMap(points, nothing, nothing, reason)
    size = D.max()
    if method == "pca":
        axes = _principal_components(D / size - (D / size).mean(0), len(D))[0][:, : len(D)]
        eigenvalues = (axes**2).sum(0)
    else:
        square = (D / size) ** 2
        eigenvalues, vectors = np.linalg.eigh(
            -0.5 * (square - square.mean(0) - square.mean(1)[:, None] + square.mean())
        )
        eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
        # One is 0 by construction, and must not count as negative.
        rounding = 10 * len(D) * np.finfo(float).eps * np.abs(eigenvalues).max()
        eigenvalues = np.where(np.abs(eigenvalues) > rounding, eigenvalues, 0)
        axes = vectors * np.sqrt(eigenvalues.clip(0))
    axes = _pointed(axes[:, :dims]) * size
    points[kept] = np.pad(axes, ((0, 0), (0, dims - axes.shape[1])))
    return TaskMap(points, eigenvalues * size**2, eigenvalues / np.abs(eigenvalues).sum())


def _pointed(axes: np.ndarray) -> np.ndarray:
    """Axes with the sign that makes the largest coordinate positive; of those equal up to rounding, the first."""
    largest = np.abs(axes) >= (1 - 1e-6) * np.abs(axes).max(0)
    return axes * np.where(axes[largest.argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)


# --- the arguments ----------------------------------------------------------------------------------------------------


def as_distances(name: str, x: ArrayLike) -> np.ndarray:
    """x `[..., n, n]` as float64, exactly symmetric; NaN is a missing pair, and on the diagonal a missing task.

    Raises:
        ValueError: not square, infinite, negative, not symmetric, or the diagonal is not 0, by more than 1e-5 of the
            largest. Names the entry.
    """
    values = np.asarray(x, np.float64)
    if values.ndim < 2 or values.shape[-1] != values.shape[-2]:
        raise ValueError(f"{name} must be square, [..., n, n], got shape {values.shape}")
    turned = np.swapaxes(values, -1, -2)
    with np.errstate(invalid="ignore"):
        off = 1e-5 * np.nanmax(np.abs(values), initial=0)
        own = np.eye(values.shape[-1], dtype=bool) & (np.abs(values) > off)
        one_sided = (np.abs(values - turned) > off) | (np.isnan(values) != np.isnan(turned))
    for wrong, what in (
        (np.isinf(values), "must be finite or NaN (missing)"),
        (own, "must be 0 on the diagonal (distances, not similarities)"),
        (values < -off, "must not be negative"),
        (one_sided, "must be symmetric"),
    ):
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0].tolist())
            there = f"{values[at]:g} at {list(at)}" + (f" and {turned[at]:g} mirrored" if wrong is one_sided else "")
            raise ValueError(f"{name} {what}, got {there}")
    return (values + turned) / 2


def complete(matrix: ArrayLike, name: str = "matrix") -> tuple[np.ndarray, np.ndarray, str | None]:
    """T̄ `[n, n]` -> that of the tasks with distances, their rows `[n']`, and why there is no map (None: there is)."""
    D = as_distances(name, matrix)
    if D.ndim != 2:
        raise ValueError(f"{name} must be [tasks, tasks], got shape {D.shape}")
    D = np.where(np.eye(len(D), dtype=bool), 0, D)
    kept = np.flatnonzero((~np.isnan(D)).sum(1) > 1)
    D = D[np.ix_(kept, kept)]
    if len(kept) < 2:
        return D, kept, "fewer than two tasks have distances"
    gaps = np.argwhere(np.isnan(D))
    if len(gaps):
        i, j = kept[gaps[0]]
        return D, kept, f"the distance of tasks {i} and {j} is missing ({len(gaps) // 2} such pairs)"
    return D, kept, None


def places_of(distances: ArrayLike, expected: ArrayLike | None, normalise: Normalise) -> tuple[np.ndarray, np.ndarray]:
    """-> distances of pairs over expectation `[m, l, p]`, and which tasks the diagonal calls missing `[m, l, n]`."""
    check_choice("normalise", normalise, get_args(Normalise))
    T = as_distances("distances", distances)
    if T.ndim not in (3, 4) or not T.size:
        raise ValueError(f"distances must be [K, N, N] or [modules, layers, N, N], got shape {T.shape}")
    if (expected is None) == (normalise == "expected"):
        raise ValueError(f"expected goes with normalise='expected', and only with it; got {normalise=}, {expected=}")
    absent = np.isnan(np.diagonal(T, axis1=-2, axis2=-1))
    i, j = np.triu_indices(T.shape[-1], 1)
    values = T[..., i, j]
    if expected is not None:
        chance = np.asarray(expected, np.float64)
        if chance.shape not in (T.shape, T.shape[:-2], (*T.shape[:-3], 1)):
            raise ValueError(
                f"expected must be {T.shape[:-2]} or {T.shape} for distances {T.shape}, got {chance.shape}"
            )
        chance = chance[..., i, j] if chance.shape == T.shape else chance[..., None]
        if not (np.isnan(values) | (chance > 0)).all():
            raise ValueError(
                f"expected must be positive wherever there are distances, got {np.nanmin(chance):g} or NaN"
            )
        values = values / chance
    return (values, absent) if T.ndim == 4 else (values[None], absent[None])


def _square(pairs: np.ndarray, n: int) -> np.ndarray:
    """`[..., p]` -> `[..., n, n]`, 0 on the diagonal."""
    i, j = np.triu_indices(n, 1)
    whole = np.zeros((*pairs.shape[:-1], n, n), pairs.dtype)
    whole[..., i, j] = whole[..., j, i] = pairs
    return whole
