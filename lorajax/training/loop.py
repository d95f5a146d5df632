"""Trains a fleet from first step to last, through crashes: checkpoints, a metrics log, resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from lorajax.data.batching import Layout
from lorajax.distributed import is_first
from lorajax.lora.adapter import Adapter, join
from lorajax.mesh import fetch, on_host, on_mesh, put
from lorajax.models.kinds import Model
from lorajax.training.checkpoints import Checkpoints, MetricsLog
from lorajax.training.config import TrainConfig
from lorajax.training.evaluate import make_validation
from lorajax.training.fleet import Fleet, place, shapes_of
from lorajax.training.profile import profile
from lorajax.training.step import Fixed, TrainState, init_state, judge, layouts, learning_rate, make_step
from lorajax.training.stopping import Stopped, StopRequests
from lorajax.training.tracking import Tracker

Metrics = dict[str, Array]

#: Steps of a run before a profile begins: the first ones compile and fill caches.
WARM = 3


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is known after a step, of the adapters that took part in it.

    `tokens_per_second` counts all tokens, padding too, since the start of this run.
    """

    step: int
    steps: int
    loss: dict[str, float]
    tokens_per_second: float
    seconds_left: float
    learning_rate: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Trained:
    """The adapters after training; `failed` has the step at which an adapter's loss was no longer finite.

    A failed adapter is as it was before that step; with early stopping, as it was when it was best.
    """

    adapter: Adapter
    steps: dict[str, int]
    failed: dict[str, int]


def train(
    model: Model,
    fleet: Fleet,
    config: TrainConfig,
    folder: Path,
    *,
    dropout: float = 0.0,
    checkpoint_every: int = 50,
    report: Callable[[Progress], None] = lambda progress: None,
    trackers: Callable[[int], Sequence[Tracker]] = lambda step: (),
    profile_steps: int = 0,
) -> Trained:
    """Trains `fleet` over `model`, on the mesh that its weights are on, until every adapter has made its steps.

    `folder` gets `checkpoints/` and `metrics.jsonl`; when they are there already, training goes on from the last
    checkpoint, and the log and the adapters become what an uninterrupted run would have given. One program is compiled
    for each layout of the batches.

    Args:
      config: the same as in the run that is gone on with.
      dropout: probability of dropping an input of the updates.
      checkpoint_every: steps between checkpoints; the last step has one in any case.
      report: is told of every step, one step late.
      trackers: makes those that follow the run, from the step it starts at.
      profile_steps: steps to profile into `folder/profile`; 0 for none.

    Returns:
      The adapters, as NumPy arrays in float32.

    Raises:
      Stopped: a signal asked for it; everything is on disk.
      LorajaxError: a file could not be written.
    """
    graphdef, base = nnx.split(model)
    base, mesh = on_mesh(base)
    with on_host():
        start = init_state(fleet.adapter, config, fleet.names, steps=fleet.steps, learning_rates=fleet.learning_rates)
    placed = layouts(mesh, *start)
    state, fixed = put(start, placed)
    del start  # the state of all adapters, which the devices hold in parts
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
        state = checkpoints.restore(state)
        first = int(state.step)
        log = stack.enter_context(MetricsLog(folder / "metrics.jsonl"))
        log.rewind(first)
        record = _Record(fleet, config, log, report, first)
        for tracker in trackers(first):
            record.trackers.append(stack.enter_context(contextlib.closing(tracker)))
        stop = stack.enter_context(StopRequests())
        tracer = stack.enter_context(profile(folder, first=first + WARM, count=profile_steps if is_first() else 0))
        step = _Programs(make_step(graphdef, config, mesh, placed[0], dropout=dropout), base, fixed)
        validate = make_validation(graphdef, base, fixed, fleet, config, mesh)
        note = jax.jit(functools.partial(judge, patience=config.patience), donate_argnums=0, out_shardings=placed[0])
        batches = stack.enter_context(_prepared(fleet, config, mesh, range(first, record.steps)))
        for number, batch, layout in batches:
            if stop.asked():
                record.finish()
                if number > first:  # else it is on disk, or there is nothing to keep
                    _save(checkpoints, log, number, state)
                checkpoints.wait()
                raise Stopped(number, record.steps, stop.number)
            tracer.step(number, state)
            state, metrics = step(layout, state, batch)
            record.add(number + 1, metrics, layout)
            # Also where an adapter has made its last step: alone it would be measured there too.
            if validate and ((number + 1) % config.evaluate_every == 0 or number + 1 in fleet.steps):
                losses = validate(state)
                state = note(state, losses)
                record.validation(losses, state)
            if (number + 1) % checkpoint_every == 0 or number + 1 == record.steps or record.over:
                record.finish()
                _save(checkpoints, log, number + 1, state)
            if record.over:
                break
        checkpoints.wait()
        if stop.number and jax.process_count() == 1:  # asked for in the last step: nobody else would hear of it
            raise Stopped(record.steps, record.steps, stop.number)
        return _trained(fleet, state, fixed)


