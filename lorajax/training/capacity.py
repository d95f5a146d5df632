"""What a training step takes, before there are any weights: the real step, compiled from shapes alone.

XLA lays out all memory of a program when it compiles it, so the question "does it fit?" has an exact answer without
running anything, for devices that are here, for virtual ones, or for a TPU that is elsewhere. Bytes are per device:

    arguments     base weights, adapters with their optimizer state, batch: shapes and layouts as in training
    temporaries   what the compiler reserves while the step runs: activations, gradients, gathered weights
    rest          results that do not reuse an argument's memory, the device's padding of arguments, the program itself
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lorajax.data.batching import Layout, round_up
from lorajax.data.classes import Classes
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.machines import host_bytes
from lorajax.mesh import device_bytes as bytes_of
from lorajax.mesh import fleet_axes, row_devices, sharding
from lorajax.models.kinds import Model, build
from lorajax.models.quantize import Quantize, check_kind, is_block_kernel, quantization, tile_size
from lorajax.models.quantize import quantize as quantized
from lorajax.models.tables import Config, table
from lorajax.training.config import TrainConfig
from lorajax.training.fleet import shapes_of
from lorajax.training.loss import CHUNK
from lorajax.training.step import init_state, layouts, make_step

#: Share of a device's memory that a step may take: the rest is for what is not in the program, and for fragments.
FITS = 0.92

#: A generous estimate below this share of the memory needs no compiler to confirm it.
CLEARLY = 0.25


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that decides a step but for its number of adapters. Of `model` only shapes, dtypes and layouts matter.

    `layout` is the batch of one adapter; its rows are rounded up as the mesh and `train.accumulate` ask for.
    """

    model: Model
    lora: LoraConfig
    train: TrainConfig
    layout: Layout
    mesh: Mesh
    classes: Classes | None = None  # of an encoder's heads

    def layout_for(self, size: int) -> Layout:
        """The batch's layout with N = `size` adapters."""
        multiple = self.train.accumulate * row_devices(self.mesh, size)
        return dataclasses.replace(self.layout, rows=round_up(self.layout.rows, multiple))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device, by kind: see the module's description."""

    base: int
    adapters: int
    batch: int
    temporaries: int
    rest: int

    @property
    def total(self) -> int:
        """All that has to fit at once."""
        return self.base + self.adapters + self.batch + self.temporaries + self.rest


def abstract_model(config: Config, mesh: Mesh, *, dtype=jnp.float32, quantize: Quantize = "none") -> Model:
    """The model as `load_weights` would lay it out on `mesh`, with shapes in place of arrays.

    Raises:
      LorajaxError: an unknown `quantize`, or one whose extra is missing.
    """
    check_kind(quantize)
    model = nnx.eval_shape(lambda: quantized(build(config, dtype=dtype), quantize))
    graphdef, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    for tensor in table(config):
        shape, spread = tensor.shape, tensor.axes
        if quantize != "none" and is_block_kernel(tensor):
            shape = (shape[0] // tile_size(shape[0]), shape[1])
        spec = tuple(sharding(mesh, spread, shape).spec)
        names = [(*tensor.path, part) for part in ("codes", "scales")] if shape != tensor.shape else [tensor.path]
        for name in names:
            leaf = jax.tree.leaves(flat[name])[0]
            cut = (spec[0], None, spec[1]) if name != tensor.path else spec
            full = PartitionSpec(*([None] * tensor.stacked), *cut)
            whole = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, full))
            flat[name] = flat[name].replace(whole)
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def abstract_arguments(setup: Setup, size: int) -> tuple[Any, Any, Any, Any]:
    """State, base, fixed and batch of a step for N = `size` adapters, as shapes laid out on the mesh."""

    def placed(x, layout) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)

    def base(x) -> jax.ShapeDtypeStruct:
        laid = isinstance(x.sharding, NamedSharding) and x.sharding.mesh == setup.mesh
        return placed(x, x.sharding if laid else NamedSharding(setup.mesh, PartitionSpec()))

    def start():
        names, own = [str(n) for n in range(size)], setup.classes
        return init_state(init_adapter(setup.model.config, setup.lora, names, classes=own), setup.train, names)

    shapes = jax.eval_shape(start)
    state, fixed = jax.tree.map(placed, shapes, layouts(setup.mesh, *shapes))
    sizes, dtypes = shapes_of(setup.layout_for(size), size, packed=setup.train.packing)
    axes = [*fleet_axes(setup.mesh, size), None]
    batch = {
        key: jax.ShapeDtypeStruct(shape, dtypes[key], sharding=sharding(setup.mesh, axes, shape))
        for key, shape in sizes.items()
    }
    return state, jax.tree.map(base, nnx.split(setup.model)[1]), fixed, batch


