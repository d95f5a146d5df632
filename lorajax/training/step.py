"""One compiled step that trains a fleet: N adapters, each on its own batch, over one frozen base.

The gradient of the *sum* of the N losses is the stack of the N gradients, since no loss depends on another's factors.
Optax is vmapped over N, so each adapter has its own clipping, moments, learning rate and number of steps: adapter i in
a fleet is adapter i alone (with dropout, where both are laid out alike, since masks are drawn by place). One that has
made its steps, or whose loss is no longer finite, is frozen to the bit by a mask, while the same program trains the
others.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from lorajax.lora.adapter import Adapter, Factors, Scales, join, size, split, with_dropout
from lorajax.mesh import fleet_axes, sharding
from lorajax.models.kinds import Model
from lorajax.models.llama import execution
from lorajax.training.config import TrainConfig
from lorajax.training.loss import answer_sums

Batch = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fixed:
    """What belongs to the N adapters and does not change: scales, random keys, steps and peak learning rates `[N]`."""

    scales: Scales
    keys: Array
    steps: Array
    learning_rate: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Best:
    """The best measurement so far, for early stopping: loss `[N]`, measurements since then `[N]`, factors then."""

    loss: Array
    since: Array
    factors: Factors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes while training: a pytree, donated to the step and saved in checkpoints.

    `last [N]` is the step after which an adapter is frozen: its number of steps, or earlier where it was stopped.
    `failed [N]` is the step at which its loss or gradient was not finite, 0 for never.
    """

    step: Array
    factors: Factors
    optimizer: optax.OptState
    last: Array
    failed: Array
    best: Best | None


def learning_rate(config: TrainConfig, step: ArrayLike, steps: ArrayLike, peak: ArrayLike) -> Array:
    """Learning rate at `step`, counted from 0, of adapters that make `steps` with `peak`; arrays broadcast."""
    step, steps = jnp.asarray(step), jnp.asarray(steps)
    warm = jnp.round(config.warmup * steps)
    # Starts at 1/warm of the peak: a first step of size zero would be a batch thrown away.
    rise = (step + 1) / jnp.maximum(warm, 1)
    share = jnp.clip((step - warm) / jnp.maximum(steps - warm, 1), 0, 1)
    after = {"cosine": (1 + jnp.cos(jnp.pi * share)) / 2, "linear": 1 - share, "constant": jnp.ones_like(share)}
    return jnp.asarray(peak) * jnp.where(step < warm, rise, after[config.schedule])


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW for *one* adapter up to the learning rate, which the step multiplies by; the step vmaps it."""
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    return optax.chain(*clip, optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay))


def init_state(
    adapter: Adapter,
    config: TrainConfig,
    names: Sequence[str],
    *,
    steps: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
) -> tuple[TrainState, Fixed]:
    """The state before the first step, and what stays as it is. Steps and rates are the config's unless given."""
    N = size(adapter)
    if len(names) != N:
        raise ValueError(f"{len(names)} names for a set of {N} adapters")
    factors, scales = split(adapter)
    rates = [config.learning_rate] * N if learning_rates is None else learning_rates
    fixed = Fixed(
        scales=scales,
        keys=adapter_keys(names, seed=config.seed),
        steps=jnp.asarray([config.steps] * N if steps is None else steps, jnp.int32),
        learning_rate=jnp.asarray(rates, jnp.float32),
    )
    copies = jax.tree.map(jnp.copy, factors)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        factors=copies,
        optimizer=jax.vmap(make_optimizer(config).init, in_axes=1)(factors),
        last=jnp.copy(fixed.steps),
        failed=jnp.zeros(N, jnp.int32),
        best=None
        if not config.patience
        else Best(jnp.full(N, jnp.inf), jnp.zeros(N, jnp.int32), jax.tree.map(jnp.copy, factors)),
    )
    return state, fixed


def layouts(mesh: Mesh, state: TrainState, fixed: Fixed) -> tuple[Any, Any]:
    """The sharding of every leaf of the state and of what is fixed: adapters over `data` where N divides."""
    N = state.last.shape[0]
    adapter, _ = fleet_axes(mesh, N)

    def along(axis: int) -> Callable:
        def place(x) -> NamedSharding:
            return sharding(mesh, [adapter if i == axis else None for i in range(len(x.shape))], x.shape)

        return place

    whole = NamedSharding(mesh, PartitionSpec())
    factors = jax.tree.map(along(1), state.factors)
    best: Any = state.best and Best(along(0)(state.best.loss), along(0)(state.best.since), factors)
    first: Any = jax.tree.map(along(0), (state.optimizer, state.last, state.failed))
    constant = jax.tree.map(along(0), (fixed.keys, fixed.steps, fixed.learning_rate))
    placed: Any = TrainState(whole, factors, *first, best)  # type: ignore
    return placed, Fixed(jax.tree.map(along(1), fixed.scales), *constant)


Step = Callable[[TrainState, nnx.State, Fixed, Batch], tuple[TrainState, dict[str, Array]]]


