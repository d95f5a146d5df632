"""Being asked to stop: Ctrl-C, or the SIGTERM that machines get before they are taken away."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import jax

#: Signals that end a training after the step it is in, with a checkpoint.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """Training was asked to stop, and did so with a checkpoint; the same command goes on from there."""

    def __init__(self, step: int, steps: int, number: int):
        super().__init__(f"stopped at step {step} of {steps} with a checkpoint; the same command goes on from there")
        self.exit_code = 128 + number


class StopRequests:
    """Notices signals while it is entered. A second one acts as it would have without."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, object] = {}

    def asked(self, step: int) -> bool:
        """Whether to stop before `step`; of many processes all answer alike."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # The coordination service hears of one process's SIGTERM and agrees on a step with all.
            if multihost_utils.reached_preemption_sync_point(step):
                self.number = self.number or signal.SIGTERM
                return True
            return False
        return bool(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def __enter__(self) -> StopRequests:
        # With many processes SIGTERM belongs to JAX's coordination service. Only a main thread may handle signals.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        self._restore()
