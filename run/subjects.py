"""What is compared: the models of a study, or checkpoints and PEFT adapters that are named one by one.

A subject has some models, tasks with prompts, and the hidden states of these prompts under each model. A study's models
are `base`, `E` (the multi-task model) and, for each task, its own control model `C`. Models over one checkpoint are run
together, as a fleet of adapters, so prompts are read once for all of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from lorajax.activations import HiddenStates, PerPrompt, States, Tokens
from lorajax.data.prompts import PromptConfig, body, encoder_prompts, tokenize
from lorajax.data.task import Task
from lorajax.errors import LorajaxError
from lorajax.files import fingerprint
from lorajax.lora.adapter import Adapter, LoraConfig, init_adapter, stack, zeros_like
from lorajax.lora.peft import CONFIG, WEIGHTS, load_adapter
from lorajax.mesh import choose_mesh
from lorajax.models.checkpoint import Checkpoint, load
from lorajax.models.kinds import is_encoder
from run.options import MULTI_TASK, DataConfig, Dtype
from run.study_folder import StudyFolder
from run.task_loading import load_tasks
from run.task_results import Provenance
from run.terminal import say
from run.workbench import Workbench

#: Other names of a study's models, as the papers' readers say them.
ALIASES = {"multitask": "E", "control": "C"}


@dataclasses.dataclass(frozen=True)
class HiddenConfig:
    """Which hidden states are compared."""

    tokens: Tokens = "last"
    """Each prompt's `last` token (an encoder's first one, which it answers at), the `mean` over its tokens, or `all` of
    its tokens, each for itself."""
    layers: tuple[int, ...] = ()
    """Layers by number (0: embedding, 1 to L: after each block, L + 1: the final norm); all when none is named."""
    max_examples: int = 10_000
    """Prompts of each task at most; with `--tokens all`, tokens."""
    batch_size: int = 16
    """Prompts in the model at a time, under each of the models."""

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("max_examples", 4)):
            if (value := getattr(self, name)) < least:
                raise LorajaxError(f"--{name.replace('_', '-')} must be at least {least}, found {value}")

    @property
    def facts(self) -> Provenance:
        """What the states depend on."""
        return {"tokens": self.tokens, "layers": list(self.layers) or "all", "max_examples": self.max_examples}


class Subject(Protocol):
    """Models that are compared on tasks."""

    @property
    def path(self) -> Path:
        """Folder that gets the results."""

    @property
    def models(self) -> tuple[str, ...]:
        """Their names, in the order of tables."""

    @property
    def clusters(self) -> dict[str, str]:
        """Of every task that can be compared."""

    @property
    def layers(self) -> dict[str, list[str]]:
        """Names of every model's layers."""

    @property
    def default_pairs(self) -> tuple[tuple[str, str], ...]:
        """What is compared when nothing is asked for."""

    def provenance(self, task: str) -> Provenance:
        """What the hidden states of `task` are made from."""

    def texts(self, task: str) -> tuple[list[str], list[str]]:
        """Instructions alone, and whole prompts, of the held-out examples of `task`."""

    def states(
        self, task: str, models: Sequence[str], config: HiddenConfig, per_prompt: PerPrompt | None = None
    ) -> dict[str, States]:
        """Hidden states of the task's held-out prompts under each of `models`, in the layers asked for."""


def parse_pairs(texts: Sequence[str], subject: Subject) -> dict[str, tuple[str, str]]:
    """Pairs such as `base:C` by the label they have in results, `base | C`; the subject's own when none is given.

    Raises:
      LorajaxError: a pair that is not two of the subject's models.
    """
    pairs = []
    for text in texts:
        sides = tuple(ALIASES.get(side, side) if side not in subject.models else side for side in text.split(":"))
        if len(sides) != 2 or not set(sides) <= set(subject.models):
            raise LorajaxError(f"--pairs {text}: expected two of {', '.join(subject.models)} joined by a colon")
        pairs.append(sides)
    return {f"{a} | {b}": (a, b) for a, b in pairs or subject.default_pairs}


class StudySubject:
    """Base, E and every task's own control model C, on the held-out prompts of a study."""

    models = ("base", MULTI_TASK, "C")
    default_pairs = (("base", "C"), ("E", "C"), ("base", "E"))

    def __init__(self, study: StudyFolder, bench: Workbench | None = None):
        """The study, and its model and data if they are loaded already.

        Raises:
          LorajaxError: E or all control models are not trained yet.
        """
        self.path, self._study, self._bench = study.path, study, bench
        self._programs = _Programs()
        if not study.is_trained(MULTI_TASK):
            raise LorajaxError(
                f"{study.path}: the multi-task model E is not trained yet: python -m run.finetune {study.path}"
            )
        tasks = study.record["data"]["tasks"]
        self.clusters = {task: tasks[task]["cluster"] for task in tasks if study.is_trained(task)}
        if not self.clusters:
            raise LorajaxError(f"{study.path}: no control model is trained yet: python -m run.finetune {study.path}")
        self.layers = {model: list(study.record["model"]["layers"]) for model in self.models}
        self._E: Adapter | None = None

    def provenance(self, task: str) -> Provenance:
        """Fingerprints of model, data and both adapters."""
        record = self._study.record
        return {
            "version": record["version"],
            "model": record["model"]["fingerprint"],
            "data": record["data"]["fingerprint"],
            "E": self._study.adapter_fingerprint(MULTI_TASK),
            "C": self._study.adapter_fingerprint(task),
        }

    @property
    def bench(self) -> Workbench:
        """Model and data, loaded when first asked for."""
        if self._bench is None:
            self._bench = Workbench.prepare(self._study.config, mesh="auto")
        return self._bench

    def texts(self, task: str) -> tuple[list[str], list[str]]:
        """Instructions alone, and whole prompts."""
        tasks = self._bench.tasks if self._bench else load_tasks(self._study.config.data)
        return _texts(tasks[task])

    def states(
        self, task: str, models: Sequence[str], config: HiddenConfig, per_prompt: PerPrompt | None = None
    ) -> dict[str, States]:
        """One run of the base with as many adapters as there are models."""
        checkpoint = self.bench.checkpoint
        sizes = checkpoint.model.config
        if self._E is None:
            self._E = load_adapter(self._study.adapter(MULTI_TASK), sizes)[0]
        own = {"base": zeros_like(self._E), MULTI_TASK: self._E}
        if "C" in models:
            own["C"] = load_adapter(self._study.adapter(task), sizes)[0]
        chosen = {name: own[name] for name in self.models if name in models}
        return self._programs.run(checkpoint, chosen, self.bench.test[task].prompts, config, per_prompt)


