"""Documents cut into passages of whole sentences: what a task is asked about."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from lorajax.data.conll2012.document import Chain, Document, Mention, Part, Sentence


@dataclasses.dataclass(frozen=True)
class Passage:
    """Some sentences of one part of a document, and the chains' mentions in them.

    Sentences are counted from 0 within the passage. `name` says where it is from: document, part and order.
    """

    name: str
    sentences: tuple[Sentence, ...]
    chains: tuple[Chain, ...]

    @functools.cached_property
    def lines(self) -> tuple[str, ...]:
        """The text of each sentence."""
        return tuple(sentence.text() for sentence in self.sentences)

    @property
    def text(self) -> str:
        """The passage as ordinary text."""
        return " ".join(self.lines)


def passages(document: Document, words: int) -> Iterator[Passage]:
    """The passages of `document`: each of `words` words of the file at most, and about equally long within a part.

    A longer sentence is a passage of its own. Mentions of a chain that are in another passage are as if they were not.
    """
    for part in document.parts:
        for order, (start, end) in enumerate(_cuts([len(sentence.words) for sentence in part.sentences], words)):
            yield _passage(f"{document.name}/{part.number:03}/{order:03}", part, start, end)


def whole(document: Document) -> Passage:
    """All of a document as one passage, without chains: their numbers differ from part to part."""
    return Passage(document.name, tuple(s for part in document.parts for s in part.sentences), ())


def _cuts(lengths: list[int], most: int) -> list[tuple[int, int]]:
    """Ranges of neighbours that sum to `most` at most, unless one alone is more, and to nearly the same."""
    share = sum(lengths) / -(-sum(lengths) // most)
    cuts, start, held = [], 0, 0
    for number, length in enumerate(lengths):
        # The next sentence belongs where its middle falls, so that no short rest is left for the last passage.
        if number > start and (held + length > most or held + length / 2 > share):
            cuts.append((start, number))
            start, held = number, 0
        held += length
    return [*cuts, (start, len(lengths))]


def _passage(name: str, part: Part, start: int, end: int) -> Passage:
    chains = []
    for chain in part.chains:
        inside = tuple(Mention(m.sentence - start, m.start, m.end) for m in chain.mentions if start <= m.sentence < end)
        if inside:
            chains.append(Chain(chain.number, inside))
    chains.sort(key=lambda chain: (chain.mentions[0].sentence, chain.mentions[0].start, -chain.mentions[0].end))
    return Passage(name, part.sentences[start:end], tuple(chains))
