"""What a `*_gold_conll` file says: documents of sentences, with words, constituents, predicates, entities and chains.

Words are counted from 0 within their sentence, sentences from 0 within their document; an `end` is one past the last
word, as in a slice.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

from lorajax.data.conll2012.columns import Labelled
from lorajax.data.conll2012.detokenize import detokenize
from lorajax.data.conll2012.tree import Node


class Mention(NamedTuple):
    """Words of a document that refer to something."""

    sentence: int
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Chain:
    """The mentions of one thing, in the order in which they begin; an outer one before one inside it."""

    number: int
    mentions: tuple[Mention, ...]


@dataclasses.dataclass(frozen=True)
class Predicate:
    """A word with its roles. `arguments` has all labels of its column, `V` (the word itself) and `C-V` too."""

    word: int
    lemma: str
    frameset: str
    arguments: tuple[Labelled, ...]

    def role(self, label: str) -> tuple[Labelled, ...]:
        """The parts of one argument: those called `label` and their continuations `C-label`."""
        return tuple(part for part in self.arguments if part.label in (label, f"C-{label}"))


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence with its annotation; `tree` is None where the file has no brackets at all. `line` is its first."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    tree: Node | None
    predicates: tuple[Predicate, ...]
    entities: tuple[Labelled, ...]
    line: int

    def text(self, start: int = 0, end: int | None = None) -> str:
        """Words `[start, end)` as ordinary text."""
        return detokenize(self.words[start:end], self.tags[start:end])


@dataclasses.dataclass(frozen=True)
class Part:
    """One `#begin document` block. Its chains' numbers mean nothing outside it."""

    number: int
    sentences: tuple[Sentence, ...]
    chains: tuple[Chain, ...]


def _is_parsed(tree: Node | None) -> bool:
    """Whether a tree says anything: `(TOP* ... *)` alone stands for a missing one."""
    return tree is not None and (tree.label != "TOP" or any(isinstance(child, Node) for child in tree.children))


#: The kinds of annotation, by the name that messages use.
ANNOTATIONS = ("parse", "predicates", "entities", "coreference")


@dataclasses.dataclass(frozen=True)
class Document:
    """All parts of a document, and the file and line where it begins."""

    name: str
    parts: tuple[Part, ...]
    file: Path
    line: int

    @functools.cached_property
    def annotations(self) -> frozenset[str]:
        """Those of ANNOTATIONS that are in the document.

        The format marks an annotation that was never made as it marks one that found nothing (`-` or `*` in every row),
        so a document without a single entity counts as one without that annotation.
        """
        sentences = [sentence for part in self.parts for sentence in part.sentences]
        found = {
            "parse": any(_is_parsed(s.tree) for s in sentences),
            "predicates": any(s.predicates for s in sentences),
            "entities": any(s.entities for s in sentences),
            "coreference": any(part.chains for part in self.parts),
        }
        return frozenset(kind for kind, is_there in found.items() if is_there)
