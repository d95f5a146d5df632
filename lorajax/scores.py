"""How good a generated answer is: exact match, strict match and ROUGE-L, each from 0 to 1, on plain strings.

An answer is compared with every accepted reference, and the best of these counts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is one of the references after `normalize`, else 0 (SQuAD: Rajpurkar et al., 2016).

    Raises:
      ValueError: no references.
    """
    return max(float(normalize(prediction) == normalize(reference)) for reference in references)


def strict_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is one of the references but for white space around it, else 0.

    Raises:
      ValueError: no references.
    """
    return max(float(prediction.strip() == reference.strip()) for reference in references)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L (Lin, 2004) of whole texts: the F-measure of the longest common subsequence of their words.

    Precision is its length over the number of words of the prediction, recall over that of the reference, and both
    weigh the same (beta 1). Words are those of `words`, without stemming. 0 if nothing is common, also where a text has
    no words: answers in other scripts than the Latin one are not measured by it.

    Raises:
      ValueError: no references.
    """
    return max(_f_measure(words(prediction), words(reference)) for reference in references)


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation, without the words a, an and the, with single spaces: as SQuAD compares."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def words(text: str) -> list[str]:
    """The runs of a to z and 0 to 9 in the lower-case text, as Google's rouge_score cuts it."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _f_measure(prediction: Sequence[str], reference: Sequence[str]) -> float:
    common = _common_subsequence(prediction, reference)
    # 2 P R / (P + R) with P = common / len(prediction) and R = common / len(reference).
    return 2 * common / (len(prediction) + len(reference)) if common else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the usual table at a time, as the bits of one number.

    Bit i of `steps` is 0 where the row's length grows from the first i to the first i + 1 words of `a` (Hyyrö, 2004,
    "Bit-parallel LCS-length computation revisited").
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    steps = every
    for word in b:
        matched = steps & places.get(word, 0)
        steps = (steps + matched) | (steps - matched)
    return len(a) - (steps & every).bit_count()
