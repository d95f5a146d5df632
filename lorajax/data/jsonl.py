"""Tasks from a folder of JSONL files: one record a line, `{task, cluster, definition?, input, targets, options?}`.

`folder/**/*.jsonl` and `*.jsonl.gz` are read, in name order. A record may name its `split` ("train" or "test"); the
examples of a task whose records do not are split by the task's order: the last `test_share` of the rows is for testing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

SPLITS = ("train", "test")


def read_folder(folder: Path, *, test_share: float = 0.2) -> dict[str, Task]:
    """Every task under `folder`, by name.

    Raises:
      LorajaxError: no files, a line that is not a valid record (file and line number), a task with no rows to train on
        or none to test on, or a task that appears in two clusters.
    """
    if not folder.is_dir():
        raise LorajaxError(f"data {str(folder)!r}: no such folder; expected 'builtin' or a folder of JSONL files")
    files = sorted(p for p in folder.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz")))
    if not files:
        raise LorajaxError(f"{folder}: holds no .jsonl or .jsonl.gz file")
    rows: dict[str, list[tuple[Example, str | None]]] = {}
    for file in files:
        found = 0
        for found, (where, record) in enumerate(read_records(file), 1):  # noqa: B007 (read after the loop)
            example, split = _example(record, where)
            examples = rows.setdefault(example.task, [])
            examples.append((example, split))
            if (first := examples[0][0].cluster) != example.cluster:
                raise LorajaxError(
                    f"{where}: task {example.task!r} is in cluster {example.cluster!r}; earlier rows say {first!r}"
                )
        if not found:
            raise LorajaxError(f"{file}: is empty; expected a record on each line")
    return {name: _task(name, examples, test_share) for name, examples in rows.items()}


def read_records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file, each with "file:line" for messages; blank lines are passed over."""
    number, open_text = 0, gzip.open if file.name.endswith(".gz") else open
    try:
        with open_text(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"{file}:{number}"
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise LorajaxError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
                if not isinstance(record, dict):
                    raise LorajaxError(f"{where}: expected a JSON object, found {type(record).__name__}")
                yield where, record
    except (EOFError, OSError, UnicodeDecodeError) as error:
        raise LorajaxError(f"{file}:{number + 1}: could not be read: {error}") from None


def _example(record: dict[str, Any], where: str) -> tuple[Example, str | None]:
    for key in ("task", "cluster", "input"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise LorajaxError(f"{where}: {key!r} must be a non-empty text, found {record.get(key)!r}")
    targets = record.get("targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) and t.strip() for t in targets):
        raise LorajaxError(f"{where}: 'targets' must be a list of at least one non-empty text, found {targets!r}")
    options = record.get("options")
    if options is not None and not (isinstance(options, list) and all(isinstance(o, str) for o in options)):
        raise LorajaxError(f"{where}: 'options' must be a list of texts, found {options!r}")
    definition = record.get("definition")
    if definition is not None and not isinstance(definition, str):
        raise LorajaxError(f"{where}: 'definition' must be a text, found {definition!r}")
    split = record.get("split")
    example = Example(
        task=record["task"],
        cluster=record["cluster"],
        input=record["input"],
        targets=tuple(targets),
        definition=definition or None,
        options=tuple(options) if options else None,
    )
    return example, split if split in SPLITS else None


def _task(name: str, rows: list[tuple[Example, str | None]], test_share: float) -> Task:
    if any(split for _, split in rows):
        train = tuple(e for e, split in rows if split == "train")
        test = tuple(e for e, split in rows if split == "test")
    else:
        cut = len(rows) - max(1, round(test_share * len(rows)))
        train, test = tuple(e for e, _ in rows[:cut]), tuple(e for e, _ in rows[cut:])
    for split, examples in (("train", train), ("test", test)):
        if not examples:
            raise LorajaxError(f"task {name!r}: has no {split} rows (of {len(rows)} rows in all)")
    return Task(name, rows[0][0].cluster, train, test)
