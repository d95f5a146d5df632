"""Gram matrices of layers in tiles: centred features, their products, and sums that keep their digits.

A Gram matrix is symmetric, and a measure that compares pairs of examples needs every pair once. So a layer's Gram is a
set of square tiles that cover the entries above the diagonal. They may all be held in memory, or made one after the
other: both ways use the functions here, and `analysis.kernels` centres the tiles.

Features are centred first of all, and accurately: hidden states have features of large mean, and a Gram made of them
has lost the digits that matter.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["Centring", "Rows", "Tile", "centre_features", "centred_rows", "centring", "kahan", "product", "row_facts"]
__all__ += ["rows_of", "sum_rows", "tile_of", "tile_pairs"]


# --- features ---------------------------------------------------------------------------------------------------------


class Centring(NamedTuple):
    """What centres the rows of one layer; `[d]`, and scalars."""

    first: jax.Array
    """The first kept row. Without it, constant features become exactly 0, and a mean of 1000 a small one."""
    size: jax.Array
    """The largest difference from it; not finite where a kept row is not, or where the difference overflows."""
    mean: jax.Array
    rest: jax.Array
    """What rounding left of the mean."""


def centring(x: jax.Array, keep: jax.Array, n: jax.Array) -> Centring:
    """x `[n, d]`, keep bool `[n]`, n = its sum as a float."""
    first = x[jnp.argmax(keep)]
    # Fourth powers of features follow. CKA does not depend on the scale: dividing changes no value and no gradient.
    size = lax.stop_gradient(jnp.abs(jnp.where(keep[:, None], x - first, 0)).max())
    shifted = _shifted(x, keep, first, size)

    def mean(x):  # as a product, which reads x once
        return jnp.einsum("n,nd->d", keep.astype(x.dtype), x, precision=lax.Precision.HIGHEST) / n

    first_mean = mean(shifted)
    return Centring(first, size, first_mean, mean(shifted - first_mean))


def centred_rows(x: jax.Array, keep: jax.Array, by: Centring) -> jax.Array:
    """Rows `[a, d]` minus the mean, scaled to size about one. Dropped rows are 0, and non-finite layers as a whole."""
    return jnp.where(keep[:, None], (_shifted(x, keep, by.first, by.size) - by.mean) - by.rest, 0)


def centre_features(x: jax.Array, keep: jax.Array, n: jax.Array) -> jax.Array:
    """All rows `[n, d]` of a layer, centred and scaled."""
    return centred_rows(x, keep, centring(x, keep, n))


def _shifted(x, keep, first, size):
    good = (size > 0) & jnp.isfinite(size)
    return jnp.where(keep[:, None] & good, x - first, 0) * (1 / jnp.where(good, size, 1))


@jax.jit
def row_facts(x: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x `[L, n, d]` -> which kept rows are not finite, bool `[L, n]`; whether all kept rows are equal, bool `[L]`."""
    same = (x == x[:, jnp.argmax(keep)][:, None]).all(-1)
    return ~jnp.isfinite(x).all(-1) & keep, (same | ~keep).all(-1)


# --- tiles ------------------------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """Rows i, i+1, ... against columns j, j+1, ... of a symmetric matrix."""

    i: Any
    j: Any
    product: jax.Array
    """Inner products of centred rows `[a, b]`."""
    pair: jax.Array
    """bool `[a, b]`: the pair counts here. Each pair of kept examples does in one tile, and then with row < column."""


class Rows(NamedTuple):
    """Some rows of a layer, centred."""

    start: Any
    x: jax.Array
    """`[a, d]`"""
    mine: jax.Array
    """bool `[a]`: the rows that are kept, and not among those of the piece before."""


def rows_of(x: jax.Array, keep: jax.Array, by: Centring, start: Any, size: int, layer: Any = 0) -> Rows:
    """`size` rows of layers x `[L, n, d]`. The last ones begin earlier than asked, and leave out what is not theirs."""
    begin = jnp.minimum(start, x.shape[1] - size)
    corner = [jnp.int32(index) for index in (layer, begin, 0)]
    some = lax.dynamic_slice(x, corner, (1, size, x.shape[2]))[0].astype(by.mean.dtype)
    kept = lax.dynamic_slice_in_dim(keep, begin, size)
    return Rows(begin, centred_rows(some, kept, by), kept & (begin + jnp.arange(size) >= start))


def tile_of(rows: Rows, columns: Rows) -> Tile:
    """The tile of two pieces of a layer, in order."""
    first, second = (piece.start + jnp.arange(len(piece.x)) for piece in (rows, columns))
    pair = rows.mine[:, None] & columns.mine & (first[:, None] < second)
    return Tile(rows.start, columns.start, product(rows.x, columns.x), pair)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x `[i, d]`, y `[j, d]` -> `[i, j]`. Not TF32 nor bfloat16 on any backend: those lose what centring saved."""
    return jnp.einsum("id,jd->ij", x, y, precision=lax.Precision.HIGHEST)


def tile_pairs(n: int, tile: int) -> np.ndarray:
    """First rows and columns of the tiles on and above the diagonal `[p, 2]`."""
    return np.stack(np.triu_indices(-(-n // tile)), 1).astype(np.int32) * tile


def sum_rows(matrix: jax.Array) -> jax.Array:
    """`[a, ...]` -> its sum over a in pairs, pairs of pairs, ...: rounding grows with log a."""
    while len(matrix) > 1:
        half = (len(matrix) + 1) // 2
        rest = matrix[half:]
        matrix = matrix[:half].at[: len(rest)].add(rest) if len(rest) < half else matrix[:half] + rest
    return matrix[0]


def kahan(carry: tuple[jax.Array, jax.Array], value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, what it is too large by) with a value added."""
    total, excess = carry
    value = value - excess
    new = total + value
    return new, (new - total) - value
