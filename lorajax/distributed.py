"""Several processes as one computation: found out, started, and kept in step.

Each process sees its own devices and, after `start`, those of all. Every process runs the same programs in the same
order: one that takes another turn leaves the others waiting. So what depends on files is decided by the first process
and told to all (`from_first`), and so is an error in it; the first process writes the files and speaks.

A process that ends alone takes the others with it. One with an error waits LEAVE_SECONDS for them to end too, then
JAX's coordination service ends them; one that is gone without a word is missed after about 100 s.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import json
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from lorajax.errors import LorajaxError

T = TypeVar("T")

#: How long a process that ends waits for the others before they are ended too.
LEAVE_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Which processes work together."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """`auto`: with several tasks under Slurm or MPI, and on Cloud TPUs; `on`: as JAX finds out; `off`: alone."""
    coordinator: str = ""
    """HOST:PORT of the first process, where nothing tells; the same for all processes."""
    processes: int = 0
    """Number of processes; needs --coordinator."""
    process_id: int = -1
    """Number of this process, from 0; needs --coordinator."""

    def __post_init__(self):
        given = [bool(self.coordinator), self.processes > 0, self.process_id >= 0]
        if any(given) and not all(given):
            raise LorajaxError("--coordinator, --processes and --process-id belong together: give all three or none")
        if all(given) and self.process_id >= self.processes:
            raise LorajaxError(f"--process-id {self.process_id}: processes are numbered 0 to {self.processes - 1}")


def start(config: DistributedConfig) -> None:
    """Joins the computation; to be called before anything else of JAX. Alone, it does nothing.

    Raises:
      LorajaxError: the others could not be found or reached.
    """
    if config.distributed == "off" or jax.distributed.is_initialized():
        return
    try:
        if config.coordinator:
            jax.distributed.initialize(
                config.coordinator, config.processes, config.process_id, shutdown_timeout_seconds=LEAVE_SECONDS
            )
        elif config.distributed == "on" or _surroundings():
            jax.distributed.initialize(shutdown_timeout_seconds=LEAVE_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise LorajaxError(
            f"the processes did not find each other: {error}; give --coordinator HOST:PORT --processes N "
            "--process-id I, or --distributed off for a process of its own"
        ) from error


def _surroundings() -> bool:
    """Whether something around this process says that it is one of several."""
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if int(os.environ.get(name) or 1) > 1:
            return True
    if len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return True
    tpu = importlib.util.find_spec("libtpu") is not None and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    return bool(tpu) and os.environ.get("JAX_PLATFORMS", "tpu") != "cpu"


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def several() -> bool:
    """Whether other processes take part in this computation."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, for all processes; the others wait. Its value is of JSON types.

    Raises:
      LorajaxError: `make` raised it; in the other processes, that the first one had an error.
    """
    if not several():
        return make()
    told: dict[str, Any] | None = None
    failure: Exception | None = None
    if is_first():
        try:
            told = {"value": make()}
        except Exception as error:  # told to the others first, whatever it is
            failure = error
    answer = json.loads(_broadcast(json.dumps(told).encode()))
    if failure is not None:
        raise failure
    if answer is None:
        raise LorajaxError("the first process had an error, which it tells")
    return answer["value"]


def where_not(holds: bool) -> list[int]:
    """The numbers of the processes in which `holds` is false, in all of them."""
    if not several():
        return [] if holds else [0]
    from jax.experimental import multihost_utils

    return np.flatnonzero(~np.atleast_1d(multihost_utils.process_allgather(np.asarray(holds)))).tolist()


def _broadcast(text: bytes) -> bytes:
    """The first process's `text`, in all."""
    from jax.experimental import multihost_utils

    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(-(-length // 1024) * 1024, np.uint8)  # few lengths, since each is compiled
    if is_first():
        padded[:length] = np.frombuffer(text, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length].tobytes()
