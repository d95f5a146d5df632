"""Rows of CSV, TSV, JSONL and Parquet files and of data sets of the hub, one at a time, each with where it is from."""

from __future__ import annotations

import csv
import glob
import gzip
import importlib
import itertools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lorajax.data.fields import Record
from lorajax.data.jsonl import read_records
from lorajax.data.mapping_file import FORMATS, TaskMapping, check_sides
from lorajax.data.reading import Reading
from lorajax.data.splits import SPLITS
from lorajax.errors import LorajaxError
from lorajax.files import confined

#: Rows of a Parquet file that are in memory at once.
BATCH = 512
#: Characters of a CSV field at most: the module's 131,072 are fewer than a long document has, and without a limit a
#: quote that is never closed would read the rest of the file.
LONGEST_FIELD = 1 << 24

Rows = Iterator[tuple[str, Record]]


def open_tables(task: TaskMapping, folder: Path, reading: Reading) -> dict[str | None, Rows]:
    """The rows of `task` on each side, with where they are from; `folder` is the mapping file's.

    Raises:
      LorajaxError: a path that leaves the folder or matches no file, a file of two sides, an unknown format, no such
        data set or split; and while the rows are read, whatever is wrong with a file, by its line or row.
    """
    if task.dataset is not None:
        return _dataset(task, folder)
    found: dict[Path, str | None] = {}
    for side, patterns in task.places.items():
        for pattern in patterns:
            for file in _matching(folder, pattern, f"{task.source}: 'files'"):
                if found.setdefault(file, side) != side:
                    raise LorajaxError(f"{task.source}: 'files': {file} is both {found[file]} and {side}")
    formats = {file: _format(file, task) for file in found}
    rows: dict[str | None, list[Rows]] = {side: [] for side in task.places}
    for file, form in formats.items():
        rows[found[file]].append(_rows(file, form, task, reading))
    return {side: itertools.chain.from_iterable(parts) for side, parts in rows.items()}


def _matching(folder: Path, pattern: str, source: str) -> list[Path]:
    path = confined(folder, pattern, source=source)
    names = [pattern] if path.is_file() else sorted(glob.glob(pattern, root_dir=folder, recursive=True))
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise LorajaxError(f"{source}: {pattern!r} matches no file in {folder.absolute()}")
    return files


def _format(file: Path, task: TaskMapping) -> str:
    suffix = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    form = task.format or suffix
    if form not in FORMATS:
        raise LorajaxError(
            f"{task.source}: 'files': {file}: expected a name that ends in .{', .'.join(FORMATS)} (all but the last "
            "also with .gz), or the key 'format'"
        )
    if task.columns and form not in ("csv", "tsv"):
        raise LorajaxError(f"{task.source}: 'columns' names those of CSV and TSV files; {file} names its own")
    return form


def _rows(file: Path, form: str, task: TaskMapping, reading: Reading) -> Rows:
    if form == "jsonl":
        return read_records(file, reading)
    return _parquet(file, task) if form == "parquet" else _separated(file, form, task, reading)


def _separated(file: Path, form: str, task: TaskMapping, reading: Reading) -> Rows:
    """Rows of a CSV file, or of a TSV file: that has no quotes, and a tab or a line end is never part of a field."""
    csv.field_size_limit(LONGEST_FIELD)
    open_text = gzip.open if file.name.endswith(".gz") else open
    line = 1
    try:
        with open_text(file, "rt", encoding="utf-8-sig", newline="") as stream:
            if form == "tsv":
                rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                rows = csv.reader(stream, strict=True)
            columns = list(task.columns) or next(rows, [])
            if not columns or len(set(columns)) < len(columns):
                raise LorajaxError(f"{file}: expected a header of different columns, found {columns!r:.200}")
            task.check_columns(columns, str(file))
            line = rows.line_num + 1
            for row in rows:
                where, line = f"{file}:{line}", rows.line_num + 1
                if len(row) == len(columns):
                    yield where, dict(zip(columns, row, strict=True))
                elif row:
                    reading.bad(LorajaxError(f"{where}: found {len(row)} fields, expected the {len(columns)} columns"))
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise LorajaxError(f"{file}:{line}: could not be read; expected {form.upper()} in UTF-8: {error}") from None
    except csv.Error as error:
        raise LorajaxError(f"{file}:{line}: not {form.upper()}: {error}") from None


def _parquet(file: Path, task: TaskMapping) -> Rows:
    arrow = _library("pyarrow")
    parquet = _library("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            task.check_columns(columns, str(file))
            for batch in table.iter_batches(BATCH, columns=_wanted(task, columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file} row {number}", row
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise LorajaxError(f"{file} row {number + 1}: could not be read; expected Parquet: {error}") from None


def _wanted(task: TaskMapping, columns: list[str]) -> list[str]:
    """Those of `columns` that are read: the others, such as images, are not decoded."""
    return sorted({field if field in columns else field.split(".")[0] for _, field in task.fields()})


def _dataset(task: TaskMapping, folder: Path) -> dict[str | None, Rows]:
    """The rows of a data set, streamed by the library `datasets`. Since its version 4 it runs no code of a data set."""
    assert task.dataset is not None
    name, source = task.dataset, f"{task.source}: dataset {task.dataset!r}"
    if name.startswith("./"):
        if not (path := confined(folder, name, source=source)).is_dir():
            raise LorajaxError(f"{source}: no such folder in {folder.absolute()}")
        name = str(path)
    elif Path(name).exists():  # which the library would prefer to the hub
        raise LorajaxError(f"{source}: there is a folder of this name here; write './...' if it is meant")
    try:
        splits: Mapping[str, Any] = _library("datasets").load_dataset(
            name, task.config, revision=task.revision, streaming=True
        )
    except LorajaxError:
        raise
    except Exception as error:  # of every kind there is: by the hub, the network, the configuration, the files
        raise LorajaxError(
            f"{source}: could not be opened: {error}. Without the network, get the data set's folder "
            "(hf download --repo-type dataset), and give it as './folder' beside the mapping file"
        ) from None
    places = task.places
    if not places:
        places = {}
        for split in splits:
            side = SPLITS.get(split, split)
            places[side] = (*places.get(side, ()), split)
        try:
            check_sides(places, source)
        except LorajaxError as error:
            raise LorajaxError(
                f"{error}. Name those to read in 'splits'; splits = \"train\" parts the rows of one"
            ) from None
    for split in (split for wanted in places.values() for split in wanted):
        if split not in splits:
            raise LorajaxError(f"{source}: has no split {split!r}; there are {', '.join(splits)}")
    return {
        side: itertools.chain.from_iterable(
            _streamed(splits[split], f"{task.dataset}[{split}]", task) for split in wanted
        )
        for side, wanted in places.items()
    }


def _streamed(data: Any, name: str, task: TaskMapping) -> Rows:
    number = 0
    try:
        if columns := data.column_names:  # unknown for some formats
            task.check_columns(columns, name)
            data = data.select_columns(_wanted(task, columns))
        for row in data:
            number += 1
            yield f"{name} row {number}", row
    except LorajaxError:
        raise
    except Exception as error:  # as above
        raise LorajaxError(f"{task.source}: {name} row {number + 1}: could not be read: {error}") from None


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise LorajaxError(
            f"this needs the library {name.split('.')[0]}; install it with: pip install 'lorajax[datasets]'"
        ) from None
