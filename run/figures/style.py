"""The look of all figures, and what several of them are made of.

Every figure function takes labelled results or a table and returns a `Figure` that nobody else knows of: no pyplot, no
global settings, so a notebook that calls them keeps its own style. `save` writes it as SVG (text stays text, the same
bytes for the same numbers) or PDF.

A value that could not be computed is NaN. It is drawn as missing, grey and hatched, and never as 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lorajax.files import replacing
from run.figures.layout import legend_outside

# Okabe & Ito's palette, which colour-blind readers can tell apart; one meaning per colour in all figures.
PAIR_COLOURS = {"base | C": "#D55E00", "E | C": "#0072B2", "base | E": "#009E73"}
MODEL_COLOURS = {"E": "#0072B2", "C": "#009E73"}
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


def two_curves(axes: Axes, solid: np.ndarray, dashed: np.ndarray, colour: str) -> None:
    """Two curves over layers, and the area between them."""
    layers = np.arange(solid.size)
    axes.plot(layers, solid, color=colour, **SOLID)
    axes.plot(layers, dashed, color=colour, **DASHED)
    axes.fill_between(layers, dashed, solid, color=colour, alpha=0.18, linewidth=0)


def two_handles(*labels: str) -> list[Line2D]:
    return [Line2D([], [], color="#333333", label=t, **k) for t, k in zip(labels, (SOLID, DASHED), strict=True)]


def short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def cluster_look(clusters: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each distinct cluster, in order; markers change where colours begin again."""
    distinct = list(dict.fromkeys(str(cluster) for cluster in clusters))
    many = len(CLUSTER_COLOURS)
    return {
        name: {"color": CLUSTER_COLOURS[i % many], "marker": "osD^vP"[i // many % 6]} for i, name in enumerate(distinct)
    }


def cluster_handles(look: dict[str, dict[str, Any]]) -> list[Line2D]:
    """Entries of a legend."""
    return [
        Line2D([], [], markersize=4, linestyle="", label=short(name or "no cluster", 24), **own)
        for name, own in look.items()
    ]


def layer_axis(axis: mpl.axis.Axis, labels: Iterable[str], most: int = 20) -> None:
    """Ticks for layers: "emb", every so many blocks, "norm"; about `most` of them."""
    short = [str(s).replace("embedding", "emb").replace("final norm", "norm").replace("block ", "") for s in labels]
    step = next((s for s in (1, 2, 4, 5, 8, 10, 20, 40) if len(short) / s <= most), 80)
    crowded = range(len(short) - step, len(short) - 1)
    ticks = [i for i, s in enumerate(short) if not s.isdigit() or (int(s) % step == 0 and i not in crowded)]
    axis.set_ticks(ticks, [short[i] for i in ticks])


def cka_axis(axes: Axes, *values: np.ndarray) -> None:
    """From 0 to 1, or lower where a debiased value is negative."""
    low = min(0.0, *(float(np.nanmin(v, initial=0.0)) for v in values))
    axes.set_ylim(low - 0.03 if low < 0 else 0.0, 1.03)
    for shown in axes.figure.axes:
        shown.grid(axis="y")
        if low < 0:
            shown.axhline(0, color="#555555", linewidth=0.6)


def mark_missing(axes: Axes, *values: np.ndarray) -> None:
    """A hatched column over each layer where a table `[task, layer]` has no value; a plain one where it has some."""
    none = np.any([~np.isfinite(v).any(0) for v in values], axis=0)
    some = np.any([~np.isfinite(v).all(0) for v in values], axis=0)
    for layer in np.flatnonzero(some):
        axes.axvspan(layer - 0.45, layer + 0.45, zorder=0, **(MISSING if none[layer] else PARTLY_MISSING))


def legend(figure: Figure, handles: list, *values: np.ndarray) -> None:
    """The legend above the axes, with entries for missing values when there are any."""
    if any(~np.isfinite(v).any(0).all() for v in values):
        handles = [*handles, Patch(**MISSING, label="missing: cannot be computed")]
    if any((np.isfinite(v).any(0) & ~np.isfinite(v).all(0)).any() for v in values):
        handles = [*handles, Patch(**PARTLY_MISSING, label="missing for some tasks")]
    legend_outside(figure, handles)
