"""Layers whose derivatives are written out, against JAX's own of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lorajax.models.layers import RMSNorm, softmax


def plain_norm(x, scale, eps):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps) * scale


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e4])
def test_norm(size):
    """Values, and derivatives by input and scale, to 1e-6 of the largest, float32; also where eps counts."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(size * rng.standard_normal((2, 3, 5, 48)), jnp.float32)
    dy = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    norm = RMSNorm(48, eps=1e-5)
    norm.scale[...] = jnp.asarray(rng.standard_normal(48), jnp.float32)
    graphdef, state = nnx.split(norm)
    found, back = jax.vjp(lambda state, x: nnx.merge(graphdef, state)(x), state, x)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(v), jnp.float64) for v in (norm.scale[...], x, dy)]
        expected, expected_back = jax.vjp(lambda scale, x: plain_norm(x, scale, 1e-5), *wide[:2])
        expected, (dscale, dx) = np.asarray(expected), map(np.asarray, expected_back(wide[2]))
    found_scale, found_dx = back(dy)
    (found_scale,) = jax.tree.leaves(found_scale)
    for own, theirs in ((found, expected), (found_scale, dscale), (found_dx, dx)):
        np.testing.assert_allclose(own, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


def test_softmax():
    """Values and derivative to 1e-6 of the largest, with what is masked by the lowest number, mapped over an axis."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(3 * rng.standard_normal((4, 3, 7, 31)), jnp.float32)
    x = jnp.where(rng.random(x.shape) < 0.3, jnp.finfo(jnp.float32).min, x)
    dy = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    found, back = jax.vjp(jax.vmap(softmax), x)
    expected, expected_back = jax.vjp(lambda x: jax.nn.softmax(x, axis=-1), x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(back(dy)[0], expected_back(dy)[0], rtol=0, atol=1e-6)
