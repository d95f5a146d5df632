"""Published numbers: they are what was read off, agree where ours were made to, and claim nothing of another model."""

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from safetensors.numpy import save_file
from scipy import stats

from lorajax.data.conll2012 import tasks as conll2012
from lorajax.errors import LorajaxError
from run import figures, published, recipes, report, report_results
from run.published.ours import quartiles
from run.published.setting import hidden_size, our_layer
from run.published.table import verdict
from run.study_folder import StudyFolder
from tests.run.made_up_study import make_study
from tests.run.test_report import Page

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"needs the published numbers at {REFERENCE}")

PAPER = published.layer_by_layer()
NAMES = {"base | C": "llama2", "E | C": "sft", "base": "llama2", "E": "sft"}
TASKS = tuple(f"task{i}" for i in range(9))
LLAMA = {"name": "meta-llama/Llama-2-7b-hf", "parameters": 6738415616}
LAYERS = ["embedding", *(f"block {k}" for k in range(1, 33)), "final norm"]
STATISTICS = ("q1", "median", "q3")


def curve(figure, of, statistic, **more):
    return PAPER.curve(figure, of, statistic, **more).values


def spread_tasks(q1, median, q3):
    """Nine values with these quartiles: the third, fifth and seventh of nine. A missing one lies between its neighbours."""
    q1, q3 = (1.0 if np.isnan(q) else q for q in (q1, q3))
    median = (q1 + q3) / 2 if np.isnan(median) else median
    return [q1 - 0.001, q1, q1, (q1 + median) / 2, median, (median + q3) / 2, q3, q3, q3 + 0.001]


def planted_cka(figure="2", tasks=TASKS, made=None):
    """Biased same-layer CKA whose quartiles over tasks are the published ones; debiased 0.1 lower."""
    cka = np.full((2, 2, len(tasks), 34, 34), np.nan)
    for p, pair in enumerate(("base | C", "E | C")):
        table = [spread_tasks(*row) for row in zip(*(curve(figure, pair, s) for s in STATISTICS), strict=True)]
        for i, values in enumerate(table[:-1], start=1):
            cka[p, 1, :, i, i] = values
        cka[p, 1, :, 33, 33] = table[-1]
        cka[p, 1, :, 32, 32] = 0.1 + 0.1 * p  # block 32 was not published: nothing may be compared with it
    cka[:, 0] = cka[:, 1] - 0.1
    provenance = {
        task: {"model": "m0d31", "data": "da7a", "tokens": "last", "kernel": "linear"} | (made or {}) for task in tasks
    }
    return xr.Dataset(
        {
            "cka": (("pair", "estimator", "task", "layer_a", "layer_b"), cka),
            "n": ("task", np.full(len(tasks), 64)),
            "reason": (("model", "task", "layer"), np.full((3, len(tasks), 34), "", dtype=object)),
            "duplicates": (("model", "task", "layer"), np.zeros((3, len(tasks), 34), int)),
        },
        {"pair": ["base | C", "E | C"], "estimator": ["debiased", "biased"], "task": list(tasks)}
        | {"cluster": ("task", ["qa"] * len(tasks)), "model": ["base", "E", "C"]}
        | {"layer": LAYERS, "layer_a": LAYERS, "layer_b": LAYERS},
        {"provenance": json.dumps(provenance)},
    )


def study(path, *, cka=None, recipe="layer-by-layer", model=None, tasks=TASKS, unseen=(), cluster="qa", **config):
    """A study of the recipe, with planted CKA."""
    make_study(path, tasks=("a",), parts=())
    record = json.loads((path / "study.json").read_text())
    flags = recipes.load(recipe).flags if recipe in recipes.names() else {}
    record["config"] |= {k: v for k, v in flags.items() if k != "bases"} | {"recipe": recipe} | config
    record["model"] |= {"layers": LAYERS} | (LLAMA if model is None else model)
    facts = {"cluster": cluster, "train": 10, "test": 50, "cut_prompts": 0, "cut_answers": 0}
    record["data"]["tasks"] = {task: facts | {"seen": task not in unseen} for task in tasks}
    (path / "study.json").write_text(json.dumps(record))
    if cka is not None:
        cka.to_netcdf(path / "results" / "cka.nc", engine="h5netcdf")
    return path


