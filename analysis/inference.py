"""Statistics over tasks: means with bootstrap intervals, and p-values corrected for their number.

The rows of everything here are tasks, of equal weight: a task is the unit that could have been another one, whatever
the number of examples behind its value. (Intervals over the examples of one task: `analysis.bootstrap`; correlations
over tasks: `analysis.correlation`.) Tasks that are variants of one data set are not independent; average them to one
row first. The sizes are small, so all of it is float64 NumPy on the host. NaN is a missing value, left out where it
stands, and the number of tasks left is returned.

Efron, "Better bootstrap confidence intervals", JASA 82, 1987.
Benjamini & Hochberg, "Controlling the false discovery rate", JRSS B 57, 1995.
Benjamini & Yekutieli, "The control of the false discovery rate in multiple testing under dependency", Annals of
Statistics 29, 2001 (positive dependence).
Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike
from scipy.special import ndtr, ndtri

from analysis.arrays import check_choice

__all__ = [
    "Interval",
    "Mean",
    "Statistic",
    "benjamini_hochberg",
    "bootstrap_mean",
    "check_resampling",
    "holm",
    "limits",
]

Statistic = Literal["mean", "median"]
Interval = Literal["bca", "percentile"]


# --- means over tasks -------------------------------------------------------------------------------------------------


class Mean(NamedTuple):
    """Mean or median over tasks, its interval, and the number of tasks with a value; all of the trailing shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    standard_error: np.ndarray
    n: np.ndarray


def bootstrap_mean(
    values: ArrayLike,
    *,
    statistic: Statistic = "mean",
    interval: Interval | None = None,
    replicates: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Mean:
    """Mean or median of values `[tasks, ...]` over tasks, with an interval for that of the tasks' population.

    Whole tasks are drawn with replacement, the same for all columns: a curve over layers stays one curve. Columns with
    fewer than two tasks have no interval. Drawing from few tasks makes intervals short: 95 % ones of the mean of a
    skewed population cover 87 % with 8 tasks, 92 % with 20, 95 % with 60.

    Args:
        statistic: "mean" or "median".
        interval: "bca" or "percentile"; None: BCa for the mean, percentile for the median, which is not smooth.
        replicates: at least 100, drawn from seed.
        level: coverage of the interval.

    Raises:
        ValueError: fewer than two tasks, infinite values, no such statistic or interval, replicates or level as said.
    """
    check_choice("statistic", statistic, get_args(Statistic))
    interval = interval or ("bca" if statistic == "mean" else "percentile")
    check_choice("interval", interval, get_args(Interval))
    table = np.asarray(values, np.float64)
    if table.ndim < 1 or len(table) < 2:
        raise ValueError(f"values must be [tasks, ...] with at least 2 tasks, got shape {table.shape}")
    if np.isinf(table).any():
        raise ValueError(
            f"values must be finite or NaN (missing), got infinity in task {np.argwhere(np.isinf(table))[0][0]}"
        )
    check_resampling(replicates, level)
    shape, table = table.shape[1:], table.reshape(len(table), -1)
    counts = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), size=replicates)
    present = ~np.isnan(table)
    of = _mean if statistic == "mean" else _median
    with np.errstate(invalid="ignore"):
        value = of(table, present, np.ones((1, len(table))))[0]
        drawn = of(table, present, counts)
    low, high = (np.full(table.shape[1], np.nan) for _ in range(2))
    for c in np.flatnonzero(present.sum(0) > 1):
        rest = table[present[:, c], c]
        left_out = (rest.sum() - rest) / (len(rest) - 1) if statistic == "mean" else _jackknife_median(rest)
        low[c], high[c] = limits(drawn[:, c], value[c], left_out if interval == "bca" else None, level)
    error = np.where(np.isnan(low), np.nan, np.nanstd(np.where(present.any(0), drawn, 0), 0))
    return Mean(*(part.reshape(shape) for part in (value, low, high, error, present.sum(0))))


def _mean(table, present, counts):
    return counts @ np.where(present, table, 0) / (counts @ present)


def _median(table, present, counts):
    """Medians `[B, columns]` of tasks that are drawn `counts [B, tasks]` times."""
    out = np.empty((len(counts), table.shape[1]))
    for c in range(table.shape[1]):
        column = np.sort(table[:, c])  # NaN last
        upto = np.cumsum(np.where(present[:, c], counts, 0)[:, np.argsort(table[:, c])], 1)
        total = upto[:, -1:]
        middle = [np.minimum((upto <= k).sum(1), len(column) - 1) for k in ((total - 1) // 2, total // 2)]
        out[:, c] = np.where(total[:, 0] > 0, column[middle].mean(0), np.nan)
    return out


def _jackknife_median(x):
    return np.array([np.median(np.delete(x, i)) for i in range(len(x))])


def limits(drawn: np.ndarray, value: float, left_out: np.ndarray | None, level: float) -> np.ndarray:
    """Percentile limits of replicates; BCa limits if `left_out` has the values without each task (Efron 1987)."""
    drawn = drawn[~np.isnan(drawn)]
    points = np.array([0.5 - level / 2, 0.5 + level / 2])
    if left_out is not None:
        away = left_out.mean() - left_out
        size = (away**2).sum() ** 1.5
        acceleration = (away**3).sum() / (6 * size) if size > 0 else 0
        # Ties, up to rounding, count half: replicates that are equal to the value are no bias.
        tie = 1e-9 * drawn.std()
        share = ((drawn < value - tie).mean() + (drawn <= value + tie).mean()) / 2
        bias = ndtri(np.clip(share, 1 / len(drawn), 1 - 1 / len(drawn)))
        z = bias + ndtri(points)
        points = ndtr(bias + z / (1 - acceleration * z))
    return np.quantile(drawn, points)


# --- many p-values ----------------------------------------------------------------------------------------------------


def benjamini_hochberg(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p_values, any shape, float64: of those up to q, an expected share of at most q are false finds.

    For independent tests, and for positively dependent ones, which layers usually are. NaN stays NaN and is no test.
    """
    return _adjusted(p_values, lambda p, m: np.minimum.accumulate((p * m / np.arange(1, m + 1))[::-1])[::-1])


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p_values, any shape, float64: the chance of any false find among those up to α is at most α.

    Under any dependence. NaN stays NaN and is no test.
    """
    return _adjusted(p_values, lambda p, m: np.maximum.accumulate(p * np.arange(m, 0, -1)))


def _adjusted(p_values, rule):
    p = np.array(p_values, np.float64)
    tests = ~np.isnan(p)
    found = p[tests]
    if ((found < 0) | (found > 1)).any():
        raise ValueError(f"p-values must be between 0 and 1, got {found.min()} to {found.max()}")
    order = np.argsort(found)
    out = np.empty_like(found)
    out[order] = np.minimum(rule(found[order], len(found)), 1)
    p[tests] = out
    return p


# --- the arguments ---------------------------------------------------------------------------------------------------


def check_resampling(replicates: int, level: float) -> None:
    """Raises ValueError if there are fewer than 100 replicates, or level is no share."""
    if replicates < 100:
        raise ValueError(f"replicates must be at least 100, got {replicates}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
