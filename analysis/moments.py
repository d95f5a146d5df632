"""Mean and covariance of layers gathered from batches, so that any number of examples fits: memory L·d², not L·n·d.

    moments = None
    for states in batches:  # [L, n_i, d]
        moments = covariance_update(moments, states)
    eigenvalues = covariance_spectrum(moments)  # read with analysis.spectrum

Batches may have any size and be merged in any order or tree, as from several devices: `merge` is exact, that of Chan,
Golub & LeVeque (1983). With Δ the difference of the means of a and b,

    mean = mean_a + Δ n_b/n,   S = S_a + S_b + ΔΔᵀ n_a n_b/n

Each batch is centred by itself before it is squared, and means are kept relative to an example of the data, so a common
offset of 1000 costs no digits. What squaring costs remains: in float32 an eigenvalue is good to 1e-6 of the *largest*
(see analysis.spectrum). For n that fits, `spectrum` is the more accurate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, prepare
from analysis.gram import centred_rows, centring
from analysis.rows import check_finite, compute_dtype, settle
from analysis.spectrum import eigenvalues_of

__all__ = ["Moments", "covariance", "covariance_spectrum", "covariance_update", "mean", "merge"]

# Einsum letters: l layers; i examples; d, e features.


class Moments(NamedTuple):
    """A pytree of arrays: to be kept on devices, sharded, saved, or reduced as any other."""

    examples: jax.Array
    """How many, int32."""
    origin: jax.Array
    """An example of each layer `[L, d]`."""
    mean: jax.Array
    """Mean minus origin `[L, d]`."""
    scatter: jax.Array
    """Σ (x - mean)(x - mean)ᵀ `[L, d, d]`: the covariance times n-1."""


def covariance_update(moments: Moments | None, xs: Layers, *, mask: ArrayLike | None = None) -> Moments:
    """moments (None at the start) and a batch xs `[L, n, d]` -> moments of both, float32, or float64 if given.

    Args:
        mask: bool `[n]`: examples that count, so that a last batch can be padded to the shape of the others.

    Raises:
        ValueError: a row is not finite, or the batch has other layers or features than those before.
    """
    x, keep = prepare({"xs": xs}, mask)
    check_finite({"xs": x}, keep)
    batch = _moments(x, keep)
    return settle(batch if moments is None else merge(moments, batch))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of the examples of a and b together. Order does not matter but for rounding.

    Raises:
        ValueError: they are of different numbers of layers or features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {a.mean.shape} [layers, features] cannot take in {b.mean.shape}")
    return _merge(a, b)


def mean(moments: Moments) -> jax.Array:
    """Mean of each layer from its moments -> `[L, d]`, in their dtype."""
    return moments.origin + moments.mean


def covariance(moments: Moments, *, centre: bool = True) -> jax.Array:
    """Covariance of each layer from its moments (divided by n-1) -> `[L, d, d]`, in their dtype. NaN or inf for n < 2.

    Args:
        centre: False: the second moments Σ x xᵀ / n instead.
    """
    n = moments.examples.astype(moments.scatter.dtype)
    if centre:
        return moments.scatter / (n - 1)
    return moments.scatter / n + _outer(mean(moments))


def covariance_spectrum(moments: Moments, *, centre: bool = True) -> jax.Array:
    """Eigenvalues of `covariance`, with its arguments moments and centre -> `[L, d]`, descending.

    Those below 8 eps of the largest are rounding, and 0.
    """
    return lax.map(eigenvalues_of, covariance(moments, centre=centre))


@jax.jit
def _moments(x: jax.Array, keep: Any) -> Moments:
    dtype = compute_dtype(x)
    n = keep.sum()

    def layer(x):
        x = x.astype(dtype)
        by = centring(x, keep, n.astype(dtype))
        rows = centred_rows(x, keep, by)
        scatter = jnp.einsum("id,ie->de", rows, rows, precision=lax.Precision.HIGHEST) * by.size * by.size
        # A layer that is not finite, known only under jit, is missing.
        scatter = jnp.where(jnp.isfinite(by.size), scatter, jnp.nan)
        of_batch = by.first, (by.mean + by.rest) * by.size, scatter
        return jax.tree.map(lambda value: jnp.where(n > 0, value, 0), of_batch)

    return Moments(n.astype(jnp.int32), *lax.map(layer, x))


@jax.jit
def _merge(a: Moments, b: Moments) -> Moments:
    n = a.examples + b.examples
    share = b.examples.astype(b.mean.dtype) / jnp.maximum(n, 1)
    between = (b.origin - a.origin) + (b.mean - a.mean)
    both = Moments(
        n,
        a.origin,
        a.mean + between * share,
        a.scatter + b.scatter + _outer(between) * (a.examples * share),
    )
    # Without an example there is no origin.
    return jax.tree.map(lambda b, both: jnp.where(a.examples == 0, b, both), b, both)


def _outer(x):
    return jnp.einsum("ld,le->lde", x, x, precision=lax.Precision.HIGHEST)