def section(path):
    return published.beside(StudyFolder.open(path), report_results.read_cka(path / "results" / "cka.nc"))


def rows(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table


# --- the numbers ------------------------------------------------------------------------------------------------------


@needs_reference
def test_the_curves_are_those_of_the_reference_file():
    reference = json.loads((REFERENCE / "reference_numbers.json").read_text())
    boxes = {"2": "fig2_cka_q1_median_q3_all_tasks", "7": "fig7_cka_q1_median_q3_unseen_tasks"}
    compared = 0
    for figure, name in boxes.items():
        for pair in ("base | C", "E | C"):
            expected = [[np.nan] * 3 if row is None else row for row in reference[name][NAMES[pair]]]
            found = [curve(figure, pair, s) for s in STATISTICS]
            np.testing.assert_array_equal(np.array(expected, float).T, found)
            compared += 1
    dimensions = reference["fig5_dims_for_99pct_variance_mean_over_tasks"]
    for model in ("base", "E"):
        np.testing.assert_array_equal(curve("5", model, "mean"), dimensions[NAMES[model]])
        compared += 1
    for measure, by_model in reference["fig6_pearson_with_cka"].items():
        if measure != "note":
            for pair in ("base | C", "E | C"):
                np.testing.assert_array_equal(curve("6", pair, "pearson", quantity=measure), by_model[NAMES[pair]])
                compared += 1
    assert compared == 12
    # All of the file was compared: nothing was left out when it was read.
    assert {key.split("_")[0] for key in reference} == {"source", "layers", "fig2", "fig5", "fig6", "fig7"}


@needs_reference
def test_the_tables_are_those_of_the_poster():
    text = next(t for f in sorted((REFERENCE / "seeds").glob("*.txt")) if "10% SENT" in (t := f.read_text()))
    number = r"(\d\.\d{3})"
    line = re.compile(rf"^(.+) \\rightarrow (.+)\t{number}\t{number}\t{number}\t{number}$", re.MULTILINE)
    expected = {}
    for i, (onto, projected, *values) in enumerate(line.findall(text)):
        names = ("l1", "rec") if i < 6 else ("h_s1", "h_s2")
        for of, pair in (("instruct", values[:2]), ("base", values[2:])):
            expected |= {(name, of, onto, projected): float(v) for name, v in zip(names, pair, strict=True)}
    assert len(expected) == 6 * 4 + 2 * 4
    values = published.task_vectors().values
    assert {(v.quantity, v.of, v.onto, v.projected): v.value for v in values} == expected


def test_quartiles_are_in_order_and_errors_are_stated():
    assert {(c.figure, len(c.values)) for c in PAPER.curves} == {(figure, 32) for figure in "23567"}
    assert all(c.error > 0 for c in PAPER.curves)
    for figure in "27":
        for pair in ("base | C", "E | C"):
            low, middle, high = (curve(figure, pair, s) for s in STATISTICS)
            assert not (low > high).any()
            assert not ((middle < low) | (middle > high)).any()
    clusters = {c.cluster for c in PAPER.curves if c.figure == "3"}
    assert clusters == {"translation", "struct_to_text", "sentiment", "paraphrase", "coreference"}
    assert np.isfinite(curve("3", "E | C", "median", cluster="sentiment")).sum() == 3


def test_the_numbers_come_with_the_package():
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["run"]
    files = [f.relative_to(ROOT / "run") for f in (ROOT / "run" / "published").glob("*.json")]
    assert len(files) == 2
    assert all(any(fnmatch.fnmatch(str(file), glob) for glob in globs) for file in files)


def test_stand_ins_are_tasks_that_there_are():
    first = {name: globs[0] for name, globs in published.task_vectors().tasks.items()}
    assert first == {"SUM": conll2012.SUMMARY.name, "NER": "ner_sentences", "10% SENT": "first10_sentences"}
    assert {first["NER"], first["10% SENT"]} <= set(conll2012.KINDS)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_layers_of_one_depth_are_those_of_the_same_number():
    names = LAYERS
    assert [our_layer(k, 32, names) for k in (1, 17, 31, 32)] == ["block 1", "block 17", "block 31", "final norm"]


def test_layers_of_another_depth_are_those_of_nearest_depth():
    names = ["embedding", *(f"block {k}" for k in range(1, 31)), "final norm"]
    assert [our_layer(k, 32, names) for k in (1, 8, 16, 31, 32)] == [
        "block 1",
        "block 8",
        "block 15",
        "block 29",
        "final norm",
    ]
    # Nothing shallower than the first block, nothing deeper than the last; a model may have no final norm.
    assert [our_layer(k, 32, ["embedding", "block 1", "block 2"]) for k in (1, 32)] == ["block 1", "block 2"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.4, 0.6, "agrees"),
        (0.505, 0.6, "agrees"),
        (0.4, 0.495, "agrees"),
        (0.506, 0.6, "higher"),
        (0.4, 0.494, "lower"),
    ],
)
def test_verdict(low, high, expected):
    assert verdict(low, high, 0.5, 0.005) == expected


