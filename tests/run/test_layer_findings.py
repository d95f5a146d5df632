"""Sentences about bands, ablations, clusters and correlations say what the planted numbers are, and no more."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from run import figures
from run.layer_findings import TOGETHER, ablation_findings, band_findings, cluster_findings, readability_findings
from run.layer_summary import bands_table, by_layer
from run.tables import ablation_table
from run.tables import bands_table as band_rows

LAYERS = ["embedding", *(f"block {i}" for i in range(1, 11)), "final norm"]
TASKS = ["a", "b", "c", "d", "e", "f"]


def cka(base, ours, noise=0.004):
    """Same-layer curves with some noise, as results/cka.nc holds them; the embedding is missing."""
    rng = np.random.default_rng(0)
    values = np.full((2, 2, len(TASKS), 12, 12), np.nan)
    for p, curve in enumerate((base, ours)):
        for i, value in enumerate([*curve, curve[-1]], start=1):
            values[p, :, :, i, i] = value + noise * rng.standard_normal(len(TASKS))
    return xr.Dataset(
        {"cka": (("pair", "estimator", "task", "layer_a", "layer_b"), values)},
        {"pair": ["base | C", "E | C"], "estimator": ["debiased", "biased"], "task": TASKS}
        | {"layer": LAYERS, "layer_a": LAYERS, "layer_b": LAYERS},
    )


STEPS = cka([0.98] * 3 + [0.7] * 4 + [0.4] * 3, [0.97] * 3 + [0.95] * 7)


def bands(ds, k=3):
    return bands_table(ds, "debiased", k=k, replicates=200, seed=0)


def test_planted_bands_are_found_and_told():
    table = bands(STEPS)
    own = table[table.curves == TOGETHER]
    assert own["first"].tolist() == ["block 1", "block 4", "block 8"]
    assert own["last"].tolist() == ["block 3", "block 7", "block 10"]
    assert own.begins_low.tolist() == own.begins_high.tolist() == ["", "block 4", "block 8"]
    [said] = band_findings(table)
    assert "fall into 3 bands: block 1 to 3, block 4 to 7 and block 8 to 10." in said
    assert "The later bands begin, at 95 % over 6 tasks, at block 4 and at block 8." in said
    rows = band_rows(table)
    assert rows[0]["curves"] == TOGETHER
    assert [row["layers"] for row in rows[:3]] == ["block 1 to 3", "block 4 to 7", "block 8 to 10"]


def test_gradual_curves_are_called_gradual():
    line = np.linspace(0.95, 0.35, 10)
    [said] = band_findings(bands(cka(line, line)))
    assert "but gradual curves as smooth as these do as well" in said


def test_means_over_tasks():
    found = by_layer(STEPS, "debiased", replicates=200, seed=0).sel(pair="base | C")
    assert found["mean"].values[4] == pytest.approx(0.7, abs=0.01)
    assert found.mean_low.values[4] < found["mean"].values[4] < found.mean_high.values[4]
    assert found.tasks.values.tolist() == [0] + [6] * 11
    alone = by_layer(STEPS.isel(task=[0]), "debiased", replicates=200, seed=0)
    assert np.isfinite(alone["mean"].values[:, 1:]).all()
    assert np.isnan(alone.mean_low.values).all()


def ablation(shares):
    """Shares of each task under the three bands, as results/ablation.nc holds them."""
    masks = ["base", "full", "band 1-3", "band 4-7", "band 8-10"]
    share = np.column_stack([np.zeros(6), np.ones(6), shares])[:, None]
    parts = {
        name: (("task", "model", "mask"), share + d)
        for name, d in (("share", 0), ("share_low", -0.1), ("share_high", 0.1))
    }
    return xr.Dataset(
        parts | {"loss": (("task", "model", "mask"), 3 - share), "n": (("task", "model"), np.full((6, 1), 32))},
        {"task": TASKS, "model": ["C"], "mask": masks, "kind": ("mask", ["base", "full", "band", "band", "band"])},
    )


def test_the_causal_check_agrees_or_does_not():
    agree = np.tile([0.1, 0.8, 0.3], (6, 1))
    said = ablation_findings(
        ablation(agree), bands(STEPS), cka([0.98] * 3 + [0.5] * 4 + [0.4] * 3, [0.97] * 3 + [0.95] * 7)
    )
    assert "10% in blocks 1 to 3, 80% in blocks 4 to 7 and 30% in blocks 8 to 10." in said[0]
    assert "It is largest in band 2 on 6 of them. The bands have 3, 4 and 3 blocks." in said[0]
    assert said[1].startswith("CKA points to the same band: base | C falls most in band 2 (0.4")
    assert said[1].endswith("of CKA, on the mean over tasks).")  # 0.48 against 0.10: there is no doubt
    alike = cka([0.98] * 3 + [0.7] * 4 + [0.43] * 3, [0.97] * 3 + [0.95] * 7, noise=0.05)  # 0.28 and 0.27
    doubted = ablation_findings(ablation(agree), bands(STEPS), alike)[1]
    drops = -np.diff([[float(own.sel(layer_a=f"block {b}", layer_b=f"block {b}")) for b in (3, 7, 10)]
                      for own in alike.cka.sel(pair="base | C", estimator="debiased")], axis=1)  # fmt: skip
    more = abs(float((drops[:, 0] - drops[:, 1]).mean()))
    assert f"is not shown: {more:+.2f}, 95 %: -" in doubted
    curves = cka([0.98] * 3 + [0.5] * 4 + [0.4] * 3, [0.97] * 3 + [0.95] * 7)
    late = np.tile([0.1, 0.3, 0.8], (6, 1))
    said = ablation_findings(
        ablation(late), bands(STEPS), cka([0.98] * 3 + [0.5] * 4 + [0.4] * 3, [0.97] * 3 + [0.95] * 7)
    )
    assert said[1].startswith("CKA does not agree: base | C falls most in band 2")
    assert (
        "band 3 keeps more of the gain (median over tasks of the difference of shares +0.50, +0.50 to +0.50)" in said[1]
    )
    close = np.column_stack([np.full(6, 0.1), [0.3, 0.9, 0.5, 0.8, 0.2, 0.6], [0.5, 0.7, 0.6, 0.7, 0.6, 0.5]])
    said = ablation_findings(ablation(close), bands(STEPS), curves)
    assert "It is largest in band 3" in said[0]
    assert said[1].startswith("CKA does not contradict: base | C falls most in band 2")


def test_no_gain_says_nothing():
    said = ablation_findings(ablation(np.full((6, 3), np.nan)), bands(STEPS), None)
    assert said == ["The causal check says nothing: of no task can the adapter's gain be told from 0."]
    table = ablation_table(ablation(np.full((6, 3), np.nan)))
    assert table["masks"] == ["blocks 1-3", "blocks 4-7", "blocks 8-10"]
    assert table["rows"][0]["shares"] == ["missing"] * 3


def embedding(value, p):
    statistics = ["value", "null_mean", "null_sd", "p_value"]
    scores = np.full((1, 5, 12, 4), np.nan)
    scores[:, :, 1:] = [value, 0.2, 0.05, p]
    scores[:, :, 6, 0] += 0.01
    names = ["silhouette", "knn_purity", "silhouette_across", "knn_purity_across", "nmi"]
    return xr.Dataset(
        {"score": (("model", "measure", "layer", "statistic"), scores)},
        {"model": ["base"], "measure": names, "layer": LAYERS, "statistic": statistics},
    )


def test_clusters():
    said = cluster_findings(embedding(0.5, 0.01))
    assert len(said) == 2
    assert "in 11 of 11 layers; it exceeds chance most at block 6 (0.510 against 0.200)" in said[0]
    assert cluster_findings(embedding(0.1, 0.9))[0].endswith("the silhouette exceeds chance in no layer.")
    assert cluster_findings(embedding(np.nan, np.nan)) == []


def correlations(p):
    rows = [("E | C", "words", name, 0.8, 0.1, 0.95, 24, p) for name in LAYERS[1:]]
    return pd.DataFrame(rows, columns=["pair", "measure", "layer", "r", "low", "high", "n", "p_familywise"])


def test_correlations():
    said = readability_findings(correlations(0.01))[0]
    assert "the only one looked at: words with E | C at block 1 (r = +0.80, p = 0.010)" in said
    both = pd.concat([correlations(0.01), correlations(0.4).assign(measure="letters")], ignore_index=True)
    assert "of 2 looked at: words with E | C" in readability_findings(both)[0]
    assert readability_findings(correlations(0.4)) == [
        "Over 24 tasks, no correlation of words with CKA holds for all layers together (p > 0.05)."
    ]


def test_figures_are_drawn(tmp_path):
    drawn = {
        "shares": figures.band_shares(ablation(np.tile([0.1, np.nan, 0.8], (6, 1)))),
        "scores": figures.cluster_scores(embedding(0.5, 0.01)),
        "words": figures.readability_by_layer(correlations(0.4)),
    }
    for name, figure in drawn.items():
        text = figures.save(figure, tmp_path / f"{name}.svg").read_text()
        assert "8-10" in text if name == "shares" else "norm" in text
