"""Adapters that are compared by their weights: from studies, PEFT folders, folders of those, and the hub."""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.low_rank import ThinSVD, thin_svd
from lorajax.errors import LorajaxError
from lorajax.lora.peft import CONFIG, WEIGHTS
from lorajax.lora.updates import Update, Updates, read_updates
from run.options import MULTI_TASK
from run.study_folder import StudyFolder, folder_fingerprint


@dataclasses.dataclass(frozen=True)
class Member:
    """One adapter."""

    name: str
    folder: Path
    cluster: str
    """Of its task; empty where it is not known."""

    @property
    def task(self) -> str:
        """The name without the collection it is from: adapters of one task may be in several."""
        return self.name.split("/")[-1]


@dataclasses.dataclass(frozen=True)
class Block:
    """The updates of all adapters in layers of one module where the weights have one shape."""

    module: str
    layers: tuple[int, ...]
    updates: ThinSVD
    """Batched `[adapters, layers]`."""
    absent: np.ndarray
    """bool `[adapters, layers]`: the adapter does not adapt that layer; its update is zero here."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return self.updates.u.shape[2], self.updates.v.shape[2]


class AdapterSet:
    """Adapters of one base model, by name."""

    def __init__(self, members: Sequence[Member]):
        """Reads them.

        Raises:
          LorajaxError: a folder that cannot be read, or adapters whose shapes do not fit together.
        """
        self.members = list(members)
        self.names = [member.name for member in members]
        self.clusters = [member.cluster for member in members]
        self.updates = [read_updates(member.folder) for member in members]
        self._modules = _short_names(self.updates)
        self.notes = [f"{m.name}: {note}" for m, u in zip(members, self.updates, strict=True) for note in u.notes]
        if len(bases := sorted({u.base for u in self.updates if u.base})) > 1:
            self.notes.append(f"the adapters name different base models: {', '.join(bases)}")
        self.shapes = self._checked_shapes()

    def fingerprints(self) -> dict[str, str]:
        """What tells the adapters from any others."""
        return {member.name: folder_fingerprint(member.folder) for member in self.members}

    def modules(self, patterns: Sequence[str] = ()) -> dict[str, list[int]]:
        """Layers of every module that some adapter adapts; of those that match a name or glob, if any is given.

        Raises:
          LorajaxError: a pattern that matches no module.
        """
        layers: dict[str, list[int]] = {}
        for module, layer in sorted(self.shapes):
            layers.setdefault(module, []).append(layer)
        if not patterns:
            return layers
        for pattern in patterns:
            if not any(_matches(module, pattern) for module in layers):
                raise LorajaxError(f"--modules {pattern}: no such module; there are: {', '.join(layers)}")
        return {m: found for m, found in layers.items() if any(_matches(m, pattern) for pattern in patterns)}

    def blocks(self, modules: dict[str, list[int]]) -> Iterator[Block]:
        """The updates, as few arrays as the shapes of the weights allow, one at a time."""
        for module, layers in modules.items():
            by_shape: dict[tuple[int, int], list[int]] = {}
            for layer in layers:
                by_shape.setdefault(self.shapes[module, layer], []).append(layer)
            for shape, alike in by_shape.items():
                yield self._block(module, alike, shape)

    def _block(self, module: str, layers: list[int], shape: tuple[int, int]) -> Block:
        found = [[modules.get(module, {}).get(layer) for layer in layers] for modules in self._modules]
        rank = max(update.A.shape[0] for row in found for update in row if update is not None)
        # A rank above the weight's own sizes is no rank: the factors are taken as they are, and cut by their product.
        width = min(rank, *shape)
        B = np.zeros((len(found), len(layers), shape[0], width), np.float32)
        A = np.zeros((len(found), len(layers), width, shape[1]), np.float32)
        scale = np.zeros((len(found), len(layers)), np.float32)
        for n, row in enumerate(found):
            for k, update in enumerate(row):
                if update is None:
                    continue
                b, a = (update.B, update.A) if len(update.A) <= width else _narrowed(update.B, update.A)
                B[n, k, :, : b.shape[1]], A[n, k, : a.shape[0]] = b, a
                scale[n, k] = update.scale
        absent = np.array([[update is None for update in row] for row in found])
        return Block(module, tuple(layers), thin_svd(B, A, scale), absent)

    def _checked_shapes(self) -> dict[tuple[str, int], tuple[int, int]]:
        """(out, in) of every module and layer."""
        shapes: dict[tuple[str, int], tuple[int, int]] = {}
        first: dict[tuple[str, int], str] = {}
        for member, modules in zip(self.members, self._modules, strict=True):
            for module, layers in modules.items():
                for layer, update in layers.items():
                    found, place = (update.B.shape[0], update.A.shape[1]), (module, layer)
                    if shapes.setdefault(place, found) != found:
                        raise LorajaxError(
                            f"{member.folder}: {module} in layer {layer} is a weight of {list(found)}, and of "
                            f"{list(shapes[place])} in {first[place]}; adapters of one base model are expected"
                        )
                    first.setdefault(place, str(member.folder))
        return shapes


def _short_names(updates: Sequence[Updates]) -> list[Mapping[str, Mapping[int, Update]]]:
    """The modules of each adapter, without what the names of all of them begin with (`model.layers.*.`)."""
    starts = {name[: name.find("*.") + 2] for u in updates for name in u.modules}
    common = starts.pop() if len(starts) == 1 else ""
    return [{name.removeprefix(common): layers for name, layers in u.modules.items()} for u in updates]


def _narrowed(b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product from factors no wider than it is."""
    product = b.astype(np.float64) @ a
    eye = np.eye(min(product.shape), dtype=np.float32)
    return (eye, product.astype(np.float32)) if len(product) == len(eye) else (product.astype(np.float32), eye)


