"""Where arrays live: one table from the logical axes of an array to the axes of the device mesh.

Mesh axes: `fsdp` (weights, gathered when used) and `tensor` (weights, split inside a product). `data` is for adapters
and batches, which are on every device so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lorajax.errors import LorajaxError

AXES = ("data", "fsdp", "tensor")

#: Logical axis of a weight -> mesh axis. An axis that is not here is on every device.
RULES = {"vocab": "tensor", "embed": "fsdp", "heads": "tensor", "inner": "tensor"}


def make_mesh(*, data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over the first data * fsdp * tensor devices.

    Raises:
      LorajaxError: more devices are asked for than there are.
    """
    needed, devices = data * fsdp * tensor, jax.devices()
    if needed > len(devices):
        raise LorajaxError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} needs {needed} devices; found {len(devices)}"
        )
    grid = np.asarray(devices[:needed]).reshape(data, fsdp, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """How an array `shape` with these logical axes is laid out; an axis the mesh does not divide stays whole."""
    spec = []
    for axis, length in zip(axes, shape, strict=True):
        mesh_axis = RULES.get(axis) if axis else None
        spec.append(mesh_axis if mesh_axis and length % mesh.shape[mesh_axis] == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def replicate(tree, mesh: Mesh):
    """`tree` committed to every device of `mesh`.

    State that enters a compiled loop uncommitted leaves it committed, and the second call would compile again.
    """
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_mesh(tree) -> tuple[Any, Mesh]:
    """`tree` and the mesh its arrays are laid out on; arrays that are on none are put on a mesh of one device."""
    placed = jax.tree.leaves(tree)[0].sharding
    if isinstance(placed, NamedSharding) and isinstance(placed.mesh, Mesh):
        return tree, placed.mesh
    mesh = make_mesh()
    return replicate(tree, mesh), mesh
