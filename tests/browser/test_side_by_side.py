"""The page that puts studies beside each other, in the browser: it opens alone, and its curves are the files' numbers."""

from __future__ import annotations

import pandas as pd
import pytest
import xarray as xr

from run.side_by_side import compare_studies
from tests.browser.driver import Report, read
from tests.run.made_up_study import make_study

STUDIES = ("first seed", "second <seed>")


@pytest.fixture(scope="module")
def beside(browser, tmp_path_factory):
    """The page of two made-up studies; CKA of the second is lower by 0.1."""
    folder = tmp_path_factory.mktemp("beside")
    studies = {name: make_study(folder / str(i)) for i, name in enumerate(STUDIES)}
    file = studies[STUDIES[1]] / "results" / "cka.nc"
    lower = xr.load_dataset(file, engine="h5netcdf")
    lower["cka"] = lower.cka - 0.1
    lower.to_netcdf(file, engine="h5netcdf")
    compare_studies(studies, folder / "out")
    with Report(browser, folder / "out") as page:
        yield page


def test_opens_alone_and_draws_its_figure(beside):
    assert (beside.errors, beside.failures, beside.requests) == ([], [], [beside.url])
    assert beside.page.locator("figure.plot[data-drawn]").count() == len(beside.figures) == 1
    assert beside.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_points_tell_the_file(beside):
    """Every row of the file is a point that tells its cells, for each choice of models; no point tells of another."""
    rows = read(beside.study / "cka_by_depth.csv")
    assert {row["study"] for row in rows} == set(STUDIES)
    pictures = set()
    for pair in beside.controls("cka_by_depth")["pair"]:
        before = beside.choose("cka_by_depth", pair=pair)
        points = [point for point in beside.points("cka_by_depth") if "study" in point]
        wanted = [row for row in rows if row["pair"] == pair]
        told = sorted((point["study"], point["depth"], point["CKA"]) for point in points)
        assert told == sorted((row["study"], row["depth"], row["cka"]) for row in wanted)
        for point in points:
            assert (point["at"]["x"], point["at"]["y"]) == (float(point["depth"]), float(point["CKA"]))
        pictures.add(beside.snapshot("cka_by_depth"))
        beside.choose("cka_by_depth", **before)
    assert len(pictures) == 2


def test_the_file_is_offered_as_it_is(beside):
    name, content = beside.saved("#cka_by_depth button:has-text('CSV')")
    assert content == (beside.study / name).read_bytes()


def test_tables_hold_the_table_that_is_written(beside):
    """As many cells as the file has values, and the studies' names as they are."""
    table = pd.read_csv(beside.study / "side_by_side.csv")
    shown = beside.page.locator(".scroll.tall td").all_inner_texts()
    assert len(shown) == len(table) * len(STUDIES)
    assert beside.page.locator("#studies + .scroll tbody th").all_inner_texts() == list(STUDIES)


def test_nothing_serious_for_axe(beside):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    result = axe.run(beside.page, context={"exclude": [[".plot-container"]]}, options={"resultTypes": ["violations"]})
    assert len(result.response["passes"]) > 15
    bad = [rule["id"] for rule in result.response["violations"] if rule["impact"] in ("serious", "critical")]
    assert bad == []
