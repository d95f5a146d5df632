"""Tasks: where they are read from, how a record becomes tokens, and in which order they are trained on.

    tasks = open_source("builtin").read(["arithmetic"], Limits(train=64, test=16), Reading())
    train = tokenize(tasks["arithmetic"].train, tokenizer, PromptConfig())
    stream = Stream("arithmetic", [train], seed=0)

Public names, by module:

    task            Example, Task
    sources         open_source, Limits
    reading         Reading
    jsonl           read_folder
    prompts         tokenize, PromptConfig, Tokenized
    classes         find_classes, Classes
    batching        Stream
    mixture         quotas, MixtureConfig
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorajax import _reads_when_asked

if TYPE_CHECKING:
    from lorajax.data.batching import Stream
    from lorajax.data.classes import Classes, find_classes
    from lorajax.data.jsonl import read_folder
    from lorajax.data.mixture import MixtureConfig, quotas
    from lorajax.data.prompts import PromptConfig, Tokenized, tokenize
    from lorajax.data.reading import Reading
    from lorajax.data.sources import Limits, open_source
    from lorajax.data.task import Example, Task

__all__ = [
    "Classes", "Example", "Limits", "MixtureConfig", "PromptConfig", "Reading", "Stream", "Task", "Tokenized",
    "find_classes", "open_source", "quotas", "read_folder", "tokenize",
]  # fmt: skip

if not TYPE_CHECKING:  # type checkers see the imports above, and that there are no other names
    __getattr__ = _reads_when_asked(
        __name__,
        {
            "batching": "Stream",
            "classes": "find_classes Classes",
            "jsonl": "read_folder",
            "mixture": "quotas MixtureConfig",
            "prompts": "tokenize PromptConfig Tokenized",
            "reading": "Reading",
            "sources": "open_source Limits",
            "task": "Example Task",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
