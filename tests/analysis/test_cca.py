"""CCA, SVCCA and PWCCA against float64, scipy's principal angles, exact constructions, and what must (not) change them."""

import numpy as np
import pytest
import scipy.linalg

from analysis.cca import cca_mean, kept_directions, missing_reason, pwcca, svcca
from tests.analysis.hard_layers import (
    CHANGES,
    HARD,
    assert_invariant,
    assert_names_bad_rows,
    assert_order_and_masks,
    assert_takes_every_form,
    expected,
    features,
    hard,
)


def directions(x, share=None):
    """Orthonormal basis of the centred features, or of the leading directions of x, float64."""
    x = x - x.mean(0)
    u, sigma, _ = np.linalg.svd(x, full_matrices=False)
    if share is None:
        return u[:, sigma > 1e-6 * sigma[0]]
    return u[:, : 1 + (np.cumsum(sigma**2) < share * (sigma**2).sum()).sum()]


def by_definition(x, y, share=None):
    u, v = directions(x, share), directions(y, share)
    return np.linalg.svd(u.T @ v, compute_uv=False).sum() / min(u.shape[1], v.shape[1])


def pwcca_by_definition(x, y):
    u, v = directions(x), directions(y)
    left, rho, _ = np.linalg.svd(u.T @ v)
    variables = (u @ left)[:, : min(u.shape[1], v.shape[1])]
    alpha = np.abs(variables.T @ (x - x.mean(0))).sum(1)
    return (alpha * rho[: len(alpha)]).sum() / alpha.sum()


@pytest.mark.parametrize("data", HARD)
def test_definitions_on_difficult_data(data):
    xs, ys = hard(data)
    for share in (0.99, 0.8):
        want = expected(lambda x, y, share=share: by_definition(x, y, share), xs, ys)
        np.testing.assert_allclose(svcca(xs, ys, share=share), want, rtol=0, atol=2e-6)
    np.testing.assert_allclose(cca_mean(xs, ys), expected(by_definition, xs, ys), rtol=0, atol=2e-6)
    # The default shape has repeated rows where 14 + 12 directions fit into 31 - 1: no ρ = 1, whose weights were not defined.
    np.testing.assert_allclose(pwcca(xs, ys), expected(pwcca_by_definition, xs, ys), rtol=0, atol=5e-6)


@pytest.mark.parametrize("shape", [(200, 30, 9), (16, 14, 3), (9, 5, 4)])
def test_scipy_principal_angles(shape):
    def cosines(x, y):
        return np.cos(scipy.linalg.subspace_angles(x - x.mean(0), y - y.mean(0))).mean()

    xs, ys = features(*shape)
    np.testing.assert_allclose(cca_mean(xs, ys), expected(cosines, xs, ys), rtol=0, atol=2e-6)


def planted(cosines, n=60, seed=0):
    """u, v `[n, k]`, orthonormal, centred, with these canonical correlations."""
    rng = np.random.default_rng(seed)
    start = np.concatenate([np.ones((n, 1)), rng.standard_normal((n, 2 * len(cosines)))], 1)
    q = np.linalg.qr(start)[0][:, 1:]
    u, w = q[:, : len(cosines)], q[:, len(cosines) :]
    return u, u * cosines + w * np.sqrt(1 - np.square(cosines))


COSINES = np.array([0.95, 0.8, 0.5, 0.2, 0.0])


def test_planted_correlations():
    u, v = planted(COSINES)
    rng = np.random.default_rng(1)
    x, y = (side @ rng.standard_normal((5, 5)) + 3 for side in (u, v))
    assert cca_mean(x[None], y[None]).item() == pytest.approx(COSINES.mean(), abs=1e-6)
    # One extra direction on one side, in nothing of the other: the mean is over the smaller number.
    assert cca_mean(x[None], y[None, :, :3]).item() > cca_mean(x[None], y[None]).item()


