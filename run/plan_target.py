"""Where a plan is compiled: devices of this machine, virtual ones, or a TPU that is described and not there.

JAX takes its platform and its number of devices once, at its first use, and a process that has loaded libtpu looks for
a TPU. So everything but this machine's own devices is asked of a process of its own, which reads a question and writes
an answer, both JSON. It needs JAX, Flax, optax and lorajax alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies

from lorajax.data.batching import Layout
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig
from lorajax.mesh import automatic_sizes, make_mesh, parse_mesh
from lorajax.models.config import ModelConfig
from lorajax.models.quantize import Quantize
from lorajax.training.capacity import Memory, Setup, abstract_model, bytes_on_device, largest_fleet, measure, memory_of
from lorajax.training.config import TrainConfig
from lorajax.training.flops import xla_flops

#: How a child marks its answer, among whatever libraries print.
MARK = "lorajax-answer: "


@dataclasses.dataclass(frozen=True)
class Question:
    """What to compile, in JSON types: `model` has the keys of a config.json, `lora` and `train` those of the configs.

    `layout` is (rows, length, answers) of an adapter's batch, `most` the largest fleet to look for (0: do not look),
    `chip_bytes` the memory of an accelerator (0: ask it) and `topology` a TPU's name for the compiler, if one is meant.

    `estimate`: the devices stand for others. A CPU's program for 16 bits holds weights and activations in float32
    beside their short forms, which no accelerator does; the temporaries are then those of the program for float32,
    which needs no second form: more than enough for 16 bits.
    """

    model: dict[str, Any]
    dtype: str
    quantize: Quantize
    lora: dict[str, Any]
    train: dict[str, Any]
    layout: tuple[int, int, int]
    mesh: str
    fleet: int
    most: int
    chip_bytes: int
    topology: str = ""
    estimate: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the compiler said: `memory` of each device by kind for the fleet asked for, None where it `refused`.

    `largest` is the largest fleet that fits, 0 for none and None where it was not looked for; `whole` the bytes of the
    base on one device alone; `chips` how many accelerators the mesh takes (a TPU chip may be two devices).
    """

    platform: str
    kind: str
    mesh: dict[str, int]
    chips: float
    device_bytes: int | None
    whole: int
    rows: int
    memory: dict[str, int] | None
    refused: str
    largest: int | None
    xla_flops: float

    @property
    def total(self) -> int:
        """Bytes on each device in all; 0 where the compiler refused."""
        return sum((self.memory or {}).values())

    def moved(self, remat: str, accumulate: int) -> float:
        """Bytes that a step moves on each device, by a simple count: weights, gathered, are read in every pass and part
        of a batch, and what is kept is written and read."""
        passes = (3 if remat == "block" else 2) * accumulate
        kept = self.memory["adapters"] + self.memory["temporaries"] if self.memory else 0
        return passes * self.whole / self.mesh["tensor"] + 2 * kept


def answer(question: Question) -> Answer:
    """Compiles the step in this process.

    Raises:
      LorajaxError: devices, mesh or topology that do not exist; a model, adapter or training that makes no sense.
    """
    if question.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    devices = tpu_devices(question.topology) if question.topology else jax.devices()
    chips = math.prod(map(int, question.topology.split(":")[1].split("x"))) if question.topology else len(devices)
    config = ModelConfig.from_hf(question.model)
    build = functools.partial(abstract_model, config, dtype=jnp.dtype(question.dtype), quantize=question.quantize)
    whole = bytes_on_device(nnx.split(build(make_mesh(devices=devices[:1])))[1])
    told = question.chip_bytes * chips // len(devices)
    known = told or memory_of(make_mesh(data=len(devices), devices=devices))
    if question.mesh == "auto":
        sizes = automatic_sizes(len(devices), base_bytes=whole, device_bytes=known)
    else:
        sizes = parse_mesh(question.mesh)
    used = math.prod(sizes.values())
    mesh = make_mesh(**sizes, devices=devices)
    lora, train = _config(LoraConfig, question.lora), _config(TrainConfig, question.train)
    setup = Setup(build(mesh), lora, train, Layout(*question.layout), mesh)
    compiled = setup
    if question.estimate:
        wide = abstract_model(config, mesh, quantize=question.quantize)
        compiled = dataclasses.replace(setup, model=wide)
    base = bytes_on_device(nnx.split(setup.model)[1])

    @functools.cache
    def memory(size: int) -> Memory:
        return dataclasses.replace(measure(compiled, size), base=base)

    found, refused = None, ""
    try:
        found = memory(question.fleet)
    except LorajaxError as error:
        refused = str(error)
    room = told or memory_of(mesh)
    largest = None
    if question.most and room:
        largest = largest_fleet(setup, most=question.most, device_bytes=room, memory=memory)
    layout = setup.layout_for(question.fleet)
    return Answer(
        platform=devices[0].platform,
        kind=devices[0].device_kind,
        mesh=dict(mesh.shape),
        chips=used * chips / len(devices),
        device_bytes=room,
        whole=whole,
        rows=layout.rows,
        memory=None if found is None else dataclasses.asdict(found),
        refused=refused,
        largest=largest,
        xla_flops=xla_flops(config, lora, train, layout, question.fleet),
    )


