"""Which tasks use the same directions? Adapters compared by their weights, from their own files, without the model.

    python -m run.compare_adapters STUDY
    python -m run.compare_adapters ADAPTERS --out FOLDER --clusters clusters.csv
    python -m run.compare_adapters seed0=STUDY seed1=STUDY --out FOLDER

ADAPTERS is a PEFT folder, a folder of PEFT folders, or a hub id owner/name; LoRA of any ranks and alphas. Every pair is
compared in every layer and module: Grassmann distances of what updates write (columns) and read (rows), cosine and
other distances, and the spectral projection of one update on the other's space. Each stands beside what unrelated
updates give. The mean distances over layers are the map of tasks: coordinates, a tree, and how far they go with known
clusters.

Results, under `results/`: `adapters.nc` (everything, by layer), `adapters.csv` (means over layers), `projection.csv`
(pairs i -> j with their null models), `adapters_base.csv` (with `--base`), `task_map.nc`, `task_map.csv`,
`task_map_scores.csv`, `task_tree.csv`; and `figures/`.

`--json`: `distances` on the map, `rec` of ordered pairs (rows of projection.csv), `scores` of the map.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
import xarray as xr

from analysis.projection_null import projection_null
from lorajax.errors import LorajaxError
from lorajax.files import write_text
from run import adapter_report, figures
from run.__main__ import cli
from run.adapter_base import against_base
from run.adapter_map import AdapterMap, MapConfig, make_map
from run.adapter_measures import MeasureConfig, measure_pairs
from run.adapter_set import AdapterSet, find_members
from run.lock import study_lock
from run.study_folder import StudyFolder, folder_fingerprint
from run.task_results import read, write, write_csv
from run.terminal import command, on_terminal, progress, result, say, show_table, wrote

NULLS = ("random_subspaces", "permuted_pairs")


@dataclasses.dataclass(frozen=True)
class CompareAdapters:
    """Compare adapters by their weights."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Studies, PEFT folders, folders of PEFT folders, or hub ids; NAME=PATH names an adapter, or begins many names."""
    out: Path | None = None
    """Folder for the results; a single study has its own."""
    names: tuple[str, ...] = ()
    """Adapters to compare, by name or glob; all when none is named."""
    multi_task: bool = False
    """Take the multi-task adapter E of a study too."""
    clusters: Path | None = None
    """CSV file with the columns name and cluster; a study knows its own."""
    modules: tuple[str, ...] = ()
    """Modules, by name (q_proj) or glob (*.mlp.*); all when none is named."""
    layers: tuple[int, ...] = ()
    """Layers by number, the first block being 0 as in PEFT files; all when none is named."""
    base: str = ""
    """The base model, for intruder dimensions and amplification; the rest needs none."""
    measure: tyro.conf.OmitArgPrefixes[MeasureConfig] = MeasureConfig()
    map: tyro.conf.OmitArgPrefixes[MapConfig] = MapConfig()
    draws: int = 1000
    """Random updates for the null models of projections, per layer and module; 0 for none."""
    seed: int = 0
    """Of these draws."""

    def __post_init__(self):
        if not self.paths:
            raise LorajaxError("name a study or adapters; --help tells more")
        if self.draws < 0:
            raise LorajaxError(f"--draws must be 0 (none) or more, found {self.draws}")
        family = "grassmann" if self.map.map_measure.startswith("grassmann") else "distances"
        if family not in self.measure.measures:
            raise LorajaxError(f"--measures: the map needs {family} for --map-measure {self.map.map_measure}")
        if self.measure.variant == "martin" and family == "grassmann":
            raise LorajaxError("--variant martin is infinite at right angles and makes no map; name another variant")
        if self.out is None and not self._is_study:
            raise LorajaxError("--out: name a folder for the results of adapters that are in no one study")

    @property
    def _is_study(self) -> bool:
        return len(self.paths) == 1 and (Path(self.paths[0]) / "study.json").exists()

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out if self.out is not None else Path(self.paths[0])


def compare_adapters(options: CompareAdapters) -> xr.Dataset:
    """Compares, unless that is done, writes the results, and prints what they come to."""
    with study_lock(options.folder):
        adapters = AdapterSet(find_members(options.paths, options.clusters, options.names, options.multi_task))
        for note in adapters.notes:
            say(f"note: {note}")
        modules = _chosen(adapters, options)
        results = options.folder / "results"
        provenance = json.dumps(_provenance(adapters, modules, options))
        pairs = _written(results / "adapters.nc", provenance)
        if pairs is None:
            pairs = _compared(adapters, modules, options)
            pairs.attrs["provenance"] = provenance
            _write_means(pairs, results)
            write(pairs, results / "adapters.nc")  # last: what says that all of it is there
        else:
            say(f"{results / 'adapters.nc'}: up to date")
        found = make_map(pairs, adapters.names, adapters.clusters, options.map)
        _write_map(found, provenance, results)
        made = adapter_report.drawn(pairs, found.dataset(), found.places, results / "projection.csv")
        for name, figure in made.items():
            figures.save(figure, options.folder / "figures" / f"{name}.svg")
    show(pairs, found)
    tell(options.folder)
    return pairs


