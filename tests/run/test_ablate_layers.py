"""Adapters of a tiny study in some layers only: planted layers are found, and what is written is right."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lorajax.data.batching import Layout, lay_out
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter, join, split
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.training.ablation import MaskedLosses
from lorajax.training.evaluate import Evaluator
from lorajax.training.loss import answer_loss
from run import ablate_layers
from run.ablate_layers import AblateLayers
from run.losses import measure_losses
from run.options import DataConfig, StudyConfig
from run.study_folder import StudyFolder
from run.workbench import Workbench
from tests.run.test_lock import HOLD
from tests.tiny import TINY, tiny_checkpoint

pytestmark = pytest.mark.slow  # a whole study of its own; every day, that of test_commands has the same measures

MODEL = dataclasses.replace(TINY, num_layers=4)
TASKS = ("capital_city", "arithmetic")
PAIRS = [(task, model) for task in TASKS for model in ("C", "E")]
LORA = LoraConfig(rank=2, targets=("all-linear",))
PLANTED = 3  # the only layer that the control model of capital_city changes


def run(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        ablate_layers.main()


def put(study, name, adapter):
    """Writes an adapter of whatever rank its factors have."""
    shutil.rmtree(study.adapter(name), ignore_errors=True)
    save_adapter(adapter, dataclasses.replace(LORA, rank=1), study.adapter(name), base="tiny")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    config = StudyConfig(
        model=str(tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", MODEL)),
        data=DataConfig(tasks=TASKS, train_examples=4, test_examples=12),
        lora=LORA,
    )
    return Workbench.prepare(config)


@pytest.fixture(scope="module")
def descend(bench):
    """Makes adapters by three steps of gradient descent on B, in some layers, on the test examples themselves."""
    start, scales = split(init_adapter(MODEL, LORA, ["x"]))

    @jax.jit
    def step(factors, rates, batch):
        grads = jax.grad(lambda f: answer_loss(bench.checkpoint.model, join(f, scales), batch).sum())(factors)
        return {p: {"a": f["a"], "b": f["b"] - rates * grads[p]["b"]} for p, f in factors.items()}

    def make(tasks, *, rank=2, layers=(1, 2, 3, 4), rate=0.3):
        rows = [pair for t in tasks for pair in zip(bench.test[t].prompts, bench.test[t].answers, strict=True)]
        batch = {k: v[None] for k, v in lay_out(rows, Layout(16, 256, 64), pad=0, packed=True).items()}
        own = np.arange(2) < rank
        factors = {p: {"a": f["a"] * own, "b": f["b"]} for p, f in start.items()}
        rates = rate * np.isin(np.arange(1, 5), layers)[:, None, None, None] * own[:, None]
        for _ in range(3):
            factors = step(factors, rates.astype(np.float32), batch)
        return join(factors, scales)

    return make


@pytest.fixture(scope="module")
def fresh(bench, descend, tmp_path_factory):
    """A study without ablations: E of another rank, one planted control model, one that changes all layers."""
    study = StudyFolder.create(tmp_path_factory.mktemp("studies") / "study", bench.config, bench.facts())
    put(study, "E", descend(TASKS, rank=1, rate=0.1))
    put(study, "capital_city", descend(["capital_city"], layers=[PLANTED]))
    put(study, "arithmetic", descend(["arithmetic"]))
    measure_losses(study, bench)
    return study.path


@pytest.fixture(scope="module")
def measured(fresh, bench, tmp_path_factory):
    """The same with its ablations, and the `MaskedLosses` that made them."""
    folder = shutil.copytree(fresh, tmp_path_factory.mktemp("measured") / "study")
    made = []

    class Recorded(MaskedLosses):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate_layers, "MaskedLosses", Recorded)
        ablate_layers.ablate_layers(AblateLayers(folder, bands=("1-2,3-4", "2-3"), fleet_size=5), bench)
    return folder, made


@pytest.fixture
def copy(measured, tmp_path):
    return shutil.copytree(measured[0], tmp_path / "copy")


@pytest.fixture
def results(measured):
    return load(measured[0])


def load(folder):
    return xr.load_dataset(folder / "results" / "ablation.nc", engine="h5netcdf")


def masks_of(folder):
    return list(load(folder)["mask"].values)


def test_base_and_full_are_those_of_losses_csv(measured, results):
    """To 1e-5."""
    rows = list(csv.DictReader((measured[0] / "results" / "losses.csv").open()))
    assert {(row["task"], row["model"]) for row in rows} == set(PAIRS)
    for row in rows:
        own = results["loss"].sel(task=row["task"], model=row["model"])
        assert float(own.sel(mask="base")) == pytest.approx(float(row["before"]), abs=1e-5)
        assert float(own.sel(mask="full")) == pytest.approx(float(row["after"]), abs=1e-5)
        assert int(results["tokens"].sel(task=row["task"], model=row["model"])) == int(row["tokens"])


def test_the_planted_layer_is_found(results):
    """Masks with it are the whole adapter, those without it the base model; shares to 1e-4."""
    own = results.sel(task="capital_city", model="C")
    with_it = own["kept"].sel(layer=f"block {PLANTED}").values
    assert 5 < with_it.sum() < len(with_it) - 5
    np.testing.assert_allclose(own["share"], with_it, atol=1e-4)
    np.testing.assert_allclose(own["share_low"], with_it, atol=1e-4)
    np.testing.assert_allclose(own["share_high"], with_it, atol=1e-4)
    assert own["smallest_band"].item() == f"single {PLANTED}"
    assert own["costliest"].item() == f"block {PLANTED}"
    gain = own["loss"].sel(mask="base") - own["loss"].sel(mask="full")
    assert float(own["difference"].sel(mask=f"without {PLANTED}")) == pytest.approx(float(gain), abs=1e-6)
    assert float(own["low"].sel(mask="base")) > 0


@pytest.mark.parametrize(("mask", "kept"), [("band 2-3", [2, 3]), ("without 1-2", [3, 4]), ("suffix 4-4", [4])])
def test_masks_again_by_hand(measured, results, bench, mask, kept):
    """From the adapter's file, with B set to zero elsewhere, by the evaluator: to 1e-5."""
    adapter, _ = load_adapter(measured[0] / "adapters" / "arithmetic", MODEL)
    chosen = np.isin(np.arange(1, 5), kept)[:, None, None, None]
    cut = {path: dataclasses.replace(x, b=jnp.where(chosen, x.b, 0)) for path, x in adapter.items()}
    want, _ = Evaluator(bench.checkpoint.model, rows=8, pad=0)(cut, bench.test["arithmetic"])
    found = results.sel(task="arithmetic", model="C", mask=mask)
    assert float(found["loss"]) == pytest.approx(want[0], abs=1e-5)
    assert [str(found["first"].item()), str(found["last"].item())] == (
        ["block 1", "block 2"] if "without" in mask else [f"block {kept[0]}", f"block {kept[-1]}"]
    )
    whole = results["loss"].sel(task="arithmetic", model="C")
    share = (whole.sel(mask="base") - found["loss"]) / (whole.sel(mask="base") - whole.sel(mask="full"))
    assert 0.02 < float(found["share"]) < 0.98
    assert float(found["share"]) == pytest.approx(float(share), abs=1e-9)


