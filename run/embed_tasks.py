"""Do tasks of one cluster lie together? Maps of their prompts by layer, and numbers that say how far.

    python -m run.embed_tasks STUDY
    python -m run.embed_tasks MODEL MODEL --out FOLDER --data TASKS

Some prompts of every task are taken together, in every layer of the base model and of E: PCA and t-SNE draw them, and
silhouette, purity of the k nearest neighbours and normalised mutual information with k-means say how far the tasks'
clusters are apart. Prompts of one task share a template and lie together whatever the clusters are, so the baseline
hands the clusters' names to whole tasks at random, and the `across` scores look at neighbours of other tasks alone.

Results, under `results/`: `embedding.nc`, `embedding_scores.csv`, `embedding_map.csv`.

`--json`: `clusters`, rows of model, measure, layer, value, and mean, sd and p of the null model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import tyro
import xarray as xr

from analysis.clusters import ClusterScores, Score, cluster_scores, trustworthiness
from analysis.embedding import embed
from lorajax.activations import States
from lorajax.errors import LorajaxError
from run.__main__ import cli
from run.comparison import Comparison
from run.lock import study_lock
from run.observe import observe
from run.subjects import HiddenConfig, Subject
from run.task_results import Provenance, write, write_csv
from run.terminal import command, progress, result, say, show_table, wrote
from run.workbench import Workbench

METHODS = ("pca", "tsne")
STATISTICS = ("value", "null_mean", "null_sd", "p_value")


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """What is drawn and measured."""

    points: int = 32
    """Prompts of each task at most."""
    maps: int = 9
    """Layers that are drawn, evenly spread; every layer is measured."""
    neighbours: int = 10
    """k of the nearest neighbours."""
    label_permutations: int = 200
    """Ways of handing the clusters' names to tasks at random."""
    perplexity: float | None = None
    """Of t-SNE: 30, or as much as the number of points allows."""
    map_seed: int = 0
    """Of t-SNE, k-means and the permutations."""

    def __post_init__(self):
        for name, least in (("points", 2), ("maps", 1), ("neighbours", 1), ("label_permutations", 1)):
            if (value := getattr(self, name)) < least:
                raise LorajaxError(f"--{name.replace('_', '-')} must be at least {least}, found {value}")


@dataclasses.dataclass(frozen=True)
class EmbedTasks:
    """Draw the tasks' prompts by layer, and measure their clusters."""

    what: tyro.conf.OmitArgPrefixes[Comparison]
    embedding: tyro.conf.OmitArgPrefixes[EmbedConfig] = EmbedConfig()


class EmbedObserver:
    """Collects some points of every task; measured when all are there."""

    name, per_prompt = "embedding", None

    def __init__(self, subject: Subject, tasks: Sequence[str], hidden: HiddenConfig, options: EmbedConfig):
        # A control model has its own space for every task: there is nothing to lay side by side.
        self.models = tuple(model for model in subject.models if model != "C")
        self.tasks, self.file = list(tasks), subject.path / "results" / "embedding.nc"
        self._subject, self._hidden, self._options = subject, hidden, options
        self._points: dict[str, dict[str, np.ndarray]] = {}
        self._whole = self.file.exists() and self._written() == json.dumps(self.provenance())

    def provenance(self) -> Provenance:
        """What the result depends on."""
        tasks = {task: self._subject.provenance(task) for task in self.tasks}
        for facts in tasks.values():
            facts.pop("C", None)
        return {"tasks": tasks} | self._hidden.facts | dataclasses.asdict(self._options)

    def is_done(self, task: str) -> bool:
        """Whether the result is there and current; else every task is needed."""
        return self._whole or task in self._points

    def see(self, task: str, states: dict[str, States]) -> None:
        """Keeps some of the points."""
        self._points[task] = {model: self._some(states[model].values) for model in self.models}

    def finish(self) -> xr.Dataset:
        """Draws and measures, and writes the result; or reads it where it is current."""
        found = xr.load_dataset(self.file, engine="h5netcdf") if self._whole else self._made()
        scores = found["score"].to_dataset("statistic").to_dataframe().reset_index()
        result(clusters=scores[["model", "measure", "layer", *STATISTICS]])
        wrote(self.file, *(self.file.with_name(f"embedding_{name}.csv") for name in ("scores", "map")))
        return found

    def _made(self) -> xr.Dataset:
        owners = np.concatenate([[t] * self._points[t][self.models[0]].shape[1] for t in self.tasks])
        clusters = np.array([self._subject.clusters[task] for task in owners])
        found = []
        for model in self.models:
            points = np.concatenate([self._points[task][model] for task in self.tasks], axis=1)
            say(f"  drawing {points.shape[1]} prompts in the layers of {model}")
            found.append(measure(points, clusters, owners, self._layers(model), self._options))
        joined = xr.concat(found, dim="model", join="outer").assign_coords(model=list(self.models))
        whole = joined.assign_coords(task=("point", owners), cluster=("point", clusters))
        whole.attrs["provenance"] = json.dumps(self.provenance())
        write(whole, self.file)
        write_csv(whole["score"], self.file.with_name("embedding_scores.csv"))
        write_csv(whole["map"], self.file.with_name("embedding_map.csv"))
        return whole

    def _some(self, values: np.ndarray) -> np.ndarray:
        rows = np.random.default_rng(self._options.map_seed).permutation(values.shape[1])[: self._options.points]
        return np.asarray(values[:, np.sort(rows)])

    def _layers(self, model: str) -> list[str]:
        names = self._subject.layers[model]
        return [names[i] for i in self._hidden.layers] if self._hidden.layers else names

    def _written(self) -> str:
        with xr.open_dataset(self.file, engine="h5netcdf") as dataset:
            return dataset.attrs.get("provenance", "")


