"""Labelled results that are made task by task: `results/NAME/TASK.nc`, and `results/NAME.nc` of all that are current.

A result is current while the provenance it was written with is what would be written now: the same model, data,
adapters and settings. So a crash costs one task, and nothing out of date is ever joined with what is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from lorajax.errors import LorajaxError
from lorajax.files import replacing

#: What a result was made from and with, by name; JSON types.
Provenance = dict[str, Any]


class TaskResults:
    """The results called `name` in the folder `results`."""

    def __init__(self, results: Path, name: str):
        self.path = results / f"{name}.nc"
        self._folder = results / name

    def is_current(self, task: str, provenance: Provenance) -> bool:
        """Whether the result of `task` is there and was made so."""
        file = self._folder / f"{task}.nc"
        if not file.exists():
            return False
        try:
            with xr.open_dataset(file, engine="h5netcdf") as dataset:
                return dataset.attrs.get("provenance") == _text(provenance)
        except (OSError, ValueError) as error:
            raise LorajaxError(f"{file}: cannot be read as netCDF: {error}; delete it to have it made again") from None

    def write(self, task: str, dataset: xr.Dataset, provenance: Provenance) -> None:
        """Writes the result of one task, whole or not at all."""
        write(dataset.assign_attrs(provenance=_text(provenance)), self._folder / f"{task}.nc")

    def join(self, provenance: Mapping[str, Provenance]) -> xr.Dataset:
        """Those of the tasks in `provenance` that are current, in its order, as one dataset along `task`."""
        current = [task for task in provenance if self.is_current(task, provenance[task])]
        parts = [xr.load_dataset(self._folder / f"{task}.nc", engine="h5netcdf") for task in current]
        # Without their encoding: it holds the first file's string lengths, and longer names would be cut when written.
        joined = xr.concat(parts, dim="task", join="outer", combine_attrs="drop").drop_encoding()
        joined.attrs["provenance"] = json.dumps({task: provenance[task] for task in current})
        return joined


def read(file: Path) -> xr.Dataset | None:
    """The dataset in `file`, or None when there is none yet.

    Raises:
      LorajaxError: it cannot be read.
    """
    if not file.exists():
        return None
    try:
        return xr.load_dataset(file, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise LorajaxError(f"{file}: cannot be read as netCDF: {error}; delete it to have it made again") from None


def write(dataset: xr.Dataset, file: Path) -> None:
    """Writes `dataset` to `file`, whole or not at all."""
    # Made in memory first: HDF5 does not survive a full disk, Python does.
    content = bytes(dataset.to_netcdf(engine="h5netcdf"))
    with replacing(file) as temporary:
        temporary.write_bytes(content)


def write_csv(dataset: xr.Dataset | xr.DataArray, file: Path) -> None:
    """The same as one row for each combination of labels."""
    table = dataset.to_dataframe().reset_index()
    with replacing(file) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def _text(provenance: Provenance) -> str:
    return json.dumps(provenance)
