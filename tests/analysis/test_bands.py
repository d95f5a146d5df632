"""Bands of layers: against a search over all cuts, planted cuts with noise, and curves that have none."""

import itertools

import numpy as np
import pytest

from analysis.bands import band_test, bootstrap_bands, choose_bands, find_bands

LAYERS = np.arange(32)


def planted(cuts=(10, 16), levels=(1.0, 0.6, 0.3), tasks=8, noise=0.1, seed=0, slope=0.0, layers=32):
    """Curves `[tasks, layers]`: steps of a task's own size at the same layers, slopes, and noise."""
    rng = np.random.default_rng(seed)
    band = np.searchsorted(cuts, np.arange(layers), side="right")
    size = rng.uniform(0.5, 1.5, (tasks, 1))
    steep = np.array([0, 1, -1])[band % 3] * slope * np.arange(layers)
    return size * (np.array(levels)[band] + steep) + noise * rng.standard_normal((tasks, layers))


def smooth_noise(rng, curves, layers=32, keep=0.7):
    """Each layer keeps a share of the layer before."""
    y = rng.standard_normal((curves, layers + 30))
    for layer in range(1, layers + 30):
        y[:, layer] += keep * y[:, layer - 1]
    return y[:, 30:]


def brute_force(curves, k, width, degree):
    """Least squares by np.polyfit over every way to cut -> cuts, cost. NaN: values that are not there."""
    layers = curves.shape[1]

    def cost(a, b):
        total = 0.0
        for curve in curves:
            x = np.arange(a, b)[~np.isnan(curve[a:b])]
            if len(x) > degree:
                total += ((curve[x] - np.polyval(np.polyfit(x, curve[x], degree), x)) ** 2).sum()
        return total

    costs = {(a, b): cost(a, b) for a in range(layers) for b in range(a + width, layers + 1)}
    ways = [
        (sum(costs[pair] for pair in itertools.pairwise((0, *cuts, layers))), cuts)
        for cuts in itertools.combinations(range(width, layers), k - 1)
        if min(np.diff((0, *cuts, layers))) >= width
    ]
    return min(ways)


# --- the optimum ---


@pytest.mark.parametrize(("shape", "degree", "width"), [("constant", 0, 2), ("linear", 1, 3), ("constant", 0, 1)])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_way_to_cut(shape, degree, width, k):
    curves = planted(cuts=(4, 9), tasks=3, noise=0.5, seed=k, slope=0.2, layers=14) + 1000
    curves[1, 3] = curves[2, 0] = np.nan
    cost, cuts = brute_force(curves, k, width, degree)
    found = find_bands(curves, k, shape=shape, min_width=width)
    assert tuple(found.cuts) == cuts
    assert found.cost == pytest.approx(cost, rel=1e-8)
    whole = brute_force(curves, 1, 1, 0)[0]
    assert found.explained == pytest.approx(1 - cost / whole, abs=1e-10)


def test_exact_bands_and_a_straight_line():
    exact = find_bands(planted(noise=0))
    assert tuple(exact.cuts) == (10, 16)
    assert exact.explained == pytest.approx(1, abs=1e-12)
    sloped = find_bands(planted(noise=0, slope=0.3), shape="linear")
    assert tuple(sloped.cuts) == (10, 16)
    assert sloped.cost == pytest.approx(0, abs=1e-9)
    # k bands of a straight line explain 1 - 1/k², of which the docstring warns.
    for k in (2, 3, 5):
        assert find_bands([np.arange(3000.0)[::10]], k).explained == pytest.approx(1 - 1 / k**2, abs=1e-3)


def test_invariances():
    curves = planted(noise=0.3, seed=5)
    found = find_bands(curves, 3)
    moved = find_bands(-3 * curves[::-1] + np.arange(8)[:, None], 3)
    np.testing.assert_array_equal(moved.cuts, found.cuts)
    assert moved.explained == pytest.approx(found.explained, rel=1e-10)
    mirrored = find_bands(curves[:, ::-1], 3)
    np.testing.assert_array_equal(np.sort(32 - mirrored.cuts), found.cuts)
    np.testing.assert_array_equal(find_bands(curves.reshape(2, 4, 32)).cuts, found.cuts)
    # A curve that is much larger decides: what must not be invariant.
    other = planted(cuts=(5, 25), tasks=1, noise=0.01, seed=1)
    assert tuple(find_bands(np.concatenate([curves, 100 * other]), 3).cuts) == (5, 25)


def test_missing_layers():
    """Layer 0 is often constant, and has no CKA: it is left out, and cuts still name the layers as given."""
    curves = planted(noise=0.05)
    with_missing = np.insert(curves, [0, 12], np.nan, axis=1)  # layers 0 and 13 of 34
    np.testing.assert_array_equal(find_bands(with_missing).cuts, [11, 18])
    assert find_bands(with_missing).cost == pytest.approx(find_bands(curves).cost)
    found = bootstrap_bands(with_missing, replicates=200)
    assert found.frequency.shape == (2, 34)
    assert found.frequency[:, [0, 13]].sum() == 0
    np.testing.assert_allclose(found.frequency.sum(1), 1)
    assert 0 <= band_test(with_missing, replicates=19).p_value <= 1


# --- planted bands ---


