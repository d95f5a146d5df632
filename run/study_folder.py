"""A study is one folder. Every command reads it, adds to it, and skips what is done.

study.json         what the study is: its settings, the model's and the data's fingerprints
adapters/NAME/     PEFT folders: E, and one per task
training/GROUP/    checkpoints and metrics of the adapters trained together
metrics.jsonl      losses of all adapters, by step
results/           losses.csv, adapter_losses.csv, scores.csv, generations.jsonl; cka, spectrum, embedding and ablation
                   as NAME.nc with a CSV beside it, and NAME/TASK.nc, what they are joined from; bands.csv,
                   readability.csv; published.csv, where the recipe has published numbers
activations/       hidden states, where they were asked for
figures/, report.html
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import lorajax
from lorajax.distributed import from_first, where_not
from lorajax.errors import LorajaxError
from lorajax.files import fingerprint, write_text
from lorajax.lora.peft import CONFIG, WEIGHTS
from run.options import StudyConfig

FORMAT = 2

#: What changes how a step is laid out: rounding alone without dropout, whose masks follow the layout.
LAYOUT = {"config.fleet_size", "config.packing", "config.accumulate", "config.mesh"}

#: What may differ when a study is gone on with: what changes no result, and names of what a fingerprint tells.
NO_PART = {
    "version",
    "config.remat",
    "config.model",
    "config.data",
    "config.recipe",
    "config.skip_bad_rows",
    "model.name",
    "data.source",
}


def folder_fingerprint(folder: Path) -> str:
    """Tells the adapter in a PEFT folder from any other."""
    return fingerprint([folder / CONFIG, folder / WEIGHTS])


class StudyFolder:
    """Paths and records of one study."""

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path, self.record = path, record
        self.results = path / "results"

    @property
    def config(self) -> StudyConfig:
        """The settings it was made with."""
        return StudyConfig.from_flat(self.record["config"])

    def adapter(self, name: str) -> Path:
        """Where the adapter of the multi-task model (`E`) or of a task is."""
        return self.path / "adapters" / name

    def is_trained(self, name: str) -> bool:
        """Whether the adapter of that name is there. Its folder is written whole or not at all."""
        return (self.adapter(name) / CONFIG).exists()

    def adapter_fingerprint(self, name: str) -> str:
        """Tells this adapter from any other: what was computed with another is out of date."""
        return folder_fingerprint(self.adapter(name))

    @classmethod
    def open(cls, path: Path) -> StudyFolder:
        """The study in `path`.

        Raises:
          LorajaxError: there is none, or its record cannot be read.
        """
        file = path / "study.json"
        try:
            record = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            raise LorajaxError(f"{file}: no such file; make a study first: python -m run.study {path}") from None
        except ValueError as error:
            raise LorajaxError(f"{file}: not JSON: {error}") from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise LorajaxError(f"{file}: expected a study of format {FORMAT}")
        return cls(path, record)

    @classmethod
    def create(cls, path: Path, config: StudyConfig, facts: dict[str, Any]) -> StudyFolder:
        """The study in `path`: made new, or the same one as before.

        Args:
          facts: what the settings came to (model, data): recorded, and compared with what is there.

        Raises:
          LorajaxError: `path` holds files of another kind, or a study with other settings, model or data.
        """
        record = {"format": FORMAT, "version": lorajax.__version__, "config": config.flat(), **facts}
        record = json.loads(json.dumps(record))
        if (path / "study.json").exists():
            old = cls.open(path)
            same = NO_PART if config.lora.dropout else NO_PART | LAYOUT
            differences = [told for path, told in _differences(old.record, record) if path not in same]
            if differences:
                raise LorajaxError(f"{path}: holds another study: {'; '.join(differences)}. Name another folder")
            return old
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if others := sorted(p.name for p in path.iterdir() if not p.name.startswith(".")):
                raise LorajaxError(f"{path}: holds {others[0]} but no study.json; name a new or empty folder")
        if path.exists() and not path.is_dir():
            raise LorajaxError(f"{path}: is a file; expected a folder for the study")
        write_text(path / "study.json", json.dumps(record, indent=2) + "\n")
        return cls(path, record)

    @classmethod
    def shared(cls, path: Path, config: StudyConfig, facts: dict[str, Any]) -> StudyFolder:
        """As `create`, by the first of several processes for all of them.

        Raises:
          LorajaxError: as `create`; or some process does not see that study, or works on another model or data.
        """
        study = cls(path, from_first(lambda: cls.create(path, config, facts).record))
        try:
            seen = cls.open(path).record == study.record
        except LorajaxError:
            seen = False
        if blind := where_not(seen):
            raise LorajaxError(
                f"{path}: the first process has a study there, and the processes {blind} do not see it; "
                "name a folder that all processes share"
            )
        for part in ("model", "data"):
            if other := where_not(facts[part]["fingerprint"] == study.record[part]["fingerprint"]):
                raise LorajaxError(f"{path}: the processes {other} have found another {part} than the first one")
        return study


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """What differs: its path in the record, and what to say of it."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        was, is_ = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(is_, dict):
            found += _differences(was, is_, f"{prefix}{key}.")
        elif was != is_:
            found.append((f"{prefix}{key}", f"{prefix}{key} is {was!r} there and {is_!r} here"))
    return found
