"""What the commands work on: the base model with its tokenizer, and the tasks as tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lorajax.data import builtin, jsonl
from lorajax.data.batching import Shape
from lorajax.data.prompts import Tokenized, tokenize
from lorajax.data.task import Task, select
from lorajax.errors import LorajaxError
from lorajax.models.checkpoint import Checkpoint, load
from run.options import MULTI_TASK, DataConfig, StudyConfig
from run.terminal import say


def load_tasks(config: DataConfig) -> dict[str, Task]:
    """The tasks that the settings name, with at most the numbers of examples they allow."""
    if config.data == "builtin":
        names = select(builtin.names(), config.tasks) or builtin.names()
        counts = {"n_train": config.train_examples, "n_test": config.test_examples}
        tasks = {name: builtin.load(name, **counts) for name in names}
    else:
        found = jsonl.read_folder(Path(config.data))
        tasks = {name: found[name] for name in select(found, config.tasks) or sorted(found)}
    for name in tasks:
        if name == MULTI_TASK or "/" in name or name.startswith("."):
            raise LorajaxError(f"task {name!r}: this name cannot be used; it names the multi-task model or a path")
    return {
        name: dataclasses.replace(
            task, train=task.train[: config.train_examples], test=task.test[: config.test_examples]
        )
        for name, task in tasks.items()
    }


@dataclasses.dataclass(frozen=True)
class Workbench:
    """Model, tokenizer and tokenised tasks of a study."""

    config: StudyConfig
    checkpoint: Checkpoint
    tasks: dict[str, Task]
    train: dict[str, Tokenized]
    test: dict[str, Tokenized]

    @classmethod
    def prepare(cls, config: StudyConfig) -> Workbench:
        """Loads tasks first, since they fail fast, then the model."""
        tasks = load_tasks(config.data)
        checkpoint = load(config.model, dtype=jnp.dtype(config.dtype), say=say)
        if config.prompt.max_length > checkpoint.model.config.max_positions:
            raise LorajaxError(
                f"--max-length {config.prompt.max_length} is more than the {checkpoint.model.config.max_positions} "
                f"positions of model {config.model!r}"
            )
        train = {name: tokenize(t.train, checkpoint.tokenizer, config.prompt) for name, t in tasks.items()}
        test = {name: tokenize(t.test, checkpoint.tokenizer, config.prompt) for name, t in tasks.items()}
        bench = cls(config, checkpoint, tasks, train, test)
        for name in tasks:
            prompts = train[name].cut_prompts + test[name].cut_prompts
            answers = train[name].cut_answers + test[name].cut_answers
            if prompts or answers:
                say(f"task {name}: {prompts} prompts lost their middle, {answers} answers their end (--max-length)")
        return bench

    @cached_property
    def shape(self) -> Shape:
        """The shape that holds every example of every task."""
        return Shape.of([*self.train.values(), *self.test.values()])

    @property
    def pad(self) -> int:
        """Token id that fills up rows; it is never looked at."""
        number = self.checkpoint.tokenizer.pad_token_id
        return 0 if number is None else number

    def facts(self) -> dict[str, Any]:
        """What the study's record says of model and data."""
        model = self.checkpoint.model.config
        digest = hashlib.sha256()
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
                        "train": len(task.train),
                        "test": len(task.test),
                        "cut_prompts": self.train[name].cut_prompts + self.test[name].cut_prompts,
                        "cut_answers": self.train[name].cut_answers + self.test[name].cut_answers,
                    }
                    for name, task in self.tasks.items()
                },
            },
        }