def _save(checkpoints: Checkpoints, log: MetricsLog, step: int, state: TrainState) -> None:
    log.flush()  # the log must not be behind the checkpoint
    checkpoints.save(step, state)


def _trained(fleet: Fleet, state: TrainState, fixed: Fixed) -> Trained:
    def choose(state: TrainState, fixed: Fixed):
        factors = state.factors
        if state.best is not None:
            measured = jax.numpy.isfinite(state.best.loss)[:, None, None]
            factors = jax.tree.map(lambda b, f: jax.numpy.where(measured, b, f), state.best.factors, factors)
        return join(factors, fixed.scales), state.last, state.failed

    # To the host: no device has to hold all adapters at once.
    adapter, last, failed = fetch(jax.jit(choose)(state, fixed))
    return Trained(
        adapter,
        steps=dict(zip(fleet.names, np.asarray(last).tolist(), strict=True)),
        failed={name: step for name, step in zip(fleet.names, np.asarray(failed).tolist(), strict=True) if step},
    )


class _Programs:
    """The step, compiled once for each layout."""

    def __init__(self, step, base: nnx.State, fixed: Fixed):
        self._step, self._base, self._fixed = step, base, fixed
        self._compiled: dict[Layout, Callable] = {}

    def __call__(self, layout: Layout, state: TrainState, batch) -> tuple[TrainState, Metrics]:
        if layout not in self._compiled:
            self._compiled[layout] = self._step.lower(state, self._base, self._fixed, batch).compile()
        return self._compiled[layout](state, self._base, self._fixed, batch)


@contextlib.contextmanager
def _prepared(
    fleet: Fleet, config: TrainConfig, mesh: Mesh, steps: range
) -> Iterator[Iterator[tuple[int, dict[str, Array], Layout]]]:
    """The batches of `steps`, each put together while the step before it runs."""
    plan = fleet.plan(config, mesh)

    def build(step: int) -> dict[str, Array]:
        layout = plan.at(step)
        shapes, dtypes = shapes_of(layout, len(fleet.names), packed=config.packing)
        return place(lambda members: fleet.batch(step, layout, config, members), shapes, mesh, dtypes)

    with ThreadPoolExecutor(1, "batches") as pool:

        def all_of_them() -> Iterator[tuple[int, dict[str, Array], Layout]]:
            coming: Future | None = pool.submit(build, steps[0]) if steps else None
            for step in steps:
                assert coming is not None
                batch = coming.result()
                coming = pool.submit(build, step + 1) if step + 1 in steps else None
                yield step, batch, plan.at(step)

        yield all_of_them()


class _Record:
    """Takes the numbers of the steps, one step late, so that waiting for them costs the device nothing."""

    def __init__(self, fleet: Fleet, config: TrainConfig, log: MetricsLog, report: Callable, first: int):
        self.steps, self.over = max(fleet.steps), False
        self.trackers: list[Tracker] = []
        self._fleet, self._log, self._report = fleet, log, report
        self._first, self._tokens, self._started = first, 0, time.perf_counter()
        self._waiting: tuple[int, Metrics, Layout] | None = None
        self._validation: list[float] | None = None
        every = np.arange(self.steps)[:, None]
        peak = np.asarray(fleet.learning_rates, np.float32)
        self._rates = np.asarray(learning_rate(config, every, np.asarray(fleet.steps), peak)).tolist()

    def add(self, number: int, metrics: Metrics, layout: Layout) -> None:
        """Takes what step `number` will give, and writes what the one before gave."""
        self.finish()
        self._waiting = number, metrics, layout

    def validation(self, losses: Array, state: TrainState) -> None:
        """Takes the validation losses `[N]` measured after the last step; nobody left in the training ends it."""
        self._validation = np.asarray(losses).tolist()
        assert self._waiting is not None
        self.over = self.over or int(jax.numpy.max(state.last)) <= self._waiting[0]

    def finish(self) -> None:
        """Writes what is waited for."""
        if self._waiting is None:
            return
        (number, metrics, layout), self._waiting = self._waiting, None
        values = {name: np.asarray(value).tolist() for name, value in jax.device_get(metrics).items()}
        names, active = self._fleet.names, values["active"]

        def of_active(row: Sequence[float]) -> dict[str, float]:
            return {name: value for name, value, on in zip(names, row, active, strict=True) if on}

        rows = {key: of_active(values[key]) for key in ("loss", "grad_norm", "tokens")}
        rows["learning_rate"] = of_active(self._rates[number - 1])
        if self._validation is not None:
            rows["validation"] = of_active(self._validation)
            self._validation = None
        if not any(active):
            self.over = True
            return
        self._log.write(number, rows)
        for tracker in self.trackers:
            tracker.write(number, rows)
        self._tokens += len(names) * layout.rows * layout.length
        seconds = time.perf_counter() - self._started
        left = (self.steps - number) * seconds / (number - self._first)
        self._report(Progress(number, self.steps, rows["loss"], self._tokens / seconds, left, rows["learning_rate"]))
