"""Where does each task live? CKA between all layers of the base model, the multi-task model E and the control models C.

    python -m run.cka_all_layers STUDY

For every task t, the hidden states of t's held-out prompts (their last token, in every layer) are taken under the base
model, under E and under t's own control model C, and every layer of one is compared with every layer of another. A high
E | C means that the multi-task model holds, at that layer, what training on the task alone would have put there.

STUDY must hold trained adapters (python -m run.finetune). It gets `results/cka.nc` (labelled arrays),
`results/cka.csv`, and the figures. Tasks that are done are not done again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import tyro
import xarray as xr

from analysis.cka import cka_both, duplicate_rows, missing_reason
from lorajax.activations import LastToken
from lorajax.errors import LorajaxError
from lorajax.files import replacing
from lorajax.lora.adapter import Adapter, stack, zeros_like
from lorajax.lora.peft import load_adapter
from run import figures
from run.lock import study_lock
from run.options import MULTI_TASK
from run.study_folder import StudyFolder
from run.terminal import command, console, progress, say, show_table
from run.workbench import Workbench

MODELS = ("base", "E", "C")
PAIRS = {"base | C": (0, 2), "E | C": (1, 2), "base | E": (0, 1)}


@dataclasses.dataclass(frozen=True)
class CkaAllLayers:
    """Compare the base model, the multi-task model and each task's control model, all layers with all layers."""

    study: tyro.conf.Positional[Path]
    """Folder of a study with trained adapters."""
    tasks: tuple[str, ...] = ()
    """Tasks to compare; all that have an adapter when none is named."""
    batch_size: int = 16
    """Prompts in the model at a time, under each of the three models."""

    def __post_init__(self):
        if self.batch_size < 1:
            raise LorajaxError(f"--batch-size must be at least 1, found {self.batch_size}")


def cka_all_layers(options: CkaAllLayers, bench: Workbench | None = None) -> StudyFolder:
    """Computes what is missing of the study's CKA, writes it, and returns the study."""
    with study_lock(StudyFolder.open(options.study).path):
        return _cka_all_layers(options, bench)


def _cka_all_layers(options: CkaAllLayers, bench: Workbench | None) -> StudyFolder:
    study = StudyFolder.open(options.study)
    tasks = _tasks(study, options)
    provenance = {task: _provenance(study, task) for task in tasks}
    missing = [task for task in tasks if not _is_done(study, task, provenance[task])]
    if done := len(tasks) - len(missing):
        say(f"CKA of {done} of {len(tasks)} tasks is there already")
    if missing:
        bench = bench or Workbench.prepare(study.config, mesh="auto")
        model = bench.checkpoint.model
        last_token = LastToken(model, batch_size=options.batch_size, pad=bench.pad)
        multi_task = load_adapter(study.adapter(MULTI_TASK), model.config)[0]
        with progress() as bar:
            line = bar.add_task("CKA of all layers", total=len(missing), note="")
            for i, task in enumerate(missing):
                if not console.is_terminal:
                    say(f"  CKA of all layers: {task} ({i + 1} of {len(missing)})")
                control = load_adapter(study.adapter(task), model.config)[0]
                result = compare(last_token, multi_task, control, bench, task)
                result.attrs["provenance"] = provenance[task]
                _write(result, _file(study, task))
                bar.advance(line)
    # All tasks whose result is current, also those that this call was not asked for.
    provenance = {task: _provenance(study, task) for task in trained_tasks(study)}
    current = [task for task in provenance if _is_done(study, task, provenance[task])]
    results = [xr.load_dataset(_file(study, task), engine="h5netcdf") for task in current]
    # Without their encoding: it holds the first file's string lengths, and longer names would be cut when written.
    joined = xr.concat(results, dim="task", combine_attrs="drop").drop_encoding()
    joined.attrs["provenance"] = json.dumps({task: json.loads(provenance[task]) for task in current})
    _write(joined, study.results / "cka.nc")
    with replacing(study.results / "cka.csv") as temporary:
        joined["cka"].to_dataframe().reset_index().to_csv(temporary, index=False, float_format="%.6f")
    figures.save(figures.layer_boxplot(joined), study.path / "figures" / "cka_by_layer.svg")
    figures.save(figures.layer_heatmaps(joined), study.path / "figures" / "cka_all_layers.svg")
    show(joined)
    say(f"wrote {study.results / 'cka.nc'}, cka.csv and {study.path / 'figures'}")
    return study


