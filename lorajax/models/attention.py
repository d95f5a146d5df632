"""Attention in which no example sees another, causal or not, and the cache of what it has read.

Adapters differ in their values, never in the computation. A mesh may have N on one axis and B on another, so XLA's
products keep the two apart; kernels that take one batch axis get them folded, and so does the cache. Rows may hold
several examples one after the other (`segments`); a query sees the keys of its own segment alone.

While text is generated, keys and values of earlier tokens come from a `Cache`. All sequences write their next token to
the same slot, whatever their lengths: one update in place, and the slots that padding took are never looked at.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lorajax.models.layers import softmax
from lorajax.models.products import product

#: Longest block of queries whose scores exist at a time.
QUERY_BLOCK = 1024

SMALLEST_BLOCK = 64

#: The place of a slot of the cache that holds no token.
EMPTY = -1


class KeysValues(NamedTuple):
    """Rotated keys, and values, of T tokens: `[S, K, T, d]`; of all blocks `[layers, S, K, T, d]`."""

    keys: Array
    values: Array


class Cache(NamedTuple):
    """Keys and values of the tokens read so far, in C slots, in the model's dtype; S = N*B sequences, K key heads.

    2 * layers * S * K * C * d numbers. Never changed: `add` gives a new one, which a compiled loop makes in place.
    """

    past: KeysValues  # [layers, S, K, C, d]
    places: Array  # [S, C] int32: which token of its sequence a slot holds, counted from 0; EMPTY for none
    lengths: Array  # [S] int32: tokens read, and so the place of the next
    used: Array  # int32: the slot of the next token

    @classmethod
    def of(cls, made: KeysValues, lengths: Array, *, room: int) -> Cache:
        """The cache of prompts `[layers, S, K, T, d]`, padded on the right, of `lengths [S]`; `room` slots are free."""
        T = made.keys.shape[3]
        past = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, room), (0, 0))), made)
        slots = jnp.arange(T + room, dtype=jnp.int32)
        places = jnp.where(slots < lengths[:, None], slots, EMPTY)
        return cls(past, places, lengths.astype(jnp.int32), jnp.asarray(T, jnp.int32))

    def add(self, made: KeysValues) -> Cache:
        """With one more token in every sequence: `made [layers, S, K, 1, d]`. There must be a free slot."""

        def write(old: Array, new: Array, axis: int) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, self.used, axis)

        past = jax.tree.map(lambda old, new: write(old, new, 3), self.past, made)
        places = write(self.places, self.lengths[:, None], 1)
        return Cache(past, places, self.lengths + 1, self.used + 1)

    def seen(self, window: int | None = None) -> Array:
        """Which slots the next token sees, `[S, C]`: those that hold one of the `window - 1` tokens before it."""
        seen = self.places != EMPTY
        return seen if window is None else seen & (self.lengths[:, None] - self.places < window)


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    segments: Array | None = None,
    window: int | None = None,
    causal: bool = True,
) -> Array:
    """Grouped-query attention: q `[N, B, T, H, d]`, k and v `[N, B, T, K, d]`, H a multiple of K, to q's shape.

    cuDNN's kernel on NVIDIA GPUs in 16 bit, XLA elsewhere with scores and softmax in float32.

    Args:
      segments: `[N, B, T]`, which example of the row each token belongs to; None when a row is one example.
      window: keys seen at most, the query's own included (sliding window); None for all. Causal attention only.
      causal: whether a query sees the keys up to its own, or all.
    """
    if q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128 and _has_cudnn():
        folded = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (q, k, v, segments))
        return _attend_cudnn(*folded, window=window, causal=causal).reshape(q.shape)
    return jax.vmap(functools.partial(_attend_xla, window=window, causal=causal))(q, k, v, segments)


def _has_cudnn() -> bool:
    """Whether cuDNN has attention for this process's devices: NVIDIA, of compute capability 8.0 or more."""
    device = jax.devices()[0]
    capability = str(getattr(device, "compute_capability", "0")).split(".")[0]
    return device.platform == "gpu" and capability.isdecimal() and int(capability) >= 8


