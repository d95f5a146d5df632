"""Where do a model's bands lie? Curves over layers cut into k contiguous bands; how sure the cuts are; against what.

"Layer by Layer" (EMNLP 2024) reads three bands off its curves: layers that are shared, a transition, and refinement.
Here the cuts are found: those with the smallest sum of squared distances of all curves `[curves, L]` from

    "constant"  their mean in each band, one per curve and band
    "linear"    a straight line in each band, not joined at the cuts

over all ways to cut L layers into k bands of at least `min_width` layers. Dynamic programming over exact costs of all
L(L+1)/2 possible bands gives the optimum (Bellman 1961; Bai & Perron 2003), no search. Every curve keeps its own
levels; what the curves share are the cuts. So scales matter: a curve of ten times the range has a hundred times the
weight. Adding a constant to a curve changes nothing, nor does one factor for all curves.

**How much do bands explain?** explained = 1 - cost/(squared distances from each curve's mean over all layers), 0 to 1.
It is large for curves without any bands: k equal bands explain 1 - 1/k² of a straight line (89 % for three). So the
value alone says little, and shuffled layers are no honest chance level either: any smooth curve beats them. Shifting
curves around the circle moves cuts and keeps them. `band_test` compares with gradual curves that are as smooth as
these: straight lines plus noise, random walks and arcs pass as gradual; steps, and S-curves with flat ends, as bands.

**How sure are the cuts?** `bootstrap_bands` draws tasks with replacement and cuts anew.

**How many bands?** `choose_bands` takes Schwarz's criterion, N log(cost/N) + p log N, N the number of values and p
that of levels and cuts. It takes residuals for independent. They seldom are from layer to layer, and then it finds too
many: an upper bound.

Cuts are named by the layer that begins the next band. NaN is a missing value: layers without any value are left out
(they do not count for `min_width`), and cuts refer to layers as given. Float64 NumPy on the host: curves are small.

Bellman, "On the approximation of curves by line segments using dynamic programming", CACM 4, 1961.
Bai & Perron, "Computation and analysis of multiple structural change models", J. Appl. Econometrics 18, 2003.
Yao, "Estimating the number of change-points via Schwarz' criterion", Statistics & Probability Letters 6, 1988.
Theiler et al., "Testing for nonlinearity in time series: the method of surrogate data", Physica D 58, 1992.
Prichard & Theiler, "Generating surrogate data for time series with several simultaneously measured variables",
Physical Review Letters 73, 1994 (the same phases for all curves).
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike

from analysis.arrays import check_choice
from analysis.inference import check_resampling

__all__ = ["BandBootstrap", "BandChoice", "BandTest", "Bands", "Shape", "band_test", "bootstrap_bands", "choose_bands"]
__all__ += ["find_bands"]

Shape = Literal["constant", "linear"]


class Bands(NamedTuple):
    """The best cut of curves into k bands."""

    cuts: np.ndarray
    """int `[k-1]`: the layer that begins the second, third, ... band."""
    cost: float
    """Sum of squares that is left."""
    explained: float
    """1 - cost / sum of squares about each curve's mean; NaN if all curves are constant."""


class BandChoice(NamedTuple):
    """Schwarz's criterion for 1, 2, ... bands `[most]`, and the number with the smallest."""

    k: int
    criterion: np.ndarray
    bands: list[Bands]


class BandBootstrap(NamedTuple):
    """The cuts of all tasks, and how they vary if tasks are drawn anew."""

    bands: Bands
    low: np.ndarray
    """int `[k-1]`; likewise high: percentile interval of each cut, both ends included."""
    high: np.ndarray
    frequency: np.ndarray
    """`[k-1, L]`: share of replicates in which cut j lies at a layer; each row sums to one."""
    cuts: np.ndarray
    """int `[B, k-1]`: of each replicate."""


class BandTest(NamedTuple):
    """Do bands explain more of the curves than of gradual ones?"""

    explained: float
    p_value: float
    null: np.ndarray
    """`[replicates]`: what k bands explain of each set of surrogates."""