def test_hit_rate():
    """Both cuts, exactly, where noise is a third of the smaller step: with one curve and with eight."""
    rates = {}
    for tasks in (1, 8):
        found = [find_bands(planted(tasks=tasks, noise=0.1, seed=seed)).cuts for seed in range(60)]
        rates[tasks] = (np.array(found) == (10, 16)).mean(0)
    print(rates)
    assert (rates[8] >= 0.95).all()
    assert (rates[1] >= 0.6).all()
    assert (rates[8] >= rates[1]).all()


def test_number_of_bands():
    rng = np.random.default_rng(0)
    for k, cuts in {1: (), 2: (12,), 3: (10, 16), 4: (6, 14, 24)}.items():
        levels = np.array([1, 0.3, 0.8, 0.1])[:k]
        right = [
            choose_bands(planted(cuts, levels, tasks=6, noise=0.15, seed=seed)).k == k
            for seed in rng.integers(99, size=10)
        ]
        assert np.mean(right) >= 0.9, k
    chosen = choose_bands(planted(noise=0), 4)
    assert chosen.k == 3
    assert [len(b.cuts) for b in chosen.bands] == [0, 1, 2, 3]
    assert chosen.criterion.argmin() == 2
    assert np.isfinite(chosen.criterion).all()


def test_bootstrap_over_tasks():
    """Sharp cuts have short intervals, blurred ones long; intervals hold the truth; replicates repeat with the seed."""
    sharp, blurred = (bootstrap_bands(planted(noise=noise, tasks=12, seed=3), replicates=500) for noise in (0.02, 0.6))
    np.testing.assert_array_equal([sharp.low, sharp.high], [[10, 16]] * 2)
    assert sharp.frequency[0, 10] == sharp.frequency[1, 16] == 1
    assert ((blurred.high - blurred.low) > 1).all()
    assert ((blurred.low <= (10, 16)) & (blurred.high >= (10, 16))).all()
    again = bootstrap_bands(planted(noise=0.6, tasks=12, seed=3), replicates=500)
    np.testing.assert_array_equal(again.cuts, blurred.cuts)
    # A replicate is the cut of the tasks drawn: one curve eleven times and another once.
    one = planted(cuts=(5, 20), tasks=1, noise=0.01)
    same = bootstrap_bands(np.repeat(one, 6, 0), replicates=100)
    np.testing.assert_array_equal(same.cuts, np.tile([5, 20], (100, 1)))


def test_a_task_s_curves_stay_together():
    """Two curves of each of two tasks with cuts elsewhere: replicates are of one task or the other or both, never mixed."""
    first, second = planted((6, 12), tasks=2, noise=0.0), planted((18, 26), tasks=2, noise=0.0)
    cuts = bootstrap_bands(np.stack([first, second]), replicates=400).cuts
    both = tuple(find_bands(np.concatenate([first, second])).cuts)
    share = {way: (cuts == way).all(1).mean() for way in {(6, 12), (18, 26), both}}
    assert sum(share.values()) == pytest.approx(1)
    assert share[6, 12] > 0.15
    assert share[18, 26] > 0.15


# --- more than chance? ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "null",
    {
        "line": lambda rng: LAYERS / 10 * rng.uniform(0.5, 1.5, (5, 1)) + 0.3 * rng.standard_normal((5, 32)),
        "smooth": lambda rng: smooth_noise(rng, 5),
        "walk": lambda rng: np.cumsum(rng.standard_normal((5, 32)) + rng.standard_normal(32), 1),
        "arc": lambda rng: np.exp(-LAYERS / 10) + 0.05 * smooth_noise(rng, 5),
    }.items(),
    ids=lambda item: item[0],
)
def test_no_bands_are_found_where_there_are_none(null):
    """At 10 %, of 60 sets of curves: fewer than 20 %. Shuffled layers would find bands in nearly all but white noise."""
    rng = np.random.default_rng(1)
    p = [band_test(null[1](rng), replicates=39, seed=i).p_value for i in range(60)]
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_bands_are_found_where_there_are():
    """Three even steps down are the hardest bands: nearly a straight line."""
    rng = np.random.default_rng(2)
    p = [band_test(planted(noise=0.05, seed=i) + 0.05 * smooth_noise(rng, 8), replicates=39).p_value for i in range(30)]
    assert np.mean(np.array(p) <= 0.05) > 0.9


def test_surrogates_keep_the_line_and_the_sizes():
    curves = planted(noise=0.2, tasks=2)
    found = band_test(curves, 3, replicates=99)
    assert found.p_value == (1 + (found.null >= found.explained).sum()) / 100
    line = np.outer([1, 2], LAYERS).astype(float)
    exact = band_test(line, 3, replicates=19)  # nothing but a line: its surrogates are itself
    np.testing.assert_allclose(exact.null, exact.explained, atol=1e-9)
    assert exact.p_value == 1


# --- errors ---


def test_errors_and_constant_curves():
    flat = find_bands(np.ones((2, 12)))
    assert np.isnan(flat.explained)
    assert flat.cost == 0
    assert np.isnan(band_test(np.ones((2, 12)), replicates=19).p_value)
    for message, curves, settings in [
        ("need 6 layers with values, got 5", np.ones((2, 5)), {}),
        ("shape \\(5,\\)", np.ones(5), {}),
        ("infinity at", np.full((2, 9), np.inf), {}),
        ("at least 1", np.ones((2, 9)), {"k": 0}),
        ("shape must be", np.ones((2, 9)), {"shape": "cubic"}),
    ]:
        with pytest.raises(ValueError, match=message):
            find_bands(curves, **settings)
    with pytest.raises(ValueError, match="replicates"):
        bootstrap_bands(planted(), replicates=5)
