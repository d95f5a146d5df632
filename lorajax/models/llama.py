"""The Llama-family decoder: one frozen base, any number of adapters at once.

Tokens are `[N, B, T]`: N adapters, each with its own batch of B sequences. The frozen products see N*B*T rows;
attention sees N*B sequences; only the low-rank updates know about N. The base holds no adapter and is never
differentiated:

    model = load("smollm2").model
    graphdef, base = nnx.split(model)
    hidden = nnx.merge(graphdef, base)(tokens, adapter).hidden

Sequences are padded on the right. A causal model's real tokens never see what follows them, so padding needs no mask.
A row may also hold several examples (`segments`): attention never crosses them, and positions restart with each.

To generate text, `read` takes whole prompts and `read_next` one token more of each, with a cache of keys and values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from lorajax.lora.adapter import Adapter, Lora
from lorajax.mesh import RULES, fleet_axes
from lorajax.models.attention import Cache, KeysValues, attend, attend_cached
from lorajax.models.config import ModelConfig
from lorajax.models.layers import Linear, RMSNorm
from lorajax.models.products import product
from lorajax.models.rope import rotate, rotation

Collect = Callable[[Array], Any]

#: What a block keeps for the backward pass: all it computed; the results of its large products; its input alone.
Remat = Literal["none", "products", "block"]
REMAT = get_args(Remat)


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a call is computed, not what: no choice here changes a result by more than rounding."""

    remat: Remat = "none"
    residual: NamedSharding | None = None  # layout of the residual stream `[N, B, T, D]` on a mesh

    def place(self, h: Array) -> Array:
        """The residual stream where it belongs."""
        return h if self.residual is None else jax.lax.with_sharding_constraint(h, self.residual)

    @property
    def devices(self) -> int:
        """How many devices the rows of a batch are spread over."""
        if self.residual is None:
            return 1
        names = jax.tree.leaves(tuple(self.residual.spec))
        return math.prod(self.residual.mesh.shape[name] for name in names)

    def wrap(self, body: Callable) -> Callable:
        """A block that keeps what `remat` says."""
        if self.remat == "none":
            return body
        if self.remat == "block":
            return jax.checkpoint(body)
        kept = jax.checkpoint_policies.save_only_these_names("product")
        return jax.checkpoint(body, policy=kept)


def execution(remat: Remat, mesh: Mesh, size: int) -> Execution:
    """How the model is run for a fleet of N = `size` adapters on `mesh`."""
    if mesh.size == 1:
        return Execution(remat)
    adapter, row = fleet_axes(mesh, size)
    spec = PartitionSpec(RULES[adapter] if adapter else None, RULES[row], None, None)
    return Execution(remat, NamedSharding(mesh, spec))


class Output(NamedTuple):
    """`hidden [N, B, T, D]` after the final norm; `states`: `collect` of every hidden state, stacked in front.

    The leading axis of `states` follows `config.layer_names`: embedding, block 1 to L (the raw residual stream after
    each block), final norm. It is None unless `collect` was given.
    """

    hidden: Array
    states: Any


class Rows(NamedTuple):
    """What all blocks know of the rows: rotations `[N, B, T, 1, d/2]` or `[T, 1, d/2]`, segments `[N, B, T]` or None.

    `seen [S, C]`: which slots of the cache the row's one token sees; None where there is no cache.
    """

    cos: Array
    sin: Array
    segments: Array | None
    seen: Array | None = None


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions; `sliding_window` keys at most, where the config has one."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        size, q, kv = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = Linear(size, q, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.k_proj = Linear(size, kv, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(size, kv, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.o_proj = Linear(q, size, bias=config.output_bias, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Array, rows: Rows, lora: Mapping[str, Lora], past: KeysValues | None = None
    ) -> tuple[Array, KeysValues]:
        config, (N, B, T, _) = self.config, x.shape

        def heads(y: Array) -> Array:
            return checkpoint_name(y, "product").reshape(N, B, T, -1, config.head_dim)

        def fold(y: Array) -> Array:
            return y.reshape(N * B, *y.shape[2:])

        q = rotate(heads(self.q_proj(x, lora.get("self_attn.q_proj"))), rows.cos, rows.sin)
        k = rotate(heads(self.k_proj(x, lora.get("self_attn.k_proj"))), rows.cos, rows.sin)
        v = heads(self.v_proj(x, lora.get("self_attn.v_proj")))
        if past is None or rows.seen is None:
            y = attend(q, k, v, segments=rows.segments, window=config.sliding_window)
        else:
            y = attend_cached(fold(q), fold(k), fold(v), past, rows.seen)
        y = self.o_proj(checkpoint_name(y, "product").reshape(N, B, T, -1), lora.get("self_attn.o_proj"))
        return checkpoint_name(y, "product"), KeysValues(fold(k).swapaxes(1, 2), fold(v).swapaxes(1, 2))


class MLP(nnx.Module):
    """SwiGLU (Shazeer, 2020): `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(size, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.up_proj = Linear(size, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.down_proj = Linear(inner, size, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, lora: Mapping[str, Lora]) -> Array:
        gate = checkpoint_name(self.gate_proj(x, lora.get("mlp.gate_proj")), "product")
        up = checkpoint_name(self.up_proj(x, lora.get("mlp.up_proj")), "product")
        # In float32: 16-bit arithmetic rounds between the steps, and takes twice as long on a CPU.
        inner = jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)
        return self.down_proj(inner.astype(x.dtype), lora.get("mlp.down_proj"))


class Block(nnx.Module):
    """Attention and MLP, each on the normalised residual stream and added back to it."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps, dtype=dtype)
        self.self_attn = Attention(config, dtype=dtype, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps, dtype=dtype)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, h: Array, rows: Rows, lora: Mapping[str, Lora], past: KeysValues | None = None
    ) -> tuple[Array, KeysValues]:
        y, made = self.self_attn(self.input_layernorm(h), rows, lora, past)
        h = h + y
        return h + self.mlp(self.post_attention_layernorm(h), lora), made


