"""Trains a fleet from first step to last, through crashes: checkpoints, a metrics log, resume."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from flax import nnx
from jax import Array
from orbax.checkpoint import v1 as ocp

from lorajax.data.batching import Shape, Stream, batch_at
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import Adapter, join
from lorajax.mesh import on_mesh, replicate
from lorajax.models.llama import Llama
from lorajax.training.step import TrainConfig, TrainState, adapter_keys, init_state, make_step


@dataclasses.dataclass(frozen=True)
class Fleet:
    """N adapters to train together: their names, initial values and data, all padded to one shape."""

    names: tuple[str, ...]
    adapter: Adapter
    streams: tuple[Stream, ...]
    shape: Shape
    pad: int

    def batch(self, step: int, size: int) -> dict[str, np.ndarray]:
        """The batch of `step`, from nothing but the step."""
        return batch_at(self.streams, step, batch_size=size, shape=self.shape, pad=self.pad)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is known after a step. `tokens_per_second` counts all tokens, padding too, since the start of this run."""

    step: int
    steps: int
    loss: dict[str, float]
    tokens_per_second: float
    seconds_left: float


def train(
    model: Llama,
    fleet: Fleet,
    config: TrainConfig,
    folder: Path,
    *,
    dropout: float = 0.0,
    checkpoint_every: int = 50,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Adapter:
    """Trains `fleet` over `model` for `config.steps` and returns its adapters.

    `folder` gets `checkpoints/` and `metrics.jsonl`; when they are there already, training goes on from the last
    checkpoint, and the log and the adapters become what an uninterrupted run would have given. The step compiles once.

    Raises:
      LorajaxError: the loss of an adapter is no longer finite, with its name and the step.
    """
    graphdef, base = nnx.split(model)
    base, mesh = on_mesh(base)
    state, scales = replicate(init_state(fleet.adapter, config), mesh)
    keys = replicate(adapter_keys(fleet.adapter, fleet.names, seed=config.seed), mesh)
    step = make_step(graphdef, config, dropout=dropout)
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / "checkpoints") as checkpoints, MetricsLog(folder / "metrics.jsonl") as log:
        state = checkpoints.restore(state)
        first = int(state.step)
        log.rewind(first)
        pending: tuple[int, dict[str, Array]] | None = None
        started = time.perf_counter()

        def finish(number: int, metrics: dict[str, Array]) -> None:
            # Called when the next step is already running, so waiting for these numbers costs the device nothing.
            values = {name: np.asarray(value).tolist() for name, value in jax.device_get(metrics).items()}
            log.write(number, fleet.names, values)
            for name, loss in zip(fleet.names, values["loss"], strict=True):
                if not np.isfinite(loss):
                    raise LorajaxError(
                        f"adapter {name!r}: loss {loss} at step {number}; in a new study, try a lower --learning-rate"
                    )
            rate = (number - first) / (time.perf_counter() - started)
            tokens = len(fleet.names) * config.batch_size * fleet.shape.tokens
            losses = dict(zip(fleet.names, values["loss"], strict=True))
            report(Progress(number, config.steps, losses, rate * tokens, (config.steps - number) / rate))

        for number in range(first, config.steps):
            state, metrics = step(state, base, scales, jax.device_put(fleet.batch(number, config.batch_size)), keys)
            if pending:
                finish(*pending)
            pending = (number + 1, metrics)
            if (number + 1) % checkpoint_every == 0 or number + 1 == config.steps:
                finish(*pending)
                pending = None
                log.flush()
                checkpoints.save(state)
    return join(state.factors, scales)


class Checkpoints:
    """The training state on disk (orbax): the last one is kept, written whole or not at all."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(), preservation_policy=ocp.training.preservation_policies.LatestN(1)
        )

    def save(self, state: TrainState) -> None:
        """Writes `state` under its own step.

        Raises:
          LorajaxError: no space or no permission; the checkpoint before is as it was.
        """
        try:
            self._checkpointer.save(int(state.step), _fields(state), overwrite=True)
        except OSError as error:
            raise LorajaxError(f"{self._folder}: no checkpoint could be written: {error}") from error

    def restore(self, state: TrainState) -> TrainState:
        """The last state saved, in the shapes and shardings of `state`; `state` itself when there is none."""
        if self._checkpointer.latest is None:
            return state
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _fields(state))
        return TrainState(**self._checkpointer.load(None, abstract))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            self._checkpointer.close()
        except OSError as error:  # a failed save is told again here; once is enough
            if kind is None:
                raise LorajaxError(f"{self._folder}: no checkpoint could be written: {error}") from error


def _fields(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


class MetricsLog:
    """`metrics.jsonl`: one line a step, `{"step", "loss": {adapter: nats}, "grad_norm", "tokens"}`."""

    def __init__(self, path: Path):
        self.path = path
        self._file: TextIO

    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`, and any half-written line."""
        kept = []
        if self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                try:
                    if json.loads(line)["step"] > step:
                        break
                except ValueError:
                    break
                kept.append(line + "\n")
        self._file.close()
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept), "utf-8")
        os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, names: Sequence[str], values: dict[str, list[float]]) -> None:
        """Adds the line of one step."""
        row = {"step": step} | {key: dict(zip(names, value, strict=True)) for key, value in values.items()}
        self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Puts what was written on disk, before a checkpoint says that it happened."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise LorajaxError(f"{self.path}: could not be written: {error.strerror}") from error

    def __enter__(self) -> MetricsLog:
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
