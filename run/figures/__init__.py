"""The figures of a study, drawn for a paper column: labelled results in, a matplotlib Figure out."""

from run.figures.adapters import (
    adapter_map,
    adapter_spectra,
    adapter_tree,
    distance_heatmaps,
    distances_by_layer,
    layer_heatmaps_of_adapters,
    projection_heatmaps,
)
from run.figures.geometry import band_shares, cluster_scores, readability_by_layer, spectrum_by_layer, task_maps
from run.figures.similarity import (
    bands_by_layer,
    curves_by_depth,
    estimator_gap,
    layer_boxplot,
    layer_heatmaps,
    task_curves,
)
from run.figures.style import mean_present, same_layer, save
from run.figures.training import loss_bars, training_curves

__all__ = [
    "adapter_map",
    "adapter_spectra",
    "adapter_tree",
    "band_shares",
    "bands_by_layer",
    "cluster_scores",
    "curves_by_depth",
    "distance_heatmaps",
    "distances_by_layer",
    "estimator_gap",
    "layer_boxplot",
    "layer_heatmaps",
    "layer_heatmaps_of_adapters",
    "loss_bars",
    "mean_present",
    "projection_heatmaps",
    "readability_by_layer",
    "same_layer",
    "save",
    "spectrum_by_layer",
    "task_curves",
    "task_maps",
    "training_curves",
]
