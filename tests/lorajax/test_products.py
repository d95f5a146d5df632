"""Products in 16 bit: what they are, their derivatives, and that no product of a training step mixes dtypes."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lorajax.lora.adapter import LoraConfig, init_adapter, join, split
from lorajax.models.llama import Execution, Llama
from lorajax.models.products import product
from lorajax.training.loss import answer_loss
from tests.tiny import TINY

SPECS = {
    "nbti,io->nbto": ((2, 3, 5, 16), (16, 7)),
    "nti,nir->ntr": ((2, 5, 16), (2, 16, 3)),
    "skad,skdt->skat": ((2, 3, 5, 16), (2, 3, 16, 7)),
    "td,vd->tv": ((5, 16), (7, 16)),
}


def drawn(spec, dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in SPECS[spec]]


@pytest.mark.parametrize("out", [None, jnp.float32])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("spec", SPECS)
def test_value_and_derivatives_against_float64(spec, dtype, out):
    """Values and both derivatives are those of float64, rounded once (sums in float32)."""
    x, y = drawn(spec, dtype)
    z, back = jax.vjp(lambda x, y: product(spec, x, y, dtype=out), x, y)
    assert z.dtype == (out or dtype)
    dz = jnp.asarray(np.random.default_rng(1).standard_normal(z.shape), dtype).astype(z.dtype)
    dx, dy = back(dz)
    assert (dx.dtype, dy.dtype) == (dtype, dtype)
    wide = [np.asarray(a, np.float64) for a in (x, y, dz)]
    terms, result = spec.split("->")
    left, right = terms.split(",")
    for found, expected in (
        (z, np.einsum(spec, wide[0], wide[1])),
        (dx, np.einsum(f"{result},{right}->{left}", wide[2], wide[1])),
        (dy, np.einsum(f"{left},{result}->{right}", wide[0], wide[2])),
    ):
        # Half a unit in the last place, and what float32 sums of 16 terms may be off.
        eps = float(jnp.finfo(found.dtype).eps)
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0.51 * eps + 1e-6, atol=1e-5)


def test_derivative_of_float32_result_is_rounded_to_16_bit():
    """A derivative that 16 bit cannot hold is rounded before its product; rounded after, this one would be greater."""
    dz, y = jnp.full((1, 1), 1.0038, jnp.float32), jnp.full((1, 1), 127 / 64, jnp.bfloat16)
    assert float((dz * y.astype(jnp.float32)).astype(jnp.bfloat16)[0, 0]) > 127 / 64
    _, back = jax.vjp(lambda x: product("ti,io->to", x, y, dtype=jnp.float32), jnp.ones((1, 1), jnp.bfloat16))
    assert float(back(dz)[0][0, 0]) == 127 / 64


@pytest.mark.parametrize("remat", ["none", "products"])
@pytest.mark.parametrize("tied", [True, False])
def test_no_product_of_a_step_mixes_dtypes(remat, tied):
    """All products are of 16-bit arrays, forward and back, and on a CPU of float32 results; none is of widened ones."""
    config = dataclasses.replace(TINY, tie_embeddings=tied)
    model = Llama(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graphdef, base = nnx.split(model)
    adapter = init_adapter(config, LoraConfig(rank=2, targets=("all-linear",)), ["a", "b"])
    factors, scales = split(adapter)
    N, B, T = 2, 3, 8
    tokens = jnp.ones((N, B, T), jnp.int32)
    batch = {
        "tokens": tokens,
        "predict": jnp.broadcast_to(jnp.arange(T - 1), (N, B, T - 1)),
        "labels": tokens[..., 1:],
        "weights": jnp.ones((N, B, T - 1)),
    }

    def loss(factors, base):
        return answer_loss(nnx.merge(graphdef, base), join(factors, scales), batch, Execution(remat)).sum()

    text = jax.jit(jax.grad(loss)).lower(factors, base).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    kinds = [tuple(re.findall(r"tensor<((?:\d+x)*)(\w+)>", line)) for line in lines]
    # Sums of rows (norms, softmax) are products of float32 vectors, of one shape. What was widened would not be.
    products = [dtypes for found in kinds if (dtypes := tuple(dtype for _, dtype in found)) != ("f32",) * 3]
    assert set(products) == {("bf16", "bf16", "f32")}
    assert len(products) >= 7 * 2 * 3
    for left, right, result in (found for found in kinds if found[0][1] == "f32"):
        assert left == right
        assert left[0].startswith(result[0])
        assert len(left[0].split("x")) == len(result[0].split("x")) + 1
