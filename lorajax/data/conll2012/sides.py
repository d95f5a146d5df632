"""Which documents are tested on, and the passages that are kept of each side."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from pathlib import Path

from lorajax.data.sources import Limits
from lorajax.data.task import Example
from lorajax.errors import LorajaxError

#: Folders of the official releases, and how files that join all documents begin (`train.english.v4_gold_conll`).
FOLDERS = {"train": "train", "development": "dev", "dev": "dev", "test": "test", "conll-2012-test": "test"}

#: Without such folders: this share of all documents, about, is tested on.
TEST_SHARE = 0.2

#: Examples of one passage, by task.
Examples = dict[str, Example]


def name_parts(folder: Path, file: Path) -> tuple[str, ...]:
    """The folders of a file below `folder`, and the parts of its name between dots."""
    path = file.relative_to(folder)
    return (*path.parts[:-1], *path.name.split("."))


def named_sides(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """The side of each file by the folders it is in, below `folder`, or by its name; nothing where none names a side.

    Raises:
      LorajaxError: only some of the files name their side.
    """
    sides = {}
    for file in files:
        parts = [part for part in name_parts(folder, file) if part in FOLDERS]
        if parts:
            sides[file] = FOLDERS[parts[0]]
    if sides and (left := [file for file in files if file not in sides]):
        raise LorajaxError(
            f"{left[0]}: is in none of the folders {', '.join(FOLDERS)}, but {next(iter(sides))} is; "
            "expected all or none"
        )
    return sides


def side_of(document: str) -> str:
    """The side of a document by the hash of its name alone: the same in every task and every selection of files."""
    return "test" if _hash(document) < TEST_SHARE * 2**256 else "train"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


class Sides:
    """The kept passages of one kind: on each side, those whose text has the smallest hash, so many at most.

    Which ones these are depends neither on the order of the files nor on the tasks that are read. Memory is bounded by
    the limits.
    """

    def __init__(self, limits: Limits):
        # heapq has its smallest entry first: negative hashes put the largest there, which is the next to go.
        self._heaps: dict[str, list[tuple[int, str, Examples]]] = {"train": [], "test": [], "dev": []}
        self._limits = {"train": limits.train, "test": limits.test, "dev": limits.test}

    def offer(self, side: str, name: str, text: str, examples: Callable[[], Examples]) -> None:
        """Keeps a passage, or not; `examples` makes its examples and is called for those only that are kept."""
        heap, key = self._heaps[side], (-_hash(text), name)
        if len(heap) < self._limits[side]:
            heapq.heappush(heap, (*key, examples()))
        elif key > heap[0][:2]:
            heapq.heapreplace(heap, (*key, examples()))

    def kept(self, side: str) -> list[Examples]:
        """The passages of a side, in the order of the hash of their text; test has those of dev if it has none."""
        heap = self._heaps[side] or (self._heaps["dev"] if side == "test" else [])
        return [examples for *_, examples in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
