"""Tokenised examples, kept between commands under a hash of all they were made from.

The key is of content: the examples, the tokenizer and the prompt's settings. A file of data that has changed gives
other examples and so another key; nothing out of date can be served. What was not used for longest is deleted once the
folder is larger than LARGEST.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lorajax.data.classes import Classes
from lorajax.data.prompts import PromptConfig, Tokenized, tokenize
from lorajax.data.task import Example
from lorajax.errors import LorajaxError
from lorajax.files import replacing

#: Raised when the same inputs give other tokens.
VERSION = 1

#: Examples below which tokenising is as quick as reading a file.
LEAST = 512

#: Bytes of the folder.
LARGEST = 2 << 30


def cached_tokenize(
    examples: Sequence[Example],
    tokenizer: Any,
    config: PromptConfig,
    folder: Path,
    classes: Classes | None = None,
) -> Tokenized:
    """What `tokenize` gives, from `folder` if it was made before; a folder that cannot be written only costs time.

    For an encoder (with `classes`) nothing is kept.
    """
    if classes is not None or len(examples) < LEAST or not hasattr(tokenizer, "backend_tokenizer"):
        return tokenize(examples, tokenizer, config, classes)
    file = folder / f"{_key(examples, tokenizer, config)}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        found = _read(file)
        os.utime(file)
        return found
    found = tokenize(examples, tokenizer, config)
    with contextlib.suppress(OSError, LorajaxError):
        _write(found, file)
        _prune(folder)
    return found


def _key(examples: Sequence[Example], tokenizer: Any, config: PromptConfig) -> str:
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        digest.update(b"\n")

    add([VERSION, dataclasses.asdict(config), tokenizer.chat_template, tokenizer.special_tokens_map])
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for example in examples:
        add(dataclasses.astuple(example))
    return digest.hexdigest()[:40]


def _read(file: Path) -> Tokenized:
    with np.load(file, allow_pickle=False) as parts:
        prompts, answers = (
            tuple(np.split(parts[f"{side}_ids"], np.cumsum(parts[f"{side}_lengths"])[:-1]))
            for side in ("prompt", "answer")
        )
        cut = parts["cut"].tolist()
    return Tokenized(prompts, answers, *cut)


def _write(tokens: Tokenized, file: Path) -> None:
    parts = {"cut": np.asarray([tokens.cut_prompts, tokens.cut_answers])}
    for side, rows in (("prompt", tokens.prompts), ("answer", tokens.answers)):
        parts[f"{side}_ids"] = np.concatenate(rows).astype(np.int32)
        parts[f"{side}_lengths"] = np.asarray([len(row) for row in rows], np.int64)
    with replacing(file) as temporary, temporary.open("wb") as out:
        np.savez(out, **parts)  # type: ignore[arg-type]


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > LARGEST:
            file.unlink(missing_ok=True)
