"""Procrustes and RSA against float64, scipy, what is known of the geometry, and what must (not) change them."""

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from scipy.spatial.distance import pdist

from analysis.similarity import procrustes_distance, procrustes_similarity, rsa
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
    rotation,
)


def unit(x):
    x = np.asarray(x, np.float64)
    return (x - x.mean(0)) / np.linalg.norm(x - x.mean(0))


def nuclear(x, y):
    return np.linalg.norm(unit(x).T @ unit(y), "nuc")


# --- Procrustes ---


@pytest.mark.parametrize("data", HARD)
def test_procrustes_definition_on_difficult_data(data):
    xs, ys = hard(data)
    want = expected(nuclear, xs, ys)
    np.testing.assert_allclose(procrustes_similarity(xs, ys), want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(procrustes_distance(xs, ys), np.arccos(want), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(12, 30, 12), (12, 5, 40)])
def test_procrustes_more_features_than_examples(shape):
    xs, ys = features(*shape)
    for a, b in ((xs, ys), (ys, xs)):
        want = expected(nuclear, a, b)
        np.testing.assert_allclose(procrustes_similarity(a, b), want, rtol=0, atol=1e-6)
        np.testing.assert_allclose(procrustes_distance(a, b), np.arccos(want), rtol=0, atol=2e-6)


def test_procrustes_of_scipy():
    xs, _ = features()
    want = expected(lambda x, y: scipy.spatial.procrustes(x, y)[2], xs, xs)  # 1 - similarity²
    np.testing.assert_allclose(1 - procrustes_similarity(xs, xs) ** 2, want, rtol=0, atol=2e-6)


def test_procrustes_of_orthonormal_bases_is_by_principal_angles():
    rng, angles = np.random.default_rng(0), np.array([0.1, 0.7, 1.3])
    q = np.linalg.qr(np.concatenate([np.ones((30, 1)), rng.standard_normal((30, 6))], 1))[0][:, 1:]  # centred
    x, y = q[:, :3] @ rotation(3, rng), (q[:, :3] * np.cos(angles) + q[:, 3:] * np.sin(angles)) @ rotation(3, rng)
    assert procrustes_similarity(x[None], y[None]).item() == pytest.approx(np.cos(angles).mean(), abs=1e-6)


def test_small_procrustes_distances_are_told_apart():
    """arccos of a float32 similarity is 0 or 3.5e-4 and more."""
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 60, 40))
    for amount in (0, 1e-5, 1e-4, 1e-3):
        y = (x + amount * noise) @ rotation(40, rng) * 7 + 3
        u, _, v = np.linalg.svd(unit(x).T @ unit(y))
        want = 2 * np.arcsin(np.linalg.norm(unit(x) @ (u @ v) - unit(y)) / 2)
        assert procrustes_distance(x[None], y[None]).item() == pytest.approx(want, abs=3e-6)


def test_procrustes_distance_is_a_metric():
    xs = np.concatenate([features(d1=12, seed=seed)[0] for seed in range(4)])
    distance = np.asarray(procrustes_distance(xs, xs))
    np.testing.assert_allclose(distance, distance.T, rtol=0, atol=1e-6)
    assert np.diag(distance).max() < 3e-6
    assert distance[~np.eye(12, dtype=bool)].min() > 0.1
    assert (distance[:, :, None] <= distance[:, None] + distance.T[None] + 1e-6).all()


def test_procrustes_of_unrelated_and_of_shared_features():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1, 400, 5))
    assert procrustes_similarity(x, y).item() < 0.15
    assert procrustes_similarity(x, x @ rotation(5, rng) + 0.5 * y).item() > 0.85


# --- RSA ---

SCIPY = {"spearman": scipy.stats.spearmanr, "pearson": scipy.stats.pearsonr}


def by_scipy(distance, compare):
    return lambda x, y: SCIPY[compare](pdist(x, distance), pdist(y, distance))[0]


# float32 swaps the ranks of two distances now and then; with correlations and a huge mean, 1e-5 of a distance is lost.
@pytest.mark.parametrize("data", HARD)
def test_rsa_of_scipy_on_difficult_data(data):
    xs, ys = hard(data)
    for distance in ("euclidean", "correlation"):
        if (data, distance) == ("one feature", "correlation"):
            continue  # distances are 0 and 2 in exact arithmetic: scipy ranks their rounding
        want = expected(by_scipy(distance, "spearman"), xs, ys)
        atol = 1e-4 if distance == "correlation" and "mean" in data else 1e-5
        np.testing.assert_allclose(rsa(xs, ys, distance=distance), want, rtol=0, atol=atol)


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "correlation"])
def test_rsa_of_scipy(distance):
    xs, ys = hard("repeated rows")
    for compare in SCIPY if distance == "cosine" else ["pearson"]:
        want = expected(by_scipy(distance, compare), xs, ys)
        np.testing.assert_allclose(rsa(xs, ys, distance=distance, compare=compare), want, rtol=0, atol=5e-6)


