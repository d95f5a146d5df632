"""What the figures beside published numbers are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from run.figures.geometry import MODELS
from run.figures.published import Line, Panel, curves_beside, depths, points_beside
from run.figures.style import PAIR_COLOURS
from run.published import ours as measures
from run.published.numbers import LayerByLayer
from run.published.ours import Ours
from run.published.setting import FINAL, Results, widths
from run.published.table import PAIRS, ByPair

READABILITY = {
    "flesch_kincaid": "Flesch-Kincaid grade",
    "coleman_liau": "Coleman-Liau index",
    "data_size": "data size",
}


def curve_figures(
    published: LayerByLayer, results: Results, seen: ByPair, unseen: ByPair, *, whole: bool
) -> dict[str, Figure]:
    """The figures of curves that there is something of ours for, by name.

    Args:
      whole: numbers of directions are drawn as they are; else both as shares of the hidden size, where ours is known.
    """
    layers = results.folder.record["model"]["layers"]
    blocks = sum(name.startswith("block ") for name in layers)
    label = f"{published.source.label}, {published.model.label}"
    ticks = published.model.blocks if blocks == published.model.blocks else None
    cka = [_cka_panels(published, layers, "2", seen, "all tasks" if not unseen else "tasks E was trained on")]
    cka += [_cka_panels(published, layers, "7", unseen, "other tasks")] if unseen else []
    drawn = {"published_cka": curves_beside(cka, label, ylabel="same-layer CKA (biased)", blocks=ticks)}
    sizes = (1, 1) if whole else widths(published, results)
    if results.spectrum is not None and sizes is not None:
        drawn["published_dimensions"] = curves_beside(
            [_dimension_panels(published, results, layers, *sizes)],
            label,
            ylabel="directions for 99 %" if whole else "share of the hidden size",
            blocks=ticks,
            limits=(0, None),
            most=None
            if whole
            else measures.most_dimensions(results.spectrum, results.tasks(True), sizes[0]) / sizes[0],
        )
    rows = _readability_panels(published, results, layers)
    if any(panel.ours for row in rows for panel in row):
        drawn["published_readability"] = curves_beside(
            rows, label, ylabel="correlation with CKA (biased)", blocks=ticks, limits=(-1, 1)
        )
    return drawn


def projection_figures(table: pd.DataFrame, label: str) -> dict[str, Figure]:
    """The figure of projections, if there is something of ours."""
    return {"published_projections": points_beside(table, label)} if table.ours.notna().any() else {}


def _cka_panels(
    published: LayerByLayer, layers: Sequence[str], figure: str, quartiles: ByPair, which: str
) -> list[Panel]:
    panels = []
    for pair in PAIRS:
        low, middle, high = (published.curve(figure, pair, name).values for name in measures.QUARTILES)
        found = quartiles.get(pair)
        ours = None
        if found is not None:
            q1, median, q3 = (found[name] for name in measures.QUARTILES)
            ours = _line(median, layers, low=q1.value, high=q3.value)
        theirs = Line(_their_depths(published), middle, low, high)
        panels.append(Panel(f"{pair}, {which}", PAIR_COLOURS[pair], theirs, ours))
    return panels


def _dimension_panels(
    published: LayerByLayer, results: Results, layers: Sequence[str], ours: int, theirs: int
) -> list[Panel]:
    panels = []
    for model in ("base", "E"):
        values = published.curve("5", model, "mean").values / theirs
        own = None
        if results.spectrum is not None and model in results.spectrum.model.values:
            found = measures.dimensions(results.spectrum, results.tasks(True), model)
            own = _line(found, layers, divisor=ours)
        nothing = np.full_like(values, np.nan)
        panels.append(Panel(model, MODELS[model], Line(_their_depths(published), values, nothing, nothing), own))
    return panels


def _readability_panels(published: LayerByLayer, results: Results, layers: Sequence[str]) -> list[list[Panel]]:
    rows = []
    for pair in PAIRS:
        row = []
        for measure, name in READABILITY.items():
            values = published.curve("6", pair, "pearson", measure).values
            nothing = np.full_like(values, np.nan)
            own = None
            if results.readability is not None and results.cka is not None:
                found = measures.correlations(results.readability, results.cka, results.tasks(True), pair, measure)
                own = None if isinstance(found, str) else _line(found, layers)
            line = Line(_their_depths(published), values, nothing, nothing)
            row.append(Panel(f"{name}, {pair}", PAIR_COLOURS[pair], line, own))
        rows.append(row)
    return rows


def _their_depths(published: LayerByLayer) -> np.ndarray:
    names = [f"block {k}" for k in range(1, published.model.blocks)]
    # Block L was not published: the last value is after the final norm.
    return np.append(depths([*names, f"block {published.model.blocks}"])[:-1], depths([FINAL]))


def _line(
    found: Ours,
    layers: Sequence[str],
    *,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    divisor: float = 1,
) -> Line:
    """Of the study's `layers`, those that there are results of."""
    where = [i for i, name in enumerate(layers) if name in found.layers]
    at = [found.layers.index(layers[i]) for i in where]
    low, high = found.low if low is None else low, found.high if high is None else high
    return Line(depths(layers)[where], found.value[at] / divisor, low[at] / divisor, high[at] / divisor)
