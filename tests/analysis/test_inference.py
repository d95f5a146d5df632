"""Means, p-values and correlations over tasks: against scipy, least squares in float64, published numbers, and coverage."""

import numpy as np
import pytest
import scipy.stats as st

from analysis.correlation import correlation_by_layer, partial_correlation
from analysis.inference import benjamini_hochberg, bootstrap_mean, holm

# --- means over tasks ---


@pytest.mark.parametrize("interval", ["bca", "percentile"])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_bootstrap_agrees_with_scipy(statistic, interval):
    x = np.random.default_rng(0).lognormal(size=25)
    found = bootstrap_mean(x, statistic=statistic, interval=interval, replicates=40_000)
    of = {"mean": np.mean, "median": np.median}[statistic]
    method = {"bca": "BCa", "percentile": "percentile"}[interval]
    want = st.bootstrap((x,), of, n_resamples=40_000, method=method, rng=np.random.default_rng(1))
    assert found.value == of(x)
    assert found.n == 25
    # The median's distribution is discrete: a limit may fall on the next task.
    atol = 0.03 if statistic == "mean" else 0.12
    np.testing.assert_allclose([found.low, found.high], want.confidence_interval, atol=atol)
    assert found.standard_error == pytest.approx(want.standard_error, rel=0.03)


def test_columns_share_the_tasks_drawn_and_missing_ones_are_left_out():
    rng = np.random.default_rng(0)
    curves = rng.standard_normal((12, 3, 4))
    found = bootstrap_mean(curves, replicates=500)
    assert found.low.shape == (3, 4)
    sums = bootstrap_mean(np.stack([curves, curves + 5], 1), replicates=500)
    np.testing.assert_allclose(sums.low[1], sums.low[0] + 5)
    for name, statistic in {"mean": np.nanmean, "median": np.nanmedian}.items():
        holes = np.where(rng.random(curves.shape) < 0.3, np.nan, curves)
        gaps = bootstrap_mean(holes, statistic=name, replicates=500)
        np.testing.assert_allclose(gaps.value, statistic(holes, 0), atol=1e-12)
        np.testing.assert_array_equal(gaps.n, (~np.isnan(holes)).sum(0))
        assert (gaps.low < gaps.value).all()
        # A task that holds nothing in any column changes the drawing, but not what is estimated.
        padded = bootstrap_mean(np.concatenate([holes, holes[:1] + np.nan]), statistic=name, replicates=4000)
        more = bootstrap_mean(holes, statistic=name, replicates=4000)
        np.testing.assert_allclose(padded.value, more.value, atol=1e-12)
        if name == "mean":
            np.testing.assert_allclose(padded.low, more.low, atol=0.2)
    column = np.array([[np.nan, 1.0, 2.0], [np.nan, np.nan, 2.0], [np.nan, np.nan, 2.0]])
    edge = bootstrap_mean(column, replicates=100)
    np.testing.assert_array_equal(edge.value, [np.nan, 1, 2])
    np.testing.assert_array_equal(edge.low, [np.nan, np.nan, 2])
    np.testing.assert_array_equal(edge.n, [0, 1, 3])


@pytest.mark.parametrize(("tasks", "least"), [(8, 0.86), (20, 0.91), (60, 0.92)])
def test_coverage_of_the_mean(tasks, least):
    """400 samples of a skewed population; standard error 1.2 %. Few tasks cover less, as the docstring says."""
    samples = np.random.default_rng(tasks).gamma(4, size=(tasks, 400))
    hits = 0
    for x in np.array_split(samples, 40, axis=1):
        found = bootstrap_mean(x, replicates=1000)
        hits += ((found.low <= 4) & (found.high >= 4)).sum()
    print(tasks, hits / 400)
    assert least <= hits / 400 <= 0.975


# --- many p-values ---


