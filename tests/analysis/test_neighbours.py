"""Mutual nearest neighbours and CKNNA against float64, scikit-learn, the authors' code, and what must (not) change them."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from analysis.cka import cka_all_pairs
from analysis.neighbours import cknna, mutual_knn, nearest_neighbours
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


def neighbours(x, k, distance):
    """Indices `[n, k]`, float64; of equal distances the lower index."""
    distances = squareform(pdist(x, distance))
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, 1, kind="stable")[:, :k]


def chosen(x, k, distance="cosine"):
    matrix = np.zeros((len(x), len(x)))
    np.put_along_axis(matrix, neighbours(x, k, distance), 1, 1)
    return matrix


def overlap(k, distance):
    return lambda x, y: (chosen(x, k, distance) * chosen(y, k, distance)).sum() / (k * len(x))


def hsic(K, L):
    """Song et al. 2012, eq. 5, up to a factor. K and L need not be symmetric, so their order counts."""
    n, one = len(K), np.ones(len(K))
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    sums = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return np.trace(K @ L) + sums - 2 / (n - 2) * (one @ K @ L @ one)


def cosines(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def cknna_by_definition(k):
    def measure(x, y):
        a, b, K, L = chosen(x, k), chosen(y, k), cosines(x), cosines(y)
        return hsic(a * b * K, a * b * L) / np.sqrt(hsic(a * K, a * K) * hsic(b * L, b * L))

    return measure


@pytest.mark.parametrize("data", [data for data in HARD if data != "one feature"])
def test_definitions_on_difficult_data(data):
    """Neighbours are whole numbers: they agree, or a pair is wrong. With one feature, many are equally near."""
    xs, ys = hard(data)
    for distance in ("cosine", "euclidean"):
        want = expected(overlap(5, distance), xs, ys)
        np.testing.assert_allclose(mutual_knn(xs, ys, k=5, distance=distance), want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(cknna(xs, ys, k=5), expected(cknna_by_definition(5), xs, ys), rtol=0, atol=2e-6)


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "correlation"])
def test_neighbours_of_scikit_learn(distance):
    NearestNeighbors = pytest.importorskip("sklearn.neighbors").NearestNeighbors
    xs, _ = features()
    found = np.asarray(nearest_neighbours(xs, k=7, distance=distance))
    for x, ours in zip(xs.astype(np.float64), found, strict=True):
        model = NearestNeighbors(n_neighbors=7, metric=distance, algorithm="brute").fit(x)
        np.testing.assert_array_equal(ours, model.kneighbors(return_distance=False))


# xs, ys of `features()` in the authors' code (platonic-rep, metrics.py) in float64, rows normalised as they do, and
# without the 1e-6 in its denominator. Run once by hand.
AUTHORS = {
    "mutual_knn": {5: [[0.105, 0.135], [0.135, 0.305], [0.14, 0.425]]},
    "cknna": {
        5: [[0.101648171, 0.108849067], [0.126868566, 0.315405897], [0.119706323, 0.405565963]],
        39: [[0.064888315, -0.048917177], [0.068967711, 0.372544409], [0.016530291, 0.563994042]],
    },
}


def test_values_of_the_authors_code():
    for measure in (mutual_knn, cknna):
        for k, want in AUTHORS[measure.__name__].items():
            np.testing.assert_allclose(measure(*features(), k=k), want, rtol=0, atol=1e-6)


def test_cknna_of_all_neighbours_is_debiased_cka_of_cosines():
    xs, ys = features()
    xs, ys = (side / np.linalg.norm(side, axis=-1, keepdims=True) for side in (xs, ys))
    np.testing.assert_allclose(cknna(xs, ys, k=39), cka_all_pairs(xs, ys), rtol=0, atol=2e-6)


def test_shared_and_other_clusters():
    """Ten clusters of six: all five neighbours are in one's cluster."""
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(10), 6)
    centres, noise = 20 * rng.standard_normal((3, 10, 30)), rng.standard_normal((3, 60, 30))
    x, same, other = (centres[i, group, :] + noise[i] for i, group in enumerate((of, of, rng.permutation(of))))
    for measure in (mutual_knn, cknna):
        assert measure(x[None], same[None], k=5).item() == pytest.approx(1, abs=0.02)
        assert measure(x[None], other[None], k=5).item() < 0.2


def test_unrelated_layers_share_neighbours_by_chance():
    x, y = np.random.default_rng(0).standard_normal((2, 8, 60, 30))
    assert mutual_knn(x, y, k=6).mean() == pytest.approx(6 / 59, abs=0.01)


