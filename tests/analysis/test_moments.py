"""Covariances gathered from batches against NumPy's of all examples at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.moments import covariance, covariance_spectrum, covariance_update, mean, merge
from analysis.spectrum import spectrum
from tests.analysis.hard_layers import HARD, features, hard


def batches(xs, *sizes):
    return np.split(xs, np.cumsum(sizes), axis=1)


def gathered(parts):
    return functools.reduce(covariance_update, parts, None)


def assert_moments(moments, xs, tolerance=2e-6):
    """Entries within `tolerance` of the largest in their layer, or of float32's rounding of the mean."""
    assert moments.examples == xs.shape[1]
    for got, centre, x in zip(covariance(moments), mean(moments), np.asarray(xs, np.float64), strict=True):
        want = np.cov(x.T)
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())
        np.testing.assert_allclose(centre, x.mean(0), rtol=2e-7, atol=tolerance * np.abs(x).max())


@pytest.mark.parametrize("data", [data for data in HARD if "20" not in data])
def test_batches_of_any_size_are_all_at_once(data):
    xs, _ = hard(data)
    moments = gathered(batches(xs, 1, 12, 12))  # 1, 12, 12 and 15 examples
    assert_moments(moments, xs)
    want = np.asarray(spectrum(xs))
    np.testing.assert_allclose(covariance_spectrum(moments), want, rtol=0, atol=3e-6 * want.max())


def test_batches_whose_means_differ():
    """As of tasks one after the other, with a common mean of 10,000."""
    rng = np.random.default_rng(0)
    parts = [
        (rng.standard_normal((2, 50, 6)) + 10_000 + 3 * rng.standard_normal(6)).astype(np.float32) for _ in range(60)
    ]
    xs = np.concatenate(parts, 1)
    assert_moments(gathered(parts), xs)
    tree = [covariance_update(None, part) for part in parts]
    while len(tree) > 1:
        tree = [functools.reduce(merge, tree[i : i + 3]) for i in range(0, len(tree), 3)]
    assert_moments(tree[0], xs)


def test_second_moments_without_centring():
    xs, _ = hard("common offset 1000")
    moments = gathered(batches(xs, 20))
    want = np.stack([x.T @ x / len(x) for x in xs.astype(np.float64)])
    np.testing.assert_allclose(covariance(moments, centre=False), want, rtol=1e-6)
    got, want = covariance_spectrum(moments, centre=False), np.asarray(spectrum(xs, centre=False))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * want.max())


def test_padded_and_empty_batches():
    xs, _ = features()
    moments = None
    for start in (0, 16, 32, 48):  # the third is half full, the last is empty
        part = np.full((3, 16, 14), np.nan, np.float32)
        rows = xs[:, start : start + 16]
        part[:, : rows.shape[1]] = rows
        moments = covariance_update(moments, part, mask=np.arange(16) < rows.shape[1])
    assert_moments(moments, xs)
    empty = covariance_update(None, xs, mask=np.zeros(40, bool))
    assert empty.examples == 0
    assert_moments(merge(empty, moments), xs)
    assert np.isnan(covariance(covariance_update(None, xs[:, :1]))).all()  # 0/0: one example has no covariance


def test_inside_a_scan_and_in_float64():
    xs, _ = features(40)
    start = covariance_update(None, xs[:, :8])
    rest = jnp.asarray(np.stack(batches(xs[:, 8:], 8, 8, 8)))
    moments = jax.jit(lambda m, rest: jax.lax.scan(lambda m, x: (covariance_update(m, x), None), m, rest)[0])(
        start, rest
    )
    assert_moments(moments, xs)
    with jax.enable_x64(True):
        assert_moments(gathered(batches(xs.astype(np.float64), 7)), xs, 1e-14)


def test_errors_name_what_is_wrong():
    xs, _ = features()
    moments = covariance_update(None, xs)
    with pytest.raises(ValueError, match=r"moments of \(3, 14\) \[layers, features\] cannot take in \(3, 9\)"):
        covariance_update(moments, xs[:, :, :9])
    xs[1, 3] = np.inf
    with pytest.raises(ValueError, match=r"xs: layer 1, row 3 is not finite as float32"):
        covariance_update(moments, xs)
    assert np.isnan(covariance(jax.jit(lambda x: covariance_update(moments, x))(xs))).any((1, 2)).tolist() == [0, 1, 0]
