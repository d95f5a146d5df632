"""Writes a study's report: one HTML file that holds its figures, tables, cautions, and what they were made from.

    python -m run.report STUDY
    python -m run.report STUDY STUDY --out FOLDER

STUDY gets `report.html`, which needs no network, script or other file, and `figures/*.svg`. Every sentence under
"Summary" is computed from the numbers in the study. A part that is not computed yet is named, with the command for it.
The same results give the same report, byte for byte. Several studies: see `run.side_by_side`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
import tyro
import xarray as xr

from lorajax.errors import LorajaxError
from lorajax.files import write_text
from lorajax.models.checkpoint import ALIASES
from run import figures, page, published, recipes
from run.figures.layout import Width, as_wide_as
from run.findings import count, warnings
from run.options import StudyConfig
from run.page.contents import FIGURES, shown
from run.report_contents import drawn, findings_of, interactive, write_derived
from run.report_results import Found
from run.study_folder import StudyFolder
from run.tables import ablation_table, bands_table, cka_table, loss_table, missing_layers
from run.terminal import command

Format = Literal["svg", "pdf", "png"]

#: Of the page, by id.
SECTIONS = {
    "summary": "Summary",
    "layers": "Where tasks live",
    "bands": "Bands of layers",
    "spaces": "Spaces and clusters",
    "weights": "Weights of the adapters",
    "published": "Beside the published study",
    "learned": "What was learned",
    "warnings": "Missing values and warnings",
    "glossary": "Glossary",
    "provenance": "Provenance",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a study's report again from its results, or put several studies of the same tasks side by side."""

    studies: tyro.conf.Positional[tuple[Path, ...]]
    """Folder of a study, or of several: each holds study.json."""
    out: Path | None = None
    """Folder for what several studies come to, side by side."""
    figures: tuple[Format, ...] = ("svg",)
    """Formats of the figures for a paper, in the study's folder `figures`."""
    figure_width: Width = "page"
    """Width of these figures in a paper of two columns: that of its text (7 inches), or of one column (3.35)."""

    def __post_init__(self):
        if not self.studies:
            raise LorajaxError("name a study; --help tells more")
        if len(self.studies) > 1 and self.out is None:
            raise LorajaxError("--out: name a folder for the comparison of several studies")
        if len(self.studies) == 1 and self.out is not None:
            raise LorajaxError("--out goes with several studies; the report of one is written into its folder")


def build(study: Path, formats: Sequence[Format] = ("svg",), width: Width = "page") -> Path:
    """Writes the report of the study in `study`, and its figures; returns the path of `report.html`.

    Args:
      formats: of the figures for a paper, in the folder `figures`.
      width: of these figures.

    Raises:
      LorajaxError: `study` holds no study, or a result in it cannot be read.
    """
    folder = StudyFolder.open(study)
    if absent := {"model", "data", "config"} - folder.record.keys():
        raise LorajaxError(f"{study / 'study.json'}: expected the keys model, data and config; no {sorted(absent)[0]}")
    with as_wide_as(width):
        found = Found.read(folder)
        adapters, beside = found.adapters, published.beside(folder, found.cka)
        write_derived(folder.results, found, beside)
        for name, figure in drawn(found, beside).items():
            for kind in formats:
                figures.save(figure, study / "figures" / f"{name}.{kind}")
    plots = shown(folder.results, interactive(found, beside))
    encoder = "final norm" not in folder.record["model"]["layers"]
    unit = "example" if encoder else "answer token"
    losses, cka = found.losses, found.cka
    html = template("study.html.j2").render(
        name=study.resolve().name,
        quoted=shlex.quote(str(study) if not study.is_absolute() and str(study) != "." else study.resolve().name),
        packaged=packaged(folder.record["model"]["name"]),
        record=folder.record,
        encoder=encoder,
        unit=unit,
        sections=[(name, title) for name, title in SECTIONS.items() if name != "published" or beside is not None],
        figures=plots,
        sources=FIGURES,
        findings=findings_of(found, folder.record, unit),
        adapters=adapters,
        published=beside,
        bands=None if found.bands is None else bands_table(found.bands),
        ablation=None if found.ablation is None else ablation_table(found.ablation),
        losses=None if losses is None else loss_table(losses),
        cka=None if cka is None else cka_table(cka),
        prompts=None if cka is None else prompts(cka),
        missing=[] if cka is None else missing_layers(cka),
        warnings=warnings(folder.record, losses, cka),
        provenance=None if cka is None else provenance(cka),
        flags=flags(folder.record["config"]),
        style=page.style(),
        files=page.files(folder.results / name for name in dict.fromkeys(itertools.chain(*plots.values()))),
        plotly=page.plotly() if plots else "",
        scripts=page.scripts() if plots else "",
    )
    write_text(study / "report.html", html)
    return study / "report.html"


def template(name: str) -> jinja2.Template:
    """A page of `run/templates`; whatever is put into it is text, unless it says that it is markup."""
    templates = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    return jinja2.Environment(
        loader=templates, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


def prompts(ds: xr.Dataset) -> str:
    """How many tasks and test prompts stand behind a figure."""
    low, high = int(ds.n.min()), int(ds.n.max())
    return f"{count(ds.n.size, 'task')}, n = {low if low == high else f'{low} to {high}'} test prompts each"


def packaged(name: str) -> str:
    """What an alias of a model stands for: the file, and the package it is in."""
    known = ALIASES.get(name)
    return f"{Path(known.member).name} of the package {known.package} {known.version}" if known else ""


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


def main() -> None:
    """Entry point of `python -m run.report`."""
    from run.__main__ import cli
    from run.side_by_side import compare_studies  # which needs this module
    from run.terminal import result, wrote

    options = cli(Report, prog="python -m run.report", description=__doc__, example="studies/demo")
    if options.out is None:
        written = build(options.studies[0], options.figures, options.figure_width)
        wrote(written)
    else:
        names = names_of([study.resolve() for study in options.studies])
        written = compare_studies(dict(zip(names, options.studies, strict=True)), options.out)[1]
        wrote(written.with_name("side_by_side.csv"), written)
    result(report=written)


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
