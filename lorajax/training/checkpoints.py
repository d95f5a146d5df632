"""What training leaves on disk while it runs: the state of the last checkpoint, and the log of all steps."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from lorajax.errors import LorajaxError
from lorajax.training.step import Best, TrainState

#: How long processes wait for each other's part of a checkpoint. It bounds how late an error of one is noticed, too:
#: orbax lets the one that could not write wait for the others, which wait for it.
WRITE_SECONDS = 300


class Checkpoints:
    """The training state on disk (orbax): the last one is kept, written whole or not at all, while training goes on."""

    def __init__(self, folder: Path):
        self._folder = folder
        logging.getLogger("absl").addFilter(_is_no_trace_of_orbax)
        context = ocp.Context()
        context.asynchronous.timeout_secs = WRITE_SECONDS
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(1),
            context=context,
        )

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write `state`, which may be donated afterwards; waits for the checkpoint before.

        Raises:
          LorajaxError: no space or no permission, now or while the one before was written; what is complete stays.
        """
        try:
            self._checkpointer.wait()
            # Orbax reads the arrays of a CPU where they are, and the next step writes into them.
            fields = jax.tree.map(jnp.copy, _fields(state))
            self._checkpointer.save_async(step, fields, overwrite=True, force=True)
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Returns when everything is on disk. Raises as `save`."""
        try:
            self._checkpointer.wait()
        except Exception as error:
            raise self._failure(error) from error

    def restore(self, state: TrainState) -> TrainState:
        """The last state saved, in the shapes and shardings of `state`; `state` itself when there is none.

        The devices may be others, or of another number, than those it was saved from.

        Raises:
          LorajaxError: there is one that cannot be read.
        """
        if self._checkpointer.latest is None:
            return state
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _fields(state))
        try:
            fields = self._checkpointer.load(None, abstract)
        except Exception as error:
            raise LorajaxError(
                f"{self._folder}: its checkpoint could not be read: {error}; delete it to train from the start"
            ) from error
        if fields["best"] is not None:
            fields["best"] = Best(**fields["best"])
        return TrainState(**fields)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            self._checkpointer.close()
        except Exception as error:  # a failed save is told again here; once is enough
            if kind is None:
                raise self._failure(error) from error

    def _failure(self, error: Exception) -> LorajaxError:
        return LorajaxError(f"{self._folder}: no checkpoint could be written: {error}")


def _is_no_trace_of_orbax(record: logging.LogRecord) -> bool:
    # Every one of orbax's threads logs the traceback of a failed write; it is raised to us too, and told once.
    return not (record.exc_info and "orbax" in record.pathname)


def _fields(state: TrainState) -> dict[str, Any]:
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if state.best is not None:
        fields["best"] = {field.name: getattr(state.best, field.name) for field in dataclasses.fields(state.best)}
    return fields


class MetricsLog:
    """`metrics.jsonl`: one line a step, `{"step", "loss": {adapter: nats}, "grad_norm", "learning_rate", "tokens"}`.

    An adapter is in the lines of the steps it made. `validation` is there at the steps where it was measured. Of many
    processes, the first one writes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: TextIO | None = None

    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`, and any half-written line; opens the log."""
        if jax.process_index():
            return
        with self._guard():
            kept = [json.dumps(row) + "\n" for row in read_rows(self.path) if row["step"] <= step]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(kept), "utf-8")
            os.replace(temporary, self.path)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Mapping[str, float]]) -> None:
        """Adds the line of one step; a number that is not finite is null there, since JSON has none."""
        if self._file is not None:
            finite = {k: {n: v if math.isfinite(v) else None for n, v in row.items()} for k, row in values.items()}
            with self._guard():
                self._file.write(json.dumps({"step": step, **finite}) + "\n")

    def flush(self) -> None:
        """Puts what was written on disk, before a checkpoint says that it happened."""
        if self._file is not None:
            with self._guard():
                self._file.flush()
                os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if self._file is not None:
            with self._guard() if kind is None else contextlib.suppress(OSError):
                self._file.close()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LorajaxError(f"{self.path}: could not be written: {error.strerror}") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, up to one that a crash cut short."""
    rows = []
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows
