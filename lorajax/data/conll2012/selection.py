"""Parts of a text chosen by their place alone: the controls, which need no annotation. And how much there is of it.

Words are what spaces separate in the text, since that is what the model is shown; in the file "n't" is a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorajax.data.conll2012.passages import Passage

#: What is chosen of a sequence.
Choice = Callable[[Sequence[str]], Sequence[str]]


def _tenth(items: Sequence[str]) -> int:
    """A tenth of the number of `items`, rounded, and at least one."""
    return max(1, (len(items) + 5) // 10)


def _middle_of_tens(items: Sequence[str]) -> list[str]:
    """The fifth of every ten `items`, and the middle one of those left over.

    To begin with the first would be `first10` again in texts of less than fifteen sentences.
    """
    tens = [items[start : start + 10] for start in range(0, len(items), 10)]
    return [ten[(len(ten) - 1) // 2] for ten in tens]


#: The choices, by name.
CHOICES: dict[str, Choice] = {
    "first10": lambda items: items[: _tenth(items)],
    "last10": lambda items: items[-_tenth(items) :],
    "every10th": _middle_of_tens,
    "every2nd": lambda items: items[::2],
}


def of_words(choice: Choice) -> Callable[[Passage], str]:
    """The task that chooses words."""
    return lambda passage: " ".join(choice(passage.text.split()))


def of_sentences(choice: Choice) -> Callable[[Passage], str]:
    """The task that chooses sentences."""
    return lambda passage: " ".join(choice(passage.lines))


def count_words(passage: Passage) -> str:
    """How many words the text has."""
    return str(len(passage.text.split()))


def count_sentences(passage: Passage) -> str:
    """How many sentences the file has for the text."""
    return str(len(passage.sentences))