def query_block(length: int) -> int:
    """How many queries of a row of `length` tokens are worked on at a time: a divisor, QUERY_BLOCK at most.

    All of them where that would be few: for odd lengths, blocks would be too small to be worth it.
    """
    block = max(n for n in range(1, min(length, QUERY_BLOCK) + 1) if length % n == 0)
    return block if block >= SMALLEST_BLOCK else length


def _attend_cudnn(q: Array, k: Array, v: Array, segments: Array | None, *, window: int | None, causal: bool) -> Array:
    mask = None if segments is None else segments[:, None, :, None] == segments[:, None, None, :]
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        is_causal=causal,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )


def _attend_xla(q: Array, k: Array, v: Array, segments: Array | None, *, window: int | None, causal: bool) -> Array:
    S, T, H, d = q.shape
    K = k.shape[2]
    # The H/K heads that share keys are rows of one product: larger matrices, and keys are not repeated.
    q = jnp.reshape(q * d**-0.5, (S, T, K, H // K, d)).transpose(0, 2, 3, 1, 4)  # [S, K, G, T, d]
    k = k.transpose(0, 2, 3, 1)  # [S, K, d, T]
    v = v.transpose(0, 2, 1, 3)  # [S, K, T, d]

    def block(start: Array | int, q: Array) -> Array:
        length = q.shape[3]
        scores = product("skad,skdt->skat", q.reshape(S, K, -1, d), k, dtype=jnp.float32)
        scores = scores.reshape(S, K, -1, length, T)
        query, key = start + jnp.arange(length)[:, None], jnp.arange(T)[None]
        seen = query >= key if causal else jnp.ones((length, T), bool)
        if window is not None:
            seen &= query - key < window
        if segments is not None:
            own = jax.lax.dynamic_slice_in_dim(segments, start, length, axis=1)
            seen = seen & (own[:, :, None] == segments[:, None, :])[:, None, None]
        # A finite bound: a row of -inf alone would be 0/0. Every query sees itself, so no such row counts.
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
        weights = softmax(scores).astype(v.dtype)
        return product("skat,sktd->skad", weights.reshape(S, K, -1, T), v).reshape(S, K, -1, length, d)

    size = query_block(T)
    if size == T:
        y = block(0, q)
    else:
        # Long rows: the scores of one block of queries at a time, computed again in the backward pass.
        blocks = jnp.moveaxis(q.reshape(S, K, -1, T // size, size, d), 3, 0)
        starts = jnp.arange(T // size) * size
        y = jax.lax.map(jax.checkpoint(lambda part: block(*part)), (starts, blocks))
        y = jnp.moveaxis(y, 0, 3).reshape(S, K, -1, T, d)
    return y.transpose(0, 3, 1, 2, 4).reshape(S, T, H, d)


def attend_cached(q: Array, k: Array, v: Array, past: KeysValues, seen: Array) -> Array:
    """Attention of one new token of each sequence: q `[S, 1, H, d]`, k and v `[S, 1, K, d]`, to `[S, 1, H, d]`.

    It sees itself and the slots `seen [S, C]` of `past [S, K, C, d]`. Scores and softmax are in float32.
    """
    S, _, H, d = q.shape
    K = k.shape[2]
    q = (q * d**-0.5).reshape(S, K, H // K, d)
    k, v = k.reshape(S, K, 1, d), v.reshape(S, K, 1, d)

    def scores(keys: Array) -> Array:
        return jnp.einsum("skgd,skcd->skgc", q, keys, preferred_element_type=jnp.float32)

    # The token's own key is beside the past and not yet in it: blocks only read the cache, and nothing copies it.
    before = jnp.where(seen[:, None, None], scores(past.keys), -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([before, scores(k)], axis=-1), axis=-1).astype(v.dtype)
    y = jnp.einsum("skgc,skcd->skgd", weights[..., :-1], past.values) + weights[..., -1:] * v
    return y.reshape(S, 1, H, d)
