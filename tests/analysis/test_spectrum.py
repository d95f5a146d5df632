"""Spectra against float64, scikit-learn and scipy, known singular values, and curves whose curvature is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from analysis import spectrum as module
from analysis.spectrum import (
    Summary,
    curvature,
    dimensions_for_variance,
    effective_rank,
    matrix_entropy,
    participation_ratio,
    rankme,
    spectrum,
    summary,
)
from tests.analysis.hard_layers import CHANGES, HARD, features, hard, rotation


def singular_values(x, centre=True):
    x = np.asarray(x, np.float64)
    return np.linalg.svd(x - x.mean(0) * centre, compute_uv=False)


def by_definition(x, centre=True):
    """float64, from the definitions and scipy's entropy."""
    sigma = singular_values(x, centre)
    p = sigma**2 / (sigma**2).sum()
    return Summary(
        variance=(sigma**2).sum() / (len(x) - centre),
        largest_share=p[0],
        dimensions=1 + (np.cumsum(p) < 0.99).sum(),
        participation_ratio=1 / (p**2).sum(),
        effective_rank=np.exp(scipy.stats.entropy(sigma)),
        matrix_entropy=scipy.stats.entropy(p),
    )


def assert_summary(value, xs, rtol, **settings):
    want = Summary(*zip(*(by_definition(x, **settings) for x in xs), strict=True))
    for name in Summary._fields:
        np.testing.assert_allclose(getattr(value, name), getattr(want, name), rtol=rtol, atol=0, err_msg=name)


@pytest.mark.parametrize("data", [data for data in HARD if "20" not in data])
def test_definitions_on_difficult_data(data):
    xs, _ = hard(data)
    assert_summary(summary(xs), xs, 1e-5)
    assert_summary(summary(xs, method="gram"), xs, 1e-5 if data != "large first row" else 1e-3)
    sigma = np.stack([singular_values(x) for x in xs])
    np.testing.assert_allclose(np.sqrt(spectrum(xs) * 39), sigma, rtol=0, atol=2e-6 * sigma.max())


@pytest.mark.parametrize("data", ["scale 1e-20", "scale 1e+20"])
def test_squares_out_of_range(data):
    """Eigenvalues vanish or overflow, and are not mistaken for numbers."""
    values = summary(hard(data)[0])
    assert (np.asarray(values.variance) == (0 if "-" in data else np.inf)).all()
    assert np.isnan(values[1:]).all()


@pytest.mark.parametrize("shape", [(12, 30), (12, 12), (60, 20)])
def test_more_and_fewer_features_than_examples(shape):
    xs, _ = features(*shape)
    for method in ("svd", "gram"):
        assert spectrum(xs, method=method).shape == (3, min(shape))
        assert_summary(summary(xs, method=method), xs, 2e-5)
    np.testing.assert_allclose(rankme(xs), [by_definition(x, centre=False).effective_rank for x in xs], rtol=1e-5)
    assert_summary(summary(xs, centre=False), xs, 1e-5, centre=False)


def test_scikit_learn_pca():
    PCA = pytest.importorskip("sklearn.decomposition").PCA
    xs, _ = features(60, 20)
    for x, values in zip(xs, spectrum(xs), strict=True):
        np.testing.assert_allclose(values, PCA().fit(x.astype(np.float64)).explained_variance_, rtol=1e-5)
        for share in (0.5, 0.9, 0.985):
            kept = PCA(share, svd_solver="full").fit(x.astype(np.float64)).n_components_
            assert dimensions_for_variance(values, share) == kept


TIE = np.array([90, 9, 0.9, 0.1])  # 99 % after two: a tie


def test_dimensions_at_and_near_a_tie():
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            values = TIE.astype(dtype)
            got = [
                dimensions_for_variance(values, share).item()
                for share in (0.5, 0.9, 0.901, 0.985, 0.99, 0.9901, 0.9995)
            ]
            assert got == [1, 1, 2, 2, 2, 3, 4]
    q = np.linalg.qr(np.concatenate([np.ones((30, 1)), np.random.default_rng(0).standard_normal((30, 4))], 1))[0][:, 1:]
    assert summary((q * np.sqrt(TIE))[None]).dimensions.tolist() == [2]  # of σ, not σ², it would be 4
    assert summary((q * np.sqrt(TIE))[None] + 100, method="gram").dimensions.tolist() == [2]


