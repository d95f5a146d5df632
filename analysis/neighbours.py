"""Similarity of all pairs of layers by who is near whom: mutual k nearest neighbours and CKNNA, compiled.

With N_x(i) the k examples nearest to example i in layer X, itself not among them (Huh et al. 2024),

``mutual_knn``  mean over i of |N_x(i) ∩ N_y(i)| / k                                                   [0, 1]
``cknna``       h(α∘K, α∘L) / √(h(α_x∘K, α_x∘K) · h(α_y∘L, α_y∘L)),   α_ij = 1 if j ∈ N_x(i) ∩ N_y(i)

with K, L the cosines between examples, α_x and α_y of N_x and N_y alone, and h the unbiased estimate of HSIC (Song et
al. 2012, HSIC_1 of analysis.cka) in the order tr(AB) + ΣA ΣB/((n-1)(n-2)) - 2/(n-2)·1ᵀAB1. The authors' public code
computes this, but adds 1e-6 to the denominator. α∘K is not a symmetric matrix, and so `cknna` is not quite symmetric;
nor is it bounded, though 1 for equal layers. With k = n-1 it is the debiased CKA of the cosines.

Ties: of examples equally far from i those with the lower index are nearer. Distances are sums of squared differences,
in which repeated examples are exactly equal. More than k of them (`analysis.cka.duplicate_rows`) are each other's
neighbours in both layers, the same k everywhere: that raises both measures; mask all but one.

Unchanged by a rotation or reflection of either side's features, one scale factor, and (without ties) one permutation of
the examples on both sides; "euclidean" also by a shift, "cosine" by a scale per example. A linear map, or a scale per

NaN is 0/0: all examples are equally far apart (constant features), an example has no direction ("cosine" of zeros), or,
for `cknna`, an estimate of h(.., ..) in the denominator is not positive. Other layers are not affected.

Huh, Cheung, Wang & Isola, "The Platonic Representation Hypothesis", ICML 2024.
"""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, check_choice
from analysis.gram import product, sum_rows
from analysis.rows import Distance, compared, compute_dtype, distances2, no_structure, ragged, settle, sides

__all__ = ["cknna", "mutual_knn", "nearest_neighbours"]

# Einsum letters: l, m layers of xs and ys; j examples.


def mutual_knn(
    xs: Layers, ys: Layers, *, k: int = 10, distance: Distance = "cosine", mask: ArrayLike | None = None
) -> jax.Array:
    """Mean overlap of the k nearest neighbours, layers xs `[L1, n, d1]` with layers ys `[L2, n, d2]` -> `[L1, L2]`.

    Row i of both is the same example. float32, or float64 if given. Memory: the neighbours, n·k per layer. Time: n²·d
    plain operations per layer, 0.6 s for n = 1000, d = 2048 on two cores.

    Args:
        k: at most n-2; of n-1 neighbours all are shared.
        distance: "cosine" as in the paper, "euclidean" or "correlation"; see `analysis.similarity.rsa`.
        mask: bool `[n]`; the value is that of the examples where it is True.

    Raises:
        ValueError: shapes do not go together, k is not in 1..n-2, a row is not finite, or layers of different widths
            come with "correlation".
    """
    x, y, keep = _arguments(xs, ys, k, 1, 2, distance, mask)
    dtype = compute_dtype(x, y)
    first = _nearest(x, keep, k, distance, dtype)
    return settle(_overlap(first, first if y is None else _nearest(y, keep, k, distance, dtype), keep))


def cknna(xs: Layers, ys: Layers, *, k: int = 10, mask: ArrayLike | None = None) -> jax.Array:
    """Kernel alignment between mutual neighbours (CKNNA), `[L1, L2]`. Otherwise as `mutual_knn` with cosines.

    Memory: 2(L1 + L2)·n² floats.

    Args:
        k: at least 2 and at most n-1, with n >= 4.
    """
    x, y, keep = _arguments(xs, ys, k, 2, 1, "cosine", mask)
    dtype = compute_dtype(x, y)
    first = _neighbourhoods(x, keep, k, dtype)
    return settle(_alignments(first, first if y is None else _neighbourhoods(y, keep, k, dtype), keep.sum()))


def nearest_neighbours(
    xs: Layers, *, k: int = 10, distance: Distance = "cosine", mask: ArrayLike | None = None
) -> jax.Array:
    """Indices of the k examples nearest to each example, nearest first, int `[L, n, k]`; -1 for rows dropped by mask.

    Arguments as `mutual_knn`, but k may be n-1. -1 also throughout a layer where no example is nearer than another.
    """
    x, _, keep = _arguments(xs, xs, k, 1, 1, distance, mask)
    found = _nearest(x, keep, k, distance, compute_dtype(x))
    return settle(jnp.where(found == x.shape[1], -1, found))


# --- the arguments ----------------------------------------------------------------------------------------------------


