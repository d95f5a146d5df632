"""The bracketed columns of a sentence: `(LABEL*)` in parse bits, arguments and entities; `(12|3)` in coreference."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from lorajax.errors import LorajaxError

#: "file:line" of a word of the sentence.
Where = Callable[[int], str]


class Labelled(NamedTuple):
    """Words of a sentence with a label: an argument (`ARG0`) or a named entity (`PERSON`)."""

    label: str
    start: int
    end: int


_BIT = re.compile(r"((?:\([^()*]+)*)\*(\)*)")
_REFERENCE = re.compile(r"(\()?([0-9]{1,9})(\))?")


def brackets(column: Sequence[str], kind: str, where: Where) -> Iterator[tuple[list[str], int]]:
    """For each word the labels that open before it and the number that close after it, all of which balance."""
    opened: list[tuple[str, int]] = []
    for word, bit in enumerate(column):
        if bit == "*":  # most are
            yield [], 0
            continue
        match = _BIT.fullmatch(bit)
        if not match:
            raise LorajaxError(f"{where(word)}: {kind} {bit!r}; expected brackets around one star, such as (NP*)")
        labels, closed = match[1].split("(")[1:], len(match[2])
        opened += [(label, word) for label in labels]
        if closed > len(opened):
            raise LorajaxError(f"{where(word)}: {kind} {bit!r} closes {closed} brackets, but {len(opened)} are open")
        del opened[len(opened) - closed :]
        yield labels, closed
    if opened:
        label, word = opened[-1]
        raise LorajaxError(f"{where(word)}: {kind} ({label}* is not closed by the end of its sentence")


def labelled(column: Sequence[str], kind: str, where: Where) -> tuple[Labelled, ...]:
    """The labelled spans of a column, in the order in which they open; none where it is all `-`.

    Raises:
      LorajaxError: what is no bracket, or brackets that do not balance within the sentence.
    """
    if set(column) == {"-"}:
        return ()
    spans: list[Labelled] = []
    opened: list[int] = []
    for word, (labels, closed) in enumerate(brackets(column, kind, where)):
        for label in labels:
            opened.append(len(spans))
            spans.append(Labelled(label, word, word))
        for _ in range(closed):
            number = opened.pop()
            spans[number] = spans[number]._replace(end=word + 1)
    return tuple(spans)


def references(column: Sequence[str], where: Where) -> list[tuple[int, int, int]]:
    """The mentions of a sentence as (chain, start, end), in the order in which they open.

    Chains may cross each other; of one chain, the mention that was opened last is closed first.

    Raises:
      LorajaxError: what is no reference, or a mention that is closed and not open, or not closed.
    """
    mentions: list[tuple[int, int, int]] = []
    opened: dict[int, list[int]] = {}
    for word, entry in enumerate(column):
        for item in entry.split("|") if entry != "-" else ():
            match = _REFERENCE.fullmatch(item)
            if not match or not (match[1] or match[3]):
                raise LorajaxError(
                    f"{where(word)}: coreference {entry!r}; expected - or parts such as (12, 12) and (12) joined by |"
                )
            chain = int(match[2])
            if match[1]:
                opened.setdefault(chain, []).append(len(mentions))
                mentions.append((chain, word, word))
            if match[3]:
                if not opened.get(chain):
                    raise LorajaxError(f"{where(word)}: coreference {entry!r} closes chain {chain}, which is not open")
                number = opened[chain].pop()
                mentions[number] = (chain, mentions[number][1], word + 1)
    for chain, left in opened.items():
        if left:
            start = mentions[left[-1]][1]
            raise LorajaxError(f"{where(start)}: coreference ({chain} is not closed by the end of its sentence")
    return mentions
