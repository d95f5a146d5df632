"""Reading comprehension: the answer stands in the passage, or can be counted from it."""

from __future__ import annotations

import random

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, SMALL_NUMBERS, WEEKDAYS, her_or_him

ROOMS = ("kitchen", "garden", "cellar", "attic", "garage", "bathroom", "study", "hall", "bedroom", "workshop")
CARRIED = ("lamp", "ball", "letter", "basket", "key", "book", "hat", "camera", "blanket", "bottle", "vase", "ladder")


@task(
    "where_is_it",
    cluster="reading_comprehension",
    phrasings=(
        "Read the story and answer the question.",
        "Follow who goes where, then answer with one word.",
        "Answer from the story.",
        "Keep track of the things in this story. What is the answer?",
    ),
)
def where_is_it(rng: random.Random) -> Draft:
    """Follow things that are carried from room to room."""
    carrier, other = rng.sample(PEOPLE, 2)
    thing, decoy = rng.sample(CARRIED, 2)
    start, stop, elsewhere, last = rng.sample(ROOMS, 4)
    moves = [f"{carrier} took the {thing} from the {start} to the {stop}."]
    if rng.random() < 0.5:
        moves.append(f"{rng.choice((carrier, other))} carried it on to the {last}.")
    else:
        last = stop
    still = f"{other} left the {decoy} in the {elsewhere}."
    moves.insert(rng.choice((0, len(moves))), still)
    asked = rng.choice(("thing", "thing", "decoy", "before"))
    question, answer = {
        "thing": (f"Where is the {thing} now?", last),
        "decoy": (f"Where is the {decoy} now?", elsewhere),
        "before": (f"Where was the {thing} at first?", start),
    }[asked]
    return draft(f"{' '.join(moves)}\n{question}", answer, f"the {answer}", f"in the {answer}")


SHOPS = {
    "apples": "pears",
    "roses": "tulips",
    "novels": "comics",
    "shirts": "jackets",
    "adult tickets": "child tickets",
    "cups of tea": "cups of coffee",
    "white loaves": "brown loaves",
    "bicycles": "scooters",
}


@task(
    "passage_numbers",
    cluster="reading_comprehension",
    phrasings=(
        "Answer the question with a number.",
        "Read the passage and work out the number.",
        "Find the numbers you need and calculate.",
        "Use the passage to answer. Give only the number.",
    ),
)
def passage_numbers(rng: random.Random) -> Draft:
    """Find, add or subtract numbers in a short report on sales."""
    first, second = rng.choice(sorted(SHOPS.items()))
    day, next_day = rng.sample(WEEKDAYS, 2)
    a, b, c = (rng.randint(3, 60) for _ in range(3))
    while len({a, b, c}) < 3:
        a, b, c = (rng.randint(3, 60) for _ in range(3))
    name = rng.choice(PEOPLE)
    passage = (
        f"{name} sold {a} {first} and {b} {second} on {day}. On {next_day} {name} sold {c} {first} and no {second}."
    )
    more, fewer = (first, second) if a > b else (second, first)
    question, answer = rng.choice(
        (
            (f"How many {first} did {name} sell on the two days together?", a + c),
            (f"How many {first} and {second} were sold on {day}?", a + b),
            (f"On {day}, how many more {more} than {fewer} were sold?", abs(a - b)),
            (f"How many {second} were sold on {day}?", b),
            (
                f"How many fewer {first} did {name} sell on {next_day if c < a else day} than on the other day?",
                abs(a - c),
            ),
        )
    )
    return draft(f"{passage}\n{question}", str(answer))


CLUBS = (
    "chess club",
    "rowing club",
    "choir",
    "film club",
    "cycling club",
    "book circle",
    "hiking group",
    "dance class",
)
PLACES = ("the town hall", "the old school", "the library", "a barn", "the sports centre", "a café")
FEES = ("free of charge", "five euros a month", "ten euros a month", "twenty euros a year")


@task(
    "passage_yes_no",
    cluster="reading_comprehension",
    labels=("yes", "no"),
    phrasings=(
        "Read the passage and answer yes or no.",
        "According to the passage, what is the answer?",
        "Answer the question about this club.",
        "Is it so, going by the passage?",
    ),
)
def passage_yes_no(rng: random.Random) -> Draft:
    """Yes-no questions on the description of a club."""
    club, place, fee = rng.choice(CLUBS), rng.choice(PLACES), rng.choice(FEES)
    day, other_day = rng.sample(WEEKDAYS, 2)
    leader, other = rng.sample(PEOPLE, 2)
    members, age = rng.randint(12, 90), rng.choice((10, 12, 14, 16, 18))
    start = rng.randint(4, 8)
    sentences = [
        f"The {club} meets in {place} every {day} at {SMALL_NUMBERS[start]}.",
        f"It has {members} members and is led by {leader}; {other} helps {her_or_him(leader)}.",
        f"Anyone over {age} may join, and membership is {fee}.",
    ]
    true = rng.random() < 0.5
    older = rng.randint(age + 2, age + 30)
    younger = rng.randint(age - 5, age - 1)
    higher = members + rng.randint(3, 20)
    lower = members - rng.randint(3, 9)
    question = rng.choice(
        (
            f"Does the {club} meet on {day if true else other_day}?",
            f"Is {leader if true else other} the leader of the {club}?",
            f"May somebody aged {older if true else younger} join?",
            f"Does the {club} have more than {lower if true else higher} members?",
            f"Does one have to pay to be a member of the {club}?",
        )
    )
    if question.startswith("Does one have to pay"):
        true = fee != FEES[0]
    return draft(f"{' '.join(sentences)}\n{question}", "yes" if true else "no")
