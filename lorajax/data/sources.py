"""Where tasks come from: `--data` names a source, and a source gives tasks.

builtin              tasks that are generated here (lorajax.data.builtin)
PATH                 a folder of JSONL files, or one (lorajax.data.jsonl)
flan2021[:FOLDER]    FLAN 2021, from the hub or from a folder (lorajax.data.flan2021)
ni:FOLDER            Natural Instructions task files (lorajax.data.natural_instructions)
mapped:FILE          any tables, described by a mapping file (lorajax.data.mapped)
conll2012:FOLDER     linguistic tasks made of OntoNotes (lorajax.data.conll2012)
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from lorajax.data.reading import Reading
from lorajax.data.task import Task
from lorajax.errors import LorajaxError


class Limits(NamedTuple):
    """Examples of a task at most, on each side. A source may give more; a large one reads no more than it needs."""

    train: int
    test: int


class Source(Protocol):
    """A set of tasks that can be read."""

    def clusters(self, reading: Reading) -> dict[str, str]:
        """The cluster of every task there is, by name, in the order to show them; reads no more than it must."""
        ...

    def read(self, names: Sequence[str], limits: Limits, reading: Reading) -> dict[str, Task]:
        """The tasks `names`, each with at most about `limits` examples.

        Raises:
          LorajaxError: what is wrong with the files, by file and line.
        """
        ...


#: Prefix of `--data`: the module whose `open_source(where)` gives the source, and what comes after the colon.
KINDS = {
    "builtin": ("lorajax.data.builtin", ""),
    "flan2021": ("lorajax.data.flan2021", "[:FOLDER]"),
    "ni": ("lorajax.data.natural_instructions", ":FOLDER"),
    "mapped": ("lorajax.data.mapped", ":FILE"),
    "conll2012": ("lorajax.data.conll2012", ":FOLDER"),
}


def _parts(spec: str) -> tuple[str, str]:
    """Kind and place of a source; the kind is empty for a path."""
    kind, colon, where = spec.partition(":")
    if kind not in KINDS or Path(spec).expanduser().exists():
        return "", spec
    form = KINDS[kind][1]
    if (not where and form and not form.startswith("[")) or (colon and not (where and form)):
        raise LorajaxError(f"--data {spec}: expected {kind}{form}")
    return kind, where


def open_source(spec: str) -> Source:
    """The source that `--data SPEC` names: `builtin`, a path, or a kind and a path such as `mapped:FILE`.

    Raises:
      LorajaxError: no such file or folder, or a kind without the place it needs.
    """
    kind, where = _parts(spec)
    module = importlib.import_module(KINDS[kind][0] if kind else "lorajax.data.jsonl")
    return module.open_source(where)


def absolute(spec: str) -> str:
    """`spec` with the path in it made absolute, where there is one, so that it means the same from anywhere."""
    kind, where = _parts(spec)
    if not where or not (path := Path(where).expanduser()).exists():
        return spec
    return f"{kind}:{path.absolute()}" if kind else str(path.absolute())
