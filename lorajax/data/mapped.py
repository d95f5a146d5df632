"""Tasks from any tables, described by a mapping file (`lorajax.data.mapping_file`): CSV, TSV, JSONL, Parquet, the hub.

A table may have ten million rows, so it is read row by row and never held. Of each side, the rows with the smallest
hash of their input are kept, as many as are asked for: a choice that looks random and does not depend on the order of
the file. Where the table names no split, a unit (the group, or else the input) is tested on if its hash is in the
first fifth of all hashes. The test side therefore has about 20 % of the units, not exactly, and the same units of two
tasks are split alike; the unit with the smallest hash is tested on and the one with the largest is trained on
whatever their values, so neither side is empty if there are two units.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lorajax.data.fields import Record, Template, as_key, as_text, plain, value_at
from lorajax.data.mapping_file import TaskMapping, read_mapping
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits
from lorajax.data.splits import Row, order_key, read_split
from lorajax.data.tables import open_tables
from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

#: The share of the units that a task is tested on, where its tables do not say.
TEST_SHARE = 0.2


class MappedTables:
    """The tasks of a mapping file."""

    def __init__(self, file: Path):
        self._folder = file.parent
        self._tasks = read_mapping(file)

    def clusters(self, reading: Reading) -> dict[str, str]:
        """The cluster of every task, in the order of the mapping file; reads no table."""
        return {name: task.cluster for name, task in self._tasks.items()}

    def read(self, names: Sequence[str], limits: Limits, reading: Reading) -> dict[str, Task]:
        """The tasks `names`, each with at most `limits` examples; no more rows are in memory at any time.

        Raises:
          LorajaxError: what is wrong with the tables, by file and line or row, or with what the mapping says of them.
        """
        return {name: _read(self._tasks[name], self._folder, limits, reading) for name in names}


def open_source(where: str) -> MappedTables:
    """The source of `--data mapped:FILE`.

    Raises:
      LorajaxError: no mapping file, or something wrong in it.
    """
    return MappedTables(Path(where).expanduser())


def _read(task: TaskMapping, folder: Path, limits: Limits, reading: Reading) -> Task:
    selection = Selection(task.name, task.cluster, limits)
    for side, rows in open_tables(task, folder, reading).items():
        before = selection.rows
        for where, row in rows:
            reading.row(task.name)
            try:
                if (made := make_row(task, row, side, where)) is None:
                    reading.drop(task.name, "are not what 'where' asks for")
                else:
                    selection.add(made)
            except LorajaxError as error:
                reading.bad(error)
        if selection.rows == before:
            raise LorajaxError(f"{task.source}: no rows {f'of the {side} split ' if side else ''}are left to read")
    return selection.task(reading)


def make_row(task: TaskMapping, row: Record, side: str | None, where: str) -> Row | None:
    """The example that `row` of a table is, by what `task` says of it; None if `task.where` leaves it out.

    `side` is that of its file, and `where` is what messages call it.

    Raises:
      LorajaxError: a field is missing or holds what it cannot, or a label is not one of `task.labels`.
    """
    try:
        return _make_row(task, row, side, where)
    except KeyError as error:
        field = error.args[0]
        key = next(key for key, name in task.fields() if name == field)
        raise task.no_field(key, field, list(row), where) from None


def _make_row(task: TaskMapping, row: Record, side: str | None, where: str) -> Row | None:
    if not all(as_key(value_at(row, field)) in kept for field, kept in task.where.items()):
        return None
    options = _options(task, row, where)
    prompt, targets = task.input.fill(row, where), _targets(task, row, options, where)
    group = None if task.group is None else as_text(row, task.group, where)
    checked = {"input": (prompt,), "options": options, "target": targets, "group": () if group is None else (group,)}
    for key, texts in checked.items():
        for text in texts:
            _check_text(text, f"{where}: {key!r} of {task.source}")
    if task.split is not None:
        side = read_split(value_at(row, task.split), f"{where}: field {task.split!r}")
    return Row(
        Example(task.name, task.cluster, prompt, targets, task.definition, options or None),
        side,
        where,
        group,
    )


def _check_text(text: str, what: str) -> None:
    if not text.strip():
        raise LorajaxError(f"{what} comes out empty; expected a text")
    if half := re.search(r"[\ud800-\udfff]", text):
        raise LorajaxError(f"{what} holds {half[0]!r}, half of a character; expected valid Unicode")


def _options(task: TaskMapping, row: Record, where: str) -> tuple[str, ...]:
    if not isinstance(task.options, str):
        return tuple(option.fill(row, where) for option in task.options or ())
    return _texts(row, task.options, where)


def _texts(row: Record, field: str, where: str) -> tuple[str, ...]:
    """What a field holds that is a list of texts."""
    value = value_at(row, field)
    texts = [plain(item) for item in value] if isinstance(value, (list, tuple)) else []
    if not texts or None in texts:
        raise LorajaxError(f"{where}: field {field!r}: expected a list of at least one text, found {value!r:.80}")
    return tuple(text for text in texts if text is not None)


def _targets(task: TaskMapping, row: Record, options: tuple[str, ...], where: str) -> tuple[str, ...]:
    if task.correct_option is not None:
        number = as_key(value_at(row, task.correct_option))
        numbered = {str(index): option for index, option in enumerate(options)}
        if number is None or number not in numbered:
            raise LorajaxError(
                f"{where}: field {task.correct_option!r}: expected the number of one of the {len(options)} options, "
                f"from 0; found {number!r}"
            )
        return (numbered[number],)
    if isinstance(task.target, Template):
        return (task.target.fill(row, where),)
    assert task.target is not None
    value = value_at(row, task.target)
    if task.labels is not None:
        label = as_key(value)
        if label is None or (text := task.labels.get(label)) is None:
            raise LorajaxError(
                f"{where}: field {task.target!r} holds {value!r:.80}; 'labels' of {task.source} knows "
                f"{', '.join(task.labels)}"
            )
        return (text.fill(row, where),)
    return _texts(row, task.target, where) if isinstance(value, (list, tuple)) else (as_text(row, task.target, where),)


class Selection:
    """The rows of one task that are kept while its tables are read: at most `limits`, and those of two units."""

    def __init__(self, name: str, cluster: str, limits: Limits):
        self.rows = 0
        self._name, self._cluster, self._limits = name, cluster, limits
        self._sides = {"train": _Smallest(limits.train), "test": _Smallest(limits.test), "dev": _Smallest(limits.test)}
        self._named: bool | None = None
        self._dev = 0
        # The units with the smallest and the largest hash so far, of rows that name no split.
        self._first: _Unit | None = None
        self._last: _Unit | None = None

    def add(self, row: Row) -> None:
        """Keeps `row`, if it is one of those to keep.

        Raises:
          LorajaxError: it names its split and earlier rows do not, or the other way round.
        """
        named = row.split is not None
        if self._named is None:
            self._named = named
        elif self._named != named:
            raise LorajaxError(
                f"{row.where}: its split is {row.split!r}, but not all rows of task {self._name!r} say theirs; "
                "expected all or none"
            )
        self.rows += 1
        self._dev += row.split == "dev"
        # Of the whole example: rows of one prompt that repeats are not next to each other.
        rank = int.from_bytes(order_key(row.example))
        if row.split is not None:
            self._sides[row.split].add(rank, row.example)
        else:
            self._part(_hash(row.unit), rank, row.example)

    def _part(self, key: int, rank: int, example: Example) -> None:
        first, last = self._first, self._last
        if first is not None and last is not None and first.key < key < last.key:
            self._side(key).add(rank, example)
            return
        for known in (first, last):
            if known is not None and known.key == key:
                known.rows.add(rank, example)
                return
        rows = _Smallest(max(self._limits))
        rows.add(rank, example)
        unit: _Unit | None = _Unit(key, rows)
        # A unit that is first or last no more goes down the line, to the side that its hash says.
        if first is None or key < first.key:
            self._first, unit = unit, first
        if unit is not None and (last is None or unit.key > last.key):
            self._last, unit = unit, last
        if unit is not None:
            self._side(unit.key).extend(unit.rows)

    def _side(self, key: int) -> _Smallest:
        return self._sides["test" if key < TEST_SHARE * 2**256 else "train"]

    def task(self, reading: Reading) -> Task:
        """The task of the rows that are kept, each side in the order of a hash of the whole example.

        Raises:
          LorajaxError: no rows to train on, or none to test on.
        """
        for side, unit in (("test", self._first), ("train", self._last)):
            if unit is not None:
                self._sides[side].extend(unit.rows)
        train, test, dev = (self._sides[side].examples() for side in ("train", "test", "dev"))
        if test:
            reading.drop(self._name, "are dev rows", self._dev)
        for side, kept in (("train", train), ("test", test or dev)):
            if not kept:
                units = "" if self._named else ", all of one group or input"
                raise LorajaxError(f"task {self._name!r}: has no {side} rows (of {self.rows} rows{units})")
        return Task(self._name, self._cluster, train, test or dev)


class _Smallest:
    """Of the examples that it is given, the `most` with the smallest rank."""

    def __init__(self, most: int):
        self._most = most
        # The largest rank comes first: heapq has the smallest there, so ranks are negative. The number keeps examples
        # of equal rank, which are equal, from being compared.
        self._heap: list[tuple[int, int, Example]] = []
        self._number = itertools.count()

    def add(self, rank: int, example: Example) -> None:
        self._push(-rank, example)

    def extend(self, other: _Smallest) -> None:
        for rank, _, example in other._heap:
            self._push(rank, example)

    def _push(self, rank: int, example: Example) -> None:
        item = (rank, next(self._number), example)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, item)
        elif rank > self._heap[0][0]:
            heapq.heapreplace(self._heap, item)

    def examples(self) -> tuple[Example, ...]:
        return tuple(example for _, _, example in sorted(self._heap, key=lambda item: -item[0]))


class _Unit(NamedTuple):
    key: int
    rows: _Smallest


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
