"""Values in the browser: what a point tells, and where it is drawn, is what the result files say."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from run.page.contents import FIGURES
from tests.browser.driver import Row, read


@dataclasses.dataclass(frozen=True)
class Case:
    """How a row of a result file is found in a figure; `row` and the words of its measure go into each function."""

    file: str
    told: Callable[[Row, str], Row]  # what its point must tell
    choose: Callable[[Row, str], Row] = lambda row, words: {}
    rows: Callable[[Row], bool] = lambda row: True
    drawn: tuple[str, str] | None = None  # axis and column: where the point must be drawn


KINDS = {"band": "bands of blocks", "prefix": "the first blocks", "single": "single blocks"}
PROJECTED = {"l1": "L1", "rec": "REC", "h_s1": "H(S1)", "h_s2": "H(S2)"}
MISSING = ("", "nan")
OWN = ("base | C", "E | C")
PUBLISHED = ("published", "verdict", "of")

CASES = {
    "cka_by_layer": Case(
        "cka.csv",
        lambda r, _: {"task": r["task"], "layer": r["layer_a"], "pair": r["pair"], "CKA": r["cka"]},
        lambda r, _: {"estimator": r["estimator"]},
        lambda r: r["layer_a"] == r["layer_b"] and r["pair"] in OWN and r["cka"] != "",
        ("y", "cka"),
    ),
    "cka_all_layers": Case(
        "cka.csv",
        lambda r, _: (
            {"task": r["task"], "CKA": r["cka"]}
            | {f"layer of {m}": r[c] for m, c in zip(r["pair"].split(" | "), ("layer_a", "layer_b"), strict=True)}
        ),
        lambda r, _: {name: r[name] for name in ("pair", "task", "estimator")},
        drawn=("z", "cka"),
    ),
    "cka_by_task": Case(
        "cka.csv",
        lambda r, _: {"task": r["task"], "cluster": r["cluster"], "layer": r["layer_a"], r["pair"]: r["cka"]},
        lambda r, _: {"estimator": r["estimator"], "shown": r["pair"]},
        lambda r: r["layer_a"] == r["layer_b"] and r["pair"] in OWN,
        ("z", "cka"),
    ),
    "bands_by_layer": Case(
        "cka_by_layer.csv",
        lambda r, _: {"layer": r["layer"], "pair": r["pair"], "median": r["median"], "tasks": r["tasks"]},
        lambda r, _: {"cuts": r["pair"], "statistic": "median"},
        drawn=("y", "median"),
    ),
    "ablation": Case(
        "ablation.csv",
        lambda r, _: (
            {"task": r["task"], "share kept": r["share"], "loss": r["loss"]}
            | {"blocks with the adapter": r["mask"].split(" ")[1]}
        ),
        lambda r, _: {"kind": KINDS[r["kind"]], "model": r["model"]},
        lambda r: r["kind"] in KINDS and r["share"] != "",
        ("y", "share"),
    ),
    "spectrum": Case(
        "spectrum.csv",
        lambda r, words: {"layer": r["layer"], "model": r["model"], "task": r["task"], words: r["spectrum"]},
        lambda r, words: {"measure": words, "task": r["task"]},
        drawn=("y", "spectrum"),
    ),
    "task_maps": Case(
        "embedding_map.csv",
        lambda r, _: {"task": r["task"], "cluster": r["cluster"], "prompt": r["point"], "layer": r["layer"]},
        lambda r, _: {
            "layer": r["layer"],
            "model": r["model"],
            "projection": {"tsne": "t-SNE"}.get(r["projection"], "PCA"),
        },
        lambda r: r["axis"] == "y" and r["map"] != "",
        ("y", "map"),
    ),
    "clusters": Case(
        "embedding_scores.csv",
        lambda r, words: {"layer": r["layer"], "model": r["model"], words: r["score"]},
        lambda r, words: {"measure": words},
        lambda r: r["statistic"] == "value",
        ("y", "score"),
    ),
    "readability": Case(
        "readability_correlation.csv",
        lambda r, _: (
            {"layer": r["layer"], "pair": r["pair"], "r": r["r"], "tasks": r["n"]}
            | {"95 %": f"{r['low'] or 'missing'} to {r['high'] or 'missing'}", "p over all layers": r["p_familywise"]}
        ),
        lambda r, words: {"measure": words},
        drawn=("y", "r"),
    ),
    "adapter_heatmaps": Case(
        "adapters.csv",
        lambda r, words: {"first": r["task_i"], "second": r["task_j"], words: r["mean_over_layers"]},
        lambda r, words: {"measure": words, "module": r["module"]},
        lambda r: r["task_i"] != r["task_j"],
        ("z", "mean_over_layers"),
    ),
    "adapter_map": Case(
        "task_map.csv",
        lambda r, _: {"task": r["name"], "cluster": r["cluster"], "pca 1": r["pca_1"], "pca 2": r["pca_2"]},
        drawn=("x", "pca_1"),
    ),
    "adapter_tree": Case(
        "task_tree.csv",
        lambda r, _: {"meets at": r["height"], "share of resampled layers with it": r["support"]},
        drawn=("x", "height"),
    ),
    "adapter_layer_heatmaps": Case(
        "adapters_by_layer.csv",
        lambda r, _: {"first": r["task_i"], "second": r["task_j"], "distance": r["share"], "layer": r["layer"]},
        lambda r, _: {"layer": r["layer"], "module": r["module"]},
        drawn=("z", "share"),
    ),
    "adapter_spectra": Case(
        "adapter_spectra.csv",
        lambda r, _: {"task": r["name"], "direction": r["direction"], "of the largest": r["share_of_largest"]},
        lambda r, _: {"module": r["module"]},
        drawn=("y", "share_of_largest"),
    ),
    "projections": Case(
        "projection.csv",
        lambda r, words: (
            {"space": r["task_i"], "update": r["task_j"], words: r["value"]}
            | {"by chance": r["permuted_pairs_null_mean"], "z": r["permuted_pairs_z"], "p": r["permuted_pairs_p_value"]}
        ),
        lambda r, words: {"measure": words, "null": "directions paired by lot", "shown": "z against chance"},
        drawn=("z", "permuted_pairs_z"),
    ),
    "published_curves": Case(
        "published.csv",
        lambda r, _: (
            {"published layer": r["layer"], "our layer": r["our_layer"], "ours": r["ours"]}
            | {name: r[name] for name in PUBLISHED}
        ),
        lambda r, _: {"quantity": "directions for 99 % of the variance"},
        lambda r: r["quantity"] == "dimensions" and r["cluster"] == "",
        ("y", "published"),
    ),
    "published_projections": Case(
        "published.csv",
        lambda r, _: {"pair": r["statistic"], "ours": r["ours"]} | {name: r[name] for name in PUBLISHED},
        lambda r, _: {"quantity": PROJECTED[r["quantity"]]},
        drawn=("x", "published"),
    ),
    "losses": Case(
        "losses.csv",
        lambda r, _: (
            {name: r[name] for name in ("task", "cluster", "model", "tokens", "before")} | {"after": r["after"]}
        ),
        drawn=("x", "after"),
    ),
    "training": Case(
        "training.csv",
        lambda r, _: {"model": r["model"], "step": r["step"], "gradient norm": r["grad_norm"]},
        lambda r, _: {"kind": "gradient norm", "model": r["model"]},
        drawn=("y", "grad_norm"),
    ),
}
#: Of numbers that are computed in the page; the others only show what a file holds.
COMPUTED = {"cka_estimators", "adapter_layers"}


def test_every_figure_has_a_case():
    assert CASES.keys() | COMPUTED == FIGURES.keys()


@pytest.mark.parametrize("figure", CASES)
def test_points_tell_what_the_file_says(page_of, figure):
    """Some rows drawn by lot: the text is the file's own, and the point is where the number belongs."""
    case, page = CASES[figure], page_of(figure)
    rows = [row for row in read(page.study / "results" / case.file) if case.rows(row)]
    for row in random.Random(figure).sample(rows, 3):
        words = page.words(row.get("measure") or row.get("projection") or "")
        before = page.choose(figure, **case.choose(row, words))
        expected = {label: "missing" if text in MISSING else text for label, text in case.told(row, words).items()}
        found = [point for point in page.points(figure) if expected.items() <= point.items()]
        assert found, expected
        if case.drawn:
            axis, column = case.drawn
            places = [point["at"][axis] for point in found]
            value = float("nan" if row[column] in MISSING else row[column])
            assert any(same(place, value) for place in places), (expected, column, places)
        page.choose(figure, **before)


