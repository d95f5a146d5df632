"""One pass over the tasks' hidden states that serves several measures: each sees the states once, then they are gone.

With `--save-activations` the states are also kept, `activations/TASK.safetensors`, and read back by whatever asks for
the same states of the same models again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lorajax.activations import PerPrompt, States
from lorajax.errors import LorajaxError
from lorajax.files import replacing
from run.subjects import HiddenConfig, Subject
from run.task_results import Provenance
from run.terminal import on_terminal, progress, say


class Observer(Protocol):
    """A measure of hidden states, task by task."""

    @property
    def name(self) -> str:
        """As the reader knows it."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose states it needs."""

    @property
    def per_prompt(self) -> PerPrompt | None:
        """What it needs of all tokens of a prompt."""

    def is_done(self, task: str) -> bool:
        """Whether the result of `task` is there and current."""

    def see(self, task: str, states: dict[str, States]) -> None:
        """Measures, and writes the result of `task`."""


def observe(
    subject: Subject, tasks: Sequence[str], config: HiddenConfig, observers: Sequence[Observer], *, save: bool = False
) -> None:
    """Shows the states of every task to those observers that have not seen it.

    Args:
      save: keep the states on disk, all models and layers asked for: float32, so 4 bytes a number.
    """
    wanted = {task: [o for o in observers if not o.is_done(task)] for task in tasks}
    for observer in observers:
        if done := sum(observer not in wanted[task] for task in tasks):
            say(f"{observer.name} of {done} of {len(tasks)} tasks is there already")
    todo = [task for task in tasks if wanted[task]]
    if not todo:
        return
    with progress() as bar:
        line = bar.add_task("hidden states and measures", total=len(todo), note="")
        for i, task in enumerate(todo):
            if not on_terminal():
                names = ", ".join(observer.name for observer in wanted[task])
                say(f"  {names}: {task} ({i + 1} of {len(todo)})")
            bar.update(line, note=task)
            states = _states(subject, task, wanted[task], config, save=save)
            for observer in wanted[task]:
                observer.see(task, states)
            bar.advance(line)


def _states(
    subject: Subject, task: str, observers: Iterable[Observer], config: HiddenConfig, *, save: bool
) -> dict[str, States]:
    models = tuple(m for m in subject.models if any(m in observer.models for observer in observers))
    per_prompt = next((o.per_prompt for o in observers if o.per_prompt is not None), None)
    file = subject.path / "activations" / f"{task}.safetensors"
    provenance = subject.provenance(task) | config.facts
    if (kept := _read(file, models, provenance, with_extra=per_prompt is not None)) is not None:
        return kept
    states = subject.states(task, models, config, per_prompt)
    if save:
        _save(file, states, provenance)
    return states


def _save(file: Path, states: dict[str, States], provenance: Provenance) -> None:
    arrays = {f"{model}.values": np.asarray(own.values) for model, own in states.items()}
    arrays |= {f"{model}.prompts": own.prompts for model, own in states.items()}
    arrays |= {f"{m}.per_prompt": np.asarray(s.per_prompt) for m, s in states.items() if s.per_prompt is not None}
    with replacing(file) as temporary:
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, {"provenance": json.dumps(provenance)}
        )


def _read(file: Path, models: Sequence[str], provenance: Provenance, *, with_extra: bool) -> dict[str, States] | None:
    """What `_save` wrote, where it is of the same models and has all that is asked for; else None."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "np") as source:
            if (source.metadata() or {}).get("provenance") != json.dumps(provenance):
                return None
            keys = set(source.keys())
            needed = ("values", "prompts", "per_prompt") if with_extra else ("values", "prompts")
            if not all(f"{model}.{part}" in keys for model in models for part in needed):
                return None
            return {
                model: States(
                    source.get_tensor(f"{model}.values"),
                    source.get_tensor(f"{model}.prompts"),
                    source.get_tensor(f"{model}.per_prompt") if with_extra else None,
                )
                for model in models
            }
    except (OSError, SafetensorError) as error:
        raise LorajaxError(f"{file}: cannot be read: {error}; delete it to have it made again") from None
