"""Figures of CKA: by layer, by pair of layers, by task, by estimator. From the dataset of `results/cka.nc`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from run.figures.layout import fitting, inches, legend_outside, panels
from run.figures.style import (
    CLUSTER_COLOURS,
    MISSING,
    PAIR_COLOURS,
    SOLID,
    cka_axis,
    layer_axis,
    legend,
    mark_missing,
    mean_present,
    same_layer,
    short,
    styled,
    two_curves,
    two_handles,
)


@styled()
def layer_boxplot(ds: xr.Dataset) -> Figure:
    """Same-layer debiased CKA by layer, box plots over tasks: is the base, or is E, closer to each task's own model?

    Boxes are quartiles, whiskers reach the last task within 1.5 box lengths. Up to 15 tasks are also drawn as points.
    """
    figure, [axes] = panels(1, height=3.0)
    values = {pair: same_layer(ds, pair) for pair in ("base | C", "E | C")}
    few = ds.sizes["task"] <= 15
    for side, (pair, table) in zip((-0.2, 0.2), values.items(), strict=True):
        colour = PAIR_COLOURS[pair]
        line = {"color": colour, "linewidth": 0.6}
        look: dict[str, Any] = {
            **{"widths": 0.32, "manage_ticks": False, "patch_artist": True, "showfliers": not few},
            "flierprops": {"marker": ".", "markersize": 2.5, "markerfacecolor": colour, "markeredgewidth": 0},
            "boxprops": {"facecolor": colour + "55", "edgecolor": colour, "linewidth": 0.6},
            **{"whiskerprops": line, "capprops": line, "medianprops": {"color": colour, "linewidth": 1.6}},
        }
        columns = [column[np.isfinite(column)] for column in table.T]
        axes.boxplot(columns, positions=np.arange(table.shape[1]) + side, **look)
        if few:
            x = np.broadcast_to(np.arange(table.shape[1]) + side, table.shape)
            axes.scatter(x, table, s=4, color="#222222", alpha=0.4, linewidths=0, zorder=3)
    mark_missing(axes, *values.values())
    cka_axis(axes, *values.values())
    layer_axis(axes.xaxis, ds.layer_a.values, most=fitting(20))
    axes.set(xlim=(-0.7, ds.sizes["layer_a"] - 0.3), xlabel="layer", ylabel="same-layer CKA (debiased)")
    handles = [Patch(facecolor=PAIR_COLOURS[p] + "55", edgecolor=PAIR_COLOURS[p], label=p) for p in values]
    dot = Line2D([], [], label="one task", marker="o", markersize=2.5, color="#222222", alpha=0.5, linestyle="")
    legend(figure, [*handles, dot] if few else handles, *values.values())
    return figure


@styled()
def layer_heatmaps(ds: xr.Dataset, task: str | None = None) -> Figure:
    """Debiased CKA of all layer pairs, a heat map per model pair on one scale: the mean over tasks, or one task."""
    pairs = [str(pair) for pair in ds.pair.values]
    selected = ds.cka.sel(estimator="debiased", task=[task] if task is not None else ds.task.values)
    maps = [mean_present(selected.sel(pair=p).transpose("task", "layer_a", "layer_b").values) for p in pairs]
    low = min([0.0, *(float(m[np.isfinite(m)].min()) for m in maps if np.isfinite(m).any())])
    beside = inches() > 2.1 * len(pairs)
    figure, row = panels(len(pairs), height=2.45 if beside else 2.1, narrowest=1.5)
    for axes, pair, values in zip(row, pairs, maps, strict=True):
        axes.patch.set(**MISSING)  # shows through where the image has no value
        # "none" hands the file one pixel a cell; other settings would resample, or smooth, what was measured.
        image = axes.imshow(values, cmap="viridis", vmin=low, vmax=1, origin="lower", interpolation="none")
        first, second = pair.split(" | ")
        axes.set(title=pair, xlabel=f"layer of {second}", ylabel=f"layer of {first}")
        layer_axis(axes.xaxis, ds.layer_b.values, most=8 if beside else 5)
        layer_axis(axes.yaxis, ds.layer_a.values, most=8 if beside else 5)
    where: dict[str, Any] = {} if beside else {"location": "bottom"}
    bar = figure.colorbar(image, ax=row, shrink=0.72, pad=0.02, aspect=18, **where)
    bar.set_label(
        f"debiased CKA, {'mean over tasks' if task is None else short(task)}\n(one scale for all maps: {low:.2f} to 1)"
    )
    legend(figure, [], *(m.reshape(1, -1) for m in maps))
    return figure


@styled()
def curves_by_depth(studies: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """Same-layer debiased CKA of several studies, mean over tasks, by share of the depth: a panel for each pair.

    `studies` gives, by name, for each pair of models the depths and the values.
    """
    pairs = list(next(iter(studies.values())))
    labels = ("share of the depth", "same-layer CKA, mean over tasks")
    figure, row = panels(len(pairs), height=2.3, top=0.3, labels=labels, sharex=True, sharey=True)
    styles = ["-", (0, (2.5, 1.2)), (0, (1, 1)), (0, (4, 1, 1, 1))]
    handles, drawn = [], []
    for n, (name, curves) in enumerate(studies.items()):
        look: dict[str, Any] = {
            "linestyle": styles[n % len(styles)],
            "color": CLUSTER_COLOURS[n % len(CLUSTER_COLOURS)],
        }
        handles.append(Line2D([], [], label=name, **look))
        for axes, pair in zip(row, pairs, strict=True):
            depth, values = curves[pair]
            axes.plot(depth, values, linewidth=1.3, marker=".", markersize=2.5, **look)
            drawn.append(values[None])
    for axes, pair in zip(row, pairs, strict=True):
        axes.set_title(pair)
    cka_axis(row[0], *drawn)
    legend(figure, handles, *drawn)
    return figure


@styled()
def task_curves(ds: xr.Dataset) -> Figure:
    """A panel per task, ordered and coloured by cluster: same-layer debiased CKA of E (solid) and base (dashed) with C.

    The shaded area between the curves is what multi-task tuning moved towards the task's own model, or away from it.
    """
    clusters = [str(c) for c in ds.cluster.values]
    colours = dict(zip(dict.fromkeys(clusters), CLUSTER_COLOURS * len(clusters), strict=False))
    order = sorted(range(len(clusters)), key=lambda t: list(colours).index(clusters[t]))
    ours, base = same_layer(ds, "E | C"), same_layer(ds, "base | C")
    labels = ("layer", "same-layer CKA (debiased)")
    figure, grid = panels(len(order), height=1.35, narrowest=1.6, top=0.5, labels=labels, sharex=True, sharey=True)
    for t, axes in zip(order, grid, strict=True):
        colour = colours[clusters[t]]
        two_curves(axes, ours[t], base[t], colour)
        axes.set_title(short(str(ds.task.values[t]), 22), loc="left", pad=11, fontsize=7.5)
        axes.text(0, 1.02, short(clusters[t], 26), transform=axes.transAxes, color=colour, fontsize=6.5, va="bottom")
        mark_missing(axes, ours[t : t + 1], base[t : t + 1])
    cka_axis(grid[0], ours, base)
    layer_axis(grid[0].xaxis, ds.layer_a.values, most=6)
    legend(figure, two_handles("E | C", "base | C"), ours.reshape(1, -1), base.reshape(1, -1))
    return figure


@styled()
def estimator_gap(ds: xr.Dataset) -> Figure:
    """Debiased and biased same-layer CKA, mean over tasks, a panel per model pair: the area is what bias would add."""
    pairs = [str(pair) for pair in ds.pair.values]
    labels = ("layer", "same-layer CKA, mean over tasks")
    figure, row = panels(len(pairs), height=2.05, top=0.3, labels=labels, sharex=True, sharey=True)
    drawn = []
    for axes, pair in zip(row, pairs, strict=True):
        debiased, biased = (mean_present(same_layer(ds, pair, e)) for e in ("debiased", "biased"))
        two_curves(axes, debiased, biased, PAIR_COLOURS.get(pair, "#333333"))
        axes.set_title(pair)
        drawn += [debiased[None], biased[None]]
        mark_missing(axes, *drawn[-2:])
    cka_axis(row[0], *drawn)
    layer_axis(row[0].xaxis, ds.layer_a.values, most=8)
    legend(figure, two_handles("debiased", "biased"), *drawn)
    return figure


@styled()
def bands_by_layer(curves: pd.DataFrame, bands: pd.DataFrame, statistic: str = "mean") -> Figure:
    """Same-layer CKA over tasks with 95 % intervals, and the bands of layers that explain it best.

    From the tables of `results/cka_by_layer.csv` and `results/bands.csv`, of the curves that were cut together first.
    Dashed: the cuts; the bar on each: where it falls in 95 % of the draws of tasks.
    """
    cuts = str(bands.curves.iloc[0])
    own = bands[bands.curves == cuts]
    layers = list(dict.fromkeys(curves.layer))
    figure, [axes] = panels(1, height=2.6)
    drawn = []
    for pair in cuts.split(" and "):
        rows = curves[curves.pair == pair].set_index("layer").loc[layers]
        value, low, high = (
            pd.to_numeric(rows[name], errors="coerce").to_numpy(float)
            for name in (statistic, f"{statistic}_low", f"{statistic}_high")
        )
        axes.plot(value, color=PAIR_COLOURS.get(pair, "#333333"), label=pair, **SOLID)
        axes.fill_between(np.arange(len(layers)), low, high, color=PAIR_COLOURS.get(pair, "#333333"), alpha=0.15, lw=0)
        drawn.append(value[None])
    cka_axis(axes, *drawn)
    for n, row in enumerate(own.itertuples()):
        first, last = layers.index(row.first), layers.index(row.last)
        if n % 2 == 0:
            axes.axvspan(first - 0.5, last + 0.5, color="#F1F1F1", zorder=0)
        if n:
            axes.axvline(first - 0.5, color="#333333", linewidth=0.8, linestyle=(0, (2.5, 1.2)))
            if row.begins_low:
                axes.plot(
                    [layers.index(row.begins_low) - 0.5, layers.index(row.begins_high) - 0.5],
                    [0.06, 0.06],
                    lw=2.5,
                    c="#333333",
                )
    layer_axis(axes.xaxis, layers, most=fitting(20))
    axes.set(xlim=(-0.7, len(layers) - 0.3), xlabel="layer", ylabel=f"same-layer CKA, {statistic} over tasks")
    legend_outside(figure, axes.get_legend_handles_labels()[0])
    return figure
