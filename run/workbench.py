"""What the commands work on: the base model with its tokenizer, and the tasks as tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from lorajax.data.batching import Layout, Stream, plan_layouts, round_up
from lorajax.data.classes import Classes, find_classes
from lorajax.data.mixture import quotas
from lorajax.data.prompts import Tokenized, first, join, pick
from lorajax.data.sources import absolute
from lorajax.data.task import Task, overlap
from lorajax.data.token_cache import cached_tokenize
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter, stack
from lorajax.mesh import choose_mesh, on_host, on_mesh
from lorajax.models.checkpoint import Checkpoint, cache_folder, load
from lorajax.models.kinds import is_encoder
from lorajax.models.tables import Config
from lorajax.training.capacity import fleet_size
from lorajax.training.fleet import Fleet
from run.options import MULTI_TASK, StudyConfig
from run.task_loading import load_tasks, seen_by_multi_task
from run.terminal import say

T = TypeVar("T")


def _set_aside(task: Task, examples: Tokenized, count: int, *, seed: int) -> tuple[Tokenized, Tokenized]:
    """All but `count` of the examples of `task`, and these.

    They are chosen by a hash of the input: equal inputs are on one side, and tasks on the same texts set the same ones
    aside, so that the multi-task model is not trained on what another task is measured on.
    """
    total = len(examples.prompts)
    if total <= count:
        raise LorajaxError(f"task {task.name!r}: {total} training examples; --validation-examples {count} leaves none")
    keys = [hashlib.sha256(f"{seed} {example.input}".encode()).digest() for example in task.train]
    order = sorted(range(total), key=lambda i: (keys[i], i))
    return pick(examples, sorted(order[count:])), pick(examples, sorted(order[:count]))


def _tell_what_e_knows(tasks: dict[str, Task], seen: Sequence[str]) -> None:
    """Tells of test inputs that E is trained on as those of another task: on them it has an advantage."""
    trained = {name: {example.input for example in tasks[name].train} for name in seen}
    for name, task in tasks.items():
        tested = {example.input for example in task.test}
        others = [other for other in seen if other != name and trained[other] & tested]
        if others:
            shared = len(tested & set().union(*(trained[other] for other in others)))
            told = f"{shared} of its {len(tested)} test inputs, as those of {', '.join(others)}"
            say(f"task {name}: E is trained on {told}")


def base_bytes(model: Config, config: StudyConfig) -> int:
    """About how much memory the frozen weights take: 4.5 or 8.5 bits each when quantised, embeddings never."""
    width = {"float32": 4, "bfloat16": 2}[config.dtype]
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
    kernels = {"none": width, "int8": 8.5 / 8, "nf4": 4.5 / 8}[config.quantize]
    return round(embeddings * width + (model.parameter_count() - embeddings) * kernels)


def _absolute(name: str) -> str:
    """A path that exists as an absolute one, so that the study can be gone on with from anywhere; else `name`."""
    return str(Path(name).expanduser().absolute()) if Path(name).expanduser().exists() else name


def even_groups(names: list[T], most: int, *, data: int = 1) -> list[list[T]]:
    """`names` in groups of at most `most`: 11 in fleets of 10 are 6 and 5, not 10 and 1; if they can, in multiples of
    the mesh's axis `data`, so that fleets are laid over it."""
    each = -(-len(names) // -(-len(names) // most))
    each = round_up(each, data) if round_up(each, data) <= most else each
    return [names[i : i + each] for i in range(0, len(names), each)]


@dataclasses.dataclass(frozen=True)
class Workbench:
    """Model, tokenizer and tokenised tasks of a study."""

    config: StudyConfig
    checkpoint: Checkpoint
    tasks: dict[str, Task]
    train: dict[str, Tokenized]
    validation: dict[str, Tokenized]
    test: dict[str, Tokenized]

    @classmethod
    def prepare(cls, config: StudyConfig, *, mesh: str | None = None) -> Workbench:
        """Loads tasks first, since they fail fast, then the model. Relative paths in the settings become absolute."""
        tasks = load_tasks(config.data)
        data = dataclasses.replace(config.data, data=absolute(config.data.data))
        config = dataclasses.replace(config, model=_absolute(config.model), data=data)
        if config.dtype == "float32":
            # Accelerators round the operands of float32 products unless told not to.
            jax.config.update("jax_default_matmul_precision", "highest")
        checkpoint = load(
            config.model,
            dtype=jnp.dtype(config.dtype),
            mesh=lambda model: choose_mesh(mesh or config.mesh, base_bytes=base_bytes(model, config)),
            quantize=config.quantize,
            say=say,
        )
        if config.prompt.max_length > checkpoint.model.config.max_positions:
            raise LorajaxError(
                f"--max-length {config.prompt.max_length} is more than the {checkpoint.model.config.max_positions} "
                f"positions of model {config.model!r}"
            )
        for name, task in tasks.items():
            if repeated := overlap(task):
                say(f"task {name}: {repeated} of {len(task.test)} test examples are among those trained on")
        clusters = {name: task.cluster for name, task in tasks.items()}
        _tell_what_e_knows(tasks, seen_by_multi_task(clusters, list(tasks), config.data))
        classes = find_classes(tasks) if is_encoder(checkpoint.model.config) else None
        how = (checkpoint.tokenizer, config.prompt, cache_folder() / "tokens", classes)
        train = {name: cached_tokenize(task.train, *how) for name, task in tasks.items()}
        test = {name: cached_tokenize(task.test, *how) for name, task in tasks.items()}
        validation = {}
        if config.train.evaluate_every:
            for name, examples in train.items():
                train[name], validation[name] = _set_aside(
                    tasks[name], examples, config.train.validation_examples, seed=config.train.seed
                )
        bench = cls(config, checkpoint, tasks, train, validation, test)
        everything = (*train.values(), *validation.values(), *test.values())
        largest = max(int(row.tokens.max()) for s in everything for row in s.rows)
        if largest >= (vocabulary := checkpoint.model.config.vocab_size):
            raise LorajaxError(
                f"model {config.model!r}: its tokenizer gives token {largest}, its embedding has {vocabulary} rows"
            )
        for name in tasks:
            prompts = train[name].cut_prompts + test[name].cut_prompts
            answers = train[name].cut_answers + test[name].cut_answers
            if prompts or answers:
                lost = [f"{prompts} prompts lost their middle (--max-length)"] if prompts else []
                lost += [f"{answers} answers their end (--max-answer)"] if answers else []
                say(f"task {name}: {', '.join(lost)}")
        return bench

    @property
    def seen(self) -> list[str]:
        """The tasks that E is trained on."""
        clusters = {name: task.cluster for name, task in self.tasks.items()}
        return seen_by_multi_task(clusters, list(self.tasks), self.config.data)

    @property
    def mesh(self) -> Mesh:
        """The devices that the model is on."""
        return on_mesh(nnx.state(self.checkpoint.model))[1]

    def lora(self, name: str) -> LoraConfig:
        """Rank, alpha and targets of the adapter `name`."""
        own = {key: value for key, value in self.config.train.own(name).items() if key in ("rank", "alpha")}
        return dataclasses.replace(self.config.lora, **own)

    @property
    def classes(self) -> Classes | None:
        """What an encoder tells apart: the labels of all tasks. None for a decoder."""
        return next(iter(self.train.values())).classes

    def own_classes(self, name: str) -> Classes | None:
        """Those that the adapter `name` is trained on."""
        tasks = self.seen if name == MULTI_TASK else [name]
        return None if self.classes is None else self.classes.of(tasks)

    def quotas(self, name: str) -> dict[str, int]:
        """Examples of each task in one epoch of the adapter `name`."""
        counts = {task: len(examples) for task, examples in self.train.items()}
        if name != MULTI_TASK:
            return {name: counts[name]}
        seen = {task: counts[task] for task in self.seen}
        return quotas(seen, {task: self.tasks[task].cluster for task in seen}, self.config.mixture)

    def steps(self, name: str) -> int:
        """Optimizer steps of the adapter `name`."""
        return self.config.train.steps_for(name, sum(self.quotas(name).values()))

    def largest_layout(self, names: Sequence[str]) -> Layout:
        """The shape that holds any batch of the adapters `names`, trained together; needs no model."""
        layouts = plan_layouts(
            [self._stream(name) for name in names],
            [self.steps(name) for name in names],
            batch_size=self.config.train.batch_size,
            packed=self.config.train.packing,
            row_multiple=self.config.train.accumulate,
        ).layouts
        return dataclasses.replace(layouts[-1], answers=max(layout.answers for layout in layouts))

    def fleet_size(self, names: Sequence[str]) -> int:
        """How many of the adapters `names` are trained together: as many as the settings and the memory allow."""
        most = min(self.config.fleet_size, len(names))
        if most < 1:
            return self.config.fleet_size
        train, mesh, largest = self.config.train, self.mesh, self.largest_layout(names)
        lora = dataclasses.replace(self.config.lora, rank=max(self.lora(name).rank for name in names))
        return fleet_size(self.checkpoint.model, lora, train, largest, mesh, most=most, classes=self.classes)

    def fleet(self, names: Sequence[str]) -> Fleet:
        """The adapters `names`, ready to be trained together."""
        train, model, classes = self.config.train, self.checkpoint.model.config, self.classes
        with on_host():  # one device need not hold them all
            adapter = stack([init_adapter(model, self.lora(n), [n], seed=train.seed, classes=classes) for n in names])
        return Fleet(
            names=tuple(names),
            adapter=adapter,
            streams=tuple(self._stream(name) for name in names),
            steps=tuple(self.steps(name) for name in names),
            learning_rates=tuple(train.own(name).get("learning_rate", train.learning_rate) for name in names),
            pad=self.pad,
            validation=tuple(self._validation(name) for name in names) if train.evaluate_every else (),
        )

    def _stream(self, name: str) -> Stream:
        own = self.quotas(name)
        sets = [self.train[task] for task in own]
        return Stream(name, sets, seed=self.config.train.seed, quotas=list(own.values()))

    def _validation(self, name: str) -> Tokenized:
        """Validation examples of an adapter; of E, as many in all, or one of each task."""
        if name != MULTI_TASK:
            return self.validation[name]
        sets = [self.validation[task] for task in self.seen]
        each = -(-self.config.train.validation_examples // len(sets))
        return join([first(own, each) for own in sets])

    @property
    def pad(self) -> int:
        """Token id that fills up rows; it is never looked at."""
        number = self.checkpoint.tokenizer.pad_token_id
        return 0 if number is None else number

    def facts(self) -> dict[str, Any]:
        """What the study's record says of model and data."""
        model = self.checkpoint.model.config
        digest, seen = hashlib.sha256(), set(self.seen)
        for task in self.tasks.values():
            for example in (*task.train, *task.test):
                digest.update(json.dumps(dataclasses.asdict(example), sort_keys=True).encode())
        return {
            "model": {
                "name": self.config.model,
                "fingerprint": self.checkpoint.fingerprint,
                "parameters": model.parameter_count(),
                "layers": list(model.layer_names),
            },
            "data": {
                "source": self.config.data.data,
                "fingerprint": digest.hexdigest()[:16],
                "tasks": {
                    name: {
                        "cluster": task.cluster,
                        "seen": name in seen,
                        "train": len(task.train),
                        "test": len(task.test),
                        "cut_prompts": self.train[name].cut_prompts + self.test[name].cut_prompts,
                        "cut_answers": self.train[name].cut_answers + self.test[name].cut_answers,
                    }
                    for name, task in self.tasks.items()
                },
            },
        }
