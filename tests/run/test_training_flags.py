"""What the training flags of `run.finetune` do to a study, from the command line to its files."""

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from lorajax.errors import LorajaxError
from run import finetune
from run.finetune import failures
from run.study_folder import StudyFolder
from tests.run.test_commands import run
from tests.tiny import tiny_checkpoint

TASKS = ("arithmetic", "capital_city", "number_words")
FLAGS = [
    "--tasks", *TASKS, "--steps", "4", "--batch-size", "2", "--train-examples", "12", "--test-examples", "6",
    "--max-length", "256", "--rank", "2", "--targets", "q_proj", "v_proj", "--learning-rate", "5e-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_single_adapters_have_their_own_settings(model, tmp_path):
    """Steps, learning rate and rank of one adapter; the others are what they are without."""
    own = ["arithmetic.steps=2", "arithmetic.rank=1", "arithmetic.alpha=4", "capital*.learning_rate=1e-3"]
    run(finetune, tmp_path / "plain", "--model", model, *FLAGS)
    run(finetune, tmp_path / "own", "--model", model, *FLAGS, "--per-adapter", *own)
    logged = rows(tmp_path / "own")
    assert [sorted(row["loss"]) for row in logged] == [sorted(["E", *TASKS])] * 2 + [sorted({"E", *TASKS[1:]})] * 2
    rates = logged[1]["learning_rate"]
    assert rates["capital_city"] == pytest.approx(rates["E"] / 5)
    config = json.loads((tmp_path / "own/adapters/arithmetic/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (1, 4)
    factors = load_file(tmp_path / "own/adapters/arithmetic/adapter_model.safetensors")
    assert {v.shape[0] for k, v in factors.items() if "lora_A" in k} == {1}
    for name, same in (("number_words", True), ("capital_city", False)):
        a, b = (load_file(tmp_path / s / "adapters" / name / "adapter_model.safetensors") for s in ("plain", "own"))
        assert all(np.allclose(a[key], b[key], atol=1e-4) for key in a) is same


def test_mixture_epochs_and_validation(model, tmp_path):
    """Epochs give each adapter its own number of steps; E sees as much of a task as the mixture says."""
    flags = [*FLAGS, "--epochs", "1", "--evaluate-every", "2", "--validation-examples", "2", "--patience", "1"]
    run(finetune, tmp_path / "s", "--model", model, *flags, "--mix-rate-cap", "4", "--mix-weights", "arithmetic=2")
    logged = rows(tmp_path / "s")
    last = {name: max(row["step"] for row in logged if name in row["loss"]) for name in ("E", *TASKS)}
    # 10 examples a task are left: 5 steps of 2. E: 4 + 4 + 2 * 4 = 16 examples.
    assert last["E"] <= 8
    assert all(last[name] <= 5 for name in TASKS)
    measured = {row["step"]: row["validation"] for row in logged if "validation" in row}
    assert set(measured) <= {2, 4, 5, 6, 8}  # every second step, and the last one of each adapter
    for name in TASKS:
        curve = [values[name] for step, values in sorted(measured.items()) if name in values]
        stopped_early = last[name] < 5
        assert stopped_early == (len(curve) > 1 and curve[-1] >= min(curve[:-1]))


def test_e_is_not_trained_on_unseen_tasks(model, tmp_path):
    """It has a control model and is measured; E has nothing of it, and is what it is without that task."""
    run(finetune, tmp_path / "s", "--model", model, *FLAGS, "--unseen", "closed_book_qa")
    seen = ["arithmetic", "number_words"]
    run(finetune, tmp_path / "without", "--model", model, *FLAGS, "--tasks", *seen)
    facts = json.loads((tmp_path / "s/study.json").read_text())["data"]["tasks"]
    assert {name: fact["seen"] for name, fact in facts.items()} == {name: name in seen for name in TASKS}
    a, b = (load_file(tmp_path / s / "adapters/E/adapter_model.safetensors") for s in ("s", "without"))
    assert all(np.allclose(a[key], b[key], atol=1e-4) for key in a)
    with (tmp_path / "s/results/losses.csv").open() as file:
        assert ("capital_city", "C") in {(row["task"], row["model"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("unseen", "message"),
    [(["nothing"], "--unseen nothing: none of the tasks and clusters"), (["*"], r"--unseen \*: leaves no task")],
)
def test_bad_unseen(model, tmp_path, unseen, message):
    with pytest.raises(LorajaxError, match=message):
        run(finetune, tmp_path / "s", "--model", model, *FLAGS, "--unseen", *unseen)


def test_an_adapter_that_diverges_is_left_out(model, tmp_path):
    """The others are trained and measured, the command fails with its name, and does not try again."""
    flags = [*FLAGS, "--clip", "0", "--warmup", "0", "--per-adapter", "arithmetic.learning_rate=3e38"]
    flags += ["--targets", "all-linear"]
    with pytest.raises(LorajaxError, match=r"the loss was no longer finite of adapter 'arithmetic' at step \d"):
        run(finetune, tmp_path / "s", "--model", model, *flags)
    study = StudyFolder.open(tmp_path / "s")
    assert [name for name in ("E", *TASKS) if not study.is_trained(name)] == ["arithmetic"]
    with (tmp_path / "s/results/losses.csv").open() as file:
        found = {(row["task"], row["model"]): float(row["after"]) for row in csv.DictReader(file)}
    assert set(found) == {(t, "E") for t in TASKS} | {(t, "C") for t in TASKS[1:]}
    assert all(np.isfinite(list(found.values())))
    before = (tmp_path / "s/metrics.jsonl").read_bytes()
    with pytest.raises(LorajaxError, match="arithmetic"):
        run(finetune, tmp_path / "s", "--model", model, *flags)
    assert (tmp_path / "s/metrics.jsonl").read_bytes() == before
    assert list(failures(study)) == ["arithmetic"]


@pytest.mark.slow
def test_a_mesh_by_flag(model, tmp_path):
    """Eight virtual devices, and one: the same losses to rounding."""
    for name, mesh in (("one", "auto"), ("eight", "data=2,fsdp=2,tensor=2")):
        run(finetune, tmp_path / name, "--model", model, *FLAGS, "--mesh", mesh)
    for row, again in zip(rows(tmp_path / "one"), rows(tmp_path / "eight"), strict=True):
        assert row["loss"] == pytest.approx(again["loss"], rel=1e-3)


@pytest.mark.slow
def test_a_quantised_base_by_flag(model, tmp_path):
    pytest.importorskip("qwix", reason="the extra quant is not installed")
    run(finetune, tmp_path / "s", "--model", model, *FLAGS, "--quantize", "nf4")
    assert StudyFolder.open(tmp_path / "s").record["config"]["quantize"] == "nf4"
    with pytest.raises(LorajaxError, match=r"config\.quantize is 'nf4' there and 'none' here"):
        run(finetune, tmp_path / "s", "--model", model, *FLAGS)


def test_metrics_elsewhere_and_a_profile(model, tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    flags = ["--steps", "6", "--track", "tensorboard", "--profile", "1"]
    run(finetune, tmp_path / "s", "--model", model, *FLAGS, *flags)
    group = next((tmp_path / "s/training").glob("*/fleet.json")).parent
    assert list((group / "tensorboard").glob("events.out.tfevents.*"))
    assert list((group / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--per-adapter", "nobody.steps=3"], "--per-adapter nobody.steps=3: no adapter of that name"),
        (["--mesh", "data=3x"], "--mesh"),
        (["--mesh", "data=99"], "needs 99 devices; found 8"),
        (["--evaluate-every", "2", "--validation-examples", "12"], "--validation-examples 12 leaves none"),
        (["--mix-weights", "nothing=2"], "--mix-weights nothing=2"),
        (["--profile", "-1"], "--profile"),
        (["--coordinator", "host:1"], "belong together"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_bad_flags(model, tmp_path, capsys, flags, message):
    with pytest.raises((LorajaxError, SystemExit)) as error:  # tyro ends the command for what a dataclass refuses
        run(finetune, tmp_path / "s", "--model", model, *FLAGS, *flags)
    told = " ".join(capsys.readouterr().err.replace("│", " ").split()) + str(error.value)
    assert message in told
    assert not (tmp_path / "s/adapters").exists()
