"""T̄, coordinates of tasks and their tree: against definitions, SciPy and scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import cdist, pdist, squareform
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score

from analysis.grassmann import expected_distance
from analysis.task_map import map_tasks, mean_distances
from analysis.task_stability import layer_stability
from analysis.task_tree import cut, members, task_tree
from tests.analysis.task_cases import distances, spaces, without

# --- means ---


def test_mean_over_layers_and_modules():
    T = distances(2, 3)
    found = mean_distances(T[0])
    np.testing.assert_allclose(found.overall, T[0].mean(0), atol=1e-15)
    np.testing.assert_array_equal(found.by_module[0], found.overall)
    assert (found.tasks, found.dropped, found.places[0, 0].tolist()) == (list(range(6)), [], [0, 3, 3, 3, 3, 3])
    several = mean_distances(jnp.asarray(T))
    assert several.overall is None
    np.testing.assert_allclose(several.by_module, T.mean(1), atol=1e-6)


def test_normalised_by_expectation():
    T, chance = distances(2, 3), np.array([[1.0, 2, 3], [10, 20, 30]])
    found = mean_distances(T, chance, normalise="expected")
    want = (T / chance[:, :, None, None]).mean(1)
    np.testing.assert_allclose(found.by_module, want, atol=1e-15)
    np.testing.assert_allclose(found.overall, want.mean(0), atol=1e-15)
    by_pair = mean_distances(T, chance[:, :, None, None] * (1 - np.eye(6)), normalise="expected")
    np.testing.assert_allclose(by_pair.overall, found.overall, atol=1e-15)
    same = mean_distances(T, [[2.0], [4.0]], normalise="expected")
    np.testing.assert_allclose(same.overall, (T[0] / 2 + T[1] / 4).mean(0) / 2, atol=1e-15)


def test_normalised_by_the_own_mean():
    """A module's scale does not matter, a layer's does."""
    T = distances(2, 3)
    found = mean_distances(T, normalise="own")
    i, j = np.triu_indices(6, 1)
    np.testing.assert_allclose(found.by_module[:, i, j].mean(1), 1, atol=1e-15)
    np.testing.assert_allclose(found.overall, sum(t.mean(0) / t.mean(0)[i, j].mean() for t in T) / 2, atol=1e-14)
    scaled = mean_distances(T * np.array([1, 50.0])[:, None, None, None], normalise="own")
    np.testing.assert_allclose(scaled.overall, found.overall, atol=1e-14)
    layers = mean_distances(T * np.array([1, 50.0, 1])[:, None, None], normalise="own")
    assert np.abs(layers.overall - found.overall).max() > 0.01


def test_modules_of_different_width_average_as_shares_of_chance():
    """Unrelated tasks, whose subspaces have 4 of 16 and of 200 dimensions: both at 1."""
    T = []
    for d in (16, 200):
        u = spaces(12, 3, d)
        cosines = np.linalg.svd(np.einsum("nkdr,mkds->knmrs", u, u), compute_uv=False)
        T.append(np.arccos(cosines.clip(0, 1)).sum(-1) * (1 - np.eye(12)))
    chance = [[expected_distance(d, 4, variant="sum").mean] for d in (16, 200)]
    found = mean_distances(np.array(T), chance, normalise="expected")
    i, j = np.triu_indices(12, 1)
    np.testing.assert_allclose(found.by_module[:, i, j].mean(1), 1, atol=0.01)
    assert np.array(T)[1].mean() / np.array(T)[0].mean() > 1.1


def test_missing():
    T = distances(2, 3)
    holes = without(T, 4)
    holes[0, 0, 1, 2] = holes[0, 0, 2, 1] = np.nan  # a pair, one layer
    holes = without(holes, 3, (1, slice(None)))  # a task, one module
    found = mean_distances(holes, normalise="own", tasks="abcdef")
    assert (found.tasks, found.dropped, found.kept.tolist()) == (list("abcdf"), ["e"], [0, 1, 2, 3, 5])
    assert found.by_module[0, 1, 2] * holes[0, 1:, 1, 2].mean() > 0
    assert found.places[0, 1, 2] == 2
    assert found.places[1, 3].tolist() == [0] * 5
    assert np.isnan(found.by_module[1, 3, :3]).all()
    np.testing.assert_allclose(found.overall[3], found.by_module[0, 3], atol=1e-15)  # of the modules there are
    one = mean_distances(holes[0])
    np.testing.assert_allclose(one.overall[1, 2], T[0, 1:, 1, 2].mean(), atol=1e-15)
    # What is left of two tasks, one of which is missing: the other.
    assert mean_distances(without(distances(2, n=2), 1)).kept.tolist() == [0]
    marked = distances(2, n=2)
    marked[:, [0, 1], [1, 0]] = np.nan
    assert mean_distances(marked).dropped == [0, 1]


# --- coordinates ---


def test_pca_is_that_of_the_rows():
    D = distances(n=7)
    found = map_tasks(D, dims=3)
    pca = PCA().fit(D)
    np.testing.assert_allclose(np.abs(found.points), np.abs(pca.transform(D)[:, :3]), atol=1e-12)
    np.testing.assert_allclose(found.share, pca.explained_variance_ratio_, atol=1e-12)
    assert (found.points[np.abs(found.points).argmax(0), range(3)] > 0).all()


def test_mds_finds_the_points():
    """Points in three dimensions, up to a rotation; scikit-learn's eigenvalues are those of the centred points."""
    x = np.random.default_rng(0).standard_normal((9, 3)) * [3, 2, 1]
    found = map_tasks(cdist(x, x), "mds", dims=4)
    np.testing.assert_allclose(pdist(found.points), pdist(x), atol=1e-12)
    np.testing.assert_allclose(found.eigenvalues[:3], PCA().fit(x).singular_values_ ** 2, rtol=1e-12)
    assert not found.eigenvalues[3:].any()
    assert not found.points[:, 3].any()
    assert found.share[:3].sum() == pytest.approx(1)


