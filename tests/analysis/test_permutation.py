"""Permutation tests of CKA: against all n! orders in float64, the closed forms, and error rates on made-up layers."""

import itertools

import jax
import numpy as np
import pytest
from scipy.stats import kstest

from analysis import permutation
from analysis.cka import biased_null_mean, cka_both
from analysis.permutation import debiased_null_sd, permutation_test


def layers(l1, l2, n, d, shared=0.0, seed=0):
    """xs `[l1, n, d]`, ys `[l2, n, d]`, whose last layers share factors of size `shared`."""
    rng = np.random.default_rng(seed)
    xs, ys = rng.standard_normal((l1, n, d)), rng.standard_normal((l2, n, d))
    factors = shared * rng.standard_normal((n, 3))
    xs[-1, :, :3] += factors
    ys[-1, :, :3] += factors
    return xs.astype(np.float32), ys.astype(np.float32)


def centred(x, estimator):
    """The centred Gram of length one, from the definition."""
    x = np.asarray(x, np.float64) - np.mean(x, 0, dtype=np.float64)
    n, K = len(x), x @ x.T
    if estimator == "debiased":
        K = K - np.diag(np.diag(K))
        r = K.sum(1) / (n - 2)
        K = K - r[:, None] - r + r.sum() / (n - 1)
        K = K - np.diag(np.diag(K))
    return K / np.linalg.norm(K)


