"""A browser for the tests of this folder, and a page for each made-up study.

`CHROMIUM` names the executable, or it is looked for on the path. Without one the tests are skipped; with
LORAJAX_NEEDS_BROWSER=1 they fail, so that they are not left out unseen where there ought to be one.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from run import report
from tests.browser.driver import FIGURES_OF_VECTORS, Report
from tests.browser.full_study import full_study

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 180  # seconds for another worker to build a study


def executable() -> str | None:
    """Path of Chromium."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


# Of the package, not of the session: Playwright keeps an event loop running, which would be in the way of other tests.
@pytest.fixture(scope="package")
def browser():
    """Chromium."""
    missing = pytest.fail if os.environ.get("LORAJAX_NEEDS_BROWSER", "0") not in ("", "0") else pytest.skip
    path = executable()
    if path is None:
        missing(f"no Chromium: name the executable in CHROMIUM, or have one of {', '.join(NAMES)} on the path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no Playwright: pip install 'lorajax[browser]'")
    with sync_playwright() as playwright:
        # Root in a container has no sandbox to work in.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def study(tmp_path_factory) -> Path:
    """A study of the recipe layer-by-layer with all results, and its report."""
    return once(tmp_path_factory, "layer-by-layer")


@pytest.fixture(scope="package")
def vectors_study(tmp_path_factory) -> Path:
    """A study of the recipe task-vectors with what that compares, and its report."""
    return once(tmp_path_factory, "task-vectors")


@pytest.fixture(scope="package")
def page(browser, study) -> Report:
    """The report of `study`, all figures drawn; tests that choose something put it back."""
    return Report(browser, study)


@pytest.fixture(scope="package")
def vectors_page(browser, vectors_study) -> Report:
    """The report of `vectors_study`, all figures drawn."""
    return Report(browser, vectors_study)


@pytest.fixture(scope="package")
def page_of(request) -> Callable[[str], Report]:
    """The page that has a figure."""
    return lambda name: request.getfixturevalue("vectors_page" if name in FIGURES_OF_VECTORS else "page")


def made(folder: Path) -> None:
    """The study that `folder` is called after."""
    report.build(full_study(folder, recipe=folder.name, hidden=folder.name != "task-vectors"), ())


def once(tmp_path_factory, name: str, make: Callable[[Path], None] = made) -> Path:
    """The folder `name` with what `make` puts there: made by one of the workers for all."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / f"browser-{name}" / name, root / f"browser-{name}" / "done"
    try:
        folder.parent.mkdir()
    except FileExistsError:
        until = time.monotonic() + PATIENCE
        while not done.exists() and time.monotonic() < until:
            time.sleep(0.2)
    else:
        try:
            make(folder)
        finally:
            done.touch()
    return folder