def test_mds_reports_what_no_points_have():
    """A star of three, all at 1 from its centre and 2 from each other: B has eigenvalues 2, 2, -1/4 and 0."""
    D = np.array([[0, 1, 1, 1], [1, 0, 2, 2], [1, 2, 0, 2], [1, 2, 2, 0.0]])
    found = map_tasks(D, "mds")
    J = np.eye(4) - 1 / 4
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(-J @ D**2 @ J / 2)[::-1], atol=1e-12)
    np.testing.assert_allclose(found.eigenvalues, [2, 2, 0, -0.25], atol=1e-12)
    np.testing.assert_allclose(found.share, [8 / 17, 8 / 17, 0, -1 / 17], atol=1e-12)


@pytest.mark.parametrize("method", ["pca", "mds"])
def test_maps_repeat_and_have_a_floor(method):
    D = distances(n=8)
    found, order = map_tasks(D, method), np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(map_tasks(D[np.ix_(order, order)], method).points, found.points[order], atol=1e-10)
    np.testing.assert_allclose(map_tasks(D * 1e-6, method).points, found.points * 1e-6, atol=1e-16)
    np.testing.assert_allclose(map_tasks(1 - np.eye(8), method).share[:7], 1 / 7, atol=1e-12)
    two = map_tasks(np.array([[0, 3], [3, 0.0]]), method)  # equal coordinates: the first is positive
    assert two.points[0, 0] > 0 > two.points[1, 0]
    assert not two.points[:, 1].any()
    gone = map_tasks(without(D[None], 2)[0], method)
    assert np.isnan(gone.points[2]).all()
    np.testing.assert_allclose(
        gone.points[3], map_tasks(np.delete(np.delete(D, 2, 0), 2, 1), method).points[2], atol=1e-12
    )


def test_too_little_for_a_map():
    hole = distances(n=4)
    hole[1, 3] = hole[3, 1] = np.nan
    for D, reason in [
        (np.zeros((1, 1)), "fewer than two tasks have distances"),
        (np.zeros((3, 3)), "all tasks are at distance 0"),
        (hole, r"the distance of tasks 1 and 3 is missing (1 such pairs)"),
    ]:
        found = map_tasks(D, "mds")
        assert found.reason == reason
        assert np.isnan(found.points).all()
    assert task_tree(hole).reason == r"the distance of tasks 1 and 3 is missing (1 such pairs)"
    assert task_tree(np.zeros((1, 1))).linkage.shape == (0, 4)


