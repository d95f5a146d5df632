"""Coreference: whom or what does a pronoun stand for?

The sentences follow the idea of the Winograd schemas: two endings that differ little make the same pronoun point at
different things. All of them are our own.
"""

from __future__ import annotations

import random

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, WEEKDAYS, alike, she_or_he

# A sentence up to the pronoun, an ending that is about the first person, one that is about the second.
BETWEEN_PEOPLE = (
    ("{a} lent {b} a drill because", "had two of them", "had a hole to make"),
    ("{a} thanked {b} because", "had received a lot of help", "had given a lot of help"),
    ("{a} apologised to {b} because", "had forgotten the appointment", "had been kept waiting for an hour"),
    ("{a} asked {b} the way because", "was new in town", "seemed to know the town"),
    ("{a} envied {b} because", "had only come second", "had won the race"),
    ("{a} carried a suitcase for {b} because", "was the stronger one", "had a sore back"),
    ("{a} called a doctor for {b} because", "was worried", "had fainted"),
    ("{a} visited {b} in hospital, and", "brought flowers along", "was glad to have a visitor"),
    ("{a} hired {b} because", "needed an assistant", "had excellent references"),
    ("{a} taught {b} to swim, and soon", "was proud of such a good pupil", "could cross the lake alone"),
    ("{a} gave {b} a sandwich because", "had one left over", "had not eaten all day"),
    ("{a} woke {b} up because", "had heard a strange noise", "had overslept"),
    ("{a} could not hear {b} because", "was wearing headphones", "was only whispering"),
    ("{a} beat {b} at chess because", "played better", "played worse"),
    ("{a} bought a car from {b} because", "wanted something to repair", "asked very little for it"),
    ("{a} met {b} at the airport because", "had offered to be the driver", "was arriving from abroad"),
    ("{a} did not believe {b} because", "knew what had really happened", "had told lies before"),
    ("{a} borrowed money from {b} because", "could not pay the rent", "had plenty to spare"),
    ("{a} let {b} drive because", "felt too tired to do it", "felt fully awake"),
    ("{a} sent {b} a get-well card because", "had heard the bad news", "was ill"),
)


@task(
    "pronoun_people",
    cluster="coreference",
    phrasings=(
        "Who is meant by the pronoun?",
        "Which person does the pronoun refer to?",
        "Resolve the pronoun.",
        "Name the person the pronoun stands for.",
    ),
)
def pronoun_people(rng: random.Random) -> Draft:
    """Which of two people is meant by 'she' or 'he'?"""
    a, b = alike(rng, 2)
    start, about_a, about_b = rng.choice(BETWEEN_PEOPLE)
    ending, answer = rng.choice(((about_a, a), (about_b, b)))
    pronoun = she_or_he(a)
    day = rng.choice(("", *(f"On {day} " for day in WEEKDAYS)))
    sentence = f"{day}{start.format(a=a, b=b)} {pronoun} {ending}."
    return draft(f"{sentence}\nPronoun: {pronoun}", answer, options=rng.sample([a, b], 2))


# As above, with pairs of things, and endings for the first and for the second of a pair.
BETWEEN_THINGS = (
    (
        "the {a} does not fit into the {b} because it is too",
        ("large", "bulky", "big"),
        ("small", "tiny"),
        (
            ("tent", "rucksack"),
            ("cello", "car"),
            ("cake", "tin"),
            ("mirror", "crate"),
            ("boat", "shed"),
            ("rug", "van"),
        ),
    ),
    (
        "the {a} will not go through the {b} because it is too",
        ("wide", "broad"),
        ("narrow", "tight"),
        (("sofa", "door"), ("truck", "gate"), ("table", "corridor"), ("piano", "stairwell"), ("tractor", "tunnel")),
    ),
    (
        "the {a} broke through the {b} because it was too",
        ("heavy", "massive"),
        ("thin", "weak", "fragile"),
        (("bear", "ice"), ("safe", "floor"), ("rock", "roof"), ("anvil", "shelf"), ("cow", "bridge")),
    ),
    (
        "the {a} cannot be seen behind the {b} because it is so",
        ("small", "low", "tiny"),
        ("tall", "high"),
        (("hut", "hedge"), ("cottage", "church"), ("pony", "wall"), ("bench", "fence"), ("stool", "cupboard")),
    ),
    (
        "the {a} does not reach the {b} because it is too",
        ("short",),
        ("far away", "distant"),
        (("ladder", "window"), ("hose", "fire"), ("cable", "socket"), ("rope", "boat"), ("pole", "apple")),
    ),
    (
        "the {a} overtook the {b} because it was",
        ("faster", "speeding"),
        ("slower", "losing speed"),
        (("bus", "tram"), ("van", "lorry"), ("motorbike", "taxi"), ("jeep", "tractor"), ("horse", "cart")),
    ),
    (
        "the {a} sank deeper into the sand than the {b} because it was",
        ("heavier", "full of stones"),
        ("lighter", "empty"),
        (("crate", "basket"), ("trunk", "suitcase"), ("cart", "sledge"), ("barrel", "bucket"), ("box", "bag")),
    ),
    (
        "everyone chose the {a} over the {b} because it was so",
        ("tasty", "good", "fresh"),
        ("bland", "bad", "stale"),
        (("soup", "salad"), ("pie", "pudding"), ("cheese", "ham"), ("bread", "toast"), ("omelette", "stew")),
    ),
)


