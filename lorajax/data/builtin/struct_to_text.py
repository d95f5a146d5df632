"""Structured data to text: a record or a few triples, told in a sentence or two.

All records are made up. The first target follows one fixed wording; the others say the same in another order.
"""

from __future__ import annotations

import random

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, WEEKDAYS, in_a_row, sentence_case, she_or_he

COLOURS = ("Golden", "Silver", "Copper", "Blue", "Green", "Red", "White", "Black", "Old", "Little", "Happy", "Quiet")
SIGNS = ("Fox", "Anchor", "Lantern", "Kettle", "Heron", "Rose", "Lion", "Mill", "Spoon", "Olive", "Harbour", "Bell")
FOODS = ("Thai", "Greek", "Mexican", "Lebanese", "French", "Korean", "Peruvian", "Turkish", "Vietnamese", "Moroccan")
PRICES = ("cheap", "mid-priced", "high-priced")
QUARTERS = ("near the harbour", "in the old town", "by the river", "beside the station", "on the market square")


@task(
    "restaurant_record",
    cluster="struct_to_text",
    phrasings=(
        "Describe the restaurant in one sentence.",
        "Turn the record into a sentence.",
        "Write a sentence that contains all of these data.",
        "Put the listing into words.",
    ),
)
def restaurant_record(rng: random.Random) -> Draft:
    """Tell the record of a restaurant in one sentence."""
    name = f"The {rng.choice(COLOURS)} {rng.choice(SIGNS)}"
    food, price, where = rng.choice(FOODS), rng.choice(PRICES), rng.choice(QUARTERS)
    family = rng.choice((None, "yes", "no"))
    record = [f"food = {food}", f"price = {price.removesuffix('-priced')}", f"place = {where}"]
    welcome = ""
    if family:
        record.append(f"families = {family}")
        welcome = " and welcomes families" if family == "yes" else " and does not welcome families"
    rng.shuffle(record)
    return draft(
        "; ".join([f"name = {name}", *record]),
        f"{name} is a {price} {food} restaurant {where}{welcome}.",
        f"{sentence_case(where)}, {name} is a {price} {food} restaurant{welcome}.",
        f"{name}, {where}, is a {price} {food} restaurant{welcome}.",
    )


TOWNS = (
    "Alder Bay",
    "Brackwater",
    "Coldharbour",
    "Dunmore",
    "Eastwick",
    "Fernhill",
    "Greyport",
    "Highmoor",
    "Millford",
)
SKIES = ("sunny", "cloudy", "rainy", "foggy", "snowy", "stormy", "overcast")
WINDS = ("a light", "a fresh", "a strong")
DIRECTIONS = ("northern", "southern", "eastern", "western")
SKY_RANGE = {"snowy": (-12, 1), "sunny": (8, 34), "foggy": (0, 12)}  # degrees Celsius; otherwise:
USUAL_RANGE = (3, 24)


@task(
    "weather_record",
    cluster="struct_to_text",
    phrasings=(
        "Write the weather forecast for these data.",
        "Tell this weather record in one sentence.",
        "Say in words what the record says.",
        "Read the data out as a radio announcer would.",
    ),
)
def weather_record(rng: random.Random) -> Draft:
    """Tell a weather record as a forecast."""
    town, day, sky = rng.choice(TOWNS), rng.choice(WEEKDAYS), rng.choice(SKIES)
    low, high = sorted(rng.sample(range(*SKY_RANGE.get(sky, USUAL_RANGE)), 2))
    record = f"{town} | {day} | {sky} | low {low} | high {high}"
    forecast = f"it will be {sky} in {town}, with temperatures between {low} and {high} degrees"
    if sky != "foggy" and rng.random() < 0.6:
        strength, direction = rng.choice(WINDS[-1:] if sky == "stormy" else WINDS), rng.choice(DIRECTIONS)
        record += f" | wind {strength.split()[1]}, {direction}"
        forecast += f" and {strength} {direction} wind"
    return draft(record, f"On {day} {forecast}.", f"{sentence_case(forecast)} on {day}.")


JOBS = ("an architect", "a chemist", "a dentist", "an engineer", "a lawyer", "a painter", "a pilot", "an actor")
HOMES = (
    "Alder Bay",
    "Brackwater",
    "Dunmore",
    "Eastwick",
    "Greyport",
    "Highmoor",
    "Millford",
    "Northgate",
    "Stonebridge",
)
PETS = ("a cat", "a parrot", "two dogs", "an old horse", "three hens")
PASTIMES = ("chess", "tennis", "the cello", "football", "the piano", "cards", "the trumpet")
FAMILY_NAMES = (
    "Aldous",
    "Berg",
    "Castro",
    "Demir",
    "Eriksen",
    "Fontana",
    "Grant",
    "Haddad",
    "Ivanov",
    "Jansen",
    "Okoro",
)


@task(
    "person_triples",
    cluster="struct_to_text",
    phrasings=(
        "Turn the facts into one or two sentences.",
        "Write a short text that states all of the facts.",
        "Introduce the person described by these triples.",
        "Express the triples in plain English.",
    ),
)
def person_triples(rng: random.Random) -> Draft:
    """Introduce a person described by subject-relation-object triples."""
    person = rng.choice(PEOPLE)
    name = f"{person} {rng.choice(FAMILY_NAMES)}"
    job, home, pet, game = rng.choice(JOBS), rng.choice(HOMES), rng.choice(PETS), rng.choice(PASTIMES)
    triples = [f"({name}, job, {job.split()[1]})", f"({name}, lives in, {home})"]
    extras = rng.sample((("owns", pet), ("plays", game)), rng.randint(1, 2))
    triples += [f"({name}, {relation}, {thing})" for relation, thing in extras]
    rest = in_a_row([f"{relation} {thing}" for relation, thing in extras])
    rng.shuffle(triples)
    return draft(
        " ".join(triples),
        f"{name} is {job} who lives in {home}. {sentence_case(she_or_he(person))} {rest}.",
        f"{name}, {job} from {home}, {rest}.",
        f"{name} lives in {home} and works as {job}. {sentence_case(she_or_he(person))} {rest}.",
    )