def lower_step(setup: Setup, size: int) -> jax.stages.Lowered:
    """The training step for N = `size` adapters, ready to be compiled."""
    state, base, fixed, batch = abstract_arguments(setup, size)
    placed = jax.tree.map(lambda x: x.sharding, state)
    step: Any = make_step(nnx.split(setup.model)[0], setup.train, setup.mesh, placed, dropout=setup.lora.dropout)
    return step.lower(state, base, fixed, batch)


def bytes_on_device(tree: Any) -> int:
    """Bytes of a tree of shapes with layouts that each device holds."""

    def own(x) -> int:
        return int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize

    return sum(map(own, jax.tree.leaves(tree)))


def measure(setup: Setup, size: int) -> Memory:
    """Compiles the step for N = `size` adapters and reads its memory off the program.

    Raises:
      LorajaxError: the compiler found that the program does not fit into the device's memory; its message is kept.
    """
    state, base, fixed, batch = abstract_arguments(setup, size)
    try:
        found: Any = lower_step(setup, size).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise LorajaxError(f"{size} adapters: the compiler says {str(error).splitlines()[0]}") from None
    known = Memory(bytes_on_device(base), bytes_on_device((state, fixed)), bytes_on_device(batch), 0, 0)
    padding = max(0, found.argument_size_in_bytes - known.total)
    rest = padding + max(0, found.output_size_in_bytes - found.alias_size_in_bytes) + found.generated_code_size_in_bytes
    return dataclasses.replace(known, temporaries=found.temp_size_in_bytes, rest=rest)