def make_step(
    graphdef: nnx.GraphDef,
    config: TrainConfig,
    mesh: Mesh,
    placed: Any,
    *,
    dropout: float = 0.0,
) -> Step:
    """The compiled `step(state, base, fixed, batch) -> state, metrics`.

    `placed` is the sharding of every leaf of the state (`layouts`), which comes out laid out as it went in. Metrics are
    `loss` (nats per answer token), `grad_norm`, `tokens` (answer tokens), `active` (whether the step changed it) and
    `failed`, all `[N]` and on every device. The state is donated; the base is an argument: it exists once for any N.
    """
    tx = make_optimizer(config)
    ratios = {"b": config.lora_plus}

    def step(state: TrainState, base: nnx.State, fixed: Fixed, batch: Batch):
        model: Model = nnx.merge(graphdef, base)
        how = execution(config.remat, mesh, state.last.shape[0])
        keys = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(fixed.keys)
        tokens = jnp.sum(batch["weights"], axis=(1, 2))

        def total(factors: Factors, part: Batch, index: Array | int) -> tuple[Array, Array]:
            own = keys if config.accumulate == 1 else jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
            sums, _ = answer_sums(model, with_dropout(join(factors, fixed.scales), dropout, own), part, how)
            # Every part is divided by the tokens of the whole step: tokens weigh alike in whichever part they are.
            losses = sums / jnp.maximum(tokens, 1)
            return jnp.sum(losses), losses

        grads, losses = _accumulated(jax.grad(total, has_aux=True), state.factors, batch, config.accumulate)
        norms = jax.vmap(optax.tree.norm, in_axes=1)(grads)
        wanted = state.step < state.last
        directions, optimizer = jax.vmap(tx.update, in_axes=(1, 0, 1), out_axes=(1, 0))(
            grads, state.optimizer, state.factors
        )
        rate = learning_rate(config, state.step, fixed.steps, fixed.learning_rate)[:, None, None]
        moved = {
            path: {name: f + (-ratios.get(name, 1.0) * rate) * directions[path][name] for name, f in own.items()}
            for path, own in state.factors.items()
        }
        # An update may overflow where its gradient does not.
        whole = [jnp.all(jnp.isfinite(leaf), axis=(0, 2, 3)) for leaf in jax.tree.leaves(moved)]
        active = wanted & jnp.isfinite(losses) & jnp.isfinite(norms) & jnp.all(jnp.stack(whole), axis=0)
        failed = wanted & ~active
        state = TrainState(
            step=state.step + 1,
            factors=jax.tree.map(lambda new, old: _where(active, new, old, axis=1), moved, state.factors),
            optimizer=jax.tree.map(lambda new, old: _where(active, new, old, axis=0), optimizer, state.optimizer),
            last=jnp.where(failed, state.step, state.last),
            failed=jnp.where(failed, state.step + 1, state.failed),
            best=state.best,
        )
        return state, {"loss": losses, "grad_norm": norms, "tokens": tokens, "active": active, "failed": failed}

    metrics = NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=(placed, metrics))


def _accumulated(gradient: Callable, factors: Factors, batch: Batch, parts: int) -> tuple[Factors, Array]:
    """Sums of `gradient` and of the losses over `parts` of the rows, one after the other."""
    if parts == 1:
        return gradient(factors, batch, 0)
    # Part i has rows i, i + parts, ...: every device keeps some of its own.
    cut = {key: jnp.moveaxis(x.reshape(x.shape[0], -1, parts, *x.shape[2:]), 2, 0) for key, x in batch.items()}

    def add(sums, part):
        index, rows = part
        return jax.tree.map(jnp.add, sums, gradient(factors, rows, index)), None

    zero = (jax.tree.map(jnp.zeros_like, factors), jnp.zeros(batch["tokens"].shape[0], jnp.float32))
    return jax.lax.scan(add, zero, (jnp.arange(parts), cut))[0]


def _where(mask: Array, new: Array, old: Array, *, axis: int) -> Array:
    """`new` where `mask [N]` holds, along `axis`."""
    return jnp.where(mask.reshape([-1 if i == axis else 1 for i in range(new.ndim)]), new, old)


def judge(state: TrainState, losses: Array, *, patience: int) -> TrainState:
    """The state after a measurement of validation `losses [N]`: its best, and who has shown no better for too long."""
    if state.best is None:
        return state
    active = state.step <= state.last
    better = active & (losses < state.best.loss)
    since = jnp.where(better, 0, state.best.since + active)
    best = Best(
        loss=jnp.where(better, losses, state.best.loss),
        since=since,
        factors=jax.tree.map(lambda new, old: _where(better, new, old, axis=1), state.factors, state.best.factors),
    )
    last = jnp.where(active & (since >= patience), jnp.minimum(state.last, state.step), state.last)
    return dataclasses.replace(state, best=best, last=last)


def adapter_keys(names: Sequence[str], *, seed: int) -> Array:
    """One random key per adapter, from (seed, its name): `[N]`."""
    key = jax.random.key(seed)
    return jnp.stack([jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names])
