"""The record every source of data is turned into, and the task that collects them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence

from lorajax.errors import LorajaxError

#: The twelve task clusters of FLAN 2021 (Wei et al., ICLR 2022, figure 3), in the order figures show them.
CLUSTERS = (
    "nli",
    "commonsense",
    "sentiment",
    "paraphrase",
    "closed_book_qa",
    "struct_to_text",
    "reading_comprehension",
    "rc_commonsense",
    "coreference",
    "misc",
    "summarization",
    "translation",
)


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt and its accepted answers.

    `definition` is the instruction and `input` the instance it is applied to; a source whose instruction is
    already part of the input leaves `definition` empty. `targets[0]` is the answer trained on.
    """

    task: str
    cluster: str
    input: str
    targets: tuple[str, ...]
    definition: str | None = None
    options: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """A named set of examples, split into what is trained on and what is measured on."""

    name: str
    cluster: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]


def overlap(task: Task) -> int:
    """How many test examples of `task` it is also trained on: the same definition and input, whatever the answer."""
    trained = {(e.definition, e.input) for e in task.train}
    return sum((e.definition, e.input) in trained for e in task.test)


def select(available: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """The `wanted` names, checked against `available`; an unknown name is an error that suggests the nearest."""
    available = list(available)
    for name in wanted:
        if name not in available:
            near = difflib.get_close_matches(name, available, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(available))}"
            raise LorajaxError(f"unknown task {name!r}: {hint}")
    duplicates = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if duplicates:
        raise LorajaxError(f"tasks named twice: {', '.join(duplicates)}")
    return list(wanted)
