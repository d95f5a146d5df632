"""Paraphrase: do two texts mean the same, and can one be said in another way?"""

from __future__ import annotations

import random

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, WEEKDAYS, sentence_case

YES_NO = ("yes", "no")

DEEDS = ("thanked", "warned", "invited", "photographed", "interviewed", "followed", "greeted", "recognised", "helped")
# What one side does, what the other side then does; the verb, and what follows the thing.
EXCHANGES = (
    ("sold", "to", "bought", "from"),
    ("lent", "to", "borrowed", "from"),
    ("sent", "to", "received", "from"),
)
GOODS = ("a bicycle", "a camera", "an umbrella", "a drum", "a tent", "a coat", "an old map", "a guitar", "a lamp")


@task(
    "same_meaning",
    cluster="paraphrase",
    labels=YES_NO,
    phrasings=(
        "Do the two sentences mean the same?",
        "Is the second sentence a paraphrase of the first?",
        "Do both sentences describe the same event?",
        "Compare the sentences. Is their meaning the same?",
        "Could one sentence replace the other without changing what is said?",
    ),
)
def same_meaning(rng: random.Random) -> Draft:
    """Do two sentences made of nearly the same words say the same?"""
    giver, taker = rng.sample(PEOPLE, 2)
    day, other_day = rng.sample(WEEKDAYS, 2)
    if rng.random() < 0.5:
        gives, to, takes, source = rng.choice(EXCHANGES)
        thing = rng.choice(GOODS)
        ways = [f"{giver} {gives} {thing} {to} {taker}", f"{taker} {takes} {thing} {source} {giver}"]
        swapped = [f"{taker} {gives} {thing} {to} {giver}", f"{giver} {takes} {thing} {source} {taker}"]
    else:
        deed = rng.choice(DEEDS)
        ways = [f"{giver} {deed} {taker}", f"{taker} was {deed} by {giver}", f"it was {giver} who {deed} {taker}"]
        swapped = [f"{taker} {deed} {giver}", f"{giver} was {deed} by {taker}", f"it was {taker} who {deed} {giver}"]

    def dated(event: str, when: str) -> str:
        return sentence_case(rng.choice((f"{event} on {when}.", f"on {when} {event}.")))

    first = dated(rng.choice(ways), day)
    same = rng.random() < 0.5
    if same:
        second = dated(rng.choice(ways), day)
        while second == first:
            second = dated(rng.choice(ways), day)
    elif rng.random() < 0.8:
        second = dated(rng.choice(swapped), day)
    else:
        second = dated(rng.choice(ways), other_day)
    return draft(f"1. {first}\n2. {second}", "yes" if same else "no")


# Past tense and participle of a deed, and the things it is done to, with the verb these take.
CRAFTS = (
    ("painted", "painted", ("the fence was", "the doors were", "the old boat was")),
    ("repaired", "repaired", ("the bridge was", "the engines were", "the roof was")),
    ("wrote", "written", ("the letters were", "the report was", "the play was")),
    ("stole", "stolen", ("the jewels were", "the necklace was", "the bicycles were")),
    ("broke", "broken", ("the window was", "the plates were", "the vase was")),
    ("ate", "eaten", ("the soup was", "the cherries were", "the last slice was")),
    ("drew", "drawn", ("the map was", "the plans were", "the portrait was")),
    ("found", "found", ("the keys were", "the wallet was", "the lost dog was")),
    ("built", "built", ("the wall was", "the stables were", "the tower was")),
    ("sang", "sung", ("the hymn was", "the songs were", "the duet was")),
    ("chose", "chosen", ("the winner was", "the colours were", "the menu was")),
    ("hid", "hidden", ("the coins were", "the treasure was", "the documents were")),
    ("took", "taken", ("the photographs were", "the samples were", "the money was")),
    ("threw away", "thrown away", ("the boxes were", "the old sofa was", "the newspapers were")),
)
DOERS = (
    "the baker", "the children", "a young artist", "the new owner", "two soldiers", "our neighbours", "the captain",
    "an engineer", "the students", "the gardener", "a stranger", "my uncle", "the committee", "the twins",
)  # fmt: skip


