"""The commands that measure hidden states, on a study whose adapters are random: one pass, labels, resume, errors."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analysis.cka import cka_all_pairs
from analysis.readability import readability as read
from analysis.spectrum import spectrum as eigenvalues_of
from lorajax.activations import HiddenStates
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter, stack, zeros_like
from lorajax.lora.peft import load_adapter, save_adapter
from run import cka_all_layers, embed_tasks, readability, spectrum, study
from run.options import DataConfig, StudyConfig
from run.study_folder import StudyFolder
from run.subjects import HiddenConfig, StudySubject
from run.workbench import Workbench
from tests.conftest import randomize
from tests.tiny import TINY, tiny_checkpoint

pytestmark = pytest.mark.slow  # a whole study of its own; every day, that of test_commands has the same measures

MODEL = dataclasses.replace(TINY, num_layers=4)
TASKS = ("capital_city", "arithmetic", "number_words", "film_reviews")
LORA = LoraConfig(rank=2, targets=("all-linear",))


def run(module, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        module.main()


def load(folder, name):
    return xr.load_dataset(folder / "results" / f"{name}.nc", engine="h5netcdf")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    model = tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", MODEL)
    data = DataConfig(tasks=TASKS, train_examples=8, test_examples=20)
    return Workbench.prepare(StudyConfig(model=str(model), data=data, lora=LORA))


@pytest.fixture(scope="module")
def fresh(bench, tmp_path_factory):
    """A study with adapters and no results."""
    folder = StudyFolder.create(tmp_path_factory.mktemp("studies") / "study", bench.config, bench.facts())
    for i, name in enumerate(("E", *TASKS)):
        save_adapter(randomize(init_adapter(MODEL, LORA, [name]), seed=i), LORA, folder.adapter(name), base="tiny")
    return folder.path


@pytest.fixture(scope="module")
def done(fresh, bench, tmp_path_factory):
    """All measures of it, in one pass; and how often the model was run on each task."""
    folder = shutil.copytree(fresh, tmp_path_factory.mktemp("done") / "study")
    runs = []
    whole = StudySubject.states

    def counted(self, task, *arguments, **keywords):
        runs.append(task)
        return whole(self, task, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudySubject, "states", counted)
        study.measure(StudyFolder.open(folder), bench)
        study.measure(StudyFolder.open(folder), bench)
    return folder, runs


@pytest.fixture(scope="module")
def states(fresh, bench):
    """Last-token states of one task under base, E and C, made directly: `[3, L, n, D]`."""
    E, C = (load_adapter(fresh / "adapters" / name, MODEL)[0] for name in ("E", "arithmetic"))
    made = HiddenStates(bench.checkpoint.model, batch_size=4, pad=bench.pad)
    return np.asarray(made(stack([zeros_like(E), E, C]), bench.test["arithmetic"].prompts).values)


def test_one_pass_serves_all_and_nothing_is_done_twice(done):
    assert sorted(done[1]) == sorted(TASKS)


def test_cka_is_that_of_the_states(done, states):
    cka = load(done[0], "cka").sel(task="arithmetic")
    for pair, (a, b) in {"base | C": (0, 2), "E | C": (1, 2), "base | E": (0, 1)}.items():
        for estimator in ("debiased", "biased"):
            want = cka_all_pairs(states[a, 1:], states[b, 1:], estimator=estimator)
            np.testing.assert_allclose(cka.cka.sel(pair=pair, estimator=estimator)[1:, 1:], want, atol=2e-5)
    assert np.isnan(cka.cka[:, :, 0]).all()
    value = np.diagonal(cka.cka.sel(estimator="debiased"), axis1=1, axis2=2)
    there = slice(1, None)
    assert (cka.low.values[:, there] < value[:, there]).all()
    assert (value[:, there] < cka.high.values[:, there]).all()
    assert ((cka.p.values > 0) | np.isnan(cka.p.values)).all()
    assert (cka.p_family.values[:, there] >= cka.p.values[:, there] - 1e-6).all()
    x, y = (states[m, 3].astype(float) - states[m, 3].mean(0) for m in (1, 2))
    grams = x @ x.T, y @ y.T
    want = np.prod([np.trace(g) / np.linalg.norm(g) for g in grams]) / 19
    assert cka.null_mean.sel(pair="E | C", layer_a="block 3", layer_b="block 3").item() == pytest.approx(want, rel=1e-5)


def test_means_over_tasks_and_bands(done):
    cka, summary = load(done[0], "cka"), load(done[0], "cka_by_layer")
    value = np.diagonal(cka.cka.sel(pair="E | C", estimator="debiased").transpose("task", ...), axis1=1, axis2=2)
    own = summary.sel(pair="E | C")
    np.testing.assert_allclose(own["mean"][1:], value.mean(0)[1:], rtol=1e-5)
    assert (own.mean_low[1:] <= own["mean"][1:]).all()
    assert (own["mean"][1:] <= own.mean_high[1:]).all()
    assert own.tasks.values.tolist() == [0, 4, 4, 4, 4, 4]
    bands = pd.read_csv(done[0] / "results" / "bands.csv")
    together = bands[bands.curves == "base | C and E | C"]
    assert together["first"].tolist() == ["block 1", "block 3"]  # four blocks have room for two bands
    assert together["last"].tolist() == ["block 2", "block 4"]
    assert set(bands.curves) == {"base | C and E | C", "base | C", "E | C", "base | E"}


def test_spectrum_is_that_of_the_states(done, states):
    own = load(done[0], "spectrum").sel(task="arithmetic")
    assert own.model.values.tolist() == ["base", "E", "C"]
    for m in range(3):
        shares = np.cumsum(np.asarray(eigenvalues_of(states[m, 1:])), axis=1)
        want = (shares < 0.99 * shares[:, -1:]).sum(1) + 1
        np.testing.assert_array_equal(own.spectrum.isel(model=m).sel(measure="dimensions")[1:], want)
    curvature = own.spectrum.sel(measure="curvature")
    assert ((curvature[:, 1:] > 0.5) & (curvature[:, 1:] < np.pi)).all()
    assert np.isnan(own.spectrum.sel(measure="dimensions")[:, 0]).all()
    assert int(own.n) == 20


def test_maps_and_scores(done):
    own = load(done[0], "embedding")
    assert own["map"].dims == ("model", "projection", "layer", "point", "axis")
    assert own.model.values.tolist() == ["base", "E"]
    assert own.sizes["point"] == 4 * 20
    assert set(own.task.values) == set(TASKS)
    assert np.isnan(own["map"].sel(layer="embedding")).all()
    assert np.isfinite(own["map"].sel(layer="block 2")).all()
    assert (own.score.sel(statistic="p_value").isel(layer=slice(1, None)) > 0).all()


def test_readability_and_its_correlation(done, bench):
    table = pd.read_csv(done[0] / "results" / "readability.csv").set_index("task")
    texts, prompts = StudySubject(StudyFolder.open(done[0]), bench).texts("film_reviews")
    assert table.loc["film_reviews", "words"] == pytest.approx(read(prompts).words.mean())
    assert len(texts) == len(prompts) == 20
    found = pd.read_csv(done[0] / "results" / "readability_correlation.csv")
    row = found[(found.pair == "E | C") & (found.measure == "words") & (found.layer == "block 3")].iloc[0]
    cka = load(done[0], "cka").cka.sel(pair="E | C", estimator="debiased", layer_a="block 3", layer_b="block 3")
    want = np.corrcoef(cka.values, table.loc[cka.task.values, "words"])[0, 1]
    assert row.r == pytest.approx(want, abs=1e-5)
    assert row.low <= row.r <= row.high
    assert "train_examples" not in set(found.measure)  # the same for all tasks here


@pytest.mark.slow
def test_other_states_are_other_results(fresh, bench, tmp_path):
    folder = shutil.copytree(fresh, tmp_path / "study")
    results = {}
    for flags in (("--tokens", "mean"), ("--tokens", "all", "--max-examples", "60"), ("--layers", "2", "4")):
        run(cka_all_layers, folder, "--tasks", "arithmetic", "--permutations", "9", "--bootstrap", "100", *flags)
        results[flags[1]] = load(folder, "cka")
    assert results["all"].n.item() == 60
    assert results["mean"].n.item() == 20
    assert results["2"].layer.values.tolist() == ["block 2", "block 4"]
    assert np.isfinite(results["mean"].cka.sel(layer_a="embedding", layer_b="embedding")).all()  # prompts differ there
    assert not np.allclose(results["mean"].cka.sel(layer_a="block 2"), results["all"].cka.sel(layer_a="block 2"))


@pytest.mark.slow
def test_kept_activations_are_read_back(fresh, tmp_path, monkeypatch):
    folder = shutil.copytree(fresh, tmp_path / "study")
    run(cka_all_layers, folder, "--tasks", "arithmetic", "--save-activations")
    first = load(folder, "cka")
    assert (folder / "activations" / "arithmetic.safetensors").stat().st_size > 3 * 6 * 20 * 32 * 4
    shutil.rmtree(folder / "results")
    monkeypatch.setattr(StudySubject, "states", None)  # not called again
    run(cka_all_layers, folder, "--tasks", "arithmetic")
    xr.testing.assert_identical(load(folder, "cka"), first)
    (folder / "activations" / "arithmetic.safetensors").write_bytes(b"half")
    shutil.rmtree(folder / "results")
    with pytest.raises(LorajaxError, match=r"arithmetic.safetensors: cannot be read"):
        run(cka_all_layers, folder, "--tasks", "arithmetic")


def test_prompts_may_not_be_longer_than_a_named_model_reads(bench, tmp_path):
    flags = ["--tasks", "arithmetic", "--test-examples", "4", "--max-length", str(MODEL.max_positions + 1)]
    with pytest.raises(LorajaxError, match=f"is more than the {MODEL.max_positions} positions of tiny"):
        run(cka_all_layers, bench.config.model, bench.config.model, "--out", tmp_path / "out", *flags)


@pytest.mark.slow
def test_named_models(bench, fresh, tmp_path):
    small = tiny_checkpoint(tmp_path / "small", dataclasses.replace(TINY, num_layers=2))
    flags = ["--tasks", "arithmetic", "capital_city", "--test-examples", "12", "--permutations", "9"]
    run(cka_all_layers, bench.config.model, small, "--out", tmp_path / "two", *flags)
    two = load(tmp_path / "two", "cka")
    assert two.pair.values.tolist() == ["tiny | small"]
    assert two.layer.values.tolist() == ["embedding", "block 1", "block 2", "block 3", "block 4", "final norm"]
    own = two.cka.sel(pair="tiny | small", estimator="debiased", task="arithmetic")
    assert np.isnan(own.sel(layer_b="block 3")).all()
    assert np.isfinite(own.sel(layer_a="block 3", layer_b="block 2"))
    assert two.reason.sel(model="small", layer="block 3", task="arithmetic").item() == "the model has no such layer"
    one = fresh / "adapters" / "arithmetic"
    run(cka_all_layers, bench.config.model, one, fresh / "adapters" / "E", "--out", tmp_path / "three", *flags)
    three = load(tmp_path / "three", "cka")
    assert three.pair.values.tolist() == ["tiny | arithmetic", "tiny | E", "arithmetic | E"]
    made = HiddenStates(bench.checkpoint.model, batch_size=4, pad=bench.pad)
    pair = stack([load_adapter(fresh / "adapters" / name, MODEL)[0] for name in ("arithmetic", "E")])
    prompts = bench.test["arithmetic"].prompts
    values = np.asarray(made(pair, prompts[:12]).values)
    found = three.cka.sel(pair="arithmetic | E", estimator="debiased", task="arithmetic")[1:, 1:]
    np.testing.assert_allclose(found, cka_all_pairs(values[0, 1:], values[1, 1:]), atol=2e-5)
    run(spectrum, bench.config.model, small, "--out", tmp_path / "two", *flags[:-2])
    run(embed_tasks, bench.config.model, one, "--out", tmp_path / "three", *flags[:-2], "--points", "8")
    assert load(tmp_path / "two", "spectrum").model.values.tolist() == ["tiny", "small"]
    assert load(tmp_path / "three", "embedding").model.values.tolist() == ["tiny", "arithmetic"]


def test_the_causal_check_is_of_the_bands_found(done, bench, tmp_path):
    folder = shutil.copytree(done[0], tmp_path / "study")
    study.ablate(StudyFolder.open(folder), bench, 6)
    own = load(folder, "ablation")
    assert own["mask"].values.tolist() == ["base", "full", "band 1-2", "band 3-4"]
    assert own.model.values.tolist() == ["C"]
    assert (own.n == 6).all()


class TestErrors:
    def fails(self, message, module, *arguments):
        with pytest.raises(LorajaxError, match=message):
            run(module, *arguments)

    def test_pairs(self, fresh):
        self.fails("--pairs base:D: expected two of base, E, C", cka_all_layers, fresh, "--pairs", "base:D")
        self.fails("--pairs base: expected two", cka_all_layers, fresh, "--pairs", "base")

    def refused(self, message, capsys, module, *arguments):
        """A flag's value is refused when the command line is read."""
        with pytest.raises(SystemExit) as left:
            run(module, *arguments)
        assert left.value.code == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())

    def test_flags_of_something_else(self, fresh, tmp_path, capsys):
        self.refused("a study has its own prompts", capsys, cka_all_layers, fresh, "--test-examples", "7")
        self.refused("a study keeps its results", capsys, spectrum, fresh, "--out", tmp_path)
        self.refused("--out: name a folder", capsys, spectrum, fresh, fresh)
        self.fails("expected a study, two checkpoints", spectrum, fresh / "adapters" / "E", fresh, "--out", tmp_path)

    @pytest.mark.parametrize(
        ("module", "flag", "value"),
        [
            (cka_all_layers, "--bootstrap", "10"),
            (cka_all_layers, "--bands", "0"),
            (cka_all_layers, "--max-examples", "3"),
            (spectrum, "--share", "1.5"),
            (embed_tasks, "--points", "1"),
        ],
    )
    def test_values(self, fresh, module, flag, value, capsys):
        self.refused(f"{flag} must be ", capsys, module, fresh, flag, value)

    def test_layers(self, fresh, tmp_path):
        folder = shutil.copytree(fresh, tmp_path / "study")
        self.fails(r"--layers \[9\]: expected numbers from 0 to 5", spectrum, folder, "--layers", "9")

    def test_readability_needs_cka(self, fresh):
        self.fails("compare first: python -m run.cka_all_layers", readability, fresh)


def test_aliases_of_models(fresh):
    from run.subjects import parse_pairs

    subject = StudySubject(StudyFolder.open(fresh))
    assert parse_pairs(["base:control", "multitask:control"], subject) == {
        "base | C": ("base", "C"),
        "E | C": ("E", "C"),
    }
    assert json.dumps(HiddenConfig().facts)
