"""The Llama-family decoder: one frozen base, any number of adapters at once.

Tokens are `[N, B, T]`: N adapters, each with its own batch of B sequences. The frozen products see N*B*T rows;
attention sees N*B sequences; only the low-rank updates know about N. The base holds no adapter and is never
differentiated:

    model = load("smollm2").model
    graphdef, base = nnx.split(model)
    hidden = nnx.merge(graphdef, base)(tokens, adapter).hidden

Sequences are padded on the right. A causal model's real tokens never see what follows them, so padding needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from lorajax.lora.adapter import Adapter, Lora
from lorajax.models.config import ModelConfig
from lorajax.models.layers import Linear, RMSNorm
from lorajax.models.rope import rotate, rotation

Collect = Callable[[Array], Any]


class Output(NamedTuple):
    """`hidden [N, B, T, D]` after the final norm; `states`: `collect` of every hidden state, stacked in front.

    The leading axis of `states` follows `config.layer_names`: embedding, block 1 to L (the raw residual stream after
    each block), final norm. It is None unless `collect` was given.
    """

    hidden: Array
    states: Any


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions; `sliding_window` keys at most, where the config has one."""

    def __init__(self, config: ModelConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        size, q, kv = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(size, q, bias=bias, dtype=dtype, rngs=rngs)
        self.k_proj = Linear(size, kv, bias=bias, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(size, kv, bias=bias, dtype=dtype, rngs=rngs)
        self.o_proj = Linear(q, size, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, cos: Array, sin: Array, lora: Mapping[str, Lora]) -> Array:
        config, (N, B, T, _) = self.config, x.shape

        def heads(y: Array) -> Array:
            return y.reshape(N * B, T, -1, config.head_dim)

        q = rotate(heads(self.q_proj(x, lora.get("self_attn.q_proj"))), cos, sin)
        k = rotate(heads(self.k_proj(x, lora.get("self_attn.k_proj"))), cos, sin)
        v = heads(self.v_proj(x, lora.get("self_attn.v_proj")))
        window = None if config.sliding_window is None else (config.sliding_window - 1, 0)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=window)
        return self.o_proj(y.reshape(N, B, T, -1), lora.get("self_attn.o_proj"))


class MLP(nnx.Module):
    """SwiGLU (Shazeer, 2020): `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: ModelConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(size, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.up_proj = Linear(size, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.down_proj = Linear(inner, size, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, lora: Mapping[str, Lora]) -> Array:
        gate = jax.nn.silu(self.gate_proj(x, lora.get("mlp.gate_proj")))
        return self.down_proj(gate * self.up_proj(x, lora.get("mlp.up_proj")), lora.get("mlp.down_proj"))


class Block(nnx.Module):
    """Attention and MLP, each on the normalised residual stream and added back to it."""

    def __init__(self, config: ModelConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps, dtype=dtype)
        self.self_attn = Attention(config, dtype=dtype, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps, dtype=dtype)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array, cos: Array, sin: Array, lora: Mapping[str, Lora]) -> Array:
        h = h + self.self_attn(self.input_layernorm(h), cos, sin, lora)
        return h + self.mlp(self.post_attention_layernorm(h), lora)


class Llama(nnx.Module):
    """A decoder of `config.num_layers` blocks whose weights are stacked over layers and scanned."""

    def __init__(self, config: ModelConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
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
        collect: Collect | None = None,
        remat: bool = False,
    ) -> Output:
        """Runs the decoder.

        Args:
          tokens: `[N, B, T]` integers, padded on the right.
          adapter: updates of N adapters (leaves `[layers, N, ...]`), or None for the base alone.
          collect: what to keep of every hidden state `[N, B, T, D]`, e.g. `lambda h: h` for all of it.
          remat: recompute every block in the backward pass, to hold one residual stream per layer and no more.
        """
        config = self.config
        cos, sin = rotation(config.rope, config.head_dim, jnp.arange(tokens.shape[-1]))
        graphdef, weights = nnx.split(self.blocks)

        def body(h: Array, layer) -> tuple[Array, Any]:
            weights, lora = layer
            h = nnx.merge(graphdef, weights)(h, cos, sin, lora)
            return h, None if collect is None else collect(h)

        embedded = self.embedding[...][tokens]
        h, states = jax.lax.scan(jax.checkpoint(body) if remat else body, embedded, (weights, adapter or {}))
        hidden = self.norm(h)
        if collect is not None:
            states = jax.tree.map(
                lambda first, blocks, last: jnp.concatenate([first[None], blocks, last[None]]),
                collect(embedded),
                states,
                collect(hidden),
            )
        return Output(hidden, states)

    def logits(self, hidden: Array) -> Array:
        """Scores of every vocabulary item, `[..., D]` to `[..., V]` float32."""
        if self.lm_head is None:
            return jnp.einsum("...d,vd->...v", hidden, self.embedding[...], preferred_element_type=jnp.float32)
        return jnp.matmul(hidden, self.lm_head.kernel[...], preferred_element_type=jnp.float32)
