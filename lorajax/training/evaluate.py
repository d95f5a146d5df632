"""Held-out loss of adapters on a task's test examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from lorajax.data.batching import Shape, pad_rows, round_up
from lorajax.data.prompts import Tokenized
from lorajax.lora.adapter import Adapter, size
from lorajax.models.llama import Llama
from lorajax.training.loss import answer_sums


class Evaluator:
    """Mean answer loss of a set of adapters on test examples; a few compiled programs serve all tasks."""

    def __init__(self, model: Llama, *, batch_size: int, pad: int):
        graphdef, self._base = nnx.split(model)
        self._batch_size, self._pad = batch_size, pad

        @jax.jit
        def sums(base: nnx.State, adapter: Adapter, batch: dict[str, jax.Array]):
            return answer_sums(nnx.merge(graphdef, base), adapter, batch)

        self._sums: Callable = sums

    def __call__(self, adapter: Adapter, examples: Tokenized) -> tuple[np.ndarray, int]:
        """Loss in nats per answer token of each adapter `[N]`, and the number of answer tokens."""
        # Both lengths are rounded up, so that tasks share programs.
        longest = Shape.of([examples], multiple=16)
        shape = Shape(longest.tokens, round_up(longest.answers, 8))
        rows = list(zip(examples.prompts, examples.answers, strict=True))
        total, tokens = np.zeros(size(adapter)), 0.0
        for batch in _batches(rows, self._batch_size, shape, self._pad):
            repeated = {key: np.repeat(value[None], size(adapter), axis=0) for key, value in batch.items()}
            sums, counts = self._sums(self._base, adapter, repeated)
            total += np.asarray(sums, np.float64)
            tokens += float(counts[0])
        return total / tokens, int(tokens)


def _batches(rows: Sequence[tuple[np.ndarray, np.ndarray]], batch_size: int, shape: Shape, pad: int):
    for start in range(0, len(rows), batch_size):
        chosen = list(rows[start : start + batch_size])
        batch = pad_rows(chosen + [chosen[0]] * (batch_size - len(chosen)), shape, pad=pad)
        batch["weights"][len(chosen) :] = 0  # the filled-up rows of the last batch
        yield batch
