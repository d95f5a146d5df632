"""Summarization: the headline of a report, the subject of a message, what two people agreed on."""

from __future__ import annotations

import random

from lorajax.data.builtin.engine import Draft, draft, task
from lorajax.data.builtin.words import PEOPLE, SMALL_NUMBERS, WEEKDAYS, sentence_case

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

# The report of an event, and its headline.
EVENTS = (
    (
        "The main bridge in {town} was closed on {day} after a lorry had hit one of its pillars. {aside} "
        "Engineers will need {n} days for the repair.",
        "{town} bridge closed after lorry accident",
    ),
    (
        "A fire destroyed the old {works} in {town} in the night to {day}. {aside} It took {n} fire engines to put out "
        "the flames.",
        "Fire destroys old {works} in {town}",
    ),
    (
        "The council of {town} decided on {day} to build a new {site}. {aside} The work is to begin in {n} months.",
        "{town} to build new {site}",
    ),
    (
        "{name}, a {age}-year-old pupil from {town}, won the national {prize} on {day}. {aside} There were {n} other "
        "finalists.",
        "{town} pupil wins national {prize}",
    ),
    (
        "After {n} hours of heavy rain, the river burst its banks in {town} on {day}. {aside} Several streets are "
        "under water.",
        "River floods streets in {town}",
    ),
    (
        "The {works} in {town} will close for good, its owner said on {day}. {aside} The {n} workers are looking for "
        "other jobs.",
        "{town} {works} to close for good",
    ),
    (
        "On {day} hikers near {town} came across a dog that had been missing for {n} weeks. {aside} It is now back "
        "with its owner, {name}.",
        "Missing dog found near {town}",
    ),
    (
        "The train drivers of {town} went on strike on {day}. {aside} They want {n} more days off a year, said their "
        "speaker, {name}.",
        "Train drivers on strike in {town}",
    ),
    (
        "Thieves broke into the {museum} museum of {town} on {day} and took {n} paintings. {aside} There is no trace "
        "of them yet.",
        "Paintings stolen from {town} museum",
    ),
    (
        "{name} will be the new mayor of {town}. {aside} The vote on {day} was won by a lead of only {n} per cent.",
        "{name} elected mayor of {town}",
    ),
)
ASIDES = (
    "Nobody was prepared for it.",
    "Many people heard the news on the radio.",
    "It was the talk of the town.",
    "Nothing like it had happened in years.",
    "The weekly paper was the first to report it.",
)


@task(
    "report_headline",
    cluster="summarization",
    phrasings=(
        "Write a headline for the report.",
        "Sum up the news in a few words.",
        "What would the newspaper print above this report?",
        "Give the report a short title.",
    ),
)
def report_headline(rng: random.Random) -> Draft:
    """Write the headline of a short local news report."""
    report, headline = rng.choice(EVENTS)
    words = {
        "town": rng.choice(TOWNS),
        "day": rng.choice(WEEKDAYS),
        "n": rng.choice(SMALL_NUMBERS[2:]),
        "name": rng.choice(PEOPLE),
        "age": rng.randint(12, 17),
        "works": rng.choice(("paper mill", "shoe factory", "brewery", "sugar factory", "shipyard")),
        "site": rng.choice(("library", "swimming pool", "bus station", "primary school", "concert hall")),
        "prize": rng.choice(("maths contest", "poetry prize", "chess title", "cooking contest", "spelling contest")),
        "museum": rng.choice(("city", "old", "small", "harbour")),
        "aside": rng.choice(ASIDES),
    }
    return draft(report.format(**words), headline.format(**words))


MEETINGS = (
    "budget meeting",
    "choir practice",
    "staff lunch",
    "book club",
    "safety course",
    "parents' evening",
    "team call",
)
CAUSES = (
    "the heating has failed",
    "the room is being painted",
    "the windows are being cleaned",
    "the usual room is closed",
    "there is too much noise outside",
    "there is no light in the room",
)
REQUESTS = (
    "Please tell those who do not read their mail.",
    "Please pass this on to the others.",
    "Let me know if this is a problem.",
    "Thank you for your patience.",
    "I am sorry for the short notice.",
)


@task(
    "email_subject",
    cluster="summarization",
    phrasings=(
        "Write the subject line of this message.",
        "What is the main point of the message?",
        "Sum up the email in one short line.",
        "Give the message a subject that says what matters.",
    ),
)
def email_subject(rng: random.Random) -> Draft:
    """Write the subject line of a message about a change of plan."""
    what, cause, request = rng.choice(MEETINGS), rng.choice(CAUSES), rng.choice(REQUESTS)
    day, new_day = rng.sample(WEEKDAYS, 2)
    hour, new_hour = rng.choice(SMALL_NUMBERS[2:8]), rng.choice(SMALL_NUMBERS[2:8])
    room = rng.randint(2, 40)
    news, subject = rng.choice(
        (
            (
                f"the {what} on {day} at {hour} is moved to {new_day} at {new_hour}",
                f"{what} moved to {new_day} at {new_hour}",
            ),
            (f"the {what} on {day} at {hour} cannot take place", f"{what} on {day} cancelled"),
            (f"the {what} on {day} at {hour} will be held in room {room}", f"{what} on {day} now in room {room}"),
        )
    )
    greeting = rng.choice(("Dear all", "Hello everyone", "Dear friends"))
    told = rng.choice((f"since {cause}, {news}", f"{news}, because {cause}"))
    return draft(f"{greeting}, {told}. {request} Best wishes, {rng.choice(PEOPLE)}", sentence_case(subject))


OUTINGS = (
    ("see the new film", "at the cinema", "see the new film"),
    ("play tennis", "at the tennis court", "play tennis"),
    ("have dinner", "at the Greek restaurant", "have dinner"),
    ("go swimming", "at the pool", "go swimming"),
    ("study for the exam", "at the library", "study for the exam"),
    ("look at some flats", "at the station", "look at some flats"),
    ("buy a present for mum", "outside the bookshop", "buy a present for their mother"),
)
EXCUSES = ("I have to work then", "I am away that day", "I promised to babysit", "my parents are visiting")


@task(
    "chat_agreement",
    cluster="summarization",
    phrasings=(
        "What did the two agree on? Answer in one sentence.",
        "Sum up the conversation in one sentence.",
        "Say in one sentence how the chat ends.",
        "Summarize the dialogue.",
    ),
)
def chat_agreement(rng: random.Random) -> Draft:
    """Sum up a chat in which two people find a date."""
    one, other = rng.sample(PEOPLE, 2)
    outing, where, told = rng.choice(OUTINGS)
    day, new_day = rng.sample(WEEKDAYS, 2)
    hour = rng.choice(SMALL_NUMBERS[2:8])
    lines = [f"{one}: Shall we {outing} on {day}?"]
    if rng.random() < 0.6:
        lines.append(f"{other}: Sorry, {rng.choice(EXCUSES)}. What about {new_day}?")
        lines.append(f"{one}: {rng.choice(('Fine', 'Perfect', 'No problem'))}. At {hour}?")
        lines.append(f"{other}: {rng.choice(('Good', 'Great', 'All right'))}, {where}.")
        day = new_day
    else:
        lines.append(f"{other}: {rng.choice(('Good idea', 'With pleasure', 'Why not'))}. At what time?")
        lines.append(f"{one}: At {hour}, {where}.")
    return draft("\n".join(lines), f"{one} and {other} will meet {where} on {day} at {hour} to {told}.")
