"""Kernels of centred features, and their U-centred Grams tile by tile.

``"linear"``  K_ij = x_i · x_j
``"rbf"``     K_ij = exp(-|x_i - x_j|² / (2 σ²)),  σ² = bandwidth² · median of |x_i - x_j|² over all pairs i < j

The median is of squared distances, over the n(n-1)/2 pairs of different rows (equal ones among them); of an even number
of pairs it is the mean of the middle two. It is exact for any n: found by its bits, most significant first, from counts
over the tiles. To gradients it is a constant. An error of distances in float32 grows by 1/bandwidth² in K: values hold
1e-6 for bandwidths from 0.2 on.

U-centring (Székely & Rizzo 2014): A_ij = K_ij - r_i/(n-2) - r_j/(n-2) + t/((n-1)(n-2)) for i ≠ j and 0 for i = j,
where r are the row sums and t the sum of K without its diagonal. Rows of A sum to zero; ⟨A, B⟩ = n(n-3) HSIC_1(K, L).
For the linear kernel r_i = -|x_i|², since centred features sum to zero: no pass over K is needed.

The doubly centred Gram needs no second pass over the entries. With c the diagonal of HKH minus its mean, and e of HLH,

    ⟨HKH, HLH⟩ = ⟨A, B⟩ + n/(n-2) Σ_i c_i e_i + tr HKH · tr HLH / (n-1),

so that both estimators of HSIC come from one set of inner products. (The last term is the mean of the left side over
all permutations of the examples of L.)
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from analysis.gram import Tile

__all__ = ["Fold", "Gram", "Kernel", "entries", "gram_of", "u_centred", "zero_below"]

Kernel = Literal["linear", "rbf"]

#: fold(step, zero): step(step(zero, tile 1), tile 2)... over all tiles of a layer, for steps that add to their carry.
Fold = Callable[[Callable[[Any, Tile], Any], Any], Any]


class Gram(NamedTuple):
    """What a tile must know of the whole Gram matrix of its layer to be centred; `[n]`, and scalars."""

    length2: jax.Array
    """|x_i|²"""
    median: jax.Array
    """Of |x_i - x_j|²; rbf only, 0 if half of the pairs or more are equal: then there is no kernel, and K is 0."""
    bandwidth: jax.Array
    row: jax.Array
    """Row sums without the diagonal."""
    total: jax.Array
    """Their sum."""
    diagonal: jax.Array
    """Of the doubly centred Gram, minus its mean."""
    trace: jax.Array
    """Of the doubly centred Gram."""
    zero: jax.Array
    """⟨A, A⟩ up to which the U-centred Gram A is zero."""


def gram_of(
    fold: Fold, length2: jax.Array, keep: jax.Array, n: jax.Array, kernel: Kernel, bandwidth: jax.Array
) -> Gram:
    """Row sums and all else of one layer's Gram. The rbf kernel takes three passes over its tiles.

    Where A is zero in exact arithmetic (rows equally far apart, say one-hot), floats leave rounding, and the ratio of
    two roundings looks like a result. So A counts as zero if it is no larger than the rounding error of K, of which an
    entry is off by about eps·|x_i||x_j|; for rbf by eps·(|x_i|² + |x_j|²)·dK/d|x_i - x_j|².
    """
    zero = jnp.zeros((), length2.dtype)

    def deviation(diagonal):
        return jnp.where(keep, diagonal - diagonal.sum() / n, 0)

    if kernel == "linear":
        trace = length2.sum()
        rounding = zero_below(trace, (length2**2).sum())
        return Gram(length2, zero, bandwidth, -length2, -trace, deviation(length2), trace, rounding)
    median = lax.stop_gradient(_median_distance2(fold, length2, n))
    gram = Gram(length2, median, bandwidth, jnp.zeros_like(length2), zero, zero, zero, zero)
    gamma, gain, middle = _rbf(gram)

    def add(carry, tile):
        row, rounding2 = carry
        k = entries(tile, gram, kernel)
        row = _add_at(_add_at(row, tile.i, k.sum(1)), tile.j, k.sum(0))
        slope = jnp.where(tile.pair, gamma * (k + gain * middle), 0)
        scale = _at(length2, tile.i, k.shape[0])[:, None] + _at(length2, tile.j, k.shape[1])
        return row, rounding2 + 2 * ((slope * scale) ** 2).sum()

    row, rounding2 = fold(add, (gram.row, zero))
    total = row.sum()
    trace = jnp.where(median > 0, -gain * jnp.expm1(-gamma * median), 0) * (n - 1) - total / n
    diagonal = deviation(row) * (-2 / n)
    return gram._replace(row=row, total=total, diagonal=diagonal, trace=trace, zero=_eps2(zero) * rounding2)


def zero_below(trace: jax.Array, squares: jax.Array) -> jax.Array:
    """⟨A, A⟩ up to which a linear U-centred Gram is zero, from Σ|x_i|² and Σ|x_i|⁴."""
    return _eps2(trace) * (trace**2 - squares)


def u_centred(tile: Tile, gram: Gram, n: jax.Array, kernel: Kernel) -> jax.Array:
    """The tile of the U-centred Gram A, 0 where no pair counts; all of it if n < 4."""
    m = jnp.where(n >= 4, n, 4)
    row_i, row_j = (_at(gram.row, i, size) / (m - 2) for i, size in zip(tile[:2], tile.product.shape, strict=True))
    a = entries(tile, gram, kernel) - row_i[:, None] - row_j + gram.total / ((m - 1) * (m - 2))
    return jnp.where(tile.pair & (n >= 4), a, 0)


def entries(tile: Tile, gram: Gram, kernel: Kernel) -> jax.Array:
    """K of a tile, 0 where no pair counts; of rbf up to a factor and an added constant, which centring does not see.

    The constant is the value at the median distance. Without it, the digits of wide kernels would go to what all
    entries share; and the factor keeps these from vanishing.
    """
    if kernel == "linear":
        return jnp.where(tile.pair, tile.product, 0)
    gamma, gain, middle = _rbf(gram)
    distance2 = _distance2(tile, gram.length2)
    t = gamma * (gram.median - distance2)
    k = jnp.where(jnp.abs(t) < 1, middle * jnp.expm1(jnp.clip(t, -1, 1)), jnp.exp(-gamma * distance2) - middle)
    return jnp.where(tile.pair & (gram.median > 0), gain * k, 0)


def _rbf(gram):
    """-> 1/(2σ²), the factor, the kernel at the median distance."""
    gamma = 1 / (2 * gram.bandwidth**2 * jnp.where(gram.median > 0, gram.median, 1))
    return gamma, jnp.maximum(gram.bandwidth**2, 1), jnp.exp(-1 / (2 * gram.bandwidth**2))


def _eps2(x):
    return (_ROUNDING * jnp.finfo(x.dtype).eps) ** 2


def _distance2(tile, length2):
    """|x_i - x_j|², 0 where rounding is all that could be left of it, as for duplicate rows."""
    size = _at(length2, tile.i, tile.product.shape[0])[:, None] + _at(length2, tile.j, tile.product.shape[1])
    distance2 = size - 2 * tile.product
    return jnp.where(distance2 > _ROUNDING * jnp.finfo(size.dtype).eps * size, distance2, 0)


def _median_distance2(fold, length2, n):
    """The exact median over all pairs, by radix selection: floats that are not negative order as their bits do."""
    bits = jnp.finfo(length2.dtype).bits
    uint = jnp.dtype(f"uint{bits}")
    m = n.astype(jnp.uint32)
    pairs = jnp.where(m % 2 == 0, m // 2 * (m - 1), m * ((m - 1) // 2))
    rank = jnp.stack([jnp.maximum(pairs, 1) - 1, pairs]) // 2
    found = jnp.zeros(2, uint)  # the leading bits of the lower and the upper median
    for shift in range(bits - 16, -1, -16):

        def count(counts, tile, shift=shift, found=found):
            key = lax.bitcast_convert_type(_distance2(tile, length2), uint)
            for which in (0, 1):
                alike = tile.pair & ((key ^ found[which]) >> shift >> 16 == 0)
                digit = jnp.where(alike, key >> shift & 0xFFFF, 0x10000).astype(jnp.uint32)
                counts = counts.at[which, digit].add(1, mode="drop")
            return counts

        counts = fold(count, jnp.zeros((2, 0x10000), jnp.uint32))
        digit, rank = jax.vmap(_digit)(counts.reshape(2, 256, 256), rank)
        found = found | (digit.astype(uint) << shift)
    return lax.bitcast_convert_type(found, length2.dtype).mean()


def _digit(counts, rank):
    """Counts of 256 x 256 digits -> the one that the item of a rank has, and its rank among those."""

    def pick(counts, rank):
        below = jnp.cumsum(counts)
        i = jnp.minimum((below <= rank).sum(), 255)
        return i, rank - (below[i] - counts[i])

    high, rank = pick(counts.sum(1), rank)
    low, rank = pick(counts[high], rank)
    return 256 * high + low, rank


def _at(vector, start, size):
    return lax.dynamic_slice_in_dim(vector, start, size)


def _add_at(vector, start, values):
    return lax.dynamic_update_slice_in_dim(vector, _at(vector, start, len(values)) + values, start, 0)


# In units of eps·|x_i||x_j| (of distances: eps·(|x_i|² + |x_j|²)). Measured in float32: rows without structure give up
# to 1, or 5 when their features were stored with an offset of ten times their size; random rows of 4096 features 1e5.
_ROUNDING = 8
