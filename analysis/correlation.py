"""Correlations over tasks with a covariate: of a list of values, or of every layer at once; given controls.

Does CKA go with readability, given the size of the test set? Pearson's r of what least squares on (1, C) leaves of x
and of y, C the controls; for "spearman" of their ranks (ties have the average rank) given the ranks of C. k = the rank
of C:

    p-value     two-sided, Student's t = r √(df/(1-r²)), df = n - 2 - k
    interval    Fisher: tanh(arctanh r ± z·s), s² = 1/(n - 3 - k); for Spearman (1 + r²/2)/(n - 3 - k)
    bootstrap   of whole tasks, bias-corrected and accelerated (BCa)

Range [-1, 1]. r does not change under a positive linear map of x or y (Spearman: a monotone one of any of them), nor
under any invertible linear map of Pearson's controls. NaN where x or y is constant given the controls (0/0), or where
fewer than k + 4 tasks are left. Float64 NumPy on the host. NaN is a missing value: its task is left out.

Fisher, "The distribution of the partial correlation coefficient", Metron 3, 1924.
Bonett & Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations", Psychometrika
65, 2000.
Freedman & Lane, "A nonstochastic interpretation of reported significance levels", J. Bus. Econ. Stat. 1, 1983.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike
from scipy.special import ndtri, stdtr
from scipy.stats import rankdata

from analysis.arrays import check_choice
from analysis.inference import check_resampling, limits

__all__ = ["Correlation", "LayerCorrelation", "Method", "correlation_by_layer", "partial_correlation"]

Method = Literal["pearson", "spearman"]


class Correlation(NamedTuple):
    """r, its intervals by Fisher and by bootstrap (NaN if not asked for), two-sided p-value, tasks with all values."""

    r: float
    low: float
    high: float
    p_value: float
    n: int
    bootstrap_low: float
    bootstrap_high: float


class LayerCorrelation(NamedTuple):
    """Per layer `[L]`: as `Correlation`, and p-values by permutation, for this layer and for the largest of all."""

    r: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    n: np.ndarray
    p_permutation: np.ndarray
    p_familywise: np.ndarray


def partial_correlation(
    x: ArrayLike,
    y: ArrayLike,
    controls: ArrayLike | None = None,
    *,
    method: Method = "pearson",
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Correlation of x `[tasks]` and y `[tasks]` given controls `[tasks]` or `[tasks, k]` (None: plain correlation).

    Args:
        method: "pearson" or "spearman".
        level: coverage of the intervals.
        replicates: of the bootstrap interval, drawn from seed; at least 100, or 0: none.

    Raises:
        ValueError: lengths differ, no such method, or replicates or level as said.
    """
    check_resampling(replicates or 100, level)
    columns = _columns(x, y, controls)
    keep = ~np.isnan(np.column_stack(columns)).any(1)
    first, second, given = (column[keep] for column in columns)
    n = int(keep.sum())

    def of(rows):
        return _correlation(first[rows], second[rows], given[rows], method)[0]

    r, k = _correlation(first, second, given, method)
    ends = np.full(2, np.nan)
    if replicates and not np.isnan(r):
        drawn = np.array([of(rows) for rows in np.random.default_rng(seed).integers(n, size=(replicates, n))])
        left_out = np.array([of(np.delete(np.arange(n), i)) for i in range(n)])
        ends = limits(drawn, r, None if np.isnan(left_out).any() else left_out, level)
    low, high, p_value = _fisher(r, n, k, method, level)
    return Correlation(r, low, high, p_value, n, float(ends[0]), float(ends[1]))


