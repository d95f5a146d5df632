"""All real instruction tasks through the same commands, on a random checkpoint; the real one is in tests/recipes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorajax.data.task import CLUSTERS
from run import cka_all_layers, finetune
from tests.run.test_commands import run
from tests.tiny import tiny_checkpoint

PACK = Path(__file__).parents[3] / "shared" / "data" / "tasks"


@pytest.mark.slow
@pytest.mark.skipif(not PACK.is_dir(), reason=f"needs the project's data pack at {PACK}")
def test_38_tasks_of_12_clusters_train_and_are_measured(tmp_path):
    folder = tmp_path / "s"
    flags = ["--model", tiny_checkpoint(tmp_path / "tiny"), "--data", PACK, "--steps", "2", "--batch-size", "2"]
    flags += ["--train-examples", "8", "--test-examples", "6", "--max-length", "192", "--max-answer", "48"]
    run(finetune, folder, *flags, "--rank", "2", "--fleet-size", "13", "--unseen", "misc")
    tasks = json.loads((folder / "study.json").read_text())["data"]["tasks"]
    assert len(tasks) == 38
    assert {fact["cluster"] for fact in tasks.values()} == set(CLUSTERS)
    assert {fact["cluster"] for fact in tasks.values() if not fact["seen"]} == {"misc"}
    with (folder / "results" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 38
    assert all(np.isfinite(float(row["after"])) for row in rows)
    run(cka_all_layers, folder)
    found = xr.load_dataset(folder / "results" / "cka.nc", engine="h5netcdf")
    assert found.sizes["task"] == 38