def compare(last_token: LastToken, multi_task: Adapter, control: Adapter, bench: Workbench, task: str) -> xr.Dataset:
    """CKA of all layer pairs for one task, as labelled arrays with a task axis of one."""
    prompts = bench.test[task].prompts
    states = last_token(stack([zeros_like(control), multi_task, control]), prompts)
    cka = np.stack([np.stack(cka_both(states[a], states[b])) for a, b in PAIRS.values()])
    layers = list(bench.checkpoint.model.config.layer_names)
    reasons = [[reason or "" for reason in missing_reason(states[m])] for m in range(len(MODELS))]
    return xr.Dataset(
        {
            "cka": (("pair", "estimator", "task", "layer_a", "layer_b"), cka[:, :, None].astype(np.float32)),
            "n": (("task",), [len(prompts)]),
            "reason": (("model", "task", "layer"), np.asarray(reasons, dtype=object)[:, None]),
            "duplicates": (("model", "task", "layer"), np.stack([duplicate_rows(x) for x in states])[:, None]),
        },
        coords={
            "pair": list(PAIRS),
            "estimator": ["debiased", "biased"],
            "task": [task],
            "cluster": ("task", [bench.tasks[task].cluster]),
            "model": list(MODELS),
            "layer": layers,
            "layer_a": layers,
            "layer_b": layers,
        },
    )


def show(results: xr.Dataset) -> None:
    """Prints same-layer CKA of every task at a few depths, debiased."""
    layers = results.sizes["layer"]
    shares = (0.25, 0.5, 0.75, 1) if console.width >= 110 else (0.5, 1)
    depths = sorted({round(share * (layers - 2)) for share in shares})
    rows = []
    for task in results["task"].values:
        row = [str(task), str(int(results["n"].sel(task=task)))]
        for pair in ("base | C", "E | C"):
            same = np.diagonal(results["cka"].sel(pair=pair, estimator="debiased", task=task).values)
            row += ["missing" if np.isnan(same[i]) else f"{same[i]:.3f}" for i in depths]
        rows.append(row)
    names = [str(results["layer"].values[i]) for i in depths]
    columns = ["task", "n", *(f"{pair}\n{name}" for pair in ("base | C", "E | C") for name in names)]
    show_table("Same-layer CKA (debiased) with the task's own control model", columns, rows)


def _tasks(study: StudyFolder, options: CkaAllLayers) -> list[str]:
    if not study.is_trained(MULTI_TASK):
        raise LorajaxError(
            f"{study.path}: the multi-task model E is not trained yet: python -m run.finetune {study.path}"
        )
    trained = trained_tasks(study)
    for task in options.tasks:
        if task not in trained:
            raise LorajaxError(f"--tasks {task}: no trained adapter in {study.path}; there are: {', '.join(trained)}")
    if not trained:
        raise LorajaxError(f"{study.path}: no control model is trained yet: python -m run.finetune {study.path}")
    return [task for task in trained if not options.tasks or task in options.tasks]


def trained_tasks(study: StudyFolder) -> list[str]:
    """The tasks that have a control model."""
    return [task for task in study.record["data"]["tasks"] if study.is_trained(task)]


def _provenance(study: StudyFolder, task: str) -> str:
    record = study.record
    facts = {
        "version": record["version"],
        "model": record["model"]["fingerprint"],
        "data": record["data"]["fingerprint"],
        "E": study.adapter_fingerprint(MULTI_TASK),
        "C": study.adapter_fingerprint(task),
        "token": "last of the prompt",
    }
    return json.dumps(facts)


def _file(study: StudyFolder, task: str) -> Path:
    return study.results / "cka" / f"{task}.nc"


def _is_done(study: StudyFolder, task: str, provenance: str) -> bool:
    file = _file(study, task)
    if not file.exists():
        return False
    with xr.open_dataset(file, engine="h5netcdf") as dataset:
        return dataset.attrs.get("provenance") == provenance


def _write(dataset: xr.Dataset, file: Path) -> None:
    # Made in memory first: HDF5 does not survive a full disk, Python does.
    content = bytes(dataset.to_netcdf(engine="h5netcdf"))
    with replacing(file) as temporary:
        temporary.write_bytes(content)


def main() -> None:
    """Entry point of `python -m run.cka_all_layers`."""
    cka_all_layers(tyro.cli(CkaAllLayers, description=__doc__, prog="python -m run.cka_all_layers"))


if __name__ == "__main__":
    command(main)