def correlation_by_layer(
    values: ArrayLike,
    covariate: ArrayLike,
    controls: ArrayLike | None = None,
    *,
    method: Method = "pearson",
    level: float = 0.95,
    permutations: int = 10_000,
    seed: int = 0,
) -> LayerCorrelation:
    """Correlation over tasks of values `[tasks, L]` with a covariate `[tasks]`, given controls, in every layer.

    The permutations give the covariate (with controls: what they leave of it, Freedman & Lane) to the tasks in another
    order, the same in all layers. Two-sided; |t| is what is compared, as layers may have different numbers of tasks.
    Without controls the test is exact, with controls nearly.

    method, level and errors are those of `partial_correlation`. The permutations are drawn from seed.
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2:
        raise ValueError(f"values must be [tasks, layers], got shape {table.shape}")
    check_resampling(max(permutations, 100), level)
    found, scores = [], np.full((1 + permutations, table.shape[1]), np.nan)
    _, x, given = _columns(np.zeros(len(table)), covariate, controls)
    known = ~np.isnan(np.column_stack([x, given])).any(1)
    table, x, given = table[known], x[known], given[known]
    rng = np.random.default_rng(seed)
    orders = [np.arange(len(table)), *(rng.permutation(len(table)) for _ in range(permutations))]
    permuted = _permuted(x, given, np.array(orders).T, method)
    for layer, column in enumerate(table.T):
        keep = ~np.isnan(column)
        r, k = _correlation(column[keep], x[keep], given[keep], method)
        found.append((r, *_fisher(r, keep.sum(), k, method, level), keep.sum()))
        if not np.isnan(r):
            rs = _correlations(column[keep], permuted[keep], given[keep], method)
            scores[:, layer] = np.abs(rs) * np.sqrt((keep.sum() - 2 - k) / np.maximum(1 - rs**2, 1e-300))
    missing = np.isnan(scores[0])
    observed = scores[0] * (1 - 1e-9)  # the same order must count as at least as large in spite of rounding
    p_permutation, p_familywise = (np.full(len(missing), np.nan) for _ in range(2))
    if not missing.all():
        largest = np.nanmax(scores[:, ~missing], 1)
        p_permutation[~missing] = (scores[:, ~missing] >= observed[~missing]).mean(0)
        p_familywise[~missing] = (largest[:, None] >= observed[~missing]).mean(0)
    r, low, high, p_value, n = np.array(found).reshape(-1, 5).T
    return LayerCorrelation(r, low, high, p_value, n.astype(int), p_permutation, p_familywise)


def _permuted(covariate, controls, orders, method):
    """The covariate of each task under each order `[tasks, m]`: what controls fit, plus what they leave, permuted."""
    if controls.shape[1] == 0:
        return covariate[orders]
    if method == "spearman":
        covariate, controls = _ranks(covariate), _ranks(controls)
    rest = _residuals(covariate, controls)[0][:, 0]
    return (covariate - rest)[:, None] + rest[orders]


def _correlations(x, ys, controls, method):
    """x `[n]`, ys `[n, m]`, controls `[n, k]` -> `[m]`."""
    if method == "spearman":
        # With controls, permuted ranks are sums of fits and remainders, which are not ranked again.
        x, ys, controls = _ranks(x), ys if controls.shape[1] else _ranks(ys), _ranks(controls)
    x, _ = _residuals(x, controls)
    ys, _ = _residuals(ys, controls)
    length = np.linalg.norm(x) * np.linalg.norm(ys, axis=0)
    return np.divide(x[:, 0] @ ys, length, out=np.full(ys.shape[1], np.nan), where=length > 0)


def _correlation(x, y, controls, method):
    """-> r (NaN: too few tasks, or nothing left), k."""
    check_choice("method", method, get_args(Method))
    if len(x) < 4:
        return float("nan"), controls.shape[1]
    if method == "spearman":
        x, y, controls = _ranks(x), _ranks(y), _ranks(controls)
    x, k = _residuals(x, controls)
    y, _ = _residuals(y, controls)
    length = np.linalg.norm(x) * np.linalg.norm(y)
    return (float(np.clip((x * y).sum() / length, -1, 1)) if length > 0 and len(x) >= k + 4 else np.nan), k


def _residuals(y, controls):
    """y `[n]` or `[n, m]` -> what least squares on (1, controls) leaves of it `[n, m]`, rank of centred controls."""
    y = y.reshape(len(y), -1)
    centred = y - y.mean(0)
    basis, k = np.zeros((len(y), 0)), 0
    if controls.shape[1]:
        c = controls - controls.mean(0)
        scale = np.abs(c).max(0)
        u, s, _ = np.linalg.svd(c / np.where(scale > 0, scale, 1), full_matrices=False)
        k = int((s > len(y) * np.finfo(float).eps * s[0]).sum()) if s[0] > 0 else 0
        basis = u[:, :k]
    rest = centred - basis @ (basis.T @ centred)
    # Rounding is all that is left of what is constant, or a function of the controls.
    rounding = 64 * np.finfo(float).eps * np.sqrt(len(y)) * np.abs(y).max(0, initial=0)
    return np.where(np.linalg.norm(rest, axis=0) > rounding, rest, 0), k


def _fisher(r, n, k, method, level):
    """-> low, high, p-value."""
    if np.isnan(r):
        return np.nan, np.nan, np.nan
    if abs(r) == 1:
        return r, r, 0.0
    s = np.sqrt((1 + r**2 / 2 if method == "spearman" else 1) / (n - 3 - k))
    low, high = np.tanh(np.arctanh(r) + np.array([-1, 1]) * ndtri(0.5 + level / 2) * s)
    df = n - 2 - k
    return float(low), float(high), float(2 * stdtr(df, -abs(r) * np.sqrt(df / (1 - r**2))))


def _ranks(x):
    return rankdata(x, axis=0).astype(np.float64) if x.size else x


def _columns(x: Any, y: Any, controls: Any):
    """-> x `[n]`, y `[n]`, controls `[n, k]`, float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    controls = np.empty((len(x), 0)) if controls is None else np.asarray(controls, np.float64)
    controls = controls[:, None] if controls.ndim == 1 else controls
    if x.ndim != 1 or x.shape != y.shape or controls.ndim != 2 or len(controls) != len(x):
        raise ValueError(f"need one value per task; got shapes {x.shape}, {y.shape} and controls {controls.shape}")
    return x, y, controls