def _config(kind: type, keys: dict[str, Any]) -> Any:
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()})


def tpu_devices(topology: str) -> list:
    """The devices of a TPU such as `v5e:4x4`, for the compiler only. To be called in a process of its own.

    Raises:
      LorajaxError: the compiler knows no such topology.
    """
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # a plugin's own kind, one for each cause
        raise LorajaxError(
            f"--topology {topology}: the TPU compiler did not take it: {_last_line(str(error))}"
        ) from None


def ask(question: Question, *, devices: int = 0, python: str = "") -> Answer:
    """The answer to `question`: of this process, or of a child with `devices` virtual CPU devices or the TPU compiler.

    `python` is the interpreter that has libtpu, this one by default.

    Raises:
      LorajaxError: as `answer`; libtpu is missing; the child failed.
    """
    if not devices and not question.topology:
        return answer(question)
    environment = dict(os.environ) | {"JAX_PLATFORMS": "cpu"}
    path = [str(Path(__file__).resolve().parent.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if question.topology:
        # Outside of Google's cloud there is nobody to ask what machine this is.
        # Two processes may not share a TPU, but they may compile side by side: there is none.
        environment |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_LOG_DIR": "disabled", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        check_topology(question.topology)
        check_libtpu(python or sys.executable)
    else:
        others = re.sub(r"--xla_force_host_platform_device_count=\d+", "", environment.get("XLA_FLAGS", ""))
        environment["XLA_FLAGS"] = f"{others} --xla_force_host_platform_device_count={devices}".strip()
    done = subprocess.run(
        [python or sys.executable, "-m", "run.plan_target"],
        input=json.dumps(dataclasses.asdict(question)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    marked = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not marked:
        raise LorajaxError(f"the compiling process failed ({done.returncode}): {_last_line(done.stderr)}")
    found = json.loads(marked[-1])
    if "error" in found:
        raise LorajaxError(found["error"])
    return Answer(**found)


def check_topology(topology: str) -> None:
    """Raises LorajaxError unless `topology` has the form that the compiler takes, such as v5e:4x4 or v4:2x2x2."""
    if not re.fullmatch(r"v\d+[a-z]*:\d+(x\d+){1,2}", topology):
        raise LorajaxError(f"--topology {topology!r}: expected a form such as v5e:4x4, v6e:2x2, v4:2x2x2 or v5p:2x2x4")


def check_libtpu(python: str) -> None:
    """Raises LorajaxError unless the interpreter `python` has the TPU compiler."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('libtpu') is None)"
    try:
        found = subprocess.run([python, "-c", look], capture_output=True, check=False).returncode == 0
    except OSError as error:
        raise LorajaxError(f"--tpu-python {python}: {error.strerror or error}") from None
    if not found:
        raise LorajaxError(
            f"--topology needs the TPU compiler, and {python} has none: pip install libtpu, here or in an environment "
            "of its own with jax, flax and optax, whose interpreter --tpu-python names"
        )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def main() -> None:
    """The child: a question on standard input, an answer on standard output."""
    keys = json.load(sys.stdin)
    try:
        found = dataclasses.asdict(answer(Question(**{**keys, "layout": tuple(keys["layout"])})))
    except LorajaxError as error:
        found = {"error": str(error)}
    print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
