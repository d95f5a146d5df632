"""A study with every result there is, made up and written as the commands write theirs, for the report in a browser.

Numbers are random; what they must keep (symmetry, order, what is missing) they keep. Names of tasks need escaping in CSV
files, in HTML and in Plotly's own markup.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lorajax.files import write_text
from lorajax.lora.masks import Ablation, layer_masks
from run import recipes
from run.ablate_layers import VARIABLES, summary
from run.adapter_map import MapConfig, make_map
from run.compare_adapters import NULLS, _write_map, _write_means
from run.embed_tasks import METHODS, STATISTICS, _spread
from run.layer_summary import bands_table, by_layer
from run.losses import _csv
from run.options import StudyConfig
from run.readability import ReadabilityConfig, correlations
from run.spectrum import MEASURES
from run.task_results import write, write_csv

#: Task and cluster.
TASKS = {
    "facts": "questions",
    "facts2": "questions",
    'say "yes", or no': "questions",
    "<b>tag</b> & &amp;": "mark-up, <i>or</i> text",
    "one; two": "mark-up, <i>or</i> text",
    "paraphrase_with_a_name_that_is_cut_in_figures": "pairs",
    "pairs": "pairs",
}
PAIRS = {"base | C": (0.45, 0.4), "E | C": (0.85, 0.1), "base | E": (0.5, 0.4)}  # same-layer CKA at the end, its slope
DISTANCES = ("grassmann_columns", "grassmann_rows", "l2", "l2_equal_norm", "interference", "interference_equal_norm")
DIRECTED = ("rec", "lp", "lp_normalised", "entropy_s1", "entropy_s2", "capture_block", "capture_columns")
DIRECTED += ("capture_rows", "capture_diagonal", "lp_equal_norm", "alignment")
ALIKE = ("overlap_columns", "overlap_rows", "cosine")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    blocks: int = 4
    points: int = 5
    maps: int = 3
    steps: int = 12
    draws: int = 100
    modules: tuple[str, ...] = ("self_attn.q_proj", "self_attn.v_proj")
    rank: int = 4

    @property
    def layers(self) -> list[str]:
        """Names of the layers."""
        return ["embedding", *(f"block {k}" for k in range(1, self.blocks + 1)), "final norm"]


def full_study(
    folder: Path, tasks: dict[str, str] = TASKS, sizes: Sizes = Sizes(), recipe: str = "", hidden: bool = True
) -> Path:
    """Writes `study.json` and results; returns `folder`.

    Args:
      hidden: the training log and what is measured of hidden states and losses too, not of adapters alone.
    """
    rng, results = np.random.default_rng(0), folder / "results"
    facts = {"train": 160, "test": 32, "cut_prompts": 0, "cut_answers": 0}
    config = StudyConfig().flat() | (recipes.load(recipe).flags if recipe else {}) | {"recipe": recipe}
    record = {
        "format": 2,
        "version": "0.1.0",
        "config": config | {"rank": sizes.rank},
        "model": {"name": "tiny", "fingerprint": "m0d31", "parameters": 1234567, "layers": sizes.layers},
        "data": {"source": "builtin", "fingerprint": "da7a"},
    }
    record["data"]["tasks"] = {
        task: facts | {"cluster": cluster, "train": 100 + i} for i, (task, cluster) in enumerate(tasks.items())
    }
    write_text(folder / "study.json", json.dumps(record))
    if hidden:
        _not_of_adapters(folder, rng, tasks, sizes, record)
    _adapters(rng, tasks, sizes, results)
    return folder


def _not_of_adapters(
    folder: Path, rng: np.random.Generator, tasks: dict[str, str], sizes: Sizes, record: dict[str, Any]
) -> None:
    """Training, losses, and all that is measured of hidden states."""
    results = folder / "results"
    _log(folder / "metrics.jsonl", rng, tasks, sizes)
    write_text(results / "losses.csv", _csv(_losses(rng, tasks)))
    cka = _cka(rng, tasks, sizes)
    write(cka, results / "cka.nc")
    write_csv(cka[["cka", "null_mean"]], results / "cka.csv")
    write_csv(by_layer(cka, "debiased", replicates=sizes.draws, seed=0), results / "cka_by_layer.csv")
    bands = bands_table(cka, "debiased", k=2, replicates=sizes.draws, seed=0)
    write_text(results / "bands.csv", bands.to_csv(index=False, float_format="%.6g"))
    _hidden(rng, tasks, sizes, results)
    _ablation(rng, tasks, sizes, results)
    table = _readability(rng, record)
    write_text(results / "readability.csv", table.to_csv(index=False, float_format="%.6g"))
    found = correlations(table, cka, ReadabilityConfig())
    write_text(results / "readability_correlation.csv", found.to_csv(index=False, float_format="%.6g"))


def _cka(rng: np.random.Generator, tasks: dict[str, str], sizes: Sizes) -> xr.Dataset:
    """The embedding is constant; the third task's C is not finite in the last block but one."""
    names, size = list(tasks), len(sizes.layers)
    depth = np.linspace(0, 1, size)
    ends = np.array([1 - (1 - end) * depth**slope for end, slope in PAIRS.values()])
    far = np.exp(-2 * np.abs(depth[:, None] - depth))
    level = np.sqrt(ends[:, :, None] * ends[:, None, :]) * far
    cka = np.stack([level, level + 0.03], 1)[:, :, None] + rng.normal(0, 0.03, (len(PAIRS), 2, len(names), size, size))
    cka[..., 0, :] = cka[..., :, 0] = np.nan
    cka[:2, :, 2, :, -3] = np.nan
    reason = np.full((3, len(names), size), "", dtype=object)
    reason[:, :, 0] = "constant features: all 32 rows are equal"
    reason[2, 2, -3] = "non-finite values in 2 of 32 rows (as float32)"
    duplicates = np.zeros(reason.shape, int)
    duplicates[:, :, 0] = 31
    null = rng.uniform(0.1, 0.3, (len(PAIRS), len(names), size, size))
    null[..., 0, :] = null[..., :, 0] = np.nan
    where = ("layer_a", "layer_b")
    return xr.Dataset(
        {
            "cka": (("pair", "estimator", "task", *where), cka.astype(np.float32)),
            "null_mean": (("pair", "task", *where), null.astype(np.float32)),
            "n": ("task", np.full(len(names), 32)),
            "reason": (("model", "task", "layer"), reason),
            "duplicates": (("model", "task", "layer"), duplicates),
        },
        {"pair": list(PAIRS), "estimator": ["debiased", "biased"], "task": names, "model": ["base", "E", "C"]}
        | {"cluster": ("task", list(tasks.values()))}
        | dict.fromkeys(("layer", *where), sizes.layers),
        {"provenance": json.dumps({task: {"model": "m0d31", "data": "da7a", "E": "e"} for task in names})},
    )


