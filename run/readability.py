"""Is a layer's similarity a matter of how hard the prompts are to read, or of how much there was to train on?

    python -m run.readability STUDY
    python -m run.readability STUDY --text instruction

For every task: Flesch-Kincaid grade and Coleman-Liau index of its held-out prompts (means over prompts), their length
in words, and the number of training examples. For every layer and pair of models: the correlation over tasks of each of
these with the same-layer CKA of `results/cka.nc` (python -m run.cka_all_layers), with 95 % intervals, and p-values by
permutation of the tasks, for the layer alone and for all layers together. With few tasks the intervals are wide.

Results, under `results/`: `readability.csv`, `readability_correlation.csv`.

`--json`: `readability`, rows of readability.csv; `correlations`, those of readability_correlation.csv.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tyro
import xarray as xr

from analysis.correlation import LayerCorrelation, correlation_by_layer
from analysis.readability import mean_readability
from lorajax.errors import LorajaxError
from lorajax.files import write_text
from run.__main__ import cli
from run.figures import same_layer
from run.lock import study_lock
from run.study_folder import StudyFolder
from run.subjects import StudySubject
from run.terminal import command, result, say, show_table, wrote
from run.workbench import Workbench

MEASURES = ("flesch_kincaid", "coleman_liau", "words", "train_examples")
#: With fewer, a correlation is 1 or -1, or nearly.
LEAST_TASKS = 4


@dataclasses.dataclass(frozen=True)
class ReadabilityConfig:
    """What is read, and how it is correlated."""

    text: Literal["prompt", "instruction"] = "prompt"
    """The filled `prompt`, or its `instruction` alone (tasks whose prompts have none are left out)."""
    correlation: Literal["pearson", "spearman"] = "pearson"
    """`pearson`, as in the paper, or `spearman`, of ranks."""
    control_size: bool = False
    """Take the number of held-out prompts out of both sides first (partial correlation)."""


@dataclasses.dataclass(frozen=True)
class Readability:
    """Correlate readability and size of the tasks with the same-layer CKA of a study."""

    study: tyro.conf.Positional[Path]
    """Folder of a study with CKA results."""
    readability: tyro.conf.OmitArgPrefixes[ReadabilityConfig] = ReadabilityConfig()


def readability(options: Readability, bench: Workbench | None = None) -> pd.DataFrame:
    """Reads the prompts, correlates, writes both tables and returns the correlations."""
    study = StudyFolder.open(options.study)
    file = study.results / "cka.nc"
    if not file.exists():
        raise LorajaxError(f"{file}: no such file; compare first: python -m run.cka_all_layers {study.path}")
    with study_lock(study.path):
        cka = xr.load_dataset(file, engine="h5netcdf")
        table = by_task(StudySubject(study, bench), study, cka, options.readability.text)
        write_text(study.results / "readability.csv", table.to_csv(index=False, float_format="%.6g"))
        found = correlations(table, cka, options.readability)
        write_text(study.results / "readability_correlation.csv", found.to_csv(index=False, float_format="%.6g"))
    show(found, len(table), options.readability)
    result(readability=table, correlations=found)
    wrote(study.results / "readability.csv", study.results / "readability_correlation.csv")
    return found


def by_task(subject: StudySubject, study: StudyFolder, cka: xr.Dataset, text: str) -> pd.DataFrame:
    """Readability and size of each task of the CKA results that has such text."""
    texts = {str(task): subject.texts(str(task))[text == "prompt"] for task in cka.task.values}
    texts = {task: own for task, own in texts.items() if any(part.strip() for part in own)}
    if not texts:
        raise LorajaxError(f"--text {text}: no task of {study.path} has an instruction apart from its input")
    means = mean_readability(texts)
    record = study.record["data"]["tasks"]
    return pd.DataFrame(
        {
            "task": list(texts),
            "cluster": [record[task]["cluster"] for task in texts],
            "text": text,
            "n": [int(cka.n.sel(task=task)) for task in texts],
            "train_examples": [record[task]["train"] for task in texts],
            **{name: np.asarray(values) for name, values in means._asdict().items()},
        }
    )


def correlations(table: pd.DataFrame, cka: xr.Dataset, options: ReadabilityConfig) -> pd.DataFrame:
    """A row for each pair of models, measure and layer: r, its interval, and p-values; empty with too few tasks."""
    rows: list[dict[str, object]] = []
    if len(table) < LEAST_TASKS:
        return pd.DataFrame(rows, columns=["pair", "measure", "layer", *LayerCorrelation._fields])
    chosen = cka.sel(task=table.task.values)
    for pair in (str(p) for p in cka.pair.values if str(p) != "base | E"):
        values = same_layer(chosen, pair)
        for measure in MEASURES:
            covariate = table[measure].to_numpy(np.float64)
            if not np.ptp(covariate[np.isfinite(covariate)]) > 0:
                continue  # the same for all tasks: nothing to correlate with
            controls = table[["n"]].to_numpy(np.float64) if options.control_size and table.n.nunique() > 1 else None
            found = correlation_by_layer(values, covariate, controls, method=options.correlation)
            rows += [
                {
                    "pair": pair,
                    "measure": measure,
                    "layer": str(layer),
                    **{name: own[i] for name, own in found._asdict().items()},
                }
                for i, layer in enumerate(cka.layer.values)
            ]
    return pd.DataFrame(rows)


def show(found: pd.DataFrame, tasks: int, options: ReadabilityConfig) -> None:
    """Prints, of each pair and measure, the layer with the largest correlation."""
    if found.empty:
        say(f"readability: {tasks} tasks are too few to correlate over; {LEAST_TASKS} or more are needed")
        return
    rows = []
    for (pair, measure), own in found.groupby(["pair", "measure"], sort=False):
        own = own[own.r.notna()]
        if len(own):
            top = own.loc[own.r.abs().idxmax()]
            interval = f"{top.r:+.2f} ({top.low:+.2f} to {top.high:+.2f})"
            rows.append(
                [f"{pair}: {measure}", str(top.layer), interval, f"{top.p_permutation:.3f}", f"{top.p_familywise:.3f}"]
            )
    title = (
        f"Correlation ({options.correlation}) over {tasks} tasks with same-layer CKA, at the layer where it is largest"
    )
    show_table(title, ["", "layer", "r (95 %)", "p", "p, all layers"], rows)


def main() -> None:
    """Entry point of `python -m run.readability`."""
    options = cli(Readability, prog="python -m run.readability", description=__doc__, example="studies/demo")
    readability(options)


if __name__ == "__main__":
    command(main)
