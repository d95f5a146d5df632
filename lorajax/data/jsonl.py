"""Tasks from a folder of JSONL files: one record a line, `{task, cluster, definition?, input, targets, options?}`.

`folder/**/*.jsonl` and `*.jsonl.gz` are read, in name order; names that begin with a dot are passed over. A record may
name its `split` (SPLITS). The rows of a task that names none are split by a hash of the input, so that equal inputs are
on one side and the same inputs of two tasks are split alike. Both sides are in the order of that hash: a part of either
is not sorted by label, whatever the order of the file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

#: Values of `split`, in any case. Dev rows are left out, or stand in for the test rows of a task that has none.
#: "dev/test" is what sources without a train part say of all their rows; it parts nothing, as if it were not there.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "dev/test": None,
}
NAME_BYTES = 100

Row = tuple[Example, str | None, str]


def read_folder(folder: Path, *, test_share: float = 0.2) -> dict[str, Task]:
    """Every task under `folder`, or of one file, by name.

    Raises:
      LorajaxError: no files, a line that is not a valid record (file and line number), a task with no rows to train on
        or none to test on, or a task that appears in two clusters.
    """
    rows: dict[str, list[Row]] = {}
    for file in _files(folder):
        found = 0
        for found, (where, record) in enumerate(read_records(file), 1):  # noqa: B007 (read after the loop)
            example, split = _example(record, where)
            examples = rows.setdefault(example.task, [])
            examples.append((example, split, where))
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
                except (ValueError, RecursionError) as error:  # a number or a nesting that Python will not read
                    raise LorajaxError(f"{where}: not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise LorajaxError(f"{where}: expected a JSON object, found {type(record).__name__}")
                yield where, record
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise LorajaxError(f"{file}:{number + 1}: could not be read: {error}") from None


def _files(folder: Path) -> list[Path]:
    endings = (".jsonl", ".jsonl.gz")
    if folder.is_file() and folder.name.endswith(endings):
        return [folder]
    if not folder.is_dir():
        found = "a file of another kind" if folder.exists() else "no such folder"
        raise LorajaxError(
            f"data {str(folder)!r}: {found}; expected 'builtin', a folder of JSONL files or one .jsonl file"
        )
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.name.endswith(endings) and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise LorajaxError(f"{folder}: holds no .jsonl or .jsonl.gz file")
    return files


def _example(record: dict[str, Any], where: str) -> tuple[Example, str | None]:
    for key in ("task", "cluster", "input"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise LorajaxError(f"{where}: {key!r} must be a non-empty text, found {record.get(key)!r}")
    for key in ("task", "cluster"):  # names of folders and of figures
        name = record[key]
        if not name.isprintable() or name[0] == "." or set(name) & set("/\\") or len(name.encode()) > NAME_BYTES:
            raise LorajaxError(
                f"{where}: {key} {name!r}: this name cannot be used; expected printable text of at most {NAME_BYTES} "
                "bytes, with no / or \\ and no dot at its beginning"
            )
    targets = record.get("targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) and t.strip() for t in targets):
        raise LorajaxError(f"{where}: 'targets' must be a list of at least one non-empty text, found {targets!r}")
    options = record.get("options")
    if options is not None and not (isinstance(options, list) and all(isinstance(o, str) for o in options)):
        raise LorajaxError(f"{where}: 'options' must be a list of texts, found {options!r}")
    definition = record.get("definition")
    if definition is not None and not isinstance(definition, str):
        raise LorajaxError(f"{where}: 'definition' must be a text, found {definition!r}")
    texts = {"input": [record["input"]], "definition": [definition or ""], "targets": targets, "options": options or []}
    for key, values in texts.items():
        if half := re.search(r"[\ud800-\udfff]", "\n".join(values)):
            raise LorajaxError(f"{where}: {key!r} holds {half[0]!r}, half of a character; expected valid Unicode")
    split = record.get("split")
    if split is not None and (not isinstance(split, str) or split.lower() not in SPLITS):
        raise LorajaxError(f"{where}: 'split' must be one of {', '.join(SPLITS)}, found {split!r}")
    example = Example(
        task=record["task"],
        cluster=record["cluster"],
        input=record["input"],
        targets=tuple(targets),
        definition=definition or None,
        options=tuple(options) if options else None,
    )
    return example, None if split is None else SPLITS[split.lower()]


def _task(name: str, rows: list[Row], test_share: float) -> Task:
    sides: dict[str | None, list[Example]] = {"train": [], "test": [], "dev": [], None: []}
    for example, split, _ in sorted(rows, key=lambda row: _hash(row[0].input)):
        sides[split].append(example)
    if sides[None] and len(sides[None]) < len(rows):
        where = next(where for _, split, where in rows if split is None)
        raise LorajaxError(
            f"{where}: its 'split' does not say train or test, but other rows of task {name!r} do; expected all or none"
        )
    inputs = sorted({e.input for e, _, _ in rows}, key=_hash)
    if sides[None] and len(inputs) > 1:
        tested = set(inputs[: min(max(1, round(test_share * len(inputs))), len(inputs) - 1)])
        for example in sides[None]:
            sides["test" if example.input in tested else "train"].append(example)
    train, test = sides["train"], sides["test"] or sides["dev"]
    for side, examples in (("train", train), ("test", test)):
        if not examples:
            raise LorajaxError(
                f"task {name!r}: has no {side} rows (of {len(rows)} rows, {len(inputs)} different inputs)"
            )
    return Task(name, rows[0][0].cluster, tuple(train), tuple(test))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
