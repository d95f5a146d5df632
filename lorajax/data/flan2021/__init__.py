"""FLAN 2021 (Wei et al., ICLR 2022, arXiv 2109.01652) as a source of data, from the hub or from a folder.

`table.py` has the tasks and clusters, `files.py` the two forms in which the rendered prompts are public. FLAN's own
files keep train and test apart. Of the train file, as many rows as allowed are chosen by a hash of what they say, so
which ones does not depend on their order. Of the test file the first rows are taken, in its order: that is how Zhao et
al. (2024, arXiv 2410.20008) measured, with at most 10,000.

Prompts are kept as they are: their options, where they list any, are part of the text.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence

from lorajax.data.flan2021.files import Files, open_files
from lorajax.data.flan2021.table import TABLE, TASKS, TRAIN_CAP, FlanTask
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits
from lorajax.data.task import Example, Task, select
from lorajax.errors import LorajaxError

__all__ = ["TABLE", "TASKS", "TRAIN_CAP", "Flan2021", "FlanTask", "open_source", "spread"]

#: Tasks that are not there are named up to this number; of more, it is said how many.
_NAMED = 5


def spread(examples: Iterable[Example], most: int) -> tuple[list[Example], int]:
    """The `most` examples with the lowest hashes of prompt and answer, in the order of these, and how many are left.

    The choice is as good as random and depends neither on the order of `examples` nor on `most`: a smaller choice is
    the beginning of a larger one. Not more than `most` examples are held at a time.
    """
    heap: list[tuple[int, int, Example]] = []  # of negative hashes, so the largest hash is the first to go
    count = 0
    for count, example in enumerate(examples, 1):
        key = -_hash(example)
        if len(heap) < most:
            heapq.heappush(heap, (key, count, example))
        elif key > heap[0][0]:
            heapq.heapreplace(heap, (key, count, example))
    return [example for _, _, example in sorted(heap, key=lambda item: -item[0])], count - len(heap)


def _hash(example: Example) -> int:
    # With the answer: rows of a template without a place for the example all have one prompt.
    text = "\0".join((example.definition or "", example.input, *example.targets))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])


class Flan2021:
    """The tasks of FLAN 2021 that there are files of."""

    def __init__(self, files: Files):
        self._files = files

    def clusters(self, reading: Reading) -> dict[str, str]:
        """The cluster of every task there is, in the order of the clusters; reads no file of rows.

        Raises:
          LorajaxError: the folder has no file of FLAN.
        """
        there = self._files.tasks(reading.say)
        absent = [task for task in TABLE if task.name not in there]
        if absent:
            named = [f"{task.name} ({task.absent})" if task.absent else task.name for task in absent]
            listed = f": {', '.join(named)}" if len(named) <= _NAMED else ""
            reading.say(f"flan2021: there are no files of {len(absent)} of the {len(TABLE)} tasks{listed}")
        return {task.name: task.cluster for task in TABLE if task.name in there}

    def require(self, names: Sequence[str]) -> None:
        """Raises LorajaxError, naming the file expected, where one of `names` is a task of FLAN without its files.

        Other names and globs are passed over.
        """
        for name in names:
            if name in TASKS:
                self._files.require(name)

    def related(self, name: str) -> list[str]:
        """The other tasks of the same data set, such as the rounds of ANLI: some have the same rows to train on."""
        return [other for other, task in TASKS.items() if other != name and task.dataset == TASKS[name].dataset]

    def read(self, names: Sequence[str], limits: Limits, reading: Reading) -> dict[str, Task]:
        """The tasks `names`: of each, up to `limits.train` rows of its train file (never more than TRAIN_CAP), chosen
        by `spread`, and the first `limits.test` of its test file.

        Raises:
          LorajaxError: no task of this name, no file, a SHA-1 sum that differs, or bad rows.
        """
        select(TASKS, names)
        self.require(names)
        return {name: self._task(TASKS[name], limits, reading) for name in names}

    def _task(self, task: FlanTask, limits: Limits, reading: Reading) -> Task:
        train, left = spread(self._examples(task, "train", reading), min(limits.train, TRAIN_CAP))
        if limits.train > TRAIN_CAP:
            reading.drop(task.name, f"exceed the {TRAIN_CAP:,} that FLAN trains on", left)
        test = itertools.islice(self._examples(task, "test", reading), limits.test)
        return Task(task.name, task.cluster, tuple(train), tuple(test))

    def _examples(self, task: FlanTask, split: str, reading: Reading) -> Iterator[Example]:
        file = self._files.fetch(task.name, split, reading.say)
        rows = used = 0
        for where, record in self._files.records(file, reading):
            rows += 1
            reading.row(task.name)
            try:
                texts = self._files.texts(record, task.name, where)
            except LorajaxError as error:
                reading.bad(error)
                continue
            if not texts.input.strip() or not texts.answer.strip():
                # The data sets that FLAN renders have such rows; its files are not broken.
                reading.drop(task.name, "have an empty prompt or answer")
                continue
            used += 1
            yield Example(task.name, task.cluster, texts.input, (texts.answer,), texts.definition)
        if not used:
            found = f"none of its {rows} rows can be used" if rows else "is empty"
            raise LorajaxError(f"{file}: {found}; expected {split} rows of task {task.name!r}")


def open_source(where: str) -> Flan2021:
    """The source of `--data flan2021` (the hub) or `--data flan2021:FOLDER`.

    Raises:
      LorajaxError: no such folder, or a `dataset_info.json` that cannot be read.
    """
    return Flan2021(open_files(where))
