"""Figures of what the states of one model are like: spectra, maps of tasks, clusters; and what layers a task needs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from run.figures.layout import fitting, inches, legend_outside, panels
from run.figures.style import PAIR_COLOURS, cluster_handles, cluster_look, layer_axis, styled

MODELS = {"base": "#D55E00", "E": "#0072B2", "C": "#009E73"}
OTHERS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")

SPECTRUM_LABELS = {
    "dimensions": "dimensions for the variance",
    "participation_ratio": "participation ratio",
    "effective_rank": "effective rank",
    "curvature": "curvature (radians)",
}
SCORE_LABELS = {
    "silhouette": "silhouette",
    "knn_purity_across": "purity of neighbours\nfrom other tasks",
    "nmi": "k-means and clusters (NMI)",
}


@styled()
def spectrum_by_layer(ds: xr.Dataset) -> Figure:
    """How the states of a task spread: median over tasks and, shaded, the middle half, for each model.

    From the dataset of `results/spectrum.nc`.
    """
    figure, row = panels(len(SPECTRUM_LABELS), height=1.8, top=0.3, labels=("layer", ""), sharex=True)
    models = [str(model) for model in ds.model.values]
    colours = _colours(models)
    for axes, (measure, label) in zip(row, SPECTRUM_LABELS.items(), strict=True):
        for model in models:
            values = ds.spectrum.sel(model=model, measure=measure).transpose("task", "layer").values
            _median_and_quartiles(axes, values, colours[model])
        axes.set_title(label, fontsize=7)
        axes.set_ylim(0, None)
        axes.grid(axis="y")
        layer_axis(axes.xaxis, ds.layer.values, most=6)
    legend_outside(figure, [Line2D([], [], color=colours[m], label=m, linewidth=1.5) for m in models])
    return figure


@styled()
def task_maps(ds: xr.Dataset, projection: str = "tsne", most: int = 5) -> Figure:
    """The prompts of all tasks on maps, a row for each model and a column for each layer, coloured by cluster.

    From the dataset of `results/embedding.nc`; of the layers that were drawn, at most `most`.
    """
    maps = ds["map"].sel(projection=projection)
    drawn = [i for i in range(ds.sizes["layer"]) if np.isfinite(maps.isel(layer=i)).any()]
    most = fitting(most, 3)
    chosen = sorted({drawn[round(i)] for i in np.linspace(0, len(drawn) - 1, most)}) if drawn else []
    look = cluster_look(ds.cluster.values)
    models = [str(model) for model in ds.model.values]
    width = max(len(chosen), 1)
    figure = Figure(figsize=(inches(), 0.6 + inches() / max(width, 3) * len(models)), layout="constrained")
    grid = figure.subplots(len(models), width, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for line, model in zip(grid, models, strict=True):
        line[0].set_ylabel(model)
        for axes, layer in zip(line, chosen, strict=False):
            points = maps.sel(model=model).isel(layer=layer).transpose("point", "axis").values
            for cluster, how in look.items():
                own = points[ds.cluster.values == cluster]
                axes.scatter(*own.T, s=3, linewidths=0, alpha=0.8, **how)
    for axes, layer in zip(grid[0], chosen, strict=False):
        axes.set_title(str(ds.layer.values[layer]))
    legend_outside(figure, cluster_handles(look), loc="outside lower center", ncols=6)
    return figure


@styled()
def cluster_scores(ds: xr.Dataset) -> Figure:
    """How clustered the tasks are, by layer, for each model; shaded: mean and two deviations under the null."""
    models = [str(model) for model in ds.model.values]
    colours = _colours(models)
    figure, row = panels(len(SCORE_LABELS), height=1.9, top=0.3, labels=("layer", ""), sharex=True)
    x = np.arange(ds.sizes["layer"])
    for axes, (measure, label) in zip(row, SCORE_LABELS.items(), strict=True):
        for model in models:
            own = ds.score.sel(model=model, measure=measure).transpose("statistic", "layer")
            value, mean, sd = (own.sel(statistic=name).values for name in ("value", "null_mean", "null_sd"))
            axes.plot(x, value, color=colours[model], linewidth=1.4)
            axes.plot(x, mean, color=colours[model], linewidth=0.8, linestyle=(0, (2.5, 1.2)))
            least = -1 if measure == "silhouette" else 0  # a share or a purity is not below 0
            low = np.maximum(mean - 2 * sd, least)
            axes.fill_between(x, low, mean + 2 * sd, color=colours[model], alpha=0.13, linewidth=0)
        axes.set_title(label, fontsize=7)
        axes.grid(axis="y")
        layer_axis(axes.xaxis, ds.layer.values, most=6)
    handles = [Line2D([], [], color=colours[m], label=m, linewidth=1.5) for m in models]
    handles.append(Line2D([], [], color="#555555", linestyle=(0, (2.5, 1.2)), linewidth=0.8, label="clusters by lot"))
    legend_outside(figure, handles)
    return figure


@styled()
def readability_by_layer(table: pd.DataFrame) -> Figure:
    """Correlation over tasks of readability and size with same-layer CKA, by layer, with 95 % intervals.

    From the table of `results/readability_correlation.csv`.
    """
    measures, pairs = list(dict.fromkeys(table.measure)), list(dict.fromkeys(table.pair))
    labels = ("layer", "correlation with CKA")
    figure, row = panels(len(measures), height=1.8, narrowest=1.1, top=0.3, labels=labels, sharex=True, sharey=True)
    others = iter(OTHERS * len(pairs))
    colours = {pair: PAIR_COLOURS.get(pair) or next(others) for pair in pairs}
    for axes, measure in zip(row, measures, strict=True):
        for pair in pairs:
            own = table[(table.measure == measure) & (table.pair == pair)]
            x = np.arange(len(own))
            r, low, high = (pd.to_numeric(own[name], errors="coerce") for name in ("r", "low", "high"))
            axes.plot(x, r, color=colours[pair], linewidth=1.4)
            axes.fill_between(x, low, high, color=colours[pair], alpha=0.12, linewidth=0)
        axes.axhline(0, color="#555555", linewidth=0.6)
        axes.set(title=measure.replace("_", " "), ylim=(-1, 1))
        axes.grid(axis="y")
        layer_axis(axes.xaxis, own.layer, most=6)
    legend_outside(figure, [Line2D([], [], color=colours[p], label=p, linewidth=1.5) for p in pairs])
    return figure


@styled()
def band_shares(ds: xr.Dataset, model: str = "C") -> Figure:
    """Share of an adapter's gain that is kept in some layers only: dots are tasks, bars medians.

    From the dataset of `results/ablation.nc`. Bands where there are any, else prefixes and suffixes by layer.
    """
    kinds = [str(kind) for kind in ds.kind.values]
    shown = ["band"] if "band" in kinds else [kind for kind in ("prefix", "suffix", "single") if kind in kinds]
    chosen = [i for i, kind in enumerate(kinds) if kind in shown]
    model = model if model in ds.model.values else str(ds.model.values[0])
    shares = ds.share.sel(model=model).transpose("task", "mask").values[:, chosen]
    figure, [axes] = panels(1, height=2.2)
    x = np.arange(len(chosen))
    axes.scatter(np.broadcast_to(x, shares.shape), shares, s=6, color="#222222", alpha=0.4, linewidths=0)
    there = np.isfinite(shares).any(0)
    axes.hlines(np.nanmedian(shares[:, there], 0), x[there] - 0.3, x[there] + 0.3, color=MODELS["E"], linewidth=1.8)
    axes.axhline(0, color="#555555", linewidth=0.6)
    axes.axhline(1, color="#555555", linewidth=0.6, linestyle=(0, (2.5, 1.2)))
    names = [str(ds["mask"].values[i]).replace("band ", "") for i in chosen]
    step = max(1, len(names) // fitting(16))
    axes.set_xticks(x[::step], names[::step])
    axes.set(
        xlabel="blocks with the adapter", ylabel=f"share of the gain kept ({model})", xlim=(-0.7, len(names) - 0.3)
    )
    axes.grid(axis="y")
    return figure


def _colours(models: list[str]) -> dict[str, str]:
    rest = iter(OTHERS * len(models))
    return {model: MODELS.get(model) or next(rest) for model in models}


def _median_and_quartiles(axes, values: np.ndarray, colour: str) -> None:
    """values `[task, layer]`; a layer that no task has is left open."""
    there = np.isfinite(values).any(0)
    found = np.full((3, values.shape[1]), np.nan)
    if there.any():
        found[:, there] = np.nanquantile(values[:, there], (0.25, 0.5, 0.75), axis=0)
    x = np.arange(values.shape[1])
    axes.plot(x, found[1], color=colour, linewidth=1.4)
    axes.fill_between(x, found[0], found[2], color=colour, alpha=0.15, linewidth=0)
