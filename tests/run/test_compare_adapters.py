"""`run.compare_adapters`: adapters in, labelled results out."""

import csv
import json
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import xarray as xr
from safetensors.numpy import load_file, save_file

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.lora.peft import save_adapter
from lorajax.models.checkpoint import load
from run import adapter_report
from run import compare_adapters as command
from run.adapter_set import find_members
from run.compare_adapters import CompareAdapters, compare_adapters
from tests.conftest import randomize
from tests.tiny import TINY, tiny_checkpoint

RANK, LAYERS, MODULES = 3, 4, {"q_proj": (24, 20), "v_proj": (12, 20)}


def write_adapter(folder, tensors, **keys):
    folder.mkdir(parents=True)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    keys = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "target_modules": list(MODULES)} | keys
    (folder / "adapter_config.json").write_text(json.dumps(keys))


def tensor(module, layer, factor):
    return f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{factor}.weight"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Twelve adapters in four groups that share two of three directions of B; group g's names begin with its letter."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((4, LAYERS, 2, 24, 2)).astype(np.float32)
    for group, letter in enumerate("abcd"):
        for member in range(3):
            tensors = {}
            for layer in range(LAYERS):
                for m, (module, (out, size)) in enumerate(MODULES.items()):
                    B = np.concatenate([shared[group, layer, m, :out], rng.standard_normal((out, 1))], 1)
                    G = rng.standard_normal((3, 3))
                    tensors[tensor(module, layer, "B")] = np.ascontiguousarray(B @ G, np.float32)
                    tensors[tensor(module, layer, "A")] = rng.standard_normal((RANK, size)).astype(np.float32)
            write_adapter(folder / f"{letter}{member}", tensors)
    (folder / "clusters.csv").write_text(
        "name,cluster\n" + "".join(f"{g}{m},group {g}\n" for g in "abcd" for m in range(3))
    )
    return folder


