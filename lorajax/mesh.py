"""Where arrays live: one table from the logical axes of an array to the axes of the device mesh.

Mesh axes: `data` (adapters; the rows of a lone adapter), `fsdp` (weights, gathered when used, and the rows of every
adapter's batch), `tensor` (weights, split inside a product). Adapters are independent, so nothing is summed over `data`
when a fleet is laid over it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lorajax.distributed import from_first
from lorajax.errors import LorajaxError

AXES = ("data", "fsdp", "tensor")

#: Logical axis -> mesh axes. An axis that is not here is on every device.
RULES: dict[str, str | tuple[str, ...]] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "inner": "tensor",
    "adapter": "data",  # the N adapters of a fleet
    "row": "fsdp",  # the rows of each adapter's batch
    "lone_row": ("data", "fsdp"),  # the same, where N adapters do not divide over `data`
}

#: Share of a device's memory that the base weights may take before they are sharded.
BASE_SHARE = 0.4


def make_mesh(*, data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the first data * fsdp * tensor of `devices` (all there are, by default).

    Raises:
      LorajaxError: more devices are asked for than there are, or fewer than this computation's processes need.
    """
    devices = list(jax.devices() if devices is None else devices)
    needed = data * fsdp * tensor
    if needed > len(devices):
        raise LorajaxError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} needs {needed} devices; found {len(devices)}"
        )
    idle = {d.process_index for d in devices} - {d.process_index for d in devices[:needed]}
    if idle:
        raise LorajaxError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} leaves processes {sorted(idle)} without a device: "
            f"there are {len(devices)} devices, use all of them"
        )
    grid = np.asarray(devices[:needed]).reshape(data, fsdp, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def parse_mesh(text: str) -> dict[str, int]:
    """The sizes in `data=4,fsdp=2`; axes that are not named have size 1.

    Raises:
      LorajaxError: anything else.
    """
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d+)\s*", part)
        if not match or match[1] not in AXES or int(match[2]) < 1:
            raise LorajaxError(f"--mesh {text!r}: expected 'auto' or sizes of {', '.join(AXES)} such as data=4,fsdp=2")
        sizes[match[1]] = int(match[2])
    return sizes


def automatic_sizes(devices: int, *, base_bytes: int, device_bytes: int | None) -> dict[str, int]:
    """Sizes of a mesh over `devices`: weights on as few devices as hold them, adapters over the rest.

    With `device_bytes` unknown, the weights are on every device.
    """
    fsdp = 1
    if device_bytes:
        fits = [n for n in range(1, devices + 1) if devices % n == 0 and base_bytes / n <= BASE_SHARE * device_bytes]
        fsdp = fits[0] if fits else devices
    return {"data": devices // fsdp, "fsdp": fsdp, "tensor": 1}


def choose_mesh(text: str, *, base_bytes: int) -> Mesh:
    """The mesh that the text of `--mesh` names. `auto`: all accelerators; of a CPU, which shares cores, one a process.

    `base_bytes` is what the weights take; `auto` spreads them over as few devices as hold them.

    Raises:
      LorajaxError: the text names no mesh, or more devices than there are.
    """
    if text != "auto":
        sizes = parse_mesh(text)
        return make_mesh(data=sizes["data"], fsdp=sizes["fsdp"], tensor=sizes["tensor"])
    devices = jax.devices()
    if devices[0].platform == "cpu":
        devices = [next(d for d in devices if d.process_index == p) for p in range(jax.process_count())]
    # Only a process's own devices tell their memory: the first one decides for all.
    own = device_bytes(jax.local_devices()[0])
    sizes = from_first(lambda: automatic_sizes(len(devices), base_bytes=base_bytes, device_bytes=own))
    return make_mesh(**sizes, devices=devices)


def device_bytes(device: jax.Device) -> int | None:
    """Memory of an accelerator that arrays can use; None where it is not told, as on CPUs."""
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:
        return None


def sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """How an array `shape` with these logical axes is laid out; an axis the mesh does not divide stays whole."""
    spec = []
    for axis, length in zip(axes, shape, strict=True):
        mesh_axes = RULES.get(axis) if axis else None
        parts = np.prod([mesh.shape[a] for a in ((mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ())])
        spec.append(mesh_axes if mesh_axes and length % int(parts) == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def fleet_axes(mesh: Mesh, size: int) -> tuple[str | None, str]:
    """Logical axes of N = `size` adapters and of their rows: the fleet over `data` where it divides, else its rows."""
    return ("adapter", "row") if size % mesh.shape["data"] == 0 else (None, "lone_row")


def row_devices(mesh: Mesh, size: int) -> int:
    """How many devices the rows of a batch of N = `size` adapters are spread over."""
    return mesh.shape["fsdp"] * (1 if size % mesh.shape["data"] == 0 else mesh.shape["data"])


def replicate(tree, mesh: Mesh):
    """`tree` committed to every device of `mesh`.

    State that enters a compiled loop uncommitted leaves it committed, and the second call would compile again.
    """
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_host() -> contextlib.AbstractContextManager:
    """New arrays are made in the host's memory while this is entered, where there is a CPU backend."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def fetch(tree):
    """`tree` as NumPy arrays, whole in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return jax.tree.map(lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree)


def put(tree, shardings):
    """`tree`, which every process has whole, laid out by `shardings` (a tree of the same structure)."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def place(x, layout: NamedSharding):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            whole = NamedSharding(layout.mesh, PartitionSpec(*layout.spec, None))
            return jax.random.wrap_key_data(place(jax.random.key_data(x), whole))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, layout, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)


def on_mesh(tree) -> tuple[Any, Mesh]:
    """`tree` and the mesh its arrays are laid out on; arrays that are on none are put on a mesh of one device."""
    placed = jax.tree.leaves(tree)[0].sharding
    if isinstance(placed, NamedSharding) and isinstance(placed.mesh, Mesh):
        return tree, placed.mesh
    mesh = make_mesh()
    return replicate(tree, mesh), mesh
