"""Intervals of CKA: against delete-one and tuple sums by brute force in float64, and by how often they cover a known truth."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from analysis import bootstrap
from analysis.bootstrap import bootstrap_cka, cka_interval
from analysis.cka import cka_all_pairs

# --- the definitions ---


def hsic(K, L):
    """Song et al. 2012, eq. 5, times n(n-3): enough for a ratio at one n."""
    n, one = len(K), np.ones(len(K))
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    return (K * L).sum() + one @ K @ one * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ K @ L @ one)


def cka(K, L):
    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


def u_centred(x):
    x = np.asarray(x, np.float64)
    x = x - x.mean(0)
    x = x / np.abs(x).max()
    n, K = len(x), x @ x.T
    K = K - np.diag(np.diag(K))
    r = K.sum(1) / (n - 2)
    A = K - r[:, None] - r + r.sum() / (n - 1)
    A = A - np.diag(np.diag(A))
    return A / np.linalg.norm(A)


def expected(x, y, level=0.95):
    """value, low, high, standard error as the module docstring defines them."""
    A, B = u_centred(x), u_centred(y)
    n, c = len(A), (A * B).sum()
    rest = [np.delete(np.arange(n), i) for i in range(n)]
    without = np.array([cka(A[np.ix_(i, i)], B[np.ix_(i, i)]) for i in rest])
    jackknife = (n - 1) / n * ((without - without.mean()) ** 2).sum()
    v2 = 2 * ((A * B - c * (A**2 + B**2) / 2) ** 2).sum()
    v1 = max(jackknife - 2 * v2, 0)
    error = np.sqrt(v1 + v2)
    v1, v2, u = v1 / (1 - c**2) ** 2, v2 / (1 - c**2) ** 2, np.arctanh(c)
    t, base = student.ppf(0.5 + level / 2, n - 1), max(u, np.sqrt(v1 + v2) / 2)
    score = lambda u0: (u - u0) / np.sqrt(v2 + v1 * max(u0, 0) / base)
    top = u + 9 if score(max(u, 0)) > -t else 0  # the first crossing above u
    ends = [brentq(lambda u0: score(u0) - t, u - 9, u), brentq(lambda u0: score(u0) + t, u, top)]
    return c, *np.tanh(ends), error


def population_cka(share, d, k, x_noise, y_noise):
    """|Σ_xy|²/(|Σ_xx||Σ_yy|) where k of d orthogonal directions hold `share` besides noise of equal variance in all."""
    length2 = [k * (share + noise) ** 2 + (d - k) * noise**2 for noise in (x_noise, y_noise)]
    return k * share**2 / np.sqrt(np.prod(length2))


def gaussian(n, d, true, samples, seed, k=5):
    """x, y `[samples, n, d]` float32 of layers whose population CKA is `true`: k shared factors, noise of variance 1/d."""
    rng = np.random.default_rng(seed)
    share = brentq(lambda s: population_cka(s, d, k, 1 / d, 1 / d) - true, 0, 1e6)
    latent = rng.standard_normal((samples, n, k)) * np.sqrt(share)
    maps = (np.linalg.qr(rng.standard_normal((d, k)))[0].T for _ in range(2))
    sides = [latent @ a + rng.standard_normal((samples, n, d)) / np.sqrt(d) for a in maps]
    return (*(side.astype(np.float32) for side in sides), share)


def coverage(n, d, true, samples=500, seed=0):
    x, y, _ = gaussian(n, d, true, samples, seed)
    interval = cka_interval(x, y)  # every sample is a layer
    return ((interval.low <= true) & (true <= interval.high)).mean(), interval


# --- correct values ---


@pytest.mark.parametrize(("n", "d", "true"), [(30, 12, 0.3), (9, 40, 0.0), (40, 10, 0.8)])
def test_definition(n, d, true):
    xs, ys, _ = gaussian(n, d, true, 3, seed=n)
    for layer, found in enumerate(zip(*cka_interval(xs, ys), strict=True)):
        np.testing.assert_allclose(found, expected(xs[layer], ys[layer]), rtol=0, atol=2e-6)
    with jax.enable_x64(True):
        found = cka_interval(xs.astype(float), ys.astype(float), level=0.8)
    want = [expected(x, y, 0.8) for x, y in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(np.transpose(found), want, rtol=0, atol=1e-10)


def test_weights_never_compare_copies():
    """Weighted means over tuples of different examples, by four nested loops."""
    rng = np.random.default_rng(1)
    A, B = (u_centred(rng.standard_normal((6, 4))) for _ in range(2))
    w = np.array([2.0, 0, 1, 3, 1, 1])

    def weighted(K, L):
        def mean(of, k):
            tuples = list(itertools.permutations(range(6), k))
            share = np.array([w[list(index)].prod() for index in tuples])
            return share @ np.array([of(*index) for index in tuples]) / share.sum()

        first, last = mean(lambda i, j: K[i, j] * L[i, j], 2), mean(lambda i, j, k: K[i, j] * L[i, k], 3)
        return first + mean(lambda i, j, k, m: K[i, j] * L[k, m], 4) - 2 * last

    want = weighted(A, B) / np.sqrt(weighted(A, A) * weighted(B, B))
    with jax.enable_x64(True):
        ones = np.ones(6)
        found = bootstrap._drawn(*(jnp.asarray(m, float) for m in (A, B, np.stack([w, ones, 3 * ones], 1))))
    np.testing.assert_allclose(found, [want, cka(A, B), cka(A, B)], atol=1e-12)


def test_plain_bootstrap_is_biased_and_this_one_is_not():
    x, y = (side[0] for side in gaussian(60, 100, 0.0, 1, seed=3)[:2])
    weights = bootstrap._weights(np.ones(60, bool), 200, seed=0)
    A, B = u_centred(x), u_centred(y)
    plain = [
        cka_all_pairs([x[i]], [y[i]]).item() for w in weights.T[:5] for i in [np.repeat(np.arange(60), w.astype(int))]
    ]
    drawn = bootstrap._drawn(*(jnp.asarray(m, jnp.float32) for m in (A, B, weights)))
    assert min(plain) > 0.3
    assert abs(np.mean(drawn) - (A * B).sum()) < 0.02


def test_rbf_kernel_has_the_value_of_cka():
    xs, ys, _ = gaussian(40, 6, 0.5, 2, seed=5)
    found = cka_interval(xs, ys, kernel="rbf", bandwidth=0.7, pairs="all")
    np.testing.assert_allclose(found.value, cka_all_pairs(xs, ys, kernel="rbf", bandwidth=0.7), atol=1e-6)
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()


# --- coverage ---


@pytest.mark.parametrize("true", [0.0, 0.3, 0.8])
def test_coverage(true):
    """93 to 97 % is wanted; 600 samples have a standard error of 0.9 %."""
    covered, interval = coverage(50, 20, true, samples=600, seed=11)
    assert 0.93 - 0.018 <= covered <= 0.97 + 0.018
    # The standard error is that of the value over samples. The uncorrected jackknife's is 1.4 times that at 0.
    assert interval.standard_error.mean() == pytest.approx(interval.value.std(), rel=0.15)
    below, above = (interval.high < true).mean(), (interval.low > true).mean()
    assert max(below, above) < 0.05  # misses on both sides


@pytest.mark.slow
def test_coverage_everywhere():
    """The table of the module docstring; standard error of a cell 1 %, of the mean of all 0.2 %."""
    cells = {
        (n, d, true): coverage(n, d, true, seed=1000 * n + d)[0]
        for n in (50, 100, 200)
        for d in (10, 50, 300)
        for true in (0.0, 0.3, 0.8)
    }
    for cell, covered in cells.items():
        print(*cell, f"{100 * covered:.1f} %")
        assert 0.93 - 0.02 <= covered <= 0.97 + 0.02, cell
    assert 0.94 <= np.mean(list(cells.values())) <= 0.965


def test_coverage_of_a_difference():
    """Two layers against one, which share their factors: replicates are joint, so their difference has an interval."""
    d, k, more = 20, 5, 0.1
    x, y, share = gaussian(50, d, 0.3, 150, seed=21)
    noise = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32) * np.sqrt(more / d)
    difference = 0.3 - population_cka(share, d, k, (1 + more) / d, 1 / d)
    assert difference > 0.005
    first, second = (bootstrap_cka(side, y, replicates=200) for side in (x, x + noise))
    both = first.replicates - second.replicates
    low, high = np.quantile(both, [0.025, 0.975], axis=0)
    hits = ((low <= difference) & (difference <= high)).mean()
    apart = (high - low).mean() / np.hypot(first.high - first.low, second.high - second.low).mean()
    assert 0.90 <= hits <= 0.99  # standard error 1.8 %
    assert apart < 0.6  # as if independent: 1


# --- the arguments, and what (does not) change an interval ---


def test_replicates_have_the_interval_as_quantiles():
    xs, ys, _ = gaussian(40, 10, 0.4, 2, seed=2)
    found = bootstrap_cka(xs, ys, replicates=4000, level=0.9, pairs=[[0, 0], [1, 1], [0, 0]])
    assert found.replicates.shape == (4000, 3)
    np.testing.assert_allclose(np.quantile(found.replicates, [0.05, 0.95], axis=0), found[1:3], atol=2e-3)
    np.testing.assert_array_equal(found.replicates[:, 0], found.replicates[:, 2])
    again = bootstrap_cka(xs, ys, replicates=4000, level=0.9)
    np.testing.assert_allclose(again.replicates, found.replicates[:, :2], atol=1e-6)
    assert not np.allclose(bootstrap_cka(xs, ys, replicates=4000, seed=1).replicates, again.replicates)


def test_pairs_and_mask():
    xs, ys, _ = gaussian(40, 10, 0.4, 3, seed=2)
    everything = cka_interval(xs, ys, pairs="all")
    assert everything.low.shape == (3, 3)
    for part, same in zip(everything, cka_interval(xs, ys), strict=True):
        np.testing.assert_allclose(np.diag(part), same, atol=1e-6)
    for part, some in zip(everything, cka_interval(xs, ys, pairs=np.array([[2, 0], [1, 2]])), strict=True):
        np.testing.assert_allclose([part[2, 0], part[1, 2]], some, atol=1e-6)
    keep = np.arange(40) % 4 > 0
    padded = np.where(keep[:, None], xs, np.nan)
    inside = bootstrap_cka(padded, ys, mask=keep, replicates=100)
    outside = bootstrap_cka(xs[:, keep], ys[:, keep], replicates=100)
    for a, b in zip(inside, outside, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_invariances_and_difficult_data():
    xs, ys, _ = gaussian(40, 10, 0.4, 1, seed=4)
    found = cka_interval(xs, ys)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))[0].astype(np.float32)
    order = np.random.default_rng(1).permutation(40)
    massive = np.where(np.arange(10) == 3, 10_000 * xs.std(), 0)
    same = {
        "rotation": (xs @ turn, ys), "scale 1e4": (1e4 * xs, ys), "scale 1e-4": (xs, 1e-4 * ys),
        "order": (xs[:, order], ys[:, order]), "more features": (np.pad(xs, ((0, 0), (0, 0), (0, 50))), ys),
    }  # fmt: skip
    for name, sides in same.items():
        np.testing.assert_allclose(np.ravel(cka_interval(*sides)), np.ravel(found), atol=2e-6, err_msg=name)
    for name, x in {"offset": xs + 1000 * xs.std(), "one large mean": xs + massive, "duplicates": xs[:, [*range(30), *range(10)]]}.items():  # fmt: skip
        x = x.astype(np.float32)
        np.testing.assert_allclose(np.ravel(cka_interval(x, ys)), expected(x[0], ys[0]), atol=3e-6, err_msg=name)
    stretched = cka_interval(xs * np.arange(1, 11, dtype=np.float32), ys)
    assert abs(stretched.value - found.value).item() > 0.01


def test_near_one_and_one():
    """1 - c keeps its digits: x and x with 0.1 % of noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 80, 20))
    y = (x + 1e-3 * rng.standard_normal(x.shape)).astype(np.float32)
    found, want = np.ravel(cka_interval(x.astype(np.float32), y)), expected(x[0].astype(np.float32), y[0])
    np.testing.assert_allclose(1 - found[:3], 1 - np.array(want[:3]), rtol=1e-3)
    assert found[3] == pytest.approx(want[3], rel=1e-3)
    same = cka_interval(x, x)
    np.testing.assert_allclose([same.value, same.low, same.high], 1, atol=1e-6)


def test_missing_layers_and_errors():
    xs, ys, _ = gaussian(30, 10, 0.4, 3, seed=6)
    xs[1] = 7
    found = bootstrap_cka(xs, ys, replicates=100)
    for part in found:
        np.testing.assert_array_equal(np.isnan(part), np.broadcast_to([False, True, False], part.shape))
    xs[2, 4, 3] = np.nan
    with pytest.raises(ValueError, match="xs: layer 2, row 4"):
        cka_interval(xs, ys)
    np.testing.assert_array_equal(np.isnan(cka_interval(xs, ys, nonfinite="missing").low), [False, True, True])
    for message, settings in {
        "n >= 8": dict(mask=np.arange(30) < 7), "level": dict(level=95), "xs has 3 layers and ys 2": dict(ys=ys[:2]),
        "ints": dict(pairs=[0, 1]), "below the numbers": dict(pairs=[[0, 3]]), "kernel": dict(kernel="cosine"),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            cka_interval(**{"xs": ys, "ys": ys} | settings)
    with pytest.raises(ValueError, match="replicates"):
        bootstrap_cka(ys, ys, replicates=10)
