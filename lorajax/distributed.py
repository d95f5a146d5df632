"""Several processes as one computation: found out, started, and taken turns in.

Each process sees its own devices and, after `start`, those of all. Programs run on every process alike; files are
written by the first.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import os
from typing import Literal

import jax

from lorajax.errors import LorajaxError


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
            jax.distributed.initialize(config.coordinator, config.processes, config.process_id)
        elif config.distributed == "on" or _surroundings():
            jax.distributed.initialize()
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


def meet(name: str) -> None:
    """Waits until all processes are here, such as after one wrote what all will read."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
