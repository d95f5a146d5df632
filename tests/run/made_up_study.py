"""A study with planted numbers, for the tests of what is said and shown about one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from run.options import StudyConfig
from run.task_results import write_csv

TASKS = ("facts", "review", "pairs")
CLUSTERS = ("qa", "sentiment", "paraphrase")
LAYERS = ("embedding", "block 1", "block 2", "block 3", "block 4", "final norm")

# Same-layer debiased CKA by layer (without the embedding), before each task's own shift.
BASE_C = np.array([0.99, 0.90, 0.50, 0.40, 0.45])
E_C = np.array([0.95, 0.97, 0.93, 0.91, 0.85])
SHIFT = np.array([-0.05, 0.0, 0.02])  # by task; mean -0.01
BIAS = np.array([0.01, 0.01, 0.01, 0.06, 0.01])


def make_cka(tasks=TASKS, clusters=CLUSTERS) -> xr.Dataset:
    """CKA with planted diagonals; the embedding is constant, and one task's C is not finite in block 3."""
    n, size = np.array([50, 64, 12]), len(LAYERS)
    cka = np.full((3, 2, 3, size, size), 0.1, np.float32)
    inner = np.arange(1, size)
    for pair, diagonal in enumerate((BASE_C, E_C, BASE_C)):
        cka[pair, 0, :, inner, inner] = diagonal[:, None] + SHIFT
        cka[pair, 1, :, inner, inner] = (diagonal + BIAS)[:, None] + SHIFT
    cka[..., 0, :] = cka[..., :, 0] = np.nan
    cka[:2, :, 2, :, 3] = np.nan
    reason = np.full((3, 3, size), "", dtype=object)
    reason[:, :, 0] = [f"constant features: all {k} rows are equal" for k in n]
    reason[2, 2, 3] = "non-finite values in 2 of 12 rows (as float32)"
    duplicates = np.zeros((3, 3, size), int)
    duplicates[:, :, 0] = n - 1
    duplicates[:, 1, 1:] = 5
    layers, models = list(LAYERS), ["base", "E", "C"]
    return xr.Dataset(
        {
            "cka": (("pair", "estimator", "task", "layer_a", "layer_b"), cka),
            "n": ("task", n),
            "reason": (("model", "task", "layer"), reason),
            "duplicates": (("model", "task", "layer"), duplicates),
        },
        {"pair": ["base | C", "E | C", "base | E"], "estimator": ["debiased", "biased"], "task": list(tasks)}
        | {"cluster": ("task", list(clusters)), "model": models, "layer": layers, "layer_a": layers, "layer_b": layers},
        {"provenance": json.dumps({task: {"model": "m0d31", "data": "da7a", "E": "e"} for task in tasks})},
    )


def make_losses(tasks=TASKS) -> pd.DataFrame:
    """E falls on two of three, C on all; E ends below C on the first only."""
    after = {"E": (0.5, 1.5, 3.25), "C": (0.75, 1.25, 2.0)}
    rows = [
        (task, CLUSTERS[i], model, 100 + i, 3.0, after[model][i])
        for i, task in enumerate(tasks)
        for model in ("E", "C")
    ]
    return pd.DataFrame(rows, columns=["task", "cluster", "model", "tokens", "before", "after"])


def make_study(folder: Path, *, tasks=TASKS, parts=("losses", "cka", "metrics")) -> Path:
    (folder / "results").mkdir(parents=True)
    facts = {"train": 10, "test": 50, "cut_prompts": 0, "cut_answers": 0}
    cut = {**facts, "cut_prompts": 7}
    data_tasks = {task: {"cluster": CLUSTERS[i], **(cut if i == 1 else facts)} for i, task in enumerate(tasks)}
    record = {
        "format": 2,
        "version": "0.1.0",
        "config": StudyConfig().flat() | {"rank": 4},
        "model": {"name": "tiny", "fingerprint": "m0d31", "parameters": 1234567, "layers": list(LAYERS)},
        "data": {"source": "builtin", "fingerprint": "da7a", "tasks": data_tasks},
    }
    (folder / "study.json").write_text(json.dumps(record))
    if "losses" in parts:
        make_losses(tasks).to_csv(folder / "results" / "losses.csv", index=False)
    if "cka" in parts:
        cka = make_cka(tasks)
        cka.to_netcdf(folder / "results" / "cka.nc", engine="h5netcdf")
        write_csv(cka[["cka"]], folder / "results" / "cka.csv")
    if "metrics" in parts:
        lines = [{"step": s, "loss": {"E": 3 / s, "facts": 2 / s}, "grad_norm": {"E": 1.0}} for s in range(1, 9)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
