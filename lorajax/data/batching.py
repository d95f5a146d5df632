"""Batches as a pure function of (seed, step): resuming needs no iterator state.

A batch is a dict of NumPy arrays, for N streams, P rows of T tokens and up to R answer tokens in a row. Only the places
whose next token is part of an answer carry a loss, so only they are listed: the head is computed for R places a row and
not for T.

    tokens   [N, P, T] int32    examples one after the other, padding on the right
    segments [N, P, T] int32    which example of its row a token belongs to, from 1; 0 is padding. Only when packed
    predict  [N, P, R] int32    places whose next token is an answer token of the same example
    labels   [N, P, R] int32    that token
    weights  [N, P, R] float32  1, or 0 for padding

Where an encoder answers by a class (`ReadRow`), `predict` is the first token's place and `labels` the class.

Packing is only a layout: a stream's batch holds the same examples with or without it, so the mean over a step's answer
tokens is the same to rounding. Programs are compiled for shapes: `plan_layouts` covers what the steps of a run need
with a handful of layouts, and as little padding as these allow.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lorajax.data.prompts import Row, Tokenized

Batch = dict[str, np.ndarray]
Rows = Sequence[Row | tuple[np.ndarray, np.ndarray]]  # examples, or prompts and answers of a decoder's


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of a batch: P rows of T tokens, of which up to R are answer tokens."""

    rows: int
    length: int
    answers: int


