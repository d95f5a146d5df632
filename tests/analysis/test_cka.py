"""CKA against its definitions in float64, exact rationals, a public implementation, and what must (not) change it.

Most tests use the arrays of `features` and `cka_both`, so that few programs are compiled.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.cka import cka_all_pairs, cka_both
from tests.analysis.cka_cases import DATA, ESTIMATORS, assert_close, expected, features, place

# --- correct values ---


@pytest.mark.parametrize("shape", [(40, 20, 12), (16, 600, 400), (4, 3, 6), (4, 4, 4), (401, 40, 30)])
def test_definitions(shape):
    """n > d, n < d, the fewest examples, n = d, and several pieces of the Gram."""
    xs, ys = features(*shape)
    assert_close(cka_both(xs, ys), xs, ys)


@pytest.mark.parametrize("data", DATA)
def test_difficult_data(data):
    xs, ys = (DATA[data](x).astype(np.float32) for x in features())
    assert_close(cka_both(xs, ys), xs, ys)


@pytest.mark.parametrize("tile", [None, 16])
def test_biased_of_two_and_three_examples(tile):
    xs, ys = features()
    for n in (2, 3):
        values = cka_all_pairs(xs, ys, estimator="biased", mask=np.arange(40) < n, tile=tile)
        np.testing.assert_allclose(values, expected(xs[:, :n], ys[:, :n], "biased"), rtol=0, atol=1e-6)


X = [[1, 2], [0, -1], [3, 1], [-2, 0], [1, 1], [4, -3]]
Y = [[2, 0, 1], [1, 1, 0], [0, 3, -1], [1, -2, 2], [5, 0, 0], [-1, 1, 1]]
GOLD = {"debiased": Fraction(20577, 154672), "biased": Fraction(53919649, 235045399)}  # exact squares of the values


def test_exact_rationals():
    for value, estimator in zip(cka_both([X], [Y]), ESTIMATORS, strict=True):
        gold = float(GOLD[estimator]) ** 0.5
        assert value.item() == pytest.approx(gold, abs=2e-7)
        assert expected([X], [Y], estimator).item() == pytest.approx(gold, abs=1e-15)
    with jax.enable_x64(True):
        for value, estimator in zip(cka_both(np.array([X], float), np.array([Y], float)), ESTIMATORS, strict=True):
            assert value.dtype == jnp.float64
            assert value.item() == pytest.approx(float(GOLD[estimator]) ** 0.5, abs=1e-15)


def test_public_implementation():
    core = pytest.importorskip("ckatorch.core", reason="ckatorch is not installed")
    torch = pytest.importorskip("torch")
    xs, ys = (DATA["a feature of mean 1000"](x).astype(np.float64) for x in features())
    with jax.enable_x64(True):
        both = cka_both(xs, ys)
    for value, unbiased in zip(both, (True, False), strict=True):
        want = [[core.cka_base(torch.tensor(x), torch.tensor(y), "linear", unbiased).item() for y in ys] for x in xs]
        np.testing.assert_allclose(value, want, rtol=0, atol=1e-9)


def test_half_precision_is_computed_in_float32():
    xs, ys = (jnp.asarray(x + 10, dtype) for x, dtype in zip(features(), ("float16", "bfloat16"), strict=True))
    both = cka_both(xs, ys)
    assert both.debiased.dtype == jnp.float32
    assert_close(both, xs, ys)


def test_all_pairs_is_either_estimator():
    xs, ys = features()
    both = cka_both(xs, ys)
    for estimator in ESTIMATORS:
        value = cka_all_pairs(xs, ys, estimator=estimator)
        assert value.shape == (3, 2)
        np.testing.assert_allclose(value, getattr(both, estimator), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(cka_all_pairs(xs, ys), cka_all_pairs(xs, ys, estimator="debiased"))


def test_accepts_torch_and_lists():
    torch = pytest.importorskip("torch")
    xs, ys = features()
    want = cka_both(xs, ys)
    assert_close(cka_both(jnp.asarray(xs), ys.tolist()), xs, ys)
    for got in (cka_both(torch.tensor(xs, requires_grad=True), ys), cka_both(np.asfortranarray(xs), torch.tensor(ys))):
        np.testing.assert_array_equal(got, want)
    strided = torch.tensor(np.repeat(xs, 2, 1)).bfloat16()[:, ::2]
    assert_close(cka_both(strided, ys), strided.float().numpy(), ys)


# --- what it means ---


def rotate(x, rng):
    return x @ np.linalg.qr(rng.standard_normal(x.shape[-1:] * 2))[0]


UNCHANGED = {
    "rotation": rotate,
    "reflection": lambda x, rng: x * rng.choice([-1, 1], x.shape[-1]),
    "permuted features": lambda x, rng: x[..., rng.permutation(x.shape[-1])],
    "one scale": lambda x, rng: 37.0 * x,
    "shift": lambda x, rng: x + 5 * rng.standard_normal(x.shape[-1]),
}
CHANGED = {
    "linear map": lambda x, rng: x @ (rng.standard_normal(x.shape[-1:] * 2) * 4.0 ** np.arange(x.shape[-1])),
    "scale per feature": lambda x, rng: x * np.exp(2 * rng.standard_normal(x.shape[-1])),
    "permuted examples, one side": lambda x, rng: x[:, rng.permutation(x.shape[1])],
}


@pytest.mark.parametrize("change", UNCHANGED | CHANGED)
def test_invariance(change):
    xs, ys = features()
    changed = (UNCHANGED | CHANGED)[change](xs, np.random.default_rng(0)).astype(np.float32)
    for before, after in zip(cka_both(xs, ys), cka_both(changed, ys), strict=True):
        difference = np.abs(after - before)
        if change in UNCHANGED:
            assert difference.max() < 2e-6
        else:
            assert difference[2, 1] > 0.1  # the pair of layers that shares most


def test_permuting_examples_on_both_sides_changes_nothing():
    xs, ys = features()
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(cka_both(xs[:, order], ys[:, order]), cka_both(xs, ys), rtol=0, atol=1e-6)


def test_symmetry_and_self_similarity():
    xs, ys = features()
    for xy, yx in zip(cka_both(xs, ys), cka_both(ys, xs), strict=True):
        np.testing.assert_allclose(xy, yx.T, rtol=0, atol=1e-6)
    itself = cka_both(xs, xs)
    assert_close(itself, xs, xs)
    assert_close(cka_both(xs, xs.copy()), xs, xs)
    for xx in itself:
        np.testing.assert_allclose(np.diag(xx), 1, rtol=0, atol=3e-7)
        np.testing.assert_allclose(xx, xx.T, rtol=0, atol=3e-7)


def test_unrelated_data_and_planted_factors():
    rng, n, d = np.random.default_rng(0), 100, 400
    xs, ys = rng.standard_normal((2, 6, n, d))
    latents = rng.standard_normal((3, n, 5))  # layers 0, 1, 2 of both sides see latent 0, 1, 2, each in its own basis
    planted = np.eye(6, dtype=bool) & (np.arange(6) < 3)
    for side in (xs, ys):
        side[:3] = latents @ rng.standard_normal((3, 5, d)) + 0.5 * side[:3]
    both = cka_both(xs, ys)
    assert both.debiased[planted].min() > 0.8
    assert np.abs(both.debiased[~planted]).max() < 0.1
    assert np.abs(both.debiased[3:, 3:].mean()) < 0.01
    assert (both.debiased < 0).any()  # not clamped
    np.testing.assert_allclose(both.biased[3:, 3:], d / (n + d), rtol=0, atol=0.02)


def test_repeated_prompts_raise_cka_of_unrelated_data():
    xs, ys = (np.repeat(x[:1, :20], 2, 1).repeat(len(x), 0) for x in features())  # layers 0 share nothing
    assert cka_both(xs, ys).debiased.min() > 0.3


def test_gradient_is_right_and_finite_beside_missing_layers():
    xs, ys = features()
    xs[1] = 1.0
    xs[2, 0, 0] = np.nan
    slopes = jax.grad(lambda x: jnp.nansum(cka_all_pairs(x, ys)))(jnp.asarray(xs))
    assert (slopes[1:] == 0).all()
    step = 1e-6 * (place(xs, 3, 1) & place(xs, 2, 2))[0]
    slope = (expected(xs[:1] + step, ys, "debiased") - expected(xs[:1] - step, ys, "debiased")).sum() / 2e-6
    assert slopes[0, 3, 2] == pytest.approx(slope, rel=1e-3)
