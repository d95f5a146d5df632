"""The results of a study, as a report needs them: each is there and whole, or None, or an error that names its file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from lorajax.errors import LorajaxError
from run import adapter_report
from run.study_folder import StudyFolder
from run.task_results import read


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The results of a study; None for what there is not yet."""

    losses: pd.DataFrame | None
    metrics: pd.DataFrame | None
    cka: xr.Dataset | None
    by_layer: pd.DataFrame | None
    bands: pd.DataFrame | None
    ablation: xr.Dataset | None
    spectrum: xr.Dataset | None
    embedding: xr.Dataset | None
    correlations: pd.DataFrame | None
    adapters: dict[str, Any] | None

    @classmethod
    def read(cls, folder: StudyFolder) -> Found:
        """What the folder holds.

        Raises:
          LorajaxError: a file cannot be read.
        """
        results = folder.results
        return cls(
            losses=read_losses(results / "losses.csv"),
            metrics=read_metrics(folder.path),
            cka=read_cka(results / "cka.nc"),
            by_layer=read_table(results / "cka_by_layer.csv"),
            bands=read_table(results / "bands.csv"),
            ablation=read_netcdf(results / "ablation.nc", "loss"),
            spectrum=read_netcdf(results / "spectrum.nc", "spectrum"),
            embedding=read_netcdf(results / "embedding.nc", "map"),
            correlations=read_table(results / "readability_correlation.csv"),
            adapters=adapter_report.compared(results, folder.record["config"].get("init") == "shared"),
        )


def read_losses(file: Path) -> pd.DataFrame | None:
    """The table of held-out losses, or None when there is none yet."""
    if not file.exists():
        return None
    numbers = ["tokens", "before", "after"]
    try:  # as text first: a task may be called "NA"
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        table[numbers] = table[numbers].replace({"nan": None, "": None}).apply(pd.to_numeric)
        table = table[["task", "cluster", "model", *numbers]]
    except (ValueError, KeyError) as error:
        raise LorajaxError(f"{file}: expected columns task, cluster, model, tokens, before, after: {error}") from None
    return table if len(table) else None


def read_cka(file: Path) -> xr.Dataset | None:
    """The labelled CKA results, or None when there are none yet, or not of base | C and E | C."""
    ds = read_netcdf(file, "cka")
    if ds is None:
        return None
    if absent := {"n", "reason", "duplicates", "cluster"} - set(ds.variables):
        raise LorajaxError(f"{file}: no variable {sorted(absent)[0]}; write it again: python -m run.cka_all_layers")
    # A report is about both; other pairs are no part of it.
    return ds if {"base | C", "E | C"} <= set(ds.pair.values) else None


def read_netcdf(file: Path, variable: str) -> xr.Dataset | None:
    """Labelled results that hold `variable`, or None when there are none yet."""
    ds = read(file)
    if ds is None:
        return None
    if variable not in ds.variables:
        raise LorajaxError(f"{file}: no variable {variable}; delete the file and compute it again")
    return ds


def read_table(file: Path) -> pd.DataFrame | None:
    """A table with a row or more, or None."""
    if not file.exists():
        return None
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values={"p_value": [""], "r": [""]})
    except ValueError as error:
        raise LorajaxError(f"{file}: cannot be read as CSV: {error}") from None
    return table if len(table) else None


def read_metrics(study: Path) -> pd.DataFrame | None:
    """The training log as a table with columns step, model, loss, grad_norm; None when there is none yet."""
    file = study / "metrics.jsonl"
    rows = []
    for at, line in enumerate(file.read_text("utf-8").splitlines() if file.exists() else [], start=1):
        try:
            row = json.loads(line)
            norms = row.get("grad_norm", {})
            rows += [(row["step"], model, loss, norms.get(model)) for model, loss in row["loss"].items()]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise LorajaxError(f'{file}, line {at}: expected {{"step": ..., "loss": {{...}}}}') from None
    return pd.DataFrame(rows, columns=["step", "model", "loss", "grad_norm"]) if rows else None