def find_bands(curves: ArrayLike, k: int = 3, *, shape: Shape = "constant", min_width: int | None = None) -> Bands:
    """The best cut of curves `[curves, L]`, or `[tasks, ..., L]`, into k bands.

    Args:
        shape: of a curve in a band: "constant" or "linear".
        min_width: layers of a band at least; None: 2 for "constant", 3 for "linear".

    Raises:
        ValueError: no such shape; curves have no layers, infinite values, or too few layers for k bands.
    """
    tables = _Tables.of(curves, shape, min_width, k)
    return tables.bands(tables.costs.sum(0), k)


def choose_bands(
    curves: ArrayLike, most: int = 6, *, shape: Shape = "constant", min_width: int | None = None
) -> BandChoice:
    """1 to `most` bands of curves `[curves, L]`, or `[tasks, ..., L]`, compared by Schwarz's criterion.

    Other arguments and errors are those of `find_bands`.
    """
    tables = _Tables.of(curves, shape, min_width, most)
    found = [tables.bands(tables.costs.sum(0), k) for k in range(1, most + 1)]
    # A rest of rounding is no rest: one ulp of the whole keeps the logarithm finite.
    least = np.finfo(float).eps * max(found[0].cost, np.finfo(float).tiny)
    n, levels = tables.values, tables.curves * {"constant": 1, "linear": 2}[shape]
    criterion = [
        n * np.log(max(b.cost, least) / n) + (k * levels + k - 1) * np.log(n) for k, b in enumerate(found, start=1)
    ]
    return BandChoice(int(np.argmin(criterion)) + 1, np.array(criterion), found)


