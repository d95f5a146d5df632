"""The layers that blocks are made of. The frozen weight is the module's; the adapter is an argument."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from lorajax.lora.adapter import Lora
from lorajax.models.products import product
from lorajax.models.quantize import QuantizedKernel


class Linear(nnx.Module):
    """`y = x @ kernel (+ bias) (+ update of the adapter)`; kernel `[in, out]`, stored in fewer bits if quantised."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, dtype=jnp.float32, rngs: nnx.Rngs):
        init = jax.nn.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (in_features, out_features), dtype))
        self.bias = nnx.Param(jnp.zeros((out_features,), dtype)) if bias else None

    def __call__(self, x: Array, lora: Lora | None = None) -> Array:
        """x `[N, B, T, in]` to `[N, B, T, out]`: one product over the N*B*T rows, whatever N is."""
        kernel = self.kernel
        y = kernel(x) if isinstance(kernel, QuantizedKernel) else product("nbti,io->nbto", x, kernel[...])
        if self.bias is not None:
            y = y + self.bias[...]
        return y if lora is None else y + lora.delta(x)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation (Zhang and Sennrich, 2019), in float32; the learnt scale is applied after."""

    def __init__(self, size: int, *, eps: float, dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        return _over_rms(x.astype(jnp.float32), self.eps).astype(x.dtype) * self.scale[...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _over_rms(x: Array, eps: float) -> Array:
    return _over_rms_forward(x, eps)[0]


def _over_rms_forward(x: Array, eps: float) -> tuple[Array, tuple[Array, Array]]:
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)
    return x * inverse, (x * inverse, inverse)


def _over_rms_backward(eps: float, kept: tuple[Array, Array], dy: Array) -> tuple[Array]:
    y, inverse = kept
    return (inverse * (dy - y * (row_dots(dy, y) / y.shape[-1])),)


_over_rms.defvjp(_over_rms_forward, _over_rms_backward)


def row_dots(x: Array, y: Array) -> Array:
    """Sums over the last axis of x * y, `[..., n]` to `[..., 1]`.

    As products of vectors: XLA's sum of a product of two arrays takes ten times as long on a CPU (jax 0.10).
    """
    return jnp.einsum("...i,...i->...", x, y, precision=jax.lax.Precision.HIGHEST)[..., None]


@jax.custom_vjp
def softmax(x: Array) -> Array:
    """Over the last axis, float32. Its derivative is written out for the sake of `row_dots`."""
    return jax.nn.softmax(x, axis=-1)


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    y = softmax(x)
    return y, y


softmax.defvjp(_softmax_forward, lambda y, dy: (y * (dy - row_dots(dy, y)),))


class LayerNorm(nnx.Module):
    """Normalisation to mean 0 and variance 1 (Ba et al., 2016), then scale and shift, all in float32."""

    def __init__(self, size: int, *, eps: float, dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.bias = nnx.Param(jnp.zeros((size,), dtype))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)