def test_one_program_for_all(measured):
    """Two tasks, adapters of two ranks, more masks than go in at a time."""
    folder, made = measured
    ranks = [load_adapter(folder / "adapters" / name, MODEL)[1].rank for name in ("E", *TASKS)]
    assert ranks == [1, 2, 2]
    assert [losses.program._cache_size() for losses in made] == [1]


def test_what_is_written(measured, results):
    folder = measured[0]
    assert results["loss"].dims == ("task", "model", "mask")
    assert list(results["task"].values) == list(TASKS)
    assert list(results["cluster"].values) == ["closed_book_qa", "misc"]
    assert list(results["model"].values) == ["C", "E"]
    assert list(results["layer"].values) == [f"block {k}" for k in range(1, 5)]
    assert list(results["mask"].values) == [
        "base", "full", *(f"single {k}" for k in range(1, 5)), *(f"prefix 1-{k}" for k in range(1, 5)),
        *(f"suffix {k}-4" for k in range(1, 5)), *(f"without {k}" for k in range(1, 5)), "without 1-2", "without 2-3",
        "without 3-4", "band 1-2", "band 2-3", "band 3-4",
    ]  # fmt: skip
    assert (results["n"] == 12).all()
    assert (results["reason"] == "").all()
    study = StudyFolder.open(folder)
    facts = json.loads(results.attrs["provenance"])
    assert facts["arithmetic C"]["adapter"] == study.adapter_fingerprint("arithmetic")
    assert facts["arithmetic E"]["adapter"] == study.adapter_fingerprint("E")
    assert facts["arithmetic C"]["model"] == study.record["model"]["fingerprint"]
    rows = list(csv.DictReader((folder / "results" / "ablation.csv").open()))
    assert len(rows) == results["loss"].size
    for row in rows[:: len(rows) // 7]:
        own = results.sel(task=row["task"], model=row["model"], mask=row["mask"])
        assert (row["kind"], row["first"], row["last"]) == tuple(str(own[n].item()) for n in ("kind", "first", "last"))
        for name in ("loss", "difference", "error", "low", "high", "share", "share_low", "share_high"):
            assert float(row[name]) == pytest.approx(float(own[name]), abs=1e-6)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]  # no lock, nothing half-written


