"""Natural language inference: does the second statement follow from the first?"""

from __future__ import annotations

import random

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE

YES, NO, OPEN = LABELS = ("yes", "no", "it is not possible to tell")

PHRASINGS = (
    "Does the hypothesis follow from the premise?",
    "If the premise is true, is the hypothesis true as well?",
    "Read the premise. Can we conclude that the hypothesis holds?",
    "Decide whether the premise entails the hypothesis.",
    "Suppose that the premise is true. Must the hypothesis be true?",
)


def _pair(premise: str, hypothesis: str, label: str) -> Draft:
    return draft(f"Premise: {premise}\nHypothesis: {hypothesis}", label)


COMPARATIVES = (
    ("taller", "shorter"),
    ("older", "younger"),
    ("faster", "slower"),
    ("richer", "poorer"),
    ("stronger", "weaker"),
    ("heavier", "lighter"),
)


@task("nli_comparisons", cluster="nli", phrasings=PHRASINGS, labels=LABELS)
def nli_comparisons(rng: random.Random) -> Draft:
    """Do two comparisons between three people settle a third one?"""
    more, less = rng.choice(COMPARATIVES)
    top, middle, bottom = rng.sample(PEOPLE, 3)

    def compare(greater: str, smaller: str, turned: bool) -> str:
        return f"{smaller} is {less} than {greater}." if turned else f"{greater} is {more} than {smaller}."

    shape = rng.choice(("chain", "chain", "both below", "both above"))
    known = {
        "chain": [(top, middle), (middle, bottom)],
        "both below": [(top, middle), (top, bottom)],
        "both above": [(top, bottom), (middle, bottom)],
    }[shape]
    asked = rng.choice([(top, middle), (top, bottom), (middle, bottom)])
    rng.shuffle(known)
    premise = " ".join(compare(*pair, turned=rng.random() < 0.5) for pair in known)
    turned = rng.random() < 0.5
    if asked not in known and shape != "chain":
        return _pair(premise, compare(*rng.choice((asked, asked[::-1])), turned), OPEN)
    true = rng.random() < 0.5
    return _pair(premise, compare(*(asked if true else asked[::-1]), turned), YES if true else NO)


# Groups: a kind, some of its subkinds, where they can be, and properties that exclude each other.
ANIMAL_PLACES = ("in the park", "by the lake", "on the farm", "behind the barn")
ANIMAL_STATES = (("asleep", "awake"), ("wet", "dry"), ("large", "small"), ("young", "old"))
THING_PLACES = ("in the shop", "in the shed", "at the market", "in the basement")
THING_STATES = (("red", "green"), ("expensive", "cheap"), ("clean", "dirty"), ("new", "old"), ("wet", "dry"))
PEOPLE_PLACES = ("in the hall", "on the train", "at the hotel", "on the ferry")
PEOPLE_STATES = (("asleep", "awake"), ("tall", "short"), ("sitting", "standing"), ("married", "single"))
GROUPS = (
    ("birds", ("sparrows", "crows", "ducks"), ANIMAL_PLACES, ANIMAL_STATES),
    ("dogs", ("poodles", "terriers", "beagles"), ANIMAL_PLACES, ANIMAL_STATES),
    ("horses", ("ponies", "stallions"), ANIMAL_PLACES, ANIMAL_STATES),
    ("vehicles", ("vans", "tractors", "buses"), THING_PLACES[2:], THING_STATES),
    ("tools", ("hammers", "saws", "drills"), THING_PLACES, THING_STATES),
    ("shoes", ("boots", "sandals", "slippers"), THING_PLACES, THING_STATES),
    ("flowers", ("roses", "tulips", "lilies"), THING_PLACES[:3], (("red", "white"), *THING_STATES[1:2])),
    ("chairs", ("armchairs", "stools", "rocking chairs"), THING_PLACES, THING_STATES),
    ("musicians", ("violinists", "drummers", "pianists"), PEOPLE_PLACES, PEOPLE_STATES),
    ("athletes", ("runners", "swimmers", "rowers"), PEOPLE_PLACES, PEOPLE_STATES),
    ("doctors", ("surgeons", "dentists"), PEOPLE_PLACES, PEOPLE_STATES),
)