@dataclasses.dataclass(frozen=True)
class LayoutPlan:
    """The layouts of a run, from the smallest, and which of them each step uses."""

    layouts: tuple[Layout, ...]
    choices: tuple[int, ...]

    def at(self, step: int) -> Layout:
        """The layout of `step`, counted from 0."""
        return self.layouts[self.choices[step]]


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `length`."""
    return -(-length // multiple) * multiple


class Stream:
    """The endless training order of one adapter: shuffled epochs over its tasks' examples.

    An epoch holds `quotas[t]` examples of `sets[t]`, shuffled together (`epoch_size` in all); without quotas, every
    example once. A set has an endless shuffled order of its own and gives its next `quotas[t]` examples to each epoch,
    so all of them are met before one is met twice. The order depends on (seed, name) and on the sizes alone, and any
    step can be asked for at any time. The multi-task model's stream runs over the union of its tasks.

    Raises:
      ValueError: not one quota for each set, no sets, a set without examples or a quota below 1.
    """

    def __init__(self, name: str, sets: Sequence[Tokenized], *, seed: int, quotas: Sequence[int] | None = None):
        self._rows = [row for s in sets for row in s.rows]
        self._counts = [len(s) for s in sets]
        self._quotas = list(self._counts if quotas is None else quotas)
        if len(self._quotas) != len(sets) or min(self._quotas + self._counts, default=0) < 1:
            raise ValueError(f"stream {name!r}: quotas {self._quotas} of sets of {self._counts} examples")
        self.epoch_size = sum(self._quotas)
        self._lengths = np.asarray([row.lengths for row in self._rows], np.int32)
        self._key = (seed, zlib.crc32(name.encode()))
        # The next step mostly needs what the last one needed.
        self._epoch = functools.lru_cache(1)(self._shuffled_epoch)
        self._pass = functools.lru_cache(2 * len(sets))(self._shuffled_pass)

    def rows(self, step: int, size: int) -> list[Row]:
        """The `size` examples of batch `step`."""
        return [self._rows[i] for i in self._examples(step, size)]

    def lengths(self, step: int, size: int) -> np.ndarray:
        """Tokens of the `size` examples of batch `step`, whole and of the answer: `[size, 2]` int32."""
        return self._lengths[self._examples(step, size)]

    def _examples(self, step: int, size: int) -> np.ndarray:
        return _span(self._epoch, self.epoch_size, step * size, (step + 1) * size)

    def _shuffled_epoch(self, epoch: int) -> np.ndarray:
        parts, before = [], 0
        for t, (count, quota) in enumerate(zip(self._counts, self._quotas, strict=True)):
            parts.append(before + _span(functools.partial(self._pass, t), count, epoch * quota, (epoch + 1) * quota))
            before += count
        # Sorted before all are shuffled, so that quotas of everything give the same order as no quotas.
        chosen = np.sort(np.concatenate(parts))
        return chosen[np.random.default_rng((*self._key, epoch)).permutation(self.epoch_size)]

    def _shuffled_pass(self, t: int, number: int) -> np.ndarray:
        # t + 1, since NumPy takes (a, b, c) and (a, b, c, 0) for the same seed: passes would be shuffled as epochs are.
        return np.random.default_rng((*self._key, number, t + 1)).permutation(self._counts[t])


def plan_layouts(
    streams: Sequence[Stream],
    steps: int | Sequence[int],
    *,
    batch_size: int,
    packed: bool,
    most: int = 4,
    length_multiple: int = 8,
    row_multiple: int = 1,
) -> LayoutPlan:
    """The layouts of a run's batches: at most `most`, with the fewest padded tokens `P * T` summed over its steps.

    Unpacked, layouts differ in T, a multiple of `length_multiple`. Packed, T is that of the longest example of the run
    and they differ in P, a multiple of `row_multiple` in either case. The choice is exact. R is the largest need of a
    layout's steps, rounded up to a multiple of 8. `steps` may be one number a stream: one that is over needs nothing.

    Raises:
      ValueError: no steps, not one number of steps for each stream, or `most` below 1.
    """
    last = np.broadcast_to(steps, len(streams)).tolist()
    if most < 1 or max(last, default=0) < 1:
        raise ValueError(f"expected at least 1 layout and 1 step, found {most} and {last}")
    lengths = [s.lengths(0, n * batch_size).reshape(n, batch_size, 2) for s, n in zip(streams, last, strict=True) if n]
    longest = round_up(max(int(part[..., 0].max()) for part in lengths), length_multiple)
    needs, answers = np.zeros((2, max(last)), np.int64)
    for part in lengths:
        n, whole, sums = len(part), part[..., 0], part[..., 1]
        need = whole.max(axis=1)
        if packed:
            rows, sums = _first_fit(whole, longest), np.zeros_like(sums)
            np.add.at(sums, (np.arange(n)[:, None], rows), part[..., 1])
            need = 1 + rows.max(axis=1)
        needs[:n] = np.maximum(needs[:n], need)
        answers[:n] = np.maximum(answers[:n], sums.max(axis=1))
    multiple = row_multiple if packed else length_multiple
    needs = -(-needs // multiple) * multiple
    sizes = _cover(needs, most)
    choices = np.searchsorted(sizes, needs)
    P, layouts = round_up(batch_size, row_multiple), []
    for i, size in enumerate(sizes):
        R = round_up(int(answers[choices == i].max()), 8)
        layouts.append(Layout(size, longest, R) if packed else Layout(P, size, R))
    return LayoutPlan(tuple(layouts), tuple(choices.tolist()))


def batch_at(
    streams: Sequence[Stream],
    step: int,
    *,
    batch_size: int,
    layout: Layout,
    pad: int,
    packed: bool,
    steps: int | Sequence[int] | None = None,
    members: slice | Sequence[int] | None = None,
) -> Batch:
    """The fleet's batch of `step`: `batch_size` examples of each stream, in `layout`.

    A stream whose `steps` are over gets padding alone. `members` builds the part of these streams only, which equals
    that part of the whole batch: each of many hosts reads its own share.

    Raises:
      ValueError: the examples do not fit into `layout`, or not one number of steps for each stream.
    """
    last = np.broadcast_to(step + 1 if steps is None else steps, len(streams))
    everyone: Sequence[int] = range(len(streams))
    chosen = everyone if members is None else everyone[members] if isinstance(members, slice) else members
    sets = [streams[n].rows(step, batch_size) if step < last[n] else [] for n in chosen]
    parts = [lay_out(rows, layout, pad=pad, packed=packed) for rows in sets]
    return {key: np.stack([part[key] for part in parts]) for key in parts[0]}


def batches(
    rows: Rows, *, rows_per_batch: int, length: int, packed: bool, pad: int, answer_multiple: int = 8
) -> Iterator[Batch]:
    """All examples of a fixed list, such as a test set, in batches of one layout and without the axis N.

    Every batch has `rows_per_batch` rows of `length` tokens; R is the largest need, rounded up to a multiple of
    `answer_multiple`. Rows come in the order of `pack`; padding fills up the last batch. ValueError as in `lay_out`.
    """
    groups = _groups(rows, length, packed)
    answers = max((sum(len(row.answer) for row in group) for group in groups), default=0)
    layout = Layout(rows_per_batch, length, round_up(answers, answer_multiple))
    for start in range(0, len(groups), rows_per_batch):
        yield _fill(groups[start : start + rows_per_batch], layout, pad=pad, packed=packed)


def lay_out(rows: Rows, layout: Layout, *, pad: int, packed: bool) -> Batch:
    """Examples as the arrays of one stream, `[P, ...]`: one in each row, or packed. Unused rows are padding.

    Raises:
      ValueError: they do not fit into `layout`, or a prompt is empty, so that nothing precedes its answer.
    """
    return _fill(_groups(rows, layout.length, packed), layout, pad=pad, packed=packed)


def pack(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Which examples share a row of `length` tokens: first-fit decreasing.

    The longest come first, equal ones in the order given, each into the first row that has room. Rows are in the order
    in which they were opened; the examples of a row are in the order given.

    Raises:
      ValueError: an example is longer than a row.
    """
    if len(lengths) and max(lengths) > length:
        raise ValueError(f"an example of {max(lengths)} tokens does not fit into rows of {length}")
    groups: list[list[int]] = []
    for i, row in enumerate(_first_fit(np.asarray(lengths, np.int32)[None], length)[0]):
        groups.extend([] for _ in range(row + 1 - len(groups)))
        groups[row].append(i)
    return groups


