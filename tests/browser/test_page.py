"""The page in the browser: it opens alone, in any colours and widths, on paper, without scripts, and to a screen reader."""

from __future__ import annotations

import json
import re

import pytest

from run.page import file as page_file
from run.page.contents import FIGURES
from tests.browser.driver import FIGURES_OF_VECTORS, Report

#: Paper of A4 less its margins, in pixels of the page.
PAPER = 700
WIDTHS = """() => [...document.querySelectorAll("figure.plot .canvas")].map((canvas) => [
  canvas.closest("figure").id, canvas.querySelector("svg.main-svg").getBoundingClientRect().right,
  canvas.getBoundingClientRect().right])"""
COLOURS = "(() => Object.fromEntries([...figures].map(([name, f]) => [name, f.canvas.layout.font.color])))()"


@pytest.fixture(scope="module")
def dark(browser, study):
    """The report of `study` for a reader who prefers dark pages."""
    with Report(browser, study, color_scheme="dark") as page:
        yield page


@pytest.fixture(scope="module")
def narrow(browser, study):
    """The report of `study` on a telephone."""
    with Report(browser, study, viewport={"width": 380, "height": 800}) as page:
        yield page


@pytest.fixture(params=["page", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dark", "narrow"))])
def look(request) -> Report:
    """The report of `study` in each of its looks."""
    return request.getfixturevalue(request.param)


def test_opens_alone_and_draws_everything(page, vectors_page):
    """No error, no request but for the file itself, and every figure that there is is drawn."""
    assert set(page.figures) == FIGURES.keys() - FIGURES_OF_VECTORS
    assert set(vectors_page.figures) >= FIGURES_OF_VECTORS
    for one in (page, vectors_page):
        assert one.requests == [one.url]
        assert (one.errors, one.failures) == ([], [])
        # Text of axes, and marks: a plot without either is not drawn.
        empty = """(all) => all.filter((f) => !f.querySelector(
            ".plot .trace, .plot .point, .plot .heatmaplayer image, .plot path, .heatmaplayer image")).map((f) => f.id)"""
        assert one.page.eval_on_selector_all("figure.plot", empty) == []
        assert set(one.page.locator(".readout").all_inner_texts()) == {""}


def test_each_look_draws_everything(look):
    assert (look.errors, look.failures) == ([], [])
    assert look.page.locator("figure.plot[data-drawn]").count() == len(FIGURES) - len(FIGURES_OF_VECTORS)


def test_nothing_scrolls_sideways(look):
    """Not the page, and no figure in its card."""
    assert look.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [row for row in look.page.evaluate(WIDTHS) if row[1] > row[2] + 1] == []
    sideways = "(all) => all.filter((card) => card.scrollWidth > card.clientWidth + 1).map((c) => c.parentElement.id)"
    assert look.page.eval_on_selector_all("figure.plot .card", sideways) == []


def test_titles_are_inside_their_pictures(look):
    """A title that is longer than its axis is broken into lines and not cut off."""
    cut = """(all) => all.filter((title) => {
      const [a, b] = [title.getBoundingClientRect(), title.closest("svg").getBoundingClientRect()];
      return title.textContent && (a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1);
    }).map((title) => title.textContent)"""
    assert look.page.eval_on_selector_all("figure.plot .infolayer .g-xtitle text, .infolayer .g-ytitle text", cut) == []


@pytest.mark.parametrize("name", ["page", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dark", "narrow"))])
def test_nothing_serious_for_axe(request, name):
    """axe-core's rules, those of its impacts `serious` and `critical`; a table of numbers is open.

    Without the pictures themselves, which are hidden from screen readers, and whose contrast it cannot tell.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    look = request.getfixturevalue(name)
    look.page.locator("#losses summary").click()
    result = axe.run(look.page, context={"exclude": [[".plot-container"]]}, options={"resultTypes": ["violations"]})
    found = result.response["violations"]
    assert len(result.response["passes"]) > 30  # rules that it has looked at
    told = [
        (rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]][:5])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    look.page.locator("#losses summary").click()
    assert told == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_figures_have_contrast(page, colours):
    """By WCAG 2.1: 4.5 for text and 3 for marks, on the card that they are drawn on."""
    look = page.page.evaluate("(name) => LOOK[name]", colours)
    marks = [*look["clusters"], *look["others"], *(look[name] for name in ("base | C", "E | C", "base | E", "E", "C"))]
    low = [(colour, contrast(colour, look["paper"])) for colour in (look["text"], look["soft"])]
    assert [pair for pair in low if pair[1] < 4.5] == []
    assert [colour for colour in marks if contrast(colour, look["paper"]) < 3] == []


def contrast(one: str, other: str) -> float:
    """Of two colours as #rrggbb: from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
def test_colours_follow_the_reader_s(page, dark):
    """Dark and light differ in text and curves, also when the reader changes them while the page is open."""
    light, drawn = page.page.evaluate(COLOURS), page.snapshot("cka_by_layer")
    assert not set(light.values()) & set(dark.page.evaluate(COLOURS).values())
    page.page.emulate_media(color_scheme="dark")
    page.page.wait_for_function(f"figures.get('training').canvas.layout.font.color !== '{light['training']}'")
    assert page.page.evaluate(COLOURS) == dark.page.evaluate(COLOURS)
    assert page.snapshot("cka_by_layer") != drawn
    page.page.emulate_media(color_scheme="light")
    page.page.wait_for_function(f"figures.get('training').canvas.layout.font.color === '{light['training']}'")
    assert page.snapshot("cka_by_layer") == drawn


def test_paper_is_light_and_holds_every_figure(dark):
    """Printed from a dark page: light, as wide as the paper; after it, the page is what it was."""
    page = dark.page
    colours, widths = page.evaluate(COLOURS), page.evaluate(WIDTHS)
    page.set_viewport_size({"width": PAPER, "height": 1000})
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert [row for row in page.evaluate(WIDTHS) if row[1] > PAPER] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    assert set(page.evaluate(COLOURS).values()) == {"#1c2024"}
    unseen = "(all) => all.length > 20 && all.every((element) => !element.offsetHeight)"
    assert page.eval_on_selector_all(".controls, .actions, .readout, .contents", unseen)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen", color_scheme="dark")
    page.set_viewport_size({"width": 1200, "height": 900})
    as_before = f"JSON.stringify([({WIDTHS})(), {COLOURS}]) === JSON.stringify({json.dumps([widths, colours])})"
    page.wait_for_function(as_before)


@pytest.mark.slow
def test_the_page_is_whole_after_a_real_print(dark):
    """With the browser's own events, and its own paper."""
    before = dark.page.evaluate(WIDTHS)
    assert dark.page.pdf().startswith(b"%PDF")
    dark.page.wait_for_function(f"JSON.stringify(({WIDTHS})()) === JSON.stringify({json.dumps(before)})")


def test_without_scripts_the_tables_are_there(browser, study):
    with Report(browser, study, wait=False, java_script_enabled=False) as page:
        assert "drawn by a script, which this browser does not run" in page.page.locator("noscript p").inner_text()
        assert not page.page.locator("figure.plot .card").first.is_visible()
        for name in ("same-layer CKA", "held-out losses", "bands", "ablations"):
            table = page.page.locator(f"[aria-label='Table of {name}'] td").first
            assert table.is_visible()
            assert table.inner_text()


def test_a_broken_file_costs_its_own_figure(browser, vectors_study, tmp_path):
    """One file cannot be unpacked, one lacks a column: their figures say so, the others are drawn.

    The report lies alone in a folder whose name has signs of addresses in it.
    """
    folder = tmp_path / "a b#c%20?"
    folder.mkdir()
    html = (vectors_study / "report.html").read_text("utf-8")
    (tmp_path / "task_tree.csv").write_text("members,support\nfacts; facts2,1\n")
    for name, broken in (
        (
            "adapter_spectra.csv",
            '<script type="text/plain" id="file-adapter_spectra.csv" data-form="columns">H4s</script>',
        ),
        ("task_tree.csv", str(page_file(tmp_path / "task_tree.csv"))),
    ):
        html, count = re.subn(
            f'<script[^>]*id="file-{re.escape(name)}"[^<]*</script>', lambda _, text=broken: text, html
        )
        assert count == 1
    (folder / "report.html").write_text(html, "utf-8")
    with Report(browser, folder) as page:
        for figure, said in (("adapter_spectra", ""), ("adapter_tree", "task_tree.csv has no column height")):
            told = page.page.locator(f"#{figure} .readout").inner_text()
            assert told.startswith(f"This figure could not be drawn: {said}")
            assert not page.page.locator(f"#{figure} .actions").is_visible()
        assert page.page.locator("figure.plot[data-drawn]").count() == len(page.figures) - 2 >= 5
        assert len(page.errors) == 2
        assert page.failures == []
