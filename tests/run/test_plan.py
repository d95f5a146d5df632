"""The plan as people ask for it: in a child process, against the step compiled here."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig
from lorajax.machines import machine
from lorajax.mesh import make_mesh
from lorajax.models.config import ModelConfig
from lorajax.models.named import config_of
from lorajax.training.capacity import FITS, Setup, abstract_model, measure
from lorajax.training.config import TrainConfig
from lorajax.training.flops import count_flops
from run import plan as command
from run import terminal
from run.plan import Plan, plan
from run.plan_target import check_libtpu
from tests.tiny import TINY, tiny_checkpoint

FLAGS = ["--fleet", "2", "--batch-size", "3", "--length", "16", "--answers", "8", "--rank", "2", "--steps", "90"]
LORA, TRAIN = LoraConfig(rank=2), TrainConfig(batch_size=3, steps=90)
#: The interpreter with the TPU compiler, where it is not this one.
TPU_PYTHON = os.environ.get("LORAJAX_TPU_PYTHON", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("plan") / "model")


def run(*arguments) -> None:
    """Runs the command in this process, as from its command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plan", *map(str, arguments)])
        patch.setattr(terminal, "keep_compiled_programs", lambda: None)  # those of tests are kept elsewhere
        terminal.command(command.main)


@pytest.mark.slow
def test_comparing_the_hidden_states_of_the_papers_study():
    """Llama-2-7B, 10,000 prompts of 69 tasks under three models: fits one GPU of 80 GB, and leaves results on disk."""
    asked = Plan("llama2-7b", fleet=1, length=64, dtype="bfloat16", accelerator="h100", search=False, tasks=69)
    train = TrainConfig(batch_size=1, remat="block")
    found = plan(dataclasses.replace(asked, examples=10_000, train=train))
    lines = {line.name: line.value for line in found["comparing hidden states"]}
    assert lines["states"] == 2 * 3 * 34 * 10_000 * 4096 * 4
    assert lines["memory of the comparison"] < 80e9
    assert lines["comparison fits"] is True
    assert lines["on disk"] < 1e8


@pytest.mark.slow
def test_a_plan_for_two_virtual_devices_is_the_step_compiled_here(model, capsys):
    flags = ["--devices", 2, "--mesh", "fsdp=2", "--tasks", 4, "--peak", 1e9, "--price", 2, "--no-search", "--json"]
    run("--model", model, *FLAGS, *flags)
    found = json.loads(capsys.readouterr().out)
    assert found.pop("files") == []
    mesh = make_mesh(fsdp=2)
    setup = Setup(
        abstract_model(config_of(str(model)), mesh), LORA, TRAIN, Plan(length=16, answers=8, train=TRAIN).layout, mesh
    )
    here = measure(setup, 2)
    memory = {name: row["value"] for name, row in found["memory of each device"].items()}
    assert [memory[name] for name in ("base weights", "adapters and optimizer state", "batch", "total")] == [
        here.base, here.adapters, here.batch, here.total,
    ]  # fmt: skip
    assert memory["temporaries: activations, gradients, gathered weights"] == here.temporaries
    assert found["target"]["mesh"]["value"] == {"data": 1, "fsdp": 2, "tensor": 1}
    layout = setup.layout_for(2)
    assert layout.rows == 4  # three, rounded up to two devices
    work = {name: row["value"] for name, row in found["work of a step"].items()}
    flops = count_flops(TINY, LORA, TRAIN, layout, 2).total
    assert work["FLOPs of a step"] == flops
    # A model this small does much beside its products.
    assert flops < work["FLOPs of a step, by XLA"] < 2 * flops

    seconds = found["time"]["seconds of a step"]["value"]
    assert seconds == pytest.approx(flops / (2 * 1e9 * 0.4))
    study = {name: row["value"] for name, row in found["study"].items()}
    assert (study["adapters"], study["groups"]) == (5, 3)
    assert study["hours"] == pytest.approx(3 * 90 * seconds / 3600)
    assert study["price"] == pytest.approx(2 * 2 * study["hours"])
    bases = {row["basis"].split(":")[0].split(",")[0] for section in found.values() for row in section.values()}
    assert {"computed by the compiler", "counted by formula", "assumed", "asked for"} <= bases


def test_tables_say_the_same(model, capsys):
    run("--model", model, *FLAGS, "--tasks", 1, "--peak", 1e9)
    text = capsys.readouterr().out
    for needed in (
        "base weights",
        "temporaries",
        "largest fleet that fits",
        "2 together",
        "accelerator-hours",
        "assumed",
    ):
        assert needed in text
    assert f"{ModelConfig.parameter_count(TINY):,} parameters" in text