def test_losses_of_examples_are_kept(measured, results):
    for task, model in PAIRS:
        file = measured[0] / "results" / "ablation" / model / f"{task}.nc"
        own = xr.load_dataset(file, engine="h5netcdf")
        assert own["nats"].dims == ("mask", "example")
        loss = own["nats"].sum("example") / own["tokens"].sum()
        np.testing.assert_allclose(loss, results["loss"].sel(task=task, model=model), rtol=1e-12)


@pytest.mark.slow
class TestWhatIsDoneAgain:
    def test_nothing(self, copy, capsys, monkeypatch):
        before = load(copy)
        files = {path: path.stat().st_mtime_ns for path in (copy / "results" / "ablation").rglob("*.nc")}
        assert len(files) == 4
        monkeypatch.setattr(Workbench, "prepare", None)  # the model is not even loaded
        run(copy, "--bands", "2-3")
        said = capsys.readouterr().out
        assert "masked losses of 4 of 4 pairs of task and model are there already" in said
        assert {path: path.stat().st_mtime_ns for path in files} == files
        xr.testing.assert_identical(load(copy), before)
        table = [re.split("  +", line) for line in said.splitlines() if line.startswith("capital_city  ")]
        cells = [cell.strip() for cell in table[0]]
        assert cells[:3] == ["capital_city", "C", "12"]
        assert cells[5:7] == ["single 3", "1.00 (1.00 to 1.00)"]
        assert cells[7].startswith("block 3 +")

    def test_after_an_interruption(self, fresh, measured, bench, tmp_path, monkeypatch, capsys):
        folder = shutil.copytree(fresh, tmp_path / "study")
        options = AblateLayers(folder, bands=("1-2,3-4", "2-3"), fleet_size=5)
        real, calls = MaskedLosses.__call__, []

        def breaks(*arguments, **keywords):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*arguments, **keywords)

        monkeypatch.setattr(MaskedLosses, "__call__", breaks)
        with pytest.raises(KeyboardInterrupt):
            ablate_layers.ablate_layers(options, bench)
        assert not (folder / "results" / "ablation.nc").exists()
        ablate_layers.ablate_layers(options, bench)
        assert "1 of 4 pairs" in capsys.readouterr().out
        assert len(calls) == 5
        xr.testing.assert_identical(load(folder), load(measured[0]))

    def test_masks_and_models_of_other_calls_stay(self, fresh, bench, tmp_path, results, monkeypatch):
        folder = shutil.copytree(fresh, tmp_path / "study")
        real, asked = MaskedLosses.__call__, []

        def counts(self, adapter, keep, *arguments, **keywords):
            asked.append(len(keep))
            return real(self, adapter, keep, *arguments, **keywords)

        monkeypatch.setattr(MaskedLosses, "__call__", counts)
        for flags in (
            {"masks": ("prefix",), "tasks": ("arithmetic",), "models": ("C",)},
            {"masks": ("single,prefix",), "tasks": ("arithmetic",), "models": ("C",)},
            {"masks": ("band",), "bands": ("2-3",), "models": ("E",)},
        ):
            ablate_layers.ablate_layers(AblateLayers(folder, **flags), bench)
        assert asked == [6, 4, 3, 3]
        found = load(folder)
        assert set(masks_of(folder)) == {"base", "full", "band 2-3", *(f"single {k}" for k in range(1, 5)),
                                         *(f"prefix 1-{k}" for k in range(1, 5))}  # fmt: skip
        own = found["loss"].sel(task="arithmetic", model="C")
        assert np.isnan(own.sel(mask="band 2-3"))
        for mask in ("single 2", "prefix 1-3"):
            assert float(own.sel(mask=mask)) == pytest.approx(
                float(results["loss"].sel(task="arithmetic", model="C", mask=mask)), abs=1e-5
            )
        assert int(found["n"].sel(task="capital_city", model="C")) == 0
        assert len((folder / "results" / "ablation.csv").read_text().splitlines()) == 1 + 10 + 3 + 3

    def test_another_adapter(self, copy, bench, descend, capsys):
        """Its results are out of date, also where this call is not asked for them."""
        study = StudyFolder.open(copy)
        worse = descend(["arithmetic"], rate=-0.3)
        put(study, "arithmetic", worse)
        options = AblateLayers(copy, masks=("single",), tasks=("capital_city",))
        ablate_layers.ablate_layers(options, bench)
        assert int(load(copy)["n"].sel(task="arithmetic", model="C")) == 0
        capsys.readouterr()
        ablate_layers.ablate_layers(dataclasses.replace(options, tasks=()), bench)
        said = capsys.readouterr().out
        assert "masked losses of 3 of 4 pairs" in said
        # It does harm: there is no gain to have a share of.
        assert (
            "arithmetic, C: no shares: the gain of the whole adapter cannot be told from 0 with 12 examples: -" in said
        )
        own = load(copy).sel(task="arithmetic", model="C")
        assert np.isnan(own["share"]).all()
        assert own["reason"].item().startswith("the gain of the whole adapter")
        assert (own["smallest_band"].item(), float(own["difference"].sel(mask="base")) < 0) == ("", True)