def test_medians_over_pairs_of_tasks(page, study):
    """Against NumPy, at every point: the median and middle half over the pairs of one cluster, or of two."""
    cluster = {row["name"]: row["cluster"] for row in read(study / "results" / "task_map.csv")}
    own: dict[tuple[str, str, bool], list[float]] = {}
    for row in read(study / "results" / "adapters_by_layer.csv"):
        alike = cluster[row["task_i"]] == cluster[row["task_j"]]
        if row["share"] not in MISSING and row["task_i"] != row["task_j"]:
            own.setdefault((row["module"], row["layer"], alike), []).append(float(row["share"]))
    seen = set()
    before = page.choose("adapter_layers", module="self_attn.v_proj")
    for module in ("self_attn.q_proj", "self_attn.v_proj"):
        page.choose("adapter_layers", module=module)
        for point in (point for point in page.points("adapter_layers") if "median" in point):
            key = module, point["layer"], point["pairs"] == "pairs of one cluster"
            low, median, high = np.quantile(own[key], [0.25, 0.5, 0.75])
            assert int(point["n"]) == len(own[key]), key
            assert point["at"]["y"] == pytest.approx(median, abs=1e-12), key
            assert point["median"] == f"{median:.4g}", key
            assert point["middle half"] == f"{low:.4g} to {high:.4g}", key
            seen.add(key)
    page.choose("adapter_layers", **before)
    assert seen == own.keys()


