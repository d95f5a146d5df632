"""The public names: listed, importable, typed and documented. `CONTRIBUTING.md` says what they promise."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "lorajax", "lorajax.lora", "lorajax.models", "lorajax.data", "lorajax.training")


def _rows(package: str) -> dict[str, list[str]]:
    """The table in the docstring of a package: for each module, its names as written, bar and all."""
    rows: dict[str, list[str]] = {}
    for line in (importlib.import_module(package).__doc__ or "").splitlines():
        if match := re.fullmatch(r"    ([a-z_0-9]+) {2,}(\w[\w, |]*|\| [\w, |]*)", line):
            rows[match[1]] = match[2].split()
        elif re.match(r" {15,}\w", line):
            rows[next(reversed(rows))] += line.split()
    return rows


def _listed(package: str) -> dict[str, tuple[list[str], list[str]]]:
    """For each module that a package lists: the names that the package has too, and those that only the module has."""
    found = {}
    for module, words in _rows(package).items():
        words = [word.strip(",") for word in words]
        bar = words.index("|") if "|" in words else len(words)
        found[module] = words[:bar], words[bar + 1 :]
    return found


NAMES = [
    (package, module, name)
    for package in PACKAGES
    for module, (short, only_there) in _listed(package).items()
    for name in [*short, *only_there]
]


def _public(package: str, module: str, name: str) -> tuple[ModuleType, Any]:
    home = importlib.import_module(f"{package}.{module}")
    return home, getattr(home, name)


def test_a_name_is_listed_once():
    assert len(set(NAMES)) == len(NAMES) > 150


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_documented_is_what_is_exported(package):
    module, listed = importlib.import_module(package), _listed(package)
    names = {name for short, _ in listed.values() for name in short}
    if package == "analysis":
        names |= set(listed)  # its modules are public too
    if package == "lorajax":
        names |= {"__version__", *(other.split(".")[1] for other in PACKAGES if other.startswith("lorajax."))}
    assert set(module.__all__) == names
    assert len(module.__all__) == len(names)
    assert set(module.__all__) <= set(dir(module))
    star: dict[str, Any] = {}
    exec(f"from {package} import *", star)
    assert names <= set(star)


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_names_that_are_there(package):
    """The imports under TYPE_CHECKING name what `__getattr__` gives, from where it gives it."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = set()
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            source = importlib.import_module(statement.module)
            there = getattr(source, alias.name)
            assert getattr(module, alias.name) is there, alias.name
            seen.add(alias.name)
    assert seen == set(module.__all__) - {"__version__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_short_name_never_hides_a_module(package):
    """`import analysis.mantel` binds the name `mantel` in `analysis`: a function of that name would come and go."""
    module = importlib.import_module(package)
    modules = {path.stem for path in Path(module.__file__).parent.iterdir()}
    short = {name for names, _ in _listed(package).values() for name in names}
    assert not short & modules
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name
    with pytest.raises(ImportError):
        exec(f"from {package} import no_such_name")


def test_importing_analysis_is_free_and_stays_apart():
    """In a process of its own: `import analysis` reads nothing else, and no measure needs the model side."""
    measures = ", ".join(_listed("analysis"))
    program = (
        "import sys; import analysis; heavy = {'jax', 'numpy', 'lorajax', 'run'} & set(sys.modules); assert not heavy, heavy\n"
        "import lorajax; heavy = {'jax', 'numpy', 'flax'} & set(sys.modules); assert not heavy, heavy\n"
        "for name in [n for n in sys.modules if n.startswith('lorajax')]: del sys.modules[name]\n"
        f"from analysis import {measures}\n"
        "others = [n for n in sys.modules if n.split('.')[0] in ('lorajax', 'run', 'flax', 'transformers')]\n"
        "assert not others, others"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_older_ways_to_import_give_the_same():
    import analysis
    from analysis.cka import cka_all_pairs
    from analysis.mantel import mantel
    from analysis.spectrum import spectrum
    from lorajax.lora.adapter import stack
    from lorajax.models.checkpoint import load

    assert analysis.cka_all_pairs is cka_all_pairs
    assert analysis.mantel.mantel is mantel
    assert analysis.spectrum.spectrum is spectrum
    assert importlib.import_module("lorajax").lora.stack is stack
    assert importlib.import_module("lorajax.models").load is load


def test_nothing_else_is_called_as_our_packages_are():
    """`run` is a general name: what Python finds under it must be ours, and no distribution may bring another."""
    for name in ("run", "analysis", "lorajax"):
        assert Path(importlib.import_module(name).__file__).parent == ROOT / name
        owners = importlib.metadata.packages_distributions().get(name, [])
        assert set(owners) <= {"lorajax"}, f"{name} is also of {owners}"


# --- documentation and types ------------------------------------------------------------------------------------------


def _callables(name: str, thing: Any) -> list[tuple[str, Any]]:
    """The function; of a class, the methods and properties that are written out and public, or said to be `CALLED`."""
    if not isinstance(thing, type):
        return [(name, inspect.unwrap(thing))]
    found = []
    for key, value in vars(thing).items():
        if key.startswith("_") and (key not in CALLED or hasattr(thing, "_fields")):
            continue
        if key == "__init__" and "__dataclass_fields__" in vars(thing):
            continue  # generated
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(value) and value.__name__ != "<lambda>":  # the default of a field
            found.append((f"{name}.{key}", value))
    return found


CALLED = ("__init__", "__call__")


def _documentation(home: ModuleType, thing: Any) -> str:
    """The docstring with those of what it refers to in backticks, as in "arguments as `cka_all_pairs`"."""
    texts, seen, todo = [], set(), [inspect.getdoc(thing) or ""]
    while todo:
        texts.append(todo.pop())
        for name in re.findall(r"`(?:\w+\.)*(\w+)`", texts[-1]):
            if name not in seen and callable(there := getattr(home, name, None)):
                seen.add(name)
                todo.append(inspect.getdoc(there) or "")
    return "\n".join(texts)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_documented(package):
    for other, module, name in NAMES:
        if other != package:
            continue
        thing = _public(package, module, name)[1]
        where = f"{package}.{module}.{name}"
        text = thing.__doc__ or ""
        generated = text.startswith((f"{name}(", "Create and return new")) or thing.__doc__ is tuple.__doc__
        assert text.strip(), f"{where} has no docstring"
        assert not generated, f"{where} has no docstring of its own"
        assert text.split("\n\n")[0].strip()[-1] in ".:!?`", f"{where}: the first paragraph is no sentence"
        for full, function in _callables(name, thing):
            if full.endswith("__init__"):
                continue  # the class says what it is
            assert (function.__doc__ or "").strip(), f"{package}.{module}.{full} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_annotated(package):
    missing: dict[str, set[str]] = {}
    for other, module, name in NAMES:
        if other != package:
            continue
        for full, function in _callables(name, _public(package, module, name)[1]):
            signature = inspect.signature(function)
            lacking = {p.name for p in signature.parameters.values() if p.annotation is p.empty} - {"self", "cls"}
            if signature.return_annotation is signature.empty and not full.endswith("__init__"):
                lacking.add("return")
            if lacking and not full.endswith("__init__"):
                missing[full] = lacking
    assert not missing


def _functions_of_analysis():
    for package, module, name in NAMES:
        if package == "analysis":
            home, thing = _public(package, module, name)
            if not isinstance(thing, type):
                yield home, name, inspect.unwrap(thing)


def test_measures_say_what_they_take_and_give():
    """Every argument by name, the shapes of arrays, the dtype of what is returned, and what is raised."""
    for home, name, function in _functions_of_analysis():
        own, text = inspect.getdoc(function) or "", _documentation(home, function)
        where, signature = f"{home.__name__}.{name}", inspect.signature(function)
        for parameter in signature.parameters:
            assert re.search(rf"\b{parameter}\b", text), f"{where} does not say what {parameter} is"
        arrays = [p for p in signature.parameters.values() if re.search(r"Array|Layers|ndarray", str(p.annotation))]
        if arrays:
            assert re.search(r"\[[^\]]+\]|any shape", own), f"{where} shows no shape"
        if re.search(r"Array|ndarray", str(signature.return_annotation)):
            kinds = r"\b(float32|float64|float|int|bool|dtype|objects)\b"
            assert re.search(kinds, text + (home.__doc__ or "")), f"{where} names no dtype"
        if re.search(r"^ +(raise |check_)", inspect.getsource(function), re.MULTILINE):
            assert re.search(r"\b[Rr]aises\b", text), f"{where} does not say what it raises"


def test_measures_name_their_source():
    """A paper, by year, in the module's docstring or the function's: what is measured is not ours."""
    # Readability's papers are in it; these two are bookkeeping of what others measure.
    without = {"analysis.low_rank", "analysis.moments", "analysis.embedding", "analysis.task_map"}
    for home, name, function in _functions_of_analysis():
        if home.__name__ not in without:
            text = (home.__doc__ or "") + _documentation(home, function)
            assert re.search(r"\b(18|19|20)\d\d\b", text), f"{home.__name__}.{name} names no source"
