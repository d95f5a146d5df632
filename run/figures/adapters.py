"""Figures of adapters compared by their weights: distances, the map and the tree of tasks, spectra."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.cluster.hierarchy import dendrogram

from run.figures.layout import fitting, inches, legend_outside, panels
from run.figures.style import MISSING, cluster_handles, cluster_look, short, styled


@styled()
def distance_heatmaps(means: xr.Dataset, places: pd.DataFrame, most: int = 3) -> Figure:
    """Mean distances of all pairs, one panel for the mean of all modules and for some modules, in the tree's order.

    From the dataset of `results/task_map.nc` and the table of `results/task_map.csv`.
    """
    ordered = [str(name) for name in places.sort_values("order").name]
    labels = [short(name, 22) for name in _plain(ordered)]
    modules = [str(module) for module in means.module.values][: fitting(most + 1)]
    height = inches() / max(len(modules), 1.2) + 0.4 + 0.02 * max(map(len, labels))
    figure, row = panels(len(modules), height=height, sharey=True)
    whole = means.distance.sel(task_i=ordered, task_j=ordered).transpose("module", "task_i", "task_j").values
    off = whole[: len(modules)][:, ~np.eye(len(ordered), dtype=bool)]
    low, high = np.nanmin(off), np.nanmax(off)
    size = min(6.5, 130 / len(ordered))
    for axes, module, values in zip(row, modules, whole, strict=False):
        axes.set_facecolor(MISSING["facecolor"])
        shown = np.where(np.eye(len(values), dtype=bool), np.nan, values)
        image = axes.imshow(shown, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
        axes.set_title("mean of all modules" if module == "all" else short(module, 24))
        axes.set_xticks(range(len(ordered)), labels, rotation=90, fontsize=size)
        axes.set_yticks(range(len(ordered)), labels, fontsize=size)
        axes.tick_params(length=0)
    figure.colorbar(image, ax=row, label="mean distance", fraction=0.02)
    return figure


@styled()
def layer_heatmaps_of_adapters(pairs: xr.Dataset, places: pd.DataFrame, measure: str, most: int = 5) -> Figure:
    """One measure of all pairs at a few depths, a row for each of the first modules, in the tree's order.

    From the dataset of `results/adapters.nc` and the table of `results/task_map.csv`.
    """
    ordered = [str(name) for name in places.sort_values("order").name]
    modules = [str(module) for module in pairs.module.values][:4]
    layers = pairs.layer.values
    most = fitting(most, 3)
    chosen = layers[sorted({round(i) for i in np.linspace(0, len(layers) - 1, min(most, len(layers)))})]
    shown = pairs.value.sel(measure=measure, task_i=ordered, task_j=ordered, module=modules, layer=chosen)
    values = shown.transpose("module", "layer", "task_i", "task_j").values
    values = np.where(np.eye(len(ordered), dtype=bool), np.nan, values)
    side = inches() / (max(len(chosen), 3) + 0.6)
    figure = Figure(figsize=(inches(), 0.4 + side * len(modules)), layout="constrained")
    grid = figure.subplots(len(modules), len(chosen), squeeze=False)
    for row, line, module in zip(grid, values, modules, strict=True):
        row[0].set_ylabel(short(module, 20))
        for axes, square, layer in zip(row, line, chosen, strict=True):
            axes.set_facecolor(MISSING["facecolor"])
            image = axes.imshow(square, vmin=np.nanmin(values), vmax=np.nanmax(values), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if row is grid[0]:
                axes.set_title(f"block {layer + 1}")
    figure.colorbar(image, ax=grid, label=measure.replace("_", " "), fraction=0.02)
    return figure


@styled()
def distances_by_layer(pairs: xr.Dataset, measure: str) -> Figure:
    """One measure by layer, a panel for each module: pairs of one cluster, and pairs of two; median and middle half.

    From the dataset of `results/adapters.nc`.
    """
    modules = [str(module) for module in pairs.module.values]
    labels = ("block", measure.replace("_", " ").replace("share", "(1: by chance)"))
    figure, grid = panels(len(modules), height=1.6, narrowest=1.6, top=0.5, labels=labels, sharex=True, sharey=True)
    cluster = pairs.cluster.values.astype(str)
    i, j = np.triu_indices(len(cluster), 1)
    known = (cluster[i] != "") & (cluster[j] != "")
    groups = {
        "pairs of one cluster": known & (cluster[i] == cluster[j]),
        "pairs of two": known & (cluster[i] != cluster[j]),
    }
    if not known.any():
        groups = {"all pairs": np.ones(len(i), bool)}
    colours = dict(zip(groups, ("#0072B2", "#D55E00"), strict=False))
    for axes, module in zip(grid, modules, strict=True):
        values = pairs.value.sel(measure=measure, module=module).transpose("layer", "task_i", "task_j").values[:, i, j]
        for label, chosen in groups.items():
            if chosen.any():
                _band(axes, pairs.layer.values + 1, values[:, chosen], colours[label])
        axes.set_title(short(module, 28), fontsize=7)
        axes.grid(axis="y")
    legend_outside(figure, [Line2D([], [], color=colours[label], label=label, linewidth=1.5) for label in groups])
    return figure


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str) -> None:
    there = np.isfinite(values).any(1)
    if not there.any():
        return
    low, middle, high = np.nanpercentile(values[there], [25, 50, 75], axis=1)
    axes.plot(x[there], middle, color=colour, linewidth=1.4, marker="." if there.sum() < 3 else None)
    axes.fill_between(x[there], low, high, color=colour, alpha=0.13, linewidth=0)


@styled()
def adapter_map(places: pd.DataFrame) -> Figure:
    """Where tasks lie by the weights of their adapters: principal components of T̄, and classical scaling.

    From the table of `results/task_map.csv`. A name that would cover another is left out; the table has it.
    """
    figure, row = panels(2, height=3.2, narrowest=2.5, top=1.0)
    look = cluster_look(places.cluster)
    titles = {"pca": "principal components of mean distances", "mds": "classical scaling"}
    for axes, (method, title) in zip(row, titles.items(), strict=True):
        points = places[[f"{method}_1", f"{method}_2"]].to_numpy(float)
        for cluster, how in look.items():
            x, y = points[places.cluster.to_numpy() == cluster].T
            axes.scatter(x, y, s=14, linewidths=0, **how)
        axes.set_title(title, fontsize=7)
        axes.set(xticks=[], yticks=[])
        axes.margins(0.14)
        _label(axes, points, [short(name, 20) for name in _plain(places.name)])
    if any(look):
        legend_outside(figure, cluster_handles(look), loc="outside lower center", ncols=5)
    return figure


def _label(axes: Axes, points: np.ndarray, names: list[str], size: float = 5.5) -> None:
    """Names beside the points, on the first of four sides where they cover neither a name nor a point."""
    there = np.isfinite(points).all(1)
    if not there.any():
        return
    # In inches, as far as they are known before the layout is: the panel is half a page wide, or a column.
    extent = np.ptp(points[there], axis=0)
    scale = np.array([min(3.5, inches()), 3.2]) / 1.28 / np.where(extent > 0, extent, 1)
    spots = points * scale
    taken = [(*spot - 0.02, *spot + 0.02) for spot in spots[there]]
    for point, spot, name in zip(points[there], spots[there], np.array(names)[there], strict=True):
        width, height = 0.0078 * size * len(name), 0.0125 * size
        for side, low in (("left", -0.5), ("right", -0.5), ("left", 0.4), ("right", -1.4)):
            x = spot[0] + (0.04 if side == "left" else -0.04 - width)
            box = (x, spot[1] + low * height, x + width, spot[1] + (low + 1) * height)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                offset = (72 * 0.04 * (1 if side == "left" else -1), 72 * (low + 0.5) * height)
                axes.annotate(name, point, offset, textcoords="offset points", ha=side, va="center", fontsize=size)
                taken.append(box)
                break


def _plain(names: pd.Series | list[str]) -> list[str]:
    """Names without a beginning that all of them share."""
    texts = [str(name) for name in names]
    starts = {text.split("/")[0] if "/" in text else None for text in texts}
    return [text.split("/", 1)[1] for text in texts] if len(starts) == 1 and None not in starts else texts


@styled()
def adapter_tree(linkage: np.ndarray, places: pd.DataFrame) -> Figure:
    """The tree of tasks by mean distance, their names in the colours of their clusters, whose marks are beside them.

    From SciPy's linkage `[n - 1, 4]` (as it is in the dataset of `results/task_map.nc`, flat or not) and the table of
    `results/task_map.csv`, whose rows are its leaves.
    """
    linkage = np.reshape(linkage, (-1, 4))
    names = _plain(places.name)
    figure, [axes] = panels(1, height=0.6 + 0.16 * len(names), top=0.3 + 0.15 * (places.cluster.nunique() // 5))
    drawn = dendrogram(linkage, no_plot=True)
    for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        axes.plot(y, x, color="#555555", linewidth=0.9)
    look = cluster_look(places.cluster)
    leaves = drawn["leaves"]
    axes.set_yticks(10 * np.arange(len(leaves)) + 5, [short(names[i], fitting(30, 22)) for i in leaves])
    for label, leaf in zip(axes.get_yticklabels(), leaves, strict=True):
        label.set_color(look[places.cluster.iloc[leaf]]["color"])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mean distance at which groups meet")
    # From where the tree begins: all tasks are far from all others, and the lower half of the axis would be bare lines.
    lowest, highest = linkage[:, 2].min(), linkage[:, 2].max()
    left = lowest - 0.15 * (highest - lowest) if len(names) > 2 else 0
    axes.set_xlim(left, highest + 0.03 * (highest - left))
    if any(look):  # more clusters than colours: a colour and a mark together name one
        for place, leaf in enumerate(leaves):
            how = look[places.cluster.iloc[leaf]]
            axes.scatter([left], [10 * place + 5], s=12, linewidths=0, clip_on=False, zorder=3, **how)
        legend_outside(figure, cluster_handles(look), ncols=5)
    return figure


@styled()
def adapter_spectra(pairs: xr.Dataset, most: int = 4) -> Figure:
    """Singular values of the updates, each over its largest: median over tasks and layers, a line for each cluster.

    From the dataset of `results/adapters.nc`.
    """
    modules = [str(module) for module in pairs.module.values][:most]
    labels = ("direction", "singular value / the largest")
    figure, row = panels(len(modules), height=1.9, top=0.6, labels=labels, sharex=True, sharey=True)
    cluster = pairs.cluster.values.astype(str)
    look = cluster_look(cluster)
    directions = pairs.direction.values
    for axes, module in zip(row, modules, strict=True):
        s = pairs.singular_value.sel(module=module).transpose("task", "layer", "direction").values
        with np.errstate(invalid="ignore"):
            s = s / s[..., :1]
        for name, how in look.items():
            own = s[cluster == name].reshape(-1, s.shape[-1])
            own = own[np.isfinite(own).any(1)]
            if len(own):
                axes.plot(directions, np.nanmedian(own, 0), linewidth=1.2, markersize=2.5, **how)
        axes.set_title(short(module, 28), fontsize=7)
        axes.set_ylim(0, 1.05)
        axes.grid(axis="y")
    if any(look):
        legend_outside(figure, cluster_handles(look), ncols=5)
    return figure


@styled()
def projection_heatmaps(table: pd.DataFrame, places: pd.DataFrame, shown: tuple[str, ...] = ("rec", "lp")) -> Figure:
    """Spectral projections of every task's update (column) on the space of every other's (row), in the tree's order.

    From the tables of `results/projection.csv` and `results/task_map.csv`.
    """
    ordered = [str(name) for name in places.sort_values("order").name]
    labels = [short(name, 22) for name in _plain(ordered)]
    there = [name for name in shown if (table.projection == name).any()] or list(table.projection.unique()[:1])
    labels_of_axes = ("update of", "on the space of")
    figure, row = panels(len(there), height=3.7, narrowest=2.5, labels=labels_of_axes, sharey=True)
    size = min(6.5, 130 / len(ordered))
    for axes, name in zip(row, there, strict=True):
        own = table[table.projection == name].pivot(index="task_i", columns="task_j", values="value")
        own = own.apply(pd.to_numeric, errors="coerce")  # a missing value is an empty cell
        axes.set_facecolor(MISSING["facecolor"])
        image = axes.imshow(own.reindex(index=ordered, columns=ordered), cmap="viridis", interpolation="nearest")
        axes.set_title({"rec": "REC", "lp": "Lp"}.get(name, name.replace("_", " ")))
        axes.set_xticks(range(len(ordered)), labels, rotation=90, fontsize=size)
        axes.set_yticks(range(len(ordered)), labels, fontsize=size)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, fraction=0.04)
    return figure
