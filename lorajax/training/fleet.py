"""A fleet: N adapters to train together, with their data, as the step needs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from lorajax.data.batching import Batch, Layout, LayoutPlan, Stream, batch_at, batches, plan_layouts, round_up
from lorajax.data.prompts import Tokenized
from lorajax.lora.adapter import Adapter
from lorajax.mesh import fleet_axes, row_devices, sharding
from lorajax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Fleet:
    """N adapters to train together: names, initial values, data, steps and peak learning rates.

    `validation` are the examples that each adapter is measured on while it trains; empty for none.
    """

    names: tuple[str, ...]
    adapter: Adapter
    streams: tuple[Stream, ...]
    steps: tuple[int, ...]
    learning_rates: tuple[float, ...]
    pad: int
    validation: tuple[Tokenized, ...] = ()

    def __post_init__(self):
        sizes = {len(self.names), len(self.streams), len(self.steps), len(self.learning_rates)}
        if len(sizes) != 1 or len(self.validation) not in (0, len(self.names)):
            raise ValueError(f"a fleet of {len(self.names)} names with parts of other lengths: {sorted(sizes)}")

    def plan(self, config: TrainConfig, mesh: Mesh) -> LayoutPlan:
        """The layouts of all steps: few, so that few programs are compiled."""
        return plan_layouts(
            self.streams,
            self.steps,
            batch_size=config.batch_size,
            packed=config.packing,
            row_multiple=config.accumulate * row_devices(mesh, len(self.names)),
        )

    def batch(self, step: int, layout: Layout, config: TrainConfig, members: slice | None = None) -> Batch:
        """The batch of `step`, from nothing but the step; of the adapters `members` alone if given."""
        return batch_at(
            self.streams,
            step,
            batch_size=config.batch_size,
            layout=layout,
            pad=self.pad,
            packed=config.packing,
            steps=self.steps,
            members=members,
        )

    def validation_batches(self, config: TrainConfig, mesh: Mesh) -> list[Batch]:
        """The validation examples of all adapters, in batches of one layout: leaves `[N, P, ...]`."""
        if not self.validation:
            return []
        rows = [s.rows for s in self.validation]
        longest = round_up(max(row.lengths[0] for own in rows for row in own), 8)
        devices = row_devices(mesh, len(self.names))
        count = round_up(config.batch_size, devices)
        laid = [
            list(batches(own, rows_per_batch=count, length=longest, packed=config.packing, pad=self.pad))
            for own in rows
        ]
        return stacked(laid)


def stacked(laid: Sequence[Sequence[Batch]]) -> list[Batch]:
    """Batches `[P, ...]` of N adapters joined to `[N, P, ...]`; who has fewer gets padding, R becomes the largest."""
    answers = max(batch["weights"].shape[-1] for own in laid for batch in own)

    def widen(batch: Batch) -> Batch:
        missing = answers - batch["weights"].shape[-1]
        short = {key: np.pad(batch[key], ((0, 0), (0, missing))) for key in ("predict", "labels", "weights")}
        return batch | short

    empty = {key: np.zeros_like(value) for key, value in widen(laid[0][0]).items()}
    number = max(len(own) for own in laid)
    full = [[widen(batch) for batch in own] + [empty] * (number - len(own)) for own in laid]
    return [{key: np.stack([own[i][key] for own in full]) for key in empty} for i in range(number)]


def place(
    build: Callable[[slice], Batch], shapes: dict[str, tuple[int, ...]], mesh: Mesh, dtypes: dict[str, np.dtype]
) -> dict[str, Array]:
    """A batch on the mesh, of which every process builds what its own devices need.

    Args:
      build: gives the batch of the adapters in a slice, `[n, P, ...]`.
      shapes: shapes of the whole batch, `[N, P, ...]`.
      dtypes: of the same leaves.
    """
    built: dict[tuple, Batch] = {}

    def part(key: str, index: Any) -> np.ndarray:
        own = index[0].indices(shapes[key][0])
        if own not in built:
            built[own] = build(slice(*own))
        return np.asarray(built[own][key][(slice(None), *index[1:])], dtypes[key])

    axes = fleet_axes(mesh, next(iter(shapes.values()))[0])

    def make(key: str) -> Array:
        layout = sharding(mesh, [*axes, None], shapes[key])
        return jax.make_array_from_callback(shapes[key], layout, lambda index: part(key, index))

    return {key: make(key) for key in shapes}


def shapes_of(layout: Layout, size: int, *, packed: bool) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype]]:
    """Shapes and dtypes of a batch of N = `size` adapters in `layout`."""
    tokens, answers = (size, layout.rows, layout.length), (size, layout.rows, layout.answers)
    shapes: dict[str, tuple[int, ...]] = {"tokens": tokens, "predict": answers, "labels": answers, "weights": answers}
    if packed:
        shapes["segments"] = tokens
    return shapes, {key: np.dtype(np.float32 if key == "weights" else np.int32) for key in shapes}
