"""Prompts that say nothing of their example, since a task repeats them word for word.

Some of FLAN's templates have no place for the input ("Generate a movie review."), or for a label or language alone: up
to 40 % of a task's rows are then a few strings. Equal prompts have equal hidden states, and rows that occur many times
weigh on every measure.

Prompts that repeat for another reason are ordinary: where several questions are on one passage, FLAN shows the passage
and asks for a question, so rows of one passage have equal prompts (20 % of the rows of MultiRC). Such a prompt is at
most 1 in 400 rows of a task; a constant one, of a template in ten and with two labels, is 1 in 20.
"""

from __future__ import annotations

import collections
import dataclasses

from lorajax.data.prompts import body
from lorajax.data.task import Example, Task

#: A constant prompt occurs so often in a task at least (a pair of equal rows may be chance) ...
OFTEN = 3
#: ... and is at least this share of its rows.
SHARE = 0.01


def _constant(task: Task) -> set[str]:
    counts = collections.Counter(body(example) for example in (*task.train, *task.test))
    least = max(OFTEN, SHARE * counts.total())
    return {prompt for prompt, count in counts.items() if count >= least}


def constant_prompts(task: Task) -> int:
    """How many examples of `task`, on both sides together, have a constant prompt."""
    constant = _constant(task)
    return sum(body(example) in constant for example in (*task.train, *task.test))


def without_constant_prompts(task: Task) -> tuple[Task, int]:
    """`task` without the examples that have a constant prompt, and how many these are."""
    constant = _constant(task)

    def kept(examples: tuple[Example, ...]) -> tuple[Example, ...]:
        return tuple(example for example in examples if body(example) not in constant)

    less = dataclasses.replace(task, train=kept(task.train), test=kept(task.test))
    return less, len(task.train) + len(task.test) - len(less.train) - len(less.test)