@task(
    "make_passive",
    cluster="paraphrase",
    phrasings=(
        "Rewrite the sentence in the passive voice.",
        "Turn this active sentence into a passive one.",
        "Say the same in the passive.",
        "Begin with the thing that is acted on and keep the meaning.",
    ),
)
def make_passive(rng: random.Random) -> Draft:
    """Rewrite an active sentence in the passive voice."""
    past, participle, things = rng.choice(CRAFTS)
    thing, _, be = rng.choice(things).rpartition(" ")
    doer = rng.choice(DOERS)
    day = rng.choice(WEEKDAYS)
    when = rng.choice(("", f" on {day}", f" last {day}", " this morning", " yesterday"))
    active = f"{doer} {past} {thing}{when}."
    passive = f"{thing} {be} {participle} by {doer}{when}."
    return draft(sentence_case(active), sentence_case(passive))


# Topics people ask about: what one wants to do, as "how to" continues it, in two wordings.
WISHES = (
    ("clean a cast iron pan", "get a cast iron pan clean"),
    ("season a cast iron pan", "give a cast iron pan a good seasoning"),
    ("learn to swim as an adult", "pick up swimming as an adult"),
    ("teach a child to swim", "get a child to learn swimming"),
    ("remove red wine from a carpet", "get red wine out of a carpet"),
    ("remove candle wax from a carpet", "get candle wax out of a carpet"),
    ("choose a running shoe", "pick a shoe for running"),
    ("wash a running shoe", "get a running shoe clean"),
    ("grow tomatoes on a balcony", "raise tomatoes on a balcony"),
    ("grow herbs on a balcony", "raise herbs on a balcony"),
    ("fall asleep on a plane", "get some sleep on a plane"),
    ("stay awake on a night shift", "keep from falling asleep on a night shift"),
    ("write a cover letter", "put together a cover letter"),
    ("end a cover letter", "close a cover letter"),
    ("sharpen a kitchen knife", "get a kitchen knife sharp again"),
    ("store a kitchen knife", "keep a kitchen knife somewhere safe"),
    ("train a puppy to sit", "teach a puppy to sit"),
    ("stop a puppy from biting", "get a puppy to quit biting"),
    ("repair a punctured bicycle tube", "fix a hole in a bicycle tube"),
    ("choose the right bicycle tube", "find out which bicycle tube fits"),
    ("save money on heating", "lower a heating bill"),
    ("save money on flights", "find a cheaper flight"),
    ("boil an egg so that the yolk stays soft", "make a soft-boiled egg"),
    ("peel a boiled egg without tearing it", "take the shell off a boiled egg neatly"),
    ("remember people's names", "get better at remembering names"),
    ("introduce two people to each other", "make two people acquainted"),
    ("prepare for a job interview", "get ready for a job interview"),
    ("dress for a job interview", "decide what to wear to a job interview"),
    ("learn Spanish quickly", "pick up Spanish in a short time"),
    ("learn Greek quickly", "pick up Greek in a short time"),
)
QUESTIONS = (
    "How do I {wish}?",
    "What is the best way to {wish}?",
    "How can I {wish}?",
    "Can anyone tell me how to {wish}?",
    "What should I do to {wish}?",
    "Is there an easy way to {wish}?",
    "I would like to {wish}. What do you advise?",
)


@task(
    "duplicate_questions",
    cluster="paraphrase",
    labels=YES_NO,
    phrasings=(
        "Do the two questions ask for the same thing?",
        "Is the second question a duplicate of the first?",
        "Would one answer serve both questions?",
        "A forum wants to merge questions that are the same. Should these two be merged?",
    ),
)
def duplicate_questions(rng: random.Random) -> Draft:
    """Are two forum questions the same question in other words?"""
    topic = rng.randrange(len(WISHES))
    same = rng.random() < 0.5
    # Neighbours in the table share words but not the question.
    asked, related = WISHES[topic], WISHES[topic ^ 1]
    first_way, second_way = rng.sample(QUESTIONS, 2)
    wording = rng.randrange(2)
    other = asked[rng.choice((wording, 1 - wording, 1 - wording))] if same else rng.choice(related)
    return draft(
        f"1. {first_way.format(wish=asked[wording])}\n2. {second_way.format(wish=other)}", "yes" if same else "no"
    )
