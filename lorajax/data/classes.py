"""The classes that encoders tell apart: the labels of every task, in one numbering.

All adapters of a study share one space of classes, in which those of a task are next to each other. An example is told
from the classes of its own task alone, so a model of many tasks and one of a single task are asked the same question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

#: More different answers than this, where none are given as options, are no labels.
MOST_LABELS = 64


@dataclasses.dataclass(frozen=True)
class Classes:
    """Classes by number: (task, label). A task of no name is that of a head whose labels are not known."""

    names: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in their order, each once."""
        return tuple(dict.fromkeys(task for task, _ in self.names))

    @property
    def owners(self) -> np.ndarray:
        """Number of each class's task: `[C]` int32."""
        return np.asarray([self.tasks.index(task) for task, _ in self.names], np.int32)

    def of(self, tasks: Iterable[str]) -> Classes:
        """Those of `tasks`."""
        wanted = set(tasks)
        return Classes(tuple(name for name in self.names if name[0] in wanted))

    def labels(self) -> list[str]:
        """What each class is called: its label, after its task's name where there are several tasks."""
        return [label if len(self.tasks) == 1 else f"{task}: {label}" for task, label in self.names]

    def number(self, example: Example) -> int:
        """The class of an example's first target.

        Raises:
          LorajaxError: it is none of the labels of the example's task.
        """
        found = example.task, example.targets[0].strip()
        if found not in self.names:
            labels = [f"{label!r:.60}" for _, label in self.of([example.task]).names]
            there = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
            raise LorajaxError(
                f"task {example.task!r}: target {found[1]!r:.60} of input {example.input!r:.60} is no label of its "
                f"training examples, which are {there}; give the records 'options' to name labels they do not have"
            )
        return self.names.index(found)


def find_classes(tasks: Mapping[str, Task]) -> Classes:
    """The classes of `tasks`, in their order: the options that all training examples share, or their targets, sorted.

    Raises:
      LorajaxError: tasks with one label, or with so many different targets that they are no classification; it names
        the tasks that are left.
    """
    names: list[tuple[str, str]] = []
    unfit: list[str] = []
    for name, task in tasks.items():
        try:
            names += [(name, label) for label in _labels(task)]
        except LorajaxError as error:
            unfit.append(str(error))
    if unfit:
        fit = list(dict.fromkeys(name for name, _ in names))
        rest = f"; tasks that can be told apart: {' '.join(fit)}" if fit else ""
        more = f" ({len(unfit) - 1} more tasks are unfit)" if len(unfit) > 1 else ""
        raise LorajaxError(f"{unfit[0]}{more}{rest}")
    return Classes(tuple(names))


def _labels(task: Task) -> list[str]:
    options = {example.options for example in task.train}
    shared = options.pop() if len(options) == 1 else None
    if shared:
        labels = list(dict.fromkeys(option.strip() for option in shared))
    else:
        labels = sorted({example.targets[0].strip() for example in task.train})
        if len(labels) > MOST_LABELS:
            raise LorajaxError(
                f"task {task.name!r}: {len(labels)} different targets; an encoder is trained to classify, with at most "
                f"{MOST_LABELS} labels or with the same 'options' in every record"
            )
    if len(labels) < 2:
        raise LorajaxError(f"task {task.name!r}: its training examples have one label, {labels[0]!r:.60}; expected two")
    return labels
