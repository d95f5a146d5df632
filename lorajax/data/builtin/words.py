"""Words that several tasks share: first names with their pronouns, and small helpers for English sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence

WOMEN = (
    "Ada", "Amina", "Beatriz", "Carla", "Clara", "Dina", "Elena", "Farah", "Greta", "Hana", "Ines", "Julia",
    "Karin", "Leila", "Maria", "Nadia", "Olga", "Paula", "Rosa", "Sara", "Tanja", "Vera", "Wanda", "Yuki",
)  # fmt: skip
MEN = (
    "Adam", "Ben", "Carlos", "Daniel", "Emil", "Felix", "George", "Hugo", "Ivan", "Jonas", "Karim", "Leo",
    "Marco", "Nico", "Oscar", "Pavel", "Rafael", "Samir", "Tom", "Umar", "Viktor", "Walter", "Yusuf", "Zoltan",
)  # fmt: skip
PEOPLE = tuple(sorted(WOMEN + MEN))

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SMALL_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")


def she_or_he(name: str) -> str:
    """The subject pronoun for one of `PEOPLE`."""
    return "she" if name in WOMEN else "he"


def her_or_him(name: str) -> str:
    """The object pronoun for one of `PEOPLE`."""
    return "her" if name in WOMEN else "him"


def her_or_his(name: str) -> str:
    """The possessive for one of `PEOPLE`."""
    return "her" if name in WOMEN else "his"


def alike(rng: random.Random, count: int) -> list[str]:
    """Different people for whom the same pronoun is used."""
    return rng.sample(rng.choice((WOMEN, MEN)), count)


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case (and the others left alone)."""
    return text[:1].upper() + text[1:]


def in_a_row(items: Sequence[str], last: str = "and") -> str:
    """'a', 'a and b' or 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"
