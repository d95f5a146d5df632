"""What makes a report interactive: result files inside the page, and the scripts that draw figures from them.

A page holds the CSV files it was made from, cell for cell. A figure is drawn from them in the reader's browser, so a
number under the pointer is the file's own text, and the file that a reader downloads is the file of the study. Nothing
is asked of a network: style, scripts and Plotly.js are in the page too.

Files are packed by columns, which makes them about half as large as by rows, then compressed; a browser unpacks them
when a figure comes into view.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from markupsafe import Markup

HERE = Path(__file__).parent
#: In the order in which they need each other.
SCRIPTS = (
    *("table", "look", "figure", "pieces"),
    *("similarity", "bands", "geometry", "adapters", "adapter_layers", "training", "published", "start"),
)


def style() -> Markup:
    """The style sheet of every page."""
    return Markup((HERE / "style.css").read_text("utf-8"))


def scripts() -> Markup:
    """The scripts that draw the figures, as one element."""
    parts = [(HERE / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    return Markup('<script>\n"use strict";\n{}</script>').format(Markup("\n".join(parts)))


@cache
def plotly() -> Markup:
    """Plotly.js, which draws; unpacked and started by `start.js`."""
    from plotly.offline import get_plotlyjs

    return _element("plotly", "script", get_plotlyjs())


def files(paths: Iterable[Path]) -> Markup:
    """The CSV files of `paths` that are there, for a page: one element for each, called `file-NAME`."""
    return Markup("\n").join(file(path) for path in paths if path.exists())


def file(path: Path) -> Markup:
    """One CSV file as an element of a page.

    Columns one after the other, the cells of one on lines, where no cell needs quotes; else the file as it is.
    """
    text = path.read_bytes().decode("utf-8")
    columns = _columns(text)
    if columns is None:
        return _element(f"file-{path.name}", "rows", text)
    return _element(f"file-{path.name}", "columns", "\0".join("\n".join(column) for column in columns))


def _columns(text: str) -> list[tuple[str, ...]] | None:
    """The columns of a CSV text from which it can be put together again exactly, or None."""
    if any(mark in text for mark in '"\r\0') or not text.endswith("\n"):
        return None
    rows = list(csv.reader(io.StringIO(text)))
    if not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        return None
    return list(zip(*rows, strict=True))


def _element(name: str, form: str, text: str) -> Markup:
    """Base64 of the compressed text; the same text gives the same bytes."""
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")
    return Markup('<script type="text/plain" id="{}" data-form="{}">{}</script>').format(name, form, packed)
