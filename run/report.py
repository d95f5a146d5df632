"""Writes a study's report: one HTML file that holds its figures, tables, cautions, and what they were made from.

    python -m run.report STUDY
    python -m run.report STUDY STUDY --out FOLDER

STUDY gets `report.html`, which needs no network, script or other file, and `figures/*.svg`. Every sentence under
"Summary" is computed from the numbers in the study. A part that is not computed yet is named, with the command for it.
The same results give the same report, byte for byte. Several studies: see `run.side_by_side`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import tyro
import xarray as xr
from markupsafe import Markup

from lorajax.errors import LorajaxError
from lorajax.files import write_text
from run import adapter_report, figures, published, recipes
from run.findings import cka_findings, count, loss_findings, unseen_findings, warnings
from run.layer_findings import ablation_findings, band_findings, cluster_findings, readability_findings
from run.options import StudyConfig
from run.study_folder import StudyFolder
from run.tables import ablation_table, bands_table, cka_table, loss_table, missing_layers
from run.task_results import read
from run.terminal import command, say


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a study's report again from its results, or put several studies of the same tasks side by side."""

    studies: tyro.conf.Positional[tuple[Path, ...]]
    """Folder of a study, or of several: each holds study.json."""
    out: Path | None = None
    """Folder for what several studies come to, side by side."""

    def __post_init__(self):
        if not self.studies:
            raise LorajaxError("name a study; --help tells more")
        if len(self.studies) > 1 and self.out is None:
            raise LorajaxError("--out: name a folder for the comparison of several studies")
        if len(self.studies) == 1 and self.out is not None:
            raise LorajaxError("--out goes with several studies; the report of one is written into its folder")


def build(study: Path) -> Path:
    """Writes the report of the study in `study`, and its figures; returns the path of `report.html`.

    Raises:
      LorajaxError: `study` holds no study, or a result in it cannot be read.
    """
    folder = StudyFolder.open(study)
    if absent := {"model", "data", "config"} - folder.record.keys():
        raise LorajaxError(f"{study / 'study.json'}: expected the keys model, data and config; no {sorted(absent)[0]}")
    results = folder.results
    losses, cka, metrics = read_losses(results / "losses.csv"), read_cka(results / "cka.nc"), read_metrics(study)
    bands, ablation = read_table(results / "bands.csv"), read_netcdf(results / "ablation.nc", "loss")
    spectrum, embedding = (
        read_netcdf(results / f"{name}.nc", name if name == "spectrum" else "map") for name in ("spectrum", "embedding")
    )
    correlations = read_table(results / "readability_correlation.csv")
    drawn = {}
    if cka is not None:
        drawn["cka_by_layer"] = figures.layer_boxplot(cka)
        drawn["cka_all_layers"] = figures.layer_heatmaps(cka)
        drawn["cka_by_task"] = figures.task_curves(cka)
        drawn["cka_estimators"] = figures.estimator_gap(cka)
    if losses is not None:
        drawn["losses"] = figures.loss_bars(losses)
    if metrics is not None:
        drawn["training"] = figures.training_curves(metrics)
    if spectrum is not None:
        drawn["spectrum"] = figures.spectrum_by_layer(spectrum)
    if embedding is not None:
        drawn["task_maps"] = figures.task_maps(embedding)
        drawn["clusters"] = figures.cluster_scores(embedding)
    if correlations is not None:
        drawn["readability"] = figures.readability_by_layer(correlations)
    if ablation is not None:
        drawn["ablation"] = figures.band_shares(ablation)
    adapters = adapter_report.compared(results, folder.record["config"].get("init") == "shared")
    if adapters is not None:
        drawn |= adapters["figures"]
    beside = published.beside(folder, cka)
    if beside is not None:
        drawn |= beside.figures
        write_text(results / "published.csv", beside.csv())
    paths = {name: figures.save(figure, study / "figures" / f"{name}.svg") for name, figure in drawn.items()}
    encoder = "final norm" not in folder.record["model"]["layers"]
    unit = "example" if encoder else "answer token"
    html = template("report.html.j2").render(
        name=study.resolve().name,
        quoted=shlex.quote(study.resolve().name),
        record=folder.record,
        encoder=encoder,
        unit=unit,
        figures={name: inline(path.read_text("utf-8"), name) for name, path in paths.items()},
        findings=[
            *(loss_findings(losses, unit) if losses is not None else []),
            *(cka_findings(cka) if cka is not None else []),
            *(unseen_findings(folder.record["data"]["tasks"], cka) if cka is not None else []),
            *(band_findings(bands) if bands is not None else []),
            *(ablation_findings(ablation, bands, cka) if ablation is not None else []),
            *(cluster_findings(embedding) if embedding is not None else []),
            *(readability_findings(correlations) if correlations is not None else []),
            *(adapters["findings"] if adapters is not None else []),
        ],
        adapters=adapters,
        published=beside,
        bands=None if bands is None else bands_table(bands),
        ablation=None if ablation is None else ablation_table(ablation),
        losses=None if losses is None else loss_table(losses),
        cka=None if cka is None else cka_table(cka),
        prompts=None if cka is None else prompts(cka),
        missing=[] if cka is None else missing_layers(cka),
        warnings=warnings(folder.record, losses, cka),
        provenance=None if cka is None else provenance(cka),
        flags=flags(folder.record["config"]),
    )
    write_text(study / "report.html", html)
    return study / "report.html"


