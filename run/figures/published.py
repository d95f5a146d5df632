"""Figures of published values under ours: curves over layers, and points of tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from run.figures.layout import legend_outside, panels
from run.figures.style import MODEL_COLOURS, short, styled

THEIRS = "#8A8A8A"
NORM = 1.045  # where the final norm is drawn: the last block is at depth 1


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A curve over depth, with what is shaded about it; arrays `[L]`, NaN for what is missing."""

    depth: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """One of ours over a published one; of ours there may be none."""

    title: str
    colour: str
    theirs: Line
    ours: Line | None


def depths(layers: Sequence[str]) -> np.ndarray:
    """float64 `[L]`: embedding 0, block k of K at k / K, and the final norm a little after the last block."""
    blocks = sum(name.startswith("block ") for name in layers)
    after = {"embedding": 0.0, "final norm": NORM}
    return np.array([after[name] if name in after else int(name.removeprefix("block ")) / blocks for name in layers])


@styled()
def curves_beside(
    rows: Sequence[Sequence[Panel]],
    label: str,
    *,
    ylabel: str,
    blocks: int | None = None,
    limits: tuple[float, float | None] = (0, 1.03),
    most: float | None = None,
) -> Figure:
    """Panels in rows of equal length: published curves thin and grey, under ours.

    Args:
      label: of the published curves.
      blocks: number the ticks by blocks of so many; None: by share of the depth.
      limits: of the vertical axis; None: as high as it takes.
      most: what ours cannot exceed, drawn as a dotted line.
    """
    every = [panel for row in rows for panel in row]
    labels = ("layer" if blocks else "share of the depth", ylabel)
    layout: dict[str, Any] = {"height": 1.75, "most": len(rows[0]), "top": 0.55, "labels": labels}
    figure, grid = panels(len(every), **layout, sharex=True, sharey=True)
    for axes, panel in zip(grid, every, strict=True):
        _draw(axes, panel.theirs, THEIRS, width=0.8, alpha=0.28, order=1.5)
        if panel.ours is not None:
            _draw(axes, panel.ours, panel.colour, width=1.4, alpha=0.16, order=2)
        axes.set_title(panel.title + ("" if panel.ours else ": none of ours"), fontsize=7)
        axes.grid(axis="y")
        if most is not None:
            axes.axhline(most, color="#555555", linewidth=0.8, linestyle=":")
        if limits[0] < 0:
            axes.axhline(0, color="#555555", linewidth=0.6)
    first = grid[0]
    first.set_ylim(*limits)
    first.set_xlim(-0.02, NORM + 0.03)
    _ticks(first, blocks)
    ours = dict.fromkeys(panel.colour for row in rows for panel in row if panel.ours)
    handles: list[Any] = [Line2D([], [], color=THEIRS, linewidth=0.9)]
    if ours:
        handles.append(tuple(Line2D([], [], color=colour, linewidth=1.4) for colour in ours))
    names = [label, "this study"][: len(handles)]
    if most is not None:
        handles.append(Line2D([], [], color="#555555", linewidth=0.8, linestyle=":"))
        names.append("the most that our prompts allow")
    together = {tuple: HandlerTuple(ndivide=None, pad=0.4)}
    legend_outside(figure, handles, names, handler_map=together, handlelength=1 + 1.2 * len(ours))
    return figure


def _draw(axes: Axes, line: Line, colour: str, *, width: float, alpha: float, order: float) -> None:
    alone = np.isfinite(line.middle).sum() < 3
    axes.fill_between(line.depth, line.low, line.high, color=colour, alpha=alpha, linewidth=0, zorder=order)
    axes.plot(line.depth, line.middle, color=colour, linewidth=width, zorder=order, marker="." if alone else None)


def _ticks(axes: Axes, blocks: int | None) -> None:
    if blocks is None:
        at = [0, 0.25, 0.5, 0.75, 1]
        names = ["0", "0.25", "0.5", "0.75", ""]
    else:
        step = max(1, blocks // 8)
        at = [k / blocks for k in range(0, blocks, step)]
        names = ["emb", *(str(k) for k in range(step, blocks, step))]
    axes.set_xticks([*at, NORM], [*names, "norm"])


@styled()
def points_beside(table: pd.DataFrame, label: str) -> Figure:
    """A panel for each quantity, a line for each pair of tasks: published values as grey marks, ours with its interval.

    Columns used: quantity, of, statistic (the pair), ours, low, high, published.
    """
    quantities = list(dict.fromkeys(table.quantity))
    names = {"l1": "L1", "rec": "REC", "h_s1": "H(S1)", "h_s2": "H(S2)"}
    pairs = list(dict.fromkeys(table.statistic))
    marks = dict(zip(dict.fromkeys(table.of), ("s", "D", "o"), strict=False))
    figure, row = panels(len(quantities), height=0.4 + 0.26 * len(pairs), narrowest=1.0, top=0.5, sharey=True)
    colour = MODEL_COLOURS["E"]
    for axes, quantity in zip(row, quantities, strict=True):
        own = table[table.quantity == quantity]
        y = own.statistic.map(pairs.index).to_numpy(float)
        for of, mark in marks.items():
            chosen = (own.of == of).to_numpy()
            face = THEIRS if mark == "s" else "white"
            axes.scatter(own.published[chosen], y[chosen] - 0.14, marker=mark, s=13, facecolor=face, edgecolor=THEIRS)
        axes.hlines(y + 0.14, own.low, own.high, color=colour, linewidth=1.3)
        axes.scatter(own.ours, y + 0.14, s=12, color=colour, zorder=3)
        axes.set_title(names.get(quantity, quantity), fontsize=7)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    row[0].set_yticks(range(len(pairs)), pairs)
    row[0].set_ylim(len(pairs) - 0.5, -0.5)
    handles = [
        Line2D([], [], linestyle="", marker=mark, markersize=3.5, color=THEIRS, label=f"{short(label, 40)}, {of}")
        for of, mark in marks.items()
    ]
    for handle, mark in zip(handles, marks.values(), strict=True):
        handle.set_markerfacecolor(THEIRS if mark == "s" else "white")
    handles.append(Line2D([], [], color=colour, marker=".", linewidth=1.3, label="this study"))
    legend_outside(figure, handles)
    return figure
