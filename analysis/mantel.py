"""The Mantel test: do two matrices of distances between the same tasks go together?

r is the correlation over pairs of tasks of x_ij with y_ij (Mantel 1967), Pearson's or Spearman's. Pairs that share a
task are not independent, so r has no t-test. The null gives the tasks of y, rows and columns together, to those of x
in another order: the hypothesis is that which task is which in y has nothing to do with x. Tasks must be exchangeable
under it: variants of one task, which are near to each other in any space, are not, and make p too small; average them
first.

p = (b + 1) / (m + 1), b of m permutations reach r (Phipson & Smyth 2010); one-sided ("greater") unless asked
otherwise. If tasks have no more than m other orders (6 tasks with m = 1000), each is taken once and p is exact: at
least 1 / n!, so that three tasks never reach 5 %.

Range of r [-1, 1], but not every value can be had: two matrices of distances between the same points may be far from
1. Invariant to the order of tasks, and to a shift (off the diagonal) and a positive scale of either; Spearman's to
any increasing map. A pair that is missing in either is left out, under each order those that are missing then; tasks
without any pair in one of them are left out from the start. NaN, with a reason, for fewer than three tasks, and where
all distances of one are equal. float64 on the host; ranks of distances rounded to 24 bits, so that those equal but
for rounding tie. Time: permutations · n² / 2.

Mantel, "The detection of disease clustering and a generalized regression approach", Cancer Research 27, 1967.
Legendre & Fortin, "Comparison of the Mantel test and alternative approaches", Mol. Ecol. Resour. 10, 2010.
Phipson & Smyth, "Permutation p-values should never be zero", SAGMB 9, 2010.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike
from scipy.stats import rankdata

from analysis.arrays import check_choice
from analysis.clusters import _arrangements
from analysis.task_map import as_distances

__all__ = ["Alternative", "MantelTest", "TaskScore", "mantel", "task_score"]

Alternative = Literal["greater", "two-sided"]

#: Orders of tasks whose correlations are computed at a time.
CHUNK = 128


class TaskScore(NamedTuple):
    """A number that says something of tasks, beside what it is when tasks are permuted."""

    value: float
    null_mean: float
    null_sd: float
    p_value: float
    reason: str | None = None
    """Why all is NaN."""


class MantelTest(NamedTuple):
    """`TaskScore` of r, and what it is made of."""

    r: float
    null_mean: float
    null_sd: float
    p_value: float
    tasks: int
    """That have distances in both."""
    permutations: int
    """Besides the order as it is."""
    exact: bool
    """These are all there are. The null's mean and sd then include the order as it is."""
    reason: str | None = None


def mantel(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    alternative: Alternative = "greater",
    permutations: int = 1000,
    seed: int = 0,
) -> MantelTest:
    """Mantel test of distances x and y, both `[n, n]` with the same tasks in the same order.

    Args:
        method: "pearson" or "spearman".
        alternative: "greater" or "two-sided".
        permutations: of the tasks of y, drawn from seed; at least 1.

    Raises:
        ValueError: one is no matrix of distances, their shapes differ, or another argument is wrong.
    """
    check_choice("method", method, ("pearson", "spearman"))
    check_choice("alternative", alternative, get_args(Alternative))
    a, b = as_distances("x", x), as_distances("y", y)
    if a.ndim != 2 or a.shape != b.shape or permutations < 1:
        raise ValueError(f"expected x and y [n, n] and permutations >= 1, got {a.shape}, {b.shape}, {permutations}")
    off = ~np.eye(len(a), dtype=bool)
    kept = np.flatnonzero(((~np.isnan(a)) & off).any(1) & ((~np.isnan(b)) & off).any(1))
    a, b = a[np.ix_(kept, kept)], b[np.ix_(kept, kept)]
    i, j = np.triu_indices(len(kept), 1)
    first, second = a[i, j], b[i, j]
    reason = None
    if len(kept) < 3:
        reason = f"{len(kept)} tasks have distances in both; three are needed"
    for name, values in (("x", first), ("y", second)):
        if reason is None and all_equal(values):
            reason = f"all distances of {name} are equal"
    if reason is not None:
        return MantelTest(*(float("nan"),) * 4, len(kept), 0, False, reason)
    if method == "spearman":
        first, second = (rankdata(v.astype(np.float32), nan_policy="omit") for v in (first, second))
    # Centred, so that sums over the pairs both have keep their digits.
    first, second = first - np.nanmean(first), second - np.nanmean(second)
    b[i, j] = b[j, i] = second
    orders, exact = _arrangements(np.arange(len(kept)), permutations, np.random.default_rng(seed))
    r = np.concatenate(
        [_correlations(first, b, i, j, part) for part in np.array_split(orders, 1 + len(orders) // CHUNK)]
    )
    if np.isnan(r[0]):
        return MantelTest(
            *(float("nan"),) * 4, len(kept), 0, False, "the pairs that both have are fewer than three, or equal"
        )
    score = task_score(r, exact, alternative)
    return MantelTest(*score[:4], len(kept), len(orders) - 1, exact)


def _correlations(x, b, i, j, orders):
    """Of x `[p]` with b `[n, n]` under each order `[m, n]` -> `[m]`, over the pairs that both have."""
    y = b[orders[:, i], orders[:, j]]
    there = ~np.isnan(x) & ~np.isnan(y)
    x, y = np.where(np.isnan(x), 0, x), np.where(there, y, 0)
    count, sx, sy = there.sum(1), there @ x, y.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = y @ x - sx * sy / count
        vx, vy = there @ x**2 - sx**2 / count, (y**2).sum(1) - sy**2 / count
        ok = (count > 2) & (vx > 1e-12 * (x**2).sum()) & (vy > 1e-12 * (y**2).sum(1))
        return np.where(ok, covariance / np.sqrt(vx * vy), np.nan)


def task_score(values: np.ndarray, exact: bool, alternative: Alternative = "greater") -> TaskScore:
    """Values `[m]`, the first of the tasks as they are, the others of permutations, all there are if `exact`.

    What equals the value but for rounding reaches it, and so does what is NaN.
    """
    null = values if exact else values[1:]
    size = np.abs(values) if alternative == "two-sided" else values
    reached = ~(size < size[0] - 1e-9)
    return TaskScore(float(values[0]), float(np.nanmean(null)), float(np.nanstd(null)), float(reached.mean()))


def all_equal(values: np.ndarray) -> bool:
    """Up to rounding."""
    return bool(np.nanmax(values) - np.nanmin(values) <= 1e-12 * np.nanmax(np.abs(values)))
