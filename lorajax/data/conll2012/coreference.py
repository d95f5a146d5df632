"""Tasks on what the expressions of a text refer to. Of a chain, those mentions count that are in the passage."""

from __future__ import annotations

from lorajax.data.conll2012.detokenize import detokenize
from lorajax.data.conll2012.document import Chain, Mention, Sentence
from lorajax.data.conll2012.entities import NONE
from lorajax.data.conll2012.passages import Passage

#: Part-of-speech tags of words that refer without describing.
PRONOUNS = frozenset({"PRP", "PRP$", "WP", "WP$", "WDT", "DT", "EX"})
_POSSESSIVE = frozenset({"PRP$", "WP$", "POS"})
#: Tags of words that have a capital only where they begin a sentence.
_LOWERED = PRONOUNS | {"PDT", "CD", "JJ", "JJR", "JJS", "NN", "NNS", "VBG"}


def _groups(passage: Passage) -> list[Chain]:
    """The chains with two mentions or more in the passage."""
    return [chain for chain in passage.chains if len(chain.mentions) > 1]


def _outermost(chain: Chain) -> list[Mention]:
    """The mentions of a chain without those inside another one ("his" in "the man and his dog", of the man)."""
    kept: list[Mention] = []
    for mention in chain.mentions:  # in the order in which they begin, outer ones first
        if not (kept and kept[-1].sentence == mention.sentence and mention.start < kept[-1].end):
            kept.append(mention)
    return kept


def _described(passage: Passage, chain: Chain) -> Mention | None:
    """The anchor of a chain: its first mention that is no pronoun."""
    for mention in chain.mentions:
        number, start, end = mention
        if not PRONOUNS.issuperset(passage.sentences[number].tags[start:end]):
            return mention
    return None


def _name(sentence: Sentence, anchor: Mention) -> tuple[str, str]:
    """The anchor's text, without a possessive 's, as it is within a sentence; and what its possessive ends in."""
    _, start, end = anchor
    if end - start > 1 and sentence.tags[end - 1] == "POS":
        end -= 1
    ending = "'" if sentence.tags[end - 1] in ("NNS", "NNPS") else "'s"
    text = sentence.text(start, end)
    lowers = start == 0 and sentence.tags[0] in _LOWERED
    return (text[0].lower() + text[1:] if lowers else text), ending


def _replaced(sentence: Sentence, mentions: list[Mention], name: str, ending: str) -> str:
    """The text of `sentence` with `name` in the place of each mention; none of these is inside another.

    A possessive mention becomes `name` with `ending`.
    """
    words: list[str] = []
    tags: list[str] = []
    done = 0
    for _, start, end in mentions:
        words += [*sentence.words[done:start], name if start else name[0].upper() + name[1:]]
        tags += [*sentence.tags[done:start], "NNP"]
        if sentence.tags[end - 1] in _POSSESSIVE:
            words.append(ending)
            tags.append("POS")
        done = end
    return detokenize([*words, *sentence.words[done:]], [*tags, *sentence.tags[done:]])


def anchor_sentences(passage: Passage) -> str:
    """The sentences that mention what is mentioned most, with every mention replaced by its anchor.

    Of equally long chains the first is taken. One of pronouns alone has no anchor: its sentences stay as they are.
    """
    groups = _groups(passage)
    if not groups:
        return NONE
    chain = max(groups, key=lambda chain: len(chain.mentions))
    told: dict[int, list[Mention]] = {}
    for mention in _outermost(chain):
        told.setdefault(mention.sentence, []).append(mention)
    anchor = _described(passage, chain)
    if anchor is None:
        return " ".join(passage.lines[number] for number in told)
    name, ending = _name(passage.sentences[anchor.sentence], anchor)
    return " ".join(_replaced(passage.sentences[number], mentions, name, ending) for number, mentions in told.items())


def list_chains(passage: Passage) -> str:
    """Every chain as its mentions, in order: `the old bridge = it = its; Ada = she`."""
    chains = [
        " = ".join(passage.sentences[number].text(start, end) for number, start, end in chain.mentions)
        for chain in _groups(passage)
    ]
    return "; ".join(chains) or NONE


def count_chains(passage: Passage) -> str:
    """How many chains there are."""
    return str(len(_groups(passage)))