def test_intervals_of_quartiles_are_those_of_another_bootstrap():
    values = np.random.default_rng(0).beta(4, 2, size=(40, 2))
    value, low, high, count = quartiles(values)
    np.testing.assert_allclose(value, np.quantile(values, [0.25, 0.5, 0.75], axis=0))
    assert count.tolist() == [40, 40]
    for q, level in enumerate((0.25, 0.5, 0.75)):
        other = stats.bootstrap(
            (values[:, 0],), lambda x, axis, level=level: np.quantile(x, level, axis=axis), method="percentile",
            n_resamples=4000, rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip
        # Two sets of replicates: limits differ by what 2000 draws leave open, an order statistic of 40 or so.
        np.testing.assert_allclose((low[q, 0], high[q, 0]), other, atol=0.02)


def test_quartiles_leave_out_what_is_missing():
    values = np.array([[0.1, np.nan], [0.3, np.nan], [np.nan, 0.5]])
    value, low, high, count = quartiles(values)
    assert count.tolist() == [2, 1]
    np.testing.assert_allclose(value[:, 0], [0.15, 0.2, 0.25])
    assert value[1, 1] == 0.5
    assert np.isnan([low[1, 1], high[1, 1]]).all()


def test_hidden_size_is_read_off_the_adapter(tmp_path):
    folder = StudyFolder.open(study(tmp_path / "s"))
    assert hidden_size(folder) is None
    prefix = "base_model.model.model.layers.0."
    folder.adapter("E").mkdir(parents=True)
    tensors = {
        f"{prefix}mlp.down_proj.lora_A.weight": np.zeros((2, 96), np.float32),  # reads the inner size
        f"{prefix}self_attn.v_proj.lora_A.weight": np.zeros((2, 48), np.float32),
        f"{prefix}self_attn.v_proj.lora_B.weight": np.zeros((16, 2), np.float32),
    }
    save_file(tensors, folder.adapter("E") / "adapter_model.safetensors")
    assert hidden_size(folder) == 48
    (folder.adapter("E") / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(LorajaxError, match="adapter_model"):
        hidden_size(folder)


# --- Layer by Layer ---------------------------------------------------------------------------------------------------


def test_what_was_planted_agrees(tmp_path):
    found = section(study(tmp_path / "s", cka=planted_cka()))
    table = rows(found.table, figure="2")
    assert len(table) == sum(np.isfinite(c.values).sum() for c in PAPER.curves if c.figure == "2")
    assert set(table.verdict) == {"agrees"}
    # Biased values are compared; the debiased ones stand beside them.
    middle = rows(table, of="E | C", statistic="median")
    np.testing.assert_allclose(middle.ours, middle.published, atol=1e-6)
    np.testing.assert_allclose(middle.ours_debiased, middle.published - 0.1, atol=1e-6)
    assert rows(middle, layer=32).our_layer.tolist() == ["final norm"]
    assert not (table.our_layer == "block 32").any()
    assert f"Of {len(table)} published values that can be compared, {len(table)} meet" in found.findings[0]
    assert "from layer 9 of 32 on in the published study, and from block 9 (of 32 blocks) on here." in found.findings[1]
    assert "above the debiased ones by up to 0.100" in found.findings[2]


def test_what_was_shifted_does_not(tmp_path):
    cka = planted_cka()
    for layer, shift in ((10, -0.3), (11, -0.3), (20, 0.3)):
        cka.cka.loc[{"pair": "base | C", "layer_a": f"block {layer}", "layer_b": f"block {layer}"}] += shift
    found = section(study(tmp_path / "s", cka=cka))
    middle = rows(found.table, figure="2", of="base | C", statistic="median")
    assert dict(zip(middle.layer, middle.verdict, strict=True)) == dict.fromkeys(middle.layer, "agrees") | {
        10: "lower",
        11: "lower",
        20: "higher",
    }
    [told] = [row for row in found.summary if (row["where"], row["of"]) == ("2", "base | C (median)")]
    assert told["differ"] == "lower at layers 10 to 11; higher at layer 20"
    assert told["compared"] == f"{len(middle)} of {len(middle)}"
    assert told["agree"] == f"{1 - 3 / len(middle):.0%}"


def test_another_model_is_for_orientation(tmp_path):
    names = ["embedding", *(f"block {k}" for k in range(1, 31)), "final norm"]
    cka = planted_cka().sel(layer=names, layer_a=names, layer_b=names)
    path = study(tmp_path / "s", cka=cka, model={"name": "smollm2", "parameters": 134515008, "layers": names})
    found = section(path)
    assert set(found.table.verdict) == {"not comparable"}
    assert not found.same_model
    own = rows(found.table, figure="2")
    assert own.ours.notna().all()
    assert set(own.reason) == {"for orientation: another model: smollm2 is not Llama-2-7B"}
    assert "no agreement is claimed" in found.findings[0]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "meta-llama/Llama-2-7b-chat-hf"}, "Llama-2-7b-chat-hf is not Llama-2-7B"),
        ({"name": "/models/Llama-2-7b-hf", "layers": LAYERS[:6]}, "has 5 blocks, Llama-2-7B has 32"),
        ({"name": "/models/Llama-2-7b-hf", "parameters": 7}, "has 7 parameters"),
    ],
)
def test_models_that_only_look_alike_are_others(tmp_path, model, said):
    record = {"layers": LAYERS, "parameters": None} | model
    assert said in PAPER.model.differs(record)
    assert not PAPER.model.differs(record | {"name": "x/llama-2-7b-hf", "layers": LAYERS, "parameters": None})


