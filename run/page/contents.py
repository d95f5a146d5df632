"""Which figures a report shows, and from which result files each is drawn."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

#: Files in `results`, by figure; a figure is shown where all of them are there.
FIGURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cka_by_layer", "cka_all_layers", "cka_by_task", "cka_estimators"), ("cka.csv",)),
    "bands_by_layer": ("cka_by_layer.csv", "bands.csv"),
    "ablation": ("ablation.csv",),
    "spectrum": ("spectrum.csv",),
    "task_maps": ("embedding_map.csv",),
    "clusters": ("embedding_scores.csv",),
    "readability": ("readability_correlation.csv",),
    "adapter_heatmaps": ("adapters.csv", "task_map.csv"),
    "adapter_map": ("task_map.csv",),
    "adapter_tree": ("task_tree.csv", "task_map.csv"),
    "adapter_layers": ("adapters_by_layer.csv", "task_map.csv"),
    "adapter_layer_heatmaps": ("adapters_by_layer.csv", "task_map.csv"),
    "adapter_spectra": ("adapter_spectra.csv",),
    "projections": ("projection.csv", "task_map.csv"),
    "published_curves": ("published.csv",),
    "published_projections": ("published.csv",),
    "losses": ("losses.csv",),
    "training": ("training.csv",),
}


def shown(results: Path, names: Collection[str]) -> dict[str, list[str]]:
    """Of the figures `names`, those whose files are in the folder `results`, and these files."""
    return {
        name: list(files)
        for name, files in FIGURES.items()
        if name in names and all((results / file).exists() for file in files)
    }
