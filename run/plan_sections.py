"""What a plan says, section by section: each line with its value and where it is from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lorajax.machines import Accelerator, Speed
from lorajax.models.config import ModelConfig
from lorajax.training.capacity import FITS
from lorajax.training.flops import Flops
from run.plan_target import Answer
from run.terminal import duration

if TYPE_CHECKING:
    from run.plan import Plan

COMPUTED, COUNTED, ASSUMED = "computed by the compiler", "counted by formula", "assumed"

#: Bytes of Gram matrices that the comparison holds at a time.
GRAMS = 2**30


@dataclasses.dataclass(frozen=True)
class Line:
    """One thing a plan says: `text` for people, `value` for programs, and where it is from."""

    name: str
    value: Any
    text: str
    basis: str


def target(options: Plan, config: ModelConfig, found: Answer) -> list[Line]:
    """What is compiled, and for what."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in found.mesh.items())
    machines = options.topology or f"{found.kind} ({found.platform})"
    if options.accelerator:
        machines = f"{options.count} x {options.accelerator}, by way of a CPU: an estimate"
    step = f"{options.fleet} adapters x {found.rows} rows x {options.length} tokens, remat {options.train.remat}"
    return [
        Line("model", options.model, f"{options.model}, {config.parameter_count():,} parameters", COUNTED),
        Line("step", step, step, "asked for"),
        Line("compiled for", machines, machines, COMPUTED),
        Line("mesh", found.mesh, mesh, "chosen" if options.mesh == "auto" else "asked for"),
    ]


def memory(options: Plan, found: Answer) -> list[Line]:
    """Bytes on each device by kind, and what fits."""
    compiled = "estimated: at most those of the CPU's program" if options.accelerator else COMPUTED
    names = [
        ("base", "base weights", COUNTED),
        ("adapters", "adapters and optimizer state", COUNTED),
        ("batch", "batch", COUNTED),
        ("temporaries", "temporaries: activations, gradients, gathered weights", compiled),
        ("rest", "other results, padding, program", compiled),
        ("total", "total", compiled),
    ]
    sizes = (found.memory or {}) | {"total": found.total}
    lines = [Line(name, sizes[key], size(sizes[key]), basis) for key, name, basis in names if found.memory]
    if found.refused:
        lines.append(Line("refused", found.refused, "the compiler ran out of memory", COMPUTED))
    if found.device_bytes:
        published = "published by the maker" if options.topology or options.accelerator else "told by the system"
        lines.append(Line("memory of a device", found.device_bytes, size(found.device_bytes), published))
        usable = FITS * found.device_bytes
        fits = found.memory is not None and found.total <= usable
        text = f"{'yes' if fits else 'no'}, of {size(usable)} usable"
        lines.append(Line("fits", fits, text, f"{FITS} of it: {ASSUMED}"))
    if found.largest is not None:
        most = f"{found.largest} together" if found.largest else "none: not even one adapter"
        if found.largest == options.most:
            most += ", and no more were looked for"
        lines.append(Line("largest fleet that fits", found.largest, most, compiled))
    return lines


def work(flops: Flops, found: Answer, tokens: int) -> list[Line]:
    """Operations of a step."""
    unrolled = f"{COMPUTED}, loops unrolled, elementwise work too"
    return [
        *(Line(name, value, f"{value:.3e}", COUNTED) for name, value in dataclasses.asdict(flops).items()),
        Line("FLOPs of a step", flops.total, f"{flops.total:.3e}", COUNTED),
        Line("FLOPs of a step, by XLA", found.xla_flops, f"{found.xla_flops:.3e}", unrolled),
        Line("FLOPs of a token", flops.total / tokens, f"{flops.total / tokens:.3e}", COUNTED),
    ]


