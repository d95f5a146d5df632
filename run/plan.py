"""What fits and what it costs, before a machine is paid for: compiles the training step from shapes alone.

    python -m run.plan --model llama2-7b --topology v5e:4x4 --fleet 8 --batch-size 4 --length 1024 --dtype bfloat16

No weights are needed or fetched. Without a target the step is compiled for this machine's devices; `--devices 8` for as
many virtual CPU devices; `--topology v5e:4x4` for a TPU, by its own compiler (libtpu), which needs none; `--accelerator
h100` sizes the same program for a GPU by way of the CPU's compiler, which is an estimate. Every line says where it is
from: computed by the compiler, counted by a formula, or assumed.

`--json` has an object for each table: of each line `value` (bytes, operations, seconds, dollars) and `basis`.
"""

from __future__ import annotations

import dataclasses
import math

import tyro

from lorajax.data.batching import Layout
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig
from lorajax.machines import Speed, machine, machine_of, matrix_rate
from lorajax.mesh import parse_mesh
from lorajax.models.named import config_of
from lorajax.models.quantize import Quantize
from lorajax.training.config import TrainConfig
from lorajax.training.flops import Flops, count_flops
from run.__main__ import cli
from run.options import Dtype
from run.plan_sections import Line, comparison, memory, study, target, time, work
from run.plan_target import Question, ask, check_topology
from run.terminal import command, result, say, show_table

#: What the operations a second are said to be a share of.
PUBLISHED, RATE_HERE = "the published peak, that of bfloat16", "the rate of plain products, measured here"

#: Largest fleet that is looked for, unless --tasks says how many adapters there are.
MOST = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """Tell what a study would take on a machine, by compiling its training step."""

    model: str = "smollm2"
    """A known size such as `llama2-7b`, a folder, a config.json, a .gguf file or a hub id; weights are not read."""
    fleet: int = 8
    """Adapters trained together."""
    length: int = 1024
    """Tokens of a row."""
    answers: int = 0
    """Answer tokens of a row at most; 0 for all of its tokens."""
    tasks: int = 0
    """Tasks of the study: one adapter each and the multi-task model; 0 for no estimate of a whole study."""
    examples: int = 0
    """Prompts of a task whose hidden states are compared, under base, E and C; 0 for no estimate of that."""
    dtype: Dtype = "float32"
    """Of the frozen weights and of the arithmetic: float32 or bfloat16."""
    quantize: Quantize = "none"
    """Keep the frozen kernels in 8 bits (`int8`) or 4 (`nf4`)."""
    mesh: str = "auto"
    """Devices along each axis, such as data=4,fsdp=4; `auto`: weights on as few devices as hold them."""
    lora: tyro.conf.OmitArgPrefixes[LoraConfig] = LoraConfig()
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = TrainConfig()
    devices: int = 0
    """Compile for this many virtual CPU devices."""
    topology: str = ""
    """Compile for a TPU such as v5e:4x4, v6e:2x2 or v4:2x2x2; needs libtpu, but no TPU."""
    tpu_python: str = ""
    """Interpreter of an environment with jax, flax, optax and libtpu, where this one has no libtpu."""
    accelerator: str = ""
    """Estimate for an accelerator such as h100 or a100-80, of which --count are there."""
    count: int = 1
    """Number of accelerators of --accelerator."""
    search: bool = True
    """Look for the largest fleet that fits; takes a few compilations more."""
    efficiency: float = 0.4
    """Share of the peak operations that a step is assumed to reach."""
    peak: float = 0.0
    """Operations a second of one accelerator; 0 for the published dense bfloat16 peak, of a CPU its rate now."""
    price: float = 0.0
    """US dollars an hour for one accelerator; 0 for a list price."""

    def __post_init__(self):
        for flag, value, least in (
            ("--fleet", self.fleet, 1),
            ("--length", self.length, 2),
            ("--answers", self.answers, 0),
            ("--tasks", self.tasks, 0),
            ("--examples", self.examples, 0),
            ("--devices", self.devices, 0),
            ("--count", self.count, 1),
        ):
            if value < least:
                raise LorajaxError(f"{flag} must be at least {least}, found {value}")
        if self.answers > self.length:
            raise LorajaxError(f"--answers {self.answers} is more than the --length {self.length} of a row")
        if not 0 < self.efficiency <= 1:
            raise LorajaxError(f"--efficiency is a share in (0, 1], found {self.efficiency}")
        for flag, number in (("--peak", self.peak), ("--price", self.price)):
            if not 0 <= number < math.inf:
                raise LorajaxError(f"{flag} must be 0 or more, found {number}")
        if sum(map(bool, (self.devices, self.topology, self.accelerator))) > 1:
            raise LorajaxError("--devices, --topology and --accelerator name different targets: give one of them")
        if self.topology:
            check_topology(self.topology)
        if self.mesh != "auto":
            parse_mesh(self.mesh)

    @property
    def layout(self) -> Layout:
        """A step's rows of one adapter, before the mesh rounds them up."""
        return Layout(self.train.batch_size, self.length, self.answers or self.length)

    @property
    def most(self) -> int:
        """The largest fleet that is of use, or that is looked for."""
        return self.tasks + 1 if self.tasks else max(MOST, self.fleet)


