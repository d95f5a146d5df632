"""Products of two arrays of one dtype, with sums in float32, at the speed that devices have for that dtype."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def product(spec: str, x: Array, y: Array, *, dtype: DTypeLike | None = None) -> Array:
    """`jnp.einsum(spec, x, y)` in `dtype`, that of x if not given; differentiable in both, in reverse mode.

    Every letter of `spec` stands in two of its three terms, or in all. Of 16-bit arrays, two things are not as JAX does
    them:

    * On a CPU the result is made in float32, then rounded. Processors have products of 16-bit numbers with sums in 32
      bit; asked for a 16-bit result, XLA (jax 0.10) widens x and y instead and takes twice as long. No number differs
      by it: sums are in float32 either way.
    * Where `dtype` is float32, the derivative is rounded to 16 bit before its own products. Left to JAX, they would be
      of a float32 and a 16-bit array, for which no device has arithmetic.
    """
    dtype = jnp.dtype(dtype or x.dtype)
    if x.dtype.itemsize > 2:
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)
    return _product(spec, dtype, x, y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(spec: str, dtype: jnp.dtype, x: Array, y: Array) -> Array:
    def widened(x: Array, y: Array) -> Array:
        return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32).astype(dtype)

    def plain(x: Array, y: Array) -> Array:
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)

    return jax.lax.platform_dependent(x, y, cpu=widened, default=plain)


def _forward(spec: str, dtype: jnp.dtype, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(spec, dtype, x, y), (x, y)


def _backward(spec: str, dtype: jnp.dtype, kept: tuple[Array, Array], dz: Array) -> tuple[Array, Array]:
    (x, y), (terms, result) = kept, spec.split("->")
    left, right = terms.split(",")
    dz = dz.astype(x.dtype)
    dx = _product(f"{result},{right}->{left}", x.dtype, dz, y)
    return dx, _product(f"{left},{result}->{right}", y.dtype, x, dz)


_product.defvjp(_forward, _backward)