def _hidden(rng: np.random.Generator, tasks: dict[str, str], sizes: Sizes, results: Path) -> None:
    """Spectra, maps of prompts and scores of clusters."""
    names, L = list(tasks), len(sizes.layers)
    values = rng.gamma(9, 1, (len(names), 3, len(MEASURES), L))
    values[:, :, :, 0] = np.nan
    own = {"cluster": ("task", list(tasks.values()))}
    spectrum = xr.Dataset(
        {"spectrum": (("task", "model", "measure", "layer"), values), "n": ("task", np.full(len(names), 32))},
        {"task": names, "model": ["base", "E", "C"], "measure": list(MEASURES), "layer": sizes.layers} | own,
        {"provenance": "{}"},
    )
    write(spectrum, results / "spectrum.nc")
    write_csv(spectrum["spectrum"], results / "spectrum.csv")
    owners = np.repeat(names, sizes.points)
    maps = np.full((2, len(METHODS), L, len(owners), 2), np.nan, np.float32)
    for layer in np.array(_spread(L - 1, sizes.maps)) + 1:
        maps[:, :, layer] = rng.normal(0, 1, (2, len(METHODS), len(owners), 2))
        maps[:, :, layer] += np.repeat(rng.normal(0, 9, (len(names), 2)), sizes.points, 0)
    measures = ["silhouette", "knn_purity", "silhouette_across", "knn_purity_across", "nmi"]
    scores = rng.uniform(0, 1, (2, len(measures), L, len(STATISTICS)))
    scores[:, :, 0] = np.nan
    coords = {"model": ["base", "E"], "projection": list(METHODS), "layer": sizes.layers, "axis": ["x", "y"]}
    embedding = xr.Dataset(
        {
            "map": (("model", "projection", "layer", "point", "axis"), maps),
            "score": (("model", "measure", "layer", "statistic"), scores),
        },
        coords
        | {"measure": measures, "statistic": list(STATISTICS)}
        | {"task": ("point", owners), "cluster": ("point", [tasks[task] for task in owners])},
        {"provenance": "{}"},
    )
    write(embedding, results / "embedding.nc")
    write_csv(embedding["score"], results / "embedding_scores.csv")
    write_csv(embedding["map"], results / "embedding_map.csv")


def _ablation(rng: np.random.Generator, tasks: dict[str, str], sizes: Sizes, results: Path) -> None:
    """Both models under some masks of each kind; the first task's C has no gain that could be shared out."""
    half = sizes.blocks // 2
    masks = layer_masks(("single", "prefix", "band"), sizes.blocks, [(1, half), (half + 1, sizes.blocks)])
    kept = np.array([mask.keep(sizes.blocks).mean() for mask in masks])
    known = {}
    for task in tasks:
        for model in ("C", "E"):
            gain = 0 if (task, model) == (next(iter(tasks)), "C") else rng.uniform(1, 2)
            nats = 4 - gain * kept[:, None] + rng.normal(0, 0.05, (len(masks), 12))
            known[task, model] = Ablation(masks, nats * 3, np.full(12, 3))
    found = summary(known, sizes.layers[1:-1])
    found.coords["cluster"] = "task", list(tasks.values())
    write(found.assign_attrs(provenance="{}"), results / "ablation.nc")
    rows = found[list(VARIABLES)].to_dataframe().reset_index().dropna(subset="loss")
    write_text(results / "ablation.csv", rows.to_csv(index=False, float_format="%.6f"))


