"""How sure is a CKA value? Intervals over examples, by re-weighting Gram matrices that are computed once.

What the intervals are for: the examples are taken as a random sample of a population of them (all prompts that the
task could have held), the models as fixed. The true value is the CKA of that whole population; for the linear kernel

    |Σ_xy|²_F / (|Σ_xx|_F |Σ_yy|_F),  Σ the covariances of the features over the population,

which debiased CKA estimates and biased CKA does not: it estimates a number that depends on n. So there are intervals
for the debiased value alone. A 95 % interval covers the true value in 95 of 100 samples of n examples. It says nothing
about other tasks (`analysis.inference.bootstrap_mean`), other training seeds, or examples that depend on each other:
repeated prompts, or several rows of one text, make it too narrow.

**Why not the plain bootstrap.** Drawn with replacement, an example meets its own copies, and K_ii appears off the
diagonal: the replicates of a true 0 lie far above 0. Leaving out pairs of copies (a weight w_i w_j for pairs of
different examples, and so for triples and quadruples) cures that bias, but not the spread. Near independence HSIC is a
degenerate U-statistic, for which the bootstrap has three times the variance of the value, and the jackknife twice.
Percentile and BCa intervals of it cover a true 0 in 99 to 100 % of samples, which hides differences that are there.

**What is done.** The value is split like a variance component model (Hoeffding; Efron & Stein 1981): v₁ is the part of
its variance that single examples bring, v₂ what pairs bring. Let A, B be the centred Grams of length one, c = ⟨A, B⟩
and D_ij = A_ij B_ij - c (A_ij² + B_ij²)/2, what the pair i, j adds to c. Then v₂ = 2 Σ D_ij², and the jackknife, which
here costs three row sums, estimates v₁ + 2 v₂; so v₁ = max(jackknife - 2 v₂, 0), and the standard error is √(v₁ + v₂).
On the scale u = arctanh c, where limits stay inside (-1, 1), the interval is that of scores (Wilson's): from û up and
down, as long as

    (û - u₀)² <= t² · (v₂ + v₁ · max(u₀, 0)/û),

because v₁ is 0 where the true value is 0 and grows in proportion to it. t is Student's with n-1 degrees of freedom.
For û below half of its standard error (or negative) that half takes its place in the ratio.

**Replicates** of `bootstrap_cka` are for statements about several values at once, such as the difference of two
layers. They come from weights drawn with replacement, the same for all pairs and all calls with one seed and n. Of
each pair only their order is kept; the sizes are the quantiles of the interval above. So their 2.5 % and 97.5 % points
are the interval, and how values vary together is that of the bootstrap.

Coverage of 95 % intervals, Gaussian layers of n = 50, 100, 200 examples by d = 10, 50, 300 features with true values
0, 0.3, 0.8, 500 samples a cell (standard error 1 %): 92.2 to 97.2 % over two runs of the 27 cells, mean 94.8 (cells
that lay outside of 93 to 97 once: 94.9 to 95.9 with 2,000 samples), and 93.6 to 96.6 where a few directions hold most
of the variance. Misses lie on both sides, but for a true 0 of few directions, where all intervals that miss lie above.
With such spectra and a true value of 0.03 to 0.1: 91 to 98 at n <= 100. n = 20: 94 to 96; n = 8: 90 to 98.
`benchmarks/cka_inference.py --coverage` prints it, beside intervals that were not taken.

Hoeffding, "A class of statistics with asymptotically normal distribution", Ann. Math. Statist. 19, 1948.
Efron & Stein, "The jackknife estimate of variance", Annals of Statistics 9, 1981.
Arcones & Giné, "On the bootstrap of U and V statistics", Annals of Statistics 20, 1992 (it fails when degenerate).
Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from scipy.special import stdtrit

from analysis.arrays import Layers
from analysis.gram import sum_rows
from analysis.kernels import Kernel
from analysis.whole_grams import sides, unit_gram, unit_grams

__all__ = ["CKABootstrap", "CKAInterval", "Pairs", "bootstrap_cka", "cka_interval"]

#: Layer l with layer l `[L]`, every layer with every layer `[L1, L2]`, or a list of pairs (l1, l2) `[P]`.
Pairs = Literal["same", "all"] | ArrayLike

_LEAST = {"an interval of CKA": 8}


class CKAInterval(NamedTuple):
    """Debiased CKA and its interval, each `[L]`, `[L1, L2]` or `[P]` by `pairs`. NaN where the value is."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    standard_error: np.ndarray
    """Of the value, on its own scale."""


