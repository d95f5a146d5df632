"""One compiled step that trains a fleet: N adapters, each on its own batch, over one frozen base.

The gradient of the *sum* of the N losses is the stack of the N gradients, since no loss depends on another's factors.
Optax is vmapped over N, so each adapter has its own clipping and moments: adapter i in a fleet is adapter i alone.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import Adapter, Factors, Scales, join, size, split, with_dropout
from lorajax.models.llama import Llama
from lorajax.training.loss import answer_loss

Schedule = Literal["cosine", "linear", "constant"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how fast adapters are trained."""

    steps: int = 200
    """Optimizer steps of every adapter."""
    batch_size: int = 8
    """Examples a step, for each adapter."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Schedule = "cosine"
    """`cosine` or `linear` decay to zero after the warm-up, or `constant`."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip: float = 1.0
    """Largest global gradient norm of one adapter; 0 for no clipping."""
    remat: bool = False
    """Recompute blocks in the backward pass: less memory, about a third more work."""
    seed: int = 0
    """Seed of initial values, data order and dropout."""

    def __post_init__(self):
        if self.schedule not in get_args(Schedule):
            raise LorajaxError(f"--schedule must be one of {', '.join(get_args(Schedule))}, found {self.schedule!r}")
        for flag, value in (("--steps", self.steps), ("--batch-size", self.batch_size)):
            if value < 1:
                raise LorajaxError(f"{flag} must be at least 1, found {value}")
        if not 0 < self.learning_rate < math.inf:
            raise LorajaxError(f"--learning-rate must be positive, found {self.learning_rate}")
        for flag, number in (("--weight-decay", self.weight_decay), ("--clip", self.clip), ("--seed", self.seed)):
            if not 0 <= number < math.inf:
                raise LorajaxError(f"{flag} must be 0 or more, found {number}")
        if not 0 <= self.warmup < 1:
            raise LorajaxError(f"--warmup is a share of the steps in [0, 1), found {self.warmup}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes while training: a pytree, donated to the step and saved in checkpoints."""

    step: Array
    factors: Factors
    optimizer: optax.OptState


def schedule(config: TrainConfig) -> optax.Schedule:
    """Learning rate as a function of the step."""
    warm = round(config.warmup * config.steps)
    rest = max(1, config.steps - warm)
    after = {
        "cosine": optax.cosine_decay_schedule(config.learning_rate, rest),
        "linear": optax.linear_schedule(config.learning_rate, 0.0, rest),
        "constant": optax.constant_schedule(config.learning_rate),
    }[config.schedule]
    if not warm:
        return after
    # Starts at 1/warm of the peak: a first step of size zero would be a batch thrown away.
    rise = optax.linear_schedule(config.learning_rate / warm, config.learning_rate, max(1, warm - 1))
    return optax.join_schedules([rise, after], [warm])


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW for *one* adapter; the step vmaps it."""
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    return optax.chain(*clip, optax.adamw(schedule(config), weight_decay=config.weight_decay))


def init_state(adapter: Adapter, config: TrainConfig) -> tuple[TrainState, Scales]:
    """The state before the first step, and the scales that stay as they are."""
    factors, scales = split(adapter)
    optimizer = jax.vmap(make_optimizer(config).init, in_axes=1)(factors)
    return TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, factors), optimizer), scales


Step = Callable[[TrainState, nnx.State, Scales, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]


def make_step(graphdef: nnx.GraphDef, config: TrainConfig, *, dropout: float = 0.0) -> Step:
    """The compiled `step(state, base, scales, batch, keys) -> state, metrics`.

    `keys [N]` are the adapters' own random keys, for dropout. Metrics are `loss`, `grad_norm` `[N]` and `tokens` `[N]`
    (answer tokens). The state is donated; the base is an argument, so it exists once whatever N is.
    """
    tx = make_optimizer(config)

    def step(state: TrainState, base: nnx.State, scales: Scales, batch: dict[str, Array], keys: Array):
        model: Llama = nnx.merge(graphdef, base)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(keys)

        def total(factors: Factors) -> tuple[Array, Array]:
            adapter = with_dropout(join(factors, scales), dropout, keys)
            losses = answer_loss(model, adapter, batch, remat=config.remat)
            return jnp.sum(losses), losses

        grads, losses = jax.grad(total, has_aux=True)(state.factors)
        norms = jax.vmap(optax.tree.norm, in_axes=1)(grads)
        updates, optimizer = jax.vmap(tx.update, in_axes=(1, 0, 1), out_axes=(1, 0))(
            grads, state.optimizer, state.factors
        )
        factors = optax.apply_updates(state.factors, updates)
        metrics = {"loss": losses, "grad_norm": norms, "tokens": jnp.sum(batch["weights"], axis=(1, 2))}
        return TrainState(state.step + 1, factors, optimizer), metrics

    return jax.jit(step, donate_argnums=0)


def adapter_keys(adapter: Adapter, names: Sequence[str], *, seed: int) -> Array:
    """One random key per adapter, from (seed, its name): `[N]`."""
    if len(names) != size(adapter):
        raise ValueError(f"{len(names)} names for a set of {size(adapter)} adapters")
    key = jax.random.key(seed)
    return jnp.stack([jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names])
