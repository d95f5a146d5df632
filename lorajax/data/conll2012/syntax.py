"""Tasks on constituents: what is left without the adjuncts, and the subjects.

Where the trees have function tags (`NP-SBJ`, `SBAR-TMP`), these decide. The official release of CoNLL-2012 took them
out. Then

* a subject is the last NP before the first VP of the same clause (S, SQ, SINV, SBARQ): so those of inverted clauses
  without a VP ("Is it true?") are missed;
* an adverbial clause is an SBAR in a clause or in a VP that a subordinating word begins other than those of complements
  (that, whether, for, than, like): so "he asked if ..." counts as one, and one that "so that" begins too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lorajax.data.conll2012.detokenize import detokenize
from lorajax.data.conll2012.document import Sentence
from lorajax.data.conll2012.entities import NONE
from lorajax.data.conll2012.passages import Passage
from lorajax.data.conll2012.tree import Node

CLAUSES = frozenset({"S", "SQ", "SINV", "SBARQ"})
ADVERBIAL = frozenset({"ADV", "TMP", "LOC", "PRP", "MNR", "DIR", "EXT", "CND"})
_COMPLEMENTS = frozenset({"that", "whether", "for", "than", "like"})
_ADVERBIAL_WH = frozenset({"when", "whenever", "where", "wherever", "while"})
_WORD = re.compile(r"\w")


def has_functions(passage: Passage) -> bool:
    """Whether any constituent of the passage has a function tag."""
    return any(node.functions for s in passage.sentences if s.tree for node in s.tree.nodes())


def _constituents(node: Node) -> list[Node]:
    return [child for child in node.children if isinstance(child, Node)]


def subjects(tree: Node, *, tagged: bool) -> Iterator[Node]:
    """The subjects of a tree, outer clauses first."""
    for node in tree.nodes():
        if tagged:
            if "SBJ" in node.functions:
                yield node
        elif node.category in CLAUSES:
            children = _constituents(node)
            verb = next((i for i, child in enumerate(children) if child.category == "VP"), 0)
            before = [child for child in children[:verb] if child.category == "NP"]
            yield from before[-1:]


def _introduced(clause: Node, sentence: Sentence) -> str:
    """The word that subordinates a clause: its own preposition, or the one wh-word at its beginning; else nothing."""
    for child in clause.children:
        if isinstance(child, int):
            if sentence.tags[child] == "IN":
                return sentence.words[child].lower()
        elif child.category == "WHADVP":
            return sentence.words[child.start].lower() if child.end == child.start + 1 else ""
    return ""


def is_adverbial(node: Node, parent: Node, sentence: Sentence, *, tagged: bool) -> bool:
    """Whether a constituent is an adverbial clause."""
    if node.category != "SBAR":
        return False
    if tagged:
        return bool(node.functions & ADVERBIAL)
    if parent.category not in CLAUSES | {"VP"}:
        return False
    word = _introduced(node, sentence)
    wh = any(isinstance(child, Node) and child.category == "WHADVP" for child in node.children)
    return word in _ADVERBIAL_WH if wh else bool(word) and word not in _COMPLEMENTS


def kept_words(tree: Node, sentence: Sentence, *, tagged: bool) -> list[int]:
    """The numbers of the words that are in no prepositional phrase and in no adverbial clause."""
    kept: list[int] = []
    for child in tree.children:
        if isinstance(child, int):
            kept.append(child)
        elif child.category != "PP" and not is_adverbial(child, tree, sentence, tagged=tagged):
            kept += kept_words(child, sentence, tagged=tagged)
    return kept


def _tidy(words: list[int], sentence: Sentence) -> list[int]:
    """Without the commas and conjunctions that nothing is left to part, and without empty brackets."""
    kept: list[int] = []
    for word in words:
        tag, before = sentence.tags[word], sentence.tags[kept[-1]] if kept else ","
        while tag in {",", ".", ":", "-RRB-"} and kept and before in {",", "CC"}:
            kept.pop()
            before = sentence.tags[kept[-1]] if kept else ","
        if tag == "-RRB-" and before == "-LRB-":
            kept.pop()
        elif tag != "," or before not in {",", "-LRB-"}:
            kept.append(word)
    return kept


def without_adjuncts(passage: Passage) -> str:
    """The passage without prepositional phrases and adverbial clauses; sentences of which no word is left are gone."""
    tagged, lines = has_functions(passage), []
    for sentence in passage.sentences:
        if sentence.tree is None:
            continue
        kept = _tidy(kept_words(sentence.tree, sentence, tagged=tagged), sentence)
        text = detokenize([sentence.words[i] for i in kept], [sentence.tags[i] for i in kept])
        if _WORD.search(text):
            lines.append(text[0].upper() + text[1:])
    return " ".join(lines) or NONE


def _subjects(passage: Passage) -> list[str]:
    tagged, found = has_functions(passage), []
    for sentence in passage.sentences:
        if sentence.tree is not None:
            nodes = sorted(subjects(sentence.tree, tagged=tagged), key=lambda node: (node.start, -node.end))
            found += [sentence.text(node.start, node.end) for node in nodes]
    return found


def list_subjects(passage: Passage) -> str:
    """The subjects in the order of the text, each as often as it is one."""
    return "; ".join(_subjects(passage)) or NONE


def count_subjects(passage: Passage) -> str:
    """How many subjects there are."""
    return str(len(_subjects(passage)))
