"""Tasks from a folder of JSONL files: one record a line, `{task, cluster, definition?, input, targets, options?}`.

`folder/**/*.jsonl` and `*.jsonl.gz` are read, in name order; names that begin with a dot are passed over. A record may
name its `split`, and what it is about (`doc`): rows of one `doc` are on the same side. How the rows of a task that
names no split are split: `lorajax.data.splits`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lorajax.data.reading import Reading
from lorajax.data.sources import Limits
from lorajax.data.splits import Row, make_task, read_split
from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

NAME_BYTES = 100


class JsonlFolder:
    """The tasks of a folder of JSONL files. Which there are is known when all files were read, which is done once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._rows: dict[str, list[Row]] | None = None

    def _read(self, reading: Reading) -> dict[str, list[Row]]:
        if self._rows is None:
            self._rows = read_rows(self._folder, reading)
        return self._rows

    def clusters(self, reading: Reading) -> dict[str, str]:
        """The cluster of every task, in the order of names."""
        return {name: rows[0].example.cluster for name, rows in sorted(self._read(reading).items())}

    def read(self, names: Sequence[str], limits: Limits, reading: Reading) -> dict[str, Task]:
        """The tasks `names`, whole."""
        rows = self._read(reading)
        return {name: make_task(name, rows[name], reading=reading) for name in names}


def open_source(where: str) -> JsonlFolder:
    """The source of `--data PATH`."""
    return JsonlFolder(Path(where).expanduser())


def read_folder(folder: Path, *, test_share: float = 0.2, reading: Reading | None = None) -> dict[str, Task]:
    """Every task under `folder`, or of one file, by name.

    Args:
      test_share: of the rows of a task that names no split, what it is tested on.
      reading: how many bad rows are passed over, and the counts; none by default.

    Raises:
      LorajaxError: as `read_rows`, or a task with no rows to train on or none to test on.
    """
    rows = read_rows(folder, reading or Reading())
    return {name: make_task(name, own, test_share=test_share, reading=reading) for name, own in rows.items()}


def read_rows(folder: Path, reading: Reading) -> dict[str, list[Row]]:
    """The rows of every task under `folder`, or of one file, by name.

    Raises:
      LorajaxError: no files, a line that is not a valid record (file and line number), or a task that appears in two
        clusters.
    """
    rows: dict[str, list[Row]] = {}
    for file in _files(folder):
        found = 0
        for where, record in read_records(file, reading):
            found += 1
            try:
                row = _row(record, where)
                task, cluster = row.example.task, row.example.cluster
                reading.row(task)
                examples = rows.setdefault(task, [])
                if examples and (first := examples[0].example.cluster) != cluster:
                    raise LorajaxError(f"{where}: task {task!r} is in cluster {cluster!r}; earlier rows say {first!r}")
            except LorajaxError as error:
                reading.bad(error)
            else:
                examples.append(row)
        if not found:
            raise LorajaxError(f"{file}: is empty; expected a record on each line")
    return {name: examples for name, examples in rows.items() if examples}


def read_records(file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file, each with "file:line" for messages; blank lines are passed over.

    Raises:
      LorajaxError: the file cannot be read to its end, or a line is no JSON object and `reading` allows no such line.
    """
    number, open_file = 0, gzip.open if file.name.endswith(".gz") else open
    try:
        with open_file(file, "rb") as lines:  # decoded line by line, so that a bad byte has its line's number
            for number, line in enumerate(lines, 1):
                where = f"{file}:{number}"
                try:
                    record = _parse(line, where)
                except LorajaxError as error:
                    reading.bad(error)
                else:
                    if record is not None:
                        yield where, record
    except (EOFError, OSError, zlib.error) as error:
        raise LorajaxError(f"{file}:{number + 1}: could not be read: {error}") from None


def _parse(line: bytes, where: str) -> dict[str, Any] | None:
    """The object of a line; None for a blank one."""
    if not line.strip():
        return None
    try:
        record = json.loads(line.decode("utf-8-sig").rstrip())  # an error at the end is in this line, not the next
    except json.JSONDecodeError as error:
        raise LorajaxError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise LorajaxError(f"{where}: not UTF-8: byte {line[error.start]:#04x} at place {error.start + 1}") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting that Python will not read
        raise LorajaxError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise LorajaxError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return record


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


def check_name(kind: str, name: str, where: str) -> None:
    """Raises LorajaxError unless `name`, of a task or cluster, can name a folder and stand in a figure."""
    if not name.isprintable() or name[:1] in ("", ".") or set(name) & set("/\\") or len(name.encode()) > NAME_BYTES:
        raise LorajaxError(
            f"{where}: {kind} {name!r}: this name cannot be used; expected printable text of at most {NAME_BYTES} "
            "bytes, with no / or \\ and no dot at its beginning"
        )


def _row(record: dict[str, Any], where: str) -> Row:
    for key in ("task", "cluster", "input"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise LorajaxError(f"{where}: {key!r} must be a non-empty text, found {record.get(key)!r}")
    for key in ("task", "cluster"):
        check_name(key, record[key], where)
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
    group = record.get("doc")
    if group is not None and not isinstance(group, str):
        raise LorajaxError(f"{where}: 'doc' must be a text, found {group!r}")
    example = Example(
        task=record["task"],
        cluster=record["cluster"],
        input=record["input"],
        targets=tuple(targets),
        definition=definition or None,
        options=tuple(options) if options else None,
    )
    return Row(example, read_split(record.get("split"), where), where, group)