def test_corrections():
    """The example of Benjamini & Hochberg 1995 (15 p-values, 4 found at 5 %, Bonferroni 3), and scipy."""
    p = np.array([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0])  # fmt: skip
    assert (benjamini_hochberg(p) <= 0.05).sum() == 4
    assert (holm(p) <= 0.05).sum() == 3
    rng = np.random.default_rng(0)
    p = rng.permutation(np.concatenate([p, rng.random(17)]))
    np.testing.assert_allclose(benjamini_hochberg(p), st.false_discovery_control(p), atol=1e-15)
    want = [min(1, max((len(p) - i) * q for i, q in enumerate(np.sort(p)) if q <= one)) for one in p]
    np.testing.assert_allclose(holm(p), want, atol=1e-15)
    table = np.append(p, [np.nan] * 4).reshape(4, 9)
    for correct in (benjamini_hochberg, holm):
        again = correct(table)
        np.testing.assert_allclose(again[~np.isnan(table)], correct(p))
        assert np.isnan(again[np.isnan(table)]).all()
        with pytest.raises(ValueError, match="between 0 and 1"):
            correct([0.5, 1.5])


# --- correlations ---


def data(n=40, layers=5, effect=0.0, seed=0, controls=2):
    rng = np.random.default_rng(seed)
    c = rng.standard_normal((n, controls))
    x = rng.standard_normal(n) + c.sum(1)
    values = rng.standard_normal((n, layers)) + c[:, :1]
    values[:, -1] += effect * x
    return values, x, c


def residual_correlation(x, y, c):
    """The definition: np.linalg.lstsq on (1, c), then Pearson."""
    design = np.column_stack([np.ones(len(x)), c])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    return np.corrcoef(left)[0, 1]


def test_without_controls_it_is_scipy():
    values, x, _ = data()
    y = np.round(values[:, 0], 1)  # with ties
    for method, of in {"pearson": st.pearsonr, "spearman": st.spearmanr}.items():
        found, want = partial_correlation(x, y, method=method, replicates=0), of(x, y)
        assert found.r == pytest.approx(want.statistic, abs=1e-12)
        assert found.p_value == pytest.approx(want.pvalue, abs=1e-12)
        assert np.isnan(found.bootstrap_low)
    interval = st.pearsonr(x, y).confidence_interval(0.9)
    assert partial_correlation(x, y, level=0.9, replicates=0)[1:3] == pytest.approx(interval, abs=1e-12)


def test_with_controls_it_is_the_correlation_of_residuals():
    values, x, c = data(effect=0.4)
    y = values[:, -1]
    found = partial_correlation(x, y, c)
    assert found.r == pytest.approx(residual_correlation(x, y, c), abs=1e-12)
    # The t-test of x in the regression of y on (1, x, c) is the same test; its degrees of freedom are n - 4.
    design = np.column_stack([np.ones(40), x, c])
    beta, rss, *_ = np.linalg.lstsq(design, y, rcond=None)
    t = beta[1] / np.sqrt(rss[0] / 36 * np.linalg.inv(design.T @ design)[1, 1])
    assert found.p_value == pytest.approx(2 * st.t.sf(abs(t), 36), rel=1e-9)
    half = st.norm.ppf(0.975) / np.sqrt(40 - 3 - 2)
    assert found[1:3] == pytest.approx(np.tanh(np.arctanh(found.r) + np.array([-half, half])), abs=1e-12)
    assert abs(found.bootstrap_low - found.low) < 0.15
    assert abs(found.bootstrap_high - found.high) < 0.15
    ranks = [st.rankdata(v, axis=0) for v in (x, y, c)]
    spearman = partial_correlation(x, y, c, method="spearman", replicates=0)
    assert spearman.r == pytest.approx(residual_correlation(*ranks), abs=1e-12)
    # First-order formula, one control.
    a, b, d = (np.corrcoef(*pair)[0, 1] for pair in ((x, y), (x, c[:, 0]), (y, c[:, 0])))
    want = (a - b * d) / np.sqrt((1 - b**2) * (1 - d**2))
    assert partial_correlation(x, y, c[:, 0], replicates=0).r == pytest.approx(want, abs=1e-12)


