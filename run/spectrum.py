"""In how many directions do the hidden states of a task spread, layer by layer, before and after tuning?

    python -m run.spectrum STUDY
    python -m run.spectrum MODEL MODEL --out FOLDER --data TASKS

For every task, over its held-out prompts, in every layer of base, E and the task's own control model C:

    dimensions           fewest directions that hold 99 % of the variance (--share), features centred
    participation_ratio  (sum of variances)^2 over the sum of their squares: no threshold
    effective_rank       exp of the entropy of the singular values
    matrix_entropy       entropy of the shares of variance, in nats
    largest_share        of the variance, by the one largest direction
    variance             all of it
    curvature            mean angle between successive steps from token to token, in radians

None of the ranks can exceed the number of prompts less one: compare tasks of different size with care; `n` is beside
them. Results, under `results/`: `spectrum.nc`, `spectrum.csv`. Tasks that are done are not done again.

`--json`: `spectrum`, rows of model, layer and the means over tasks of these measures.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray as xr

from analysis import spectrum as spectra
from lorajax.activations import States
from lorajax.errors import LorajaxError
from run.__main__ import cli
from run.comparison import Comparison
from run.lock import study_lock
from run.observe import observe
from run.subjects import HiddenConfig, Subject
from run.task_results import Provenance, TaskResults, write, write_csv
from run.terminal import command, result, show_table, wrote
from run.workbench import Workbench

MEASURES = (*spectra.Summary._fields, "curvature")


@dataclasses.dataclass(frozen=True)
class SpectrumConfig:
    """How directions are counted."""

    share: float = 0.99
    """Of the variance, that the counted directions hold."""
    centre: bool = True
    """Take the mean over the prompts away first."""

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise LorajaxError(f"--share must be above 0 and at most 1, found {self.share}")


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Measure how the hidden states of each task are spread, in all layers."""

    what: tyro.conf.OmitArgPrefixes[Comparison]
    spectrum: tyro.conf.OmitArgPrefixes[SpectrumConfig] = SpectrumConfig()


class SpectrumObserver:
    """Spectra of one task's states under each model."""

    name = "spectrum"

    def __init__(self, subject: Subject, hidden: HiddenConfig, options: SpectrumConfig):
        self.models, self.per_prompt = subject.models, curvatures
        self.results = TaskResults(subject.path / "results", "spectrum")
        self._subject, self._hidden, self._options = subject, hidden, options

    def provenance(self, task: str) -> Provenance:
        """What the result of `task` depends on."""
        return self._subject.provenance(task) | self._hidden.facts | dataclasses.asdict(self._options)

    def is_done(self, task: str) -> bool:
        """Whether the result of `task` is there and current."""
        return self.results.is_current(task, self.provenance(task))

    def see(self, task: str, states: dict[str, States]) -> None:
        """Measures, and writes the result of `task`."""
        parts = [self._measure(model, states[model]) for model in self.models]
        found = xr.concat(parts, dim="model", join="outer").assign_coords(model=list(self.models))
        found["n"] = (), next(iter(states.values())).values.shape[1]
        labelled = found.expand_dims(task=[task]).assign_coords(cluster=("task", [self._subject.clusters[task]]))
        self.results.write(task, labelled, self.provenance(task))

    def finish(self) -> xr.Dataset:
        """Joins the tasks' results and writes them."""
        joined = self.results.join({task: self.provenance(task) for task in self._subject.clusters})
        write(joined, self.results.path)
        write_csv(joined["spectrum"], self.results.path.with_suffix(".csv"))
        means = joined["spectrum"].mean("task").to_dataset("measure").to_dataframe().reset_index()
        result(spectrum=means[["model", "layer", *MEASURES]])
        wrote(self.results.path, self.results.path.with_suffix(".csv"))
        return joined

    def _measure(self, model: str, states: States) -> xr.Dataset:
        values = np.full((len(MEASURES), len(states.values)), np.nan)
        # A layer that is not finite is missing here, and says why in the CKA results.
        fine = np.asarray(jnp.isfinite(states.values).all((1, 2)))
        if fine.any():
            summary = spectra.summary(
                states.values[np.flatnonzero(fine)],
                share=self._options.share,
                centre=self._options.centre,
                method="svd" if jax.default_backend() == "cpu" else "gram",
            )
            values[:-1, fine] = np.stack([np.asarray(own) for own in summary])
        turns = np.asarray(states.per_prompt, np.float64)  # [L, prompts]
        there = np.isfinite(turns)
        count = there.sum(1)
        values[-1] = np.where(there, turns, 0).sum(1) / np.where(count, count, np.nan)
        names = self._subject.layers[model]
        layers = [names[i] for i in self._hidden.layers] if self._hidden.layers else names
        return xr.Dataset(
            {"spectrum": (("measure", "layer"), values)}, coords={"measure": list(MEASURES), "layer": layers}
        )


def curvatures(h: jax.Array, own: jax.Array) -> jax.Array:
    """Curvature of each prompt's states `[N, B, T, D]` over its own tokens `[B, T]`: `[N, B]`."""
    return spectra.curvature(h, jnp.broadcast_to(own, h.shape[:-1]))


def spectrum(options: Spectrum, bench: Workbench | None = None) -> xr.Dataset:
    """Measures what is missing, writes it, and returns all."""
    subject = options.what.subject(bench)
    with study_lock(subject.path):
        observer = SpectrumObserver(subject, options.what.hidden, options.spectrum)
        tasks = options.what.tasks(subject)
        observe(subject, tasks, options.what.hidden, [observer], save=options.what.save_activations)
        found = observer.finish()
    show(found, options.spectrum)
    return found


def show(found: xr.Dataset, options: SpectrumConfig) -> None:
    """Prints the mean over tasks of the dimensions, at a few depths."""
    layers = [str(name) for name in found.layer.values]
    depths = sorted({round(i) for i in np.linspace(0, len(layers) - 1, 7)})
    rows = []
    for model in found.model.values:
        own = found.spectrum.sel(model=model, measure="dimensions").mean("task")
        cells = [own.isel(layer=i).item() for i in depths]
        rows.append([str(model), *("missing" if np.isnan(cell) else f"{cell:.1f}" for cell in cells)])
    title = f"Dimensions for {options.share:.0%} of the variance, mean over {found.sizes['task']} tasks"
    show_table(title, ["", *(layers[i] for i in depths)], rows)


def main() -> None:
    """Entry point of `python -m run.spectrum`."""
    options = cli(
        Spectrum,
        prog="python -m run.spectrum",
        description=__doc__,
        example="studies/demo",
        main=("tasks", "tokens", "layers", "share", "centre", "max_examples", "batch_size"),
    )
    spectrum(options)


if __name__ == "__main__":
    command(main)
