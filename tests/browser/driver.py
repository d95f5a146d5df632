"""A report in a browser, as tests read it and act on it."""

from __future__ import annotations

import csv
import html
import json
import re
import time
from pathlib import Path
from typing import Any

#: Figures of the recipe task-vectors; a study has one kind of published numbers.
FIGURES_OF_VECTORS = {"published_projections"}
SECOND = 1.1
PATIENCE = 120_000  # milliseconds for all figures

SNAPSHOT = """(name) => { const { data, layout } = figures.get(name).canvas; return { data, layout }; }"""
CONTROLS = (
    """(name) => Object.fromEntries(Object.entries(figures.get(name).plot.controls).map(([k, v]) => [k, v.options]))"""
)
CHOOSE = """([name, control, option]) => {
  const figure = figures.get(name), options = figure.plot.controls[control].options;
  if (!options.includes(option)) throw new Error(`${name}, ${control}: no ${option} among ${options}`);
  const input = document.getElementById(`${name}-${control}`);
  const before = figure.choice[control];
  if (input) {
    input.value = input.type === "range" ? options.indexOf(option) : option;
    input.dispatchEvent(new Event(input.type === "range" ? "input" : "change"));
  }
  return before;
}"""

Row = dict[str, str]


class Report:
    """A page with a report; `errors`, `failures` and `requests` are what the browser told of while it was open."""

    def __init__(self, browser, study: Path, wait: bool = True, **context: Any):
        self.study = study
        context = {"viewport": {"width": 1200, "height": 900}} | context
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.saves: list[float] = []
        self.errors: list[str] = []
        self.failures: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda told: told.type == "error" and self.errors.append(told.text))
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = (study / "report.html").resolve().as_uri()
        self.page.goto(self.url)
        if wait:
            self.wait()

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def wait(self) -> None:
        """Until each figure is drawn, or says that it cannot be."""
        self.page.wait_for_function("!document.querySelector('figure.plot:not([data-drawn]):not([data-broken])')")

    @property
    def figures(self) -> list[str]:
        """Names of the figures on the page."""
        return self.page.eval_on_selector_all("figure.plot", "(all) => all.map((figure) => figure.id)")

    def controls(self, figure: str) -> dict[str, list[str]]:
        """The choices of a figure, those with a single option too."""
        return self.page.evaluate(CONTROLS, figure)

    def choose(self, figure: str, **options: str) -> dict[str, str]:
        """Chooses as a reader would; returns what was chosen before."""
        return {name: self.page.evaluate(CHOOSE, [figure, name, option]) for name, option in options.items()}

    def snapshot(self, figure: str) -> str:
        """What Plotly draws: data and layout, as JSON."""
        return json.dumps(self.page.evaluate(SNAPSHOT, figure), sort_keys=True)

    def points(self, figure: str) -> list[dict[str, Any]]:
        """What is told of each point, by label, and where it is drawn: `x`, `y` and, in a heat map, `z` under `at`."""
        found = []
        for trace in self.page.evaluate(SNAPSHOT, figure)["data"]:
            texts = trace.get("hovertext") or []
            if trace["type"] == "heatmap":
                for i, line in enumerate(texts):
                    found += [told(text) | {"at": {"z": trace["z"][i][j]}} for j, text in enumerate(line)]
            elif texts:
                at = zip(list_of(trace["x"]), list_of(trace["y"]), strict=True)
                found += [told(text) | {"at": {"x": x, "y": y}} for text, (x, y) in zip(texts, at, strict=False)]
        return found

    def saved(self, selector: str) -> tuple[str, bytes]:
        """Name and content of the file that a click on a button saves."""
        # Chromium drops what a page saves beyond ten files in a second.
        self.saves = [when for when in self.saves if time.monotonic() - when < SECOND] + [time.monotonic()]
        if len(self.saves) > 9:
            time.sleep(SECOND)
        with self.page.expect_download() as download:
            self.page.locator(selector).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def words(self, measure: str) -> str:
        """What the page calls a measure."""
        return self.page.evaluate("(name) => inWords(name)", measure)


def told(text: str) -> dict[str, str]:
    """The labels and texts of a hover label; markup of the page is read back as text."""
    pairs = (re.fullmatch(r"(.*?): <b>(.*)</b>", line, re.DOTALL) for line in text.split("<br>"))
    return {html.unescape(pair[1]): html.unescape(pair[2]) for pair in pairs if pair}


def list_of(values: Any) -> list[Any]:
    """A typed array comes as an object with numbered keys."""
    return list(values.values()) if isinstance(values, dict) else values


def read(file: Path) -> list[Row]:
    """The rows of a CSV file, cells as text."""
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