def _adapters(rng: np.random.Generator, tasks: dict[str, str], sizes: Sizes, results: Path) -> None:
    """Measures of all pairs in all layers, projections beside chance, the map and the tree."""
    names, measures = list(tasks), [*DISTANCES, *DIRECTED, *ALIKE]
    T, shape = len(names), (len(sizes.modules), sizes.blocks, len(names), len(names))
    same = np.array(list(tasks.values()))[:, None] == np.array(list(tasks.values()))

    def measured(name: str) -> np.ndarray:
        near = rng.normal(0.9, 0.05, shape) - 0.1 * same
        near = near if name in DIRECTED else (near + near.swapaxes(-1, -2)) / 2
        near = 1 - near if name in ALIKE else near
        near[..., np.arange(T), np.arange(T)] = 0 if name in DISTANCES else 1
        return 6 * near if name.startswith("grassmann") else near

    values = {name: measured(name) for name in measures}
    values |= {f"{name}_share": values[name] / 6 for name in DISTANCES[:2]}
    spectra = -np.sort(-rng.gamma(2, 1, (T, *shape[:2], sizes.rank)), -1)
    pair, one = ("module", "layer", "task_i", "task_j"), ("task", "module", "layer")
    pairs = xr.Dataset(
        {
            "value": (("measure", *pair), np.stack(list(values.values())).astype(np.float32)),
            "expected": (("side", *pair), np.full((2, *shape), 6, np.float32)),
            "singular_value": ((*one, "direction"), spectra.astype(np.float32)),
            "reason": (one, np.full((T, *shape[:2]), "", object)),
        },
        {"measure": list(values), "module": list(sizes.modules), "layer": range(sizes.blocks)}
        | {
            "side": ["columns", "rows"],
            "direction": range(1, sizes.rank + 1),
            "cluster": ("task", list(tasks.values())),
        }
        | dict.fromkeys(("task", "task_i", "task_j"), names),
    )
    statistics = ["value", "null_mean", "null_sd", "z", "p_value"]
    shown = ["rec", "lp", "entropy_s2", "capture_columns"]
    null = rng.uniform(0.01, 1, (len(NULLS), len(shown), len(statistics), T, T))
    null[:, :, 0] = null[:1, :, 0]  # the value itself is the same under either
    pairs["null"] = ("null_model", "projection", "statistic", "task_i", "task_j"), null.astype(np.float32)
    pairs = pairs.assign_coords(null_model=list(NULLS), projection=shown, statistic=statistics)
    provenance = json.dumps({"variant": "sum", "p": 1.0, "form": "absolute", "adapters": {}})
    pairs.attrs["provenance"] = provenance
    _write_means(pairs, results)
    write(pairs, results / "adapters.nc")
    config = MapConfig(permutations=sizes.draws, replicates=max(100, sizes.draws))
    _write_map(make_map(pairs, names, list(tasks.values()), config), provenance, results)


def _losses(rng: np.random.Generator, tasks: dict[str, str]) -> list[dict[str, str]]:
    """The second task was not measured under E, the third has no loss after."""
    rows = []
    for i, (task, cluster) in enumerate(tasks.items()):
        before = rng.uniform(2, 5)
        for model in ("E", "C"):
            after = "nan" if i == 2 else f"{before - rng.uniform(-0.3, 1.5):.6f}"
            row = {"task": task, "cluster": cluster, "model": model, "tokens": str(90 + i), "before": f"{before:.6f}"}
            rows += [] if (i, model) == (1, "E") else [row | {"after": after, "adapter": f"{model}{i}"}]
    return rows


def _log(file: Path, rng: np.random.Generator, tasks: dict[str, str], sizes: Sizes) -> None:
    """The training log."""
    names = ["E", *tasks]
    lines = []
    for step in range(1, sizes.steps + 1):
        loss, norm = (dict(zip(names, (rng.uniform(1, 3, len(names)) / step**0.5).tolist(), strict=True)) for _ in "ab")
        lines.append(json.dumps({"step": step, "loss": loss, "grad_norm": norm}))
    write_text(file, "\n".join(lines) + "\n")


def _readability(rng: np.random.Generator, record: dict[str, Any]) -> pd.DataFrame:
    """A row for each task."""
    tasks = record["data"]["tasks"]
    table = pd.DataFrame({"task": list(tasks), "cluster": [own["cluster"] for own in tasks.values()]})
    table["text"], table["n"], table["train_examples"] = "prompt", 32, [own["train"] for own in tasks.values()]
    for name in ("flesch_kincaid", "coleman_liau", "words"):
        table[name] = rng.uniform(4, 12, len(table))
    return table