# Premise, hypothesis, label, with K a kind, S a subkind, P and Q properties that exclude each other and E another
# place. "The" takes for granted that there are such things, so "none of the K" contradicts "all of the K".
QUANTIFIER_RULES = (
    ("All of the K here are P", "All of the S here are P", YES),
    ("All of the K here are P", "None of the K here are Q", YES),
    ("All of the K here are P", "Some of the K here are Q", NO),
    ("All of the K here are P", "None of the S here are P", NO),
    ("All of the K here are P", "All of the K E are P", OPEN),
    ("None of the K here are P", "None of the S here are P", YES),
    ("None of the K here are P", "Some of the K here are P", NO),
    ("None of the K here are P", "All of the S here are P", NO),
    ("None of the K here are P", "None of the S E are P", OPEN),
    ("Some of the K here are P", "At least one of the K here is P", YES),
    ("Some of the K here are P", "None of the K here are P", NO),
    ("Some of the K here are P", "All of the K here are Q", NO),
    ("Some of the K here are P", "All of the S here are P", OPEN),
    ("Some of the K here are P", "Some of the S here are P", OPEN),
    ("Some of the S here are P", "Some of the K here are P", YES),
    ("Some of the S here are P", "None of the K here are P", NO),
    ("Some of the S here are P", "All of the K here are P", OPEN),
    ("All of the S here are P", "Some of the K here are P", YES),
    ("All of the S here are P", "None of the S here are P", NO),
    ("All of the S here are P", "All of the K here are P", OPEN),
    ("Not all of the K here are P", "At least one of the K here is not P", YES),
    ("Not all of the K here are P", "All of the K here are P", NO),
    ("Not all of the K here are P", "None of the S here are P", OPEN),
)


@task("nli_quantifiers", cluster="nli", phrasings=PHRASINGS, labels=LABELS)
def nli_quantifiers(rng: random.Random) -> Draft:
    """What 'all', 'some', 'none' and 'not all' of a group entail about a smaller or larger group."""
    kind, subkinds, places, states = rng.choice(GROUPS)
    here, elsewhere = rng.sample(places, 2)
    p, q = rng.sample(rng.choice(states), 2)
    words = {"K": kind, "S": rng.choice(subkinds), "here": here, "E": elsewhere, "P": p, "Q": q}
    premise, hypothesis, label = rng.choice(QUANTIFIER_RULES)

    def fill(rule: str) -> str:
        return " ".join(words.get(word, word) for word in rule.split()) + "."

    return _pair(fill(premise), fill(hypothesis), label)


WORKERS = ("baker", "farmer", "nurse", "painter", "student", "tailor", "teacher", "tourist", "waiter", "carpenter")
LOOKS = ("bearded", "cheerful", "left-handed", "tall", "tired", "young")
WEAR = ("a straw hat", "a yellow scarf", "grey trousers", "leather boots", "a striped shirt", "thick glasses")

# What somebody does, something that it implies, something it rules out, something it leaves open.
SCENES = (
    ("is slicing lemons", "is cutting fruit", "is sleeping", "is preparing a drink for a friend"),
    ("is riding a bicycle along the canal", "is outdoors", "is sitting in an office", "is on the way home"),
    ("is reading a novel on the bus", "is reading a book", "is driving a car", "is reading a love story"),
    ("is swimming in a lake", "is in the water", "is completely dry", "is training for a race"),
    ("is playing the violin on the square", "is making music", "is playing the drums", "is playing to earn money"),
    ("is feeding two goats", "is giving food to animals", "is swimming in the sea", "owns the goats"),
    ("is running through the rain without an umbrella", "is getting wet", "is standing still", "is late for work"),
    ("is painting a fence white", "is holding a brush or a roller", "is peeling potatoes", "lives behind the fence"),
    ("is baking bread at home", "is preparing food", "is at the airport", "is baking bread for the neighbours"),
    ("is carrying a heavy box upstairs", "is carrying something", "is lying on a sofa", "is moving to a new flat"),
    ("is writing a letter at a desk", "is writing", "is playing football", "is writing to a relative"),
    ("is waiting alone at a bus stop", "is waiting for something", "is riding on a bus", "has just missed a bus"),
    ("is singing on a stage", "can be heard", "is silent", "is a member of a choir"),
    ("is planting tulips in the garden", "is gardening", "is cutting down a tree", "bought the tulips yesterday"),
    ("is washing dishes in the kitchen", "is indoors", "is hiking in the hills", "has just eaten lunch"),
)


@task("nli_scenes", cluster="nli", phrasings=PHRASINGS, labels=LABELS)
def nli_scenes(rng: random.Random) -> Draft:
    """What a one-sentence scene implies, rules out or leaves open."""
    doing, implied, excluded, possible = rng.choice(SCENES)
    look, worker, wear = rng.choice(LOOKS), rng.choice(WORKERS), rng.choice(WEAR)
    premise = f"A {look} {worker} wearing {wear} {doing}."
    label = rng.choice(LABELS)
    detail = {YES: implied, NO: excluded, OPEN: possible}[label]
    other = rng.choice([look for look in LOOKS if look not in premise])
    hypothesis = {
        YES: [f"The {worker} {detail}.", f"A {worker} {detail}.", f"Somebody wearing {wear} {detail}."],
        NO: [f"The {worker} {detail}.", f"The {worker} wearing {wear} {detail}."],
        OPEN: [f"The {worker} {detail}.", f"The {worker} {detail}.", f"The {worker} is {other} and {look}."],
    }[label]
    return _pair(premise, rng.choice(hypothesis), label)
