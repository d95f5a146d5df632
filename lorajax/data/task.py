"""The record every source of data is turned into, and the task that collects them."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

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


def matches(name: str, pattern: str) -> bool:
    """Whether `name` is `pattern`, or what a glob such as `wmt*` means."""
    # A name may hold the signs of a glob, as in `a[1]`; it always matches itself.
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def select(available: Iterable[str], wanted: Sequence[str], *, kind: str = "task") -> list[str]:
    """The names of `available` that `wanted` names, by name or glob, in the order of `wanted`.

    Raises:
      LorajaxError: a name or glob that matches nothing, with the nearest names there are, or a name given twice.
    """
    available = list(available)
    for name in wanted:
        if not any(matches(other, name) for other in available):
            near = difflib.get_close_matches(name, available, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(available))}"
            raise LorajaxError(f"unknown {kind} {name!r}: {hint}")
    duplicates = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if duplicates:
        raise LorajaxError(f"{kind}s named twice: {', '.join(duplicates)}")
    return list(dict.fromkeys(other for name in wanted for other in available if matches(other, name)))


def select_tasks(clusters: Mapping[str, str], tasks: Sequence[str], wanted_clusters: Sequence[str]) -> list[str]:
    """The names of the tasks that are both in `tasks` and in `wanted_clusters`, each by name or glob; empty means all.

    `clusters` gives the cluster of every task there is.

    Raises:
      LorajaxError: a name that matches nothing, or nothing that is in both.
    """
    named = select(clusters, tasks) if tasks else list(clusters)
    kept = select(sorted(set(clusters.values())), wanted_clusters, kind="cluster") if wanted_clusters else None
    found = [name for name in named if kept is None or clusters[name] in kept]
    if not found:
        raise LorajaxError(f"no task of {', '.join(named)} is in cluster {' or '.join(wanted_clusters)}")
    return found
