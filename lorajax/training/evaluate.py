"""Losses of adapters on examples they are not trained on: validation while training, test examples afterwards.

Of an encoder, which answers by a class, also how often it took which class for which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lorajax.data.batching import batches, round_up
from lorajax.data.prompts import Tokenized
from lorajax.lora.adapter import Adapter, join, size, with_classes
from lorajax.mesh import fleet_axes, on_mesh, put, row_devices, sharding
from lorajax.models.kinds import Model, is_encoder
from lorajax.models.llama import execution
from lorajax.training.config import TrainConfig
from lorajax.training.fleet import Fleet
from lorajax.training.loss import answer_sums, read_hidden, required_head
from lorajax.training.step import Fixed, TrainState


class Measured(NamedTuple):
    """What a set of N adapters makes of some examples."""

    loss: np.ndarray
    """Nats per answer token `[N]`; of an encoder, per example."""
    tokens: int
    """Answer tokens, or examples."""
    confusion: np.ndarray | None
    """`[N, C, C]`: examples of each class (rows) and the classes taken for it, of an encoder; else None."""


class Evaluator:
    """Mean answer loss of a set of adapters on test examples; a few compiled programs serve all tasks.

    Args:
      model: the base.
      rows: packed rows in the model at a time.
      pad: token that fills up rows; never looked at.
    """

    def __init__(self, model: Model, *, rows: int, pad: int):
        graphdef, base = nnx.split(model)
        self._base, self._mesh = on_mesh(base)
        self._rows, self._pad = rows, pad
        sums = _class_sums if is_encoder(model.config) else answer_sums

        def program(base: nnx.State, adapter: Adapter, batch: dict[str, Array]):
            how = execution("none", self._mesh, size(adapter))
            return sums(nnx.merge(graphdef, base), adapter, batch, how)

        self._sums: Callable = jax.jit(program, out_shardings=NamedSharding(self._mesh, PartitionSpec()))

    def __call__(self, adapter: Adapter, examples: Tokenized) -> tuple[np.ndarray, int]:
        """Loss in nats per answer token of each adapter `[N]`, and the number of answer tokens."""
        return self.measure(adapter, examples)[:2]

    def measure(self, adapter: Adapter, examples: Tokenized) -> Measured:
        """The same, and what an encoder took for what."""
        N, rows = size(adapter), examples.rows
        # Lengths are rounded up, so that tasks share programs.
        length = round_up(max(row.lengths[0] for row in rows), 32)
        count = round_up(self._rows, row_devices(self._mesh, N))
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        adapter = with_classes(adapter, examples.classes)
        adapter = put(adapter, jax.tree.map(lambda _: everywhere, adapter))
        laid = batches(rows, rows_per_batch=count, length=length, packed=True, pad=self._pad, answer_multiple=32)
        found = []
        for batch in laid:
            repeated = {key: np.repeat(value[None], N, axis=0) for key, value in batch.items()}
            found.append(jax.device_get(self._sums(self._base, adapter, _put(repeated, self._mesh))))
        total, tokens, *confusion = (np.stack(part).astype(np.float64).sum(axis=0) for part in zip(*found, strict=True))
        return Measured(total / tokens[0], int(tokens[0]), confusion[0].astype(int) if confusion else None)


def _class_sums(model: Model, adapter: Adapter, batch: dict[str, Array], how) -> tuple[Array, Array, Array]:
    """Summed losses `[N]` and numbers `[N]` of examples, and numbers of class and answer `[N, C, C]`; float32."""
    hidden, head, weights = read_hidden(model, adapter, batch, how), required_head(adapter), batch["weights"]
    answers = jnp.argmax(head.own_scores(hidden, batch["labels"]), axis=-1)
    right, given = (jax.nn.one_hot(numbers, len(head.classes)) for numbers in (batch["labels"], answers))
    confusion = jnp.einsum("nbr,nbrc,nbrd->ncd", weights, right, given)
    losses = head.losses(hidden, batch["labels"])
    return jnp.sum(weights * losses, axis=(1, 2)), jnp.sum(weights, axis=(1, 2)), confusion


def make_validation(
    graphdef: nnx.GraphDef, base: nnx.State, fixed: Fixed, fleet: Fleet, config: TrainConfig, mesh: Mesh
) -> Callable[[TrainState], Array] | None:
    """A function of the state that gives the fleet's validation losses, nats per answer token `[N]`; None without."""
    if not config.evaluate_every or not fleet.validation:
        return None
    held = [_put(batch, mesh) for batch in fleet.validation_batches(config, mesh)]

    def add(factors, base, fixed, batch, sums, counts):
        how = execution("none", mesh, counts.shape[0])
        more = answer_sums(nnx.merge(graphdef, base), join(factors, fixed.scales), batch, how)
        return sums + more[0], counts + more[1]

    program = jax.jit(add, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def validate(state: TrainState) -> Array:
        sums = counts = put(np.zeros(len(fleet.names), np.float32), NamedSharding(mesh, PartitionSpec()))
        for batch in held:
            sums, counts = program(state.factors, base, fixed, batch, sums, counts)
        return sums / counts

    return validate


def _put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """A whole batch `[N, P, ...]`, which every process has, on the mesh."""

    def put(value: np.ndarray) -> Array:
        layout = sharding(mesh, [*fleet_axes(mesh, value.shape[0]), None], value.shape)
        return jax.make_array_from_callback(value.shape, layout, lambda index: value[index])

    return {key: put(value) for key, value in batch.items()}
