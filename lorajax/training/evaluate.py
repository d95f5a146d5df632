"""Losses of adapters on examples they are not trained on: validation while training, test examples afterwards."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lorajax.data.batching import batches, round_up
from lorajax.data.prompts import Tokenized
from lorajax.lora.adapter import Adapter, join, size
from lorajax.mesh import fleet_axes, on_mesh, put, row_devices, sharding
from lorajax.models.llama import Llama, execution
from lorajax.training.config import TrainConfig
from lorajax.training.fleet import Fleet
from lorajax.training.loss import answer_sums
from lorajax.training.step import Fixed, TrainState


class Evaluator:
    """Mean answer loss of a set of adapters on test examples; a few compiled programs serve all tasks."""

    def __init__(self, model: Llama, *, rows: int, pad: int):
        graphdef, base = nnx.split(model)
        self._base, self._mesh = on_mesh(base)
        self._rows, self._pad = rows, pad

        def sums(base: nnx.State, adapter: Adapter, batch: dict[str, Array]):
            how = execution("none", self._mesh, size(adapter))
            return answer_sums(nnx.merge(graphdef, base), adapter, batch, how)

        self._sums: Callable = jax.jit(sums, out_shardings=NamedSharding(self._mesh, PartitionSpec()))

    def __call__(self, adapter: Adapter, examples: Tokenized) -> tuple[np.ndarray, int]:
        """Loss in nats per answer token of each adapter `[N]`, and the number of answer tokens."""
        N = size(adapter)
        rows = list(zip(examples.prompts, examples.answers, strict=True))
        # Lengths are rounded up, so that tasks share programs.
        length = round_up(max(len(p) + len(a) for p, a in rows), 32)
        count = round_up(self._rows, row_devices(self._mesh, N))
        total, tokens = np.zeros(N), 0.0
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        adapter = put(adapter, jax.tree.map(lambda _: everywhere, adapter))
        laid = batches(rows, rows_per_batch=count, length=length, packed=True, pad=self._pad, answer_multiple=32)
        for batch in laid:
            repeated = {key: np.repeat(value[None], N, axis=0) for key, value in batch.items()}
            sums, counts = self._sums(self._base, adapter, _put(repeated, self._mesh))
            total += np.asarray(sums, np.float64)
            tokens += float(counts[0])
        return total / tokens, int(tokens)


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
