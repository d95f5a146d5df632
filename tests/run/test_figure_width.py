"""Figures for a paper, as wide as its text and as one of its columns."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from run import published, report
from run.figures.layout import WIDTHS, as_wide_as, panels
from run.figures.similarity import layer_boxplot
from run.report_contents import drawn
from run.report_results import Found
from run.study_folder import StudyFolder
from tests.browser.full_study import full_study
from tests.run.made_up_study import make_cka


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> StudyFolder:
    """A study with all that a figure is drawn from."""
    return StudyFolder.open(full_study(tmp_path_factory.mktemp("width") / "study"))


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.everyday_cases(1)
def test_every_figure_is_as_wide_as_asked_and_nothing_is_cut_off(folder, width):
    with as_wide_as(width):
        found = Found.read(folder)
        made = drawn(found, published.beside(folder, found.cka))
    assert len(made) >= 18
    for name, figure in made.items():
        assert figure.get_size_inches()[0] == WIDTHS[width], name
        FigureCanvasAgg(figure).draw()
        box = figure.get_tightbbox()
        assert box.x0 > -0.02, name
        assert box.x1 < WIDTHS[width] + 0.02, name


def test_a_column_has_more_rows_and_the_same_panels():
    shown = {}
    for width in ("page", "column"):
        with as_wide_as(width):
            figure, axes = panels(4, height=1.0, top=0.5, sharex=True)
        shown[width] = figure.get_size_inches()[1]
        assert len(axes) == 4
    assert shown == {"page": 1.5, "column": 2.5}


def test_panels_at_the_edge_have_numbers():
    """Also where the place below them is empty."""
    with as_wide_as("column"):
        _, axes = panels(3, height=1.0, sharex=True)
    assert [one.xaxis.get_tick_params()["labelbottom"] for one in axes] == [False, True, True]


def test_the_width_ends_with_the_block():
    with as_wide_as("column"):
        inside = layer_boxplot(make_cka())
    assert inside.get_size_inches()[0] == WIDTHS["column"]
    assert layer_boxplot(make_cka()).get_size_inches()[0] == WIDTHS["page"]


def test_by_flag(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", str(folder.path), "--figure-width", "column"])
    report.main()
    assert f'width="{72 * WIDTHS["column"]:g}pt"' in (folder.path / "figures" / "cka_by_layer.svg").read_text()