@pytest.mark.parametrize(("key", "value"), [("tokens", "mean"), ("kernel", "rbf")])
def test_other_states_are_not_compared(tmp_path, key, value):
    found = section(study(tmp_path / "s", cka=planted_cka(made={key: value})))
    assert set(found.table.verdict) == {"not comparable"}
    assert value in rows(found.table, figure="2").reason.iloc[0]


def test_unseen_tasks_are_beside_unseen_tasks(tmp_path):
    new = tuple(f"new{i}" for i in range(9))
    cka = xr.concat([planted_cka(), planted_cka("7", new)], "task", data_vars="minimal", combine_attrs="override")
    found = section(study(tmp_path / "s", cka=cka, tasks=(*TASKS, *new), unseen=new))
    table = found.table[found.table.figure.isin(["2", "7"])]
    assert set(table.verdict) == {"agrees"}
    assert set(table["count"]) == {9}
    without = section(study(tmp_path / "t", cka=planted_cka()))
    reasons = set(rows(without.table, figure="7").reason)
    assert reasons == {"no task that E was not trained on (--unseen)"}


def test_clusters_stand_beside_clusters(tmp_path):
    cka = planted_cka()
    found = section(study(tmp_path / "s", cka=cka, cluster="sentiment")).table
    own = rows(found, figure="3", cluster="sentiment", of="base | C")
    assert own.layer.tolist() == [10, 20, 32]
    np.testing.assert_allclose(own.ours, curve("2", "base | C", "median")[[9, 19, 31]], atol=1e-6)
    assert set(rows(found, cluster="translation").reason) == {"no task of the cluster translation"}


