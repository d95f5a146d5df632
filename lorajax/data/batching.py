"""Batches of fixed shape as a pure function of (seed, step): resuming needs no iterator state.

A batch is a dict of NumPy arrays. Only the positions whose next token is part of an answer carry a loss, so only they
are listed: the head is computed for R positions a sequence and not for T.

    tokens    [N, B, T] int32    prompt, answer, padding on the right
    positions [N, B, R] int32    where the next token is an answer token
    labels    [N, B, R] int32    that token
    weights   [N, B, R] float32  1, or 0 for padding
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from lorajax.data.prompts import Tokenized

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Lengths that every batch is padded to: T tokens of which up to R are answer tokens."""

    tokens: int
    answers: int

    @classmethod
    def of(cls, sets: Sequence[Tokenized], *, multiple: int = 8) -> Shape:
        """The smallest shape that holds all examples of `sets`, T rounded up to a `multiple`."""
        longest = max(len(p) + len(a) for s in sets for p, a in zip(s.prompts, s.answers, strict=True))
        answers = max(len(a) for s in sets for a in s.answers)
        return cls(round_up(longest, multiple), answers)


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `length`."""
    return -(-length // multiple) * multiple


class Stream:
    """The endless training order of one adapter: shuffled epochs over its tasks' examples.

    The multi-task model's stream runs over the union of its tasks. The order depends on (seed, name) alone.
    """

    def __init__(self, name: str, sets: Sequence[Tokenized], *, seed: int):
        self.prompts = [p for s in sets for p in s.prompts]
        self.answers = [a for s in sets for a in s.answers]
        self._key = (seed, zlib.crc32(name.encode()))
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def rows(self, step: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Prompt and answer of the `size` examples of batch `step`."""
        return [self._row(i) for i in range(step * size, (step + 1) * size)]

    def _row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, offset = divmod(position, len(self.prompts))
        if epoch != self._epoch:
            self._order = np.random.default_rng((*self._key, epoch)).permutation(len(self.prompts))
            self._epoch = epoch
        chosen = self._order[offset]
        return self.prompts[chosen], self.answers[chosen]


def batch_at(streams: Sequence[Stream], step: int, *, batch_size: int, shape: Shape, pad: int) -> Batch:
    """The fleet's batch of `step`: one row of `batch_size` examples for each stream."""
    rows = [pad_rows(stream.rows(step, batch_size), shape, pad=pad) for stream in streams]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def pad_rows(rows: Sequence[tuple[np.ndarray, np.ndarray]], shape: Shape, *, pad: int) -> Batch:
    """Examples as arrays `[B, ...]` of `shape`."""
    count = len(rows)
    batch = {
        "tokens": np.full((count, shape.tokens), pad, np.int32),
        "positions": np.zeros((count, shape.answers), np.int32),
        "labels": np.zeros((count, shape.answers), np.int32),
        "weights": np.zeros((count, shape.answers), np.float32),
    }
    for i, (prompt, answer) in enumerate(rows):
        p, a = len(prompt), len(answer)
        batch["tokens"][i, :p] = prompt
        batch["tokens"][i, p : p + a] = answer
        batch["positions"][i, :a] = np.arange(p - 1, p + a - 1)
        batch["labels"][i, :a] = answer
        batch["weights"][i, :a] = 1
    return batch


def pad_prompts(prompts: Sequence[np.ndarray], *, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts alone: tokens `[B, length]`, and the index of each one's last token `[B]`."""
    tokens = np.full((len(prompts), length), pad, np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
    return tokens, np.asarray([len(p) - 1 for p in prompts], np.int32)
