"""Small skills that belong to no other cluster: sums, numbers in words, punctuation, plurals, kinds of questions."""

from __future__ import annotations

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
    "Athens", "Berlin", "Brussels", "Cairo", "Dublin", "Geneva", "Helsinki", "Lisbon", "London", "Madrid", "Milan",
    "Oslo", "Paris", "Prague", "Rome", "Seville", "Vienna", "Warsaw",
)  # fmt: skip
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


# Nouns and their plurals. inflect is not asked here: its import takes two seconds, and it says "thiefs".
PLURALS = """
    actress/actresses address/addresses axe/axes baby/babies bakery/bakeries basket/baskets beach/beaches
    bench/benches berry/berries box/boxes boy/boys branch/branches bridge/bridges brush/brushes bus/buses
    butterfly/butterflies calf/calves candle/candles castle/castles chair/chairs cherry/cherries child/children
    church/churches cinema/cinemas city/cities city-dweller/city-dwellers class/classes cliff/cliffs coat/coats
    country/countries cow/cows cross/crosses cup/cups daisy/daisies deer/deer desk/desks diary/diaries dish/dishes
    dress/dresses duck/ducks echo/echoes elf/elves engine/engines factory/factories fairy/fairies family/families
    fence/fences fish/fish flower/flowers fly/flies fork/forks fox/foxes gallery/galleries garden/gardens
    glass/glasses goose/geese half/halves hero/heroes holiday/holidays horse/horses hospital/hospitals house/houses
    island/islands judge/judges key/keys king/kings kiss/kisses knife/knives knight/knights lady/ladies lamp/lamps
    leaf/leaves library/libraries lily/lilies loaf/loaves lorry/lorries lunch/lunches mailman/mailmen man/men
    mattress/mattresses mirror/mirrors monkey/monkeys month/months mother-in-law/mothers-in-law mouse/mice
    necklace/necklaces nurse/nurses ox/oxen palace/palaces party/parties passer-by/passers-by path/paths
    peach/peaches pencil/pencils penny/pennies photo/photos piano/pianos picture/pictures pony/ponies
    potato/potatoes princess/princesses puppy/puppies queen/queens radio/radios ray/rays river/rivers roof/roofs
    rose/roses sandwich/sandwiches scarf/scarves sheep/sheep shelf/shelves shoe/shoes snowman/snowmen sock/socks
    spy/spies stitch/stitches story/stories street/streets studio/studios suffix/suffixes switch/switches
    table/tables tax/taxes teacher/teachers thief/thieves tomato/tomatoes tooth/teeth torch/torches toy/toys
    tray/trays tree/trees valley/valleys video/videos village/villages volcano/volcanoes wallet/wallets
    watch/watches wife/wives window/windows wish/wishes witch/witches wolf/wolves woman/women zoo/zoos
"""
ADJECTIVES = ("beautiful", "big", "famous", "little", "lovely", "new", "old", "small", "strange", "tiny")
FIRST_WORDS = {"this": "these", "that": "those", "one": "two", "a single": "several", "every": "all"}


@task(
    "plural_phrase",
    cluster="misc",
    phrasings=(
        "Complete the plural of the phrase, beginning with the word after the arrow.",
        "Put the phrase into the plural. The first word is given.",
        "There is more than one of them: rewrite the phrase.",
        "Change singular to plural.",
    ),
    pool=lambda: [tuple(pair.split("/")) for pair in PLURALS.split()],
)
def plural_phrase(rng: random.Random, nouns: Sequence[tuple[str, str]]) -> Draft:
    """Put a phrase into the plural, regular or irregular."""
    (noun, plural), adjective = rng.choice(nouns), rng.choice(ADJECTIVES)
    one, many = rng.choice((*FIRST_WORDS.items(), ("one", rng.choice(SMALL_NUMBERS[2:]))))
    return draft(f"{one} {adjective} {noun} -> {many}", f"{many} {adjective} {plural}")


BUILDINGS = (
    "bridge",
    "castle",
    "cathedral",
    "clock tower",
    "concert hall",
    "town hall",
    "library",
    "lighthouse",
    "stadium",
)
# What a question asks for, and questions about a building {x} in a town {t}.
QUESTIONS = {
    "a person": (
        "Who designed the {x} in {t}?",
        "Which architect is famous for the {x} in {t}?",
        "What was the name of the painter who decorated the {x} in {t}?",
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