def plan(options: Plan) -> dict[str, list[Line]]:
    """Compiles the step and gives all lines, by section.

    Raises:
      LorajaxError: a model, target or mesh that does not exist; libtpu is missing.
    """
    config = config_of(options.model)
    if options.length > config.max_positions:
        raise LorajaxError(f"--length {options.length} is more than the model's {config.max_positions} positions")
    named = options.topology.split(":")[0] or options.accelerator
    meant = machine(named) if named else None
    question = Question(
        model=config.to_hf(),
        dtype=options.dtype,
        quantize=options.quantize,
        lora=dataclasses.asdict(options.lora),
        train=dataclasses.asdict(options.train),
        layout=dataclasses.astuple(options.layout),
        mesh=options.mesh,
        fleet=options.fleet,
        most=options.most if options.search else 0,
        chip_bytes=meant.memory if meant else 0,
        topology=options.topology,
        estimate=bool(options.accelerator),
    )
    virtual = options.devices or (options.count if options.accelerator else 0)
    found = ask(question, devices=virtual, python=options.tpu_python)
    meant = meant or machine_of(found.kind)
    layout = dataclasses.replace(options.layout, rows=found.rows)
    peak, of = options.peak or (meant.peak if meant else 0), "--peak" if options.peak else PUBLISHED
    if not peak and found.platform == "cpu" and not (options.devices or options.topology or options.accelerator):
        # Virtual devices share the processor.
        rate = matrix_rate(512, config.hidden_size, config.intermediate_size, options.dtype, runs=5)
        peak, of = rate / found.chips, RATE_HERE
    moved = found.moved(options.train.remat, options.train.accumulate)
    speed = Speed(peak * options.efficiency * found.chips or None, meant.bandwidth if meant else None)

    def flops(adapters: int) -> Flops:
        return count_flops(config, options.lora, options.train, layout, adapters)

    step, tokens = flops(options.fleet), options.fleet * layout.rows * layout.length
    return {
        "target": target(options, config, found),
        "memory of each device": memory(options, found),
        "work of a step": work(step, found, tokens),
        "time": time(options, step, speed, moved, tokens, of),
        "comparing hidden states": comparison(options, config, found),
        "study": study(options, lambda n: speed.seconds(flops(n).total, moved), meant, found.chips),
    }


def show(sections: dict[str, list[Line]]) -> None:
    """Prints the sections as tables, and tells them as results."""
    for title, lines in sections.items():
        if lines:
            rows = [[line.name, line.text, line.basis] for line in lines]
            show_table(title, ["", "value", "where it is from"], rows, only_result=True)
    result(**{t: {x.name: {"value": x.value, "basis": x.basis} for x in lines} for t, lines in sections.items()})


def main() -> None:
    """Entry point of `python -m run.plan`."""
    options = cli(
        Plan,
        prog="python -m run.plan",
        description=__doc__,
        example="--model llama2-7b --accelerator h100 --dtype bfloat16",
        main=("model", "fleet", "length", "tasks", "batch_size", "dtype", "mesh", "accelerator", "count", "topology"),
    )
    say("compiling; a large model takes a minute or more for each program")
    found = plan(options)
    show(found)
    if any(line.name == "fits" and line.value is False for lines in found.values() for line in lines):
        say(f"It does not fit. Try, in this order: {', '.join(remedies(options))}.")


def remedies(options: Plan) -> list[str]:
    """Flags that make a step smaller, the harmless ones first."""
    ways = ["--dtype bfloat16"] if options.dtype == "float32" else []
    ways += ["--remat block"] if options.train.remat != "block" else []
    if options.train.batch_size > options.train.accumulate:
        ways.append(f"--accumulate {2 * options.train.accumulate}")
    ways += [f"--fleet {options.fleet // 2}"] if options.fleet > 1 else []
    ways += ["--quantize nf4"] if options.quantize == "none" else []
    return [*ways, "weights on more devices (--mesh fsdp=...)"]


if __name__ == "__main__":
    command(main)