# --- the definition ---


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_all_orders(estimator):
    """n = 6 has 720 orders: exact null moments, p-values, and nothing drawn that is not one of them."""
    xs, ys = layers(2, 3, 6, 4, shared=2.0)
    orders = list(itertools.permutations(range(6)))
    A, B = ([centred(x, estimator) for x in side] for side in (xs, ys))
    null = np.array([[[(a * b[np.ix_(p, p)]).sum() for b in B] for a in A] for p in orders])
    if estimator == "debiased":
        np.testing.assert_allclose(null.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(null.std(0), debiased_null_sd(6), atol=1e-12)  # exactly, for every pair of layers
    else:
        traces = np.outer([np.trace(a) for a in A], [np.trace(b) for b in B])
        np.testing.assert_allclose(null.mean(0), traces / 5, atol=1e-12)
        np.testing.assert_allclose(null.mean(0), biased_null_mean(xs, ys), atol=1e-6)
    found = permutation_test(xs, ys, permutations=3000, estimator=estimator)
    np.testing.assert_allclose(found.value, getattr(cka_both(xs, ys), estimator), atol=1e-6)
    distance = np.abs(found.null[:50, None] - null[None]).max((2, 3)).min(1)  # the same order in all pairs
    assert distance.max() < 1e-6
    assert len(np.unique(np.abs(found.null[:50, None] - null[None]).max((2, 3)).argmin(1))) > 30
    exact = (null >= null[0] - 1e-9).mean(0)
    np.testing.assert_allclose(found.p_value, exact, atol=4 * np.sqrt(0.25 / 3000))
    np.testing.assert_allclose(found.null_mean, null.mean(0), atol=4 * null.std() / np.sqrt(3000))
    np.testing.assert_allclose(found.null_sd, null.std(0), rtol=0.06)


def test_p_values_are_counts():
    """p and family-wise p, counted again from the null values that are returned."""
    xs, ys = layers(3, 2, 30, 5, shared=0.5, seed=3)
    for estimator in ("debiased", "biased"):
        found = permutation_test(xs, ys, permutations=99, estimator=estimator, seed=5)
        scores, null = found.value, found.null
        if estimator == "biased":  # relative to mean and sd of all orders, the given one among them
            every = np.concatenate([found.value[None], null])
            scores, null = ((v - every.mean(0)) / every.std(0) for v in (scores, null))
        for pair in np.ndindex(3, 2):
            count = sum(null[b][pair] >= scores[pair] for b in range(99))
            assert found.p_value[pair] == pytest.approx((1 + count) / 100, abs=1e-12)
            count = sum(null[b].max() >= scores[pair] for b in range(99))
            assert found.p_familywise[pair] == pytest.approx((1 + count) / 100, abs=1e-12)
        assert (found.p_familywise >= found.p_value).all()


def test_null_moments_of_any_features():
    """n > d, n < d, heavy rows, few directions: the debiased null has the same moments, the biased one that of tr K tr L."""
    rng = np.random.default_rng(0)
    xs, ys = layers(4, 1, 40, 30)
    xs[1, :, 2:] = 0
    xs[2] *= np.exp(rng.standard_normal((40, 1)))
    xs[3] = xs[3, :, :1] + 0.1 * xs[3]
    found = permutation_test(xs, ys, permutations=2000)
    sd = debiased_null_sd(40)
    np.testing.assert_allclose(found.null_mean, 0, atol=4 * sd / np.sqrt(2000))
    np.testing.assert_allclose(found.null_sd, sd, rtol=0.12)  # heavy tails: the sd of an sd is up to 3 %
    biased = permutation_test(xs, ys, permutations=2000, estimator="biased")
    closed = np.asarray(biased_null_mean(xs, ys))
    np.testing.assert_allclose(biased.null_mean, closed, atol=4 * biased.null_sd.max() / np.sqrt(2000))
    assert np.ptp(closed) > 0.05  # layers differ by chance alone: hence the standardised maximum


# --- error rates ---


def test_p_is_uniform_under_independence():
    """300 independent layers against one: Kolmogorov-Smirnov, and a share of 5 % below 0.05."""
    xs, ys = layers(300, 1, 24, 10, seed=7)
    p = permutation_test(xs, ys, permutations=499).p_value[:, 0]
    assert kstest(p, "uniform").pvalue > 0.001
    assert 0.02 <= (p <= 0.05).mean() <= 0.09


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_familywise_error_and_power(estimator):
    """40 studies of 3 x 3 layers, of which one pair is related: others are seldom found, that one often."""
    false, found = 0, 0
    for seed in range(40):
        xs, ys = layers(3, 3, 40, 8, shared=1.0, seed=seed)
        p = permutation_test(xs, ys, permutations=99, estimator=estimator, seed=seed).p_familywise
        found += p[2, 2] <= 0.05
        p[2] = p[:, 2] = 1
        false += (p <= 0.05).any()
    assert false <= 6  # 2 expected of 40 at most; 6 or fewer in 99.7 % of cases
    assert found >= 30


def test_equal_rows_and_the_given_order():
    """Swapping equal rows gives the same value: it must count, in spite of rounding."""
    x = np.repeat(np.random.default_rng(0).standard_normal((1, 2, 5)), [7, 3], axis=1).astype(np.float32)
    found = permutation_test(x, x, permutations=2000)
    same = (np.array([_is_split(order) for order in permutation._orders(np.ones(10, bool), 2000, 0)[1:]])).mean()
    assert found.value.item() == pytest.approx(1, abs=1e-6)
    assert found.p_value.item() == pytest.approx((1 + 2000 * same) / 2001)
    assert same > 0.003


def _is_split(order):
    """The last three rows are still the last three."""
    return set(order[7:]) == {7, 8, 9}


# --- arguments ---


def test_mask_blocks_seed_and_precision(monkeypatch):
    xs, ys = layers(2, 3, 20, 6, shared=1.0)
    keep = np.arange(20) % 5 != 1
    padded = np.where(keep[:, None], xs, np.nan)
    inside = permutation_test(padded, ys, mask=keep, permutations=20)
    outside = permutation_test(xs[:, keep], ys[:, keep], permutations=20)
    for a, b in zip(inside, outside, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    whole = permutation_test(xs, ys, permutations=20)
    assert not np.allclose(permutation_test(xs, ys, permutations=20, seed=1).null, whole.null)
    monkeypatch.setattr(permutation, "_BLOCK", 3 * 20 * 3)  # three rows of 20, in seven blocks
    np.testing.assert_allclose(permutation_test(xs, ys, permutations=20).null, whole.null, atol=1e-6)
    with jax.enable_x64(True):
        double = permutation_test(xs.astype(float), ys.astype(float), permutations=20)
    np.testing.assert_allclose(double.null, whole.null, atol=1e-6)


def test_rbf_kernel():
    xs, ys = layers(2, 2, 25, 6, shared=2.0)
    found = permutation_test(xs, ys, permutations=200, kernel="rbf", bandwidth=0.5, estimator="biased")
    want = cka_both(xs, ys, kernel="rbf", bandwidth=0.5).biased
    np.testing.assert_allclose(found.value, want, atol=2e-6)
    mean = biased_null_mean(xs, ys, kernel="rbf", bandwidth=0.5)
    np.testing.assert_allclose(found.null_mean, mean, atol=4 * found.null_sd.max() / np.sqrt(200))


def test_difficult_data_and_missing_layers():
    """A common offset, one large mean and scales change no value; a constant layer is missing and spoils no other."""
    xs, ys = layers(2, 2, 20, 6, shared=1.0)
    found = permutation_test(xs, ys, permutations=50)
    for x in (xs + 1000, xs + np.where(np.arange(6) == 2, 10_000, 0), 1e-4 * xs, 1e4 * xs):
        x = x.astype(np.float32)
        again = permutation_test(x, ys, permutations=50)
        A, b = centred(x[1], "debiased"), centred(ys[1], "debiased")
        assert again.value[1, 1] == pytest.approx((A * b).sum(), abs=2e-6)
        np.testing.assert_allclose(again.p_value, found.p_value, atol=0.04)
    constant = np.insert(xs, 1, 3.0, axis=0)
    gap = permutation_test(constant, ys, permutations=50)
    for part, want in zip(gap, found, strict=True):
        assert np.isnan(part[..., 1, :]).all()
        np.testing.assert_allclose(np.delete(part, 1, axis=-2), want, atol=1e-6)
    nothing = permutation_test(np.ones((1, 9, 2)), ys[:, :9], permutations=5)
    assert np.isnan(nothing.p_familywise).all()


def test_errors():
    xs, ys = layers(1, 2, 9, 3)
    for message, settings in {
        "n >= 4": dict(mask=np.arange(9) < 3),
        "permutations": dict(permutations=0),
        "estimator": dict(estimator="unbiased"),
        "kernel": dict(kernel="cosine"),
        "n examples": dict(ys=ys[:, :8]),
    }.items():
        with pytest.raises(ValueError, match=message):
            permutation_test(**{"xs": xs, "ys": ys} | settings)
    xs[0, 4, 1] = np.inf
    with pytest.raises(ValueError, match="xs: layer 0, row 4"):
        permutation_test(xs, ys)
    assert np.isnan(permutation_test(xs, ys, nonfinite="missing", permutations=5).value).all()
