"""The figures of a study, drawn for a paper column: labelled results in, a matplotlib Figure out.

Every function takes the dataset of `results/cka.nc` (variable `cka` over pair, estimator, task, layer_a, layer_b) or a
table, and returns a `Figure` that nobody else knows of: no pyplot, no global settings, so a notebook that calls these
keeps its own style. `save` writes it as SVG (text stays text, the same bytes for the same numbers) or PDF.

A value that could not be computed is NaN. It is drawn as missing, grey and hatched, and never as 0.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lorajax.files import replacing

PAGE = 7.0  # inches: the text width of a two-column paper

# Okabe & Ito's palette, which colour-blind readers can tell apart; one meaning per colour in all figures.
PAIR_COLOURS = {"base | C": "#D55E00", "E | C": "#0072B2", "base | E": "#009E73"}
MODEL_COLOURS = {"E": "#0072B2", "C": "#E69F00"}
# Paul Tol's "muted" palette, for clusters. A panel names its cluster too: with ten and more, colours repeat.
CLUSTER_COLOURS = ("#332288", "#CC6677", "#117733", "#999933", "#882255", "#44AA99", "#AA4499", "#6699CC", "#B8860B")
SOLID: dict[str, Any] = {"linewidth": 1.3, "marker": ".", "markersize": 2.5}
DASHED: dict[str, Any] = {"linewidth": 0.9, "marker": ".", "markersize": 2, "linestyle": (0, (2.5, 1.2))}
MISSING: dict[str, Any] = {"facecolor": "#E6E6E6", "edgecolor": "#9A9A9A", "hatch": "//////", "linewidth": 0.0}
PARTLY_MISSING: dict[str, Any] = {"facecolor": "#EFEFEF", "linewidth": 0.0}

STYLE: dict[Any, Any] = {
    **{"font.size": 7.5, "axes.titlesize": 8, "figure.labelsize": 7.5, "legend.fontsize": 7},
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 6.5),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **{"axes.axisbelow": True, "grid.color": "#E2E2E2", "grid.linewidth": 0.5, "hatch.linewidth": 0.5},
    "svg.fonttype": "none",  # text as text: it can be searched, and edited in a drawing program
    "svg.hashsalt": "lorajax",  # ids from the content, not from the clock
    "text.parse_math": False,  # a task may be called "$x$"
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """`STYLE` and nothing of the caller's settings, which are put back afterwards. Also decorates a function."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


@styled()
def layer_boxplot(ds: xr.Dataset) -> Figure:
    """Same-layer debiased CKA by layer, box plots over tasks: is the base, or is E, closer to each task's own model?

    Boxes are quartiles, whiskers reach the last task within 1.5 box lengths. Up to 15 tasks are also drawn as points.
    """
    figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
    axes = figure.subplots()
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
    _mark_missing(axes, *values.values())
    _cka_axis(axes, *values.values())
    _layer_axis(axes.xaxis, ds.layer_a.values)
    axes.set(xlim=(-0.7, ds.sizes["layer_a"] - 0.3), xlabel="layer", ylabel="same-layer CKA (debiased)")
    handles = [Patch(facecolor=PAIR_COLOURS[p] + "55", edgecolor=PAIR_COLOURS[p], label=p) for p in values]
    dot = Line2D([], [], label="one task", marker="o", markersize=2.5, color="#222222", alpha=0.5, linestyle="")
    _legend(figure, [*handles, dot] if few else handles, *values.values())
    return figure


