"""From a function that draws one instance to a seeded, split and balanced task.

A task is a function of a `random.Random` (and, if the task is about things that are known or not, of the list of
things it may ask about), registered under a name:

    @task("doubling", cluster="misc", phrasings=("Double the number.", "What is twice this number?", ...))
    def doubling(rng):
        '''Twice a number.'''
        n = rng.randrange(1000)
        return draft(str(n), str(2 * n))

Python promises that a `random.Random` seeded with a string gives the same numbers everywhere; `hash()` and the order
of a set are not the same everywhere, so neither may be used in a task.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from lorajax.data.task import CLUSTERS, Example, Task
from lorajax.errors import LorajaxError

#: One in this many inputs (or entities) is kept for testing.
TEST_SHARE = 4
#: A task is taken to be exhausted after this many draws in a row that gave nothing new.
PATIENCE = 5000


class Draft(NamedTuple):
    """One instance, before it is given an instruction."""

    input: str
    targets: tuple[str, ...]
    options: tuple[str, ...] | None = None


def draft(input: str, *targets: str, options: Sequence[str] | None = None) -> Draft:
    """An instance and the answers that count as right, the one to train on first."""
    return Draft(input, tuple(dict.fromkeys(targets)), None if options is None else tuple(options))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A registered task: how its instances are drawn and how they are asked for.

    `labels` are the answers of a classification task: they become the options of every example and come up equally
    often. `pool` lists the entities of a task about facts, which are then divided between training and test; `group`
    sorts them into groups that are divided one by one, so that the test has entities of every group.
    """

    name: str
    cluster: str
    about: str
    phrasings: tuple[str, ...]
    make: Callable[..., Draft]
    labels: tuple[str, ...] = ()
    pool: Callable[[], Sequence[Any]] | None = None
    group: Callable[[Any], str] = lambda entity: ""


#: Every task, in the order of registration.
RECIPES: dict[str, Recipe] = {}


def task(
    name: str,
    *,
    cluster: str,
    phrasings: Sequence[str],
    labels: Sequence[str] = (),
    pool: Callable[[], Sequence[Any]] | None = None,
    group: Callable[[Any], str] = lambda entity: "",
) -> Callable[[Callable[..., Draft]], Callable[..., Draft]]:
    """Register the decorated function as the built-in task `name`; its docstring is the task's description."""
    if name in RECIPES:
        raise ValueError(f"two built-in tasks are named {name!r}")
    if cluster not in CLUSTERS:
        raise ValueError(f"task {name!r}: unknown cluster {cluster!r}")
    if len(set(phrasings)) < 4:
        raise ValueError(f"task {name!r}: four different phrasings are needed, found {len(set(phrasings))}")

    def register(make: Callable[..., Draft]) -> Callable[..., Draft]:
        about = (make.__doc__ or "").strip().splitlines()[0]
        RECIPES[name] = Recipe(name, cluster, about, tuple(phrasings), make, tuple(labels), pool, group)
        return make

    return register


def assemble(recipe: Recipe, *, n_train: int, n_test: int, seed: int) -> Task:
    """The task with the first `n_train` and `n_test` examples of its two streams."""
    return Task(
        recipe.name,
        recipe.cluster,
        train=_take(recipe, "train", n_train, seed),
        test=_take(recipe, "test", n_test, seed),
    )


def _take(recipe: Recipe, split: str, count: int, seed: int) -> tuple[Example, ...]:
    if count < 1:
        raise LorajaxError(f"task {recipe.name!r}: n_{split} must be at least 1, found {count}")
    examples = tuple(itertools.islice(_stream(recipe, split, seed), count))
    if len(examples) < count:
        raise LorajaxError(f"task {recipe.name!r}: asked for {count} {split} examples, found only {len(examples)}")
    return examples


def _stream(recipe: Recipe, split: str, seed: int) -> Iterator[Example]:
    """The examples of one side, without end as long as new ones can be found."""
    rng = random.Random(f"{recipe.name}/{seed}/{split}")
    arguments = [] if recipe.pool is None else [_side(recipe, split)]
    seen: set[str] = set()
    uses = dict.fromkeys(recipe.labels, 0)
    misses = 0
    while misses < PATIENCE:
        found = recipe.make(rng, *arguments)
        misses += 1
        if found.input in seen or (recipe.pool is None and _split_of(recipe.name, found.input) != split):
            continue
        if recipe.labels:
            # In every run of len(labels) examples each label comes up once.
            if uses[found.targets[0]] > min(uses.values()):
                continue
            uses[found.targets[0]] += 1
        seen.add(found.input)
        misses = 0
        yield Example(
            task=recipe.name,
            cluster=recipe.cluster,
            input=found.input,
            targets=found.targets,
            definition=rng.choice(recipe.phrasings),
            options=recipe.labels or found.options,
        )


def _split_of(name: str, text: str) -> str:
    return "test" if _scatter(name, text) % TEST_SHARE == 0 else "train"


def _side(recipe: Recipe, split: str) -> list[Any]:
    """The entities of one side: one in `TEST_SHARE` for testing, chosen by the hash of the entity's name."""
    assert recipe.pool is not None
    groups: dict[str, list[Any]] = {}
    for entity in sorted(recipe.pool(), key=lambda entity: _scatter(recipe.name, _entity_name(entity))):
        groups.setdefault(recipe.group(entity), []).append(entity)
    side = []
    for _, entities in sorted(groups.items()):
        cut = len(entities) // TEST_SHARE
        side += entities[:cut] if split == "test" else entities[cut:]
    return side


def _entity_name(entity: Any) -> str:
    """The entity itself, or what comes first in its record."""
    return entity if isinstance(entity, str) else _entity_name(entity[0])


def _scatter(name: str, text: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(f"{name}/{text}".encode()).digest()[:4], "big")
