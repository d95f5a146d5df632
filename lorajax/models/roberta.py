"""The RoBERTa encoder (Liu et al., 2019, arXiv 1907.11692): one frozen base, any number of adapters at once.

Called as the decoder is (`lorajax.models.llama`): tokens `[N, B, T]`, an adapter of N members, examples of a row apart
by `segments`. What differs is inside: every token sees all tokens of its own example, positions are learnt, and each
half of a block ends with a LayerNorm, so no hidden state is a raw residual stream.

The module is the encoder alone. What reads a class off its output is trained, and so belongs to the adapter
(`lorajax.lora.head`). Modules have the names of the checkpoint, such as `attention.self.query`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from lorajax.lora.adapter import Adapter, Lora, loras
from lorajax.models.attention import attend
from lorajax.models.layers import LayerNorm, Linear
from lorajax.models.llama import Collect, Execution, Output
from lorajax.models.roberta_config import RobertaConfig


class SelfAttention(nnx.Module):
    """Queries, keys and values of all heads, and attention over the tokens of an example."""

    def __init__(self, config: RobertaConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.head_dim, size = config.head_dim, config.hidden_size
        self.query = Linear(size, size, bias=True, dtype=dtype, rngs=rngs)
        self.key = Linear(size, size, bias=True, dtype=dtype, rngs=rngs)
        self.value = Linear(size, size, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, segments: Array, lora: Mapping[str, Lora]) -> Array:
        def heads(name: str) -> Array:
            y = getattr(self, name)(x, lora.get(f"attention.self.{name}"))
            return checkpoint_name(y, "product").reshape(*x.shape[:3], -1, self.head_dim)

        y = attend(heads("query"), heads("key"), heads("value"), segments=segments, causal=False)
        return checkpoint_name(y, "product").reshape(x.shape)


class AddAndNorm(nnx.Module):
    """`norm(h + dense(x))`: the end of each half of a block."""

    def __init__(self, in_features: int, config: RobertaConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.dense = Linear(in_features, config.hidden_size, bias=True, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(config.hidden_size, eps=config.norm_eps, dtype=dtype)

    def __call__(self, h: Array, x: Array, lora: Lora | None) -> Array:
        return self.norm(h + checkpoint_name(self.dense(x, lora), "product"))


class Attention(nnx.Module):
    """The first half of a block."""

    def __init__(self, config: RobertaConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.self = SelfAttention(config, dtype=dtype, rngs=rngs)
        self.output = AddAndNorm(config.hidden_size, config, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array, segments: Array, lora: Mapping[str, Lora]) -> Array:
        return self.output(h, self.self(h, segments, lora), lora.get("attention.output.dense"))


class Intermediate(nnx.Module):
    """`gelu(dense(x))`, with the exact GELU."""

    def __init__(self, config: RobertaConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.dense = Linear(config.hidden_size, config.intermediate_size, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, lora: Lora | None) -> Array:
        return jax.nn.gelu(checkpoint_name(self.dense(x, lora), "product"), approximate=False)


class Block(nnx.Module):
    """Attention and MLP, each added to its input and normalised."""

    def __init__(self, config: RobertaConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.intermediate = Intermediate(config, dtype=dtype, rngs=rngs)
        self.output = AddAndNorm(config.intermediate_size, config, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array, segments: Array, lora: Mapping[str, Lora]) -> Array:
        h = self.attention(h, segments, lora)
        return self.output(h, self.intermediate(h, lora.get("intermediate.dense")), lora.get("output.dense"))


class Roberta(nnx.Module):
    """An encoder of `config.num_layers` blocks whose weights are stacked over layers and scanned."""

    def __init__(self, config: RobertaConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        size, scale = config.hidden_size, config.initializer_range

        def draw(rows: int) -> nnx.Param:
            return nnx.Param(scale * jax.random.normal(rngs.params(), (rows, size), dtype))

        self.embedding = draw(config.vocab_size)
        self.positions = draw(config.position_rows)
        self.token_types = draw(config.token_types)
        self.norm = LayerNorm(size, eps=config.norm_eps, dtype=dtype)

        def create(key: Array) -> Block:
            return Block(config, dtype=dtype, rngs=nnx.Rngs(params=key))

        self.blocks = nnx.vmap(create)(jax.random.split(rngs.params(), config.num_layers))

    def __call__(
        self,
        tokens: Array,
        adapter: Adapter | None = None,
        *,
        segments: Array | None = None,
        collect: Collect | None = None,
        execution: Execution = Execution(),
    ) -> Output:
        """Runs the encoder.

        Args:
          tokens: `[N, B, T]` integers, padded on the right.
          adapter: updates of N adapters (leaves `[layers, N, ...]`), or None for the base alone; a head takes no part.
          segments: `[N, B, T]`, which example of its row a token belongs to, 0 for padding; None: one a row, and tokens
            `config.pad_token_id` are padding.
          collect: what to keep of every hidden state `[N, B, T, D]`, e.g. `lambda h: h` for all of it.
          execution: what is kept for the backward pass, and where the hidden states live.

        Returns:
          `hidden [N, B, T, D]` after the last block; `states` in the order of `config.layer_names`.
        """
        if segments is None:
            segments = (jnp.asarray(tokens) != self.config.pad_token_id).astype(jnp.int32)
        embedded = execution.place(self._embed(tokens, segments))
        graphdef, weights = nnx.split(self.blocks)

        def body(h: Array, layer) -> tuple[Array, Any]:
            weights, lora = layer
            h = execution.place(nnx.merge(graphdef, weights)(h, segments, lora))
            return h, None if collect is None else collect(h)

        hidden, states = jax.lax.scan(execution.wrap(body), embedded, (weights, loras(adapter or {})))
        if collect is not None:
            states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), collect(embedded), states)
        return Output(hidden, states)

    def _embed(self, tokens: Array, segments: Array) -> Array:
        """Words, positions within each segment, and the type that all tokens have, normalised: `[N, B, T, D]`."""
        places = jnp.arange(tokens.shape[-1])
        starts = jnp.diff(segments, axis=-1, prepend=-1) != 0
        places = places - jax.lax.cummax(jnp.where(starts, places, 0), axis=segments.ndim - 1)
        # A row of many short examples may be longer than the table; what a clipped place belongs to is padding.
        places = jnp.minimum(places, self.config.max_positions - 1) + self.config.pad_token_id + 1
        return self.norm(self.embedding[...][tokens] + self.token_types[...][0] + self.positions[...][places])