def test_rsa_by_cosine():
    xs, ys = features()
    want = expected(lambda x, y: 1 - scipy.spatial.distance.cosine(pdist(x), pdist(y)), xs, ys)
    np.testing.assert_allclose(rsa(xs, ys, compare="cosine"), want, rtol=0, atol=1e-6)


def test_rsa_gives_equal_distances_the_average_of_their_ranks():
    rng = np.random.default_rng(0)
    xs, ys = rng.integers(0, 3, (3, 30, 4)), rng.integers(0, 2, (2, 30, 6))  # few distances, hundreds of pairs
    want = expected(by_scipy("euclidean", "spearman"), xs, ys)
    np.testing.assert_allclose(rsa(xs, ys), want, rtol=0, atol=1e-6)
    x = np.array([[0], [1], [3], [6]])  # distances 1 3 6 2 5 3, ranks 1 3.5 6 2 5 3.5
    y = np.array([[0], [1], [10], [100]])  # distances 1 10 100 9 99 90, ranks 1 3 6 2 5 4
    a, b = np.array([1, 3.5, 6, 2, 5, 3.5]) - 3.5, np.array([1, 3, 6, 2, 5, 4]) - 3.5
    assert rsa(x[None], y[None]).item() == pytest.approx(a @ b / np.sqrt(a @ a * (b @ b)), abs=1e-6)


def test_rsa_of_unrelated_and_of_shared_features():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1, 100, 8))
    assert abs(rsa(x, y).item()) < 0.1
    assert rsa(x, x @ rotation(8, rng) + 0.3 * y).item() > 0.85


def test_rsa_refuses_filled_up_layers_where_zeros_count():
    xs, ys = features()
    for sides in (([xs[0], xs[1][:, :5]], ys), (ys, [xs[0], xs[1][:, :5]])):
        with pytest.raises(ValueError, match="correlation distance needs layers of one width"):
            rsa(*sides, distance="correlation")


# --- both ---

ROTATIONS = {"rotation", "signs", "one scale"}
UNCHANGED = {
    procrustes_similarity: ROTATIONS | {"shift"},
    procrustes_distance: ROTATIONS | {"shift"},
    rsa: ROTATIONS | {"shift"},
    lambda xs, ys: rsa(xs, ys, distance="cosine"): ROTATIONS | {"scale per example"},
    lambda xs, ys: rsa(xs, ys, distance="correlation"): {"one scale", "scale per example", "shift per example"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_invariance(change):
    for measure, unchanged in UNCHANGED.items():
        assert_invariant(measure, change, unchanged, 2e-5)


@pytest.mark.parametrize("measure", [procrustes_distance, rsa])
def test_order_and_masks(measure):
    assert_order_and_masks(measure, 1e-5)


def test_forms_of_the_arguments():
    assert_takes_every_form(procrustes_similarity, 2e-6)


def test_torch():
    torch = pytest.importorskip("torch")
    xs, ys = features()
    got = procrustes_similarity(torch.tensor(xs, requires_grad=True), torch.tensor(ys))
    np.testing.assert_array_equal(got, procrustes_similarity(xs, ys))


def test_rows_that_are_not_finite():
    assert_names_bad_rows(procrustes_similarity, pytest)


def test_missing_without_anything_to_compare():
    rng, n = np.random.default_rng(0), 30
    xs = rng.standard_normal((5, n, n)).astype(np.float32)  # n = d
    xs[1] = 0.1 * np.arange(n)  # constant
    xs[2] = np.eye(n)  # equally far apart
    xs[3] = rotation(n, rng) + 10  # equally far apart, and rounded
    xs[4, 5] = 0  # no direction
    ys = features(n)[1]

    def missing(measure, **settings):
        value = np.asarray(measure(xs, ys, **settings))
        assert (np.isnan(value).all(1) == np.isnan(value).any(1)).all()
        return np.flatnonzero(np.isnan(value[:, 0])).tolist()

    assert missing(procrustes_similarity) == missing(procrustes_distance) == [1]
    assert missing(rsa) == [1, 2, 3]
    assert missing(rsa, distance="cosine") == [1, 2, 4]
    assert missing(rsa, distance="correlation")[-1] == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: rsa(x, x, distance="manhattan"),
            r"distance must be one of 'euclidean', 'cosine', 'correlation'; got",
        ),
        (lambda x: rsa(x, x, compare="kendall"), r"compare must be one of 'spearman', 'pearson', 'cosine'"),
        (lambda x: rsa(x[:, :2], x[:, :2]), r"RSA needs n >= 3 examples"),
        (lambda x: procrustes_similarity(x[:, :1], x[:, :1]), r"Procrustes needs n >= 2 examples"),
        (lambda x: procrustes_distance(x[0], x), r"xs must be \[layers, examples, features\]"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(features()[0])
