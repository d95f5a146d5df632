"""The flags that the commands share, as dataclasses; tyro makes the command line and its help from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from lorajax.data.mixture import MixtureConfig
from lorajax.data.prompts import PromptConfig
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig
from lorajax.lora.peft import CONFIG
from lorajax.mesh import parse_mesh
from lorajax.models.quantize import Quantize
from lorajax.training.config import TrainConfig

#: Name of the multi-task model's adapter. A control model has the name of its task.
MULTI_TASK = "E"

Dtype = Literal["float32", "bfloat16"]


def named_adapters(values: Sequence[str], *, taken: Iterable[str]) -> dict[str, Path]:
    """The PEFT folders that `--adapter NAME=FOLDER ...` names, by name.

    Raises:
      LorajaxError: another form, a name that is given twice or is one of `taken` (a study's own), or no adapter there.
    """
    taken = {name.casefold() for name in ("base", "C", MULTI_TASK, *taken)}
    found: dict[str, Path] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise LorajaxError(f"--adapter {value}: expected NAME=FOLDER")
        if name.casefold() in taken or name in found:
            raise LorajaxError(f"--adapter {value}: the name {name!r} is in use; give it another")
        if not (Path(folder) / CONFIG).exists():
            raise LorajaxError(f"--adapter {value}: no {CONFIG} in {folder}; expected a PEFT folder")
        found[name] = Path(folder)
    return found


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which tasks, and how much of each."""

    data: str = "builtin"
    """`builtin`, a folder of JSONL files, flan2021, ni:FOLDER, mapped:FILE or conll2012:FOLDER: see docs/data.md."""
    tasks: tuple[str, ...] = ()
    """Tasks by name or glob (`wmt*`); all of the source when none is named."""
    clusters: tuple[str, ...] = ()
    """Tasks of these clusters only, by name or glob."""
    unseen: tuple[str, ...] = ()
    """Tasks or clusters that E is not trained on, by name or glob: what E makes of tasks that are new to it."""
    train_examples: int = 1000
    """Training examples of each task at most."""
    test_examples: int = 128
    """Held-out prompts of each task at most: those that losses and similarities are measured on."""
    drop_constant_prompts: bool = False
    """Leave out prompts that a task repeats word for word: they say nothing of their example."""
    skip_bad_rows: int = 0
    """Bad rows that are passed over, and told of; one more is an error."""

    def __post_init__(self):
        if self.skip_bad_rows < 0:
            raise LorajaxError(f"--skip-bad-rows must be 0 or more, found {self.skip_bad_rows}")
        if self.train_examples < 1:
            raise LorajaxError(f"--train-examples must be at least 1, found {self.train_examples}")
        if self.test_examples < 4:
            raise LorajaxError(f"--test-examples must be at least 4, for the debiased CKA; found {self.test_examples}")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What defines a study: the base model, the data, the adapters and their training."""

    recipe: str = ""
    """`layer-by-layer`, `task-vectors`, `demo` or a .toml file: its settings become the defaults of all flags."""
    model: str = "smollm2"
    """`smollm2`, a folder of a Llama-family or RoBERTa checkpoint, a .gguf file, or a hub id owner/name."""
    dtype: Dtype = "float32"
    """Of the frozen weights and of the arithmetic: float32 or bfloat16. Adapters are always float32."""
    quantize: Quantize = "none"
    """Keep the frozen kernels in 8 bits (`int8`) or 4 (`nf4`); needs the extra `quant`."""
    data: tyro.conf.OmitArgPrefixes[DataConfig] = DataConfig()
    prompt: tyro.conf.OmitArgPrefixes[PromptConfig] = PromptConfig()
    mixture: tyro.conf.OmitArgPrefixes[MixtureConfig] = MixtureConfig()
    lora: tyro.conf.OmitArgPrefixes[LoraConfig] = LoraConfig()
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = TrainConfig()
    fleet_size: int = 10
    """Adapters trained together at most; fewer where memory does not hold them. More gain nothing on a busy device."""
    mesh: str = "auto"
    """Devices along each axis, such as data=4,fsdp=2 (axes data, fsdp, tensor); `auto` uses all accelerators."""

    def __post_init__(self):
        if self.fleet_size < 1:
            raise LorajaxError(f"--fleet-size must be at least 1, found {self.fleet_size}")
        if self.mesh != "auto":
            parse_mesh(self.mesh)

    def flat(self) -> dict[str, Any]:
        """The flags with their values, JSON types only."""
        flags: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_group = dataclasses.is_dataclass(value) and not isinstance(value, type)
            flags |= dataclasses.asdict(value) if is_group else {field.name: value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}

    @classmethod
    def from_flat(cls, flags: dict[str, Any]) -> StudyConfig:
        """Inverse of `flat`.

        Raises:
          LorajaxError: an unknown flag, or a value that is not allowed.
        """
        rest = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}

        def group(kind: type) -> Any:
            return kind(**{f.name: rest.pop(f.name) for f in dataclasses.fields(kind) if f.name in rest})

        groups: dict[str, Any] = {
            "data": group(DataConfig),
            "prompt": group(PromptConfig),
            "mixture": group(MixtureConfig),
            "lora": group(LoraConfig),
            "train": group(TrainConfig),
        }
        single = [f.name for f in dataclasses.fields(cls) if f.name not in groups]
        own: dict[str, Any] = {name: rest.pop(name) for name in single if name in rest}
        if rest:
            raise LorajaxError(f"unknown settings: {', '.join(sorted(rest))}")
        return cls(**own, **groups)
