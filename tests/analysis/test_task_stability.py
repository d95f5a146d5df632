"""Planted groups of tasks, and how much of a map hangs on single layers: against definitions, with the same layers drawn."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from analysis.grassmann import grassmann_all_pairs
from analysis.mantel import mantel
from analysis.task_clusters import cluster_agreement
from analysis.task_map import map_tasks, mean_distances
from analysis.task_stability import layer_stability
from analysis.task_tree import members, task_tree
from tests.analysis.task_cases import distances, spaces, without

GROUPS = np.repeat([3, 1, 2, 0], 3)


def planted(shared, seed=0):
    """Grassmann distances `[4, 12, 12]` of tasks that share so many of four directions within a group."""
    return np.asarray(grassmann_all_pairs(spaces(12, 4, 48, 4, GROUPS, shared, seed), variant="sum"))


def test_planted_groups():
    """Tasks that share two of four directions with their group. Shared by all, or by none: nothing to find."""
    T, names = planted(2), np.array(list("abcd"))[GROUPS]
    D = mean_distances(T).overall
    found = cluster_agreement(D, names)
    assert {m: s.value for m, s in found.scores.items() if m in ("auc", "purity", "nmi", "ari")} == pytest.approx(
        {"auc": 1, "purity": 1, "nmi": 1, "ari": 1}
    )
    assert max(s.p_value for s in found.scores.values()) < 0.003
    order = names[task_tree(D).order]
    assert (order[1:] != order[:-1]).sum() == 3
    for method in ("pca", "mds"):
        points = map_tasks(D, method, dims=3)
        near = cdist(points.points, points.points) + 1e9 * np.eye(12)
        assert (names[near.argmin(1)] == names).all()
        assert points.share[2] > 2 * points.share[3]
    stable = layer_stability(T, names, replicates=100)
    groups = {tuple(names == name) for name in "abcd"}
    support = {tuple(row): s for row, s in zip(stable.members, stable.support, strict=True)}
    assert groups <= set(support)
    assert all(support[group] == 1 for group in groups)
    assert (stable.nmi.value, stable.nmi.low, stable.nmi.sd) == pytest.approx((1, 1, 0))
    assert 0.9 < stable.mantel.low <= stable.mantel.value
    assert stable.mantel.value == found.scores["mantel"].value
    nothing = layer_stability(planted(0), names, replicates=100)
    assert nothing.support[:-1].max() < 0.9
    assert nothing.support[:-1].mean() < 0.4
    assert nothing.rank_correlation.mean < 0.85
    assert mantel(mean_distances(planted(0)).overall, D).p_value > 0.05


def test_resamples_are_means_of_drawn_layers():
    """From the definition, with the same layers drawn: two modules, one layer of one task missing."""
    T, names = distances(2, 5, n=5), list("aabbb")
    T = without(T, 2, (0, 3))
    found = layer_stability(T, names, normalise="own", replicates=100, seed=3)
    drawn = np.random.default_rng(3).integers(5, size=(100, 5, 1))[:, :, 0]
    i, j = np.triu_indices(5, 1)
    whole = mean_distances(T, normalise="own").overall
    again = [mean_distances(T[:, layers], normalise="own").overall for layers in drawn]
    rho = [spearmanr(whole[i, j], D[i, j])[0] for D in again]
    assert found.rank_correlation[:5] == pytest.approx(
        (1, np.mean(rho), np.std(rho), *np.quantile(rho, [0.025, 0.975]))
    )
    scores = [cluster_agreement(D, names, permutations=1).scores for D in again]
    for measure, spread in (("mantel", found.mantel), ("nmi", found.nmi)):
        values = [s[measure].value for s in scores]
        assert (spread.mean, spread.sd) == pytest.approx((np.mean(values), np.std(values)))
    clades = [{tuple(row) for row in members(task_tree(D).linkage)} for D in again]
    want = [np.mean([tuple(row) in tree for tree in clades]) for row in found.members]
    np.testing.assert_allclose(found.support, want)
    assert found.used == 100


def test_blocks_of_layers():
    """Layers that resemble their neighbours: drawn one by one they look steadier than drawn in runs."""
    T = np.repeat(distances(3), 6, 0)
    spread = [layer_stability(T, list("aaabbb"), block=b, replicates=400).mantel.sd for b in (1, 6, 18)]
    assert spread[0] < 0.7 * spread[1]
    assert spread[2] == pytest.approx(0, abs=1e-12)  # one run of all layers
    with pytest.raises(ValueError, match=r"block must be in 1\.\.18"):
        layer_stability(T, block=19)


def test_few_tasks_and_missing_layers():
    two = layer_stability(distances(3, n=2), list("ab"), replicates=100)
    assert two.support.tolist() == [1]
    assert (two.rank_correlation.reason, two.nmi.reason) == (
        "two tasks have one distance",
        "every task is a cluster of its own",
    )
    one = layer_stability(distances(3, n=1), replicates=100)
    assert (one.reason, one.used) == ("fewer than two tasks have distances", 0)
    T = without(without(distances(3), 1, 0), 1, 1)  # task 1 has one of three layers, which 19 of 27 resamples draw
    some = layer_stability(T, replicates=1000)
    assert some.used / 1000 == pytest.approx(19 / 27, abs=0.06)
    assert some.mantel.reason == "no clusters are given"
    equal = layer_stability(np.tile(1 - np.eye(4), (3, 1, 1)), list("aabb"), replicates=100)
    assert equal.mantel.reason == equal.rank_correlation.reason == "all distances are equal"
