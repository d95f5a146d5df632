"""Links and anchors of the pages resolve, nothing is left out of the navigation, and the site builds."""

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links

#: Modules of `analysis` that serve the others, and are not in the reference.
INTERNAL = {"arrays", "gram", "hsic", "kernels", "layerwise", "rows", "whole_grams"}


def test_links_and_anchors_resolve():
    count = 0
    for page, path in PAGES.items():
        for link in links(page):
            if link.startswith(("http://", "https://")):
                continue
            target, _, anchor = link.partition("#")
            file = (path.parent / target).resolve() if target else path
            assert file.exists(), f"{page}: {link}"
            assert page == "README.md" or (ROOT / "docs") in file.parents, f"{page}: {link} is not part of the site"
            if anchor:
                assert anchor in anchors(file), f"{page}: {link}"
            count += 1
    assert count > 30


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {f"docs/{name}" for name in named} == set(PAGES) - {"README.md"}


def test_every_measure_is_in_the_reference():
    named = set(re.findall(r"^::: analysis\.(\w+)$", PAGES["docs/reference/analysis.md"].read_text(), re.MULTILINE))
    there = {path.stem for path in (ROOT / "analysis").glob("*.py")} - {"__init__"}
    assert named == there - INTERNAL
    for module in re.findall(r"^::: (lorajax[\w.]+)$", PAGES["docs/reference/lorajax.md"].read_text(), re.MULTILINE):
        assert importlib.util.find_spec(module), module


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    html = {
        name: (tmp_path / "site" / name / "index.html").read_text()
        for name in ("reference/analysis", "reference/commands")
    }
    assert "cka_all_pairs" in html["reference/analysis"]
    assert "--train-examples" in html["reference/commands"]
    # A table in a docstring is a block of code, with its columns lined up.
    analysis = re.sub(r"</?(span|a)[^>]*>", "", html["reference/analysis"])
    assert re.search(r'<code>"biased" {4,}tr\(K H L H\)', analysis.replace("&quot;", '"'))
    assert "def pair(k)" in re.sub(r"<[^>]+>", "", (tmp_path / "site/notebooks/analysis_alone/index.html").read_text())
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert not loaded, f"{page}: {loaded}"