def _matches(module: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(module, pattern) or module.split(".")[-1] == pattern


# --- what the paths name ----------------------------------------------------------------------------------------------


def find_members(
    paths: Sequence[str], clusters: Path | None = None, names: Sequence[str] = (), multi_task: bool = False
) -> list[Member]:
    """The adapters that the paths name, in their order.

    Args:
      paths: each a study, a PEFT folder, a folder of PEFT folders, or a hub id `owner/name`; with `NAME=` before it,
        the adapter's name, or what the names of several begin with (`NAME/`).
      clusters: CSV file with the columns name and cluster.
      names: names or globs to keep.
      multi_task: take a study's multi-task adapter E too.

    Raises:
      LorajaxError: a path that names no adapter, two of one name, a cluster file that is not one, or a name that is
        not there.
    """
    members = [member for path in paths for member in _members(path, multi_task)]
    by_name: dict[str, Member] = {}
    for member in members:
        if (other := by_name.get(member.name)) is not None:
            raise LorajaxError(
                f"{member.folder}: the name {member.name} is taken by {other.folder}; name them apart: NAME=PATH"
            )
        by_name[member.name] = member
    for pattern in names:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in by_name):
            raise LorajaxError(f"--names {pattern}: no such adapter; there are: {', '.join(by_name)}")
    if names:
        members = [m for m in members if any(fnmatch.fnmatchcase(m.name, pattern) for pattern in names)]
    if clusters is None:
        return members
    known = _read_clusters(clusters)
    if absent := [m.name for m in members if m.name not in known and m.task not in known]:
        raise LorajaxError(f"--clusters {clusters}: no row for {absent[0]}")
    return [dataclasses.replace(m, cluster=known.get(m.name) or known[m.task]) for m in members]


def _members(text: str, multi_task: bool) -> list[Member]:
    match = re.fullmatch(r"([^/=]+)=(.+)", text)
    label, path = (match[1], Path(match[2])) if match and not Path(text).exists() else ("", Path(text))
    if (path / "study.json").exists():
        study = StudyFolder.open(path)
        tasks = study.record["data"]["tasks"]
        found = [
            (task, study.adapter(task), facts["cluster"]) for task, facts in tasks.items() if study.is_trained(task)
        ]
        if multi_task and study.is_trained(MULTI_TASK):
            found.append((MULTI_TASK, study.adapter(MULTI_TASK), ""))
        if not found:
            raise LorajaxError(f"{path}: no control model is trained yet: python -m run.finetune {path}")
        return [Member(f"{label}/{name}" if label else name, folder, cluster) for name, folder, cluster in found]
    if (path / CONFIG).exists():
        return [Member(label or path.resolve().name, path, "")]
    if path.is_dir():
        folders = sorted(p.parent for p in path.glob(f"*/{CONFIG}"))
        if not folders:
            raise LorajaxError(f"{path}: holds no adapter; expected {CONFIG} in it or in its folders, or a study")
        return [Member(f"{label}/{f.name}" if label else f.name, f, "") for f in folders]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.exists():
        return [Member(label or str(path).split("/")[1], _from_hub(str(path)), "")]
    raise LorajaxError(f"{path}: no such folder; expected a study, PEFT folders, or a hub id owner/name")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # the hub's client raises of many kinds, all of which mean this
        raise LorajaxError(f"{name}: not a folder here, and the hub did not give it: {error}") from error


def _read_clusters(file: Path) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise LorajaxError(f"--clusters {file}: {error}") from None
    if not {"name", "cluster"} <= set(reader.fieldnames or ()):
        raise LorajaxError(f"--clusters {file}: expected the columns name and cluster, found {reader.fieldnames}")
    for number, row in enumerate(rows, start=2):
        if not row["name"] or not row["cluster"]:
            raise LorajaxError(f"--clusters {file}: line {number}: expected a name and a cluster, found {row}")
    return {row["name"]: row["cluster"] for row in rows}
