"""Reading with common sense: the passage alone does not say the answer; knowing how the world goes does."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, WEEKDAYS, sentence_case, she_or_he

# What somebody did, as past tense, perfect and gerund continue a sentence.
DOINGS = (
    ("ate lunch", "eaten lunch", "eating lunch"),
    ("went for a swim", "gone for a swim", "going for a swim"),
    ("phoned a cousin", "phoned a cousin", "phoning a cousin"),
    ("watered the plants", "watered the plants", "watering the plants"),
    ("bought a newspaper", "bought a newspaper", "buying a newspaper"),
    ("cleaned the windows", "cleaned the windows", "cleaning the windows"),
    ("took a nap", "taken a nap", "taking a nap"),
    ("wrote a letter", "written a letter", "writing a letter"),
    ("fed the cat", "fed the cat", "feeding the cat"),
    ("practised the piano", "practised the piano", "practising the piano"),
    ("baked a cake", "baked a cake", "baking a cake"),
    ("visited a museum", "visited a museum", "visiting a museum"),
    ("repaired a chair", "repaired a chair", "repairing a chair"),
    ("read a magazine", "read a magazine", "reading a magazine"),
)


@task(
    "event_order",
    cluster="rc_commonsense",
    phrasings=(
        "Put the events in order, then answer.",
        "When did things happen? Answer the question.",
        "Read the passage with care: it is not told in order.",
        "Choose the right event.",
        "Use the words before, after and later to find the answer.",
    ),
)
def event_order(rng: random.Random) -> Draft:
    """Which of three things happened first, or last, in a passage that is not told in order?"""
    first, second, third = rng.sample(DOINGS, 3)
    name, day = rng.choice(PEOPLE), rng.choice(WEEKDAYS)
    they = she_or_he(name)
    passage = rng.choice(
        (
            f"On {day} {name} {second[0]} after {first[2]}. Later {they} {third[0]}.",
            f"On {day} {name} {third[0]}. {they} had {second[1]} before that, after {first[2]}.",
            f"Before {second[2]} on {day}, {name} {first[0]}. {they} {third[0]} in the end.",
            f"{name} {second[0]} on {day}. {they} had already {first[1]} by then, but {third[0]} only afterwards.",
            f"{name} {third[0]} on {day} evening. {they} {second[0]} in the afternoon, after {first[2]}.",
        )
    ).replace(f". {they} ", f". {sentence_case(they)} ")
    which, answer = rng.choice((("first", first[0]), ("last", third[0])))
    options = rng.sample([first[0], second[0], third[0]], 3)
    return draft(f"{passage}\nWhat did {name} do {which}?", answer, options=options)


# An undertaking and steps of it, in the only order that makes sense.
SCRIPTS = (
    ("made tea", "filled the kettle", "boiled the water", "poured the water into the cup", "drank the tea"),
    ("posted a parcel", "packed the box", "sealed the box with tape",
     "took the box to the counter", "walked home without it"),
    ("went to the cinema", "bought a ticket", "found a seat", "watched the film", "talked about the ending"),
    ("planted beans", "dug a small hole", "dropped a bean into the hole",
     "saw the first leaf", "picked the ripe beans"),
    ("travelled by plane", "packed a suitcase", "checked in at the airport", "boarded the plane", "landed abroad"),
    ("had dinner at a restaurant", "read the menu", "ordered a pizza", "ate the pizza", "paid the bill"),
    ("washed some clothes", "put the clothes into the machine", "started the machine",
     "took out the wet clothes", "ironed the dry clothes"),
    ("borrowed a book", "searched the shelves", "had the book stamped", "read the book at home", "returned the book"),
    ("painted a wall", "bought the paint", "opened the tin", "painted the wall", "waited for the wall to dry"),
    ("baked bread", "mixed flour and water", "kneaded the dough", "put the dough into the oven", "sliced the loaf"),
    ("took an exam", "studied the subject", "opened the exam paper", "wrote down the answers", "learned the result"),
    ("changed a tyre", "stopped the car", "lifted the car with a jack",
     "took off the flat tyre", "put on the spare tyre"),
    ("went fishing", "put a worm on the hook", "cast the line", "pulled a fish out of the water", "fried the fish"),
    ("had a haircut", "sat down in the chair", "explained the style",
     "watched the hair fall", "looked at the result in the mirror"),
    ("camped in a forest", "carried the tent there", "put up the tent", "slept in the tent", "took down the tent"),
    ("sent a letter", "wrote the letter", "put the letter into an envelope",
     "dropped the envelope into the box", "received a reply"),
    ("moved to a new flat", "signed the contract", "packed the boxes", "loaded the van", "unpacked in the new kitchen"),
    ("built a snowman", "rolled a big snowball", "put a smaller ball on top",
     "added a carrot as a nose", "saw it melt in the sun"),
)  # fmt: skip


@task(
    "script_order",
    cluster="rc_commonsense",
    phrasings=(
        "Use common sense: which of the two came earlier?",
        "The passage does not tell what was done first. What was it?",
        "Choose what must have happened before the other.",
        "Which step was taken first?",
    ),
    pool=lambda: SCRIPTS,
)
def script_order(rng: random.Random, scripts: Sequence[Sequence[str]]) -> Draft:
    """Which of two steps of an everyday undertaking came first?"""
    whole, *steps = rng.choice(scripts)
    earlier, later = sorted(rng.sample(range(len(steps)), 2))
    told = rng.sample([steps[earlier], steps[later]], 2)
    name, day = rng.choice(PEOPLE), rng.choice(WEEKDAYS)
    they = she_or_he(name)
    passage = rng.choice(
        (
            f"{name} {whole} last {day}. At some point {they} {told[0]}, and at some point {they} {told[1]}.",
            f"Last {day} {name} {whole}. Among other things, {they} {told[0]} and {told[1]}, not always in that order.",
        )
    )
    return draft(passage, steps[earlier], options=rng.sample(told, 2))


# What A does, what B does, then questions to which the answer is A and to which it is B.
OUTCOMES = (
    ("left some butter in the sun", "kept some butter in the fridge", "Whose butter is soft?", "Whose butter is hard?"),
    ("walked to the office in heavy rain", "took a taxi to the office", "Who is wet?", "Who is dry?"),
    ("dropped an egg on the floor", "put an egg down gently", "Whose egg is broken?", "Whose egg is whole?"),
    ("watered the plant every day", "never watered the plant", "Whose plant is green?", "Whose plant has withered?"),
    ("put a pan of water into the freezer", "left a pan of water on the stove",
     "Who finds ice?", "Who finds hot water?"),
    ("ran up ten flights of stairs", "took the lift", "Who is out of breath?", "Who is breathing calmly?"),
    ("washed a wool jumper in boiling water", "washed a wool jumper in cold water",
     "Whose jumper shrank?", "Whose jumper still fits?"),
    ("left the lid off the paint", "closed the tin of paint tightly",
     "Whose paint dried up?", "Whose paint is still liquid?"),
    ("left the bicycle unlocked all night", "locked the bicycle in the cellar",
     "Whose bicycle is more likely to be stolen?", "Whose bicycle is safer?"),
    ("slept for three hours", "slept for nine hours", "Who is yawning all day?", "Who is well rested?"),
    ("read by candlelight", "read by a bright lamp", "Who had more trouble seeing?", "Who could see the page well?"),
    ("left the milk out for a week", "bought fresh milk", "Whose milk is sour?", "Whose milk tastes good?"),
    ("added salt to the coffee", "added sugar to the coffee", "Whose coffee tastes awful?", "Whose coffee is sweet?"),
    ("tied the dog to a post", "let the dog off the lead", "Whose dog stayed in place?", "Whose dog ran away?"),
    ("wore a coat in the snow", "wore a T-shirt in the snow", "Who was warm?", "Who was shivering?"),
    ("put the phone into a bucket of water", "put the phone on a shelf",
     "Whose phone was ruined?", "Whose phone still works?"),
    ("practised the song for a month", "never practised the song",
     "Who is likely to play it well?", "Who is likely to make mistakes?"),
    ("forgot the cake in the oven for three hours", "took the cake out on time",
     "Whose cake was burnt?", "Whose cake was good?"),
    ("stayed on the beach without any shade", "sat under a beach umbrella", "Who is sunburnt?", "Whose skin is fine?"),
    ("inflated a balloon next to a cactus", "inflated a balloon in an empty room",
     "Whose balloon is more likely to burst?", "Whose balloon is safer?"),
    ("ate nothing all day", "had two large meals", "Who is hungry?", "Who is full?"),
    ("stood next to the loudspeaker", "stood at the far end of the park",
     "Who heard the music louder?", "Who heard the music less?"),
    ("wrote the name in pencil", "wrote the name in ink",
     "Whose writing can be rubbed out?", "Whose writing is there to stay?"),
    ("packed three stones", "packed three feathers", "Whose bag is heavy?", "Whose bag is light?"),
)  # fmt: skip


@task(
    "physical_outcome",
    cluster="rc_commonsense",
    phrasings=(
        "Think about what happens next and name the person.",
        "Which of the two people is meant?",
        "Use common sense to answer with a name.",
        "Read the passage. Who is it?",
    ),
    pool=lambda: OUTCOMES,
)
def physical_outcome(rng: random.Random, outcomes: Sequence[tuple[str, str, str, str]]) -> Draft:
    """To whom of two people does the natural outcome belong?"""
    one_does, other_does, asks_one, asks_other = rng.choice(outcomes)
    one, other = rng.sample(PEOPLE, 2)
    clauses = rng.sample([f"{one} {one_does}", f"{other} {other_does}"], 2)
    question, answer = rng.choice(((asks_one, one), (asks_other, other)))
    link = rng.choice((", while ", "; ", ", and "))
    return draft(f"{link.join(clauses)}. {question}", answer, options=rng.sample([one, other], 2))