class Llama(nnx.Module):
    """A decoder of `config.num_layers` blocks whose weights are stacked over layers and scanned."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        scale = config.hidden_size**-0.5
        self.embedding = nnx.Param(
            scale * jax.random.normal(rngs.params(), (config.vocab_size, config.hidden_size), dtype)
        )

        def create(key: Array) -> Block:
            return Block(config, dtype=dtype, rngs=nnx.Rngs(params=key))

        self.blocks = nnx.vmap(create)(jax.random.split(rngs.params(), config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps, dtype=dtype)
        self.lm_head = (
            None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size, dtype=dtype, rngs=rngs)
        )

    def __call__(
        self,
        tokens: Array,
        adapter: Adapter | None = None,
        *,
        segments: Array | None = None,
        collect: Collect | None = None,
        execution: Execution = Execution(),
    ) -> Output:
        """Runs the decoder.

        Args:
          tokens: `[N, B, T]` integers, padded on the right.
          adapter: updates of N adapters (leaves `[layers, N, ...]`), or None for the base alone.
          segments: `[N, B, T]`, which example of its row a token belongs to, 0 for padding; None: one a row.
          collect: what to keep of every hidden state `[N, B, T, D]`, e.g. `lambda h: h` for all of it.
          execution: what is kept for the backward pass, and where the residual stream lives.
        """
        embedded = execution.place(self.embedding[...][tokens])

        def keep(h: Array, _: KeysValues) -> Any:
            return None if collect is None else collect(h)

        hidden, states = self._run(embedded, adapter, self._rows(tokens, segments), keep, execution)
        if collect is not None:
            states = jax.tree.map(
                lambda first, blocks, last: jnp.concatenate([first[None], blocks, last[None]]),
                collect(embedded),
                states,
                collect(hidden),
            )
        return Output(hidden, states)

    def read(
        self,
        tokens: Array,
        lengths: Array,
        adapter: Adapter | None = None,
        *,
        room: int,
        execution: Execution = Execution(),
    ) -> tuple[Array, Cache]:
        """Reads prompts: tokens `[N, B, T]`, padded on the right, of `lengths [N, B]`.

        Returns:
          The hidden states after the final norm, `[N, B, T, D]`, and the cache with `room` free slots.
        """
        embedded = execution.place(self.embedding[...][tokens])
        hidden, made = self._run(embedded, adapter, self._rows(tokens, None), _keys_and_values, execution)
        return hidden, Cache.of(made, lengths.reshape(-1), room=room)

    def read_next(
        self, tokens: Array, cache: Cache, adapter: Adapter | None = None, *, execution: Execution = Execution()
    ) -> tuple[Array, Cache]:
        """Reads one token more of every sequence, `[N, B]`: its hidden state `[N, B, D]`, and the cache with it."""
        embedded = execution.place(self.embedding[...][tokens[..., None]])
        cos, sin = rotation(self.config.rope, self.config.head_dim, cache.lengths.reshape(*tokens.shape, 1))
        rows = Rows(cos, sin, None, cache.seen(self.config.sliding_window))
        hidden, made = self._run(embedded, adapter, rows, _keys_and_values, execution, cache.past)
        return hidden[:, :, 0], cache.add(made)

    def _run(
        self,
        embedded: Array,
        adapter: Adapter | None,
        rows: Rows,
        keep: Callable[[Array, KeysValues], Any],
        execution: Execution,
        past: KeysValues | None = None,
    ) -> tuple[Array, Any]:
        """All blocks and the final norm; also what `keep` takes of each block's residual stream, keys and values."""
        graphdef, weights = nnx.split(self.blocks)

        def body(h: Array, layer) -> tuple[Array, Any]:
            weights, lora, past = layer
            h, made = nnx.merge(graphdef, weights)(h, rows, lora, past)
            h = execution.place(h)
            return h, keep(h, made)

        h, kept = jax.lax.scan(execution.wrap(body), embedded, (weights, adapter or {}, past))
        return self.norm(h), kept

    def _rows(self, tokens: Array, segments: Array | None) -> Rows:
        places = jnp.arange(tokens.shape[-1])
        if segments is not None:
            starts = jnp.diff(segments, axis=-1, prepend=-1) != 0
            places = places - jax.lax.cummax(jnp.where(starts, places, 0), axis=tokens.ndim - 1)
        return Rows(*rotation(self.config.rope, self.config.head_dim, places), segments)

    def logits(self, hidden: Array) -> Array:
        """Scores of every vocabulary item, `[..., D]` to `[..., V]` float32."""
        rows = "abcefg"[: hidden.ndim - 1]  # one letter for each leading axis
        if self.lm_head is None:
            return product(f"{rows}d,vd->{rows}v", hidden, self.embedding[...], dtype=jnp.float32)
        return product(f"{rows}d,dv->{rows}v", hidden, self.lm_head.kernel[...], dtype=jnp.float32)


def _keys_and_values(h: Array, made: KeysValues) -> KeysValues:
    return made