def template(name: str) -> jinja2.Template:
    """A page of `run/templates`; whatever is put into it is text, unless it says that it is markup."""
    templates = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    return jinja2.Environment(
        loader=templates, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


def read_losses(file: Path) -> pd.DataFrame | None:
    """The table of held-out losses, or None when there is none yet."""
    if not file.exists():
        return None
    numbers = ["tokens", "before", "after"]
    try:  # as text first: a task may be called "NA"
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        table[numbers] = table[numbers].replace({"nan": None, "": None}).apply(pd.to_numeric)
        table = table[["task", "cluster", "model", *numbers]]
    except (ValueError, KeyError) as error:
        raise LorajaxError(f"{file}: expected columns task, cluster, model, tokens, before, after: {error}") from None
    return table if len(table) else None


def read_cka(file: Path) -> xr.Dataset | None:
    """The labelled CKA results, or None when there are none yet, or not of base | C and E | C."""
    ds = read_netcdf(file, "cka")
    if ds is None:
        return None
    if absent := {"n", "reason", "duplicates", "cluster"} - set(ds.variables):
        raise LorajaxError(f"{file}: no variable {sorted(absent)[0]}; write it again: python -m run.cka_all_layers")
    # A report is about both; other pairs are no part of it.
    return ds if {"base | C", "E | C"} <= set(ds.pair.values) else None


def read_netcdf(file: Path, variable: str) -> xr.Dataset | None:
    """Labelled results that hold `variable`, or None when there are none yet."""
    ds = read(file)
    if ds is None:
        return None
    if variable not in ds.variables:
        raise LorajaxError(f"{file}: no variable {variable}; delete the file and compute it again")
    return ds


def read_table(file: Path) -> pd.DataFrame | None:
    """A table with a row or more, or None."""
    if not file.exists():
        return None
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values={"p_value": [""], "r": [""]})
    except ValueError as error:
        raise LorajaxError(f"{file}: cannot be read as CSV: {error}") from None
    return table if len(table) else None


def read_metrics(study: Path) -> pd.DataFrame | None:
    """The training log as a table with columns step, model, loss, grad_norm; None when there is none yet."""
    file = study / "metrics.jsonl"
    rows = []
    for at, line in enumerate(file.read_text("utf-8").splitlines() if file.exists() else [], start=1):
        try:
            row = json.loads(line)
            norms = row.get("grad_norm", {})
            rows += [(row["step"], model, loss, norms.get(model)) for model, loss in row["loss"].items()]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise LorajaxError(f'{file}, line {at}: expected {{"step": ..., "loss": {{...}}}}') from None
    return pd.DataFrame(rows, columns=["step", "model", "loss", "grad_norm"]) if rows else None


def prompts(ds: xr.Dataset) -> str:
    """How many tasks and test prompts stand behind a figure."""
    low, high = int(ds.n.min()), int(ds.n.max())
    return f"{count(ds.n.size, 'task')}, n = {low if low == high else f'{low} to {high}'} test prompts each"


def provenance(ds: xr.Dataset) -> str:
    """What the CKA results were made from, indented for reading."""
    return json.dumps(json.loads(ds.attrs.get("provenance", "{}")), indent=2, ensure_ascii=False)


def flags(config: dict[str, Any]) -> str:
    """The command-line flags that give `config`: those that differ from this version's defaults, or the recipe's."""
    defaults, words = StudyConfig().flat(), []
    if config.get("recipe"):
        try:
            defaults |= recipes.load(config["recipe"]).flags
        except LorajaxError:  # a file that is not here: everything is named
            config, defaults = {**config, "recipe": ""}, {"recipe": ""}
    for key, value in config.items():
        if key in defaults and defaults[key] == value:
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(str(v) for v in (value if isinstance(value, list) else [value]))]
    return shlex.join(words)


def inline(svg: str, name: str) -> Markup:
    """The `<svg>` element of a file, for an HTML page: ids made unique by `name`, and its caption as its label."""
    body = svg[svg.index("<svg") :]

    def own(tag: re.Match[str]) -> str:
        text = re.sub(r' id="', f' id="{name}-', tag.group())
        return re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)

    def size(head: re.Match[str]) -> str:
        width = float(head.group(2)) / 9  # in rem: 7 inches are as wide as the page
        style = f"width:{width:.2f}rem;min-width:{width * 0.65:.2f}rem"
        return f'<svg role="img" aria-labelledby="{name}-caption" style="{style}" {head.group(1)}'

    body = re.sub(r"<[^>]+>", own, body)
    return Markup(re.sub(r'<svg ([^>]*?) width="([\d.]+)pt"', size, body, count=1))


def main() -> None:
    """Entry point of `python -m run.report`."""
    options = tyro.cli(Report, description=__doc__, prog="python -m run.report")
    if options.out is None:
        say(str(build(options.studies[0])))
        return
    from run.side_by_side import compare_studies  # which needs this module

    names = names_of([study.resolve() for study in options.studies])
    say(str(compare_studies(dict(zip(names, options.studies, strict=True)), options.out)[1]))


def names_of(folders: Sequence[Path]) -> list[str]:
    """What studies are called beside each other: the end of their paths, as much of it as tells them apart.

    Raises:
      LorajaxError: the same folder twice.
    """
    if len(set(folders)) < len(folders):
        raise LorajaxError(f"the same study twice: {', '.join(map(str, folders))}")
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


if __name__ == "__main__":
    command(main)