def test_svcca_keeps_the_fewest_directions_that_hold_the_share():
    u, v = planted(COSINES)
    sigma = np.sqrt([60, 30, 9, 0.9, 0.1])  # 90 % is a tie
    x, y = (u * sigma)[None], (v * sigma)[None]
    for share, kept in ((0.5, 1), (0.7, 2), (0.9, 2), (0.91, 3), (0.985, 3), (0.995, 4), (0.9995, 5)):
        assert kept_directions(x, share=share).tolist() == [kept]
        assert svcca(x, y, share=share).item() == pytest.approx(COSINES[:kept].mean(), abs=1e-6)
    assert svcca(x, y, dims=2).item() == pytest.approx(COSINES[:2].mean(), abs=1e-6)
    assert svcca(x, y, dims=50).item() == pytest.approx(COSINES.mean(), abs=1e-6)  # all there are
    assert kept_directions(x).tolist() == [5]


def test_pwcca_weights_are_of_the_side_named():
    u, v = planted(COSINES)
    weights = np.array([1, 5, 2, 8, 3])
    x, y = (u * weights)[None], (v * weights[::-1])[None]
    for side, w in (("x", weights), ("y", weights[::-1])):
        want = (w * COSINES).sum() / w.sum()
        assert pwcca(x, y, weights=side).item() == pytest.approx(want, abs=1e-6)
        assert pwcca(y, x, weights={"x": "y", "y": "x"}[side]).item() == pytest.approx(want, abs=1e-6)


def test_itself_and_a_part_of_itself_are_1():
    xs, _ = features()
    for measure in (cca_mean, svcca, pwcca):
        np.testing.assert_allclose(np.diag(measure(xs, xs)), 1, rtol=0, atol=1e-6)
        assert np.triu(measure(xs, xs), 1).max() < 0.95
    np.testing.assert_allclose(np.diag(cca_mean(xs, xs[:, :, :5])), 1, rtol=0, atol=1e-6)


LINEAR = {"rotation", "signs", "one scale", "shift", "scale per feature", "linear map"}
UNCHANGED = {
    cca_mean: LINEAR,
    svcca: {"rotation", "signs", "one scale", "shift"},
    pwcca: {"signs", "one scale", "shift"},
    lambda xs, ys: pwcca(xs, ys, weights="y"): LINEAR,
}


@pytest.mark.parametrize("change", CHANGES)
def test_invariance(change):
    for measure, unchanged in UNCHANGED.items():
        assert_invariant(measure, change, unchanged, 2e-5)


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_order_and_masks(measure):
    assert_order_and_masks(measure, 2e-6)


def test_forms_of_the_arguments():
    assert_takes_every_form(cca_mean, 2e-6)


def test_rows_that_are_not_finite():
    assert_names_bad_rows(cca_mean, pytest)


def test_missing_where_directions_explain_any_examples():
    rng = np.random.default_rng(0)
    xs = np.stack([rng.standard_normal((12, 30)), np.ones((12, 30)), rng.standard_normal((12, 4)) @ np.eye(4, 30)])
    ys = rng.standard_normal((1, 12, 3))
    assert missing_reason(xs) == [
        "11 directions explain any 12 examples: all correlations are 1",
        "constant features: all 12 rows are equal",
        None,
    ]
    for measure in (cca_mean, pwcca):
        value = measure(xs, ys)
        assert np.isnan(value[:2]).all()
        assert value[2].item() == pytest.approx(expected(UNMEASURED[measure], xs[2:], ys).item(), abs=1e-6)
    assert np.isfinite(svcca(xs, ys, dims=3)).all(1).tolist() == [True, False, True]
    # Ten of twelve examples: ranks are of those kept, and so is the limit.
    mask = np.arange(12) < 10
    assert missing_reason(xs, mask=mask)[0] == "9 directions explain any 10 examples: all correlations are 1"
    assert np.isnan(cca_mean(xs, ys, mask=mask)[:, 0]).tolist() == [True, True, False]


UNMEASURED = {cca_mean: by_definition, pwcca: pwcca_by_definition}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: svcca(x, x, share=1.0), r"share must be between 0 and 1, got 1.0"),
        (lambda x: svcca(x, x, dims=39), r"dims must be in 1..n-2 = 1..38 for \(3, 40, 14\), got 39"),
        (lambda x: svcca(x, x, dims=0), r"dims must be in 1"),
        (lambda x: pwcca(x, x, weights="z"), r"weights must be one of 'x', 'y'"),
        (lambda x: cca_mean(x[:, :2], x[:, :2]), r"CCA needs n >= 3 examples, got n = 2"),
        (lambda x: missing_reason(x * np.nan), r"xs: layer 0, row 0 is not finite"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(features()[0])
