"""Tasks on named entities of eight types; the others of OntoNotes (dates, amounts, numbers, ...) are passed over."""

from __future__ import annotations

from lorajax.data.conll2012.passages import Passage

TYPES = ("EVENT", "FAC", "GPE", "LOC", "ORG", "PERSON", "PRODUCT", "WORK_OF_ART")

#: What a task answers when a passage has nothing of what it asks for.
NONE = "none"


def _new(passage: Passage) -> list[list[tuple[str, str]]]:
    """For each sentence the entities, as (text, type), that no sentence before it names, and it only once."""
    seen: set[tuple[str, str]] = set()
    found = []
    for sentence in passage.sentences:
        named = [(sentence.text(e.start, e.end), e.label) for e in sentence.entities if e.label in TYPES]
        fresh = [entity for entity in dict.fromkeys(named) if entity not in seen]
        seen.update(fresh)
        found.append(fresh)
    return found


def sentences_with_new_entities(passage: Passage) -> str:
    """The sentences that name an entity no sentence before them names."""
    kept = [line for line, fresh in zip(passage.lines, _new(passage), strict=True) if fresh]
    return " ".join(kept) or NONE


def list_entities(passage: Passage) -> str:
    """Every entity once, with its type: `Paris (GPE); Ada Lovelace (PERSON)`."""
    return "; ".join(f"{text} ({label})" for fresh in _new(passage) for text, label in fresh) or NONE


def count_entities(passage: Passage) -> str:
    """How many different entities there are."""
    return str(sum(map(len, _new(passage))))
