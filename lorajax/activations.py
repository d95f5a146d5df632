"""Hidden states of prompts at all layers: what `analysis` compares."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from lorajax.data.batching import pad_prompts, round_up
from lorajax.lora.adapter import Adapter, size
from lorajax.mesh import on_mesh, put, row_devices
from lorajax.models.llama import Llama, execution


class LastToken:
    """Hidden states of each prompt's last token, in every layer, under a set of adapters.

    The last prompt token is where the model has read the task and not yet answered. All N adapters see the same
    prompts in one program; the states of the other tokens never leave the scan over layers. Prompts are padded to a
    multiple of `multiple` tokens, so a few compiled programs serve all tasks.
    """

    def __init__(self, model: Llama, *, batch_size: int, pad: int, multiple: int = 16):
        graphdef, base = nnx.split(model)
        self._base, self._mesh = on_mesh(base)
        self._batch_size, self._pad, self._multiple = batch_size, pad, multiple

        @jax.jit
        def states(base: nnx.State, adapter: Adapter, tokens: jax.Array, last: jax.Array) -> jax.Array:
            N, B = size(adapter), tokens.shape[0]
            tokens = jnp.broadcast_to(tokens, (N, *tokens.shape))

            def pick(h: jax.Array) -> jax.Array:
                return h[:, jnp.arange(B), last].astype(jnp.float32)

            how = execution("none", self._mesh, N)
            return nnx.merge(graphdef, base)(tokens, adapter, collect=pick, execution=how).states

        self._states = states

    def __call__(self, adapter: Adapter, prompts: Sequence[np.ndarray]) -> np.ndarray:
        """`[N, layers + 2, prompts, D]` float32; layers as in `config.layer_names`."""
        length = round_up(max(len(prompt) for prompt in prompts), self._multiple)
        count = round_up(self._batch_size, row_devices(self._mesh, size(adapter)))
        adapter = put(adapter, jax.tree.map(lambda _: NamedSharding(self._mesh, PartitionSpec()), adapter))
        parts = []
        for start in range(0, len(prompts), count):
            chosen = list(prompts[start : start + count])
            filled = chosen + [chosen[0]] * (count - len(chosen))
            tokens, last = pad_prompts(filled, length=length, pad=self._pad)
            states = self._states(self._base, adapter, tokens, last)
            parts.append(np.asarray(states)[:, :, : len(chosen)])
        return np.concatenate(parts, axis=2).swapaxes(0, 1)
