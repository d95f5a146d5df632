"""A Hugging Face folder of safetensors files as a source of tensors, read slice by slice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from lorajax.errors import LorajaxError
from lorajax.files import confined, refuse_pickle

#: Which part of a tensor: a slice for each axis.
Index = tuple[slice, ...] | EllipsisType


class TensorSource(Protocol):
    """Named tensors on disk: shapes are known at once, values are read when asked for."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, by name."""
        ...

    def read(self, name: str, index: Index) -> np.ndarray:
        """The part `index` of tensor `name`."""
        ...

    def where(self, name: str) -> str:
        """The file that holds tensor `name`, for messages."""
        ...


class SafetensorsFolder:
    """`model.safetensors`, or the shards that `model.safetensors.index.json` lists.

    Raises:
      LorajaxError: no safetensors, only pickles, a shard that is missing, truncated or corrupt, an index that is not
        valid, names a file outside the folder, or disagrees with its shards.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.exists():
            listed = _read_index(index)
            self.files = [confined(folder, name, source=str(index)) for name in sorted(set(listed.values()))]
            for file in self.files:
                refuse_pickle(file)
                if not file.exists():
                    raise LorajaxError(
                        f"{index}: names {file.name}, which is not in {folder}; is the download complete?"
                    )
        else:
            listed, self.files = None, sorted(folder.glob("model*.safetensors"))
        if not self.files:
            for file in sorted(folder.iterdir()):
                refuse_pickle(file)
            raise LorajaxError(f"{folder}: no safetensors file found; expected model.safetensors or its index")
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._handles = {}
        for file in self.files:
            handle = self._handles[file] = open_safetensors(file)
            for name in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if name in self._file_of:
                    raise LorajaxError(f"{file}: holds tensor {name}, which {self._file_of[name].name} holds too")
                self._file_of[name] = file
                self.shapes[name] = tuple(handle.get_slice(name).get_shape())
        for name, file_name in (listed or {}).items():
            if self._file_of.get(name) != folder / file_name:
                raise LorajaxError(f"{index}: says that {file_name} holds tensor {name}; it does not")

    def read(self, name: str, index: Index) -> np.ndarray:
        try:
            return self._handles[self._file_of[name]].get_slice(name)[index]
        except SafetensorError as error:
            raise LorajaxError(f"{self.where(name)}: tensor {name} could not be read: {error}") from error

    def where(self, name: str) -> str:
        return str(self._file_of[name])


def open_safetensors(file: Path):
    """An open safetensors file, for NumPy; a LorajaxError that names the file when it is not a whole one."""
    try:
        return safe_open(str(file), "numpy")
    except (SafetensorError, OSError) as error:
        raise LorajaxError(f"{file}: not a complete safetensors file ({error}); fetch it again") from error


def _read_index(index: Path) -> dict[str, str]:
    try:
        listed = json.loads(index.read_text("utf-8"))["weight_map"]
        if not all(isinstance(value, str) for value in listed.values()) or not listed:
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LorajaxError(f'{index}: expected {{"weight_map": {{tensor: file, ...}}}}') from None
    return listed
