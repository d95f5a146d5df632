"""Sentiment: reviews of films, opinions on parts of a product, short posts.

Bad words in a good review and the other way round are frequent on purpose: counting them does not help much.
"""

from __future__ import annotations

import random

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import WEEKDAYS, sentence_case

POSITIVE, NEGATIVE = "positive", "negative"

MONTHS = ("January", "March", "May", "July", "September", "November")

# Part of a film; what one can say for it and against it, after "the acting was" or the like.
FILM_PARTS = (
    ("the acting was", ("superb", "a joy to watch", "warm and believable"), ("wooden", "hard to bear", "lifeless")),
    ("the plot was", ("clever", "full of surprises", "gripping"), ("predictable", "full of holes", "a mess")),
    ("the music was", ("haunting", "lovely", "perfectly chosen"), ("far too loud", "annoying", "forgettable")),
    ("the ending was", ("deeply moving", "brilliant", "worth the wait"), ("a letdown", "rushed", "absurd")),
    ("the dialogue was", ("sharp", "witty", "a delight"), ("clumsy", "dull", "painfully flat")),
    ("the camera work was", ("stunning", "inventive", "elegant"), ("shaky", "ugly", "careless")),
    ("the first hour was", ("thrilling", "a pleasure", "wonderful"), ("boring", "confusing", "much too slow")),
)
FILM_KINDS = ("thriller", "comedy", "western", "road movie", "war film", "family drama", "documentary", "musical")
# Final judgements, some of them made with words of the other side.
FILM_PRAISE = (
    "I would gladly see it again",
    "I cannot praise it enough",
    "it is not to be missed",
    "it is the best {kind} I have seen this year",
    "you will not be disappointed",
    "it had the whole room clapping",
    "I do not regret the price of the ticket",
)
FILM_BLAME = (
    "I nearly walked out",
    "I cannot recommend it",
    "it is not worth the price of a ticket",
    "it is the worst {kind} I have seen this year",
    "I would not sit through it twice",
    "I was glad when it was over",
    "you would only waste an evening on it",
)


@task(
    "film_reviews",
    cluster="sentiment",
    labels=(POSITIVE, NEGATIVE),
    phrasings=(
        "Is this film review positive or negative?",
        "Did the writer like the film?",
        "What is the sentiment of the review as a whole?",
        "Decide whether the reviewer recommends the film.",
        "Judge the verdict of this review.",
    ),
)
def film_reviews(rng: random.Random) -> Draft:
    """The verdict of a film review in which good and bad points may be weighed."""
    label = rng.choice((POSITIVE, NEGATIVE))
    kind = rng.choice(FILM_KINDS)
    (first, *of_first), (second, *of_second) = rng.sample(FILM_PARTS, 2)
    same, other = (0, 1) if label == POSITIVE else (1, 0)
    agreeing = f"{second} {rng.choice(of_second[same])}"
    also_agreeing = f"{first} {rng.choice(of_first[same])}"
    conceded = f"{first} {rng.choice(of_first[other])}"
    verdict = rng.choice(FILM_PRAISE if label == POSITIVE else FILM_BLAME).format(kind=kind)
    hoped = "the worst" if label == POSITIVE else "great things"
    text = rng.choice(
        (
            f"{also_agreeing}, and {agreeing}. {sentence_case(verdict)}.",
            f"although {conceded}, {agreeing}. {sentence_case(verdict)}.",
            f"true, {conceded}. But {agreeing}, and {verdict}.",
            f"I expected {hoped} from this {kind}. It turned out that {agreeing}, and {verdict}.",
            f"Friends told me that {conceded}. That hardly matters: {agreeing}, and {verdict}.",
            f"we went to see a new {kind}. {sentence_case(conceded)}. Still, {verdict}.",
        )
    )
    return draft(sentence_case(text), label)


# Part of a product; what pleases and what annoys about it.
PRODUCT_PARTS = {
    "phone": (
        ("battery", "lasts two full days", "is empty by noon"),
        ("screen", "is easy to read even in the sun", "scratched within a week"),
        ("camera", "takes crisp pictures at night", "makes every face look grey"),
        ("speaker", "fills the whole room", "crackles at every call"),
    ),
    "backpack": (
        ("zip", "has never jammed", "broke on the first trip"),
        ("strap", "does not cut into my shoulder", "came loose after an hour"),
        ("fabric", "kept everything dry in a storm", "lets the rain through"),
        ("main pocket", "holds far more than I hoped", "is too small for a folder"),
    ),
    "coffee maker": (
        ("jug", "never drips", "spills each time I pour"),
        ("filter", "takes seconds to rinse", "is a nightmare to clean"),
        ("heater", "is ready in no time", "needs ages to warm up"),
        ("coffee", "tastes as good as in a bar", "tastes of plastic"),
    ),
    "bicycle": (
        ("saddle", "is comfortable even after hours", "hurts after ten minutes"),
        ("brakes", "work at once on wet roads", "fail on wet roads"),
        ("chain", "has not come off once", "comes off all the time"),
        ("lights", "are bright enough for a forest", "are too dim to be of use"),
    ),
    "hotel room": (
        ("bed", "could not have been softer", "was as hard as a board"),
        ("shower", "was hot at any hour", "never got warm"),
        ("view", "took our breath away", "was of a brick wall"),
        ("staff", "solved every problem with a smile", "ignored us"),
    ),
    "novel": (
        ("opening", "pulled me in at once", "almost made me give up"),
        ("heroine", "is not easily forgotten", "has no character at all"),
        ("style", "is a pleasure on every page", "is tiring to read"),
        ("last chapter", "ties everything together", "explains nothing"),
    ),
}