def test_of_equally_near_examples_the_first_are_taken():
    x = np.array([[0], [1], [2], [3], [1], [2]])[None]
    found = nearest_neighbours(x, k=3, distance="euclidean")[0].tolist()
    assert found == [[1, 4, 2], [4, 0, 2], [5, 1, 3], [2, 5, 1], [1, 0, 2], [2, 1, 3]]
    xs, ys = (np.repeat(side[:, :4], 10, 1) for side in features())  # each of four rows ten times
    for distance in ("euclidean", "cosine"):
        assert (mutual_knn(xs, ys, k=5, distance=distance) == 1).all()
        found = nearest_neighbours(xs + 100, k=5, distance=distance)
        want = [[j for j in range(10 * (i // 10), 10 * (i // 10) + 10) if j != i][:5] for i in range(40)]
        np.testing.assert_array_equal(found, [want] * 3)


ROTATIONS = {"rotation", "signs", "one scale"}
UNCHANGED = {
    mutual_knn: ROTATIONS | {"scale per example"},
    lambda xs, ys: mutual_knn(xs, ys, distance="euclidean"): ROTATIONS | {"shift"},
    lambda xs, ys: mutual_knn(xs, ys, distance="correlation"): {"one scale", "scale per example", "shift per example"},
    cknna: ROTATIONS | {"scale per example"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_invariance(change):
    for measure, unchanged in UNCHANGED.items():
        assert_invariant(measure, change, unchanged, 1e-5)


@pytest.mark.parametrize("measure", [mutual_knn, cknna])
def test_order_and_masks(measure):
    assert_order_and_masks(measure, 2e-6)


def test_forms_of_the_arguments():
    assert_takes_every_form(mutual_knn, 1e-6)


def test_rows_that_are_not_finite():
    assert_names_bad_rows(cknna, pytest)


def test_too_few_examples_of_a_task_are_missing():
    xs, ys = features()
    masks = np.arange(40) < np.array([40, 6, 5])[:, None]
    several = [jax.vmap(lambda mask, f=f: f(xs, ys, k=5, mask=mask))(masks) for f in (mutual_knn, cknna)]
    assert [np.isnan(value).all((1, 2)).tolist() for value in several] == [[False, True, True], [False, False, True]]


def test_masked_rows_are_nobodys_neighbours():
    xs, _ = features()
    kept = np.arange(40) % 3 > 0
    found = np.asarray(nearest_neighbours(xs, k=4, mask=kept))
    assert (found[:, ~kept] == -1).all()
    np.testing.assert_array_equal(found[:, kept], np.flatnonzero(kept)[nearest_neighbours(xs[:, kept], k=4)])


def test_symmetry_and_self_similarity():
    xs, ys = features()
    np.testing.assert_array_equal(mutual_knn(xs, ys), mutual_knn(ys, xs).T)
    np.testing.assert_allclose(cknna(xs, ys), cknna(ys, xs).T, rtol=0, atol=5e-3)  # α∘K is not symmetric
    for measure in (mutual_knn, cknna):
        np.testing.assert_allclose(np.diag(measure(xs, xs)), 1, rtol=0, atol=1e-6)


def test_missing_without_nearer_and_farther_examples():
    rng, n = np.random.default_rng(0), 30
    xs = rng.standard_normal((5, n, n)).astype(np.float32)
    xs[1] = 0.1 * np.arange(n)
    xs[2] = np.eye(n)
    xs[3] = rotation(n, rng)
    xs[4, 5] = 0  # no direction
    for measure in (mutual_knn, cknna):
        value = np.asarray(measure(xs, xs))
        assert np.isnan(value[1:]).all()
        assert np.isnan(value[:, 1:]).all()
        assert value[0, 0] == pytest.approx(1, abs=1e-6)
    assert (nearest_neighbours(xs, k=3)[1:] == -1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: mutual_knn(x, x, k=39), r"k must be in 1..38 for n = 40 examples, got 39"),
        (lambda x: mutual_knn(x, x, k=9, mask=np.arange(40) < 10), r"k must be in 1..8 for n = 10 examples, got 9"),
        (lambda x: cknna(x, x, k=1), r"k must be in 2..39 for n = 40 examples \(at least 4\), got 1"),
        (lambda x: cknna(x[:, :3], x[:, :3], k=2), r"k must be in 2..2 for n = 3 examples \(at least 4\), got 2"),
        (lambda x: nearest_neighbours(x, k=0), r"k must be in 1..39"),
        (lambda x: mutual_knn(x, x, distance="l1"), r"distance must be one of"),
        (
            lambda x: mutual_knn(x, [x[0], x[1][:, :3]], distance="correlation"),
            r"ys: correlation distance needs layers of",
        ),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(features()[0])