class NamedModels:
    """A checkpoint and PEFT adapters of it, or several checkpoints, on tasks of any source."""

    def __init__(self, names: Sequence[str], out: Path, data: DataConfig, prompt: PromptConfig, dtype: Dtype):
        """Loads them all.

        Args:
          names: a checkpoint first; then more checkpoints, or PEFT folders of the checkpoint before them.

        Raises:
          LorajaxError: fewer than two models, an adapter without a checkpoint, or whatever is wrong with the files.
        """
        if len(names) < 2 or _is_adapter(names[0]):
            raise LorajaxError(
                "expected a study, two checkpoints, or a checkpoint and PEFT folders of it; "
                f"found {' '.join(names) or 'nothing'}"
            )
        self.path, self._tasks, self._prompt = out, load_tasks(data), prompt
        self.clusters = {name: task.cluster for name, task in self._tasks.items()}
        self._sources: dict[str, tuple[Checkpoint, Adapter]] = {}
        self._facts: dict[str, str] = {}
        self._programs = _Programs()
        checkpoint = None
        for name in names:
            if _is_adapter(name):
                assert checkpoint is not None
                adapter = load_adapter(Path(name), checkpoint.model.config)[0]
                made_from = fingerprint([Path(name) / CONFIG, Path(name) / WEIGHTS])
            else:
                checkpoint = load(
                    name, dtype=jnp.dtype(dtype), mesh=lambda sizes: choose_mesh("auto", base_bytes=0), say=say
                )
                adapter = zeros_like(init_adapter(checkpoint.model.config, LoraConfig(rank=1), ["base"]))
                made_from = checkpoint.fingerprint
            label = next(label for label in _labels(Path(name).name) if label not in self._sources)
            self._sources[label] = checkpoint, adapter
            self._facts[label] = made_from
        for label, (found, _) in self._sources.items():
            if prompt.max_length > (most := found.model.config.max_positions):
                raise LorajaxError(f"--max-length {prompt.max_length} is more than the {most} positions of {label}")
        self.models = tuple(self._sources)
        self.layers = {name: list(c.model.config.layer_names) for name, (c, _) in self._sources.items()}
        self.default_pairs = tuple(itertools.combinations(self.models, 2))

    def provenance(self, task: str) -> Provenance:
        """Fingerprints of every model."""
        return dict(self._facts)

    def texts(self, task: str) -> tuple[list[str], list[str]]:
        """Instructions alone, and whole prompts."""
        return _texts(self._tasks[task])

    def states(
        self, task: str, models: Sequence[str], config: HiddenConfig, per_prompt: PerPrompt | None = None
    ) -> dict[str, States]:
        """One run of each checkpoint, with all adapters of it; each has its own tokenizer."""
        found: dict[str, States] = {}
        for checkpoint in {id(c): c for name, (c, _) in self._sources.items() if name in models}.values():
            if is_encoder(checkpoint.model.config):  # labels are not asked for
                prompts = encoder_prompts(self._tasks[task].test, checkpoint.tokenizer, self._prompt)[0]
            else:
                prompts = tokenize(self._tasks[task].test, checkpoint.tokenizer, self._prompt).prompts
            chosen = {n: a for n, (c, a) in self._sources.items() if c is checkpoint and n in models}
            found |= self._programs.run(checkpoint, chosen, prompts, config, per_prompt)
        return {name: found[name] for name in models}


class _Programs:
    """One `HiddenStates` for each checkpoint and kind of states, so that nothing is compiled twice."""

    def __init__(self) -> None:
        self._made: dict[Any, HiddenStates] = {}

    def run(
        self,
        checkpoint: Checkpoint,
        adapters: dict[str, Adapter],
        prompts: Sequence[np.ndarray],
        config: HiddenConfig,
        per_prompt: PerPrompt | None,
    ) -> dict[str, States]:
        key = (id(checkpoint), config, per_prompt)
        if key not in self._made:
            pad = checkpoint.tokenizer.pad_token_id
            self._made[key] = HiddenStates(
                checkpoint.model,
                batch_size=config.batch_size,
                pad=0 if pad is None else pad,
                tokens=config.tokens,
                layers=config.layers or None,
                per_prompt=per_prompt,
            )
        if config.tokens != "all":
            prompts = prompts[: config.max_examples]
        states = self._made[key](stack(list(adapters.values())), prompts, most=config.max_examples)
        extras = [None] * len(adapters) if states.per_prompt is None else states.per_prompt
        return {name: States(states.values[i], states.prompts, extras[i]) for i, name in enumerate(adapters)}


def _texts(task: Task) -> tuple[list[str], list[str]]:
    return [e.definition or "" for e in task.test], [body(e) for e in task.test]


def _is_adapter(name: str) -> bool:
    return (Path(name) / CONFIG).exists()


def _labels(name: str):
    yield name
    for number in itertools.count(2):
        yield f"{name} ({number})"