# --- the tree ---


@pytest.mark.parametrize("linkage", ["average", "complete", "single", "weighted"])
def test_tree(linkage):
    """SciPy's heights, cophenetic correlation and cuts."""
    D = distances(n=9)
    found = task_tree(D, linkage=linkage)
    Z = hierarchy.linkage(squareform(D), linkage)
    np.testing.assert_allclose(found.linkage[:, 2], Z[:, 2], atol=1e-15)
    assert found.cophenetic == pytest.approx(hierarchy.cophenet(Z, squareform(D))[0])
    assert sorted(found.order) == list(range(9))
    for row, inside in zip(found.linkage, members(found.linkage), strict=True):
        assert inside.sum() == row[3]
    for k in range(1, 10):
        want = hierarchy.cut_tree(Z, k)[:, 0]
        assert normalized_mutual_info_score(cut(found.linkage, k), want) == pytest.approx(1)
        assert cut(found.linkage, k).max() == k - 1


def test_upgma_by_hand():
    D = squareform([2.0, 6, 10, 6, 10, 10])
    np.testing.assert_allclose(task_tree(D).linkage[:, 2:], [[2, 2], [6, 3], [10, 4]])
    assert task_tree(D).cophenetic == pytest.approx(1)  # an ultrametric
    gone = task_tree(np.pad(D, ((1, 0), (1, 0)), constant_values=np.nan))
    assert (gone.leaves.tolist(), sorted(gone.order)) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert np.isnan(task_tree(1 - np.eye(3)).cophenetic)
    assert np.isnan(task_tree(1 - np.eye(2)).cophenetic)


# --- arguments ---


def bad(at, value):
    D = distances(2)
    D[at] = value
    return D


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_distances(np.ones((2, 3))), r"must be square, \[\.\.\., n, n\], got shape \(2, 3\)"),
        (lambda: mean_distances(np.zeros((3, 3))), r"\[K, N, N\] or \[modules, layers, N, N\], got shape \(3, 3\)"),
        (
            lambda: mean_distances(1 - distances(2)),
            r"must be 0 on the diagonal \(distances, not similarities\), got 1 at \[0, 0, 0\]",
        ),
        (lambda: mean_distances(-distances(2)), "must not be negative"),
        (lambda: mean_distances(bad((1, 2, 3), 9)), r"must be symmetric, got 9 at \[1, 2, 3\] and 1\.\d+ mirrored"),
        (lambda: mean_distances(bad((1, 2, 3), np.nan)), r"must be symmetric, got nan at \[1, 2, 3\]"),
        (lambda: mean_distances(bad((1, 2, 3), np.inf)), r"must be finite or NaN \(missing\), got inf at \[1, 2, 3\]"),
        (lambda: mean_distances(distances(2), tasks="abc"), "must name each of the 6 tasks, got 3 names"),
        (lambda: mean_distances(distances(2), normalise="expected"), "expected goes with normalise='expected'"),
        (lambda: mean_distances(distances(2), [1, 2]), "expected goes with normalise='expected'"),
        (
            lambda: mean_distances(distances(2), [1, 2, 3], normalise="expected"),
            r"expected must be \(2,\) or \(2, 6, 6\)",
        ),
        (lambda: mean_distances(distances(2), [1, 0], normalise="expected"), "expected must be positive"),
        (lambda: map_tasks(distances(2)), r"matrix must be \[tasks, tasks\], got shape \(2, 6, 6\)"),
        (lambda: map_tasks(distances(), "tsne"), "method must be one of 'pca', 'mds'"),
        (lambda: task_tree(distances(), linkage="ward"), "linkage must be one of 'average'"),
        (lambda: cut(task_tree(distances()).linkage, 7), r"clusters must be in 1\.\.6"),
        (lambda: layer_stability(distances(2, 3)), "several modules need normalise"),
        (lambda: layer_stability(distances(2), "ab"), "clusters must name each of the 6 tasks"),
    ],
)
def test_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
