"""CKA from streamed tiles: the same values, and the same missing ones, as in memory; devices that share the tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from analysis import hsic
from analysis.cka import cka_all_pairs, cka_both
from tests.analysis.cka_cases import DATA, MISSING, assert_close, expected, features, missing_layers


@pytest.mark.parametrize("tile", [1, 7, 20, 39, 1000])
def test_any_tile(tile):
    """One row, tiles that do not divide n, that do, one short of n, and one tile."""
    xs, ys = features()
    assert_close(cka_both(xs, ys, tile=tile), xs, ys)


@pytest.mark.parametrize("data", DATA)
def test_difficult_data(data):
    xs, ys = (DATA[data](x).astype(np.float32) for x in features())
    assert_close(cka_both(xs, ys, tile=16), xs, ys)


def test_one_side_of_larger_n():
    xs, _ = features(401, 40, 30)
    itself = cka_both(xs, xs, tile=128)
    assert_close(itself, xs, xs)
    for xx in itself:
        np.testing.assert_allclose(np.diag(xx), 1, rtol=0, atol=3e-7)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_missing_layers_are_those_in_memory(kernel):
    xs, ys = missing_layers(), features(30)[1]
    memory, streamed = (cka_both(xs, ys, kernel=kernel, nonfinite="missing", tile=tile) for tile in (None, 8))
    for estimator, missing in MISSING.items():
        one, other = getattr(memory, estimator), getattr(streamed, estimator)
        assert np.flatnonzero(np.isnan(other).any(1)).tolist() == missing or kernel == "rbf"
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)  # NaN where NaN is


def test_mask_and_half_precision():
    xs, ys = (jnp.asarray(x + 10, dtype) for x, dtype in zip(features(), ("float16", "bfloat16"), strict=True))
    keep = np.random.default_rng(0).random(40) < 0.6
    keep[0] = False
    assert_close(cka_both(xs, ys, mask=keep, tile=16), xs[:, keep], ys[:, keep])


def test_float64():
    with jax.enable_x64(True):
        xs, ys = (x.astype(np.float64) for x in features())
        assert_close(cka_both(xs, ys, tile=16), xs, ys, atol=1e-14)


def test_gradient():
    xs, ys = features()
    slopes = [
        jax.grad(lambda x, tile=tile: cka_all_pairs(x, ys, tile=tile).sum())(jnp.asarray(xs)) for tile in (None, 16)
    ]
    np.testing.assert_allclose(*slopes, rtol=0, atol=1e-6)
    assert np.abs(slopes[0]).max() > 1e-3


def test_memory_does_not_grow_with_the_grams():
    """What the compiler sets aside for 2 x 4 layers of 4096 examples: tiles, not 8 Grams of 67 MB."""
    side = jax.ShapeDtypeStruct((4, 4096, 64), jnp.float32)
    keep = jax.ShapeDtypeStruct((4096,), jnp.bool)
    how = hsic.Plan("linear", 256)
    compiled = hsic._streamed.lower(side, side, keep, 1.0, how=how, dtype=jnp.dtype("float32")).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 30e6


def test_plan():
    """In memory while 1 GB holds the Grams; beyond that, tiles of all layers that 256 MB hold; a few for every device."""
    assert hsic.plan("linear", 64, 1000, 4).tile is None
    assert hsic.plan("linear", 2, 8000, 4).tile is None
    assert hsic.plan("linear", 32, 20_000, 4).tile == 1408
    assert hsic.plan("linear", 2, 20_000, 4).tile == 5632
    assert hsic.plan("linear", 10_000, 20_000, 4).tile == 128
    assert hsic.plan("linear", 2, 100, 4, tile=512).tile == 100
    shared = hsic.plan("linear", 64, 1000, 4, devices=jax.devices())
    assert shared.mesh.size == 8
    assert shared.tile == 128
    assert hsic.plan("linear", 64, 1000, 4, devices=jax.devices()[:1]).mesh is None


# --- several devices ---


def test_devices_share_the_tiles():
    xs, ys = (DATA["large later row"](x).astype(np.float32) for x in features())
    assert len(jax.devices()) == 8
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "tensor"))
    for devices in (mesh, jax.devices()[2:5]):  # 45 tiles for 8, for 3
        both = cka_both(xs, ys, devices=devices, tile=5)
        assert_close(both, xs, ys)
        assert both.debiased.sharding.device_set == set(np.ravel(getattr(devices, "devices", devices)))
    keep = np.arange(40) % 3 > 0
    values = cka_all_pairs(xs, xs, devices=mesh, mask=keep, tile=5)
    np.testing.assert_allclose(values, expected(xs[:, keep], xs[:, keep], "debiased"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", [PartitionSpec(None, "i"), PartitionSpec(None, None, "i"), PartitionSpec()])
def test_features_that_live_on_several_devices(spec):
    xs, ys = features(n=40, d1=24)
    mesh = Mesh(np.array(jax.devices()), ("i",))
    spread = jax.device_put(xs, NamedSharding(mesh, spec))
    both = cka_both(spread, ys)
    assert both.debiased.sharding.device_set == set(jax.devices())
    assert_close(both, xs, ys)


def test_devices_with_rbf():
    xs, ys = features()
    assert_close(cka_both(xs, ys, kernel="rbf", devices=jax.devices(), tile=8), xs, ys, bandwidth=1.0)
