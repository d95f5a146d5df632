"""Everyday knowledge: how heavy and how large things are, what tools are for, what usually happens next.

Weights and sizes are our own round figures for ordinary specimens; a question is asked only where the answer does
not depend on them being exact.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, WEEKDAYS, in_a_row


class Thing(NamedTuple):
    """An ordinary rigid thing: grams, and centimetres along its longest side."""

    name: str
    weight: float
    length: float


THINGS = tuple(
    Thing(*row)
    for row in (
        ("a paper clip", 1, 3), ("a postage stamp", 0.1, 2.5), ("a shirt button", 0.5, 1.2),
        ("a sewing needle", 0.2, 4), ("a coin", 5, 2.3), ("a pencil", 6, 18), ("a seagull feather", 1, 20),
        ("a house key", 10, 6), ("a grape", 6, 2.5), ("a glass marble", 5, 1.6), ("a walnut", 12, 4),
        ("a wine cork", 4, 4.5), ("a thumbtack", 0.5, 1), ("a matchstick", 0.1, 4.5), ("a toothbrush", 15, 19),
        ("a teaspoon", 25, 14), ("a hen's egg", 60, 6), ("a lemon", 110, 9), ("an apple", 180, 8),
        ("a banana", 130, 19), ("a tennis ball", 58, 6.7), ("a ping-pong ball", 2.7, 4), ("a wristwatch", 80, 7),
        ("a smartphone", 190, 15), ("a paperback novel", 300, 18), ("a coffee mug", 350, 12),
        ("a claw hammer", 700, 33), ("a dinner plate", 600, 27), ("a loaf of bread", 700, 30), ("a football", 430, 22),
        ("a brick", 2700, 22), ("a pineapple", 1500, 30), ("a watermelon", 8000, 35), ("a laptop computer", 1800, 34),
        ("a bowling ball", 6500, 22), ("a frying pan", 1500, 45), ("a bicycle helmet", 300, 29), ("a violin", 450, 60),
        ("a tennis racket", 310, 69), ("a walking stick", 400, 92), ("a broom", 800, 140), ("a car tyre", 10000, 64),
        ("a microwave oven", 13000, 50), ("a bicycle", 14000, 175), ("an office chair", 15000, 110),
        ("a wooden ladder", 12000, 300), ("a washing machine", 70000, 85), ("a refrigerator", 75000, 175),
        ("a sofa", 60000, 210), ("a grand piano", 400000, 200), ("a motorcycle", 200000, 210),
        ("a family car", 1400000, 450), ("a canoe", 30000, 480), ("a city bus", 12000000, 1200),
        ("a steam locomotive", 80000000, 1800), ("a double bed", 70000, 200), ("a wheelbarrow", 15000, 140),
        ("a bathtub", 80000, 170), ("a surfboard", 4000, 200), ("a pair of skis", 5000, 175),
        ("a garden bench", 25000, 150), ("a dining table", 40000, 180), ("a street lamp", 100000, 600),
        ("a rowing boat", 80000, 400), ("a farm tractor", 4000000, 400), ("a bronze statue", 900000, 230),
        ("a bass drum", 8000, 60), ("a cello", 3500, 122), ("a watering can", 700, 40), ("a spanner", 250, 22),
        ("a can of soup", 450, 11), ("a candle", 90, 20), ("a lipstick", 15, 8), ("a golf ball", 46, 4.3),
        ("a sugar cube", 4, 1.6), ("a domino", 8, 5), ("a chess queen", 30, 9), ("a corkscrew", 120, 15),
        ("a pocket torch", 150, 14), ("a bar of soap", 100, 9), ("a rolling pin", 900, 45), ("a guitar", 2000, 100),
        ("an anvil", 60000, 60), ("an accordion", 9000, 45), ("a door", 25000, 200), ("a telephone pole", 300000, 1000),
        ("a chest of drawers", 50000, 120), ("a church bell", 1500000, 140), ("a hay bale", 20000, 90),
    )
)  # fmt: skip


def bare(name: str) -> str:
    """The name without its article."""
    return name.split(" ", 1)[1]


@task(
    "heaviest_thing",
    cluster="commonsense",
    phrasings=(
        "Answer with one of the things named.",
        "Think of ordinary examples of each thing and pick one.",
        "Compare how much the things usually weigh.",
        "Use what you know about everyday things to answer.",
    ),
    pool=lambda: THINGS,
)
def heaviest_thing(rng: random.Random, things: Sequence[Thing]) -> Draft:
    """Which of three ordinary things is the heaviest, or the lightest?"""
    while True:
        three = rng.sample(things, 3)
        light, medium, heavy = sorted(three, key=lambda thing: thing.weight)
        if medium.weight >= 3 * light.weight and heavy.weight >= 3 * medium.weight:
            break
    extreme, answer = rng.choice((("heaviest", heavy), ("lightest", light)))
    listed = in_a_row([thing.name for thing in three], last="or")
    question = rng.choice((f"Which is the {extreme}: {listed}?", f"Which of these is the {extreme}, {listed}?"))
    return draft(question, answer.name, bare(answer.name), f"the {bare(answer.name)}")


# The shortest and the longest inner side, in centimetres.
CONTAINERS = (
    ("a matchbox", 1.3, 5), ("a pencil case", 4, 21), ("a lunch box", 6, 18), ("a shoebox", 12, 32),
    ("a school backpack", 20, 45), ("a kitchen drawer", 10, 50), ("a large suitcase", 28, 72), ("an oven", 30, 45),
    ("a wardrobe", 55, 190), ("a double garage", 230, 600), ("a shipping container", 230, 1180), ("a barn", 400, 3000),
    ("a handbag", 10, 32), ("a delivery van", 160, 320), ("a coat pocket", 2.5, 17), ("a dishwasher", 45, 60),
    ("a small lift", 100, 210), ("a car boot", 45, 110),
)  # fmt: skip


@task(
    "fits_inside",
    cluster="commonsense",
    labels=("yes", "no"),
    phrasings=(
        "Answer the question about everyday things.",
        "Imagine things of the usual size and answer.",
        "Is that possible without breaking or folding anything?",
        "Think about how large both things are.",
        "Answer yes or no.",
    ),
    pool=lambda: THINGS,
)
def fits_inside(rng: random.Random, things: Sequence[Thing]) -> Draft:
    """Could one ordinary thing fit inside another?"""
    while True:
        thing, (container, shortest, longest) = rng.choice(things), rng.choice(CONTAINERS)
        fits, too_long = thing.length <= 0.9 * shortest, thing.length >= 1.5 * longest
        if fits or too_long:
            break
    name = rng.choice(PEOPLE)
    question = rng.choice(
        (
            f"Could {thing.name} fit inside {container}?",
            f"Is {container} large enough to hold {thing.name}?",
            f"Can one hide {thing.name} in {container}?",
            f"{name} wants to put {thing.name} into {container}. Is there enough room?",
        )
    )
    return draft(question, "yes" if fits else "no")


# What somebody wants to do, the tool for it, and the place where such tools are kept.
GOALS = (
    ("tighten a loose screw", "a screwdriver", "workshop"), ("drive a nail into a plank", "a hammer", "workshop"),
    ("cut a thick board in two", "a saw", "workshop"), ("bore a hole into a wall", "a drill", "workshop"),
    ("smooth the rough edge of a table", "sandpaper", "workshop"), ("pull a nail out of a board", "pliers", "workshop"),
    ("check whether a shelf is level", "a spirit level", "workshop"), ("loosen a bolt", "a spanner", "workshop"),
    ("whip cream", "a whisk", "kitchen"), ("drain boiled pasta", "a colander", "kitchen"),
    ("flatten cookie dough", "a rolling pin", "kitchen"), ("peel potatoes", "a peeler", "kitchen"),
    ("serve soup into bowls", "a ladle", "kitchen"), ("open a bottle of wine", "a corkscrew", "kitchen"),
    ("fry an egg", "a frying pan", "kitchen"), ("shred cheese", "a grater", "kitchen"),
    ("boil water for tea", "a kettle", "kitchen"), ("brown two slices of bread", "a toaster", "kitchen"),
    ("gather fallen leaves", "a rake", "garden"), ("dig a hole for a tree", "a spade", "garden"),
    ("give the flowers some water", "a watering can", "garden"), ("trim a hedge", "hedge shears", "garden"),
    ("mow the grass", "a lawnmower", "garden"), ("move a heap of soil across the yard", "a wheelbarrow", "garden"),
    ("sew a button back on", "a needle and thread", "sewing box"), ("measure a waist", "a tape measure", "sewing box"),
    ("protect a fingertip while sewing", "a thimble", "sewing box"), ("knit a scarf", "knitting needles", "sewing box"),
    ("fasten two sheets of paper together", "a stapler", "office"), ("sharpen a pencil", "a sharpener", "office"),
    ("punch holes into a page", "a hole punch", "office"), ("work out a long sum", "a calculator", "office"),
    ("rub out a pencil mark", "an eraser", "office"), ("draw a perfectly straight line", "a ruler", "office"),
    ("draw a circle", "a pair of compasses", "office"), ("copy a page", "a photocopier", "office"),
    ("remove dust from a carpet", "a vacuum cleaner", "cleaning cupboard"),
    ("mop up a puddle", "a mop", "cleaning cupboard"), ("make creased shirts smooth", "an iron", "cleaning cupboard"),
    ("sweep the floor", "a broom", "cleaning cupboard"), ("unblock a sink", "a plunger", "cleaning cupboard"),
    ("dry the washing outdoors", "a clothes line", "cleaning cupboard"),
    ("look at the moon's craters", "a telescope", "science room"),
    ("see the cells of a leaf", "a microscope", "science room"),
    ("find out which way is north", "a compass", "science room"), ("measure a fever", "a thermometer", "science room"),
    ("lift iron filings out of sand", "a magnet", "science room"), ("weigh a parcel", "scales", "science room"),
    ("pump up a flat tyre", "a bicycle pump", "garage"), ("raise a car to change a wheel", "a jack", "garage"),
    ("pull a broken-down car", "a tow rope", "garage"), ("scrape ice off a windscreen", "an ice scraper", "garage"),
    ("catch a trout", "a fishing rod", "boathouse"), ("keep a boat from drifting", "an anchor", "boathouse"),
    ("move a small boat forward", "oars", "boathouse"), ("stay afloat in rough water", "a life jacket", "boathouse"),
)  # fmt: skip


@task(
    "right_tool",
    cluster="commonsense",
    phrasings=(
        "Choose the most suitable thing.",
        "Which of the things is made for this?",
        "Pick what would help most.",
        "What should be taken out of the cupboard?",
        "Answer with the right tool.",
    ),
    pool=lambda: GOALS,
)
def right_tool(rng: random.Random, goals: Sequence[tuple[str, str, str]]) -> Draft:
    """Which of four tools serves a purpose?"""
    goal, tool, place = rng.choice(goals)
    # Tools kept in the same place might do as well.
    others = rng.sample(sorted({other for _, other, kept in GOALS if kept != place}), 3)
    name, day = rng.choice(PEOPLE), rng.choice(WEEKDAYS)
    situation = rng.choice(
        (
            f"{name} wants to {goal}.",
            f"On {day} {name} has to {goal}. What does {name} need?",
            f"What would {name} use to {goal}?",
            f"A neighbour asks {name} for something with which to {goal}.",
        )
    )
    return draft(situation, tool, options=rng.sample([tool, *others], 4))
