"""Compiled measures of what models learned: arrays in, arrays out. Needs nothing from the rest of lorajax.

    from analysis import cka_all_pairs, thin_svd      # what speaks for itself
    from analysis.spectrum import spectrum            # any name, by its module

These names are public, and change as CONTRIBUTING.md says; all others may change at any time. Those after a bar are
reached by their module only. Modules are read when they are asked for: importing `analysis` alone is free.

Hidden states of two models on the same examples

    cka                cka_all_pairs, cka_both, cka_same_layer, minibatch_cka, biased_null_mean, duplicate_rows |
                       missing_reason, CKA
    bootstrap          cka_interval, bootstrap_cka | CKAInterval, CKABootstrap
    permutation        permutation_test, debiased_null_sd | PermutationTest
    cca                cca_mean, svcca, pwcca, kept_directions | missing_reason
    similarity         procrustes_similarity, procrustes_distance, rsa
    neighbours         mutual_knn, cknna, nearest_neighbours

Hidden states of one model

    spectrum           dimensions_for_variance, participation_ratio, effective_rank, rankme, matrix_entropy, curvature |
                       spectrum, summary, Summary
    moments            covariance_update, covariance_spectrum | covariance, mean, merge, Moments
    embedding          embed | Embedding, EmbeddingSettings
    clusters           cluster_scores, trustworthiness | Score, ClusterScores

Curves over layers, values over tasks

    bands              find_bands, choose_bands, bootstrap_bands, band_test | Bands, BandChoice, BandBootstrap, BandTest
    correlation        partial_correlation, correlation_by_layer | Correlation, LayerCorrelation
    inference          bootstrap_mean, benjamini_hochberg, holm | Mean
    readability        mean_readability, flesch_kincaid_grade, coleman_liau_index | readability, Readability

Low-rank updates: the weights of adapters

    low_rank           thin_svd, orthonormal_basis, scaled_to_unit, ThinSVD | missing_reason
    grassmann          grassmann_all_pairs, principal_angles, expected_distance | all_pair_angles, distance, Expected
    projection         projection_all_pairs | project, rec, lp_distance, entropy, Projection
    projection_null    | projection_null, ProjectionNull, Chance
    update_similarity  subspace_similarity, subspace_alignment, merged_alignment, task_interference, pair_interference |
                       cosine, l2, inner_products, frobenius_norms, MergedAlignment
    signs              sign_agreement | SignAgreement
    base_directions    base_svd, intruder_dimensions, amplification | Intruders, Amplification

Maps of tasks, from distances between them

    task_map           mean_distances, map_tasks | MeanDistances, TaskMap
    task_tree          | task_tree, cut, Tree
    task_clusters      cluster_agreement | Agreement
    task_stability     layer_stability | Stability, Spread
    mantel             | mantel, MantelTest, TaskScore
    pair_auc           | pair_auc, PairAUC
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis import (
        bands,
        base_directions,
        bootstrap,
        cca,
        cka,
        clusters,
        correlation,
        embedding,
        grassmann,
        inference,
        low_rank,
        mantel,
        moments,
        neighbours,
        pair_auc,
        permutation,
        projection,
        projection_null,
        readability,
        signs,
        similarity,
        spectrum,
        task_clusters,
        task_map,
        task_stability,
        task_tree,
        update_similarity,
    )
    from analysis.bands import band_test, bootstrap_bands, choose_bands, find_bands
    from analysis.base_directions import amplification, base_svd, intruder_dimensions
    from analysis.bootstrap import bootstrap_cka, cka_interval
    from analysis.cca import cca_mean, kept_directions, pwcca, svcca
    from analysis.cka import biased_null_mean, cka_all_pairs, cka_both, cka_same_layer, duplicate_rows, minibatch_cka
    from analysis.clusters import cluster_scores, trustworthiness
    from analysis.correlation import correlation_by_layer, partial_correlation
    from analysis.embedding import embed
    from analysis.grassmann import expected_distance, grassmann_all_pairs, principal_angles
    from analysis.inference import benjamini_hochberg, bootstrap_mean, holm
    from analysis.low_rank import ThinSVD, orthonormal_basis, scaled_to_unit, thin_svd
    from analysis.moments import covariance_spectrum, covariance_update
    from analysis.neighbours import cknna, mutual_knn, nearest_neighbours
    from analysis.permutation import debiased_null_sd, permutation_test
    from analysis.projection import projection_all_pairs
    from analysis.readability import coleman_liau_index, flesch_kincaid_grade, mean_readability
    from analysis.signs import sign_agreement
    from analysis.similarity import procrustes_distance, procrustes_similarity, rsa
    from analysis.spectrum import (
        curvature,
        dimensions_for_variance,
        effective_rank,
        matrix_entropy,
        participation_ratio,
        rankme,
    )
    from analysis.task_clusters import cluster_agreement
    from analysis.task_map import map_tasks, mean_distances
    from analysis.task_stability import layer_stability
    from analysis.update_similarity import (
        merged_alignment,
        pair_interference,
        subspace_alignment,
        subspace_similarity,
        task_interference,
    )

#: What `analysis` itself has of each public module.
_HOMES = {
    "bands": "find_bands choose_bands bootstrap_bands band_test",
    "base_directions": "base_svd intruder_dimensions amplification",
    "bootstrap": "cka_interval bootstrap_cka",
    "cca": "cca_mean svcca pwcca kept_directions",
    "cka": "cka_all_pairs cka_both cka_same_layer minibatch_cka biased_null_mean duplicate_rows",
    "clusters": "cluster_scores trustworthiness",
    "correlation": "partial_correlation correlation_by_layer",
    "embedding": "embed",
    "grassmann": "grassmann_all_pairs principal_angles expected_distance",
    "inference": "bootstrap_mean benjamini_hochberg holm",
    "low_rank": "thin_svd orthonormal_basis scaled_to_unit ThinSVD",
    "mantel": "",
    "moments": "covariance_update covariance_spectrum",
    "neighbours": "mutual_knn cknna nearest_neighbours",
    "pair_auc": "",
    "permutation": "permutation_test debiased_null_sd",
    "projection": "projection_all_pairs",
    "projection_null": "",
    "readability": "mean_readability flesch_kincaid_grade coleman_liau_index",
    "signs": "sign_agreement",
    "similarity": "procrustes_similarity procrustes_distance rsa",
    "spectrum": "dimensions_for_variance participation_ratio effective_rank rankme matrix_entropy curvature",
    "task_clusters": "cluster_agreement",
    "task_map": "mean_distances map_tasks",
    "task_stability": "layer_stability",
    "task_tree": "",
    "update_similarity": "subspace_similarity subspace_alignment merged_alignment task_interference pair_interference",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ThinSVD", "amplification", "band_test", "bands", "base_directions", "base_svd", "benjamini_hochberg",
    "biased_null_mean", "bootstrap", "bootstrap_bands", "bootstrap_cka", "bootstrap_mean", "cca", "cca_mean",
    "choose_bands", "cka", "cka_all_pairs", "cka_both", "cka_interval", "cka_same_layer", "cknna",
    "cluster_agreement", "cluster_scores", "clusters", "coleman_liau_index", "correlation", "correlation_by_layer",
    "covariance_spectrum", "covariance_update", "curvature", "debiased_null_sd", "dimensions_for_variance",
    "duplicate_rows", "effective_rank", "embed", "embedding", "expected_distance", "find_bands",
    "flesch_kincaid_grade", "grassmann", "grassmann_all_pairs", "holm", "inference", "intruder_dimensions",
    "kept_directions", "layer_stability", "low_rank", "mantel", "map_tasks", "matrix_entropy", "mean_distances",
    "mean_readability", "merged_alignment", "minibatch_cka", "moments", "mutual_knn", "nearest_neighbours",
    "neighbours", "orthonormal_basis", "pair_auc", "pair_interference", "partial_correlation",
    "participation_ratio", "permutation", "permutation_test", "principal_angles", "procrustes_distance",
    "procrustes_similarity", "projection", "projection_all_pairs", "projection_null", "pwcca", "rankme",
    "readability", "rsa", "scaled_to_unit", "sign_agreement", "signs", "similarity", "spectrum",
    "subspace_alignment", "subspace_similarity", "svcca", "task_clusters", "task_interference", "task_map",
    "task_stability", "task_tree", "thin_svd", "trustworthiness", "update_similarity",
]  # fmt: skip

if not TYPE_CHECKING:  # type checkers see the imports above, and that there are no other names

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF and name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_HOME_OF.get(name, name)}")
        return getattr(module, name) if name in _HOME_OF else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
