"""A device profile of a few training steps: what ran, when, and what it waited for.

The first step of a process compiles, and steps around a checkpoint wait for the disk: a profile is of some in between.
It is read with TensorBoard's profile plug-in (`xprof --logdir FOLDER/profile`) or, the `.trace.json.gz` in it, with
https://ui.perfetto.dev.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from lorajax.errors import LorajaxError


class Profile:
    """Traces steps `first` to `first + count - 1`; made by `profile`."""

    def __init__(self, folder: Path, first: int, count: int, say: Callable[[str], None]):
        self._folder, self._first, self._last, self._say = folder / "profile", first, first + count, say
        self._running = self._over = False
        self._mark = contextlib.ExitStack()

    def step(self, number: int, results: Any = None) -> None:
        """To be called before step `number` is started.

        Args:
          results: arrays that the step before will give. They are waited for where the profile begins and where it
            ends, so that it holds whole steps; at other steps nothing is waited for.
        """
        self._mark.close()
        wanted = self._first <= number < self._last and not self._over
        if wanted != self._running:
            jax.block_until_ready(results)
            if wanted:
                self._start()
            else:
                self.stop()
        if self._running:
            self._mark.enter_context(jax.profiler.StepTraceAnnotation("train", step_num=number))

    def stop(self) -> None:
        """Writes what was traced; nothing is traced afterwards."""
        self._mark.close()
        if self._running:
            self._running, self._over = False, True
            with self._guard():
                jax.profiler.stop_trace()
                self._say(f"wrote a profile to {self._folder}")

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every Python call would be in it, and slow the steps down
        with self._guard():
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:  # a full disk, or another profile in this process
            self._over = True
            self._say(f"no profile in {self._folder}, training goes on: {error}")


@contextlib.contextmanager
def profile(folder: Path, *, first: int, count: int, say: Callable[[str], None] = print) -> Iterator[Profile]:
    """Profiles `count` steps, from step `first` on, into `folder/profile`; to be put around a loop that calls `step`.

    Steps are numbered as the caller numbers them. With `count` 0, or when the loop does not come to `first`, nothing is
    written; a loop that ends or fails in between leaves a profile of what it did. `say` is told where the profile is,
    or why there is none: that does not stop the training.

    Raises:
      LorajaxError: `count` is negative.
    """
    if count < 0:
        raise LorajaxError(f"--profile is a number of steps, 0 or more, found {count}")
    running = Profile(folder, first, count, say)
    try:
        yield running
    finally:
        running.stop()