def spectrum(values, **made):
    """Dimensions `[model, layer]`, the same for all tasks but for a spread of ±1."""
    data = values[:, None, :] + np.linspace(-1, 1, len(TASKS))[None, :, None]
    return xr.Dataset(
        {"spectrum": (("measure", "model", "task", "layer"), data[None]), "n": ("task", [65] * len(TASKS))},
        {"measure": ["dimensions"], "model": ["base", "E"], "task": list(TASKS), "layer": LAYERS},
        {
            "provenance": json.dumps(
                {t: {"share": 0.99, "tokens": "last", "max_examples": 10_000} | made for t in TASKS}
            )
        },
    )


def with_dimensions(path, scale=1.0, record=None, **config):
    values = np.full((2, 34), 7.0)
    for m, model in enumerate(("base", "E")):
        theirs = curve("5", model, "mean") * scale
        values[m, 1:32], values[m, 33] = theirs[:31], theirs[31]
    study(path, cka=planted_cka(), model=LLAMA | (record or {}), **config)
    spectrum(values).to_netcdf(path / "results" / "spectrum.nc", engine="h5netcdf")
    return section(path)


def test_dimensions_are_compared_over_as_many_prompts(tmp_path):
    found = with_dimensions(tmp_path / "s")
    table = rows(found.table, figure="5")
    assert (len(table), set(table.verdict), set(table.unit)) == (64, {"agrees"}, {"directions"})
    assert set(rows(with_dimensions(tmp_path / "t", 1.2).table, figure="5").verdict) == {"higher"}


def test_dimensions_over_fewer_prompts_are_shares(tmp_path):
    found = with_dimensions(tmp_path / "s", test_examples=128)
    table = rows(found.table, figure="5")
    assert set(table.verdict) == {"not comparable"}
    assert "at most 128 prompts" in table.reason.iloc[0]
    assert set(table.unit) == {"share of the hidden size"}
    np.testing.assert_allclose(table.published.iloc[0], 270 / 4096)
    np.testing.assert_allclose(table.ours, table.published)
    [line] = [line for line in found.figures["published_dimensions"].axes[0].lines if line.get_linestyle() == ":"]
    assert line.get_ydata()[0] == 64 / 4096  # of 65 prompts


def test_dimensions_of_another_model_are_shares(tmp_path):
    found = with_dimensions(tmp_path / "s", 0.25, {"name": "other", "hidden_size": 1024})
    table = rows(found.table, figure="5")
    assert table.reason.str.startswith("for orientation").all()
    np.testing.assert_allclose(table.ours, table.published)  # a quarter of the number, of a quarter of the size
    assert "published_dimensions" in found.figures
    unknown = with_dimensions(tmp_path / "t", record={"name": "other"})
    assert set(rows(unknown.table, figure="5").unit) == {"directions"}
    assert "published_dimensions" not in unknown.figures