def test_means_of_both_estimators(page, study):
    """Against NumPy, at every point, also where tasks are missing."""
    own: dict[tuple[str, str, str], list[float]] = {}
    for row in read(study / "results" / "cka.csv"):
        if row["layer_a"] != row["layer_b"]:
            continue
        values = {row["estimator"]: row["cka"]}
        if row["estimator"] == "biased":
            values["biased by chance"] = row["null_mean"]
        for name, value in values.items():
            if value not in MISSING:
                own.setdefault((row["pair"], name, row["layer_a"]), []).append(float(value))
    assert {len(values) for values in own.values()} >= {6, 7}
    seen = set()
    before = page.choose("cka_estimators", pair="E | C")
    for pair in ("base | C", "E | C", "base | E"):
        page.choose("cka_estimators", pair=pair)
        for point in page.points("cka_estimators"):
            [estimator] = {"debiased", "biased", "biased by chance"} & point.keys()
            key = pair, estimator, point["layer"]
            if key in own:
                assert point["at"]["y"] == pytest.approx(np.mean(own[key]), abs=1e-12), key
                assert int(point["mean over"].split()[0]) == len(own[key]), key
                seen.add(key)
            else:
                assert same(point["at"]["y"], float("nan")), key
    page.choose("cka_estimators", **before)
    assert seen == own.keys()


def test_every_pair_of_tasks_has_its_clusters_and_is_drawn(page, study):
    """Both ways round; only a task and itself have nothing."""
    cluster = {row["name"]: row["cluster"] for row in read(study / "results" / "task_map.csv")}
    for point in page.points("adapter_heatmaps"):
        assert point["clusters"] == f"{cluster[point['first']]}, {cluster[point['second']]}"
    for figure in ("adapter_heatmaps", "adapter_layer_heatmaps"):
        points = page.points(figure)
        assert len(points) == len(cluster) ** 2
        assert all(same(p["at"]["z"], float("nan")) == (p["first"] == p["second"]) for p in points)


@pytest.mark.parametrize("task", ["pairs", "<b>tag</b> & &amp;"])
def test_numbers_under_the_mouse(page, study, task):
    """A real pointer over a real point shows the loss as the file has it, and the name as it is written."""
    row = next(row for row in read(study / "results" / "losses.csv") if row["model"] == "C" and row["task"] == task)
    page.page.locator("#losses .canvas").scroll_into_view_if_needed()
    where = """([task]) => {
      const { canvas, traces } = figures.get("losses");
      const trace = traces.findIndex((t) => t.rows?.some((r) => r.model === "C"));
      const i = traces[trace].rows.findIndex((r) => r.task === task);
      const { xaxis, yaxis } = canvas._fullLayout, box = canvas.getBoundingClientRect();
      return [box.left + xaxis._offset + xaxis.l2p(traces[trace].x[i]), box.top + yaxis._offset + yaxis.l2p(traces[trace].y[i])];
    }"""
    page.page.mouse.move(*page.page.evaluate(where, [task]))
    label = page.page.locator("#losses .hovertext").first
    label.wait_for()
    assert {f"task: {task}", f"before: {row['before']}", f"after: {row['after']}"} <= set(lines(label))
    page.page.mouse.move(0, 0)
    page.page.wait_for_function("!document.querySelector('#losses .hovertext')")
    ticks = page.page.eval_on_selector_all("#losses .ytick text", "(all) => all.map((text) => text.textContent)")
    assert task in ticks


def same(place: Any, value: float) -> bool:
    """What is missing is nowhere."""
    return place == value or (np.isnan(value) and (place is None or np.isnan(place)))


def lines(label) -> list[str]:
    """The lines of a hover label."""
    return label.evaluate("(e) => [...e.querySelectorAll('tspan.line')].map((line) => line.textContent)")