def _arguments(xs, ys, k, least, margin, distance, mask):
    check_choice("distance", distance, get_args(Distance))
    for name, side in (("xs", xs), ("ys", ys)):
        if distance == "correlation" and ragged(side):
            raise ValueError(f"{name}: correlation distance needs layers of one width; pass them one by one")
    x, y, keep = sides(xs, ys, mask, {})
    n = len(keep) if isinstance(keep, jax.core.Tracer) else int(np.asarray(keep).sum())
    if not least <= k <= n - margin or (least == 2 and n < 4):
        four = " (at least 4)" if least == 2 else ""
        raise ValueError(f"k must be in {least}..{n - margin} for n = {n} examples{four}, got {k}")
    return x, y, keep


# --- the compiled part ------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("k", "distance", "dtype"))
def _nearest(xs, keep, k, distance, dtype):
    """`nearest_neighbours`, with n in place of -1."""
    n = xs.shape[1]

    def layer(x):
        rows = compared(x, keep, distance, dtype)

        def row(i):
            others = keep & (jnp.arange(n) != i)
            squares = distances2(rows[i], rows)
            far = jnp.where(others, squares, jnp.inf)
            found = lax.top_k(-far, k)[1]  # of equal ones the first
            extremes = far.min(), jnp.where(others, squares, -jnp.inf).max()
            kept = partial(jnp.where, keep[i])
            return kept(found, n), kept(extremes[0], jnp.inf), kept(extremes[1], -jnp.inf)

        found, smallest, largest = lax.map(row, jnp.arange(n))
        too_few = keep.sum() <= k  # known only under vmap or jit, as too few examples below
        return jnp.where(no_structure(smallest.min(), largest.max()) | too_few, n, found)

    return lax.map(layer, xs)


def _chosen(found, dtype):
    """Neighbours `[..., n, k]` -> 1 where they are, `[..., n, n]`."""
    return (found[..., None] == jnp.arange(found.shape[-2])).any(-2).astype(dtype)


def _missing(found):
    """Neighbours `[l, n, k]` -> whether the layer has none `[l]`."""
    return (found == found.shape[1]).all((1, 2))


@jax.jit
def _overlap(first, second, keep):
    """Neighbours `[L1, n, k]`, `[L2, n, k]` -> mean overlap `[L1, L2]`."""
    index = jnp.arange(first.shape[1])

    def add(total, i):
        a, b = ((found[:, i, :, None] == index).any(1).astype(jnp.float32) for found in (first, second))
        return total + jnp.einsum("lj,mj->lm", a, b).astype(jnp.int32), None

    total = lax.scan(add, jnp.zeros((len(first), len(second)), jnp.int32), index)[0]
    missing = _missing(first)[:, None] | _missing(second) | (keep.sum() < first.shape[2] + 2)
    return jnp.where(missing, jnp.nan, total / (keep.sum() * first.shape[2]))


@partial(jax.jit, static_argnames=("k", "dtype"))
def _neighbourhoods(xs, keep, k, dtype):
    """xs `[L, n, d]` -> α `[L, n, n]`, cosines `[L, n, n]`; whether there are none `[L]`."""
    found = _nearest(xs, keep, k, "cosine", dtype)

    def layer(arguments):
        x, found = arguments
        rows = compared(x, keep, "cosine", dtype)
        return _chosen(found, dtype), product(rows, rows)

    return *lax.map(layer, (xs, found)), _missing(found)


@jax.jit
def _alignments(first, second, n):
    """CKNNA of all pairs. Of A = α∘K and B = α∘L, row i of A and column i of B at a time; K and L are symmetric."""
    (alphas, ks, missing), (betas, ls, also_missing) = first, second

    def row(i):
        pairs = partial(jnp.einsum, "lj,mj->lm", precision=lax.Precision.HIGHEST)
        a, a_back, k = alphas[:, i], alphas[:, :, i], ks[:, i]
        b, b_back, l_ = betas[:, i], betas[:, :, i], ls[:, i]
        # Σ_j A_ij B_ji, Σ_j A_ji, Σ_j B_ij
        return pairs(a * a_back * k, b * b_back * l_), pairs(a_back * k, b_back), pairs(a, b * l_)

    def own(alpha, k):
        return _hsic((alpha * alpha.T * k * k).sum(1), (alpha * k).sum(0), (alpha * k).sum(1), n)

    trace, columns, rows = lax.map(row, jnp.arange(alphas.shape[1]))
    hsic = _hsic(trace, columns, rows, n)
    norms = [lax.map(lambda side: own(*side), sides) for sides in ((alphas, ks), (betas, ls))]
    valid = ((norms[0] > 0) & ~missing)[:, None] & (norms[1] > 0) & ~also_missing & (n >= 4)
    lengths = [jnp.sqrt(jnp.where(norm > 0, norm, 1)) for norm in norms]
    return jnp.where(valid, hsic / lengths[0][:, None] / lengths[1], jnp.nan)


def _hsic(trace, columns, rows, n):
    """Σ_j A_ij B_ji, column sums of A and row sums of B, each for all i `[n, ...]` -> HSIC_1 up to a factor."""
    between = sum_rows(columns) * sum_rows(rows) / ((n - 1) * (n - 2))
    return sum_rows(trace) + between - 2 * sum_rows(columns * rows) / (n - 2)
