"""Where does each task live? CKA between all layers of the base model, the multi-task model E and the control models C.

    python -m run.cka_all_layers STUDY
    python -m run.cka_all_layers MODEL MODEL --out FOLDER --data TASKS
    python -m run.cka_all_layers MODEL ADAPTER ADAPTER --out FOLDER

For every task t, the hidden states of t's held-out prompts (their last token, in every layer) are taken under the base
model, under E and under t's own control model C, and every layer of one is compared with every layer of another. A high
E | C means that the multi-task model holds, at that layer, what training on the task alone would have put there.

A study must hold trained adapters (python -m run.finetune). Without a study, all pairs of the named models are compared
on the tasks of --data. Results, under `results/`: `cka.nc` and `cka.csv`, labelled: both estimates of every layer pair,
the mean of the biased one under the null hypothesis, intervals and p-values of same-layer values; `cka_by_layer.csv`,
means over tasks with intervals; `bands.csv`, where the layer curve changes and how sure that is. And the figures. Tasks
that are done are not done again.

`--json`: `cka`, rows of cka_by_layer.csv; `bands`, rows of bands.csv; `tasks`, those that were compared.
"""

from __future__ import annotations

import dataclasses
import shutil
from typing import Literal

import numpy as np
import pandas as pd
import tyro
import xarray as xr

from analysis.bootstrap import cka_interval
from analysis.cka import Estimator, biased_null_mean, cka_both, duplicate_rows, missing_reason
from analysis.permutation import permutation_test
from lorajax.activations import States
from lorajax.errors import LorajaxError
from lorajax.files import write_text
from run import figures
from run.__main__ import cli
from run.comparison import Comparison
from run.layer_summary import bands_table, by_layer
from run.lock import study_lock
from run.observe import observe
from run.subjects import Subject, parse_pairs
from run.task_results import Provenance, TaskResults, write, write_csv
from run.terminal import command, result, show_table, wrote
from run.workbench import Workbench

ESTIMATORS = ("debiased", "biased")
LEAST_FOR_INTERVAL = 8


@dataclasses.dataclass(frozen=True)
class CkaConfig:
    """What is computed of each pair of models."""

    pairs: tuple[str, ...] = ()
    """Models to compare, as base:C; a study's are base, E and C, and base:C, E:C, base:E when none is named."""
    kernel: Literal["linear", "rbf"] = "linear"
    """`linear`, or `rbf` with the median distance as its width."""
    estimator: Estimator = "debiased"
    """The one that tables, means over tasks and bands use; results hold both."""
    bootstrap: int = 2000
    """Replicates for the 95 % intervals of means over tasks and of the bands; those over examples need none."""
    permutations: int = 200
    """Permutations of the examples for the p-values; 0 for none."""
    bands: int = 3
    """How many bands the layers are cut into: shared, transition and refinement are three."""
    seed: int = 0
    """Of bootstrap and permutations."""

    def __post_init__(self):
        for name, least in (("bootstrap", 100), ("permutations", 0), ("bands", 1)):
            if (value := getattr(self, name)) < least:
                raise LorajaxError(f"--{name} must be at least {least}, found {value}")


@dataclasses.dataclass(frozen=True)
class CkaAllLayers:
    """Compare models, all layers with all layers."""

    what: tyro.conf.OmitArgPrefixes[Comparison]
    cka: tyro.conf.OmitArgPrefixes[CkaConfig] = CkaConfig()


