"""Null models of spectral projection: against draws in full size, exact moments, enumeration, and null data."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from analysis.low_rank import ThinSVD, thin_svd
from analysis.projection import Projection, entropy, projection_all_pairs, rec
from analysis.projection_null import MEASURES, haar_blocks, projection_null


def haar(rng, *shape):
    """Orthonormal columns `[..., d, r]`, uniform."""
    q, triangle = np.linalg.qr(rng.standard_normal(shape))
    return q * np.sign(np.diagonal(triangle, axis1=-2, axis2=-1))[..., None, :]


def updates(u, s, v, ranks=None):
    """Of bases `[N, K, d, r]` and spectra that broadcast to `[N, K, r]`, cut to ranks `[N]`."""
    N, K, _, r = u.shape
    ranks = np.full(N, r) if ranks is None else np.asarray(ranks)
    keep = np.arange(r) < ranks[:, None, None]
    u, v = (np.where(keep[..., None, :], x, 0) for x in (u, v))
    s = np.where(keep, np.broadcast_to(s, (N, K, r)), 0)
    return ThinSVD(
        *(jnp.asarray(x, jnp.float32) for x in (u, s, v)), jnp.asarray(np.broadcast_to(ranks[:, None], (N, K)))
    )


def unrelated(rng, N=4, K=3, out=12, size=10, r=3, ranks=None):
    return updates(haar(rng, N, K, out, r), 0.6 ** np.arange(r), haar(rng, N, K, size, r), ranks)


def uniform(p_values, ties=False):
    """Whether these could be uniform (1 % level, fixed seeds); with ties, not smaller than uniform."""
    return scipy.stats.kstest(p_values, "uniform", alternative="greater" if ties else "two-sided").pvalue > 0.01


# --- random subspaces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "r"), [(2, 2), (3, 2), (5, 3), (50, 4)])
def test_haar_blocks_have_the_moments_of_orthogonal_matrices(d, r):
    """First, second and fourth moments, within five standard errors."""
    c = haar_blocks(np.random.default_rng(0), 20_000, d, r)
    for sample, expected in [
        (c[:, 0, 0], 0),
        (c[:, 1, 0], 0),
        (c[:, 0, 0] ** 2, 1 / d),
        (c[:, 1, 1] ** 2, 1 / d),
        (c[:, 1, 1] ** 4, 3 / (d * (d + 2))),
        (c[:, 0, 0] ** 2 * c[:, 0, 1] ** 2, 1 / (d * (d + 2))),
        (c[:, 0, 0] ** 2 * c[:, 1, 0] ** 2, 1 / (d * (d + 2))),
        (c[:, 0, 0] ** 2 * c[:, 1, 1] ** 2, (d + 1) / (d * (d - 1) * (d + 2))),
        (c[:, 0, 0] * c[:, 1, 1] * c[:, 0, 1] * c[:, 1, 0], -1 / (d * (d - 1) * (d + 2))),
    ]:
        assert abs(sample.mean() - expected) <= 5 * sample.std() / 20_000**0.5 + 1e-12
    assert np.linalg.norm(c, 2, axis=(1, 2)).max() <= 1 + 1e-12
    if d == r:
        np.testing.assert_allclose(c.swapaxes(1, 2) @ c, np.broadcast_to(np.eye(r), c.shape), atol=1e-9)


def test_random_subspaces_are_those_of_full_size():
    """Bases drawn in d dimensions: the same means and spreads, for unequal ranks and sizes of the two sides."""
    rng = np.random.default_rng(0)
    ranks = [3, 2, 1]
    given = unrelated(rng, N=3, K=1, ranks=ranks)
    result = projection_null(given, draws=4000).per_place
    # The space of each task against 1500 draws, in as many places, of each task.
    K = 1500
    fixed, drawn = (ThinSVD(*(np.repeat(x, K, 1) for x in given)), unrelated(rng, N=3, K=K, ranks=ranks))
    both = ThinSVD(*(jnp.concatenate(parts) for parts in zip(fixed, drawn, strict=True)))
    sample = projection_all_pairs(both)
    for name in MEASURES:
        values = np.asarray(getattr(sample, name))[:, :3, 3:]
        spread = values.std(0)
        error = 5 * spread * np.hypot(K**-0.5, 4000**-0.5) + 1e-6
        assert (abs(result[name].null_mean[0] - values.mean(0)) <= error).all(), name
        # Of a spread, from the fourth moments.
        error = 5 * np.sqrt(
            (((values - values.mean(0)) ** 2).std(0) / 2 / np.maximum(spread, 1e-6)) ** 2 * (1 / K + 1 / 4000)
        )
        assert (abs(result[name].null_sd[0] - spread) <= error + 1e-6).all(), name


def test_captures_by_chance():
    """r_i / (out in), r_i² / (out in), r_i / out, r_i / in, exactly; within five standard errors."""
    ranks = np.array([3, 2, 1])
    result = projection_null(unrelated(np.random.default_rng(0), N=3, K=1, ranks=ranks), draws=4000).per_place
    for name, expected in {
        "capture_diagonal": ranks / 120,
        "capture_block": ranks**2 / 120,
        "capture_columns": ranks / 12,
        "capture_rows": ranks / 10,
    }.items():
        chance = result[name]
        error = abs(chance.null_mean[0] - expected[:, None])
        assert (error <= 5 * chance.null_sd[0] / 4000**0.5).all(), name


@pytest.mark.parametrize(
    ("h1", "h2", "level", "spread"),
    [
        (0.852, 0.774, 0.556, 0.842),
        (0.774, 0.852, 0.506, 0.848),
        (0.868, 0.779, 0.567, 0.842),
        (0.779, 0.868, 0.510, 0.850),
    ],
)
def test_level_of_unrelated_adapters(h1, h2, level, spread):
    """REC and H(S2) for geometric spectra of rank 8 with entropies h1 and h2, computed as d -> ∞ from products of normal
    variables. Below those of unrelated matrices of full rank, 0.520 to 0.591 and 0.876."""
    geometric = np.linspace(0.5, 0.9, 4001)[:, None] ** np.arange(8)
    s1, s2 = (geometric[np.abs(entropy(geometric) - h).argmin()] for h in (h1, h2))
    left, right = (haar_blocks(np.random.default_rng(seed), 20_000, 4096, 8) for seed in (0, 1))
    drawn = abs(np.einsum("nab,nab,b->na", left, right, s2))
    assert float(rec(s1, drawn).mean()) == pytest.approx(level, abs=3e-3)
    assert float(entropy(drawn).mean()) == pytest.approx(spread, abs=2e-3)


# --- permuted pairs -----------------------------------------------------------------------------------------------------


def test_permuted_pairs_are_all_permutations_and_signs():
    """All 3! · 3! · 2³ of them, and 2! · 2! · 2² at rank 2: mean, spread and p-value."""
    rng = np.random.default_rng(0)
    u, v = (np.repeat(haar(rng, 1, 1, d, 3), 2, 0) + 0.3 * rng.standard_normal((2, 1, d, 3)) for d in (12, 10))
    given = thin_svd(u * np.array([3, 2, 1.0]), v.swapaxes(-1, -2) * np.array([[[[1.0]] * 3], [[[1.0]] * 2 + [[0.0]]]]))
    result = projection_null(given, null="permuted_pairs", draws=4000).per_place
    for i, j, rank in ((1, 0, 3), (0, 1, 2)):
        orders = list(itertools.permutations(range(rank)))
        every = list(itertools.product(orders, orders, itertools.product([-1, 1], repeat=rank)))
        lefts, rights, signs = (np.tile(x, (288 // len(every), 1)) for x in zip(*every, strict=True))
        (u, s, v, _), k = (np.asarray(x)[:, 0] for x in given), 288
        shuffled = ThinSVD(np.zeros((k, 12, 3)), np.tile(s[j], (k, 1)), np.zeros((k, 10, 3)), np.full(k, rank))
        shuffled.u[..., :rank] = (u[j][:, lefts] * signs).swapaxes(0, 1)
        shuffled.v[..., :rank] = v[j][:, rights].swapaxes(0, 1)
        space = (np.repeat(np.asarray(x)[i], k, 0) for x in given)
        values = projection_all_pairs(ThinSVD(*(jnp.stack(parts) for parts in zip(space, shuffled, strict=True))))
        for name, more in MEASURES.items():
            drawn, null = result[name], np.asarray(getattr(values, name), np.float64)[:, 0, 1]
            value = drawn.value[0, i, j]
            assert null[0] == pytest.approx(value, rel=1e-4), "the first leaves all as it is"
            assert abs(drawn.null_mean[0, i, j] - null.mean()) <= 5 * null.std() / 4000**0.5 + 1e-6, name
            assert drawn.null_sd[0, i, j] == pytest.approx(null.std(), rel=0.1, abs=1e-6)
            exact = ((null >= value - 1e-5) if more else (null <= value + 1e-5)).mean()
            assert drawn.p_value[0, i, j] == pytest.approx(exact, abs=5 * 0.5 / 4000**0.5), name


def test_one_direction_cannot_be_permuted():
    given = unrelated(np.random.default_rng(0), ranks=[3, 3, 1, 2])
    for name, chance in projection_null(given, null="permuted_pairs", draws=20).per_place.items():
        others = np.array([0, 1, 3])
        np.testing.assert_array_equal(chance.p_value[:, others, 2], 1, err_msg=name)
        assert np.isnan(chance.z[:, others, 2]).all()


# --- p-values -----------------------------------------------------------------------------------------------------------


PAIRS = np.triu_indices(24, 1)


@pytest.mark.slow
def test_p_values_of_null_data_are_uniform():
    """Of all pairs of 24 unrelated tasks, either way round; in one place, and of the mean over three."""
    given = unrelated(np.random.default_rng(1), N=24)
    for null in ("random_subspaces", "permuted_pairs"):
        result = projection_null(given, null=null, draws=999)
        for name in MEASURES:
            one, mean = result.per_place[name].p_value[0], result.over_places[name].p_value
            # 3! orders of the columns give few values.
            ties = null == "permuted_pairs" and name in ("capture_columns", "capture_rows")
            for p_values in (one, one.T):
                assert uniform(p_values[PAIRS], ties), (null, name)
            assert uniform(mean[PAIRS]), (null, name)


def test_what_each_null_tests():
    """All tasks in one space, which they use in unrelated ways: far from random subspaces, but permuted pairs are as
    likely. The same directions in the same order and pairs: not those either."""
    rng = np.random.default_rng(0)
    N, K, s = 24, 3, 0.6 ** np.arange(3)
    left, right = haar(rng, 1, K, 12, 3), haar(rng, 1, K, 10, 3)
    rotated = updates(left @ haar(rng, N, K, 3, 3), s, right @ haar(rng, N, K, 3, 3))
    found = projection_null(rotated, draws=999).per_place["capture_block"].p_value
    np.testing.assert_allclose(found, 1 / 1000)
    permuted = projection_null(rotated, null="permuted_pairs", draws=999).per_place
    for name in ("rec", "lp", "entropy_s2", "capture_diagonal"):
        assert uniform(permuted[name].p_value[0][PAIRS]), name
    for name in ("capture_block", "capture_columns", "capture_rows"):  # all of j is in i, permuted or not
        np.testing.assert_array_equal(permuted[name].p_value, 1)
    near = lambda frame: frame + 0.05 * rng.standard_normal((N, *frame.shape[1:]))
    same = thin_svd((near(left) * s).astype(np.float32), near(right).swapaxes(-1, -2).astype(np.float32))
    permuted = projection_null(same, null="permuted_pairs", draws=999).over_places
    for name in ("rec", "lp", "capture_diagonal"):
        assert (permuted[name].p_value[PAIRS] <= 0.01).all(), name


@pytest.mark.parametrize("null", ["random_subspaces", "permuted_pairs"])
def test_results(null):
    """Values are those of projection_all_pairs; p-values count; z; the mean over places of two modules; missing updates."""
    rng = np.random.default_rng(0)
    q, v = unrelated(rng), unrelated(rng, out=9)
    q = q._replace(rank=q.rank.at[1, 2].set(0), u=q.u.at[1, 2].set(0), s=q.s.at[1, 2].set(np.nan))
    result = projection_null([q, v], null=null, draws=20, seed=3)
    again = projection_null([q, v], null=null, draws=20, seed=3)
    other = projection_null([q, v], null=null, draws=20, seed=4)
    values = Projection(
        *(np.concatenate(x) for x in zip(projection_all_pairs(q), projection_all_pairs(v), strict=True))
    )
    gone = np.zeros((6, 4, 4), bool)
    gone[2, 1] = gone[2, :, 1] = True
    for name in MEASURES:
        place, mean = result.per_place[name], result.over_places[name]
        np.testing.assert_array_equal(place.value, getattr(values, name))
        for part in place[:3] + place[4:]:
            np.testing.assert_array_equal(np.isnan(part), gone, err_msg=name)
        counts = place.p_value[~gone] * 21
        np.testing.assert_allclose(counts, counts.round(), atol=1e-5)
        assert counts.min() >= 1 - 1e-5
        assert counts.max() <= 21 + 1e-5
        pairs = ~np.eye(4, dtype=bool)  # a task on its own permuted self may well be at the same captures
        z = (place.value - place.null_mean) / place.null_sd
        np.testing.assert_allclose(place.z[:, pairs], z[:, pairs], rtol=1e-3, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(mean.value, np.nanmean(place.value, 0), rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(mean.null_mean, np.nanmean(place.null_mean, 0), rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(place.null_mean, again.per_place[name].null_mean)
    assert (result.per_place["rec"].null_mean != other.per_place["rec"].null_mean)[~gone].all()


def test_measures_that_some_draws_do_not_have():
    """S2 = max(0, ·) is all 0 in one draw of 2^rank: left out; of a value that is undefined nothing is said."""
    given = unrelated(np.random.default_rng(0))
    result = projection_null(given, form="nonnegative", draws=20).per_place
    undefined = np.isnan(result["rec"].value)
    assert 0 < undefined.sum() < undefined.size / 2
    np.testing.assert_array_equal(np.isnan(result["rec"].p_value), undefined)
    assert ((result["rec"].p_value[~undefined] > 0) & (result["rec"].p_value[~undefined] <= 1)).all()
    assert not np.isnan(result["lp"].p_value).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"null": "shuffled"}, "null must be one of 'random_subspaces', 'permuted_pairs'; got 'shuffled'"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"form": "abs"}, "form must be one of"),
        ({"p": 0.0}, "p must be at least 1, or inf, got 0.0"),
        (
            {"updates": 3},
            r"modules of the same N tasks and at least one place, got shapes \[\(4, 3, 3\), \(3, 3, 3\)\]",
        ),
        ({"updates": 0}, r"expected modules of the same N tasks and at least one place, got shapes \[\]"),
    ],
)
def test_arguments(change, message):
    rng = np.random.default_rng(0)
    given = {None: unrelated(rng), 0: [], 3: [unrelated(rng), unrelated(rng, N=3)]}[change.pop("updates", None)]
    with pytest.raises(ValueError, match=message):
        projection_null(given, **change)
