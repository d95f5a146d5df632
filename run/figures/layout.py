"""The size of figures on paper: as wide as its text or as one of two columns, panels in as many rows as that takes."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Width = Literal["page", "column"]

#: Inches: the text of a paper in two columns, and one of them.
WIDTHS: dict[Width, float] = {"page": 7.0, "column": 3.35}

_width: contextvars.ContextVar[Width] = contextvars.ContextVar("width", default="page")


@contextlib.contextmanager
def as_wide_as(width: Width) -> Iterator[None]:
    """Figures that are drawn inside are as wide as that; elsewhere as the page."""
    token = _width.set(width)
    try:
        yield
    finally:
        _width.reset(token)


def inches() -> float:
    """Width of the figures that are drawn now."""
    return WIDTHS[_width.get()]


def fitting(on_page: int, least: int = 1) -> int:
    """How many of the things that fit on a page fit in the present width."""
    return max(least, int(on_page * inches() / WIDTHS["page"]))


def panels(
    count: int,
    *,
    height: float,
    narrowest: float = 1.4,
    most: int | None = None,
    top: float = 0.0,
    labels: tuple[str, str] = ("", ""),
    **share: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, row by row: as many beside each other as are `narrowest` inches wide, or more.

    Args:
      height: of a row, in inches.
      most: panels in a row, if fewer than would fit.
      top: inches beside the rows, for a legend.
      labels: of the horizontal and vertical axes, said once for all panels.
      share: `sharex`, `sharey`; the panels at the edge are then numbered alone.
    """
    count = max(count, 1)
    rows = math.ceil(count / max(1, min(int(inches() / narrowest), most or count)))
    columns = math.ceil(count / rows)
    figure = Figure(figsize=(inches(), top + height * rows), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False, **share).flat)
    for axes in every[count:]:
        axes.set_axis_off()
    if share.get("sharex"):
        for place, axes in enumerate(every[:count]):
            axes.tick_params(labelbottom=place + columns >= count)
    if labels[0]:
        figure.supxlabel(labels[0])
    if labels[1]:
        figure.supylabel(labels[1])
    return figure, every[:count]


def legend_outside(figure: Figure, handles: Sequence[Any], names: Sequence[str] | None = None, **how: Any) -> None:
    """A legend outside the axes, above them unless `loc` says otherwise, in as many rows as its entries take."""
    if not handles:
        return
    names = [str(handle.get_label()) for handle in handles] if names is None else names
    # Letters of 7 points are 4 wide on average; a handle and the gaps about it take 34.
    widths = [(34 + 4 * len(name)) / 72 for name in names]
    columns = min(len(handles), how.pop("ncols", len(handles)), max(1, int(inches() / max(widths))))
    if sum(widths) <= inches():
        columns = len(handles)
    figure.legend(handles, names, **{"loc": "outside upper right", "ncols": columns} | how)