class CkaObserver:
    """CKA of all layer pairs, for the pairs of models asked for."""

    name, per_prompt = "CKA", None

    def __init__(self, subject: Subject, options: CkaAllLayers):
        self.pairs = parse_pairs(options.cka.pairs, subject)
        self.models = tuple(m for m in subject.models if any(m in pair for pair in self.pairs.values()))
        self.results = TaskResults(subject.path / "results", "cka")
        self._subject, self._options = subject, options

    def provenance(self, task: str) -> Provenance:
        """What the result of `task` depends on."""
        settings = dataclasses.asdict(self._options.cka)
        # They take no part in a task's own result.
        own = {k: v for k, v in settings.items() if k not in ("estimator", "bands", "bootstrap", "pairs")}
        made_of = self._subject.provenance(task) | self._options.what.hidden.facts
        return made_of | own | {"pairs": list(self.pairs)}

    def is_done(self, task: str) -> bool:
        """Whether the result of `task` is there and current."""
        return self.results.is_current(task, self.provenance(task))

    def see(self, task: str, states: dict[str, States]) -> None:
        """Compares, and writes the result of `task`."""
        cluster, layers = self._subject.clusters[task], self._layers()
        found = compare(states, self.pairs, layers, self._options.cka)
        labelled = found.expand_dims(task=[task]).assign_coords(cluster=("task", [cluster]))
        labelled = labelled.transpose("pair", "estimator", "model", "task", ...)
        self.results.write(task, labelled, self.provenance(task))

    def join(self) -> xr.Dataset:
        """The results of all tasks that are current."""
        return self.results.join({task: self.provenance(task) for task in self._subject.clusters})

    def _layers(self) -> dict[str, list[str]]:
        chosen = self._options.what.hidden.layers
        return {m: [names[i] for i in chosen] if chosen else names for m, names in self._subject.layers.items()}


def cka_all_layers(options: CkaAllLayers, bench: Workbench | None = None) -> Subject:
    """Computes what is missing of the CKA, writes it, and returns what was compared."""
    subject = options.what.subject(bench)
    with study_lock(subject.path):
        observer = CkaObserver(subject, options)
        tasks = options.what.tasks(subject)
        observe(subject, tasks, options.what.hidden, [observer], save=options.what.save_activations)
        finish(observer, options.cka)
    return subject


def finish(observer: CkaObserver, options: CkaConfig) -> None:
    """Joins the tasks' results, sums them up, draws and prints them."""
    joined, results = observer.join(), observer.results.path.parent
    write(joined, observer.results.path)
    write_csv(joined[["cka", "null_mean"]], results / "cka.csv")
    summary = by_layer(joined, options.estimator, replicates=options.bootstrap, seed=options.seed)
    write(summary, results / "cka_by_layer.nc")
    write_csv(summary, results / "cka_by_layer.csv")
    result(cka=pd.read_csv(results / "cka_by_layer.csv"), tasks=[str(task) for task in joined["task"].values])
    bands = bands_table(joined, options.estimator, k=options.bands, replicates=options.bootstrap, seed=options.seed)
    write_text(results / "bands.csv", bands.to_csv(index=False, float_format="%.6g"))
    result(bands=pd.read_csv(results / "bands.csv", keep_default_na=False, na_values={"p_value": [""]}))
    drawn = results.parent / "figures"
    if {"base | C", "E | C"} <= set(joined.pair.values):
        figures.save(figures.layer_boxplot(joined), drawn / "cka_by_layer.svg")
    figures.save(figures.layer_heatmaps(joined), drawn / "cka_all_layers.svg")
    show(joined, options.estimator)
    show_bands(bands)
    wrote(
        *(results / name for name in ("cka.nc", "cka.csv", "cka_by_layer.nc", "cka_by_layer.csv", "bands.csv")), drawn
    )


