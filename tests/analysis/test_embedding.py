"""Scores of clusters against definitions, scikit-learn, all permutations taken by hand, and planted structure."""

from itertools import permutations

import jax
import numpy as np
import pytest
import sklearn
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness as sklearn_trustworthiness
from sklearn.metrics import normalized_mutual_info_score, silhouette_samples

from analysis.clusters import _nmi, cluster_scores, trustworthiness
from analysis.embedding import EmbeddingSettings, embed

K = 4


def tasks(layers=2, sizes=(5, 4, 6, 3, 5, 4, 3), clusters=3, d=6, seed=0, between=1.0, within=0.0):
    """xs `[layers, n, d]` float32, labels, groups: task centres of size `between`, cluster centres of size `within`."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    label = group % clusters
    xs = rng.standard_normal((layers, len(group), d))
    xs += between * rng.standard_normal((layers, len(sizes), d))[:, group]
    xs += within * rng.standard_normal((layers, clusters, d))[:, label]
    order = rng.permutation(len(group))  # tasks need not be contiguous
    names = np.array(["qa", "nli", "sum", "cot", "ner"])[:clusters]
    return xs[:, order].astype(np.float32), names[label[order]], group[order]


def expected(x, labels, groups):
    """Silhouettes and purities of the points `[n]` in float64, from the definitions; NaN where a point does not count."""
    x = x.astype(np.float64) - x.astype(np.float64).mean(0)
    distance = cdist(x, x)
    result = {}
    for across in ("", "_across"):
        silhouette, purity = np.full((2, len(x)), np.nan)
        for i in range(len(x)):
            left_out = groups == groups[i] if across else np.arange(len(x)) == i
            own = (labels == labels[i]) & ~left_out
            if own.any():
                a = distance[i, own].mean()
                b = min(distance[i, labels == c].mean() for c in set(labels) - {labels[i]})
                silhouette[i] = (b - a) / max(a, b)
                nearest = np.argsort(np.where(left_out, np.inf, distance[i]))[:K]
                purity[i] = (labels[nearest] == labels[i]).mean()
            elif not across:  # alone in its cluster
                silhouette[i] = purity[i] = 0
        result |= {"silhouette" + across: silhouette, "knn_purity" + across: purity}
    return result


def assert_expected(scores, xs, labels, groups):
    for layer, x in enumerate(xs):
        for measure, points in expected(x, labels, groups).items():
            assert scores.overall[measure].value[layer] == pytest.approx(np.nanmean(points), abs=1e-6)
            by_cluster = [points[(labels == name) & ~np.isnan(points)] for name in scores.clusters]
            want = [points.mean() if len(points) else np.nan for points in by_cluster]
            np.testing.assert_allclose(scores.by_cluster[measure].value[layer], want, rtol=0, atol=1e-6)


# --- values ---


def test_definitions():
    xs, labels, groups = tasks(within=1.0)
    scores = cluster_scores(xs, labels, groups, k=K)
    assert scores.clusters == ["nli", "qa", "sum"]
    assert_expected(scores, xs, labels, groups)
    for x, value in zip(xs, scores.overall["silhouette"].value, strict=True):
        assert value == pytest.approx(silhouette_samples(x.astype(float), labels).mean(), abs=1e-6)


def test_points_of_a_cluster_with_one_task_do_not_count_across():
    xs, labels, groups = tasks(sizes=(5, 4, 6, 3), clusters=3)  # tasks 0 and 3 are cluster qa
    scores = cluster_scores(xs, labels, groups, k=K)
    assert_expected(scores, xs, labels, groups)
    assert np.isnan(np.array(scores.by_cluster["silhouette_across"])[:, :, [0, 2]]).all()
    assert not np.isnan(scores.overall["knn_purity_across"].p_value).any()
    single = cluster_scores(xs, np.array(list("abcd"))[groups], groups, k=K)
    assert np.isnan(single.overall["silhouette_across"].value).all()
    assert (single.overall["silhouette"].p_value == 1).all()  # every other way only renames the clusters


FIRST = np.arange(50) == 0
DIFFICULT = {
    "n = d": lambda x: x[:, :, :30],
    "n < d": lambda x: x,
    "rank deficient": lambda x: x[:, :, :3] @ np.random.default_rng(1).standard_normal((3, 50)),
    "duplicate rows": lambda x: x[:, np.repeat(np.arange(15), 2)],
    "a constant feature": lambda x: np.where(FIRST, 0.1, x),
    "common offset 1000": lambda x: x + 1000,
    "one dimension of mean 10,000": lambda x: x + 10_000 * FIRST,
    **{f"scale {scale:g}": lambda x, scale=scale: x * scale for scale in (1e-4, 1e4, 1e20)},
    "neighbours a millionth of the norm away": lambda x: np.sign(x[:, :, :1]) + 1e-5 * x,
}


@pytest.mark.parametrize("data", DIFFICULT)
def test_difficult_data(data):
    xs, labels, groups = tasks(d=50)
    xs = np.asarray(DIFFICULT[data](xs), np.float32)
    scores = cluster_scores(xs, labels, groups, permutations=5, n_init=1, k=K)
    if data == "duplicate rows":  # ties for the last places: only silhouettes have one definition
        x = xs[0].astype(float)
        want = silhouette_samples(cdist(x, x), labels, metric="precomputed").mean()
        assert scores.overall["silhouette"].value[0] == pytest.approx(want, abs=1e-6)
    else:
        assert_expected(scores, xs, labels, groups)


def test_ties():
    x = np.array([[0.0], [0.0], [1.0], [-1.0], [1.0], [3.0]])  # from 0: one at 0, three at 1, one at 3
    for order in (np.arange(6), np.arange(6)[::-1]):  # ties share the last places, whatever the order
        scores = cluster_scores(x[None, order], np.array([0, 1, 0, 1, 1, 0])[order], k=2, permutations=5)
        share = [[np.mean([1 / 3, 1 / 2, 1]) / 2, np.mean([2 / 3, 1, 1 / 2]) / 2]]
        np.testing.assert_allclose(scores.by_cluster["knn_purity"].value, share, atol=1e-12)
    twins = np.array([[0.0], [0.0], [0.0], [0.0], [1.0], [2.0]])  # silhouettes 0 where a = b, also where both are 0
    scores = cluster_scores(twins[None], np.array([0, 0, 1, 1, 2, 2]), k=2, permutations=5)
    assert scores.overall["silhouette"].value.item() == pytest.approx((1 - 1 / 2) / 6)


def test_nmi():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, (4, 3), (200, 2)).T
    table = np.zeros((1, 4, 5))  # with an empty cluster
    np.add.at(table[0], (a, b), 1)
    assert _nmi(table).item() == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)
    xs, labels, groups = tasks(between=0.01, within=100.0)
    assert cluster_scores(xs, labels, groups, k=K).overall["nmi"].value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("change", ["rotated", "shifted", "scaled", "scaled by feature"])
def test_invariance(change):
    xs, labels, groups = tasks(d=8)
    rng = np.random.default_rng(1)
    changed = {
        "rotated": lambda x: x @ np.linalg.qr(rng.standard_normal((8, 8)))[0],
        "shifted": lambda x: x + 3,
        "scaled": lambda x: 7 * x,
        "scaled by feature": lambda x: x * np.exp(2 * rng.standard_normal(8)),
    }[change](xs)
    before, after = (cluster_scores(x, labels, groups, k=K).overall for x in (xs, changed.astype(np.float32)))
    difference = [np.abs(np.array(before[measure]) - after[measure]).max() for measure in before]
    assert min(difference) > 1e-3 if change == "scaled by feature" else max(difference) < 2e-6


# --- the null ---


def test_all_ways_to_hand_out_labels_are_taken_once():
    xs, labels, groups = tasks(sizes=(3, 5, 4, 3, 4), clusters=2)  # 5! / (3! 2!) = 10 ways
    scores = cluster_scores(xs, labels, groups, permutations=9, k=K)
    assert scores[-3:] == ("groups", 9, True)
    first = np.unique(groups, return_index=True)[1]
    ways = sorted(set(permutations(labels[first])))
    assert len(ways) == 10
    for layer, x in enumerate(xs):
        null = [expected(x, np.array(way)[groups], groups) for way in ways]
        for measure, actual in expected(x, labels, groups).items():
            values = np.array([np.nanmean(way[measure]) for way in null])
            score = scores.overall[measure]
            assert score.null_mean[layer] == pytest.approx(values.mean(), abs=1e-6)
            assert score.null_sd[layer] == pytest.approx(values.std(), abs=1e-6)
            assert score.p_value[layer] == pytest.approx((values >= np.nanmean(actual) - 1e-9).mean())
    drawn = cluster_scores(xs, labels, groups, permutations=8, k=K)
    assert drawn[-3:] == ("groups", 8, False)
    assert cluster_scores(xs, np.arange(19) == 7, permutations=18, k=K)[-3:] == ("points", 18, True)


def test_p_values_are_uniform_when_labels_mean_nothing():
    xs, labels, _ = tasks(layers=100, d=3, between=0.0)
    scores = cluster_scores(xs, labels, permutations=99, k=K, n_init=1)
    for measure, score in scores.overall.items():
        for level in (0.1, 0.25, 0.5, 0.75):  # 4 standard deviations are at most 0.16
            assert abs((score.p_value <= level).mean() - level) < 0.16, (measure, level)
        assert np.abs((score.value - score.null_mean) / score.null_sd).mean() == pytest.approx(0.8, abs=0.15)


def test_separated_blobs():
    xs, labels, groups = tasks(sizes=(5,) * 9, within=50.0)
    scores = cluster_scores(xs, labels, groups, k=K)
    for measure, score in scores.overall.items():
        assert score.value.min() > 0.8, measure
        assert score.p_value.max() < 0.03, measure  # 6 of 1,680 ways only rename the three clusters
        assert (score.value > score.null_mean + 2 * score.null_sd).all()


def test_tasks_that_lie_together_are_not_clusters_that_do():
    """Clusters drawn by lot over tasks with a place each: permuted points call that certain, permuted tasks do not."""
    xs, labels, groups = tasks(layers=60, sizes=(6,) * 12, between=3.0)
    by_task = cluster_scores(xs, labels, groups, permutations=49, n_init=1, k=5)
    by_point = cluster_scores(xs, labels, permutations=49, n_init=1, k=5)
    for measure in ("silhouette", "knn_purity", "nmi"):
        np.testing.assert_allclose(by_task.overall[measure].value, by_point.overall[measure].value, rtol=1e-9)
        assert (by_point.overall[measure].p_value <= 0.05).mean() > 0.9, measure  # what not to do
    for measure, score in by_task.overall.items():
        for level in (0.1, 0.25, 0.5):
            assert (score.p_value <= level).mean() < level + 0.16, (measure, level)
    purity, across = by_task.overall["knn_purity"].value, by_task.overall["knn_purity_across"].value
    assert purity.mean() > 0.75
    assert across.mean() == pytest.approx(3 / 11, abs=0.03)  # three of the eleven other tasks are of the cluster


# --- maps ---


def test_trustworthiness():
    xs, _, _ = tasks(d=20)
    maps = [embed(x).points for x in xs]
    score = trustworthiness(xs, maps, k=K)
    for layer, (x, points) in enumerate(zip(xs, maps, strict=True)):
        want = sklearn_trustworthiness(x.astype(float), points.astype(np.float32).astype(float), n_neighbors=K)
        assert score.value[layer] == pytest.approx(want, abs=1e-12)
    n = xs.shape[1]
    chance = 1 - (n - 1 - K) * (n - K) / ((2 * n - 3 * K - 1) * (n - 1))  # mean of r - k over random ranks
    np.testing.assert_allclose(score.null_mean, chance, rtol=0, atol=0.01)
    assert score.p_value.max() < 0.01
    assert np.isnan(trustworthiness(xs, np.zeros((2, n, 2)), k=K).value).all()
    assert trustworthiness(xs, np.random.default_rng(0).standard_normal((2, n, 2)), k=K).p_value.min() > 0.02


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (6, 1), (5, 2)])
def test_pca_is_that_of_scikit_learn(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.linspace(1, 3, shape[1], dtype="f") + 50
    points, loss, settings = embed(x)
    pca = PCA(min(2, shape[1])).fit(x.astype(float))
    want = pca.transform(x.astype(float))
    want = want * np.sign(want[np.abs(want).argmax(0), np.arange(want.shape[1])])
    np.testing.assert_allclose(points[:, : want.shape[1]], want, rtol=0, atol=1e-6)
    assert (points[:, want.shape[1] :] == 0).all()
    assert loss == pytest.approx(1 - pca.explained_variance_ratio_.sum(), abs=1e-9)
    assert settings == EmbeddingSettings("pca")


def test_tsne():
    xs, labels, _ = tasks(1, sizes=(9,) * 9, within=30.0)
    first = embed(xs[0], "tsne", perplexity=8, iterations=300, seed=3)
    np.testing.assert_array_equal(embed(xs[0], "tsne", perplexity=8, iterations=300, seed=3).points, first.points)
    assert first.settings == EmbeddingSettings("tsne", 6, 8.0, "pca", 3, 300, sklearn.__version__)
    assert cluster_scores(first.points[None], labels, k=K).overall["knn_purity"].value > 0.99
    assert trustworthiness(xs, [first.points], k=K).value > 0.9
    assert embed(xs[0, :10], "tsne", iterations=250).settings.perplexity == 3


# --- the arguments ---


def test_masked_points_are_as_if_absent():
    xs, labels, groups = tasks()
    keep = np.random.default_rng(0).random(30) < 0.8
    dirty = np.where(keep[:, None], xs, np.nan)
    masked = cluster_scores(dirty, labels, groups, k=K, mask=keep)
    absent = cluster_scores(xs[:, keep], labels[keep], groups[keep], k=K)
    jax.tree.map(np.testing.assert_array_equal, masked.overall, absent.overall)


def test_constant_layers_are_missing_and_ragged_layers_are_not():
    xs, labels, groups = tasks()
    scores = cluster_scores([xs[0], np.full((30, 9), 0.1), xs[1]], labels, groups, k=K)
    plain = cluster_scores(xs, labels, groups, k=K)
    for measure, score in scores.overall.items():
        for found, want in zip(score, plain.overall[measure], strict=True):
            assert np.isnan(found[1])
            np.testing.assert_array_equal(found[[0, 2]], want)
    assert np.isnan(scores.by_cluster["knn_purity"].value[1]).all()
    with jax.enable_x64(True), pytest.raises(ValueError, match="all 7 points are equal"):
        embed(np.full((7, 3), 0.1))


X, LABELS, GROUPS = tasks()
BAD = np.where((np.arange(30) == 5)[:, None] & (np.arange(2) == 1)[:, None, None], np.inf, X)
ERRORS = {
    r"xs: layer 1, row 5 is not finite \(1 such rows\)": dict(xs=BAD),
    r"labels must name each of the 30 points, got shape \(7,\)": dict(labels=LABELS[:7]),
    r"groups: each needs one label, but 0 has \['nli', 'qa'\]": dict(groups=GROUPS // 2),
    r"expected two clusters or more.* got 1 clusters": dict(labels=LABELS == "none"),
    r"1 <= k <= 24 \(the points outside the largest group\).* k = 25": dict(k=25),
    r"permutations >= 1.* permutations = 0": dict(permutations=0),
    r"one map for each layer, got xs \(2, 30, 6\), maps \(1, 30, 6\)": dict(xs=X, maps=X[:1]),
    r"1 <= k < n / 2; got permutations = 200, k = 15, n = 30": dict(xs=X, maps=X, k=15),
    r"method must be one of 'pca', 'tsne'; got 'umap'": dict(points=X[0], method="umap"),
    r"\[1, \(n - 1\) / 3 = 9.667\] for n = 30, got 10": dict(points=X[0], method="tsne", perplexity=10),
    r"\[1, \(n - 1\) / 3 = 0.6667\] for n = 3": dict(points=X[0, :3], method="tsne"),
    r"points must be \[points, features\], got shape \(2, 30, 6\)": dict(points=X),
    r"pca_dims must be at least 2, got 1": dict(points=X[0], method="tsne", pca_dims=1),
    r"points: layer 0, row 5 is not finite": dict(points=BAD[1]),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_what_is_wrong(message):
    arguments = ERRORS[message]
    function = embed if "points" in arguments else trustworthiness if "maps" in arguments else cluster_scores
    if function is cluster_scores:
        arguments = {"xs": X, "labels": LABELS, "groups": GROUPS, "k": K} | arguments
    with pytest.raises(ValueError, match=message):
        function(**arguments)
