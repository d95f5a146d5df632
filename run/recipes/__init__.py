"""Recipes: the settings of a published experiment, or of a demonstration, as defaults of the flags.

    python -m run.study --recipe layer-by-layer --dry-run
    python -m run.study STUDY --recipe layer-by-layer --model FOLDER --data flan2021:FOLDER --epochs 1

A recipe is a TOML file: `about`, `sizes` (a name or config.json that `run.plan` knows the model's sizes by),
`accelerator` (what a dry run plans for; this machine without it) and the table `[flags]`, whose keys are those of
`study.json`. The comment after a value says where it is from. A flag that is given counts more than the recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lorajax.errors import LorajaxError
from run import __main__ as command_line

FOLDER = Path(__file__).parent
KEYS = {"about": str, "sizes": str, "accelerator": str, "flags": dict}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Flags with their values, and the source of each value where the file names one."""

    name: str
    about: str
    flags: dict[str, Any]
    sources: dict[str, str]
    sizes: str = ""
    accelerator: str = ""


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load(name: str) -> Recipe:
    """The recipe of that name, or in the TOML file `name`.

    Raises:
      LorajaxError: no such recipe, or a file that is none.
    """
    file = Path(name).expanduser() if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}, or a .toml file of yours"
        raise LorajaxError(f"--recipe {name}: no such recipe; {hint}")
    try:
        text = file.read_text("utf-8")
        keys = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LorajaxError(f"--recipe {name}: {file}: {error}") from None
    for key, value in keys.items():
        if key not in KEYS or not isinstance(value, KEYS[key]):
            expected = ", ".join(f"{known} ({kind.__name__})" for known, kind in KEYS.items())
            raise LorajaxError(f"{file}: {key} = {value!r:.60} is not expected in a recipe; expected {expected}")
    return Recipe(
        name=name if name in names() else file.stem,
        about=keys.get("about", ""),
        flags=keys.get("flags", {}),
        sources=dict(re.findall(r"^(\w+) = [^#\n]*#\s*(.+)$", text, re.MULTILINE)),
        sizes=keys.get("sizes", ""),
        accelerator=keys.get("accelerator", ""),
    )


def cli(
    kind: type[T],
    defaults: Callable[[Recipe], T],
    *,
    prog: str,
    description: str | None,
    example: str = "",
    main: Sequence[str] | None = None,
) -> T:
    """The command line as an instance of `kind`, whose defaults are those of `--recipe` where one is named.

    Args:
      defaults: an instance with the settings of a recipe.
      example, main: see `run.__main__.cli`.
    """
    name = _asked_for(sys.argv[1:])
    default = None if name is None else defaults(load(name))
    return command_line.cli(kind, prog=prog, description=description, example=example, main=main, default=default)


def _asked_for(arguments: Sequence[str]) -> str | None:
    """The value of `--recipe` among `arguments`; a missing one is left to the parser to complain of."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--recipe="):
            return argument.partition("=")[2]
        if argument == "--recipe" and i + 1 < len(arguments):
            return arguments[i + 1]
    return None