def pad_prompts(prompts: Sequence[np.ndarray], *, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts alone: tokens `[B, length]`, and the index of each one's last token `[B]`."""
    tokens = np.full((len(prompts), length), pad, np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
    return tokens, np.asarray([len(p) - 1 for p in prompts], np.int32)


def _span(block: Callable[[int], np.ndarray], size: int, first: int, last: int) -> np.ndarray:
    """The positions `first` to `last` of an endless order, which is one block of `size` after another."""
    begin = first // size
    joined = np.concatenate([block(number) for number in range(begin, -(-last // size))])
    return joined[first - begin * size : last - begin * size]


def _first_fit(lengths: np.ndarray, length: int) -> np.ndarray:
    """The row of each example when every batch of `lengths` `[M, B]` is packed by itself: `[M, B]`."""
    M, B = lengths.shape
    order, every = np.argsort(-lengths, axis=1, kind="stable"), np.arange(M)
    free, rows, opened = np.full((M, B), length, np.int32), np.zeros((M, B), np.int64), 0
    for example in order.T:
        taken = lengths[every, example]
        # In the row after those opened in any batch there is always room.
        row = np.argmax(free[:, : opened + 1] >= taken[:, None], axis=1)
        free[every, row] -= taken
        rows[every, example] = row
        opened = max(opened, 1 + int(row.max()))
    return rows


def _cover(needs: np.ndarray, most: int) -> list[int]:
    """At most `most` of the values of `needs`, such that rounding each need up to one of them adds least in sum."""
    values, counts = np.unique(needs, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    # group[i, j]: the sum when one value covers those from i up to, not including, j.
    group = np.concatenate([[0.0], values]) * (before - before[:, None])
    group[np.tril_indices(len(before))] = np.inf
    # best[j]: the least sum over the first j values; one more group is used in each round.
    best, cuts = np.where(before == 0, 0.0, np.inf), []
    for _ in range(min(most, len(values))):
        sums = best[:, None] + group
        cuts.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    ends = [len(values)]
    for cut in cuts[:0:-1]:
        ends.append(int(cut[ends[-1]]))
    return [int(values[end - 1]) for end in reversed(ends)]


def _groups(rows: Rows, length: int, packed: bool) -> list[list[Row]]:
    each = [row if isinstance(row, Row) else Row(*row) for row in rows]
    numbers = pack([row.lengths[0] for row in each], length) if packed else [[i] for i in range(len(each))]
    return [[each[i] for i in group] for group in numbers]


def _fill(groups: Sequence[Sequence[Row]], layout: Layout, *, pad: int, packed: bool) -> Batch:
    if len(groups) > layout.rows:
        raise ValueError(f"{len(groups)} rows of examples do not fit into {layout}")
    tokens = np.full((layout.rows, layout.length), pad, np.int32)
    segments = np.zeros_like(tokens)
    predict, labels = np.zeros((2, layout.rows, layout.answers), np.int32)
    weights = np.zeros((layout.rows, layout.answers), np.float32)
    for r, group in enumerate(groups):
        end = answered = 0
        for number, row in enumerate(group, 1):
            if not len(row.prompt):
                raise ValueError("an example has an empty prompt: nothing precedes its answer")
            start, known = end, answered
            end, answered = start + row.lengths[0], answered + row.lengths[1]
            if end > layout.length or answered > layout.answers:
                raise ValueError(f"a row of {end} tokens, {answered} of them answers, does not fit into {layout}")
            tokens[r, start:end], segments[r, start:end] = row.tokens, number
            predict[r, known:answered], labels[r, known:answered] = start + row.places, row.answer
        weights[r, :answered] = 1
    batch = {"tokens": tokens, "predict": predict, "labels": labels, "weights": weights}
    return batch | {"segments": segments} if packed else batch
