"""Tasks on who does what: the predicates of PropBank and their arguments.

Only verbs with a numbered argument count. OntoNotes gives few other words a predicate, later releases of PropBank give
one to nouns, adjectives and auxiliaries too; so the tasks ask for the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lorajax.data.conll2012.document import Predicate, Sentence
from lorajax.data.conll2012.entities import NONE
from lorajax.data.conll2012.passages import Passage

_NUMBERED = re.compile(r"ARG[0-9A]")


def verbs(passage: Passage) -> Iterator[tuple[Sentence, Predicate]]:
    """The verbs with a numbered argument, in the order of the text."""
    for sentence in passage.sentences:
        for predicate in sorted(sentence.predicates, key=lambda p: p.word):
            numbered = any(_NUMBERED.fullmatch(part.label) for part in predicate.arguments)
            if numbered and sentence.tags[predicate.word].startswith("VB"):
                yield sentence, predicate


def _words(sentence: Sentence, predicate: Predicate, role: str) -> str:
    """The words of a role, of all of its parts; of `V`, the verb with its particle."""
    return " ".join(sentence.text(part.start, part.end) for part in predicate.role(role))


def bare_statements(passage: Passage) -> str:
    """A sentence ARG0 VERB ARG1 ARGM-TMP for every verb that has both of the first two arguments."""
    statements = []
    for sentence, predicate in verbs(passage):
        agent, verb, patient, time = (_words(sentence, predicate, role) for role in ("ARG0", "V", "ARG1", "ARGM-TMP"))
        if agent and patient:
            statements.append(" ".join(filter(None, (agent, verb, patient, time))) + ".")
    return " ".join(statements) or NONE


def list_frames(passage: Passage) -> str:
    """`VERB(ARG0, ARG1)` for every verb that has either, with - for the other."""
    frames = []
    for sentence, predicate in verbs(passage):
        agent, verb, patient = (_words(sentence, predicate, role) for role in ("ARG0", "V", "ARG1"))
        if agent or patient:
            frames.append(f"{verb}({agent or '-'}, {patient or '-'})")
    return "; ".join(frames) or NONE


def count_verbs(passage: Passage) -> str:
    """How many verbs have an argument."""
    return str(sum(1 for _ in verbs(passage)))
