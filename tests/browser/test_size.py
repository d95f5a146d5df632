"""Reports of studies of real size: what they weigh, and how soon there is something to read."""

import pytest

from run import report
from tests.browser.driver import Report
from tests.browser.full_study import Sizes, full_study

pytestmark = pytest.mark.slow

#: A 7B model, rank 8 and the defaults of all commands.
REAL = Sizes(blocks=32, points=32, maps=9, steps=1000, draws=100, rank=8)


def build(folder, tasks: int):
    """The report of a study of so many tasks in twelve clusters."""
    report.build(full_study(folder, {f"task_{i:02}": f"cluster_{i % 12}" for i in range(tasks)}, REAL), ())
    return folder


def test_a_large_study_fits_into_a_page(browser, tmp_path):
    """69 tasks and 34 layers, the largest published study: below 15 MB, and drawn."""
    study = build(tmp_path / "large", 69)
    assert (study / "report.html").stat().st_size < 15e6
    with Report(browser, study) as page:
        assert page.page.locator("figure.plot[data-drawn]").count() == len(page.figures)
        assert page.errors == []


def test_there_is_something_to_read_at_once(browser, tmp_path):
    """24 tasks: the first text within two seconds, whatever the figures take."""
    with Report(browser, build(tmp_path / "middle", 24)) as page:
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        assert page.page.evaluate(paint) < 2000
        assert page.errors == []
