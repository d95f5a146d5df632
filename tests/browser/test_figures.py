"""Figures in the browser: what they draw and tell is what the result files say, whatever a reader chooses."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from run.page.contents import FIGURES
from tests.browser.driver import read

#: Curves, a heat map and a tree: saving takes a second each.
EVERYDAY_PICTURES = {"cka_by_layer", "adapter_heatmaps", "adapter_tree"}

#: Titles of axes (of a map of points: a name) that the picture of a figure must hold.
TITLES = {
    **dict.fromkeys(
        ("cka_by_layer", "cka_by_task", "cka_estimators", "bands_by_layer", "spectrum", "clusters"), "layer"
    ),
    "cka_all_layers": "layer of C",
    "ablation": "blocks with the adapter",
    "readability": "correlation over tasks",
    "task_maps": "questions",
    "adapter_heatmaps": "facts2",
    "adapter_map": "facts2",
    "adapter_tree": "mean distance at which groups meet",
    "adapter_layers": "distance (1: by chance)",
    "adapter_layer_heatmaps": "distance (1: by chance)",
    "adapter_spectra": "direction",
    "projections": "update of",
    "published_curves": "layer of the published model",
    "published_projections": "L1",
    "losses": "held-out loss (nats)",
    "training": "step",
}


# --- choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES)
def test_every_choice_is_drawn(page_of, figure):
    """No two options of a control give the same picture, the others being as they are on opening."""
    page = page_of(figure)
    for control, options in page.controls(figure).items():
        first = page.choose(figure, **{control: options[0]})
        pictures = {}
        for option in options:
            page.choose(figure, **{control: option})
            pictures.setdefault(page.snapshot(figure), []).append(option)
        page.choose(figure, **first)
        assert [alike for alike in pictures.values() if len(alike) > 1] == [], control
    assert page.errors == []


def test_a_select_is_named_and_works_for_a_reader(page):
    before = page.snapshot("losses")
    page.page.get_by_label("Order").select_option("by what C gains")
    assert page.snapshot("losses") != before
    page.page.get_by_label("Order").select_option("by cluster")
    assert page.snapshot("losses") == before


def test_a_slider_says_where_it_is(page):
    slider = page.page.locator("#adapter_layer_heatmaps-layer")
    first = slider.get_attribute("aria-valuetext")
    slider.focus()
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == page.page.locator("#adapter_layer_heatmaps output").inner_text()
    assert slider.get_attribute("aria-valuetext") == f"block {int(first.split()[1]) + 1}"
    slider.press("ArrowLeft")


# --- keyboard and table -----------------------------------------------------------------------------------------------


def test_arrow_keys_read_the_numbers_out(page, study):
    canvas, readout = page.page.locator("#losses .canvas"), page.page.locator("#losses .readout")
    of_e = [row for row in read(study / "results" / "losses.csv") if row["model"] == "E"]
    canvas.focus()
    for key, row in (("ArrowRight", of_e[0]), ("ArrowRight", of_e[1]), ("ArrowLeft", of_e[0]), ("End", of_e[-1])):
        canvas.press(key)
        assert readout.inner_text().startswith(f"after tuning: E: task {row['task']}, ")
        assert f"before {row['before']}, after {row['after'].replace('nan', 'missing')}" in readout.inner_text()
    page.page.locator("#losses .hovertext").first.wait_for()
    canvas.press("ArrowDown")
    assert readout.inner_text().startswith("after tuning: C: ")
    canvas.press("Escape")
    assert readout.inner_text() == ""
    page.page.wait_for_function("!document.querySelector('#losses .hovertext')")


def test_arrow_keys_go_through_a_heat_map(page, study):
    before = page.choose("cka_by_task", shown="E | C")
    canvas, readout = page.page.locator("#cka_by_task .canvas"), page.page.locator("#cka_by_task .readout")
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "End", "ArrowLeft"):
        canvas.press(key)
    row = next(
        row
        for row in read(study / "results" / "cka.csv")
        if (row["pair"], row["estimator"], row["task"]) == ("E | C", "debiased", "facts2")
        if row["layer_a"] == row["layer_b"] == "block 4"
    )
    assert readout.inner_text().startswith(f"task facts2, cluster questions, layer block 4, E | C {row['cka']}, ")
    page.page.locator("#cka_by_task .hovertext").first.wait_for()
    canvas.press("Escape")
    page.choose("cka_by_task", **before)


@pytest.mark.parametrize("figure", ["losses", "adapter_layer_heatmaps"])
def test_the_table_lists_what_is_drawn(page, figure):
    page.page.locator(f"#{figure} summary").click()
    page.page.locator(f"#{figure} .listed tr").nth(1).wait_for()  # the rows are made once it is open
    rows = page.page.eval_on_selector_all(
        f"#{figure} .listed tr", "(all) => all.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    points = [{label: text for label, text in point.items() if label != "at"} for point in page.points(figure)]
    assert [dict(zip(rows[0], row, strict=True)) for row in rows[1:]] == points
    control = page.controls(figure)
    name = next(name for name, options in control.items() if len(options) > 1)
    before = page.choose(figure, **{name: control[name][1]})
    page.choose(figure, **{name: control[name][0]})
    again = page.page.locator(f"#{figure} .listed tr").nth(1).inner_text().split("\t")
    assert again == list(page.points(figure)[0].values())[:-1]  # the table follows the choice; `at` is last
    page.choose(figure, **before)
    page.page.locator(f"#{figure} summary").click()


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES)
def test_saved_files_are_the_study_s(page_of, figure):
    """Byte for byte."""
    page = page_of(figure)
    for file in FIGURES[figure]:
        content = (page.study / "results" / file).read_bytes()
        assert page.saved(f"#{figure} [data-csv='{file}']") == (file, content)


@pytest.mark.parametrize(
    "figure", [name if name in EVERYDAY_PICTURES else pytest.param(name, marks=pytest.mark.slow) for name in FIGURES]
)
def test_saved_pictures_can_be_read(page_of, figure):
    """XML with the titles, light whatever the page is."""
    name, picture = page_of(figure).saved(f"#{figure} [data-svg]")
    assert name == f"{figure}.svg"
    root = ET.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert TITLES[figure] in texts


def test_files_with_and_without_quotes_are_packed(page):
    """Both ways of packing are there to be unpacked."""
    forms = page.page.eval_on_selector_all("script[data-form]", "(all) => all.map((e) => e.dataset.form)")
    assert {"rows", "columns"} <= set(forms)
