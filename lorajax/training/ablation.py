"""Losses of one adapter under many layer masks, example by example. `lorajax.lora.masks` says which masks there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from lorajax.data.batching import batches, pack, round_up
from lorajax.data.prompts import Tokenized
from lorajax.lora.adapter import Adapter, Lora, size, with_classes
from lorajax.lora.head import Head
from lorajax.mesh import on_mesh, put, row_devices
from lorajax.models.kinds import Model
from lorajax.models.llama import Execution, Llama, execution
from lorajax.training.loss import CHUNK, read_hidden, required_head


def masked(adapter: Adapter, keep: Array) -> Adapter:
    """One adapter (a set of one) as N, member n in the layers `keep[n]` alone: keep `[N, layers]` of 0 and 1.

    A head is in no layer, and is kept by all.
    """

    def repeat(x: Array) -> Array:
        return jnp.broadcast_to(x, (x.shape[0], keep.shape[0], *x.shape[2:]))

    def module(lora: Lora | Head) -> Lora | Head:
        if isinstance(lora, Head):
            return jax.tree.map(repeat, lora)
        return dataclasses.replace(lora, a=repeat(lora.a), b=repeat(lora.b), scale=lora.scale * keep.T)

    if size(adapter) != 1:
        raise ValueError(f"expected one adapter, found a set of {size(adapter)}")
    return {path: module(lora) for path, lora in adapter.items()}


class MaskedLosses:
    """Answer losses, example by example, of one adapter under many masks.

    Args:
      sets: the sets of examples it will be asked about; batches have one shape for all, so a single program is
        compiled for adapters of one shape.
      members: masks in the model at a time.
      rows: packed rows in the model at a time, under each of them, at most; fewer where less would be padding.
    """

    def __init__(self, model: Model, sets: Sequence[Tokenized], *, members: int, rows: int, pad: int):
        graphdef, base = nnx.split(model)
        self._base, self._mesh = on_mesh(base)
        self._members, self._pad = members, pad
        lengths = [_lengths(examples) for examples in sets]
        self._length = round_up(max(int(own[:, 0].max()) for own in lengths), 32)
        groups = [(own, pack(own[:, 0].tolist(), self._length)) for own in lengths]
        # A multiple of the largest need is what `batches` rounds every smaller need up to.
        self._answers = round_up(max(int(own[group, 1].sum()) for own, rest in groups for group in rest), 32)
        self._rows = round_up(
            _rows_at_a_time([len(rest) for _, rest in groups], rows), row_devices(self._mesh, members)
        )

        def losses(base: nnx.State, adapter: Adapter, keep: Array, batch: dict[str, Array]) -> Array:
            N = keep.shape[0]
            batch = {key: jnp.broadcast_to(value, (N, *value.shape)) for key, value in batch.items()}
            how = execution("none", self._mesh, N)
            return token_losses(nnx.merge(graphdef, base), masked(adapter, keep), batch, how)

        self.program: Callable = jax.jit(losses, out_shardings=NamedSharding(self._mesh, PartitionSpec()))

    def __call__(
        self, adapter: Adapter, keep: np.ndarray, examples: Tokenized, *, report: Callable[[int], object] = int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses in nats, summed over each example's answer, and the answers' numbers of tokens.

        Args:
          adapter: a set of one.
          keep: bool `[M, layers]`; rows that are alike are computed once.
          report: called with the number of masks that are done, whenever some are.

        Returns:
          `[M, examples]` float64 and `[examples]` int64.
        """
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        adapter = with_classes(adapter, examples.classes)
        adapter = put(adapter, jax.tree.map(lambda _: everywhere, adapter))
        unique, inverse = np.unique(np.asarray(keep, np.float32), axis=0, return_inverse=True)
        rows = examples.rows
        lengths = _lengths(examples)
        groups = pack(lengths[:, 0].tolist(), self._length)
        laid = [
            {key: put(value, everywhere) for key, value in batch.items()}
            for batch in batches(
                rows,
                rows_per_batch=self._rows,
                length=self._length,
                packed=True,
                pad=self._pad,
                answer_multiple=self._answers,
            )
        ]
        # The answers of a row are laid out one after the other, in the order of its group.
        owners = [np.repeat(group, lengths[group, 1]) for group in groups]
        sums = np.zeros((len(unique), len(rows)))
        for start in range(0, len(unique), self._members):
            count = min(self._members, len(unique) - start)
            # The last group is filled up with repeats: another N would be another program.
            chosen = put(unique[np.minimum(np.arange(start, start + self._members), len(unique) - 1)], everywhere)
            for number, batch in enumerate(laid):
                found = np.asarray(self.program(self._base, adapter, chosen, batch), np.float64)[:count]
                for r, owner in enumerate(owners[number * self._rows : (number + 1) * self._rows]):
                    np.add.at(sums[start : start + count].T, owner, found[:, r, : len(owner)].T)
            report(count)
        return sums[inverse.reshape(-1)], lengths[:, 1]


def token_losses(
    model: Model, adapter: Adapter | None, batch: dict[str, Array], execution: Execution = Execution()
) -> Array:
    """Negative log-likelihood, in nats, of every answer token: `[N, P, R]` float32; what padding has means nothing.

    `batch` is as in lorajax.data.batching. Logits exist for about CHUNK tokens on each device at a time.
    """
    hidden = read_hidden(model, adapter, batch, execution)
    if not isinstance(model, Llama):
        return required_head(adapter).losses(hidden, batch["labels"])
    N, P, R = batch["predict"].shape
    # Chunks of c positions of every row, as in lorajax.training.loss: each device of a mesh works through its own rows.
    chunks = -(-R // max(1, CHUNK * execution.devices // (N * P)))
    c = -(-R // chunks)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, chunks * c - R)) + ((0, 0),) * (x.ndim - 3))
        return jnp.moveaxis(x.reshape(N, P, chunks, c, *x.shape[3:]), 2, 0)

    def chunk(part: tuple[Array, Array]) -> Array:
        logits = model.logits(part[0])
        right = jnp.take_along_axis(logits, part[1][..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - right

    found = jax.lax.map(chunk, (cut(hidden), cut(batch["labels"])))
    return jnp.moveaxis(found, 0, 2).reshape(N, P, chunks * c)[..., :R]


def _lengths(examples: Tokenized) -> np.ndarray:
    """Tokens of each example, and of its answer: `[n, 2]` int64."""
    return np.asarray([row.lengths for row in examples.rows], np.int64).reshape(-1, 2)


def _rows_at_a_time(needs: Sequence[int], most: int) -> int:
    """The most rows, up to `most`, whose batches hold at most a quarter more rows than are needed in all."""
    fits = [P for P in range(1, most + 1) if sum(round_up(need, P) for need in needs) <= 1.25 * sum(needs)]
    return max(fits)