def compare(
    states: dict[str, States], pairs: dict[str, tuple[str, str]], layers: dict[str, list[str]], options: CkaConfig
) -> xr.Dataset:
    """CKA of all layer pairs of each pair of models on one task, as labelled arrays.

    Layers carry the names of the model with most of them; of models that differ in depth, only layers of one name are
    the same layer.
    """
    names = _all_names([layers[model] for model in states])
    place = {model: [names.index(name) for name in layers[model]] for model in states}
    size, blank = len(names), np.nan
    cka = np.full((len(pairs), len(ESTIMATORS), size, size), blank, np.float32)
    null = np.full((len(pairs), size, size), blank, np.float32)
    same = {name: np.full((len(pairs), size), blank, np.float32) for name in ("low", "high", "p", "p_family")}
    for p, (a, b) in enumerate(pairs.values()):
        xs, ys = states[a].values, states[b].values
        where = np.ix_(place[a], place[b])
        for e, values in enumerate(cka_both(xs, ys, kernel=options.kernel, nonfinite="missing")):
            cka[p, e][where] = values
        null[p][where] = biased_null_mean(xs, ys, nonfinite="missing")
        shared = [name for name in names if name in layers[a] and name in layers[b]]
        rows = [layers[a].index(name) for name in shared], [layers[b].index(name) for name in shared]
        here = [names.index(name) for name in shared]
        x, y = (
            side if len(own) == len(side) else side[np.asarray(own)] for side, own in zip((xs, ys), rows, strict=True)
        )
        if len(here) and xs.shape[1] >= LEAST_FOR_INTERVAL:
            interval = cka_interval(x, y, kernel=options.kernel, nonfinite="missing")
            same["low"][p, here], same["high"][p, here] = interval.low, interval.high
        if len(here) and options.permutations:
            test = permutation_test(
                x, y, permutations=options.permutations, seed=options.seed, kernel=options.kernel, nonfinite="missing"
            )
            same["p"][p, here], same["p_family"][p, here] = np.diag(test.p_value), np.diag(test.p_familywise)
    reason = np.full((len(states), size), "", dtype=object)
    duplicates = np.zeros((len(states), size), int)
    for m, (model, own) in enumerate(states.items()):
        reason[m, place[model]] = [why or "" for why in missing_reason(own.values)]
        reason[m, [i for i in range(size) if i not in place[model]]] = "the model has no such layer"
        duplicates[m, place[model]] = duplicate_rows(own.values)
    return xr.Dataset(
        {
            "cka": (("pair", "estimator", "layer_a", "layer_b"), cka),
            "null_mean": (("pair", "layer_a", "layer_b"), null),
            **{name: (("pair", "layer"), values) for name, values in same.items()},
            "n": ((), next(iter(states.values())).values.shape[1]),
            "reason": (("model", "layer"), reason),
            "duplicates": (("model", "layer"), duplicates),
        },
        coords={
            "pair": list(pairs),
            "estimator": list(ESTIMATORS),
            "model": list(states),
            "layer": names,
            "layer_a": names,
            "layer_b": names,
        },
    )


def show(results: xr.Dataset, estimator: Estimator) -> None:
    """Prints same-layer CKA of every task at a few depths."""
    blocks = [i for i, name in enumerate(results["layer"].values) if str(name).startswith("block ")]
    shares = (0.25, 0.5, 0.75, 1) if shutil.get_terminal_size((140, 24)).columns >= 110 else (0.5, 1)
    depths = sorted({round(share * (blocks[-1] if blocks else 0)) for share in shares})
    pairs = [str(pair) for pair in results["pair"].values if str(pair) != "base | E"][:2]
    tables = {pair: figures.same_layer(results, pair, estimator) for pair in pairs}
    rows = []
    for t, task in enumerate(results["task"].values):
        row = [str(task), str(int(results["n"].values[t]))]
        for pair in pairs:
            row += ["missing" if np.isnan(tables[pair][t, i]) else f"{tables[pair][t, i]:.3f}" for i in depths]
        rows.append(row)
    names = [str(results["layer"].values[i]) for i in depths]
    columns = ["task", "n", *(f"{pair}\n{name}" for pair in pairs for name in names)]
    show_table(f"Same-layer CKA ({estimator})", columns, rows)


def show_bands(bands: pd.DataFrame) -> None:
    """Prints where the layer curves are cut."""
    rows = [
        [
            str(row.curves),
            f"{row.first} to {row.last}".replace(" to block", " to"),
            f"{row.begins_low} to {row.begins_high}".replace(" to block", " to") if row.begins_low else "",
            f"{row.explained:.2f}" if row.band == 1 else "",
            "" if row.band > 1 or np.isnan(row.p_value) else f"{row.p_value:.3f}",
        ]
        for row in bands.itertuples()
    ]
    if rows:
        show_table("Bands of layers", ["curves", "band", "begins (95 %)", "explained", "p, gradual"], rows)


def _all_names(models: list[list[str]]) -> list[str]:
    """The names of the layers of all models, in the order of depth."""

    def depth(name: str) -> float:
        number = name.removeprefix("block ")
        return float(number) if number.isdigit() else {"embedding": 0.0}.get(name, np.inf)

    return sorted({name for names in models for name in names}, key=depth)


def main() -> None:
    """Entry point of `python -m run.cka_all_layers`."""
    options = cli(
        CkaAllLayers,
        prog="python -m run.cka_all_layers",
        description=__doc__,
        example="studies/demo",
        main=("tasks", "tokens", "layers", "pairs", "kernel", "estimator", "bootstrap", "permutations", "bands"),
    )
    cka_all_layers(options)


if __name__ == "__main__":
    command(main)
