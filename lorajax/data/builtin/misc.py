"""Small skills that belong to no other cluster: sums, numbers in words, punctuation, plurals, kinds of questions."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, SMALL_NUMBERS, WEEKDAYS, in_a_row


@task(
    "arithmetic",
    cluster="misc",
    phrasings=(
        "Calculate.",
        "What is the result?",
        "Work out the value of the expression.",
        "Solve this sum. Give only the number.",
        "Evaluate:",
    ),
)
def arithmetic(rng: random.Random) -> Draft:
    """Additions, subtractions and products of small whole numbers."""
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 12)
    small = rng.randint(2, 12)
    text, value = rng.choice(
        (
            (f"{a} + {b}", a + b),
            (f"{max(a, b)} - {min(a, b)}", abs(a - b)),
            (f"{small} * {c}", small * c),
            (f"{a} * {c}", a * c),
            (f"{a} + {b} + {c}", a + b + c),
            (f"{a + b} - {a} + {c}", b + c),
            (f"{small} * {c} + {a}", small * c + a),
        )
    )
    return draft(text, str(value))


@task(
    "number_words",
    cluster="misc",
    phrasings=(
        "Write the number in words.",
        "Spell out this number.",
        "How is this number read aloud in English?",
        "Replace the digits by words.",
    ),
)
def number_words(rng: random.Random) -> Draft:
    """Spell out a whole number in English."""
    from num2words import num2words

    number = rng.randrange(10 ** rng.choice((3, 4, 4, 5)))
    words = num2words(number)
    plain = words.replace(",", "")
    return draft(str(number), *dict.fromkeys((words, plain, plain.replace(" and ", " "))))


WANTED = ("apples", "bread", "candles", "cheese", "grapes", "honey", "lemons", "nails", "paper", "soap", "tea", "wool")
TOWNS = (
    "Athens",
    "Berlin",
    "Cairo",
    "Dublin",
    "Geneva",
    "Lisbon",
    "London",
    "Madrid",
    "Oslo",
    "Paris",
    "Prague",
    "Rome",
)
LOST = ("the keys", "my umbrella", "the scissors", "her passport", "the torch", "his glasses")


@task(
    "fix_punctuation",
    cluster="misc",
    phrasings=(
        "Add punctuation and capital letters.",
        "Write the sentence correctly.",
        "Restore the punctuation marks and the capitals.",
        "Somebody typed this in a hurry. Put in what is missing.",
    ),
)
def fix_punctuation(rng: random.Random) -> Draft:
    """Restore capital letters, commas, apostrophes and full stops."""
    name, other = rng.sample(PEOPLE, 2)
    day, town, lost = rng.choice(WEEKDAYS), rng.choice(TOWNS), rng.choice(LOST)
    wanted = in_a_row(rng.sample(WANTED, 3))
    right = rng.choice(
        (
            f"{name} bought {wanted} in {town}.",
            f"Where did {name} put {lost}?",
            f"Can you hear me, {name}?",
            f"We need {wanted} by {day}.",
            f"{name}'s train to {town} doesn't leave until {day}.",
            f"Isn't {name} coming with us to {town} on {day}?",
            f"I can't find {lost}. Has {name} seen {'them' if lost.endswith('s') else 'it'}?",
            f"It's {day}. Let's visit {name} in {town}.",
            f"{name} isn't here, but {other} is.",
            f"Did {name} say that {other} lives in {town}?",
            f"When {name} called, {other} was still in {town}.",
        )
    )
    return draft(re.sub(r"[.,?']", "", right).lower(), right)


NOUNS = """
    actress address axe baby bakery basket beach bench berry box boy branch bridge brush bus butterfly calf candle
    castle chair cherry child church cinema city class cliff coat country cow cross cup daisy deer desk dish diary
    dress duck elf engine factory fairy family fence fish flower fly fork fox gallery garden glass goose half hero
    holiday horse hospital house island judge key king kiss knife knight lady lamp leaf library lily loaf lorry lunch
    mailman man mattress mirror monkey month mouse necklace nurse ox palace party path peach pencil penny photo piano
    picture pony potato princess puppy queen radio ray river roof rose sandwich scarf sheep shelf shoe snowman sock
    spy stitch story street studio suffix switch table tax teacher thief tomato tooth torch toy tray tree valley video
    village volcano wallet watch wife window witch wolf woman wish zoo echo city-dweller mother-in-law passer-by
