"""Hidden states of prompts at all layers: what `analysis` compares.

The states go from the scan over layers into one array on the device, batch by batch; those of other tokens are never
kept. Prompts are taken by length, so that a batch has little padding, and lengths are rounded up to few values, so that
few programs serve all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lorajax.data.batching import pad_prompts, round_up
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import Adapter, size
from lorajax.mesh import fetch, on_mesh, put, row_devices
from lorajax.models.kinds import Model, is_encoder
from lorajax.models.llama import execution

#: Whose hidden state stands for a prompt: its last token's (of an encoder the first one's: the one that the answer is
#: read off), the mean over its tokens, or every token's for itself.
Tokens = Literal["last", "mean", "all"]

#: Something made of the states of one layer `[N, B, T, D]` and which of the tokens are the prompts' `[B, T]`: `[N, B]`.
PerPrompt = Callable[[jax.Array, jax.Array], jax.Array]


class States(NamedTuple):
    """Hidden states under N adapters, in the layers asked for, and what they belong to."""

    values: Any
    """`[N, L, rows, D]` float32: jax, on the model's devices; NumPy where there are several processes."""
    prompts: np.ndarray
    """`[rows]` int: the prompt that a row belongs to; 0, 1, 2, ... unless every token is a row."""
    per_prompt: Any
    """`[N, L, prompts]`, or None."""


