"""Several studies of the same tasks beside each other: instruct and base, two seeds, two ranks.

    python -m run.report STUDY STUDY --out FOLDER

Each study keeps its own folder and report. FOLDER gets `side_by_side.csv`, a row for each quantity and item with a
column for each study; `report.html`; and `figures/`. Only tasks that all studies have are compared. Depths are shares
of the model, so that models of different depth can stand beside each other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.mantel import mantel
from lorajax.errors import LorajaxError
from lorajax.files import replacing, write_text
from run import figures, page
from run.findings import number
from run.report import template
from run.report_results import read_losses
from run.study_folder import StudyFolder
from run.task_results import read

#: Where curves over layers are read off: shares of the depth.
DEPTHS = (0.25, 0.5, 0.75, 1.0)
PAIRS = ("base | C", "E | C")

#: Measures of projections that are shown, and what the tables call them.
PROJECTIONS = {"lp": "L1", "rec": "REC", "entropy_s1": "H(S1)", "entropy_s2": "H(S2)"}


@dataclasses.dataclass(frozen=True)
class Results:
    """What one study holds; None for what is not computed yet."""

    folder: StudyFolder
    losses: pd.DataFrame | None
    cka: xr.Dataset | None
    bands: pd.DataFrame | None
    projection: pd.DataFrame | None
    task_map: xr.Dataset | None

    @classmethod
    def of(cls, path: Path) -> Results:
        """The results of the study in `path`."""
        folder = StudyFolder.open(path)

        def table(name: str) -> pd.DataFrame | None:
            file = folder.results / f"{name}.csv"
            return pd.read_csv(file, keep_default_na=False, na_values={"value": [""]}) if file.exists() else None

        cka = read(folder.results / "cka.nc")
        return cls(
            folder,
            read_losses(folder.results / "losses.csv"),
            cka if cka is not None and set(PAIRS) <= set(cka.pair.values) else None,
            table("bands"),
            table("projection"),
            read(folder.results / "task_map.nc"),
        )

    @property
    def tasks(self) -> list[str]:
        """The tasks of the study, those that all its results of tasks are about."""
        names = list(self.folder.record["data"]["tasks"])
        measured = [] if self.cka is None else [set(self.cka.task.values.astype(str))]
        if self.losses is not None:
            measured += [set(self.losses.task[self.losses.model == model]) for model in ("E", "C")]
        return [name for name in names if all(name in own for own in measured)]


def compare_studies(studies: Mapping[str, Path], out: Path) -> tuple[pd.DataFrame, Path]:
    """Writes table, figures and report of the studies, by the name each goes by; returns the table and the report.

    Raises:
      LorajaxError: fewer than two studies, one that is none, or no task that all of them have.
    """
    if len(studies) < 2:
        raise LorajaxError(f"expected two studies or more to put beside each other, found {len(studies)}")
    results = {name: Results.of(path) for name, path in studies.items()}
    first, *rest = results.values()
    tasks = [task for task in first.tasks if all(task in other.tasks for other in rest)]
    if not tasks:
        raise LorajaxError(f"the studies {', '.join(map(str, studies.values()))} have no task in common")
    table = side_by_side(results, tasks)
    with replacing(out / "side_by_side.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    drawn = {}
    if all(found.cka is not None for found in results.values()):
        curves = {name: _curves(found.cka, tasks) for name, found in results.items() if found.cka is not None}
        figures.save(figures.curves_by_depth(curves), out / "figures" / "cka_by_depth.svg")
        write_text(out / "cka_by_depth.csv", curves_table(curves).to_csv(index=False, float_format="%.6g"))
        drawn["cka_by_depth"] = ["cka_by_depth.csv"]
    agreement = map_agreement(results)
    html = template("side_by_side.html.j2").render(
        style=page.style(),
        title=" and ".join(results),
        tasks=tasks,
        left_out={name: [t for t in found.tasks if t not in tasks] for name, found in results.items()},
        studies={name: _facts(found, out) for name, found in results.items()},
        tables=[
            (quantity, [(row["item"], [number(row[name]) for name in results]) for _, row in rows.iterrows()])
            for quantity, rows in table.groupby("quantity", sort=False)
        ],
        agreement=agreement,
        figures=drawn,
        sources=drawn,
        files=page.files(out / file for files in drawn.values() for file in files),
        plotly=page.plotly() if drawn else "",
        scripts=page.scripts() if drawn else "",
    )
    write_text(out / "report.html", html)
    return table, out / "report.html"


def curves_table(curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> pd.DataFrame:
    """Rows study, pair, depth, cka."""
    parts = [
        pd.DataFrame({"study": name, "pair": pair, "depth": depth, "cka": values})
        for name, pairs in curves.items()
        for pair, (depth, values) in pairs.items()
    ]
    return pd.concat(parts, ignore_index=True)


def side_by_side(results: Mapping[str, Results], tasks: Sequence[str]) -> pd.DataFrame:
    """Rows quantity, item, and the value in each study; NaN where a study has none."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for name, found in results.items():
        for key, value in _quantities(found, tasks):
            rows.setdefault(key, {})[name] = value
    columns = ["quantity", "item", *results]
    values = [[*key, *(own.get(name, np.nan) for name in results)] for key, own in rows.items()]
    table = pd.DataFrame(values, columns=columns)
    # A study that lacks a quantity must not move it to the end: in the order of _quantities.
    order = {quantity: i for i, quantity in enumerate(dict.fromkeys(table.quantity))}
    return table.sort_values("quantity", key=lambda q: q.map(order), kind="stable", ignore_index=True)


