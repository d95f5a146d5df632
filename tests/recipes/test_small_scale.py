"""The published recipes from one command to their report, on SmolLM2 and real data: `make recipes`, an hour or more.

The studies stay in the folder that `LORAJAX_RECIPES` names, and go on there after an interruption. What the recipes
say is kept but for the model, the data that are there, and how long and on how much is trained. What was found is
printed as it was found: nothing here asks for a result of the papers.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorajax.data.task import CLUSTERS

pytestmark = pytest.mark.long

PACK = Path(__file__).parents[3] / "shared" / "data"

#: Two short tasks of each cluster.
INSTRUCTIONS = [
    "comve_explanation",
    "comve_validation",
    "xquad_questions_en_es",
    "xquad_questions_en_tr",
    "boolq",
    "squad_xquad_en",
    "blimp",
    "cola",
    "med_monotonicity",
    "conjnli",
    "tweet_sentiment",
    "rotten_tomatoes",
    "mctaco_plausible",
    "cosmosqa_mc",
    "e2e_nlg",
    "dart",
    "sts_semeval",
    "mrpc",
    "webquestions",
    "nq_open",
    "winobias",
    "winogender",
    "ni1290_xsum",
    "scitldr",
]

#: The poster's SUM, NER and 10 % SENT, and a task of each other family.
LINGUISTIC = [
    "summary",
    "ner_sentences",
    "first10_sentences",
    "last10_sentences",
    "coref_anchor",
    "srl_statements",
    "syntax_core",
]

SMALL = ["--model", "smollm2", "--dtype", "float32", "--epochs", "0", "--batch-size", "4", "--accumulate", "1"]


@pytest.fixture(autouse=True)
def _data():
    if not PACK.is_dir():
        pytest.skip(f"needs the project's data pack at {PACK}")


@pytest.fixture
def folder(request, tmp_path):
    """Where the study of a test is: a folder that stays, if one is named."""
    kept = os.environ.get("LORAJAX_RECIPES")
    return Path(kept).resolve() / request.node.name.removeprefix("test_") if kept else tmp_path / "study"


def study(folder, *flags):
    """The study, by its own command; its output goes to the terminal."""
    command = [sys.executable, "-m", "run.study", str(folder), *flags, *SMALL]
    # Not as other tests compile: for eight virtual devices, and programs that are quick to make and slow to run.
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env=own)
    record = json.loads((folder / "study.json").read_text())
    page = (folder / "report.html").read_text()
    assert "not been computed yet" not in page
    return record["data"]["tasks"], page


def losses(folder):
    with (folder / "results" / "losses.csv").open() as file:
        return {(row["task"], row["model"]): float(row["after"]) - float(row["before"]) for row in csv.DictReader(file)}


def test_layer_by_layer(folder):
    flags = ["--recipe", "layer-by-layer", "--data", str(PACK / "tasks"), "--tasks", *INSTRUCTIONS]
    flags += ["--steps", "6", "--learning-rate", "3e-3", "--train-examples", "96", "--test-examples", "24"]
    tasks, page = study(folder, *flags, "--max-length", "160", "--max-answer", "32", "--ablation-examples", "6")
    assert {fact["cluster"] for fact in tasks.values()} == set(CLUSTERS)
    assert len(tasks) == len(INSTRUCTIONS) >= 24
    assert {name for name, fact in tasks.items() if not fact["seen"]} == {"blimp", "cola"}
    change = losses(folder)
    assert all(change[task, "C"] < 0 for task in tasks)  # each learnt its task
    cka = xr.load_dataset(folder / "results" / "cka.nc", engine="h5netcdf")
    inner = cka.cka.sel(estimator="debiased").isel(layer_a=slice(1, None), layer_b=slice(1, None))
    assert np.isfinite(inner).all()
    assert '<h2 id="published">' in page
    assert "For orientation only" in page  # no agreement is claimed
    verdicts = {row["verdict"] for row in csv.DictReader((folder / "results" / "published.csv").open())}
    assert verdicts == {"not comparable"}


def test_task_vectors(folder):
    documents = folder.with_name("documents")
    shutil.copytree(PACK / "conll2012", documents, dirs_exist_ok=True)
    manifest = json.loads((documents / "manifest.json").read_text())
    ids = {item["linguistic_doc"]: item["id"] for item in manifest["items"]}
    rows = [json.loads(line) for line in (PACK / "linguistic" / "gumdoc_summary.jsonl").read_text().splitlines()]
    own = [{"document": ids[row["doc"]], "summary": row["targets"][0]} for row in rows if row["doc"] in ids]
    (documents / "summaries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    flags = ["--recipe", "task-vectors", "--bases", "--data", f"conll2012:{documents}", "--tasks", *LINGUISTIC]
    flags += ["--steps", "6", "--learning-rate", "3e-3", "--train-examples", "48", "--test-examples", "16"]
    flags += ["--evaluate-every", "0", "--patience", "0", "--max-length", "320", "--max-answer", "96"]
    flags += ["--ablation-examples", "6"]
    tasks, page = study(folder, *flags)
    assert set(tasks) == set(LINGUISTIC)
    change = losses(folder)
    assert all(change[task, "C"] < 0 for task in tasks)
    with (folder / "results" / "projection.csv").open() as file:
        rec = {(r["task_i"], r["task_j"]): float(r["value"]) for r in csv.DictReader(file) if r["projection"] == "rec"}
    for pair in (("summary", "ner_sentences"), ("summary", "first10_sentences"), ("ner_sentences", "summary")):
        assert 0 < rec[pair] < 1
    assert '<h2 id="published">' in page
