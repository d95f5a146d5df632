"""Several studies beside each other: planted numbers, and two bases from the command line to the report."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lorajax.errors import LorajaxError
from lorajax.models.config import ModelConfig
from run import report, study
from run.side_by_side import compare_studies
from tests.run.made_up_study import BASE_C, TASKS, make_study
from tests.run.test_commands import run
from tests.run.test_report import Page
from tests.tiny import TINY, tiny_checkpoint


def task_map(folder, distances):
    data = xr.Dataset(
        {"distance": (("module", "task_i", "task_j"), np.asarray(distances, float)[None])},
        {"module": ["all"], "task_i": list(TASKS), "task_j": list(TASKS)},
    )
    data.to_netcdf(folder / "results" / "task_map.nc", engine="h5netcdf")


@pytest.fixture
def two(tmp_path):
    folders = {"first": make_study(tmp_path / "a"), "second": make_study(tmp_path / "b")}
    losses = folders["second"] / "results" / "losses.csv"
    table = pd.read_csv(losses)
    table.after += 1
    table.to_csv(losses, index=False)
    return folders


def test_values_are_those_of_the_studies(two, tmp_path):
    table, page = compare_studies(two, tmp_path / "out")
    values = table.set_index(["quantity", "item"])
    loss = values.loc["held-out loss, mean over tasks (nats per answer token)"]
    assert loss.loc["C"].tolist() == pytest.approx([4 / 3, 7 / 3])  # planted: 0.75, 1.25, 2.0, and one more
    cka = values.loc["same-layer CKA, debiased, mean over tasks"]
    assert cka.loc["base | C at 25% of the depth", "first"] == pytest.approx(BASE_C[0] - 0.01, abs=1e-6)
    assert cka.loc["base | C at 50% of the depth", "second"] == pytest.approx(BASE_C[1] - 0.01, abs=1e-6)
    text = page.read_text()
    assert "first and second" in text
    assert '<figure class="plot" id="cka_by_depth" data-files="cka_by_depth.csv"' in text
    curves = pd.read_csv(tmp_path / "out" / "cka_by_depth.csv")
    assert set(curves.study) == {"first", "second"}
    planted = curves[(curves.study == "first") & (curves.pair == "base | C") & (curves.depth == 0.5)]
    assert planted.cka.item() == pytest.approx(BASE_C[1] - 0.01, abs=1e-5)
    assert "nan" not in Page(text).text
    assert pd.read_csv(tmp_path / "out" / "side_by_side.csv").shape == table.shape


def test_only_common_tasks_count(two, tmp_path):
    file = two["second"] / "study.json"
    record = json.loads(file.read_text())
    del record["data"]["tasks"][TASKS[0]]
    file.write_text(json.dumps(record))
    table, page = compare_studies(two, tmp_path / "out")
    loss = table[table.quantity.str.startswith("held-out") & (table.item == "C")]
    assert loss["first"].item() == pytest.approx(3.25 / 2)
    assert f"Only in first, and left out here: {TASKS[0]}." in page.read_text()


def test_a_loss_that_is_not_there_is_no_crash(two, tmp_path):
    losses = two["second"] / "results" / "losses.csv"
    table = pd.read_csv(losses)
    table.loc[table.model == "C", "after"] = np.nan
    table.to_csv(losses, index=False, na_rep="nan")
    found, page = compare_studies(two, tmp_path / "out")
    row = found[found.quantity.str.startswith("held-out") & (found.item == "C")].iloc[0]
    assert row["first"] == pytest.approx(4 / 3)
    assert np.isnan(row["second"])
    assert "<td>missing</td>" in page.read_text()


def test_maps_that_agree_and_that_do_not(two, tmp_path):
    distances = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]])
    task_map(two["first"], distances)
    task_map(two["second"], 10 * distances)
    assert "<td>1.000</td>" in compare_studies(two, tmp_path / "out")[1].read_text()
    task_map(two["second"], np.array([[0, 3, 1], [3, 0, 2], [1, 2, 0]]))
    assert "<td>-1.000</td>" in compare_studies(two, tmp_path / "out")[1].read_text().replace("−", "-")


def test_what_cannot_be_compared(two, tmp_path):
    with pytest.raises(LorajaxError, match="two studies or more"):
        compare_studies({"first": two["first"]}, tmp_path / "out")
    other = make_study(tmp_path / "c", tasks=("elsewhere",), parts=())
    with pytest.raises(LorajaxError, match="no task in common"):
        compare_studies({"first": two["first"], "other": other}, tmp_path / "out")
    with pytest.raises(LorajaxError, match="--out: name a folder"):
        report.Report(tuple(two.values()))
    with pytest.raises(LorajaxError, match="the same study twice"):
        run(report, two["first"], two["first"], "--out", tmp_path / "out")


def test_report_of_two_studies(two, tmp_path, capsys):
    run(report, *two.values(), "--out", tmp_path / "out")
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out' / 'side_by_side.csv'} and report.html\n"
    assert "<h1>a and b</h1>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_two_bases_from_the_command_line(tmp_path):
    """Two random checkpoints of different depth: a study of each, and both side by side."""
    deeper = ModelConfig(**{**{f: getattr(TINY, f) for f in TINY.__dataclass_fields__}, "num_layers": 3})
    models = {"instruct": tiny_checkpoint(tmp_path / "m1"), "base": tiny_checkpoint(tmp_path / "m2", deeper)}
    flags = ["--tasks", "arithmetic", "capital_city", "number_words", "--steps", "3", "--batch-size", "2"]
    flags += ["--train-examples", "12", "--test-examples", "8", "--max-length", "256", "--ablation-examples", "0"]
    flags += ["--bases", *(f"{name}={model}" for name, model in models.items())]
    run(study, tmp_path / "s", *flags)
    table = pd.read_csv(tmp_path / "s" / "side_by_side.csv")
    assert list(table.columns) == ["quantity", "item", "instruct", "base"]
    assert table.quantity.str.startswith("spectral projection, REC").sum() == 6  # ordered pairs of three tasks
    assert table[["instruct", "base"]].notna().all().all()
    page = (tmp_path / "s" / "report.html").read_text()
    assert 'href="instruct/report.html"' in page
    run(study, tmp_path / "s", *flags)  # all is done: nothing is made again
    assert pd.read_csv(tmp_path / "s" / "side_by_side.csv").equals(table)