@styled()
def layer_heatmaps(ds: xr.Dataset, task: str | None = None) -> Figure:
    """Debiased CKA of all layer pairs, a heat map per model pair on one scale: the mean over tasks, or one task."""
    pairs = [str(pair) for pair in ds.pair.values]
    selected = ds.cka.sel(estimator="debiased", task=[task] if task is not None else ds.task.values)
    maps = [mean_present(selected.sel(pair=p).transpose("task", "layer_a", "layer_b").values) for p in pairs]
    low = min([0.0, *(float(m[np.isfinite(m)].min()) for m in maps if np.isfinite(m).any())])
    figure = Figure(figsize=(PAGE, 2.45), layout="constrained")
    row = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, pair, values in zip(row, pairs, maps, strict=True):
        axes.patch.set(**MISSING)  # shows through where the image has no value
        # "none" hands the file one pixel a cell; other settings would resample, or smooth, what was measured.
        image = axes.imshow(values, cmap="viridis", vmin=low, vmax=1, origin="lower", interpolation="none")
        first, second = pair.split(" | ")
        axes.set(title=pair, xlabel=f"layer of {second}", ylabel=f"layer of {first}")
        _layer_axis(axes.xaxis, ds.layer_b.values, most=8)
        _layer_axis(axes.yaxis, ds.layer_a.values, most=8)
    bar = figure.colorbar(image, ax=row, shrink=0.72, pad=0.02, aspect=18)
    bar.set_label(
        f"debiased CKA, {'mean over tasks' if task is None else _short(task)}\n(one scale for all maps: {low:.2f} to 1)"
    )
    _legend(figure, [], *(m.reshape(1, -1) for m in maps))
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
    rows, columns = math.ceil(len(order) / 4), min(4, len(order))
    figure = Figure(figsize=(PAGE * max(2, columns) / 4, 0.5 + 1.35 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(order):
            axes.set_axis_off()
            continue
        t, colour = order[place], colours[clusters[order[place]]]
        _two_curves(axes, ours[t], base[t], colour)
        axes.set_title(_short(str(ds.task.values[t]), 22), loc="left", pad=11, fontsize=7.5)
        axes.text(0, 1.02, _short(clusters[t], 26), transform=axes.transAxes, color=colour, fontsize=6.5, va="bottom")
        axes.tick_params(labelbottom=place + columns >= len(order))
        _mark_missing(axes, ours[t : t + 1], base[t : t + 1])
    _cka_axis(grid[0, 0], ours, base)
    _layer_axis(grid[0, 0].xaxis, ds.layer_a.values, most=6)
    figure.supxlabel("layer")
    figure.supylabel("same-layer CKA (debiased)")
    _legend(figure, _two_handles("E | C", "base | C"), ours.reshape(1, -1), base.reshape(1, -1))
    return figure


@styled()
def estimator_gap(ds: xr.Dataset) -> Figure:
    """Debiased and biased same-layer CKA, mean over tasks, a panel per model pair: the area is what bias would add."""
    pairs = [str(pair) for pair in ds.pair.values]
    figure = Figure(figsize=(PAGE, 2.35), layout="constrained")
    row = figure.subplots(1, len(pairs), sharex=True, sharey=True, squeeze=False)[0]
    drawn = []
    for axes, pair in zip(row, pairs, strict=True):
        debiased, biased = (mean_present(same_layer(ds, pair, e)) for e in ("debiased", "biased"))
        _two_curves(axes, debiased, biased, PAIR_COLOURS.get(pair, "#333333"))
        axes.set(title=pair, xlabel="layer")
        drawn += [debiased[None], biased[None]]
        _mark_missing(axes, *drawn[-2:])
    _cka_axis(row[0], *drawn)
    _layer_axis(row[0].xaxis, ds.layer_a.values, most=8)
    row[0].set_ylabel("same-layer CKA, mean over tasks")
    _legend(figure, _two_handles("debiased", "biased"), *drawn)
    return figure


@styled()
def loss_bars(losses: pd.DataFrame) -> Figure:
    """Held-out loss per task as dumbbells: from the base model (open) to the tuned one (filled), for E and for C.

    Columns used: task, cluster, model, before, after.
    """
    grouped = pd.concat([rows for _, rows in losses.groupby("cluster", sort=False)])
    named = {t: f"{_short(t)}  ({_short(c, 22)})" for t, c in zip(grouped.task, grouped.cluster, strict=True)}
    place = {task: row for row, task in enumerate(named)}
    figure = Figure(figsize=(PAGE, 0.75 + 0.3 * len(place)), layout="constrained")
    axes = figure.subplots()
    for shift, (model, colour) in zip((-0.15, 0.15), MODEL_COLOURS.items(), strict=True):
        rows = losses[losses.model == model]
        y = rows.task.map(place).to_numpy(float) + shift
        axes.hlines(y, rows.before, rows.after, color=colour, linewidth=1.4)
        axes.scatter(rows.before, y, s=11, facecolor="white", edgecolor=colour, linewidth=0.9, zorder=3)
        axes.scatter(rows.after, y, s=14, color=colour, zorder=3, label=f"after tuning: {model}")
    axes.set_yticks(range(len(place)), named.values())
    axes.set(xlim=(0, None), ylim=(len(place) - 0.4, -0.6), xlabel="held-out answer loss (nats per token)")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.scatter([], [], s=11, facecolor="white", edgecolor="#555555", linewidth=0.9, label="before: base model")
    figure.legend(loc="outside upper right", ncols=3)
    return figure


@styled()
def training_curves(metrics: pd.DataFrame) -> Figure:
    """Training loss and gradient norm by step, for E and for the control models (each, and their median).

    Columns used: step, model ("E" or a task), loss, and grad_norm if it is there. Long runs: means over equal bins.
    """
    names = [name for name in ("loss", "grad_norm") if name in metrics and metrics[name].notna().any()]
    figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
    row = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    width = math.ceil((metrics.step.max() - metrics.step.min() + 1) / 200)
    for axes, name in zip(row, names, strict=False):
        wide = metrics.pivot_table(index="step", columns="model", values=name, aggfunc="last").sort_index()
        wide = wide.groupby(lambda step: (step - 1) // width * width + (width + 1) / 2).mean()
        controls = wide.drop(columns="E", errors="ignore")
        axes.plot(controls.index, controls, color=MODEL_COLOURS["C"], linewidth=0.5, alpha=0.4)
        axes.plot(controls.index, controls.median(axis=1), color=MODEL_COLOURS["C"], linewidth=1.5)
        if "E" in wide:
            axes.plot(wide.index, wide["E"], color=MODEL_COLOURS["E"], linewidth=1.3)
        label = {"loss": "training loss (nats per token)", "grad_norm": "gradient norm"}[name]
        axes.set(xlabel="step" if width == 1 else f"step (means of {width} steps)", ylabel=label, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
    looks = [("E", 1.3, 1.0), ("C: median", 1.5, 1.0), ("C: each task", 0.6, 0.5)]
    handles = [Line2D([], [], color=MODEL_COLOURS[t[0]], label=t, linewidth=w, alpha=a) for t, w, a in looks]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes `figure` in the format that the suffix of `path` names, whole or not at all, without a date in it."""
    kind = path.suffix.lower().lstrip(".") or "svg"
    dates = {"svg": ("Date", "Creator", "Format", "Type"), "pdf": ("CreationDate", "ModDate")}.get(kind, ())
    with styled(), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=dict.fromkeys(dates), dpi=200)
    return path


def same_layer(ds: xr.Dataset, pair: str, estimator: str = "debiased") -> np.ndarray:
    """`[task, layer]`: CKA of each layer of one model with the same layer of the other."""
    square = ds.cka.sel(pair=pair, estimator=estimator).transpose("task", "layer_a", "layer_b")
    return np.diagonal(square.values, axis1=1, axis2=2).astype(np.float64)


def mean_present(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is there; NaN where nothing is."""
    count = np.isfinite(values).sum(0)
    return np.nansum(values, axis=0, dtype=np.float64) / np.where(count, count, np.nan)


def _two_curves(axes: Axes, solid: np.ndarray, dashed: np.ndarray, colour: str) -> None:
    """Two curves over layers, and the area between them."""
    layers = np.arange(solid.size)
    axes.plot(layers, solid, color=colour, **SOLID)
    axes.plot(layers, dashed, color=colour, **DASHED)
    axes.fill_between(layers, dashed, solid, color=colour, alpha=0.18, linewidth=0)


def _two_handles(*labels: str) -> list[Line2D]:
    return [Line2D([], [], color="#333333", label=t, **k) for t, k in zip(labels, (SOLID, DASHED), strict=True)]


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _layer_axis(axis: mpl.axis.Axis, labels: Iterable[str], most: int = 20) -> None:
    """Ticks for layers: "emb", every so many blocks, "norm"; about `most` of them."""
    short = [str(s).replace("embedding", "emb").replace("final norm", "norm").replace("block ", "") for s in labels]
    step = next((s for s in (1, 2, 4, 5, 8, 10, 20, 40) if len(short) / s <= most), 80)
    crowded = range(len(short) - step, len(short) - 1)
    ticks = [i for i, s in enumerate(short) if not s.isdigit() or (int(s) % step == 0 and i not in crowded)]
    axis.set_ticks(ticks, [short[i] for i in ticks])


def _cka_axis(axes: Axes, *values: np.ndarray) -> None:
    """From 0 to 1, or lower where a debiased value is negative."""
    low = min(0.0, *(float(np.nanmin(v, initial=0.0)) for v in values))
    axes.set_ylim(low - 0.03 if low < 0 else 0.0, 1.03)
    for shown in axes.figure.axes:
        shown.grid(axis="y")
        if low < 0:
            shown.axhline(0, color="#555555", linewidth=0.6)


def _mark_missing(axes: Axes, *values: np.ndarray) -> None:
    """A hatched column over each layer where a table `[task, layer]` has no value; a plain one where it has some."""
    none = np.any([~np.isfinite(v).any(0) for v in values], axis=0)
    some = np.any([~np.isfinite(v).all(0) for v in values], axis=0)
    for layer in np.flatnonzero(some):
        axes.axvspan(layer - 0.45, layer + 0.45, zorder=0, **(MISSING if none[layer] else PARTLY_MISSING))


def _legend(figure: Figure, handles: list, *values: np.ndarray) -> None:
    """The legend above the axes, with entries for missing values when there are any."""
    if any(~np.isfinite(v).any(0).all() for v in values):
        handles = [*handles, Patch(**MISSING, label="missing: cannot be computed")]
    if any((np.isfinite(v).any(0) & ~np.isfinite(v).all(0)).any() for v in values):
        handles = [*handles, Patch(**PARTLY_MISSING, label="missing for some tasks")]
    if handles:
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
