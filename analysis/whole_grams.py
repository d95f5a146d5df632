"""Centred Gram matrices of layers, whole and of length one: for measures that re-weight or permute the examples.

The kernels, the centring and the threshold for zero are those of `analysis.gram`, with one tile for all of a layer; a
value made here is that of `analysis.cka`. What is added: the matrix is there from corner to corner, and divided by its
Frobenius norm, so that the sum of products of two of them is their CKA.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from analysis.arrays import Layers, check_choice, prepare
from analysis.gram import Tile, centred_rows, centring, product, sum_rows
from analysis.kernels import Kernel, gram_of, u_centred
from analysis.rows import check_finite, compute_dtype

__all__ = ["UnitGram", "sides", "unit_gram", "unit_grams"]


class UnitGram(NamedTuple):
    """A centred Gram matrix divided by its length."""

    matrix: jax.Array
    """`[n, n]`, symmetric; 0 for pairs that do not count, and all of it for a layer without structure."""
    exists: jax.Array
    """bool: the layer has a length to divide by."""


def sides(
    xs: Layers, ys: Layers, mask: Any, kernel: str, nonfinite: str, least: dict[str, int]
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Checked arguments -> x `[L1, n, d1]`, y `[L2, n, d2]`, keep bool `[n]`, and the dtype to compute in."""
    check_choice("kernel", kernel, ("linear", "rbf"))
    check_choice("nonfinite", nonfinite, ("raise", "missing"))
    x, y, keep = prepare({"xs": xs, "ys": ys}, mask, least=least)
    if nonfinite == "raise":
        check_finite({"xs": x, "ys": y}, keep)
    return x, y, keep, compute_dtype(x, y)


def unit_gram(x: jax.Array, keep: jax.Array, bandwidth: jax.Array, kernel: Kernel, estimator: str) -> UnitGram:
    """x `[n, d]`, keep bool `[n]` -> its Gram, U-centred ("debiased") or doubly centred ("biased"), of length one."""
    n = keep.sum().astype(x.dtype)
    rows = centred_rows(x, keep, centring(x, keep, n))
    index = jnp.arange(len(x))
    tile = Tile(0, 0, product(rows, rows), keep[:, None] & keep & (index[:, None] < index))
    gram = gram_of(lambda step, carry: step(carry, tile), (rows**2).sum(1), keep, n, kernel, bandwidth)
    upper = u_centred(tile, gram, n, kernel)
    matrix, zero = upper + upper.T, gram.zero
    if estimator == "biased":
        matrix, zero = _doubly_centred(matrix, keep, gram, n), 0 * gram.zero
    length2 = sum_rows((matrix**2).sum(1))
    exists = (length2 > zero) & ((n >= 4) | (estimator == "biased"))
    matrix = jnp.where(exists, matrix / jnp.sqrt(jnp.where(exists, length2, 1)), 0)
    return UnitGram(matrix, exists)


def unit_grams(x: jax.Array, keep: jax.Array, bandwidth: jax.Array, kernel: Kernel, estimator: str, dtype: Any):
    """x `[L, n, d]` -> `UnitGram` of `[L, n, n]` and `[L]`. One layer's features are copied at a time."""
    return lax.map(lambda layer: unit_gram(layer.astype(dtype), keep, bandwidth, kernel, estimator), x)


def _doubly_centred(a, keep, gram, n):
    """From the U-centred Gram A, to which it adds α_i + α_j, and its diagonal: rows of both sum to zero. n >= 3."""
    diagonal = jnp.where(keep, gram.diagonal + gram.trace / n, 0)
    alpha = (gram.trace / (2 * (n - 1)) - diagonal) / (n - 2)
    off = keep[:, None] & keep & ~jnp.eye(len(keep), dtype=bool)
    return jnp.where(off, a + alpha[:, None] + alpha, jnp.diag(diagonal))
