"""Being asked to stop: Ctrl-C, or the SIGTERM that machines get before they are taken away.

Of many processes one may be told, and all have to stop at the same step. JAX's coordination service catches SIGTERM and
lets them agree on a step that none has begun; until then asking it costs no more than looking at a flag.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from types import FrameType

import jax

#: Signals that end a training after the step it is in, with a checkpoint.
SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: Numbers the questions. Steps would not do: they begin anew with each group, and what is agreed on may lie beyond the
#: last step of one.
_questions = itertools.count()


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

    def asked(self) -> bool:
        """Whether to stop before the next step; of many processes all ask as often, and all answer alike."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(next(_questions)):
                self.number = self.number or signal.SIGTERM
                return True
            return False
        return bool(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def __enter__(self) -> StopRequests:
        # Of many processes, SIGTERM belongs to JAX's coordination service, and others are handed on to it.
        own = [number for number in SIGNALS if number != signal.SIGTERM or jax.process_count() == 1]
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = {number: signal.signal(number, self._note) for number in own}
        return self

    def __exit__(self, *_) -> None:
        self._restore()