def estimate(setup: Setup, size: int) -> int:
    """Bytes a device needs at most for N = `size` adapters, by a generous formula and without compiling."""
    config, layout = setup.model.config, setup.layout_for(size)
    state, base, fixed, batch = abstract_arguments(setup, size)
    width, weights = base["embedding"].get_value().dtype.itemsize, bytes_on_device(base)
    D, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    spread = setup.mesh.shape["data"] * setup.mesh.shape["fsdp"]
    rows = -(-size * layout.rows // spread // setup.train.accumulate)
    tokens, answers = rows * layout.length, rows * layout.answers
    scores = tokens * config.num_heads * layout.length * 4
    block = tokens * (8 * D + 4 * (q + kv) + 6 * inner) * 4 + 4 * scores
    products = tokens * (2 * D + 2 * (q + kv) + 2 * inner) * width
    kept = {"block": tokens * D * width, "products": products, "none": block}[setup.train.remat]
    # Weights are gathered for a block and its gradient; where 16 bit has no product of its own, all become float32.
    gathered = 8 * 4 * (D * (2 * q + 2 * kv) + 3 * D * inner) + 2 * vocab * D * 4
    widened = 4 * weights if width < 4 or quantization(setup.model) != "none" else weights
    head = 6 * min(answers, CHUNK + rows) * vocab * 4 + 8 * answers * D * 4
    own = bytes_on_device((state, fixed, batch))
    return weights + widened + 4 * own + config.num_layers * kept + block + gathered + head


def largest_fleet(setup: Setup, *, most: int, device_bytes: int, memory: Callable[[int], Memory] | None = None) -> int:
    """The largest number of adapters, up to `most`, whose step fits into FITS of `device_bytes`; 0 for none.

    A multiple of the mesh's `data` axis, unless not even that many fit. Two compiled programs give the memory of an
    adapter; the answer is extrapolated, compiled, and corrected until it fits and nothing larger by a twentieth is in
    sight. `memory` replaces `measure`, such as by one that remembers.
    """
    measured, room = memory or functools.partial(measure, setup), FITS * device_bytes
    data = setup.mesh.shape["data"]

    def total(size: int) -> float:
        try:
            return measured(size).total
        except LorajaxError:  # the compiler refused it
            return math.inf

    def search(unit: int, most: int) -> int:
        last, taken = unit, total(unit)
        if taken > room:
            return 0
        low, high = unit, (most // unit + 1) * unit  # this many fit; this many do not, or are not wanted
        guess = 2 * unit
        while low < guess < high:
            found = total(guess)
            low, high = (guess, high) if found <= room else (low, guess)
            better = (low + high) / 2
            if found < math.inf:
                slope = max((found - taken) / (guess - last), 1)
                better, last, taken = guess + (room - found) / slope, guess, found
            if found <= room and better < 1.05 * low:
                break
            guess = max(low, min(high - unit, int(better) // unit * unit))
        return low

    found = search(data, most) if most >= data else 0
    return found or (search(1, min(most, data - 1)) if data > 1 else 0)


def fleet_size(
    model: Model,
    lora: LoraConfig,
    config: TrainConfig,
    layout: Layout,
    mesh: Mesh,
    *,
    most: int,
    device_bytes: int | None = None,
    classes: Classes | None = None,
) -> int:
    """How many adapters to train together: as many of `most` as the memory of each device of `mesh` holds.

    Where a generous estimate is far below the memory, as for small models, nothing is compiled. `device_bytes` is
    asked of the device when None; of a CPU it is what is free, shared by the devices. Unknown memory limits nothing.

    Raises:
      LorajaxError: not even one adapter fits; it says what is needed, what there is and what would help.
    """
    setup = Setup(model, lora, config, layout, mesh, classes)
    room = _agreed(device_bytes or memory_of(mesh, held=bytes_on_device(abstract_arguments(setup, 1)[1])))
    if room is None or estimate(setup, most) <= CLEARLY * room:
        return most
    memory = functools.cache(functools.partial(measure, setup))
    if size := largest_fleet(setup, most=most, device_bytes=room, memory=memory):
        return size
    there = f"each device can give {_gb(FITS * room)} of {_gb(room)}"
    raise LorajaxError(f"{_needed(memory)}; {there}. {_advice(setup)}")


def memory_of(mesh: Mesh, *, held: int = 0) -> int | None:
    """Bytes of each of this process's devices on `mesh`; None where nothing tells.

    Devices of a CPU share what the system has available now, and have `held` bytes of it already.
    """
    own = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    if not own or own[0].platform != "cpu":
        return bytes_of(own[0]) if own else None
    return host_bytes() // len(own) + held


def _agreed(room: int | None) -> int | None:
    """The smallest of all processes' answers: they have to come to the same fleet."""
    if jax.process_count() == 1:
        return room
    from jax.experimental import multihost_utils

    # In KiB, as float32: integers of JAX have 32 bits.
    smallest = np.min(multihost_utils.process_allgather(np.float32((room or 0) / 1024)))
    return int(smallest) * 1024 or None


def _needed(memory: Callable[[int], Memory]) -> str:
    try:
        found = memory(1)
    except LorajaxError as error:
        return f"one adapter does not fit: {error}"
    parts = f"weights {_gb(found.base)}, adapter {_gb(found.adapters)}, temporaries {_gb(found.temporaries)}"
    return f"one adapter needs {_gb(found.total)} ({parts})"


def _advice(setup: Setup) -> str:
    ways = ["--remat block"] if setup.train.remat != "block" else []
    if setup.layout.rows > setup.train.accumulate:
        ways.append(f"--accumulate {2 * setup.train.accumulate}")
    ways += ["--quantize nf4"] if quantization(setup.model) == "none" else []
    return f"Try, in this order: {', '.join([*ways, 'weights on more devices (--mesh fsdp=...)', 'a smaller batch'])}"


def _gb(number: float) -> str:
    return f"{number / 1e9:.2f} GB"