def time(options: Plan, flops: Flops, speed: Speed, moved: float, tokens: int, of: str) -> list[Line]:
    """How long a step takes; `of` says what the operations a second are a share of."""
    seconds = speed.seconds(flops.total, moved)
    if seconds is None:
        return [Line("seconds of a step", None, "unknown: give --peak", ASSUMED)]
    lines = [Line("seconds of a step", seconds, f"{seconds:.3f}", f"{ASSUMED}: {options.efficiency:.0%} of {of}")]
    moving = speed.moving(moved)
    if moving is not None:
        basis = f"{COUNTED}, at the published bandwidth"
        lines.append(Line("at least, to move its bytes", moving, f"{moving:.3f}", basis))
    return [*lines, Line("tokens a second, padding too", tokens / seconds, f"{tokens / seconds:,.0f}", ASSUMED)]


def study(options: Plan, seconds: Callable[[int], float | None], meant: Accelerator | None, chips: float) -> list[Line]:
    """What all adapters of a study take: even groups, one after the other, without compiling, loading or measuring.

    `seconds` gives the time of a step of so many adapters.
    """
    if not options.tasks:
        return []
    adapters, steps = options.tasks + 1, options.train.steps
    groups = -(-adapters // options.fleet)
    most = -(-adapters // groups)
    lines = [
        Line("adapters", adapters, f"{adapters}, of {steps} steps each", "asked for"),
        Line("groups", groups, f"{groups} of up to {most}", COUNTED),
    ]
    step = seconds(most)
    if step is None:
        return lines
    hours = groups * steps * step / 3600
    lines.append(Line("hours", hours, duration(hours * 3600), f"{ASSUMED}, as the time of a step; training alone"))
    lines.append(Line("accelerator-hours", hours * chips, f"{hours * chips:,.1f}", f"{ASSUMED}, on {chips:g}"))
    price = options.price or (meant.price if meant else None)
    if price:
        basis = "asked for" if options.price or not meant else f"{ASSUMED}: {meant.price_note}; check yours"
        lines.append(Line("price of an accelerator-hour", price, f"${price:.2f}", basis))
        lines.append(Line("price", hours * chips * price, f"${hours * chips * price:,.2f}", ASSUMED))
    return lines


def comparison(options: Plan, config: ModelConfig, found: Answer) -> list[Line]:
    """What the comparison of one task's hidden states under three models takes: memory of each device, and disk.

    States are float32 and spread over the devices by features; while they are parted by model there are two copies.
    Grams of up to GRAMS bytes are held; more are streamed in tiles of as much. On disk there are results only.
    """
    if not options.examples:
        return []
    layers, rows = len(config.layer_names), 3 * 16  # run.cka_all_layers has 16 prompts in the model at a time
    width = {"float32": 4, "bfloat16": 2}[options.dtype]
    states = 3 * layers * options.examples * config.hidden_size * 4 / found.chips
    block = rows * options.length * (8 * config.hidden_size + 3 * config.intermediate_size) * width / found.chips
    grams = min(GRAMS, 2 * layers * options.examples**2 * 2)
    base = (found.memory or {}).get("base", 0)
    total = base + 2 * states + block + grams
    disk = (options.tasks or 1) * 3 * (3 * layers**2 + 4 * layers) * 4
    lines = [
        Line("states", 2 * states, size(2 * states), f"{COUNTED}: 3 models x {layers} layers, twice"),
        Line("base weights", base, size(base), COUNTED),
        Line("activations of a block", block, size(block), f"{COUNTED}, {rows} rows of {options.length} tokens"),
        Line("Gram tiles", grams, size(grams), f"{COUNTED}, at most"),
        Line("memory of the comparison", total, size(total), COUNTED),
    ]
    if found.device_bytes:
        fits = total <= FITS * found.device_bytes
        lines.append(Line("comparison fits", fits, "yes" if fits else "no", f"{FITS} of the device: {ASSUMED}"))
    return [*lines, Line("on disk", disk, size(disk), f"{COUNTED}: results alone, no hidden states")]


def size(number: float) -> str:
    """A number of bytes as people say it."""
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"