def test_correlations_are_of_biased_cka(tmp_path):
    cka = planted_cka()
    rng = np.random.default_rng(0)
    cka["cka"] = cka.cka.copy()
    cka.cka.loc[{"estimator": "biased"}] = cka.cka.sel(estimator="biased") + rng.normal(0, 0.05, (2, 9, 1, 1))
    path = study(tmp_path / "s", cka=cka)
    table = {"task": TASKS, "flesch_kincaid": rng.normal(8, 2, 9), "coleman_liau": rng.normal(9, 2, 9)}
    pd.DataFrame(table | {"train_examples": 30}).to_csv(path / "results" / "readability.csv", index=False)
    found = rows(section(path).table, figure="6")
    for measure in ("flesch_kincaid", "coleman_liau"):
        for pair in ("base | C", "E | C"):
            [row] = rows(found, quantity=measure, of=pair, layer=20).to_dict("records")
            values = cka.cka.sel(estimator="biased", pair=pair, layer_a="block 20", layer_b="block 20").values
            own = stats.pearsonr(table[measure], values)
            interval = own.confidence_interval()
            np.testing.assert_allclose((row["ours"], row["low"], row["high"]), (own.statistic, *interval), rtol=1e-6)
            assert row["verdict"] == verdict(*interval, row["published"], 0.005)
    assert set(rows(found, quantity="data_size").reason) == {"train examples is the same for all tasks"}


def test_too_few_tasks_for_a_correlation_are_told(tmp_path):
    path = study(tmp_path / "s", cka=planted_cka(), tasks=TASKS[:3])
    table = {"task": TASKS[:3], "flesch_kincaid": [1, 2, 3], "coleman_liau": [1, 2, 4], "train_examples": [1, 2, 5]}
    pd.DataFrame(table).to_csv(path / "results" / "readability.csv", index=False)
    assert set(rows(section(path).table, figure="6").reason) == {"a correlation needs 4 tasks or more; there are 3"}


def test_settings_that_are_not_the_recipes_are_told(tmp_path):
    said = section(study(tmp_path / "s", cka=planted_cka(), rank=4, data="flan2021:/somewhere")).findings[-1]
    assert "rank 4 (8)" in said
    assert "data" not in said


# --- the poster -------------------------------------------------------------------------------------------------------


def adapters(names, values, **made):
    """Projections `{quantity: {(i, j): value}}`, with layers a little apart and modules alike."""
    measures = ["lp", "rec", "entropy_s1", "entropy_s2"]
    data = np.full((4, 2, 6, len(names), len(names)), np.nan, np.float32)
    for m, measure in enumerate(measures):
        for (i, j), value in values[measure].items():
            data[m, :, :, names.index(i), names.index(j)] = value + np.linspace(-0.01, 0.01, 6)
    provenance = {"form": "absolute", "p": 1.0, "variant": "sum"} | made
    return xr.Dataset(
        {"value": (("measure", "module", "layer", "task_i", "task_j"), data)},
        {"measure": measures, "module": ["self_attn.q_proj", "self_attn.v_proj"], "layer": range(6)}
        | {key: list(names) for key in ("task", "task_i", "task_j")},
        {"provenance": json.dumps(provenance)},
    )


def poster_study(path, shift=0.0, made=None, name="mistralai/Mistral-7B-Instruct-v0.2", missing=(), **config):
    """A study whose projections are those of the poster's instruct column."""
    poster = published.task_vectors()
    ours = {theirs: globs[0] for theirs, globs in poster.tasks.items() if theirs not in missing}
    names = {"l1": "lp", "rec": "rec", "h_s1": "entropy_s1", "h_s2": "entropy_s2"}
    values = {measure: {} for measure in names.values()}
    for v in poster.values:
        if v.of == "instruct" and {v.onto, v.projected} <= set(ours):
            values[names[v.quantity]][ours[v.onto], ours[v.projected]] = v.value + shift
    study(path, recipe="task-vectors", model={"name": name}, tasks=tuple(ours.values()), **config)
    adapters(list(ours.values()), values, **(made or {})).to_netcdf(path / "results" / "adapters.nc", engine="h5netcdf")
    return section(path)