class CKABootstrap(NamedTuple):
    """`CKAInterval`, and what it is made of."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    standard_error: np.ndarray
    replicates: np.ndarray
    """`[B, ...]`: replicate b of all pairs has the same weights. For differences, or other functions of several."""


def cka_interval(
    xs: Layers,
    ys: Layers,
    *,
    pairs: Pairs = "same",
    level: float = 0.95,
    kernel: Kernel = "linear",
    bandwidth: float = 1.0,
    mask: ArrayLike | None = None,
    nonfinite: Literal["raise", "missing"] = "raise",
) -> CKAInterval:
    """Interval of debiased CKA of layers of xs `[L1, n, d1]` and ys `[L2, n, d2]`, in closed form: nothing is drawn.

    Module docstring: what it is an interval for, and how. Costs about ten passes over a pair's two Grams. Memory: for
    "same" those of one pair, otherwise (L1 + L2)·n² floats.

    Args:
        pairs: "same" `[L]`, "all" `[L1, L2]`, or an int array of (layer of xs, layer of ys) `[P, 2]`.
        level: coverage, between 0 and 1.
        kernel: as in `cka_all_pairs`, with its bandwidth; the population is that of the kernel then, at this bandwidth.
        mask: bool `[n]`, the examples that count; at least 8. Does not change the compiled shape.
        nonfinite: as in `cka_all_pairs`.

    Raises:
        ValueError: arguments that do not go together, or rows that are not finite; says which.
    """
    shape, _, interval, *_ = _interval(xs, ys, pairs, level, kernel, bandwidth, mask, nonfinite, None)
    return CKAInterval(*(part.reshape(shape) for part in interval))


def bootstrap_cka(
    xs: Layers,
    ys: Layers,
    *,
    replicates: int = 1000,
    seed: int = 0,
    pairs: Pairs = "same",
    level: float = 0.95,
    kernel: Kernel = "linear",
    bandwidth: float = 1.0,
    mask: ArrayLike | None = None,
    nonfinite: Literal["raise", "missing"] = "raise",
) -> CKABootstrap:
    """`cka_interval` with replicates `[B, ...]`, for statements about several pairs at once.

        r = bootstrap_cka(base, control).replicates                # [B, L]
        np.quantile(r[:, 9] - r[:, 8], [0.025, 0.975])             # did CKA change from layer 8 to 9?
        more = bootstrap_cka(multi_task, control).replicates - r   # same examples, same seed: same weights

    Time: 8 n² B multiply-adds a pair, as matrix products. Memory: besides that of `cka_interval`, about 12 n B floats.

    Args:
        replicates: B, at least 100.
        seed: of the weights, which depend on it, on B, and on the mask only.
    """
    if replicates < 100:
        raise ValueError(f"replicates must be at least 100, got {replicates}")
    draw = (replicates, seed)
    shape, n, interval, score, drawn = _interval(xs, ys, pairs, level, kernel, bandwidth, mask, nonfinite, draw)
    # The order of the draws, with the sizes of the interval's own distribution.
    order = np.argsort(np.argsort(drawn, axis=1, kind="stable"), axis=1)
    steps = stdtrit(n - 1, (np.arange(replicates) + 0.5) / replicates)
    sizes = np.stack([_endpoint(step, *score) for step in steps], 1)
    sample = np.where(np.isfinite(drawn), np.take_along_axis(sizes, order, 1), np.nan)
    value, low, high, error = (part.reshape(shape) for part in interval)
    return CKABootstrap(value, low, high, error, sample.T.reshape(replicates, *shape))


def _endpoint(t, u, v1, v2):
    """The u₀ at which the score is t (above the estimate if t > 0), as CKA. t a number, the others float64 `[P]`."""
    with np.errstate(invalid="ignore"):
        square = t * t * v2
        shift = np.divide(t * t * v1, 2 * np.maximum(u, _LEAST_RATIO * np.sqrt(v1 + v2)), out=0 * u, where=v1 > 0)
        root = np.sqrt(np.maximum(shift**2 + 2 * u * shift + square, 0))
        u0 = u + shift + np.sign(t) * root
        # Below zero v₁ plays no part.
        u0 = np.where(u + np.sign(t) * np.sqrt(square) > 0, u0, u + np.sign(t) * np.sqrt(square))
        return np.tanh(np.where(np.isinf(u), u, u0))


_LEAST_RATIO = 0.5  # û counts as at least half of its standard error; from 0.25 to 1 coverage is the same within 1 %


# --- the compiled part ------------------------------------------------------------------------------------------------


def _interval(xs, ys, pairs, level, kernel, bandwidth, mask, nonfinite, draw):
    """-> shape of the answer, n, (value, low, high, standard error), (arctanh, v₁, v₂), draws; all per pair `[P]`."""
    x, y, keep, dtype = sides(xs, ys, mask, kernel, nonfinite, _LEAST)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    shape, index = _pair_index(pairs, len(x), len(y))
    weights = None if draw is None else jnp.asarray(_weights(np.asarray(keep), *draw), dtype)
    facts = _all_facts(x, y, jnp.asarray(keep), weights, bandwidth, index, kernel=kernel, dtype=dtype)
    value, short, error, v1, v2, *drawn = (np.asarray(fact, np.float64) for fact in facts)
    value = np.where(short < 0.5, 1 - short, value)  # its digits
    with np.errstate(divide="ignore"):
        score = np.log((2 - short) / short) / 2, v1, v2
    n = int(np.asarray(keep).sum())
    t = stdtrit(n - 1, 0.5 + level / 2)
    return shape, n, (value, _endpoint(-t, *score), _endpoint(t, *score), error), score, *drawn


def _pair_index(pairs, l1, l2):
    """-> shape of the answer, pairs int `[P, 2]` (None: same layers)."""
    if isinstance(pairs, str) and pairs == "same":
        if l1 != l2:
            raise ValueError(
                f"pairs='same' compares layer i with layer i: xs has {l1} layers and ys {l2}; pairs='all' takes both"
            )
        return (l1,), None
    if isinstance(pairs, str) and pairs == "all":
        return (l1, l2), jnp.asarray(np.indices((l1, l2)).reshape(2, -1).T)
    index = np.asarray(pairs)
    if index.ndim != 2 or index.shape[1] != 2 or index.dtype.kind not in "iu":
        raise ValueError(f"pairs must be 'same', 'all', or ints [P, 2], got {pairs!r}")
    if index.size and (index.min() < 0 or (index >= (l1, l2)).any()):
        raise ValueError(f"pairs must be below the numbers of layers, {l1} and {l2}; got {index.max(0).tolist()}")
    return (len(index),), jnp.asarray(index)


def _weights(keep, replicates, seed):
    """How often each example is drawn, `[n, B]`, 0 where not kept. Fewer than four different ones: drawn again."""
    rng = np.random.default_rng(seed)
    n = keep.sum()
    counts = rng.multinomial(n, np.full(n, 1 / n), size=replicates)
    while (few := (counts > 0).sum(1) < 4).any():
        counts[few] = rng.multinomial(n, np.full(n, 1 / n), size=few.sum())
    weights = np.zeros((len(keep), replicates), np.float32)
    weights[keep] = counts.T
    return weights


@partial(jax.jit, static_argnames=("kernel", "dtype"))
def _all_facts(x, y, keep, weights, bandwidth, index, *, kernel, dtype):
    bandwidth = jnp.asarray(bandwidth, dtype)
    if index is None:

        def same(layers):
            u, v = (unit_gram(side.astype(dtype), keep, bandwidth, kernel, "debiased") for side in layers)
            return _pair_facts(u, v, keep, weights)

        return lax.map(same, (x, y))
    us, vs = (unit_grams(side, keep, bandwidth, kernel, "debiased", dtype) for side in (x, y))

    def pair(lm):
        u, v = (jax.tree.map(lambda w, k=k: w[k], side) for side, k in zip((us, vs), lm, strict=True))
        return _pair_facts(u, v, keep, weights)

    return lax.map(pair, index)


def _pair_facts(u, v, keep, weights):
    """Two UnitGrams -> value, 1 - value, standard error, v₁ and v₂ on the scale of arctanh, draws `[B]`."""
    a, b, n = u.matrix, v.matrix, keep.sum().astype(u.matrix.dtype)
    exists = u.exists & v.exists
    e = a - b  # 1 - c keeps its digits where the layers are nearly equal
    value = jnp.where(exists, sum_rows((a * b).sum(1)), jnp.nan)
    short = jnp.where(exists, sum_rows((e * e).sum(1)) / 2, jnp.nan)  # 1 - c
    slope = short * (2 - short)  # 1 - c²
    d = (short * (a * a + b * b) - e * e) / 2
    v2 = 2 * sum_rows((d * d).sum(1))
    jackknife = _jackknife(a, b, e, 2 * short, keep, n)
    v1 = jnp.maximum(jackknife - 2 * v2, 0)
    equal = short == 0
    scaled = [jnp.where(equal, 0, part / jnp.where(equal, 1, slope) ** 2) for part in (v1, v2)]
    facts = (value, short, jnp.sqrt(v1 + v2), *scaled)
    return facts if weights is None else (*facts, _drawn(a, b, weights))


def _jackknife(a, b, e, e2, keep, n):
    """Jackknife variance of CKA. Without example i, every sum of HSIC_1 is linear in the sum p_i of row i."""
    m = n - 1

    def without(p, total):
        pair, triple, quad = total - 2 * p, 3 * p - total, 2 * total - 8 * p
        return pair / (m * (m - 1)) + quad / (m * (m - 1) * (m - 2) * (m - 3)) - 2 * triple / (m * (m - 1) * (m - 2))

    xx, yy, ee = without((a * a).sum(1), 1), without((b * b).sum(1), 1), without((e * e).sum(1), e2)
    gap = without((e * (a + b)).sum(1), 0) / (jnp.sqrt(xx) + jnp.sqrt(yy))  # √xx - √yy
    short = (ee - gap**2) / (2 * jnp.sqrt(xx * yy))
    mean = jnp.where(keep, short, 0).sum() / n
    return m / n * jnp.where(keep, (short - mean) ** 2, 0).sum()


def _drawn(a, b, w):
    """CKA of re-weighted examples w `[n, B]` -> `[B]`. Copies of an example are never compared with each other."""
    w2 = w * w
    s1, s2, s3, s4 = w.sum(0), w2.sum(0), (w2 * w).sum(0), (w2 * w2).sum(0)
    pairs = s1**2 - s2
    triples = s1**3 - 3 * s1 * s2 + 2 * s3
    quads = s1**4 - 6 * s1**2 * s2 + 3 * s2**2 + 8 * s1 * s3 - 6 * s4
    both = jnp.concatenate([w, w2], 1)
    aw, bw = _matmul(a, w), _matmul(b, w)

    def hsic(k, m, kw, mw):
        """HSIC_1: means over pairs of K_ij M_ij, quadruples of K_ij M_kl, triples of K_ij M_ik, indices different."""
        p, p2 = jnp.split(_matmul(k * m, both), 2, axis=1)
        third = (w * kw * mw).sum(0) - (w * p2).sum(0)
        shared = (w2 * kw * mw).sum(0) - (w2 * p2).sum(0)
        fourth = (w * kw).sum(0) * (w * mw).sum(0) - 4 * shared - 2 * (w2 * p2).sum(0)
        return (w * p).sum(0) / pairs + fourth / quads - 2 * third / triples

    return hsic(a, b, aw, bw) / jnp.sqrt(hsic(a, a, aw, aw) * hsic(b, b, bw, bw))


_matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