def test_known_spectra():
    flat, one = np.ones(16), np.eye(16)[0]
    for values, k in ((flat, 16), (one, 1)):
        for number in (participation_ratio(values), effective_rank(values), jnp.exp(matrix_entropy(values))):
            assert number == pytest.approx(k, rel=1e-6)
        for alpha in (0.5, 2, 7, float("inf")):
            assert matrix_entropy(values, alpha=alpha) == pytest.approx(np.log(k), abs=1e-5)
    assert matrix_entropy(flat, out_of=16) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(matrix_entropy(np.stack([flat, flat]), out_of=[4, 256]), [2, 0.5], rtol=1e-6)
    p = TIE / 100
    for alpha in (0.3, 2.5):
        assert matrix_entropy(TIE, alpha=alpha) == pytest.approx(np.log((p**alpha).sum()) / (1 - alpha), rel=1e-5)
    assert matrix_entropy(TIE, alpha=2) == pytest.approx(np.log(participation_ratio(TIE)), abs=1e-6)
    assert matrix_entropy(TIE, alpha=float("inf")) == pytest.approx(-np.log(0.9), abs=1e-6)
    assert matrix_entropy(TIE, alpha=1.0001) == pytest.approx(matrix_entropy(TIE).item(), abs=1e-3)
    assert effective_rank(TIE, squared=True) == pytest.approx(np.exp(scipy.stats.entropy(p)), rel=1e-6)
    assert effective_rank(TIE) > effective_rank(TIE, squared=True)
    for scale in (1e30, 1e-30):  # whose squares are out of range
        assert participation_ratio(TIE * scale) == pytest.approx(1 / (p**2).sum(), rel=1e-5)


def test_a_tail_that_squares_lose():
    """σ from 1 to 1e-5: the Gram keeps λ down to 1e-6 of the largest, and the effective rank sees what is missing."""
    rng = np.random.default_rng(0)
    sigma = np.logspace(0, -5, 60)
    u = np.linalg.qr(np.concatenate([np.ones((90, 1)), rng.standard_normal((90, 60))], 1))[0][:, 1:]
    x = ((u * sigma) @ rotation(60, rng))[None]
    want = np.exp(scipy.stats.entropy(sigma))
    assert summary(x).effective_rank.item() == pytest.approx(want, rel=1e-5)
    assert 1e-3 < 1 - summary(x, method="gram").effective_rank.item() / want < 0.05


UNCHANGED = {"rotation", "signs", "one scale", "shift", "order of examples"}


@pytest.mark.parametrize("change", CHANGES)
def test_invariance(change):
    xs, _ = features()
    changed = CHANGES[change](xs, np.random.default_rng(0)).astype(np.float32)
    for centre, unchanged in ((True, UNCHANGED), (False, UNCHANGED - {"shift"})):
        before, after = (np.stack(summary(x, centre=centre)[1:]) for x in (xs, changed))
        if change in unchanged:
            np.testing.assert_allclose(after, before, rtol=2e-5, atol=0)
        else:
            assert np.abs(after / before - 1).max() > 0.01


def test_forms_masks_and_vmap():
    xs, _ = features()
    kept = np.arange(40) % 3 > 0
    for padding in (1e6, np.nan):
        padded = np.where(kept[:, None], xs, padding).astype(np.float32)
        assert_summary(summary(padded, mask=kept), xs[:, kept], 1e-5)
        assert_summary(summary(padded, mask=kept, centre=False), xs[:, kept], 1e-5, centre=False)
    both = jax.vmap(lambda x, mask: summary(x, mask=mask))(np.stack([xs, padded]), np.stack([kept | True, kept]))
    assert_summary(jax.tree.map(lambda value: value[0], both), xs, 1e-5)
    assert_summary(jax.tree.map(lambda value: value[1], both), xs[:, kept], 1e-5)
    assert_summary(summary([xs[0], xs[1][:, :9]]), [xs[0], xs[1][:, :9]], 1e-5)
    with jax.enable_x64(True):
        assert_summary(summary(xs.astype(np.float64)), xs, 1e-12)
    unit = xs / np.linalg.norm(xs, axis=-1, keepdims=True)
    np.testing.assert_allclose(spectrum(xs * 7, unit_rows=True), spectrum(unit), rtol=1e-4, atol=1e-7)