"""
ADJECTIVES = ("beautiful", "big", "famous", "little", "lovely", "new", "old", "small", "strange", "tiny")
PLURAL_OF = {"this": "these", "that": "those", "one": "two", "a single": "several", "every": "all"}


@functools.cache
def _plural(noun: str) -> str:
    import inflect

    return inflect.engine().plural_noun(noun)


@task(
    "plural_phrase",
    cluster="misc",
    phrasings=(
        "Complete the plural of the phrase, beginning with the word after the arrow.",
        "Put the phrase into the plural. The first word is given.",
        "There is more than one of them: rewrite the phrase.",
        "Change singular to plural.",
    ),
    pool=lambda: NOUNS.split(),
)
def plural_phrase(rng: random.Random, nouns: Sequence[str]) -> Draft:
    """Put a phrase into the plural, regular or irregular."""
    noun, adjective = rng.choice(nouns), rng.choice(ADJECTIVES)
    one, many = rng.choice((*PLURAL_OF.items(), ("one", rng.choice(SMALL_NUMBERS[2:]))))
    return draft(f"{one} {adjective} {noun} -> {many}", f"{many} {adjective} {_plural(noun)}")


BUILDINGS = (
    "bridge",
    "castle",
    "cathedral",
    "clock tower",
    "concert hall",
    "harbour",
    "library",
    "lighthouse",
    "stadium",
)
# What a question asks for, and questions about a building {x} in a town {t}.
QUESTIONS = {
    "a person": (
        "Who designed the {x} in {t}?",
        "Which architect is famous for the {x} in {t}?",
        "What was the name of the first owner of the {x} in {t}?",
        "Whose statue stands in front of the {x} in {t}?",
        "Which queen opened the {x} in {t}?",
    ),
    "a place": (
        "Where is the oldest {x} near {t}?",
        "What street leads from the {x} to the centre of {t}?",
        "In which part of {t} is the {x}?",
        "Which town has a {x} just like the one in {t}?",
        "From where were the stones for the {x} in {t} brought?",
    ),
    "a number": (
        "How many people visit the {x} in {t}?",
        "What is the height of the {x} in {t} in metres?",
        "How much did it cost to build the {x} in {t}?",
        "What percentage of people in {t} have seen the {x}?",
        "How many steps lead up to the {x} in {t}?",
    ),
    "a time": (
        "When was the {x} in {t} built?",
        "In what year did the {x} in {t} burn down?",
        "Which month is best for a visit to the {x} in {t}?",
        "On what date does the {x} in {t} reopen?",
        "What time of day is the {x} in {t} the quietest?",
    ),
    "a reason": (
        "Why was the {x} in {t} closed?",
        "What caused the fire at the {x} in {t}?",
        "For what reason was the {x} in {t} painted red?",
        "How come nobody in {t} likes the {x}?",
        "What made people in {t} save the old {x}?",
    ),
}


@task(
    "question_type",
    cluster="misc",
    labels=tuple(QUESTIONS),
    phrasings=(
        "What kind of answer does the question ask for?",
        "Sort the question by the type of its answer.",
        "Do not answer the question; say what it asks about.",
        "What would somebody who asks this like to know?",
    ),
)
def question_type(rng: random.Random) -> Draft:
    """What kind of thing does a question ask for?"""
    kind = rng.choice(tuple(QUESTIONS))
    return draft(rng.choice(QUESTIONS[kind]).format(x=rng.choice(BUILDINGS), t=rng.choice(TOWNS)), kind)