def measure(
    points: np.ndarray, clusters: np.ndarray, owners: np.ndarray, layers: list[str], options: EmbedConfig
) -> xr.Dataset:
    """Maps and scores of one model's points `[L, n, D]`, labelled by cluster `[n]` and task `[n]`.

    A layer whose points are all equal has neither; with fewer than two clusters there are maps alone.
    """
    L, n, _ = points.shape
    usable = [i for i in range(L) if np.ptp(points[i], axis=0).any() and np.isfinite(points[i]).all()]
    drawn = [usable[i] for i in _spread(len(usable), options.maps)]
    maps = np.full((len(METHODS), L, n, 2), np.nan)
    trust = np.full((len(METHODS), L, len(STATISTICS)), np.nan)
    settings = {}
    k = min(options.neighbours, (n - 1) // 2)
    with progress() as bar:
        line = bar.add_task("maps", total=len(METHODS) * len(drawn), note="")
        for m, method in enumerate(METHODS):
            for i in drawn:
                made = embed(points[i], method, perplexity=options.perplexity, seed=options.map_seed)  # type: ignore[arg-type]
                maps[m, i], settings[method] = made.points, dataclasses.asdict(made.settings)
                bar.update(line, advance=1, note=f"{method}, {layers[i]}")
            if drawn:
                score = trustworthiness(points[drawn], maps[m, drawn], k=k, permutations=20, seed=options.map_seed)
                trust[m, drawn] = np.stack(score, axis=-1)
    scores, names = _scores(points, usable, clusters, owners, options)
    return xr.Dataset(
        {
            "map": (("projection", "layer", "point", "axis"), maps.astype(np.float32)),
            "trustworthiness": (("projection", "layer", "statistic"), trust),
            "score": (("measure", "layer", "statistic"), scores),
        },
        coords={
            "projection": list(METHODS),
            "layer": layers,
            "axis": ["x", "y"],
            "measure": names,
            "statistic": list(STATISTICS),
        },
        attrs={"maps": json.dumps(settings)},
    )


def _scores(
    points: np.ndarray, usable: list[int], clusters: np.ndarray, owners: np.ndarray, options: EmbedConfig
) -> tuple[np.ndarray, list[str]]:
    names = ["silhouette", "knn_purity", "silhouette_across", "knn_purity_across", "nmi"]
    scores = np.full((len(names), len(points), len(STATISTICS)), np.nan)
    room = len(owners) - np.unique(owners, return_counts=True)[1].max()
    if len(np.unique(clusters)) < 2 or not usable or room < 1:
        return scores, names
    found: ClusterScores = cluster_scores(
        points[usable],
        clusters,
        owners,
        permutations=options.label_permutations,
        k=min(options.neighbours, room),
        seed=options.map_seed,
    )
    for m, name in enumerate(names):
        own: Score = found.overall[name]
        scores[m, usable] = np.stack(own, axis=-1)
    return scores, names


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread, with both ends."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))}) if count else []


def embed_tasks(options: EmbedTasks, bench: Workbench | None = None) -> xr.Dataset:
    """Draws and measures, unless that is done, and writes the results."""
    subject = options.what.subject(bench)
    with study_lock(subject.path):
        tasks = options.what.tasks(subject)
        observer = EmbedObserver(subject, tasks, options.what.hidden, options.embedding)
        observe(subject, tasks, options.what.hidden, [observer], save=options.what.save_activations)
        found = observer.finish()
    show(found)
    return found


def show(found: xr.Dataset) -> None:
    """Prints the scores at a few depths, each beside its mean under the null hypothesis."""
    layers = [str(name) for name in found.layer.values]
    depths = _spread(len(layers), 5)
    rows = []
    for model in found.model.values:
        for measure in ("silhouette", "knn_purity_across", "nmi"):
            own = found.score.sel(model=model, measure=measure)
            cells = []
            for i in depths:
                value, mean, _, p = own.isel(layer=i).values
                cells.append("missing" if np.isnan(value) else f"{value:.2f} ({mean:.2f}, p {p:.3f})")
            rows.append([f"{model}: {measure}", *cells])
    show_table("Clusters of tasks: score (mean under the null, p)", ["", *(layers[i] for i in depths)], rows)


def main() -> None:
    """Entry point of `python -m run.embed_tasks`."""
    options = cli(
        EmbedTasks,
        prog="python -m run.embed_tasks",
        description=__doc__,
        example="studies/demo",
        main=("tasks", "tokens", "layers", "points", "maps", "neighbours", "label_permutations", "perplexity"),
    )
    embed_tasks(options)


if __name__ == "__main__":
    command(main)
