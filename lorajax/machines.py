"""Accelerators: memory, speed and an indicative price, as their makers and sellers publish them. And what a host has.

None of these facts is measured here, and a price is a list price of one seller at one time: check yours. Dense
bfloat16 peaks are without sparsity; a real step reaches a share of them. `matrix_rate` does measure.
"""

from __future__ import annotations

import dataclasses
import os
import time

from lorajax.errors import LorajaxError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device: a TPU chip or a GPU."""

    name: str
    memory: int
    """Bytes of high-bandwidth memory, as sold; programs can use a few per cent less."""
    peak: float
    """Dense bfloat16 operations a second, accumulated in float32, by the data sheet."""
    bandwidth: float
    """Bytes a second between memory and compute units, by the data sheet."""
    price: float | None
    """US dollars an hour for one device on demand; None where no single list price is well known."""
    price_note: str
    """Whose price it is, and of when."""


_GOOGLE_TPU = "Google Cloud list price per chip, US regions, 2025"
_LAMBDA = "Lambda list price, one GPU, May 2026"
_MODAL = "Modal list price, billed by the second, May 2026"

MACHINES: dict[str, Accelerator] = {
    machine.name: machine
    for machine in (
        Accelerator("v4", 32 * GIB, 275e12, 1.228e12, 3.22, _GOOGLE_TPU),
        Accelerator("v5e", 16 * GIB, 197e12, 0.819e12, 1.20, _GOOGLE_TPU),
        Accelerator("v5p", 95 * GIB, 459e12, 2.765e12, 4.20, _GOOGLE_TPU),
        Accelerator("v6e", 32 * GIB, 918e12, 1.640e12, 2.70, _GOOGLE_TPU),
        Accelerator("a100-40", 40 * GIB, 312e12, 1.555e12, 1.48, _LAMBDA),
        Accelerator("a100-80", 80 * GIB, 312e12, 2.039e12, 2.50, _MODAL),
        Accelerator("h100", 80 * GIB, 989e12, 3.350e12, 3.78, f"{_LAMBDA}; SXM"),
        Accelerator("h200", 141 * 10**9, 989e12, 4.800e12, None, "sellers differ by a factor of two and more"),
        Accelerator("l4", 24 * GIB, 121e12, 0.300e12, 0.80, _MODAL),
        Accelerator("rtx4090", 24 * GIB, 165e12, 1.008e12, None, "not rented out by the large clouds"),
        # No bfloat16 units: the peak is that of float16.
        Accelerator("t4", 16 * GIB, 65e12, 0.320e12, 0.59, _MODAL),
    )
}

#: What JAX calls devices (`device_kind`), in lower case, and their names here; the first that is found counts.
KINDS = {
    "v5 lite": "v5e", "v5e": "v5e", "v6 lite": "v6e", "v6e": "v6e", "v5p": "v5p", "tpu v5": "v5p", "tpu v4": "v4",
    "h200": "h200", "h100": "h100", "a100-sxm4-80": "a100-80", "a100 80": "a100-80", "a100-pcie-80": "a100-80",
    "a100": "a100-40", "l40": "", "l4": "l4", "4090": "rtx4090", "t4": "t4",
}  # fmt: skip


def machine(name: str) -> Accelerator:
    """The accelerator `name`, in lower case or not.

    Raises:
      LorajaxError: it is not in the table.
    """
    try:
        return MACHINES[name.lower()]
    except KeyError:
        raise LorajaxError(f"accelerator {name!r}: not known; there are: {', '.join(MACHINES)}") from None


def machine_of(kind: str) -> Accelerator | None:
    """The accelerator that JAX calls `kind`, such as "TPU v5 lite" or "NVIDIA H100 80GB HBM3"; None if unknown."""
    found = next((name for part, name in KINDS.items() if part in kind.lower()), "")
    return MACHINES.get(found)


@dataclasses.dataclass(frozen=True)
class Speed:
    """What bounds a step from below: operations a second that all devices reach, bytes a second of each one's memory.

    None where it is not known.
    """

    operations: float | None
    bandwidth: float | None

    def moving(self, moved: float) -> float | None:
        """Seconds in which each device moves `moved` bytes between memory and compute units."""
        return moved / self.bandwidth if self.bandwidth else None

    def seconds(self, flops: float, moved: float) -> float | None:
        """Seconds of a step of `flops` on all devices in which each moves `moved` bytes."""
        return max(flops / self.operations, self.moving(moved) or 0) if self.operations else None


def host_bytes() -> int:
    """Memory that the system can give now (Linux), or all it has."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def matrix_rate(rows: int, inner: int, columns: int, dtype: str, *, runs: int = 10) -> float:
    """Operations a second of products `[rows, inner] @ [inner, columns]` on this process's device, best of `runs`.

    As the model makes them: sums in float32, `lorajax.models.products`.
    """
    import jax
    import jax.numpy as jnp

    from lorajax.models.products import product

    x, w = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
    run = jax.jit(lambda x, w: product("ti,io->to", x, w))
    run(x, w).block_until_ready()
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        run(x, w).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best
