"""The published numbers as typed records, from the JSON files of this package.

    layer_by_layer.json   figures 2, 3, 5, 6 and 7 of Zhao, Ziser & Cohen, EMNLP 2024 (arXiv 2410.20008)
    task_vectors.json     the tables of the poster on LoRA task vectors

Each value has a reading error: half the width of the interval that the true value lies in, for a value digitised from a
figure an estimate of the reader, for a printed one its rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

#: Recipes that there are published numbers of.
RECIPES = ("layer-by-layer", "task-vectors")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where numbers are from."""

    label: str  # for legends
    title: str
    authors: str
    where: str
    read_from: str


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that numbers are of; `names` are last parts of a path or hub id that can only mean this model."""

    label: str
    names: tuple[str, ...]
    blocks: int
    hidden_size: int
    parameters: int | None = None

    def differs(self, record: Mapping[str, Any]) -> str:
        """Why the model of a study's record is another one; empty if it is this one."""
        own = PurePosixPath(str(record["name"]).replace("\\", "/")).name
        blocks = sum(str(layer).startswith("block ") for layer in record["layers"])
        if own.casefold() not in [name.casefold() for name in self.names]:
            return f"another model: {own} is not {self.label}"
        if blocks != self.blocks:
            return f"another model: {own} has {blocks} blocks, {self.label} has {self.blocks}"
        parameters = record.get("parameters")
        if self.parameters and parameters and parameters != self.parameters:
            return f"another model: {own} has {parameters:,} parameters, {self.label} has {self.parameters:,}"
        return ""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """One number for each layer 1 to L, float64 `[L]`; NaN where none was published or could be read."""

    figure: str  # number of the figure
    quantity: str  # cka, cka_unseen, dimensions, flesch_kincaid, coleman_liau or data_size
    of: str  # a pair of models ("base | C") or a model ("base")
    cluster: str  # of tasks; empty for all
    statistic: str  # q1, median, q3 or mean over tasks; pearson
    values: np.ndarray
    error: float  # in the unit of the values


@dataclasses.dataclass(frozen=True)
class LayerByLayer:
    """Curves over the layers of one model. The last layer is after the final norm, the others are after a block."""

    source: Source
    model: Model
    most_prompts: int  # of each task at most
    variance: float  # share of it that `dimensions` hold
    curves: tuple[Curve, ...]

    def curve(self, figure: str, of: str, statistic: str, quantity: str = "", cluster: str = "") -> Curve:
        """The one of this description; `quantity` only where a figure has several."""
        [found] = [
            c
            for c in self.curves
            if (c.figure, c.of, c.statistic, c.cluster) == (figure, of, statistic, cluster)
            and quantity in ("", c.quantity)
        ]
        return found


@dataclasses.dataclass(frozen=True)
class Projected:
    """One entry of a table: the update of one task, projected on the space of another's."""

    quantity: str  # l1, rec, h_s1 or h_s2
    of: str  # instruct or base
    onto: str  # the task whose space it is
    projected: str
    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class TaskVectors:
    """Tables of spectral projections, means over layers and modules."""

    source: Source
    models: Mapping[str, tuple[Model, ...]]  # instruct, base: any of these may be what the table is of
    rank: int
    targets: tuple[str, ...]
    form: str
    p: float
    tasks: Mapping[str, tuple[str, ...]]  # globs of our tasks that stand for a published one, best first
    values: tuple[Projected, ...]


@functools.cache
def layer_by_layer() -> LayerByLayer:
    """The curves of "Layer by Layer"."""
    facts = _read("layer_by_layer.json")
    curves: list[Curve] = []
    for figure, own in facts["figures"].items():
        by = own.get("by", "")
        for group, by_model in (own["values"] if by else {"": own["values"]}).items():
            quantity, cluster = (group, "") if by == "measure" else (own["quantity"], group)
            for of, entries in by_model.items():
                table = _by_statistic(entries, len(own["statistics"]), facts["model"]["blocks"])
                curves += [
                    Curve(figure, quantity, of, cluster, statistic, values, own["error"])
                    for statistic, values in zip(own["statistics"], table, strict=True)
                ]
    return LayerByLayer(
        source=Source(**facts["source"]),
        model=_model(facts["model"]),
        most_prompts=facts["prompts"]["most"],
        variance=facts["figures"]["5"]["share"],
        curves=tuple(curves),
    )


@functools.cache
def task_vectors() -> TaskVectors:
    """The tables of the poster."""
    facts = _read("task_vectors.json")
    setup = facts["setup"]
    return TaskVectors(
        source=Source(**facts["source"]),
        models={of: tuple(map(_model, facts["models"][of])) for of in ("instruct", "base")},
        rank=setup["rank"],
        targets=tuple(setup["targets"]),
        form=setup["form"],
        p=setup["p"],
        tasks={name: tuple(globs) for name, globs in facts["tasks"].items() if name != "note"},
        values=tuple(
            Projected(quantity, of, row["onto"], row["projected"], value, facts["error"])
            for row in facts["rows"]
            for of in ("instruct", "base")
            for quantity, value in row[of].items()
        ),
    )


def _read(name: str) -> dict[str, Any]:
    return json.loads(Path(__file__).with_name(name).read_text("utf-8"))


def _model(facts: Mapping[str, Any]) -> Model:
    own = {field.name: facts[field.name] for field in dataclasses.fields(Model) if field.name in facts}
    return Model(**own | {"names": tuple(facts["names"])})


def _by_statistic(entries: list[Any] | dict[str, Any], count: int, layers: int) -> np.ndarray:
    """float64 `[statistics, layers]` from one entry a layer, or from some layers by number; null is NaN."""
    if isinstance(entries, dict):
        entries = [entries.get(str(layer)) for layer in range(1, layers + 1)]
    table = np.full((count, layers), np.nan)
    for entry, column in zip(entries, table.T, strict=True):
        if entry is not None:
            column[:] = [np.nan if cell is None else cell for cell in np.atleast_1d(np.array(entry, object))]
    table.flags.writeable = False  # it is read once, for all
    return table
