"""The wheel holds the packages with all that they read beside their code, and works outside of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import lorajax

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "lorajax", "run")


def _files(package: str) -> set[str]:
    """All files of a package in the checkout."""
    found = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built as a release is: a source distribution from a copy of the checkout, and the wheel from that."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = (".*", "__pycache__", "*.egg-info", "build", "dist", "site", "studies")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*left_out))
    command = [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [made] = (folder / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Runs a command of Python where the wheel is installed and the checkout is not to be seen."""
    folder = tmp_path_factory.mktemp("elsewhere")
    target = folder / "target"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, cwd=folder)

    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(target), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=folder, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run, target


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    """Every file of the three packages is in it: a new folder of data that `package-data` forgets is missing here."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = archive.read(f"lorajax-{lorajax.__version__}.dist-info/METADATA").decode()
    inside = {name for name in held if ".dist-info/" not in name}
    assert inside == set().union(*map(_files, PACKAGES))
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    kinds = {path.suffix for path in map(Path, inside)}
    assert {".j2", ".toml", ".json", ".css", ".js"} <= kinds
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert re.search(rf"^Version: {re.escape(lorajax.__version__)}$", metadata, re.MULTILINE)
    assert re.search(r"^License-Expression: Apache-2.0$", metadata, re.MULTILINE)


@pytest.mark.slow
def test_the_source_distribution_holds_what_testing_takes(wheel):
    [made] = wheel.parent.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml"):
        assert name in held
    assert {"tests/conftest.py", "tests/constraints.txt", "examples/README.md", "docs/data.md"} <= held
    assert not [name for name in held if "__pycache__" in name or name.endswith(".pyc")]


@pytest.mark.slow
def test_it_works_elsewhere(elsewhere):
    """Imports, data of the packages, and both ways to start a command, away from the checkout."""
    python, target = elsewhere
    program = """
import json, pathlib, analysis, lorajax, run, importlib.metadata
from analysis import cka_all_pairs
from run import recipes
from run.published import numbers
import numpy as np
value = cka_all_pairs(x := np.random.default_rng(0).standard_normal((2, 9, 4)), x)
print(json.dumps({
    "where": [str(pathlib.Path(m.__file__).parents[1]) for m in (analysis, lorajax, run)],
    "version": [lorajax.__version__, importlib.metadata.version("lorajax")],
    "recipes": {name: len(recipes.load(name).flags) for name in recipes.names()},
    "published": sorted(p.name for p in pathlib.Path(numbers.__file__).parent.glob("*.json")),
    "cka": float(value[0, 0]),
}))
"""
    told = json.loads(python(sys.executable, "-c", program))
    assert told["where"] == [str(target)] * 3
    assert told["version"] == [lorajax.__version__] * 2
    assert set(told["recipes"]) == {path.stem for path in (ROOT / "run" / "recipes").glob("*.toml")}
    assert all(told["recipes"].values())
    assert told["published"] == sorted(path.name for path in (ROOT / "run" / "published").glob("*.json"))
    assert told["cka"] == pytest.approx(1, abs=1e-5)
    assert "--steps" in python(sys.executable, "-m", "run.study", "--help")
    assert "study" in python(sys.executable, str(target / "bin" / "lorajax"), "--help")


def test_one_version_is_told_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lorajax.__version__"}
    version = lorajax.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^## \[(\d[\d.]*)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    assert version in released or f"Version {version} in the making" in changes


def test_the_citation_is_one():
    """What Citation File Format 1.2.0 requires, and the kinds of values that it knows."""
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert told["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(told)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (told["title"], told["license"]) == (project["name"], project["license"])
    for work in (told, *told["references"]):
        assert work["authors"]
        for author in work["authors"]:
            assert set(author) <= {"name", "family-names", "given-names"}
    for work in told["references"]:
        assert {"type", "title"} <= set(work)