def test_invariances():
    values, x, c = data(effect=0.4)
    y, found = values[:, -1], partial_correlation(*(data(effect=0.4)[i] for i in (1,)), values[:, -1], c)
    mixed = c @ [[1, 2], [0, 3]] + 7
    again = partial_correlation(1e4 * x + 1000, 1e-4 * y - 5, np.column_stack([mixed, mixed[:, 0], np.ones(40)]))
    np.testing.assert_allclose(again, found, atol=1e-8)  # dependent controls count once, in n - 3 - k too
    assert partial_correlation(-x, y, c, replicates=0).r == pytest.approx(-found.r)
    ranks = partial_correlation(x, y, method="spearman", replicates=0)
    assert partial_correlation(np.exp(x), y**3, method="spearman", replicates=0).r == pytest.approx(ranks.r)
    assert abs(partial_correlation(np.exp(x), y, replicates=0).r - partial_correlation(x, y, replicates=0).r) > 0.01


def test_coverage_of_fisher_and_bootstrap():
    """A true partial correlation of 0.5, given a control of both: 300 samples, standard error 1.3 %."""
    rng, hits, boot = np.random.default_rng(0), 0, 0
    for seed in range(300):
        c = rng.standard_normal(40)
        x = rng.standard_normal(40)
        y = 2 * c + 0.5 * x + np.sqrt(0.75) * rng.standard_normal(40)
        found = partial_correlation(x + c, y, c, replicates=100 if seed < 100 else 0)
        hits += found.low <= 0.5 <= found.high
        boot += found.bootstrap_low <= 0.5 <= found.bootstrap_high
    assert 0.91 <= hits / 300 <= 0.985
    assert 0.84 <= boot / 100 <= 1
    assert abs(np.corrcoef(x + c, y)[0, 1] - 0.5) > 0.1  # without the control it is another number


def test_missing_and_degenerate():
    values, x, c = data()
    y = values[:, 0].copy()
    y[3], x[5], c[7, 0] = np.nan, np.nan, np.nan
    found = partial_correlation(x, y, c, replicates=0)
    rest = np.setdiff1d(np.arange(40), [3, 5, 7])
    assert found.n == 37
    assert found.r == pytest.approx(residual_correlation(x[rest], y[rest], c[rest]), abs=1e-12)
    for y in (np.full(40, 0.1), 2 * c[:, 1] + 3):  # constant, or a function of the controls: 0/0
        assert np.isnan(partial_correlation(x, y, c)[:4]).all()
    assert np.isnan(partial_correlation(x[:6], values[:6, 0], c[:6], replicates=0).r)  # x[5] is missing: 5 tasks, k = 2
    exact = partial_correlation(values[:, 0], 2 * values[:, 0])
    assert exact[:3] == pytest.approx((1, 1, 1))
    with pytest.raises(ValueError, match="one value per task"):
        partial_correlation(x, y[:-1])
    with pytest.raises(ValueError, match="method"):
        partial_correlation(x, y, method="kendall")


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_by_layer(method):
    values, x, c = data(n=30, effect=1.0)
    values[4, 0] = values[:, 1] = np.nan
    for controls in (None, c):
        found = correlation_by_layer(values, x, controls, method=method, permutations=2000)
        for layer in range(5):
            want = partial_correlation(x, values[:, layer], controls, method=method, replicates=0)
            np.testing.assert_allclose([part[layer] for part in found[:5]], want[:5], atol=1e-12)
        kept = [0, 2, 3, 4]
        assert np.isnan(found.p_familywise[1])
        np.testing.assert_allclose(found.p_permutation[kept], found.p_value[kept], atol=0.05)
        assert (found.p_familywise[kept] >= found.p_permutation[kept]).all()
        assert found.p_familywise[4] <= 0.01
    alone = correlation_by_layer(values[:, 4:], x, method=method, permutations=2000)
    assert alone.p_familywise == alone.p_permutation


@pytest.mark.parametrize("controls", [False, True])
def test_familywise_error(controls):
    """120 studies without any effect: about 5 % find one in any of ten layers, standard error 2 %."""
    found = 0
    for seed in range(120):
        values, x, c = data(n=20, layers=10, seed=seed)
        values -= 0 if controls else c[:, :1]
        values = values + np.random.default_rng(seed).standard_normal((20, 1))  # layers resemble each other
        found += (correlation_by_layer(values, x, c if controls else None, permutations=99).p_familywise <= 0.05).any()
    assert found <= 13  # exceeded in 0.5 % of cases if the rate is 5 %
    assert found >= 1
