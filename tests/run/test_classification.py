"""The commands on an encoder: classification tasks, heads in the adapters, and the whole study."""

import csv
import json
import os
import signal
import sys

import numpy as np
import pytest
import xarray as xr

from lorajax.data import jsonl
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import head_of
from lorajax.lora.peft import load_adapter
from lorajax.models.checkpoint import load
from lorajax.training.stopping import Stopped
from run import (
    ablate_layers,
    cka_all_layers,
    compare_adapters,
    export,
    finetune,
    merge_adapters,
    score,
    study,
    terminal,
)
from tests.tiny_encoder import TINY_ENCODER, tiny_encoder, tiny_tasks

pytestmark = pytest.mark.slow

LABELS = {
    "mnli": ["contradiction", "entailment", "neutral"],
    "rte": ["contradiction", "entailment"],
    "sst2": ["negative", "positive"],
}
FLAGS = [
    "--steps", "6", "--batch-size", "4", "--train-examples", "40", "--test-examples", "10", "--max-length", "160",
    "--rank", "2", "--learning-rate", "5e-3",
]  # fmt: skip


def run(module, *arguments):
    """Runs a command in this process, as from its command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        module.main()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Flags that name a model and its data."""
    folder = tmp_path_factory.mktemp("inputs")
    return ["--model", tiny_encoder(folder / "model"), "--data", tiny_tasks(folder / "data")]


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    """A finished study."""
    folder = tmp_path_factory.mktemp("studies") / "done"
    run(study, folder, *inputs, *FLAGS, "--ablation-examples", "0")
    return folder


def losses(folder):
    return list(csv.DictReader((folder / "results" / "losses.csv").open()))


def test_study_holds_what_it_says(done):
    record = json.loads((done / "study.json").read_text())
    assert record["model"]["layers"] == ["embedding", "block 1", "block 2"]
    assert sorted(p.name for p in (done / "adapters").iterdir()) == sorted(["E", *LABELS])
    rows = {(row["task"], row["model"]): row for row in losses(done)}
    assert list(rows) == [(task, model) for task in LABELS for model in "EC"]
    for (task, _), row in rows.items():
        assert float(row["before"]) == pytest.approx(np.log(len(LABELS[task])), abs=1e-5)
        assert row["after"] != row["before"]
        assert int(row["tokens"]) == 10
        right = float(row["accuracy"]) * 10
        assert right == pytest.approx(round(right))
        assert 1 / len(LABELS[task]) <= float(row["majority"]) <= 1
    assert (done / "report.html").exists()
    data = xr.load_dataset(done / "results" / "cka.nc", engine="h5netcdf")
    assert set(data["reason"].sel(layer="embedding").values.ravel()) == {"constant features: all 10 rows are equal"}
    assert np.isfinite(data["cka"].isel(layer_a=slice(1, None), layer_b=slice(1, None))).all()
    updates = xr.load_dataset(done / "results" / "adapters.nc", engine="h5netcdf")
    assert sorted(updates["module"].values) == ["attention.self.query", "attention.self.value"]


def test_adapters_have_the_classes_they_were_trained_on(done):
    every = [f"{task}: {label}" for task, labels in LABELS.items() for label in labels]
    for name, labels in {**LABELS, "E": every}.items():
        notes = json.loads((done / "adapters" / name / "lorajax.json").read_text())
        assert list(notes["id2label"].values()) == labels
        assert notes["steps"] == 6
        adapter, _ = load_adapter(done / "adapters" / name, TINY_ENCODER)
        assert head_of(adapter).out.shape == (1, 1, 32, len(labels))


def test_losses_and_accuracies_again_by_hand(done, inputs):
    """From the files alone, one text after another."""
    checkpoint = load(str(inputs[1]))
    tasks = jsonl.read_folder(inputs[3])
    for row in losses(done):
        folder = done / "adapters" / ("E" if row["model"] == "E" else row["task"])
        adapter, _ = load_adapter(folder, TINY_ENCODER)
        names = json.loads((folder / "lorajax.json").read_text())["classes"]
        own = [i for i, (task, _) in enumerate(names) if task == row["task"]]
        nats, right = 0.0, 0
        for example in tasks[row["task"]].test[:10]:
            tokens = checkpoint.tokenizer(example.input, padding="max_length", max_length=80, return_tensors="np")
            tokens = tokens["input_ids"][None]
            hidden = checkpoint.model(tokens, adapter).hidden[:, :, :1]
            scores = np.asarray(head_of(adapter).scores(hidden)[0, 0, 0], np.float64)[own]
            label = [names[i][1] for i in own].index(example.targets[0])
            nats += np.log(np.exp(scores).sum()) - scores[label]
            right += scores.argmax() == label
        assert float(row["after"]) == pytest.approx(nats / 10, abs=2e-5)
        assert float(row["accuracy"]) == pytest.approx(right / 10)