def bootstrap_bands(
    curves: ArrayLike,
    k: int = 3,
    *,
    shape: Shape = "constant",
    min_width: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> BandBootstrap:
    """The cuts of curves `[tasks, L]`, or `[tasks, ..., L]`, and of tasks drawn with replacement, each whole.

    k, shape and min_width are those of `find_bands`.

    Args:
        replicates: draws of all tasks, from seed; at least 100.
        level: share of the replicates' cuts between low and high.

    Raises:
        ValueError: as `find_bands`; fewer replicates; level is not in (0, 1).
    """
    check_resampling(replicates, level)
    tables = _Tables.of(curves, shape, min_width, k)
    tasks = len(tables.costs)
    counts = np.random.default_rng(seed).multinomial(tasks, np.full(tasks, 1 / tasks), size=replicates)
    reachable = np.isfinite(tables.costs[0])
    drawn = np.where(reachable, np.tensordot(counts, np.where(reachable, tables.costs, 0), 1), np.inf)
    cuts = tables.layers[_cut(drawn, k)[0]]
    low, high = np.quantile(cuts, [0.5 - level / 2, 0.5 + level / 2], axis=0, method="inverted_cdf")
    frequency = (cuts[:, :, None] == np.arange(np.shape(curves)[-1])).mean(0)
    return BandBootstrap(tables.bands(tables.costs.sum(0), k), low, high, frequency, cuts)


def band_test(
    curves: ArrayLike,
    k: int = 3,
    *,
    shape: Shape = "constant",
    min_width: int | None = None,
    replicates: int = 999,
    seed: int = 0,
) -> BandTest:
    """Whether k bands explain more of curves `[curves, L]`, or `[tasks, ..., L]`, than of gradual curves like them.

    A surrogate of a curve is its straight line plus the curve's distances from it with their Fourier phases drawn
    anew, the same phases for all curves. So it has the curve's trend, the size and the smoothness of its wiggles, and
    what curves have in common stays in common; but no place where all of it happens. p is the share of surrogates that
    k bands explain as well, the curves themselves counted in. Layers that any curve misses are left out here.

    k, shape, min_width and errors are those of `find_bands`; surrogates are `replicates`, drawn from seed.
    """
    check_resampling(max(replicates, 100), 0.5)
    table = _curves(curves)
    table = table.reshape(-1, table.shape[-1])
    table = table[:, ~np.isnan(table).any(0)]
    found = find_bands(table, k, shape=shape, min_width=min_width)
    layer = np.arange(table.shape[1]) - (table.shape[1] - 1) / 2
    line = table.mean(1, keepdims=True) + (table @ layer / (layer @ layer))[:, None] * layer
    spectrum = np.fft.rfft(table - line)
    rng = np.random.default_rng(seed)
    null = np.empty(replicates)
    for b in range(replicates):
        turn = np.exp(2j * np.pi * rng.random(spectrum.shape[1]))
        if table.shape[1] % 2 == 0:
            turn[-1] = np.sign(turn[-1].real)  # the highest frequency of an even number is real
        surrogate = line + np.fft.irfft(spectrum * turn, table.shape[1])
        null[b] = find_bands(surrogate, k, shape=shape, min_width=min_width).explained
    p_value = (1 + (null >= found.explained - 1e-12).sum()) / (1 + replicates)
    return BandTest(found.explained, float(p_value) if found.explained == found.explained else np.nan, null)


# --- costs and cuts ---------------------------------------------------------------------------------------------------


class _Tables(NamedTuple):
    costs: np.ndarray
    """`[tasks, l+1, l+1]`: of a band from layer a up to before b of the layers that have values; inf if too narrow."""
    totals: float
    layers: np.ndarray
    """int `[l]`: which layers have values."""
    values: int
    curves: int

    @classmethod
    def of(cls, curves, shape, min_width, k):
        check_choice("shape", shape, get_args(Shape))
        table = _curves(curves)
        width = {"constant": 2, "linear": 3}[shape] if min_width is None else min_width
        if k < 1 or width < 1:
            raise ValueError(f"k and min_width must be at least 1, got {k} and {width}")
        layers = np.flatnonzero(~np.isnan(table).all((0, 1)))
        if len(layers) < max(k * width, 1):
            raise ValueError(
                f"{k} bands of at least {width} layers need {k * width} layers with values, got {len(layers)}"
            )
        table = table[..., layers]
        costs = _costs(table, shape)
        totals = _costs(table, "constant")[:, 0, -1].sum()
        a, b = np.indices(costs.shape[1:])
        return cls(
            np.where(b - a >= width, costs, np.inf), totals, layers, int((~np.isnan(table)).sum()), table[..., 0].size
        )

    def bands(self, cost, k):
        (cuts,), (left,) = _cut(cost[None], k)
        explained = 1 - left / self.totals if self.totals > 0 else np.nan
        return Bands(self.layers[cuts], float(left), float(explained))


def _curves(curves):
    """-> float64 `[tasks, curves of each, L]`."""
    table = np.asarray(curves, np.float64)
    if table.ndim < 2 or table.size == 0:
        raise ValueError(f"curves must be [curves, layers] or [tasks, ..., layers], got shape {table.shape}")
    if np.isinf(table).any():
        raise ValueError(f"curves must be finite or NaN (missing), got infinity at {np.argwhere(np.isinf(table))[0]}")
    return table.reshape(len(table), -1, table.shape[-1])


def _costs(table, shape):
    """`[tasks, c, l]` -> sums of squares that a band from a to before b leaves, over c `[tasks, l+1, l+1]`."""
    has = ~np.isnan(table)
    y = np.where(has, table, 0)
    # About the middle of each curve: sums of squares keep their digits.
    y = np.where(has, y - y.sum(-1, keepdims=True) / np.maximum(has.sum(-1, keepdims=True), 1), 0)
    x = np.where(has, np.arange(table.shape[-1]) - table.shape[-1] / 2, 0)

    def between(v):
        upto = np.concatenate([np.zeros((*v.shape[:-1], 1)), np.cumsum(v, -1)], -1)
        return upto[..., None, :] - upto[..., :, None]

    n = np.maximum(between(has.astype(float)), 1)
    left = between(y * y) - between(y) ** 2 / n
    if shape == "linear":
        xx, xy = between(x * x) - between(x) ** 2 / n, between(x * y) - between(x) * between(y) / n
        left = left - np.divide(xy**2, xx, out=np.zeros_like(xx), where=xx > 1e-9)
    return np.maximum(left, 0).sum(1)


def _cut(costs, k):
    """Costs of bands `[B, l+1, l+1]` -> the best cuts, as positions of layers `[B, k-1]`, and their costs `[B]`."""
    best = costs[:, 0]
    came = []
    for _ in range(k - 1):
        through = best[:, :, None] + costs
        came.append(through.argmin(1))
        best = through.min(1)
    end = np.full(len(costs), costs.shape[-1] - 1)
    left = best[np.arange(len(costs)), end]
    cuts = []
    for step in reversed(came):
        end = step[np.arange(len(costs)), end]
        cuts.append(end)
    return np.stack(cuts[::-1], 1) if cuts else np.empty((len(costs), 0), int), left
