"""What a training is asked to do: the settings all adapters share, and those of single adapters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, get_args

from lorajax.data.task import matches
from lorajax.errors import LorajaxError
from lorajax.models.llama import REMAT, Remat

Schedule = Literal["cosine", "linear", "constant"]

#: What --per-adapter may set, and how it is read.
OWN: dict[str, type] = {"steps": int, "learning_rate": float, "rank": int, "alpha": float}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how fast adapters are trained."""

    steps: int = 200
    """Optimizer steps of every adapter."""
    epochs: float = 0.0
    """Passes of every adapter over its own training examples, in place of --steps; 0 for --steps."""
    batch_size: int = 8
    """Examples a step, for each adapter."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Schedule = "cosine"
    """`cosine` or `linear` decay to zero after the warm-up, or `constant`."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises to its peak."""
    lora_plus: float = 1.0
    """Learning rate of B over that of A (LoRA+, Hayou et al., 2024: 16); 1 for plain LoRA."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip: float = 1.0
    """Largest global gradient norm of one adapter; 0 for no clipping."""
    per_adapter: tuple[str, ...] = ()
    """Settings of single adapters: NAME.steps=400, NAME.learning_rate=5e-4, NAME.rank=4, NAME.alpha=8; NAME may be a
    glob such as 'wmt*', and the last entry that matches counts."""
    evaluate_every: int = 0
    """Steps between measurements of the loss on validation examples, which are set aside; 0 for none."""
    validation_examples: int = 32
    """Training examples of each task that are set aside for it, when --evaluate-every is given."""
    patience: int = 0
    """Measurements without a better one after which an adapter stops, and its best state is kept; 0 to train to the
    end."""
    packing: bool = True
    """Lay several short examples into one row. Each step has the same examples either way (but other dropout masks)."""
    accumulate: int = 1
    """Parts that a step's rows are worked through in, one after the other: less memory, the same gradients (but for
    dropout, whose masks follow the layout)."""
    remat: Remat = "products"
    """What is kept for the backward pass and not computed again. `none`: everything; `products`: the large matrix
    products; `block`: the input of each block alone, for the least memory and about a third more work."""
    seed: int = 0
    """Seed of initial values, data order and dropout."""

    def __post_init__(self):
        for flag, choice, known in (("--schedule", self.schedule, get_args(Schedule)), ("--remat", self.remat, REMAT)):
            if choice not in known:
                raise LorajaxError(f"{flag} must be one of {', '.join(known)}, found {choice!r}")
        for flag, value in (
            ("--steps", self.steps),
            ("--batch-size", self.batch_size),
            ("--accumulate", self.accumulate),
            ("--validation-examples", self.validation_examples),
        ):
            if value < 1:
                raise LorajaxError(f"{flag} must be at least 1, found {value}")
        for flag, number in (("--learning-rate", self.learning_rate), ("--lora-plus", self.lora_plus)):
            if not 0 < number < math.inf:
                raise LorajaxError(f"{flag} must be positive, found {number}")
        for flag, number in (
            ("--weight-decay", self.weight_decay),
            ("--clip", self.clip),
            ("--seed", self.seed),
            ("--epochs", self.epochs),
            ("--evaluate-every", self.evaluate_every),
            ("--patience", self.patience),
        ):
            if not 0 <= number < math.inf:
                raise LorajaxError(f"{flag} must be 0 or more, found {number}")
        if self.patience and not self.evaluate_every:
            raise LorajaxError("--patience counts measurements: it needs --evaluate-every")
        if not 0 <= self.warmup < 1:
            raise LorajaxError(f"--warmup is a share of the steps in [0, 1), found {self.warmup}")
        for entry in self.per_adapter:
            _entry(entry)

    def steps_for(self, name: str, examples: int) -> int:
        """Optimizer steps of the adapter `name`, an epoch of whose data has `examples`."""
        # Exact: in floating point, 1.1 epochs of 10 examples are a little more than 11.
        steps = math.ceil(Fraction(str(self.epochs)) * examples / self.batch_size) if self.epochs else self.steps
        return self.own(name).get("steps", steps)

    def own(self, name: str) -> dict[str, Any]:
        """What --per-adapter says of `name`."""
        return {key: value for pattern, key, value in map(_entry, self.per_adapter) if matches(name, pattern)}

    def check_names(self, names: Sequence[str]) -> None:
        """Raises LorajaxError when an entry of --per-adapter matches none of `names`."""
        for entry in self.per_adapter:
            if not any(matches(name, _entry(entry)[0]) for name in names):
                raise LorajaxError(f"--per-adapter {entry}: no adapter of that name; there are: {', '.join(names)}")


def _entry(entry: str) -> tuple[str, str, Any]:
    left, _, text = entry.partition("=")
    pattern, _, key = left.rpartition(".")
    try:
        value = OWN[key](text)
        usable = bool(pattern) and value > 0 and math.isfinite(value)
    except (KeyError, ValueError):
        usable = False
    if not usable:
        known = ", ".join(f"{key} ({kind.__name__})" for key, kind in OWN.items())
        raise LorajaxError(
            f"--per-adapter {entry!r}: expected NAME.SETTING=VALUE with a positive value; settings: {known}"
        )
    return pattern, key, value
