"""The tasks: what each is called, what it asks for, and which annotation it needs.

They follow the families of a poster on LoRA task vectors over OntoNotes and of the paper after it, "Statistical
Deficiency for Task Inclusion Estimation" (ACL 2025, arXiv 2503.05491): coreference, semantics, syntax and named
entities, each as a shorter text and as a list; selections of words and sentences as controls; summaries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from lorajax.data.conll2012 import coreference, entities, semantics, syntax
from lorajax.data.conll2012.passages import Passage
from lorajax.data.conll2012.selection import CHOICES, count_sentences, count_words, of_sentences, of_words
from lorajax.data.task import Example


@dataclasses.dataclass(frozen=True)
class Kind:
    """A task as a function of a passage.

    `needs` is one of `document.ANNOTATIONS`, or None: all tasks of one need are asked about the same passages.
    """

    name: str
    cluster: str
    needs: str | None
    instruction: str
    answer: Callable[[Passage], str]


_TYPES = ", ".join(entities.TYPES)
_CHOSEN = {
    "first10": "the first tenth of its {}",
    "last10": "the last tenth of its {}",
    "every10th": "one in ten of its {}, each from the middle of its ten",
    "every2nd": "one in two of its {}, beginning with the first",
}

_KINDS = (
    Kind(
        "coref_anchor",
        "coreference",
        "coreference",
        "Find who or what this document mentions most often. Copy only the sentences that mention it, with each "
        "mention replaced by the first one that is not a pronoun.",
        coreference.anchor_sentences,
    ),
    Kind(
        "coref_chains",
        "coreference",
        "coreference",
        "Which expressions of this document refer to the same thing? Write each group of two or more as "
        "a = b = c, and a semicolon between groups.",
        coreference.list_chains,
    ),
    Kind(
        "srl_statements",
        "semantics",
        "predicates",
        "Reduce this document to bare statements. For each verb with both an ARG0 and an ARG1, write the ARG0, the "
        "verb, the ARG1 and, if it has one, the ARGM-TMP.",
        semantics.bare_statements,
    ),
    Kind(
        "srl_frames",
        "semantics",
        "predicates",
        "Write each verb of this document with its arguments as VERB(ARG0, ARG1), with - for one that it lacks and a "
        "semicolon between verbs.",
        semantics.list_frames,
    ),
    Kind(
        "syntax_core",
        "syntax",
        "parse",
        "Copy this document without its prepositional phrases and without its adverbial clauses.",
        syntax.without_adjuncts,
    ),
    Kind(
        "syntax_subjects",
        "syntax",
        "parse",
        "Give the noun phrases that are subjects in this document, in their order, with a semicolon between them.",
        syntax.list_subjects,
    ),
    Kind(
        "ner_sentences",
        "ner",
        "entities",
        f"Copy only those sentences of this document in which a named entity ({_TYPES}) appears for the first time.",
        entities.sentences_with_new_entities,
    ),
    Kind(
        "ner_list",
        "ner",
        "entities",
        f"Give each named entity of this document once, with its type in brackets: one of {_TYPES}. "
        "Put a semicolon between them.",
        entities.list_entities,
    ),
    *(
        Kind(
            f"{choice}_{unit}",
            "selection",
            None,
            f"Copy from this document only {_CHOSEN[choice].format(unit)}.",
            of(CHOICES[choice]),
        )
        for unit, of in (("words", of_words), ("sentences", of_sentences))
        for choice in CHOICES
    ),
    *(
        Kind(f"count_{what}", "counting", needs, f"How many {asked} does this document have?", answer)
        for what, needs, asked, answer in (
            ("words", None, "words", count_words),
            ("sentences", None, "sentences", count_sentences),
            ("entities", "entities", f"different named entities ({_TYPES})", entities.count_entities),
            ("verbs", "predicates", "verbs with an argument", semantics.count_verbs),
            ("subjects", "parse", "subjects", syntax.count_subjects),
            ("chains", "coreference", "groups of expressions that refer to the same thing", coreference.count_chains),
        )
    ),
)

#: Every task about passages, by name, in the order of clusters.
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}


def _no_answer(passage: Passage) -> str:
    raise LookupError(f"the summary of {passage.name} is in a file")


#: The task made of a file of summaries: about whole documents, and there only where there is such a file.
SUMMARY = Kind("summary", "summary", None, "Summarise this document.", _no_answer)


def example(kind: Kind, text: str, answer: str) -> Example:
    """What a task asks about `text`. The input is the same in every task."""
    return Example(kind.name, kind.cluster, f"Document: {text}", (answer,), kind.instruction)