class HiddenStates:
    """Hidden states of prompts under a set of adapters, all of which see the same prompts in one program."""

    def __init__(
        self,
        model: Model,
        *,
        batch_size: int,
        pad: int,
        tokens: Tokens = "last",
        layers: Sequence[int] | None = None,
        per_prompt: PerPrompt | None = None,
    ):
        """Prepares the programs.

        Args:
          batch_size: prompts in the model at a time.
          pad: token id that fills up rows; it is never looked at.
          tokens: "last": the last prompt token, where the model has read the task and not yet answered, or an
            encoder's first one, which it answers at; "mean": the mean over all tokens of the prompt; "all": every token
            of every prompt is a row.
          layers: indices into `config.layer_names`; all when None.
          per_prompt: something to make of all states of a prompt, in every layer.

        Raises:
          LorajaxError: an unknown kind of tokens, or a layer that the model does not have.
        """
        if tokens not in get_args(Tokens):
            raise LorajaxError(f"--tokens must be one of {', '.join(get_args(Tokens))}, found {tokens!r}")
        names = model.config.layer_names
        self._layers = np.arange(len(names)) if layers is None else np.asarray(layers, int)
        if not self._layers.size or not ((self._layers >= 0) & (self._layers < len(names))).all():
            raise LorajaxError(f"--layers {self._layers.tolist()}: expected numbers from 0 to {len(names) - 1}")
        graphdef, base = nnx.split(model)
        self._base, self._mesh = on_mesh(base)
        self._batch_size, self._pad, self._tokens = batch_size, pad, tokens
        self._answers_first = is_encoder(model.config)
        self._width, self._has_extra = model.config.hidden_size, per_prompt is not None

        def add(base, adapter, tokens, own, positions, rows, values):
            N, (B, _) = size(adapter), tokens.shape

            def pick(h: jax.Array) -> tuple[jax.Array, jax.Array | None]:
                extra = None if per_prompt is None else per_prompt(h, own)
                if self._tokens == "mean":
                    total = jnp.einsum("nbtd,bt->nbd", h, own.astype(h.dtype), preferred_element_type=jnp.float32)
                    return (total / own.sum(1)[:, None])[:, :, None], extra
                return h[:, jnp.arange(B)[:, None], positions].astype(jnp.float32), extra

            how = execution("none", self._mesh, N)
            tokens = jnp.broadcast_to(tokens, (N, *tokens.shape))
            picked, extra = nnx.merge(graphdef, base)(tokens, adapter, collect=pick, execution=how).states
            picked = jnp.swapaxes(picked[self._layers], 0, 1)
            # Rows that only fill up the batch have a place behind the last one, and are dropped.
            values = values.at[:, :, rows].set(picked.reshape(*values.shape[:2], -1, values.shape[3]), mode="drop")
            return values, None if extra is None else jnp.swapaxes(extra[self._layers], 0, 1)

        whole = NamedSharding(self._mesh, PartitionSpec())
        self._layout = _over_features(self._mesh, self._width)
        self._add = jax.jit(add, donate_argnums=6, out_shardings=(self._layout, whole))

    def __call__(self, adapter: Adapter, prompts: Sequence[np.ndarray], *, most: int | None = None) -> States:
        """The states of `prompts` under each of the N adapters.

        Args:
          adapter: a set of N; `zeros_like` of a set is the base model.
          prompts: token ids int `[T]` of each, one token at least.
          most: rows at most, where every token is one: chosen at random from all, the same ones at every call.
        """
        N, layers = size(adapter), len(self._layers)
        chosen, owners = self._choose(prompts, most)
        firsts = np.searchsorted(owners, np.arange(len(prompts) + 1))
        values = jax.jit(
            lambda: jnp.zeros((N, layers, len(owners), self._width), jnp.float32), out_shardings=self._layout
        )()
        extras = np.zeros((N, layers, len(prompts)), np.float32)
        adapter = put(adapter, jax.tree.map(lambda _: NamedSharding(self._mesh, PartitionSpec()), adapter))
        count = round_up(self._batch_size, row_devices(self._mesh, N))
        order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
        for start in range(0, len(order), count):
            batch = order[start : start + count]
            filled = np.concatenate([batch, np.full(count - len(batch), batch[0])])
            length = _rounded(max(len(prompts[i]) for i in batch))
            tokens, last = pad_prompts([prompts[i] for i in filled], length=length, pad=self._pad)
            own = np.arange(length) <= last[:, None]
            most_rows = max(1, *(firsts[i + 1] - firsts[i] for i in batch))
            width = 1 if self._tokens != "all" else min(length, _rounded(most_rows))
            positions = np.zeros((count, width), np.int32)
            rows = np.full((count, width), len(owners), np.int32)
            for b, i in enumerate(batch):
                here = slice(firsts[i], firsts[i + 1])
                positions[b, : here.stop - here.start] = chosen[here]
                rows[b, : here.stop - here.start] = np.arange(here.start, here.stop)
            values, extra = self._add(self._base, adapter, tokens, own, positions, rows.reshape(-1), values)
            if extra is not None:
                extras[:, :, batch] = np.asarray(extra)[:, :, : len(batch)]
        return States(fetch(values) if jax.process_count() > 1 else values, owners, extras if self._has_extra else None)

    def _choose(self, prompts: Sequence[np.ndarray], most: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Places of the tokens that are kept, prompt by prompt, and the prompt of each."""
        lengths = np.array([len(prompt) for prompt in prompts])
        if self._tokens != "all":
            return np.zeros_like(lengths) if self._answers_first else lengths - 1, np.arange(len(prompts))
        places = np.concatenate([np.arange(length) for length in lengths])
        owners = np.repeat(np.arange(len(prompts)), lengths)
        if most is not None and len(places) > most:
            kept = np.sort(np.random.default_rng(0).permutation(len(places))[:most])
            places, owners = places[kept], owners[kept]
        return places, owners


def _rounded(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: at most two programs an octave, and a third of padding at most."""
    step = 8
    while 3 * step < length:
        step *= 2
    return 2 * step if length <= 2 * step else 3 * step


def _over_features(mesh: Mesh, width: int) -> NamedSharding:
    """Features are spread over all devices, where these divide them: each sees its share of every row."""
    axes = tuple(mesh.shape) if width % mesh.size == 0 else None
    return NamedSharding(mesh, PartitionSpec(None, None, None, axes))