@pytest.mark.parametrize("name", ["E", "mnli"])
def test_peft_loads_them_and_gives_the_same_logits(done, inputs, name):
    """Largest difference below 1e-5 of the largest logit."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    checkpoint, folder = load(str(inputs[1])), done / "adapters" / name
    labels = json.loads((folder / "lorajax.json").read_text())["id2label"]
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels)).eval()
    encoded = checkpoint.tokenizer(["same tree house", "awful"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**encoded).logits.numpy()
    adapter, _ = load_adapter(folder, TINY_ENCODER)
    tokens = encoded["input_ids"].numpy()[None]
    found = head_of(adapter).scores(checkpoint.model(tokens, adapter).hidden[:, :, :1])[0, :, 0]
    assert expected.shape == (2, len(labels))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_stopped_training_goes_on_to_the_same_adapters(done, inputs, tmp_path, monkeypatch):
    """To the bit, heads included."""
    said = terminal.say

    def stop(text):
        said(text)
        if "step 3/6" in text:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(terminal, "say", stop)
    with pytest.raises(Stopped):
        run(finetune, tmp_path / "s", *inputs, *FLAGS)
    assert not (tmp_path / "s" / "adapters").exists()
    monkeypatch.undo()
    run(finetune, tmp_path / "s", *inputs, *FLAGS)
    for name in ("E", *LABELS):
        file = f"adapters/{name}/adapter_model.safetensors"
        assert (tmp_path / "s" / file).read_bytes() == (done / file).read_bytes()
    assert losses(tmp_path / "s") == losses(done)


def test_adapters_in_some_layers_only(done):
    run(ablate_layers, done, "--masks", "single", "--examples", "10")
    data = xr.load_dataset(done / "results" / "ablation.nc", engine="h5netcdf")
    assert list(data["mask"].values) == ["base", "full", "single 1", "single 2"]
    for row in losses(done):
        own = data["loss"].sel(task=row["task"], model=row["model"], mask="full")
        assert float(own) == pytest.approx(float(row["after"]), abs=2e-5)


def test_named_models(done, inputs, tmp_path):
    """Without a study: the encoder and one of its adapters."""
    run(
        cka_all_layers, inputs[1], done / "adapters" / "rte", "--data", inputs[3], "--tasks", "rte", "--out", tmp_path,
        "--max-length", "160", "--test-examples", "10",
    )  # fmt: skip
    ours = xr.load_dataset(tmp_path / "results" / "cka.nc", engine="h5netcdf")["cka"].values
    studys = xr.load_dataset(done / "results" / "cka.nc", engine="h5netcdf")["cka"].sel(pair="base | C", task="rte")
    np.testing.assert_allclose(ours.squeeze(), studys.values, atol=2e-5)


def test_against_the_base_model(done, inputs, tmp_path):
    run(compare_adapters, done, "--out", tmp_path, "--base", inputs[1], "--draws", "0")
    data = xr.load_dataset(tmp_path / "results" / "adapters.nc", engine="h5netcdf")
    assert np.isfinite(data["base_value"].sel(base_measure="relative_norm")).all()


class TestRefused:
    """What an encoder cannot do ends with a message."""

    def fails(self, message, module, *arguments):
        with pytest.raises(LorajaxError, match=message):
            run(module, *arguments)

    def test_generation(self, done):
        self.fails(r"run\.score \(results/losses\.csv .* needs a decoder", score, done)

    def test_merged_export(self, done, inputs, tmp_path):
        self.fails(
            "cannot be merged into a model", export, inputs[1], tmp_path / "out", "--adapter", done / "adapters" / "E"
        )

    def test_merged_heads(self, done, tmp_path):
        folders = [done / "adapters" / name for name in ("rte", "sst2")]
        self.fails("heads|architecture 'RobertaModel'", merge_adapters, tmp_path / "out", *folders)

    def test_tasks_that_are_no_classification(self, inputs, tmp_path):
        rows = [{"task": "x", "cluster": "qa", "input": f"a {i}", "targets": [f"b {i}"]} for i in range(90)]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        message = r"task 'x': \d+ different targets; an encoder is trained to classify, with at most 64 labels"
        flags = [*FLAGS, "--train-examples", "80"]
        self.fails(message, finetune, tmp_path / "s", *inputs[:2], "--data", tmp_path / "x.jsonl", *flags)
        assert not (tmp_path / "s").exists()

    def test_a_label_that_is_never_trained_on(self, inputs, tmp_path):
        rows = [{"task": "x", "cluster": "qa", "input": f"a {i}", "targets": ["no" if i % 2 else "yes"], "split": "train"} for i in range(9)]  # fmt: skip
        rows += [{**row, "input": f"{row['input']}!", "split": "test", "targets": ["maybe"]} for row in rows]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        message = (
            r"task 'x': target 'maybe' of input 'a \d!' is no label of its training examples, which are 'no', 'yes'"
        )
        self.fails(message, finetune, tmp_path / "s", *inputs[:2], "--data", tmp_path / "x.jsonl", *FLAGS)
