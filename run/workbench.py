"""What the commands work on: the base model with its tokenizer, and the tasks as tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lorajax.data import builtin, jsonl
from lorajax.data.batching import Shape
from lorajax.data.prompts import Tokenized, tokenize
from lorajax.data.task import Task, overlap, select
from lorajax.errors import LorajaxError
from lorajax.models.checkpoint import Checkpoint, load
from run.options import MULTI_TASK, DataConfig, StudyConfig
from run.terminal import say

#: HSIC_1 is defined for four examples or more.
LEAST_TEST = 4


def load_tasks(config: DataConfig) -> dict[str, Task]:
    """The tasks that the settings name, with at most the numbers of examples they allow."""
    if config.data == "builtin":
        names = select(builtin.names(), config.tasks) or builtin.names()
        counts = {"n_train": config.train_examples, "n_test": config.test_examples}
        tasks = {name: builtin.load(name, **counts) for name in names}
    else:
        found = jsonl.read_folder(Path(config.data))
        tasks = {name: found[name] for name in select(found, config.tasks) or sorted(found)}
    folders = {MULTI_TASK.casefold(): MULTI_TASK}
    for name, task in tasks.items():
        # Adapters are folders, and some file systems do not tell upper from lower case.
        if (other := folders.setdefault(name.casefold(), name)) != name or name == MULTI_TASK:
            raise LorajaxError(f"task {name!r}: this name cannot be used beside {other!r}")
        if len(task.test) < LEAST_TEST:
            raise LorajaxError(
                f"task {name!r}: {len(task.test)} test rows; the debiased CKA needs {LEAST_TEST} or more"
            )
    return {
        name: dataclasses.replace(
            task, train=task.train[: config.train_examples], test=task.test[: config.test_examples]
        )
        for name, task in tasks.items()
    }


def _absolute(name: str) -> str:
    """A path that exists as an absolute one, so that the study can be gone on with from anywhere; else `name`."""
    return str(Path(name).expanduser().absolute()) if Path(name).expanduser().exists() else name


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
        """Loads tasks first, since they fail fast, then the model. Relative paths in the settings become absolute."""
        tasks = load_tasks(config.data)
        data = dataclasses.replace(config.data, data=_absolute(config.data.data))
        config = dataclasses.replace(config, model=_absolute(config.model), data=data)
        if config.dtype == "float32":
            # Accelerators round the operands of float32 products unless told not to.
            jax.config.update("jax_default_matmul_precision", "highest")
        checkpoint = load(config.model, dtype=jnp.dtype(config.dtype), say=say)
        if config.prompt.max_length > checkpoint.model.config.max_positions:
            raise LorajaxError(
                f"--max-length {config.prompt.max_length} is more than the {checkpoint.model.config.max_positions} "
                f"positions of model {config.model!r}"
            )
        for name, task in tasks.items():
            if repeated := overlap(task):
                say(f"task {name}: {repeated} of {len(task.test)} test examples are among those trained on")
        train = {name: tokenize(t.train, checkpoint.tokenizer, config.prompt) for name, t in tasks.items()}
        test = {name: tokenize(t.test, checkpoint.tokenizer, config.prompt) for name, t in tasks.items()}
        bench = cls(config, checkpoint, tasks, train, test)
        largest = max(int(ids.max()) for s in (*train.values(), *test.values()) for ids in (*s.prompts, *s.answers))
        if largest >= (vocabulary := checkpoint.model.config.vocab_size):
            raise LorajaxError(
                f"model {config.model!r}: its tokenizer gives token {largest}, its embedding has {vocabulary} rows"
            )
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