@task(
    "aspect_opinion",
    cluster="sentiment",
    labels=(POSITIVE, NEGATIVE),
    phrasings=(
        "What does the reviewer think of the part named?",
        "Read the review and give the opinion on the given aspect.",
        "Is the customer pleased with this aspect?",
        "Give the sentiment toward the aspect, not toward the product.",
    ),
)
def aspect_opinion(rng: random.Random) -> Draft:
    """What a review says about one part of a product, whatever it says about another."""
    product = rng.choice(sorted(PRODUCT_PARTS))
    asked, other = rng.sample(PRODUCT_PARTS[product], 2)
    label, other_label = rng.choice((POSITIVE, NEGATIVE)), rng.choice((POSITIVE, NEGATIVE))

    def opinion(part: tuple[str, str, str], its_label: str) -> str:
        name, praise, blame = part
        return f"the {name} {praise if its_label == POSITIVE else blame}"

    joint = ", and" if label == other_label else ", but"
    parts = [opinion(asked, label), opinion(other, other_label)]
    rng.shuffle(parts)
    bought = "We booked it" if product == "hotel room" else f"I bought this {product}"
    opening = rng.choice(("", f"{bought} in {rng.choice(MONTHS)}. "))
    closing = rng.choice(("", " I paid the full price.", " Just so you know.", " That is all I can say so far."))
    text = f"{opening}{sentence_case(parts[0])}{joint} {parts[1]}.{closing}"
    return draft(f"Review ({product}): {text}\nAspect: {asked[0]}", label)


POST_SUBJECTS = {
    POSITIVE: (
        "got the job", "my sister is coming home tonight", "first sunny day in weeks", "passed my driving test",
        "best soup of my life, no joke", "the neighbours brought us cake", "slept ten hours and feel like new",
        "we actually won 3-0", "finally finished my thesis", "the dog is healthy again, can't stop smiling",
        "no delays, no queue, and a window seat", "she said yes",
    ),
    NEGATIVE: (
        "missed the last train again", "my phone fell into the sink", "third rejection this month",
        "the heating is broken and it's freezing", "two hours in a queue for nothing", "lost my keys again",
        "nobody came to the show", "the cake came out burnt", "we lost in the last minute", "toothache all night long",
        "great, another parking ticket", "so much for the holiday, it rained all week",
    ),
    "neutral": (
        "the library opens at nine", "the meeting is in room 12", "bus 40 leaves from the other side now",
        "the museum is on the left bank", "the shop sells bread and milk",
        "tickets are sold at the door", "the new timetable is online",
        "there are two exits on this floor", "our team plays on saturday",
        "there is a market on the square", "the film lasts two hours",
        "trains to the coast stop in the north station",
    ),
}  # fmt: skip
POST_TAILS = {
    POSITIVE: ("", " :)", ". best day ever", "! so happy", "! could not ask for more", " #grateful"),
    NEGATIVE: ("", " :(", ". worst day ever", ". so tired of this", ". why me", " #fail"),
    "neutral": ("", ", fyi", ". just a note", ". pass it on", ". see the notice board", " #info"),
}
POST_HEADS = ("", "ok so ", "news from here: ", "update: ", "hey all, ", "well, ", "good morning. ")


@task(
    "short_posts",
    cluster="sentiment",
    labels=(POSITIVE, NEGATIVE, "neutral"),
    phrasings=(
        "How does the writer of this post feel?",
        "Give the sentiment of the post.",
        "Sort the message by its mood.",
        "Is the mood of this short message good, bad or neither?",
    ),
)
def short_posts(rng: random.Random) -> Draft:
    """The mood of a short informal post: positive, negative or neutral."""
    label = rng.choice((POSITIVE, NEGATIVE, "neutral"))
    day = rng.choice(("", *(f" #{day.lower()}" for day in WEEKDAYS)))
    text = f"{rng.choice(POST_HEADS)}{rng.choice(POST_SUBJECTS[label])}{rng.choice(POST_TAILS[label])}{day}"
    return draft(text, label)
