"""When a study can be compared with published numbers, and which of its layers with which.

The same model is compared layer by layer. Another model is not compared: its layers stand beside those of nearest
share of the depth, for orientation.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from safetensors import SafetensorError, safe_open

from lorajax.errors import LorajaxError
from lorajax.lora.peft import WEIGHTS
from run import recipes
from run.options import MULTI_TASK
from run.published.numbers import LayerByLayer
from run.study_folder import StudyFolder
from run.task_results import read

FINAL = "final norm"
#: Flags that change how a step is laid out, or that say what is told otherwise.
NOT_TOLD = {"recipe", "model", "dtype", "packing", "accumulate", "remat", "seed", "skip_bad_rows"}
#: Modules that read the residual stream: the inputs of their A are as many as the hidden size.
FROM_STREAM = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "query", "key", "value")


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What of a study's results is put beside published numbers; None for what is not computed yet."""

    folder: StudyFolder
    cka: xr.Dataset | None
    spectrum: xr.Dataset | None
    readability: pd.DataFrame | None
    adapters: xr.Dataset | None

    @classmethod
    def of(cls, folder: StudyFolder, cka: xr.Dataset | None) -> Results:
        """The results in `folder`, and those of CKA.

        Raises:
          LorajaxError: a file that is there cannot be read.
        """
        file = folder.results / "readability.csv"
        try:
            table = (
                pd.read_csv(file, keep_default_na=False, na_values=[""], dtype={"task": str}) if file.exists() else None
            )
        except ValueError as error:
            raise LorajaxError(f"{file}: cannot be read as CSV: {error}") from None
        spectrum, adapters = (read(folder.results / f"{name}.nc") for name in ("spectrum", "adapters"))
        return cls(folder, cka, spectrum, table, adapters)

    def tasks(self, seen: bool, cluster: str = "") -> list[str]:
        """Tasks that E was trained on, or not; of one cluster, or of all."""
        return [
            task
            for task, facts in self.folder.record["data"]["tasks"].items()
            if facts.get("seen", True) == seen and cluster in ("", facts["cluster"])
        ]

    @property
    def prompts(self) -> str:
        """Numbers of prompts behind the CKA of a task: `64`, or `12 to 64`."""
        assert self.cka is not None
        low, high = int(self.cka.n.min()), int(self.cka.n.max())
        return str(low) if low == high else f"{low} to {high}"

    @property
    def compared_with(self) -> dict[str, Any]:
        """The settings that the adapters were compared with: one record for all tasks."""
        return {} if self.adapters is None else json.loads(self.adapters.attrs.get("provenance", "{}"))


def our_layer(layer: int, of: int, names: Sequence[str]) -> str:
    """Name of the layer of ours, out of `names`, at the same share of the depth as `layer` of `of`.

    Published layer `of` is after the final norm; the others are after a block, and so is what stands beside them. With
    as many blocks, that is the block of the same number.
    """
    blocks = [name for name in names if name.startswith("block ")]
    if layer == of and FINAL in names:
        return FINAL
    return blocks[min(len(blocks), max(1, int(layer * len(blocks) / of + 0.5))) - 1]


def made_with(ds: xr.Dataset) -> list[dict[str, Any]]:
    """The settings that the results of each task were made with."""
    return list(json.loads(ds.attrs.get("provenance", "{}")).values())


def other_states(ds: xr.Dataset) -> str:
    """Why results are of something other than linear CKA at the last prompt token; empty if they are not."""
    for made in made_with(ds):
        if (tokens := made.get("tokens", "last")) != "last":
            return f"ours is at {tokens} tokens, the published value at the last of the prompt"
        if (kernel := made.get("kernel", "linear")) != "linear":
            return f"ours has the kernel {kernel}, the published value a linear one"
    return ""


def most_prompts(folder: StudyFolder, ds: xr.Dataset) -> int:
    """The number of prompts of a task that `ds` was limited to."""
    limits = [int(made.get("max_examples", 10_000)) for made in made_with(ds)]
    return min([int(folder.record["config"]["test_examples"]), *limits])


def widths(published: LayerByLayer, results: Results) -> tuple[int, int] | None:
    """Hidden sizes of our model and of the published one; None where ours is not known."""
    theirs = published.model.hidden_size
    own = hidden_size(results.folder) if published.model.differs(results.folder.record["model"]) else theirs
    return None if own is None else (own, theirs)


def hidden_size(folder: StudyFolder) -> int | None:
    """Width of the residual stream: from the record, or else from what the adapter E reads. None if neither tells."""
    if known := folder.record["model"].get("hidden_size"):
        return int(known)
    file = folder.adapter(MULTI_TASK) / WEIGHTS
    return _width(file) if file.exists() else None


def _width(file: Path) -> int | None:
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                module, _, rest = name.rpartition(".lora_A")
                if rest and module.rpartition(".")[2] in FROM_STREAM:
                    return int(tensors.get_slice(name).get_shape()[1])
    except (OSError, SafetensorError) as error:
        raise LorajaxError(f"{file}: cannot be read as safetensors: {error}") from None
    return None


def other_settings(config: Mapping[str, Any], recipe: str) -> list[str]:
    """Settings of a study that are not its recipe's: `rank 4 (8)`, the recipe's value in brackets."""
    told = []
    for key, value in recipes.load(recipe).flags.items():
        if key in NOT_TOLD or key not in config or config[key] == value:
            continue
        if key == "data" and str(config[key]).partition(":")[0] == str(value).partition(":")[0]:
            continue
        told.append(f"{key.replace('_', ' ')} {_short(config[key])} ({_short(value)})")
    return told


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return (text if len(text) <= 60 else text[:59] + "…") or "none"