def test_projections_that_were_planted_agree(tmp_path):
    found = poster_study(tmp_path / "s")
    instruct, base = (rows(found.table, of=of) for of in ("instruct", "base"))
    assert set(instruct[instruct.quantity != "l1"].verdict) == {"agrees"}
    np.testing.assert_allclose(instruct.ours, instruct.published, atol=1e-6)
    # L1 has a unit that is not stated; the other column is of another model.
    assert set(rows(instruct, quantity="l1").verdict) == set(base.verdict) == {"not comparable"}
    assert base.reason.str.startswith("for orientation: another model").all()
    assert "published_projections" in found.figures
    assert set(rows(poster_study(tmp_path / "t", 0.05).table, of="instruct", quantity="rec").verdict) == {"higher"}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"rank": 4}, "rank 4"),
        ({"made": {"form": "signed"}}, "form signed"),
        ({"name": "smollm2"}, "for orientation: another model: smollm2 is not"),
        ({"missing": ("SUM", "NER", "10% SENT")}, "no task stands for SUM or NER"),
    ],
)
def test_other_projections_are_not_compared(tmp_path, how, said):
    table = poster_study(tmp_path / "s", **how).table
    assert set(table.verdict) == {"not comparable"}
    assert table.reason.str.contains(said).any()


# --- the report -------------------------------------------------------------------------------------------------------


def with_recipe(path, recipe):
    """The made-up study of the other tests, as if it were of a recipe."""
    make_study(path)
    record = json.loads((path / "study.json").read_text())
    record["config"] = {k: v for k, v in (record["config"] | {"recipe": recipe}).items() if v is not None}
    (path / "study.json").write_text(json.dumps(record))
    return path


@pytest.mark.parametrize("recipe", ["", None, "demo"])
def test_no_numbers_no_section(tmp_path, recipe):
    path = with_recipe(tmp_path / "s", recipe)
    assert section(path) is None
    if recipe != "demo":
        return
    assert "ublished" not in Page(report.build(path).read_text("utf-8")).text
    assert not (path / "results" / "published.csv").exists()
    assert not list((path / "figures").glob("published*"))


def test_a_small_made_up_study_is_drawn_for_orientation(tmp_path):
    path = with_recipe(tmp_path / "s", "layer-by-layer")
    page = Page(report.build(path).read_text("utf-8"))
    assert "For orientation only: another model, its layers at the same share of the depth" in page.text
    table = pd.read_csv(path / "results" / "published.csv", keep_default_na=False)
    assert set(table.verdict) == {"not comparable"}
    assert "for orientation: another model: tiny is not Llama-2-7B" in set(table.reason)


def test_nothing_is_said_before_there_is_something_to_compare(tmp_path):
    for recipe in ("layer-by-layer", "task-vectors"):
        path = study(tmp_path / recipe, recipe=recipe)
        assert "published" not in Page(report.build(path).read_text("utf-8")).text


def test_the_report_shows_it_and_stands_alone(tmp_path):
    path = study(tmp_path / "s", cka=planted_cka())
    page = Page(report.build(path).read_text("utf-8"))
    assert "Beside the published study" in page.text
    assert "2 same-layer CKA base | C (median) 29 of 29 100%" in page.text
    assert page.ids.count("published_curves") == 1
    assert len(page.ids) == len(set(page.ids))
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    svg = (path / "figures" / "published_cka.svg").read_text("utf-8")
    assert "Zhao et al. (2024), Llama-2-7B" in svg
    table = pd.read_csv(path / "results" / "published.csv", keep_default_na=False)
    assert tuple(table.columns) == published.COLUMNS
    assert len(table) == sum(np.isfinite(c.values).sum() for c in PAPER.curves)
    again = section(path)
    assert again.csv() == (path / "results" / "published.csv").read_text("utf-8")
    figures.save(again.figures["published_cka"], tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text("utf-8") == svg


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    path = study(tmp_path / "s", cka=planted_cka())
    (path / "results" / "readability.csv").write_text("")
    with pytest.raises(LorajaxError, match=re.escape("readability.csv")):
        section(path)
