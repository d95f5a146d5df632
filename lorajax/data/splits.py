"""Which rows a task is trained on and which it is measured on, where the source does not say or says it row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from lorajax.data.reading import Reading
from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

#: Values of a row's `split`, in any case. Dev rows are left out, or stand in for the test rows of a task that has none.
#: "dev/test" is what sources without a train part say of all their rows; it parts nothing, as if it were not there.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "dev/test": None,
}

#: The debiased CKA needs four examples: of fewer units than this, tasks are split by count and not by threshold.
LEAST_UNITS = 5


class Row(NamedTuple):
    """An example as it was read: its split (a value of SPLITS), "file:line" for messages, and what it is about.

    Rows of one `group`, such as the questions on one passage, are on the same side; without one, equal inputs are.
    """

    example: Example
    split: str | None
    where: str
    group: str | None = None

    @property
    def unit(self) -> str:
        """What is split: the group, or else the input."""
        return self.example.input if self.group is None else self.group


def read_split(value: object, where: str) -> str | None:
    """The side that a row's `split` names; None for an absent one.

    Raises:
      LorajaxError: not one of SPLITS.
    """
    if value is None:
        return None
    if not isinstance(value, str) or value.lower() not in SPLITS:
        raise LorajaxError(f"{where}: 'split' must be one of {', '.join(SPLITS)}, found {value!r}")
    return SPLITS[value.lower()]


def make_task(name: str, rows: Sequence[Row], *, test_share: float = 0.2, reading: Reading | None = None) -> Task:
    """The task of `rows`, each side in the order of a hash of the whole example, whatever the order of the file.

    Rows that name no split are split by a hash of their `unit`: about `test_share` of the units are tested on, the
    same ones in every task. Where that would be too few for a measure (fewer than LEAST_UNITS, or than half of the
    share asked for) or too many (twice the share), the units with the smallest hashes make up the share: at least one
    and never all.

    Raises:
      LorajaxError: only some rows name their split, or no rows are left to train on or to test on.
    """
    sides: dict[str | None, list[Example]] = {"train": [], "test": [], "dev": [], None: []}
    ordered = sorted(rows, key=lambda row: order_key(row.example))
    for row in ordered:
        sides[row.split].append(row.example)
    if sides[None] and len(sides[None]) < len(rows):
        where = next(row.where for row in rows if row.split is None)
        raise LorajaxError(
            f"{where}: its 'split' does not say train or test, but other rows of task {name!r} do; expected all or none"
        )
    units = sorted({row.unit for row in rows}, key=_hash)
    if sides[None] and len(units) > 1:
        tested = _tested(units, test_share)
        for row in ordered:
            sides["test" if row.unit in tested else "train"].append(row.example)
    if sides["test"] and sides["dev"] and reading is not None:
        reading.drop(name, "are dev rows", len(sides["dev"]))
    train, test = sides["train"], sides["test"] or sides["dev"]
    for side, examples in (("train", train), ("test", test)):
        if not examples:
            kind = "inputs" if all(row.group is None for row in rows) else "groups"
            raise LorajaxError(
                f"task {name!r}: has no {side} rows (of {len(rows)} rows, {len(units)} different {kind})"
            )
    return Task(name, rows[0].example.cluster, tuple(train), tuple(test))


def order_key(example: Example) -> bytes:
    """What examples are ordered, and chosen, by: a hash of all that sets them apart."""
    return _hash("\0".join((example.input, *example.targets, *(example.options or ()))))


def _tested(units: Sequence[str], share: float) -> set[str]:
    """Of units in the order of their hashes, those to test on: at least one, never all."""
    threshold = int(share * 2**256).to_bytes(32)
    below = sum(_hash(unit) < threshold for unit in units)
    wanted = round(share * len(units))
    if below < max(LEAST_UNITS, wanted / 2) or below > 2 * wanted:
        below = wanted
    return set(units[: min(max(1, below), len(units) - 1)])


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