def _chosen(adapters: AdapterSet, options: CompareAdapters) -> dict[str, list[int]]:
    modules = adapters.modules(options.modules)
    if not options.layers:
        return modules
    there = sorted({layer for layers in modules.values() for layer in layers})
    for layer in options.layers:
        if layer not in there:
            raise LorajaxError(f"--layers {layer}: not adapted by any; there are {there[0]} to {there[-1]}")
    chosen = {module: [layer for layer in layers if layer in options.layers] for module, layers in modules.items()}
    return {module: layers for module, layers in chosen.items() if layers}


def _provenance(adapters: AdapterSet, modules: dict[str, list[int]], options: CompareAdapters) -> dict[str, Any]:
    own = dataclasses.asdict(options.measure) | {"draws": options.draws, "seed": options.seed, "base": options.base}
    return {"adapters": adapters.fingerprints(), "clusters": adapters.clusters, "modules": modules, **own}


def _written(file: Path, provenance: str) -> xr.Dataset | None:
    """The result that is there, if it was made so."""
    found = read(file)
    return None if found is None or found.attrs.get("provenance") != provenance else found


def _compared(adapters: AdapterSet, modules: dict[str, list[int]], options: CompareAdapters) -> xr.Dataset:
    count, layers = len(adapters.names), sum(map(len, modules.values()))
    say(f"comparing {count} adapters: {count * (count - 1) // 2} pairs in {layers} weights")
    with progress() as bar:
        total = len({(module, adapters.shapes[module, layer]) for module in modules for layer in modules[module]})
        line = bar.add_task("pairs of adapters", total=total, note="")
        blocks = bar.track(adapters.blocks(modules), total=total, task_id=line)
        tell = (lambda text: None) if on_terminal() else say
        pairs = measure_pairs(blocks, adapters.names, options.measure, tell)
    pairs = pairs.assign_coords(cluster=("task", [str(cluster) for cluster in adapters.clusters]))
    if options.draws and "projection" in options.measure.measures and count > 1:
        pairs["null"] = _null(adapters, modules, options)
    if options.base:
        found = against_base(adapters.blocks(modules), adapters.names, options.base)
        pairs = xr.merge([pairs, found], join="outer")
    return pairs


def _null(adapters: AdapterSet, modules: dict[str, list[int]], options: CompareAdapters) -> xr.DataArray:
    """Means of projections over all layers and modules, beside both null models."""
    updates = [block.updates for block in adapters.blocks(modules)]
    found = []
    for null in NULLS:
        say(f"  null model: {null.replace('_', ' ')}")
        how = {"form": options.measure.form, "p": options.measure.p, "draws": options.draws, "seed": options.seed}
        over = projection_null(updates, null=null, **how).over_places  # type: ignore[arg-type]
        found.append([np.stack(chance) for chance in over.values()])
    return xr.DataArray(
        np.array(found, np.float32),
        dims=("null_model", "projection", "statistic", "task_i", "task_j"),
        coords={"null_model": list(NULLS), "projection": list(over), "statistic": [*next(iter(over.values()))._fields]},
    )


def is_compared(study: StudyFolder) -> bool:
    """Whether the study's control adapters as they are now were compared, with whatever settings, and mapped."""
    written = [read(study.results / f"{name}.nc") for name in ("adapters", "task_map")]
    made = {"" if found is None else found.attrs.get("provenance", "") for found in written}
    if len(made) > 1 or "" in made:
        return False
    now = {member.name: folder_fingerprint(member.folder) for member in find_members((str(study.path),))}
    return json.loads(made.pop())["adapters"] == now


def tell(folder: Path) -> None:
    """Tells the results in `folder`."""
    results, space = folder / "results", read(folder / "results" / "task_map.nc")
    assert space is not None
    distances, pairs = space.distance.sel(module="all"), itertools.combinations(space.task_i.values, 2)
    tables = [results / f"{name}.csv" for name in ("task_map_scores", "projection")]
    own = {file.stem: pd.read_csv(file, keep_default_na=False, na_values=[""]) for file in tables if file.exists()}
    rec = own["projection"].query("projection == 'rec'") if "projection" in own else []
    near = [{"a": a, "b": b, "distance": distances.sel(task_i=a, task_j=b).item()} for a, b in pairs]
    result(distances=near, rec=rec, scores=own["task_map_scores"])
    names = ("adapters.nc", "adapters.csv", "adapters_base.csv", "projection.csv", "task_map.nc", "task_map.csv")
    files = [results / name for name in (*names, "task_map_scores.csv", "task_tree.csv")]
    wrote(*(file for file in files if file.exists()), folder / "figures")


