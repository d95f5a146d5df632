"""Constant prompts: those of templates without a place for the example, and nothing else."""

import collections
import itertools
import random

import pytest

from lorajax.data import builtin
from lorajax.data.prompts import body
from lorajax.data.repeats import OFTEN, constant_prompts, without_constant_prompts
from lorajax.data.task import Example, Task, overlap

OPTIONS = "\n\nOPTIONS:\n- good\n- bad"
LABELS = ("good", "bad")


def asked(number):
    """Templates, our own in the manner of FLAN's, that have a place for the example."""
    return [("{text}\nQuestion " + str(i) + ": what is its mood?" + OPTIONS, "{label}") for i in range(number)]


#: Ten templates a task, as in FLAN, and how many of them are constant but for a label or a language.
TEMPLATES = {
    "ordinary": (asked(10), 0),
    "one constant": ([*asked(9), ("Invent an opinion.", "{text}")], 1),
    "three constants": (
        [*asked(7), *((f"Invent a question, number {i}.", "{text}") for i in range(3))],
        3,
    ),
    "labels and a constant": (
        [
            *asked(7),
            ("Invent a {label} opinion.", "{text}"),
            ("Invent an opinion of the mood: {label}", "{text}"),
            ("Invent an opinion.", "{text}"),
        ],
        3,
    ),
    "languages": (
        [*asked(8), ("Say something in {language}.", "{text}"), ("Say something not in {language}.", "{text}")],
        2,
    ),
}


def render(templates, count, *, first=0, seed=0):
    """Rows as FLAN makes them: example i by template i mod 10, those after the last full ten left out, shuffled."""
    examples = []
    for i in range(count - count % 10):
        values = {"text": f"text {first + i}", "label": LABELS[(i // 10) % 2], "language": "Finnish"}
        prompt, answer = (pattern.format(**values) for pattern in templates[i % 10])
        examples.append(Example("a", "sentiment", prompt, (answer,)))
    random.Random(seed).shuffle(examples)
    return tuple(examples)


def make_task(templates, train=1000, test=130):
    return Task("a", "sentiment", render(templates, train), render(templates, test, first=10**6, seed=1))


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize(("train", "test"), [(1000, 130), (200, 50)])
def test_templates_like_those_of_flan(kind, train, test):
    templates, constant = TEMPLATES[kind]
    task = make_task(templates, train, test)
    assert constant_prompts(task) == (train + test) * constant // 10
    less, dropped = without_constant_prompts(task)
    assert dropped == constant_prompts(task)
    # What is left are exactly the rows that say something of their example, in the order they were in.
    for side, kept in ((task.train, less.train), (task.test, less.test)):
        assert kept == tuple(e for e in side if "text " in e.input)
    assert (less.name, less.cluster) == ("a", "sentiment")
    assert constant_prompts(less) == 0


def test_a_few_equal_rows_are_left_alone():
    once = Example("a", "nli", "the same", ("x",))
    others = tuple(Example("a", "nli", f"number {i}", ("x",)) for i in range(20))
    task = Task("a", "nli", (once, *others[:15]), (*others[15:], *[once] * (OFTEN - 2)))
    assert overlap(task) == 1
    assert without_constant_prompts(task) == (task, 0)


def test_both_sides_count_together():
    """A test side so small that a template is in it once still loses the template's row."""
    constant = Example("a", "nli", "Invent a question.", ("x",))
    others = tuple(Example("a", "nli", f"number {i}", ("x",)) for i in range(20))
    task = Task("a", "nli", (*others[:10], *[constant] * (OFTEN - 1)), (constant, *others[10:]))
    less, dropped = without_constant_prompts(task)
    assert (less.train, less.test, dropped) == (others[:10], others[10:], OFTEN)


def test_the_whole_prompt_counts():
    """Rows that differ in instruction, input or options alone are different; those that differ in the answer are not."""
    parts = itertools.product(("Do.", "Do it.", "Do this."), ("in 1", "in 2", "in 3"), (("a",), ("b",), ("c",)))
    examples = tuple(Example("a", "nli", text, ("x",), told, options) for told, text, options in parts)
    assert constant_prompts(Task("a", "nli", examples, ())) == 0
    same = tuple(Example("a", "nli", "in 1", (f"answer {i}",), "Do.") for i in range(OFTEN))
    assert constant_prompts(Task("a", "nli", examples + same, ())) == OFTEN
    # "Do.\nin 1" as instruction and input, and as one input, is the same prompt.
    joined = (*same[1:], Example("a", "nli", "Do.\nin 1", ("x",)))
    assert {body(e) for e in joined} == {"Do.\nin 1"}
    assert constant_prompts(Task("a", "nli", joined, ())) == OFTEN


def test_passages_with_several_questions_are_ordinary():
    """Templates that show a passage and ask for a question: rows of one passage may share a prompt.

    1,000 rows drawn from 30,000 on 2,100 passages, as in DROP, with two such templates in ten.
    """
    draw = random.Random(0)
    examples = []
    for i in range(30_000):
        passage, template = draw.randrange(2100), i % 10
        text = f"passage {passage}, ask {template}" if template > 7 else f"passage {passage}, question {i}"
        examples.append(Example("a", "reading_comprehension", text, (str(i),)))
    task = Task("a", "reading_comprehension", tuple(draw.sample(examples, 1000)), ())
    assert collections.Counter(e.input for e in task.train).most_common(1)[0][1] == 2  # so there are pairs
    assert without_constant_prompts(task) == (task, 0)


def test_the_built_in_tasks_have_none():
    for name in builtin.names():
        task = builtin.load(name, n_train=100, n_test=30)
        assert constant_prompts(task) == 0, name


@pytest.mark.parametrize(("rows", "passages"), [(30_000, 2100), (27_240, 456)])  # as many as DROP and MultiRC train on
def test_passages_with_several_questions_are_ordinary_in_whole_tasks(rows, passages):
    draw = random.Random(0)
    examples = []
    for i in range(rows):
        passage, template = draw.randrange(passages), i % 10
        text = f"passage {passage}, ask {template}" if template > 7 else f"passage {passage}, question {i}"
        examples.append(Example("a", "reading_comprehension", text, (str(i),)))
    assert constant_prompts(Task("a", "reading_comprehension", tuple(examples), ())) == 0
