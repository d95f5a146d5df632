"""CKA of same layers, from features or Grams; and the estimator that only sees batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import layerwise
from analysis.cka import cka_all_pairs, cka_same_layer, minibatch_cka
from tests.analysis.cka_cases import DATA, ESTIMATORS, MISSING, expected, features, gram, hsic_debiased, missing_layers


def assert_same_layer(xs, ys, atol=1e-6, **options):
    for estimator in ESTIMATORS:
        values = cka_same_layer(xs, ys, estimator=estimator, **options)
        want = np.diag(expected(xs, ys, estimator))
        np.testing.assert_allclose(values, want, rtol=0, atol=atol, err_msg=estimator)


@pytest.mark.parametrize("shape", [(40, 20, 12), (1100, 20, 12), (4, 2, 1), (16, 600, 400), (33, 20, 12)])
def test_definition(shape):
    """d < n by features, among them more rows than a block; d > n and d1 + d2 just below n."""
    xs, ys = features(*shape)
    assert_same_layer(xs[:2], ys)


@pytest.mark.parametrize("data", DATA)
def test_difficult_data(data):
    xs, ys = (DATA[data](x).astype(np.float32) for x in features())
    assert_same_layer(xs[1:], ys)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_rows_that_are_too_long_for_features_are_left_to_the_gram(size):
    xs, ys = features()
    xs[:, 3] *= size
    keep = np.ones(40, bool)
    exact = layerwise._by_features(xs[2:], ys[1:], keep, jnp.float32)[-1]
    assert bool(exact) == (size == 1)
    assert_same_layer(xs[1:], ys)


def test_float64_and_the_two_forms():
    """Both forms are equal up to the rounding of float64, by the same identity."""
    with jax.enable_x64(True):
        xs, ys = (x.astype(np.float64) for x in features(60))
        assert_same_layer(xs[1:], ys, atol=1e-14)
        pairs = np.diag(cka_all_pairs(xs[1:], ys))
        np.testing.assert_allclose(cka_same_layer(xs[1:], ys), pairs, rtol=0, atol=1e-14)


def test_missing_layers_are_those_of_all_pairs():
    xs = missing_layers()
    repeated = np.concatenate([xs, xs], 1)[:, :, :14]  # 60 x 14: by features
    ys = np.random.default_rng(1).standard_normal((8, 60, 14))
    for side, other in ((xs, features(30)[1][[0, 1] * 4]), (repeated, ys)):
        for estimator in ESTIMATORS:
            pairs = np.diagonal(cka_all_pairs(side, other, estimator=estimator, nonfinite="missing"))
            values = cka_same_layer(side, other, estimator=estimator, nonfinite="missing")
            np.testing.assert_allclose(values, pairs, rtol=0, atol=1e-6)
            if side is xs:
                assert np.flatnonzero(np.isnan(values)).tolist() == MISSING[estimator]


def test_one_side_masks_and_vmap():
    xs, ys = features()
    np.testing.assert_allclose(cka_same_layer(xs, xs), 1, rtol=0, atol=3e-7)
    keep = np.arange(40) < np.array([[40], [17], [4], [3]])
    stacked = jax.vmap(lambda mask: cka_same_layer(xs[1:], ys, mask=mask))(keep)
    for n, values in zip((40, 17, 4), stacked, strict=False):
        want = np.diag(expected(xs[1:, :n], ys[:, :n], "debiased"))
        np.testing.assert_allclose(values, want, rtol=0, atol=1e-6)
        np.testing.assert_allclose(cka_same_layer(xs[1:], ys, mask=np.arange(40) < n), want, rtol=0, atol=1e-6)
    assert np.isnan(stacked[3]).all()


# --- batches ---


def by_definition(batches):
    sums = np.zeros((3, 3, 2))
    for xs, ys in batches:
        centred = [[x.astype(np.float64) - x.astype(np.float64).mean(0) for x in side] for side in (xs, ys)]
        Ks, Ls = ([x @ x.T for x in side] for side in centred)
        sums[0] += [[hsic_debiased(K, L) for L in Ls] for K in Ks]
        sums[1] += np.array([hsic_debiased(K, K) for K in Ks])[:, None]
        sums[2] += [hsic_debiased(L, L) for L in Ls]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def test_minibatches():
    """Batches of different sizes and scales: sums of HSIC_1, then the ratio; not the mean of ratios."""
    xs, ys = features(60)
    xs[:, 20:50] *= 5
    batches = [(xs[:, i:j], ys[:, i:j]) for i, j in ((0, 20), (20, 50), (50, 60))]
    value = minibatch_cka(batches)
    assert value.shape == (3, 2)
    np.testing.assert_allclose(value, by_definition(batches), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(minibatch_cka(iter(batches)), value)
    assert np.abs(value - cka_all_pairs(xs, ys)).max() > 1e-3
    np.testing.assert_allclose(minibatch_cka([(xs, ys)]), cka_all_pairs(xs, ys), rtol=0, atol=1e-6)
    scaled = [(1e-18 * x, 1e15 * y) for x, y in batches]
    np.testing.assert_allclose(minibatch_cka(scaled), value, rtol=0, atol=1e-6)
    itself = minibatch_cka([(x, x) for x, _ in batches])
    np.testing.assert_allclose(np.diag(itself), 1, rtol=0, atol=1e-6)


def test_minibatches_without_structure_add_nothing():
    xs, ys = features(20)
    flat = np.ones_like(xs), ys
    one_hot = np.tile(np.eye(20, dtype=np.float32), (3, 1, 1)), ys
    # HSIC_1 of K with itself is 0 in these batches, that of L with itself is not.
    K, L = gram(xs[2]), gram(ys[1])
    for batch in (flat, one_hot):
        value = minibatch_cka([(xs, ys), batch])
        ratio = np.sqrt(hsic_debiased(L, L) / (2 * hsic_debiased(L, L)))
        want = hsic_debiased(K, L) / np.sqrt(hsic_debiased(K, K) * hsic_debiased(L, L)) * ratio
        assert value[2, 1] == pytest.approx(want, abs=1e-6)
    assert np.isnan(minibatch_cka([flat, one_hot])).all()


def test_minibatch_mean_is_near_the_value_for_many_batches():
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((6400, 5))
    xs, ys = ((latent @ rng.standard_normal((5, 8)) + rng.standard_normal((6400, 8)))[None] for _ in range(2))
    whole = cka_same_layer(xs, ys).item()
    batches = [(xs[:, i : i + 32], ys[:, i : i + 32]) for i in range(0, 6400, 32)]
    assert minibatch_cka(batches).item() == pytest.approx(whole, abs=0.02)