def _write_means(pairs: xr.Dataset, results: Path) -> None:
    write_csv(pairs.value.mean("layer").rename("mean_over_layers"), results / "adapters.csv")
    for name in ("projection", "adapters_base"):  # of another comparison, when this one has none
        (results / f"{name}.csv").unlink(missing_ok=True)
    if "null" in pairs:
        write_text(results / "projection.csv", projection_table(pairs).to_csv(index=False, float_format="%.6g"))
    if "base_value" in pairs:
        write_csv(pairs.base_value, results / "adapters_base.csv")


def projection_table(pairs: xr.Dataset) -> pd.DataFrame:
    """A row for each ordered pair of different adapters and each measure: value, and mean, sd, z, p of both nulls."""
    table = pairs["null"].to_dataframe("number").reset_index()
    table = table[table.task_i != table.task_j]
    keys = ["task_i", "task_j", "projection", "null_model", "statistic"]
    wide = table.set_index(keys)["number"].unstack(["null_model", "statistic"])
    own = wide[NULLS[0], "value"].rename("value")
    rest = wide.drop(columns=[(null, "value") for null in NULLS])
    rest.columns = [f"{null}_{statistic}" for null, statistic in rest.columns]
    return pd.concat([own, rest], axis=1).reset_index()


def _write_map(found: AdapterMap, provenance: str, results: Path) -> None:
    write(found.dataset().assign_attrs(provenance=provenance), results / "task_map.nc")
    for table, name in ((found.places, "task_map"), (found.scores, "task_map_scores"), (found.merges, "task_tree")):
        write_text(results / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))


def show(pairs: xr.Dataset, found: AdapterMap) -> None:
    """Prints missing updates, the nearest and farthest pairs, the scores, and projections beside chance."""
    for task, module, layer, reason in missing(pairs):
        say(f"missing: {task}, {module}, {layer}: {reason}")
    if "base_value" in pairs:
        means = pairs.base_value.mean("layer")
        rows = [
            [
                f"{task}: {module}",
                *(f"{means.sel(task=task, module=module, base_measure=m):.3g}" for m in means.base_measure.values),
            ]
            for task in pairs.task.values
            for module in pairs.module.values
        ]
        show_table("Against the base model, mean over layers", ["", *map(str, means.base_measure.values)], rows)
    names = [str(name) for name in found.mean.tasks]
    for name in found.dropped:
        say(f"not on the map, without any distance: {name}")
    if found.tree.reason is not None:
        say(f"no map of adapters: {found.tree.reason} (by their numbers in task_map.csv, from 0)")
        return
    distances = found.mean.overall
    assert distances is not None
    i, j = np.triu_indices(len(names), 1)
    order = np.argsort(distances[i, j])
    ends = [*order[:5], *order[-min(3, max(len(order) - 5, 0)) :]] if len(order) > 5 else list(order)
    rows = [[f"{names[i[k]]} - {names[j[k]]}", f"{distances[i[k], j[k]]:.3f}"] for k in ends]
    show_table(f"Nearest and farthest pairs ({found.unit})", ["pair", "distance"], rows)
    if len(found.scores):
        rows = []
        for row in found.scores.itertuples():
            interval = "" if np.isnan(row.low) else f" ({row.low:.2f} to {row.high:.2f})"
            value = row.reason or f"{row.value:.2f}{interval}"
            rows.append([f"{row.grouping}: {row.score}", value, f"{row.null_mean:.2f}", f"{row.p_value:.3f}"])
        show_table("The map and what is known of the tasks", ["", "value", "by chance", "p"], rows)


def missing(pairs: xr.Dataset) -> list[tuple[str, str, str, str]]:
    """(adapter, module, layers, reason) of updates that are missing."""
    found = []
    for task in pairs.task.values:
        for module in pairs.module.values:
            reasons = pairs.reason.sel(task=task, module=module)
            for reason in sorted({str(r) for r in reasons.values if isinstance(r, str) and r}):
                layers = [int(layer) for layer in pairs.layer.values[(reasons == reason).values]]
                there = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
                found.append((str(task), str(module), there, reason))
    return found


def main() -> None:
    """Entry point of `python -m run.compare_adapters`."""
    options = cli(
        CompareAdapters,
        prog="python -m run.compare_adapters",
        description=__doc__,
        example="studies/demo",
        main=("out", "names", "multi_task", "clusters", "modules", "layers", "base", "measures", "map_measure"),
    )
    compare_adapters(options)


if __name__ == "__main__":
    command(main)