def test_models_that_are_trained(fresh, bench, tmp_path):
    folder = shutil.copytree(fresh, tmp_path / "study")
    shutil.rmtree(folder / "adapters" / "E")
    ablate_layers.ablate_layers(AblateLayers(folder, masks=("without",)), bench)
    assert list(load(folder)["model"].values) == ["C"]
    shutil.rmtree(folder / "adapters" / "arithmetic")
    with pytest.raises(LorajaxError, match="--models E: no trained adapter in .* capital_city .C.$"):
        run(folder, "--models", "C,E")
    with pytest.raises(LorajaxError, match="--tasks arithmetic: no trained adapter in .* capital_city .C.$"):
        run(folder, "--tasks", "arithmetic")


class TestBadInput:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--masks", "single,middle"], "--masks middle: expected some of single, prefix, suffix, without, band"),
            (["--models", "base"], "--models base: expected some of C, E"),
            (["--bands", "1-2,three"], "--bands three: expected first and last layer, such as 1-9"),
            (["--masks", "band"], "--masks band: there is no band; name some, such as --bands 1-9,10-15"),
            (
                ["--masks", "single", "--bands", "1-2"],
                "--bands is for the masks band and without; found --masks single",
            ),
            (["--fleet-size", "0"], "--fleet-size must be at least 1, found 0"),
            (["--batch-size", "0"], "--batch-size must be at least 1, found 0"),
        ],
    )
    def test_options(self, fresh, flags, message, capsys):
        with pytest.raises(SystemExit) as ended:
            run(fresh, *flags)
        assert ended.value.code == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())

    @pytest.mark.parametrize("band", ["0-2", "3-2", "2-5"])
    def test_band_outside_the_model(self, fresh, band):
        with pytest.raises(LorajaxError, match=f"--bands: band {band}: expected first to last layer, .* 1 to 4"):
            run(fresh, "--bands", band)

    def test_tasks_and_adapters(self, fresh, tmp_path):
        with pytest.raises(LorajaxError, match="--tasks dance: no trained adapter in .* arithmetic .E."):
            run(fresh, "--tasks", "dance")
        with pytest.raises(LorajaxError, match="no such file; make a study first"):
            run(tmp_path / "nowhere")
        folder = shutil.copytree(fresh, tmp_path / "study")
        shutil.rmtree(folder / "adapters")
        with pytest.raises(LorajaxError, match="no adapter is trained yet: python -m run.finetune"):
            run(folder)

    def test_a_study_that_another_command_writes_to(self, fresh):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(fresh)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(LorajaxError, match="another command is writing to this study"):
                run(fresh)
        finally:
            holder.communicate()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--help")
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "python -m run.ablate_layers STUDY" in said
    for flag in ("--tasks", "--models", "--masks", "--bands", "--fleet-size", "--batch-size"):
        assert flag in said
