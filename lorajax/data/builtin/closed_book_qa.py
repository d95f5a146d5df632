"""Questions to be answered from memory: capitals, cities, continents, currencies.

The facts are those of `facts.py`. No country (or city) that is asked about in training is asked about in the test.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.facts import (
    CONTINENTS,
    City,
    Country,
    cities,
    currencies,
    on_one_continent,
    with_telling_capital,
)
from lorajax.data.builtin.words import PEOPLE, WEEKDAYS

PHRASINGS = (
    "Answer the question.",
    "Answer from what you know of the world.",
    "Here is a question about geography.",
    "What is the right answer?",
    "Give a short answer.",
)


@task("capital_city", cluster="closed_book_qa", phrasings=PHRASINGS, pool=with_telling_capital)
def capital_city(rng: random.Random, known: Sequence[Country]) -> Draft:
    """Name the capital of a country."""
    country, name, day = rng.choice(known), rng.choice(PEOPLE), rng.choice(WEEKDAYS)
    question = rng.choice(
        (
            f"What is the capital of {country.name}?",
            f"Which city is the capital of {country.name}?",
            f"{name} is flying to the capital of {country.name} on {day}. Which city is {name} flying to?",
            f"{name} was born in the capital of {country.name}. In which city was {name} born?",
            f"Every {day} {name} calls an aunt in the capital of {country.name}. In which city does the aunt live?",
        )
    )
    return draft(question, country.capital)


@task("city_country", cluster="closed_book_qa", phrasings=PHRASINGS, pool=cities)
def city_country(rng: random.Random, known: Sequence[City]) -> Draft:
    """Name the country in which a large city lies."""
    city, name, month = rng.choice(known), rng.choice(PEOPLE), rng.choice(("April", "June", "August", "October"))
    question = rng.choice(
        (
            f"In which country is the city of {city.name}?",
            f"{city.name} is a large city. Which country does it belong to?",
            f"{name} spent {month} in {city.name}. Which country did {name} visit?",
            f"{name} has moved to {city.name}. In which country does {name} live now?",
        )
    )
    return draft(question, city.country.name, city.country.name.removeprefix("the "))


@task(
    "country_continent",
    cluster="closed_book_qa",
    phrasings=PHRASINGS,
    labels=tuple(CONTINENTS.values()),
    pool=on_one_continent,
    group=lambda country: country.continent,
)
def country_continent(rng: random.Random, known: Sequence[Country]) -> Draft:
    """Name the continent on which a country, given by its name or its capital, lies."""
    code = rng.choice(sorted(CONTINENTS))
    country = rng.choice([country for country in known if country.continent == code])
    name, day = rng.choice(PEOPLE), rng.choice(WEEKDAYS)
    question = rng.choice(
        (
            f"Which continent is {country.name} part of?",
            f"{name} has a friend from {country.name}. From which continent does the friend come?",
            f"On {day} {name} leaves for {country.name}. Which continent is that on?",
            f"{name} is drawing a map with {country.name} in the middle. Which continent is {name} drawing?",
            f"A parcel from {country.capital} in {country.name} reached {name} on {day}. Which continent is it from?",
        )
    )
    return draft(question, CONTINENTS[code])


@task("country_currency", cluster="closed_book_qa", phrasings=PHRASINGS, pool=currencies)
def country_currency(rng: random.Random, known: Sequence[tuple[Country, str]]) -> Draft:
    """Choose the kind of money (dollar, krone, taka, ...) with which one pays in a country."""
    # The currency first: nearly every fifth country uses the euro.
    currency = rng.choice(sorted({currency for _, currency in known}))
    country = rng.choice([country for country, used in known if used == currency])
    others = rng.sample(sorted({other for _, other in currencies() if other != currency}), 3)
    name, thing = rng.choice(PEOPLE), rng.choice(("a coffee", "a bus ticket", "an umbrella", "a newspaper", "lunch"))
    question = rng.choice(
        (
            f"Which currency is used in {country.name}?",
            f"{name} buys {thing} in {country.name}. In which currency is it paid for?",
            f"Before a trip to {country.name}, {name} goes to the bank. Which money should {name} ask for?",
            f"In which currency would {name} earn a salary in {country.name}?",
        )
    )
    return draft(question, currency, options=rng.sample([currency, *others], 4))