@pytest.fixture(scope="module")
def done(planted, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    options = CompareAdapters((str(planted),), out=out, clusters=planted / "clusters.csv", draws=50)
    return compare_adapters(options), out, options


def rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_values_are_those_of_the_updates(done, planted):
    """Against SciPy and dense products in float64, for one pair in one place."""
    pairs, _, _ = done
    B, A = {}, {}
    for name in ("a0", "b1"):
        tensors = load_file(planted / name / "adapter_model.safetensors")
        B[name], A[name] = (tensors[tensor("v_proj", 2, f)].astype(np.float64) for f in "BA")
    own = pairs.value.sel(module="self_attn.v_proj", layer=2, task_i="a0", task_j="b1")
    W = {name: 2 * B[name] @ A[name] for name in B}
    angles = scipy.linalg.subspace_angles(B["a0"], B["b1"])
    u, _, vt = np.linalg.svd(W["a0"])
    captured = u[:, :3].T @ W["b1"] @ vt[:3].T
    for measure, expected in {
        "grassmann_columns": angles.sum(),
        "grassmann_rows": scipy.linalg.subspace_angles(A["a0"].T, A["b1"].T).sum(),
        "cosine": (W["a0"] * W["b1"]).sum() / np.linalg.norm(W["a0"]) / np.linalg.norm(W["b1"]),
        "l2": np.linalg.norm(W["a0"] - W["b1"]),
        "overlap_columns": (np.cos(angles) ** 2).mean(),
        "capture_block": np.linalg.norm(captured) ** 2 / np.linalg.norm(W["b1"]) ** 2,
        "lp": np.abs(np.abs(np.diag(captured)) - np.linalg.svd(W["a0"], compute_uv=False)[:3]).sum(),
    }.items():
        np.testing.assert_allclose(own.sel(measure=measure), expected, rtol=1e-4, err_msg=measure)
    np.testing.assert_allclose(
        pairs.norm.sel(task="b1", module="self_attn.v_proj", layer=2), np.linalg.norm(W["b1"]), rtol=1e-5
    )


def test_all_is_labelled(done):
    pairs, out, _ = done
    assert dict(pairs.sizes) | {"measure": 0} == {
        "measure": 0, "module": 2, "layer": 4, "task_i": 12, "task_j": 12, "side": 2, "task": 12, "direction": 3,
        "null_model": 2, "projection": 8, "statistic": 5,
    }  # fmt: skip
    assert np.isfinite(pairs.value).all()
    assert (pairs.reason == "").all()
    assert pairs.cluster.sel(task="c1") == "group c"
    written = xr.load_dataset(out / "results" / "adapters.nc", engine="h5netcdf")
    xr.testing.assert_identical(written.drop_attrs(), pairs.drop_attrs())
    mean = next(r for r in rows(out / "results" / "adapters.csv") if (r["measure"], r["module"], r["task_i"], r["task_j"]) == ("cosine", "self_attn.q_proj", "a0", "d2"))  # fmt: skip
    expected = pairs.value.sel(measure="cosine", module="self_attn.q_proj", task_i="a0", task_j="d2").mean()
    np.testing.assert_allclose(float(mean["mean_over_layers"]), expected, rtol=1e-4)


def test_the_planted_groups_are_found(done):
    _, out, _ = done
    scores = {row["score"]: row for row in rows(out / "results" / "task_map_scores.csv")}
    for score in ("auc", "purity", "nmi", "ari"):
        assert float(scores[score]["value"]) == 1, score
        assert float(scores[score]["p_value"]) < 0.01
    support = {row["members"]: float(row["support"]) for row in rows(out / "results" / "task_tree.csv")}
    assert all(support[f"{g}0; {g}1; {g}2"] == 1 for g in "abcd")
    order = [
        row["name"][0] for row in sorted(rows(out / "results" / "task_map.csv"), key=lambda row: int(row["order"]))
    ]
    assert len("".join(order).replace("aaa", "").replace("bbb", "").replace("ccc", "").replace("ddd", "")) == 0


def test_distances_of_unrelated_updates_are_a_share_of_chance(done):
    pairs, _, _ = done
    shares = pairs.value.sel(measure="grassmann_rows_share").mean("layer")
    i, j = np.triu_indices(12, 1)
    np.testing.assert_allclose(shares.values[:, i, j].mean(), 1, atol=0.03)


def test_projections_stand_beside_chance(done):
    """Rows are unrelated, so REC is what random subspaces give; the columns' capture is not."""
    _, out, _ = done
    table = rows(out / "results" / "projection.csv")
    assert len(table) == 12 * 11 * 8
    of = {(r["task_i"], r["task_j"], r["projection"]): r for r in table}
    assert float(of["a0", "a1", "capture_columns"]["random_subspaces_p_value"]) == pytest.approx(1 / 51, abs=1e-6)
    z = [float(r["random_subspaces_z"]) for r in table if r["projection"] == "rec" and r["task_i"][0] != r["task_j"][0]]
    assert abs(np.mean(z)) < 0.5
    assert 0.6 < np.std(z) < 1.5


def test_what_a_report_says(done):
    """Sentences and tables from the files alone."""
    _, out, _ = done
    said = adapter_report.compared(out / "results")
    nearest, clusters, rec = said["findings"]
    assert "the nearest tasks are " in nearest
    assert nearest.endswith("1: by chance).")
    assert "A pair of tasks of one cluster is nearer than a pair of two with probability 1.00" in clusters
    assert "of 132 ordered pairs" in rec
    means, scores = (
        xr.load_dataset(out / "results" / "task_map.nc", engine="h5netcdf"),
        pd.read_csv(out / "results" / "task_map_scores.csv"),
    )
    few = adapter_report.map_findings(means, scores.assign(groups=scores.adapters - 1))
    assert (
        few[1] == "Whether tasks of one cluster are nearer, 12 tasks in 11 clusters do not tell: hardly two share one."
    )
    assert len(said["projections"]) == 10
    assert said["scores"][0]["what"].startswith("a pair of")
    assert set(said["figures"]) == {file.stem for file in (out / "figures").iterdir()}


def test_figures(done):
    _, out, _ = done
    names = {file.stem for file in (out / "figures").iterdir()}
    assert names == {
        "adapter_spectra",
        "adapter_heatmaps",
        "adapter_layers",
        "adapter_layer_heatmaps",
        "adapter_map",
        "adapter_tree",
        "projections",
    }
    assert "c2" in (out / "figures" / "adapter_tree.svg").read_text()


def test_what_is_done_is_not_done_again(done, monkeypatch, capsys):
    pairs, _, options = done
    monkeypatch.setattr(command, "measure_pairs", None)
    xr.testing.assert_identical(compare_adapters(options), pairs)
    assert "up to date" in capsys.readouterr().out


@pytest.mark.slow
def test_chosen_modules_layers_and_names(planted, tmp_path):
    options = CompareAdapters(
        (f"x={planted}",),
        out=tmp_path,
        modules=("v_proj",),
        layers=(1, 3),
        names=("x/a*",),
        draws=0,
    )
    pairs = compare_adapters(options)
    assert pairs.module.values.tolist() == ["self_attn.v_proj"]
    assert pairs.layer.values.tolist() == [1, 3]
    assert pairs.task.values.tolist() == ["x/a0", "x/a1", "x/a2"]
    assert not (tmp_path / "results" / "projection.csv").exists()


@pytest.mark.slow
def test_missing_updates_are_named_and_the_rest_is_computed(planted, tmp_path, capsys):
    """A zero update, one that is not finite, an adapter of one module and of another rank."""
    for name, change in {"zero": 0.0, "broken": np.nan, "narrow": None, "whole": 1.0}.items():
        tensors = load_file(planted / "a0" / "adapter_model.safetensors")
        if change is None:
            tensors = {k: v[:2] if "lora_A" in k else v[:, :2].copy() for k, v in tensors.items() if "v_proj" in k}
            write_adapter(tmp_path / "set" / name, tensors, r=2)
            continue
        tensors[tensor("q_proj", 1, "B")] *= np.float32(change)
        write_adapter(tmp_path / "set" / name, tensors)
    pairs = compare_adapters(CompareAdapters((str(tmp_path / "set"),), out=tmp_path / "out", draws=0))
    told = capsys.readouterr().out
    assert "missing: zero, self_attn.q_proj, layer 1: the update is zero" in told
    assert "missing: broken, self_attn.q_proj, layer 1: the update is not finite" in told
    assert "missing: narrow, self_attn.q_proj, layers 0 to 3: not adapted" in told
    own = pairs.value.sel(measure="grassmann_columns", task_i="whole")
    assert np.isnan(own.sel(module="self_attn.q_proj", layer=1, task_j=["zero", "broken", "narrow"])).all()
    np.testing.assert_allclose(own.sel(layer=2, task_j="zero"), 0, atol=1e-4)
    assert pairs["rank"].sel(task="narrow", module="self_attn.v_proj", layer=0) == 2
    np.testing.assert_allclose(own.sel(module="self_attn.v_proj", task_j="narrow"), np.pi / 2, atol=1e-4)


@pytest.mark.slow
def test_modules_and_layers_that_differ(planted, tmp_path):
    """Weights of two shapes in turn, layers that are adapted in one module only, a module of one adapter."""
    rng = np.random.default_rng(0)
    for name in "abc":
        sizes = {("q_proj", layer): (24 if layer % 2 else 16, 20) for layer in range(4)} | {("v_proj", 2): (12, 20)}
        if name == "a":
            sizes |= {("o_proj", 1): (20, 20), ("o_proj", 7): (20, 20)}
        tensors = {}
        for (module, layer), (out, size) in sizes.items():
            tensors[tensor(module, layer, "A")] = rng.standard_normal((RANK, size)).astype(np.float32)
            tensors[tensor(module, layer, "B")] = rng.standard_normal((out, RANK)).astype(np.float32)
        write_adapter(tmp_path / "set" / name, tensors)
    pairs = compare_adapters(CompareAdapters((str(tmp_path / "set"),), out=tmp_path / "out", draws=10))
    assert pairs.layer.values.tolist() == [0, 1, 2, 3, 7]
    own = pairs.value.sel(measure="cosine", task_i="a", task_j="b")
    assert np.isfinite(own.sel(module="self_attn.q_proj", layer=[0, 1, 2, 3])).all()
    assert np.isfinite(own.sel(module="self_attn.v_proj")).sum() == 1
    assert np.isnan(own.sel(module="self_attn.o_proj")).all()
    assert pairs.reason.sel(task="b", module="self_attn.o_proj", layer=7) == "not adapted"
    B, A = (load_file(tmp_path / "set" / "a" / "adapter_model.safetensors")[tensor("q_proj", 1, f)] for f in "BA")
    expected = 2 * np.linalg.norm(B @ A)
    np.testing.assert_allclose(pairs.norm.sel(task="a", module="self_attn.q_proj", layer=1), expected, rtol=1e-5)
    assert adapter_report.compared(tmp_path / "out" / "results") is not None


@pytest.mark.slow
def test_adapters_of_one_task_are_no_evidence_for_clusters(planted, tmp_path):
    """Two copies of each: clusters are scored over tasks, as with one copy, and tasks beside them."""
    options = {"clusters": planted / "clusters.csv", "draws": 0, "modules": ("v_proj",), "layers": (0, 1)}
    compare_adapters(CompareAdapters((f"x={planted}", f"y={planted}"), out=tmp_path / "two", **options))
    compare_adapters(CompareAdapters((str(planted),), out=tmp_path / "one", **options))
    two, one = (rows(tmp_path / name / "results" / "task_map_scores.csv") for name in ("two", "one"))
    assert [row["grouping"] for row in two] == ["cluster"] * 6 + ["task"] * 6
    for a, b in zip(two[:6], one, strict=True):
        assert float(a["value"]) == pytest.approx(float(b["value"]), abs=1e-4)
        assert a["adapters"] == b["adapters"] == "12"
    assert float(two[6]["value"]) == 1


@pytest.mark.slow
def test_a_single_adapter(planted, tmp_path, capsys):
    pairs = compare_adapters(CompareAdapters((str(planted / "a0"),), out=tmp_path))
    assert pairs.sizes["task"] == 1
    assert "no map of adapters" in capsys.readouterr().out
    assert [file.stem for file in (tmp_path / "figures").iterdir()] == ["adapter_spectra"]


@pytest.mark.slow
def test_against_the_base_model(tmp_path):
    """Against dense float64 NumPy from the definitions."""
    lora = LoraConfig(rank=2, alpha=4)
    for seed, name in enumerate("ab"):
        adapter = randomize(init_adapter(TINY, lora, [name], seed=seed), seed, scale=2.0)
        save_adapter(adapter, lora, tmp_path / "set" / name, base="tiny")
    base = tiny_checkpoint(tmp_path / "base")
    options = CompareAdapters((str(tmp_path / "set"),), out=tmp_path / "out", base=str(base), draws=0)
    own = compare_adapters(options).base_value.sel(task="b", module="self_attn.q_proj", layer=1)
    W = np.asarray(load(str(base)).model.blocks.self_attn.q_proj.kernel[...][1], np.float64).T
    factors = adapter["self_attn.q_proj"]
    update = np.asarray(2 * factors.a[1, 0] @ factors.b[1, 0], np.float64).T
    u, _, vt = np.linalg.svd(update)
    norm, inside = np.linalg.norm(update), np.linalg.norm(u[:, :2].T @ W @ vt[:2].T)
    np.testing.assert_allclose(own.sel(base_measure="relative_norm"), norm / np.linalg.norm(W), rtol=1e-5)
    np.testing.assert_allclose(own.sel(base_measure="amplification"), norm / inside, rtol=1e-4)
    cosines = abs(np.linalg.svd(W)[0].T @ np.linalg.svd(W + update)[0][:, :10]).max(0)
    assert own.sel(base_measure="intruders") == (cosines < 0.5).sum() > 0


@pytest.mark.slow
def test_another_base_model(tmp_path):
    write_adapter(tmp_path / "c", {tensor("q_proj", 1, "A"): np.ones((3, 5), np.float32), tensor("q_proj", 1, "B"): np.ones((9, 3), np.float32)})  # fmt: skip
    options = CompareAdapters((str(tmp_path / "c"),), out=tmp_path / "x", base=str(tiny_checkpoint(tmp_path / "base")))
    with pytest.raises(
        LorajaxError, match=r"--base .*: self_attn.q_proj has 2 layers of \[32, 32\]; the adapters have"
    ):
        compare_adapters(options)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{planted}/a0", "{planted}/a0", "--out", "{out}"], "the name a0 is taken by"),
        (["{out}/nowhere", "--out", "{out}"], "no such folder; expected a study, PEFT folders, or a hub id"),
        (["{out}", "--out", "{out}/x"], "holds no adapter"),
        (["{planted}"], "--out: name a folder"),
        (["{planted}", "--out", "{out}", "--modules", "k_proj"], "--modules k_proj: no such module; there are: self_attn.q_proj, self_attn.v_proj"),
        (["{planted}", "--out", "{out}", "--layers", "9"], "--layers 9: not adapted by any; there are 0 to 3"),
        (["{planted}", "--out", "{out}", "--names", "z*"], "--names z*: no such adapter"),
        (["{planted}", "--out", "{out}", "--clusters", "{planted}/a0/adapter_config.json"], "expected the columns name and cluster"),
        (["{planted}", "--out", "{out}", "--map-measure", "rec"], "--map-measure is one of grassmann_columns"),
        (["{planted}", "--out", "{out}", "--p", "0.5"], "--p must be at least 1"),
        (["{planted}", "--out", "{out}", "--measures", "projection", "--draws", "0"], "--measures: the map needs grassmann"),
        ([], "name a study or adapters"),
    ],
)  # fmt: skip
def test_bad_input(planted, tmp_path, monkeypatch, capsys, flags, message):
    flags = [flag.format(planted=planted, out=tmp_path) for flag in flags]
    monkeypatch.setattr(sys, "argv", ["compare_adapters", *flags])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises((LorajaxError, SystemExit)) as error:
        command.main()
    assert message in str(error.value) + capsys.readouterr().err


def test_adapters_of_two_base_models(planted, tmp_path):
    tensors = {k: np.pad(v, ((0, 0), (0, 4 * ("lora_A" in k)))) for k, v in load_file(planted / "a0" / "adapter_model.safetensors").items()}  # fmt: skip
    write_adapter(tmp_path / "wide", tensors)
    options = CompareAdapters((str(planted / "a1"), str(tmp_path / "wide")), out=tmp_path)
    with pytest.raises(
        LorajaxError, match=r"wide: self_attn.q_proj in layer 0 is a weight of \[24, 24\], and of \[24, 20\] in .*a1"
    ):
        compare_adapters(options)


def test_clusters_need_all_adapters(planted, tmp_path):
    (tmp_path / "c.csv").write_text("name,cluster\na0,x\n")
    with pytest.raises(LorajaxError, match="no row for a1"):
        find_members([str(planted)], tmp_path / "c.csv")