def test_missing_and_bad_layers():
    xs, _ = features()
    xs[1] = 3.7
    values = summary(xs)
    assert values.variance[1] == 0
    assert np.isnan(np.stack(values[1:])).any(0).tolist() == [False, True, False]
    assert rankme(xs)[1] == pytest.approx(1, abs=1e-5)  # one direction: the mean
    xs[2, 5, 0] = np.nan
    with pytest.raises(ValueError, match=r"xs: layer 2, row 5 is not finite as float32 \(1 such rows\)"):
        spectrum(xs)
    assert np.isnan(jax.jit(spectrum)(xs)).all(1).tolist() == [False, False, True]
    for call, message in (
        (lambda: spectrum(xs, method="qr"), "method must be one of 'svd', 'gram'"),
        (lambda: spectrum(xs[:, :1]), "a covariance needs n >= 2 examples"),
        (lambda: dimensions_for_variance(TIE, 1.0), r"share must be between 0 and 1, got 1.0"),
        (lambda: matrix_entropy(TIE, alpha=0), r"alpha must be above 0, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- curvature ---


def polygon(corners, turns, d=5, seed=0):
    """Steps of one length that turn by 2π/corners each, in a plane of `d` dimensions `[turns, d]`."""
    angle = 2 * np.pi * np.arange(turns) / corners
    plane = rotation(d, np.random.default_rng(seed))[:, :2]
    return np.stack([np.cos(angle), np.sin(angle)], 1) @ plane.T


@pytest.mark.parametrize("corners", [2, 3, 7, 1000])
def test_curvature_of_polygons(corners):
    states = polygon(corners, 20)
    for x in (states, 1e4 * states, 1e-4 * states, 1e25 * states):
        assert curvature(x.astype(np.float32)) == pytest.approx(2 * np.pi / corners, rel=1e-4)
    assert curvature(np.arange(6)[:, None] * np.ones(3)) == 0  # a straight line
    with jax.enable_x64(True):
        assert curvature(states) == pytest.approx(2 * np.pi / corners, rel=1e-11)


def test_curvature_definition_and_masks():
    states = np.random.default_rng(0).standard_normal((3, 9, 6)).astype(np.float32)

    def want(x):
        v = np.diff(x.astype(np.float64), axis=0)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        return np.arccos((v[1:] * v[:-1]).sum(1)).mean()

    np.testing.assert_allclose(curvature(states), [want(x) for x in states], rtol=1e-6)
    assert curvature(states[0]) == pytest.approx(want(states[0]), rel=1e-6)
    assert curvature(states[0][::-1]) == pytest.approx(want(states[0]), rel=1e-6)
    mask = np.array([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 1, 1, 0]], bool)
    states[~mask] = np.nan
    np.testing.assert_allclose(curvature(states, mask), [want(states[0, 2:]), want(states[1, :5]), np.nan], rtol=1e-6)
    many = np.random.default_rng(0).standard_normal((400, 3000))
    assert curvature(many) == pytest.approx(2 * np.pi / 3, abs=0.01)  # independent states
    assert curvature(np.cumsum(many, 0)) == pytest.approx(np.pi / 2, abs=0.01)  # independent steps


def test_curvature_is_missing_where_there_is_no_angle():
    states = np.random.default_rng(0).standard_normal((4, 6, 3))
    states[1, 3] = states[1, 2]
    states[2, 0, 0] = np.inf
    assert np.isnan(curvature(states)).tolist() == [False, True, True, False]
    assert np.isnan(curvature(states[0, :2]))
    with pytest.raises(
        ValueError, match=r"expected states \[..., T, d\] and a bool mask \[..., T\], got \(4, 6, 3\) and"
    ):
        curvature(states, np.ones((4, 6)))


def test_curvature_inside_a_scan_over_layers():
    first = jax.random.normal(jax.random.key(0), (2, 7, 4))
    mask = jnp.arange(7) < jnp.array([[7], [5]])

    def layer(states, scale):
        states = jnp.tanh(states * scale)
        return states, (curvature(states, mask), states)

    _, (values, states) = jax.jit(lambda x: jax.lax.scan(layer, x, jnp.array([1.0, 2.0, 3.0])))(first)
    np.testing.assert_allclose(values, [curvature(state, mask) for state in states], rtol=1e-5)
    half = states.astype(jnp.bfloat16)
    assert curvature(half, mask).dtype == jnp.float32
    np.testing.assert_allclose(curvature(half, mask), curvature(half.astype(jnp.float32), mask), rtol=1e-6)


def test_all_names_exist():
    assert all(hasattr(module, name) for name in module.__all__)
