"""The rbf kernel: its exact median, its values, its limits; and the level of biased CKA for unrelated layers."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.cka import biased_null_mean, cka_all_pairs, cka_both, cka_same_layer, missing_reason
from tests.analysis.cka_cases import (
    DATA,
    ESTIMATORS,
    assert_close,
    expected,
    features,
    gram,
    hsic_debiased,
    missing_layers,
    place,
)


def rbf(xs, ys, bandwidth=1.0, **options):
    return cka_both(xs, ys, kernel="rbf", bandwidth=bandwidth, **options)


@pytest.mark.parametrize("bandwidth", [0.2, 0.5, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("tile", [None, 16])
def test_definition(bandwidth, tile):
    xs, ys = features()
    assert_close(rbf(xs, ys, bandwidth, tile=tile), xs, ys, bandwidth=bandwidth)


@pytest.mark.parametrize("n", [3, 4, 5, 21])
def test_median_of_any_number_of_pairs(n):
    """3, 6, 10, 210 pairs among rows that are left out: the middle one, or the mean of the middle two."""
    xs, ys = features()
    keep = np.zeros(40, bool)
    keep[np.random.default_rng(n).permutation(40)[:n]] = True
    for estimator in ESTIMATORS[n < 4 :]:
        xs_only = np.where(keep[:, None], xs, np.nan)
        values = cka_all_pairs(xs_only, ys, kernel="rbf", estimator=estimator, mask=keep)
        np.testing.assert_allclose(values, expected(xs[:, keep], ys[:, keep], estimator, 1.0), rtol=0, atol=1e-6)


def test_several_pieces():
    xs, ys = features(401)
    assert_close(rbf(xs, ys), xs, ys, bandwidth=1.0)


# With a feature that no other row shares, distances of that row are large, and exp is 0 for it.
@pytest.mark.parametrize("data", [name for name in DATA if "first row" not in name])
def test_difficult_data(data):
    xs, ys = (DATA[data](x).astype(np.float32) for x in features())
    assert_close(rbf(xs, ys), xs, ys, bandwidth=1.0)


def test_float64():
    with jax.enable_x64(True):
        xs, ys = (x.astype(np.float64) for x in features())
        assert_close(rbf(xs, ys, 0.7), xs, ys, bandwidth=0.7, atol=1e-14)


def test_public_implementation():
    """ckatorch has one threshold for both sides, times the lower median of all n² pairs: it is set so that σ is ours."""
    core = pytest.importorskip("ckatorch.core", reason="ckatorch is not installed")
    torch = pytest.importorskip("torch")
    x = features()[0][2].astype(np.float64)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]
    y = (x @ rotation)[np.r_[1, 0, 2:40]]  # as a set the same rows, so with the same median
    distance2 = ((x[:, None] - x) ** 2).sum(-1)
    threshold = np.sqrt(np.median(distance2[np.triu_indices(40, 1)]) / torch.tensor(distance2).median().item())
    with jax.enable_x64(True):
        both = rbf(x[None], y[None])
    for value, unbiased in zip(both, (True, False), strict=True):
        want = core.cka_base(torch.tensor(x), torch.tensor(y), "rbf", unbiased, threshold).item()
        assert 0.1 < want < 0.99
        assert value.item() == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("tile", [None, 16])
def test_tends_to_linear_as_the_bandwidth_grows(tile):
    xs, ys = features()
    linear = cka_both(xs, ys)
    gaps = []
    for bandwidth in (3, 10, 1e3, 1e6, 1e12):
        wide = rbf(xs, ys, bandwidth, tile=tile)
        gaps.append(max(np.abs(a - b).max() for a, b in zip(wide, linear, strict=True)))
    assert gaps[0] > 1e-3
    assert gaps[0] > 5 * gaps[1]  # as 1 / bandwidth²
    assert max(gaps[2:]) < 1e-6


def test_sees_what_is_not_linear():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 1))
    xs, ys = x[None], (x**2)[None]
    assert abs(cka_all_pairs(xs, ys).item()) < 0.05
    assert cka_all_pairs(xs, ys, kernel="rbf", bandwidth=0.5).item() > 0.2
    unrelated = rng.standard_normal((1, 400, 1))
    assert abs(cka_all_pairs(xs, unrelated, kernel="rbf", bandwidth=0.5).item()) < 0.05


def test_invariances():
    xs, ys = features()
    before = rbf(xs, ys)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]
    for changed in (xs @ rotation, 37 * xs, 1e-18 * xs, xs + np.arange(20), xs[..., ::-1]):
        np.testing.assert_allclose(rbf(changed.astype(np.float32), ys), before, rtol=0, atol=2e-6)
    for changed in (xs * 2.0 ** np.arange(20), xs[:, ::-1]):
        assert (
            np.abs(np.asarray(rbf(changed.astype(np.float32), ys))[:, 2, 1] - np.asarray(before)[:, 2, 1]).max() > 0.05
        )


@pytest.mark.parametrize("tile", [None, 8])
def test_missing(tile):
    """As linear; and layers of which half of all pairs, or more, are equal rows have no bandwidth."""
    xs, ys = missing_layers(), features(30)[1]
    xs[7, :22] = xs[7, 0]  # 231 of 435 pairs
    both = rbf(xs, ys, nonfinite="missing", tile=tile)
    none = "no bandwidth: at least half of all pairs of rows are equal"
    for estimator, missing in (("debiased", [1, 2, 3, 4, 5, 6, 7]), ("biased", [1, 2, 3, 4, 7])):
        value = np.asarray(getattr(both, estimator))
        assert np.flatnonzero(np.isnan(value).all(1)).tolist() == missing
        assert np.isfinite(np.delete(value, missing, 0)).all()
        reasons = missing_reason(xs, estimator=estimator, kernel="rbf", values=value)
        assert [layer for layer, reason in enumerate(reasons) if reason] == missing
        assert reasons[4] == reasons[7] == none
    xs[7, :21] = np.random.default_rng(1).standard_normal((21, 30))  # most pairs differ again
    assert np.isfinite(rbf(xs, ys, nonfinite="missing", tile=tile).debiased[7]).all()


def test_gradient_with_the_bandwidth_fixed():
    xs, ys = features()
    xs[1] = 1.0
    slopes = jax.grad(lambda x: jnp.nansum(cka_all_pairs(x, ys, kernel="rbf")))(jnp.asarray(xs))
    assert (slopes[1] == 0).all()

    def median(x):
        return np.median(((x[:, None] - x) ** 2).sum(-1)[np.triu_indices(40, 1)])

    def value(x):
        bandwidth = np.sqrt(median(xs[0].astype(np.float64)) / median(x))  # of xs[0], in units of the median of x
        K, Ls = gram(x, bandwidth), [gram(y, 1.0) for y in ys]
        return sum(hsic_debiased(K, L) / np.sqrt(hsic_debiased(K, K) * hsic_debiased(L, L)) for L in Ls)

    step = 1e-4 * (place(xs, 3, 1) & place(xs, 2, 2))[0]
    slope = (value(xs[0] + step) - value(xs[0] - step)) / 2e-4
    assert slopes[0, 3, 2] == pytest.approx(slope, rel=1e-3)


# --- the level of biased CKA ---


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_biased_null_mean_by_monte_carlo(kernel):
    xs, ys = features(12, 30, 5)
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(12) for _ in range(300)])
    permuted = np.moveaxis(ys[:, orders], 1, 0).reshape(-1, 12, 5)  # all permutations as layers: one program
    values = cka_all_pairs(xs, permuted, estimator="biased", kernel=kernel)
    values = np.asarray(values).reshape(3, 300, 2)
    error = values.std(1) / np.sqrt(300)
    mean = biased_null_mean(xs, ys, kernel=kernel)
    assert mean.shape == (3, 2)
    assert np.abs(values.mean(1) - mean).max() < 4 * error.max()
    assert error.max() < 0.015


def test_biased_null_mean_in_exact_small_cases():
    """All 24 permutations of four examples; and Gaussian features, near d/(n+d)."""
    xs, ys = features(4)
    values = [expected(xs, ys[:, list(order)], "biased") for order in permutations(range(4))]
    np.testing.assert_allclose(biased_null_mean(xs, ys), np.mean(values, 0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(biased_null_mean(xs, xs), biased_null_mean(xs, xs.copy()), rtol=0, atol=1e-6)
    rng = np.random.default_rng(0)
    xs, ys = rng.standard_normal((2, 1, 100, 400)).astype(np.float32)
    assert biased_null_mean(xs, ys).item() == pytest.approx(0.8, abs=0.01)
    assert np.isnan(biased_null_mean(xs[:, :, :1] * 0, ys)).all()
    keep = np.arange(100) < 50
    np.testing.assert_allclose(biased_null_mean(xs, ys, mask=keep), biased_null_mean(xs[:, :50], ys[:, :50]), atol=1e-6)


def test_same_layer_is_the_diagonal():
    xs, ys = features(200, 9, 7)
    for estimator in ESTIMATORS:
        values = cka_same_layer(xs[:2], ys, kernel="rbf", estimator=estimator)
        np.testing.assert_allclose(values, np.diag(expected(xs[:2], ys, estimator, 1.0)), rtol=0, atol=1e-6)
