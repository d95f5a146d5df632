"""Text from a set of adapters: prompts are read once, then every adapter answers its own, all in one compiled program.

    answers = generate(model, adapter, [prompts] * size(adapter), stop_tokens=stop_tokens(model.config, tokenizer))

Prompts are sorted by length and cut into batches of one size and a few lengths, so a few programs serve any number of
them. A program reads its prompts, then takes one token at a time from a cache of keys and values; it ends when every
sequence has met a stop token, and hands nothing to the host before that.

Sampling draws from a key made of (seed, the prompt's number, the token's place). So a sequence's text does not depend
on the rest of its batch, but for rounding; and adapters answer a prompt with the same random numbers: where two of them
agree on the distributions, they give the same text.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lorajax.data.batching import round_up
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import Adapter, size
from lorajax.mesh import fleet_axes, on_mesh, row_devices, sharding
from lorajax.models.attention import QUERY_BLOCK, Cache
from lorajax.models.config import ModelConfig
from lorajax.models.kinds import Model, decoder
from lorajax.models.llama import Execution

#: Prompts are padded to this many tokens at least.
SHORTEST = 32


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """How answers are generated."""

    max_new_tokens: int = 64
    """Tokens of an answer at most."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0, tokens are drawn from the softmax of logits / temperature."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0 for all."""
    top_p: float = 1.0
    """Draw from the fewest tokens that together have this probability (nucleus sampling)."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise LorajaxError(f"--max-new-tokens must be at least 1, found {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise LorajaxError(f"--temperature must be a number of at least 0, found {self.temperature}")
        if self.top_k < 0:
            raise LorajaxError(f"--top-k must be at least 0, found {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise LorajaxError(f"--top-p must be above 0 and at most 1, found {self.top_p}")
        if not 0 <= self.seed < 2**32:
            raise LorajaxError(f"--seed must be a whole number from 0 to 2**32 - 1, found {self.seed}")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise LorajaxError("--top-k and --top-p change nothing at --temperature 0; give a temperature above 0")


class Answer(NamedTuple):
    """Generated tokens `[0 to max_new_tokens]` int32 without the stop token, and whether one was met."""

    tokens: np.ndarray
    stopped: bool


def generate(
    model: Model,
    adapter: Adapter | None,
    prompts: Sequence[Sequence[np.ndarray]],
    *,
    config: GenerateConfig = GenerateConfig(),
    stop_tokens: Sequence[int] = (),
    pad: int = 0,
    numbers: Sequence[int] | None = None,
    batch_size: int = 16,
    report: Callable[[int], None] = lambda count: None,
) -> list[list[Answer]]:
    """What each of N adapters answers to each of its P prompts.

    Args:
      model: the base, quantised or not, whole or on a mesh.
      adapter: the set of N adapters, or None: the base alone answers all.
      prompts: N sequences of P prompts, each a vector of token ids.
      config: how tokens are chosen, and how many.
      stop_tokens: tokens that end an answer, such as `stop_tokens(...)`.
      pad: token that fills up the batches; never looked at.
      numbers: of the P prompts, 0 to 2**32 - 1: what their draws depend on; 0 to P - 1 by default.
      batch_size: prompts of each adapter in the model at a time.
      report: told the number of prompts answered so far, after every batch.

    Returns:
      N lists of P answers.

    Raises:
      LorajaxError: the model is an encoder, not one list of P prompts per adapter, an empty prompt, a token outside the
        vocabulary, or a prompt that leaves no room for `max_new_tokens` within the model's positions.
    """
    model = decoder(model, "generation")
    _check(model.config, adapter, prompts, config)
    N, P = len(prompts), len(prompts[0])
    numbers = range(P) if numbers is None else numbers
    graphdef, base = nnx.split(model)
    base, mesh = on_mesh(base)
    whole = NamedSharding(mesh, PartitionSpec())
    adapter = None if adapter is None else jax.device_put(adapter, whole)
    key, stops = jax.random.key(config.seed), np.asarray(stop_tokens, np.int32)
    settings = dataclasses.replace(config, seed=0)  # another seed is no other program
    longest = [max(len(row[p]) for row in prompts) for p in range(P)]
    order = sorted(range(P), key=longest.__getitem__)
    B = round_up(min(batch_size, P), row_devices(mesh, N))
    answers: list[dict[int, Answer]] = [{} for _ in range(N)]
    for start in range(0, P, B):
        chosen = order[start : start + B]
        # The last batch is filled up with what it holds already: a repeated prompt ends when the first does.
        filled = [chosen[i % len(chosen)] for i in range(B)]
        tokens = np.full((N, B, padded_length(longest[chosen[-1]])), pad, np.int32)
        for n, b in np.ndindex(N, B):
            prompt = prompts[n][filled[b]]
            tokens[n, b, : len(prompt)] = prompt
        lengths = np.asarray([[len(row[p]) for p in filled] for row in prompts], np.int32)
        own = np.asarray([[numbers[p] for p in filled]] * N, np.uint32)
        placed = [_put(x, mesh) for x in (tokens, lengths, own)]
        made, counts = jax.device_get(
            _generate(base, adapter, *placed, key, stops, graphdef=graphdef, config=settings, mesh=mesh)
        )
        for n, b in np.ndindex(N, len(chosen)):
            count = int(counts[n, b])
            answers[n][chosen[b]] = Answer(made[n, b, :count], count < config.max_new_tokens)
        report(start + len(chosen))
    return [[row[p] for p in range(P)] for row in answers]


def stop_tokens(config: ModelConfig, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a text, by the tokenizer or the checkpoint's config; none is none."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    return tuple(sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None and end >= 0}))


def padded_length(length: int) -> int:
    """What a prompt of `length` tokens is padded to: the next of 32, 48, 64, 96, ..., 768, 1024, 2048, 3072, ..."""
    if length > QUERY_BLOCK:
        return round_up(length, QUERY_BLOCK)  # long rows are attended to in such blocks
    power = SHORTEST
    while power < length:
        power *= 2
    return power * 3 // 4 if power > SHORTEST and length <= power * 3 // 4 else power


def choose(logits: Array, keys: Array, config: GenerateConfig) -> Array:
    """The next token of every sequence: logits `[..., V]` float32, one key each `[...]`, to `[...]` int32."""
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = cut(logits / config.temperature, top_k=config.top_k, top_p=config.top_p)
    draw = jax.random.categorical
    for _ in range(keys.ndim):
        draw = jax.vmap(draw)
    return draw(keys, logits).astype(jnp.int32)


def cut(logits: Array, *, top_k: int = 0, top_p: float = 1.0) -> Array:
    """`logits [..., V]` float32 with -inf for the tokens that are not drawn from.

    Those drawn from are the `top_k` likeliest (Fan et al., 2018; 0: all), and of these, taken as a distribution of
    their own, the fewest that together have a probability of `top_p` or more (Holtzman et al., 2020). Tokens that tie
    with the last of them stay too.
    """
    if 0 < top_k < logits.shape[-1]:
        logits = _keep_likeliest(logits, lambda kept: jnp.sum(kept, axis=-1, keepdims=True) >= top_k)
    if top_p < 1:
        shares = jax.nn.softmax(logits, axis=-1)
        logits = _keep_likeliest(logits, lambda kept: jnp.sum(shares, axis=-1, where=kept, keepdims=True) >= top_p)
    return logits


def _keep_likeliest(logits: Array, enough: Callable[[Array], Array]) -> Array:
    """-inf below the highest bound for which `enough(logits >= bound)`: `[..., V]` to `[..., 1]`.

    The bound is found bit by bit, in 32 passes over the vocabulary: sorting it would take longer than the model does.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    top = jnp.uint32(1 << 31)
    ranks = jnp.where(bits < top, bits | top, ~bits)  # whole numbers in the order of the logits

    def settle(i: Array, bound: Array) -> Array:
        higher = bound | (top >> i.astype(jnp.uint32))
        return jnp.where(enough(ranks >= higher), higher, bound)

    bound = jax.lax.fori_loop(0, 32, settle, jnp.zeros((*logits.shape[:-1], 1), jnp.uint32))
    return jnp.where(ranks >= bound, logits, -jnp.inf)


class _State(NamedTuple):
    """Between two tokens: `tokens [N, B, M]` made so far in each sequence, `counts [N, B]` of them, `ended [N, B]`."""

    step: Array
    tokens: Array
    counts: Array
    ended: Array
    cache: Cache


@functools.partial(jax.jit, static_argnames=("graphdef", "config", "mesh"))
def _generate(
    base: nnx.State,
    adapter: Adapter | None,
    prompts: Array,
    lengths: Array,
    numbers: Array,
    key: Array,
    stops: Array,
    *,
    graphdef: nnx.GraphDef,
    config: GenerateConfig,
    mesh: Mesh,
) -> tuple[Array, Array]:
    """Answers to prompts `[N, B, T]` of `lengths [N, B]`: tokens `[N, B, M]`, and how many of them count `[N, B]`."""
    model, M = nnx.merge(graphdef, base), config.max_new_tokens
    shape = (*prompts.shape, model.config.hidden_size)
    layout = sharding(mesh, [*fleet_axes(mesh, shape[0]), None, None], shape)
    execution = Execution(residual=None if mesh.size == 1 else layout)
    keys = jax.vmap(jax.vmap(lambda number: jax.random.fold_in(key, number)))(numbers)

    def advance(hidden: Array, state: _State, cache: Cache) -> _State:
        """Chooses the token after each `hidden [N, B, D]`."""
        own = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, state.step)))(keys)
        token = choose(model.logits(hidden), own, config)
        tokens = jax.lax.dynamic_update_index_in_dim(state.tokens, token, state.step, 2)
        ended = state.ended | (token[..., None] == stops).any(axis=-1)
        return _State(state.step + 1, tokens, state.counts + ~ended, ended, cache)

    def body(state: _State) -> _State:
        before = jax.lax.dynamic_index_in_dim(state.tokens, state.step - 1, 2, keepdims=False)
        hidden, cache = model.read_next(before, state.cache, adapter, execution=execution)
        return advance(hidden, state, cache)

    # The last token is chosen and never read, so it needs no room in the cache.
    hidden, cache = model.read(prompts, lengths, adapter, room=M - 1, execution=execution)
    last = jnp.take_along_axis(hidden, lengths[..., None, None] - 1, axis=2)[:, :, 0]
    zeros = jnp.zeros_like(lengths)
    first = _State(jnp.zeros((), jnp.int32), jnp.zeros((*lengths.shape, M), jnp.int32), zeros, zeros == 1, cache)
    state = advance(last, first, cache)
    state = jax.lax.while_loop(lambda s: (s.step < M) & ~jnp.all(s.ended), body, state)
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint((state.tokens, state.counts), whole)


def _put(value: np.ndarray, mesh: Mesh) -> Array:
    """A batch `[N, B, ...]`, which every process has, on the mesh."""
    axes = [*fleet_axes(mesh, value.shape[0]), *[None] * (value.ndim - 2)]
    layout = sharding(mesh, axes, value.shape)
    return jax.make_array_from_callback(value.shape, layout, lambda index: value[index])


def _check(
    model: ModelConfig, adapter: Adapter | None, prompts: Sequence[Sequence[np.ndarray]], config: GenerateConfig
) -> None:
    counts = [len(row) for row in prompts]
    expected = len(counts) if adapter is None else size(adapter)
    if len(counts) != expected or len(set(counts)) != 1 or not counts[0]:
        raise LorajaxError(
            f"prompts: expected {expected} lists, one per adapter, of the same number of prompts; found {counts}"
        )
    for n, row in enumerate(prompts):
        for p, prompt in enumerate(row):
            where = f"prompt {p} of adapter {n}"
            if not len(prompt):
                raise LorajaxError(f"{where}: is empty; expected at least one token to go on from")
            low, high = int(np.min(prompt)), int(np.max(prompt))
            if low < 0 or high >= model.vocab_size:
                raise LorajaxError(f"{where}: tokens from {low} to {high}; expected 0 to {model.vocab_size - 1}")
            if len(prompt) + config.max_new_tokens > model.max_positions:
                raise LorajaxError(
                    f"{where}: {len(prompt)} tokens and {config.max_new_tokens} new ones (--max-new-tokens) are more "
                    f"than the {model.max_positions} positions of the model"
                )