def test_a_cpu_s_rate_is_measured(model, monkeypatch):
    """Times are those of the same --peak for the whole processor, whatever number of devices it stands for."""
    monkeypatch.setattr(command, "matrix_rate", lambda *shape, runs: 8e9)
    options = Plan(
        str(model), fleet=2, length=16, answers=8, tasks=4, lora=LORA, train=TRAIN, search=False, mesh="data=2"
    )
    found = plan(options)
    chips = int(np.prod(list(found["target"][3].value.values())))
    assert chips == 2
    given = plan(dataclasses.replace(options, peak=8e9 / chips))
    here, asked = ({line.name: line for line in lines["time"] + lines["study"]} for lines in (found, given))
    for name in ("seconds of a step", "hours"):
        assert here[name].value == asked[name].value > 0
    work = {line.name: line.value for line in found["work of a step"]}["FLOPs of a step"]
    assert here["seconds of a step"].value == pytest.approx(work / (0.4 * 8e9))
    assert "measured here" in here["seconds of a step"].basis


def test_an_accelerator_is_estimated_and_says_so(model):
    options = Plan(model=str(model), fleet=2, length=16, answers=8, accelerator="t4", lora=LORA, train=TRAIN, tasks=1)
    found = {section: {line.name: line for line in lines} for section, lines in plan(options).items()}
    memory = found["memory of each device"]
    assert memory["total"].basis.startswith("estimated")
    assert memory["memory of a device"].value == machine("t4").memory
    assert memory["fits"].value is True
    assert memory["total"].value < FITS * machine("t4").memory
    assert memory["largest fleet that fits"].value == 2
    assert found["study"]["price of an accelerator-hour"].value == machine("t4").price
    assert "check yours" in found["study"]["price of an accelerator-hour"].basis


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"topology": "v5litepod-16"}, r"--topology 'v5litepod-16'.*v5e:4x4"),
        ({"topology": "v5e:4x4", "devices": 2}, "--devices, --topology and --accelerator"),
        ({"accelerator": "h1000"}, "'h1000'"),
        ({"topology": "v5e:4x4", "tpu_python": "/no/python"}, "--tpu-python /no/python"),
        ({"mesh": "data=64"}, "needs 64 devices"),
        ({"length": 4096}, r"--length 4096 .*512"),
        ({"answers": 9, "length": 8}, "--answers 9"),
        ({"efficiency": 0.0}, "--efficiency"),
        ({"fleet": 0}, "--fleet"),
    ],
)
def test_what_cannot_be_planned_is_told(model, flags, said):
    with pytest.raises(LorajaxError, match=said):
        plan(Plan(**{"model": str(model), "length": 16, **flags}))


def test_without_the_tpu_compiler_it_is_said_how_to_get_it(tmp_path, model):
    bare = tmp_path / "python"  # an interpreter that finds no packages
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(LorajaxError, match=r"pip install libtpu.*--tpu-python"):
        plan(Plan(model=str(model), length=16, topology="v5e:4x4", tpu_python=str(bare)))


def test_a_failing_child_is_told_by_its_last_line(model, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    with pytest.raises(LorajaxError, match="compiling process failed"):
        plan(Plan(model=str(model), devices=2, length=16))


@pytest.mark.slow
def test_a_plan_for_a_tpu_that_is_not_here():
    """Llama-2-7B, eight adapters, on 16 chips of 16 GiB."""
    try:
        check_libtpu(TPU_PYTHON or sys.executable)
    except LorajaxError as error:
        pytest.skip(f"{error}; the tests read it from LORAJAX_TPU_PYTHON")
    options = Plan(
        model="llama2-7b", topology="v5e:4x4", tpu_python=TPU_PYTHON, fleet=8, length=1024, dtype="bfloat16",
        mesh="data=4,fsdp=4", train=TrainConfig(batch_size=4, remat="block"), search=False,
    )  # fmt: skip
    memory = {line.name: line.value for line in plan(options)["memory of each device"]}
    weights = 6_738_415_616 * 2 / 4
    # The norms' scales are whole on every chip.
    assert memory["base weights"] == pytest.approx(weights, rel=1e-3)
    assert weights < memory["total"] < 12e9
    assert memory["fits"]


def test_what_to_try_when_it_does_not_fit():
    """The flags named are those that are not taken yet."""
    from lorajax.training.config import TrainConfig
    from run.plan import Plan, remedies

    first = remedies(Plan())
    assert first[:3] == ["--dtype bfloat16", "--remat block", "--accumulate 2"]
    small = Plan(dtype="bfloat16", train=TrainConfig(remat="block", batch_size=1), fleet=1, quantize="nf4")
    assert remedies(small) == ["weights on more devices (--mesh fsdp=...)"]