def _quantities(found: Results, tasks: Sequence[str]) -> list[tuple[tuple[str, str], float]]:
    rows: list[tuple[tuple[str, str], float]] = []
    if found.losses is not None:
        losses = found.losses[found.losses.task.isin(tasks)]
        base = losses.drop_duplicates("task").before
        decoder = "final norm" in found.folder.record["model"]["layers"]
        quantity = f"held-out loss, mean over tasks (nats per {'answer token' if decoder else 'example'})"
        rows.append(((quantity, "base"), float(base.mean())))
        rows += [((quantity, str(model)), float(own.after.mean())) for model, own in losses.groupby("model")]
    if found.cka is not None:
        for pair, (depth, values) in _curves(found.cka, tasks).items():
            for share in DEPTHS:
                value = float(values[np.argmin(np.abs(depth - share))])
                rows.append(
                    (("same-layer CKA, debiased, mean over tasks", f"{pair} at {share:.0%} of the depth"), value)
                )
    if found.bands is not None:
        both = found.bands[found.bands.curves == "base | C and E | C"]
        depth = sum(label.startswith("block ") for label in found.folder.record["model"]["layers"])
        for place, row in enumerate(both.itertuples(), 1):
            last = int(str(row.last).removeprefix("block "))
            rows.append((("bands of layers: share of the depth at which each ends", f"band {place}"), last / depth))
    if found.projection is not None:
        table = found.projection[found.projection.task_i.isin(tasks) & found.projection.task_j.isin(tasks)]
        for measure, label in PROJECTIONS.items():
            own = table[table.projection == measure].set_index(["task_i", "task_j"]).value
            quantity = f"spectral projection, {label}, mean over layers and modules"
            rows += [((quantity, f"{i} → {j}"), float(own[i, j])) for i, j in own.index]
    return rows


def _curves(ds: xr.Dataset, tasks: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each pair: relative depth of the blocks, and same-layer CKA there, mean over `tasks`."""
    ds = ds.sel(task=[task for task in ds.task.values if task in set(tasks)])
    blocks = [i for i, label in enumerate(ds.layer_a.values.astype(str)) if label.startswith("block ")]
    depth = (1 + np.arange(len(blocks))) / len(blocks)
    return {pair: (depth, figures.mean_present(figures.same_layer(ds, pair))[blocks]) for pair in PAIRS}


def map_agreement(results: Mapping[str, Results]) -> list[dict[str, str]]:
    """Rows studies, tasks, r, p: whether tasks that are near by their adapters in one study are near in the other.

    Mantel's test of the mean Grassmann distances, Spearman's r.
    """
    rows = []
    for (a, first), (b, second) in itertools.combinations(results.items(), 2):
        if first.task_map is None or second.task_map is None:
            continue
        maps = [_overall(found) for found in (first.task_map, second.task_map)]
        common = [t for t in maps[0].task_i.values if t in set(maps[1].task_i.values)]
        x, y = (found.sel(task_i=common, task_j=common).values for found in maps)
        test = mantel(x, y, method="spearman")
        row = {"studies": f"{a} and {b}", "tasks": str(test.tasks), "r": number(test.r), "p": number(test.p_value)}
        rows.append(row)
    return rows


def _overall(task_map: xr.Dataset) -> xr.DataArray:
    """Distances `[task_i, task_j]`, mean over modules."""
    module = "all" if "all" in task_map.module.values else task_map.module.values[0]
    return task_map.distance.sel(module=module).transpose("task_i", "task_j")


def _facts(found: Results, out: Path) -> dict[str, Any]:
    record = found.folder.record
    config, path = record["config"], found.folder.path.resolve()
    return {
        "model": str(record["model"]["name"]),
        "parameters": f"{record['model']['parameters']:,}",
        "rank": str(config["rank"]),
        "steps": f"{config['epochs']:g} epochs" if config["epochs"] else str(config["steps"]),
        "seed": str(config["seed"]),
        # A link that goes on working when the folder is sent to someone.
        "inside": path.parent == out.resolve() and (path / "report.html").exists(),
        "folder": path.name,
    }