@task(
    "pronoun_things",
    cluster="coreference",
    phrasings=(
        "What is meant by 'it'?",
        "Which thing does the pronoun 'it' refer to?",
        "Resolve 'it' in this sentence.",
        "Name the thing that 'it' stands for.",
    ),
)
def pronoun_things(rng: random.Random) -> Draft:
    """Which of two things is meant by 'it'?"""
    start, about_a, about_b, pairs = rng.choice(BETWEEN_THINGS)
    a, b = rng.choice(pairs)
    endings, answer = rng.choice(((about_a, a), (about_b, b)))
    teller, verb = rng.choice(PEOPLE), rng.choice(("says", "thinks", "complains", "explains"))
    sentence = f"{teller} {verb} that {start.format(a=a, b=b)} {rng.choice(endings)}."
    options = rng.sample([f"the {a}", f"the {b}"], 2)
    return draft(sentence, f"the {answer}", answer, options=options)


# As above, with groups of people.
BETWEEN_GROUPS = (
    ("asked {b} to be quiet because they", "could not sleep", "were singing loudly", "guests", "hikers"),
    ("sent {b} away because they", "had no rooms left", "had not booked", "landlords", "travellers"),
    ("rescued {b} because they", "were on call that night", "were trapped by the flood", "firefighters", "campers"),
    ("praised {b} because they", "liked what they saw", "had worked hard", "judges", "dancers"),
    ("questioned {b} because they", "wanted to solve the case", "had seen the crime", "detectives", "witnesses"),
    ("refused {b} a permit because they", "feared riots", "were known for riots", "officials", "marchers"),
    ("sold {b} maps because they", "had printed too many", "did not know the area", "booksellers", "tourists"),
    ("examined {b} because they", "were on duty that night", "complained of headaches", "doctors", "sailors"),
    ("paid {b} extra because they", "were very generous", "had finished early", "farmers", "pickers"),
    ("lost to {b} because they", "had not trained enough", "had trained harder", "rowers", "students"),
    ("fed {b} because they", "had bread to spare", "were starving", "monks", "beggars"),
    ("warned {b} because they", "had heard the forecast", "were about to set sail", "pilots", "fishermen"),
)


@task(
    "pronoun_groups",
    cluster="coreference",
    phrasings=(
        "Who are 'they'?",
        "Which group does 'they' refer to?",
        "Decide which group is meant by 'they'.",
        "Resolve the pronoun 'they'.",
    ),
)
def pronoun_groups(rng: random.Random) -> Draft:
    """Which of two groups of people is meant by 'they'?"""
    start, about_a, about_b, a, b = rng.choice(BETWEEN_GROUPS)
    ending, answer = rng.choice(((about_a, a), (about_b, b)))
    told = rng.choice(
        (f"{rng.choice(PEOPLE)} says that the", f"{rng.choice(PEOPLE)} heard that on {rng.choice(WEEKDAYS)} the")
    )
    sentence = f"{told} {a} {start.format(b=f'the {b}')} {ending}."
    return draft(sentence, f"the {answer}", answer, options=rng.sample([f"the {a}", f"the {b}"], 2))
