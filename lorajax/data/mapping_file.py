"""A mapping file: where the rows of a task are, and how a row becomes a prompt and its answer.

It is TOML with a table for each task. This one is for AG News as its authors ship it, CSV without a header:

    [tasks.ag_news]
    files = { train = "ag_news/train.csv", test = "ag_news/test.csv" }
    columns = ["class", "title", "description"]
    cluster = "summarization"
    definition = "What is this news article about?"
    input = "{title}\\n\\n{description}"
    target = "class"
    labels = { 1 = "World", 2 = "Sports", 3 = "Business", 4 = "Sci/Tech" }
    options = ["World", "Sports", "Business", "Sci/Tech"]

`KEYS` tells what each key means. A field of a row is named by its column, and a field inside a field by a dot, as in
`answers.text`. In a text, `{field}` stands for what the row holds there, `{{` and `}}` for braces.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorajax.data.fields import Template, as_key
from lorajax.data.jsonl import check_name
from lorajax.data.splits import read_split
from lorajax.errors import LorajaxError

#: The keys of a task, and what they mean.
KEYS = {
    "files": "paths or globs beside the mapping file: one, a list, or a table of split (train, test, dev) to them",
    "format": "csv, tsv, jsonl or parquet, where the name of the file does not end in it",
    "columns": "the names of the columns, for CSV and TSV files without a header",
    "dataset": "instead of files: a data set of the hub, owner/name, or ./name, a folder beside the mapping file",
    "config": "the configuration of the data set",
    "revision": "the commit, tag or branch of the data set",
    "splits": "splits of the data set: one, a list, or a table of split to them; all it has, unless given",
    "cluster": "the cluster of the task",
    "definition": "the instruction, if the input does not hold it",
    "input": "the prompt, a text with {fields}",
    "target": "the answer: a field (one that holds a list has several accepted answers), or a text with {fields}",
    "labels": "a table of what the target's field holds to the answer, a text with {fields}",
    "correct_option": "instead of target: the field with the number of the right option, from 0",
    "options": "a list of texts with {fields}, or the field that holds the list",
    "split": "the field that says train, test or dev",
    "group": "the field that says what a row is about: rows of one group are on the same side",
    "where": "a table of field to value, or list of values: rows that hold another one are left out",
}
FORMATS = ("csv", "tsv", "jsonl", "parquet")


@dataclasses.dataclass(frozen=True)
class TaskMapping:
    """A task of a mapping file; `KEYS` tells what the fields mean.

    `places` are the files, or the splits of the data set, of each side; the side None holds rows that are still to be
    split, by `split` or by their group or input.
    """

    name: str
    source: str
    cluster: str
    places: Mapping[str | None, tuple[str, ...]]
    input: Template
    dataset: str | None = None
    config: str | None = None
    revision: str | None = None
    format: str | None = None
    columns: tuple[str, ...] = ()
    definition: str | None = None
    target: str | Template | None = None
    labels: Mapping[str, Template] | None = None
    correct_option: str | None = None
    options: str | tuple[Template, ...] | None = None
    split: str | None = None
    group: str | None = None
    where: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def fields(self) -> list[tuple[str, str]]:
        """Every field that is read, after the key that names it."""
        found = [("input", field) for field in self.input.fields]
        for key in ("target", "correct_option", "options", "split", "group"):
            value = getattr(self, key)
            texts = value if isinstance(value, tuple) else (value,)
            found += [(key, t) for t in texts if isinstance(t, str)]
            found += [(key, field) for t in texts if isinstance(t, Template) for field in t.fields]
        found += [("labels", field) for text in (self.labels or {}).values() for field in text.fields]
        return found + [("where", field) for field in self.where]

    def check_columns(self, columns: list[str], where: str) -> None:
        """Raises LorajaxError where a field is none of `columns`, and not inside one."""
        for key, field in self.fields():
            if field not in columns and field.split(".")[0] not in columns:
                raise self.no_field(key, field, columns, where)

    def no_field(self, key: str, field: str, there: list[str], where: str) -> LorajaxError:
        near = difflib.get_close_matches(field, there, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return LorajaxError(
            f"{self.source}: {key!r} names the field {field!r}; the fields of {where} are {', '.join(there)}{hint}"
        )


def read_mapping(file: Path) -> dict[str, TaskMapping]:
    """The tasks of a mapping file, by name.

    Raises:
      LorajaxError: no TOML, an unknown key, or a key that is missing or holds what it cannot.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise LorajaxError(f"{file}: could not be read: {error.strerror or error}; expected a mapping file") from None
    except ValueError as error:  # UnicodeDecodeError, TOMLDecodeError
        raise LorajaxError(f"{file}: not a mapping file (TOML in UTF-8): {error}") from None
    tasks = tables.get("tasks")
    if list(tables) != ["tasks"] or not isinstance(tasks, dict) or not tasks:
        found = ", ".join(map(repr, tables)) or "nothing"
        raise LorajaxError(f"{file}: expected a table [tasks.NAME] for each task and nothing else, found {found}")
    for name in tasks:
        check_name("task", name, str(file))
    return {name: _task(name, table, f"{file}: tasks.{name}") for name, table in tasks.items()}


def _task(name: str, table: Any, source: str) -> TaskMapping:
    if not isinstance(table, dict):
        raise LorajaxError(f"{source}: expected a table, found {table!r:.80}")
    _check_keys(table, source)
    single = ("dataset", "config", "revision", "format", "definition", "correct_option", "split", "group", "cluster")
    texts = {key: _text(table[key], key, source) for key in single if key in table}
    check_name("cluster", texts["cluster"], source)
    if table.get("format", "csv") not in FORMATS:
        raise LorajaxError(f"{source}: 'format' must be one of {', '.join(FORMATS)}, found {table['format']!r}")
    if (hub := texts.get("dataset")) and not re.fullmatch(r"\./.+|(\w[\w.-]*/)?\w[\w.-]*", hub):
        raise LorajaxError(f"{source}: 'dataset' must be owner/name, or ./name for a folder; found {hub!r}")
    prompt = _template(table["input"], "input", source)
    if not prompt.fields:
        raise LorajaxError(
            f"{source}: 'input' holds no {{field}}, so all prompts would be equal; found {table['input']!r:.80}"
        )
    places = _places(table, source)
    if "split" in table and None not in places:
        raise LorajaxError(f"{source}: 'split' goes with files or splits that are one or a list, not with a table")
    target = _target(table["target"], source) if "target" in table else None
    labels = table.get("labels")
    if labels is not None:
        if not isinstance(labels, dict) or not labels or not isinstance(target, str):
            raise LorajaxError(f"{source}: 'labels' must be a table, and 'target' one field; found {labels!r:.80}")
        labels = {key: _template(text, f"labels.{key}", source) for key, text in labels.items()}
    options = table.get("options")
    if not isinstance(options, (str, type(None))):
        options = tuple(_template(text, "options", source) for text in _list(options, "options", source))
    return TaskMapping(
        name,
        source,
        places=places,
        input=prompt,
        columns=tuple(_list(table.get("columns", []), "columns", source)) if "columns" in table else (),
        target=target,
        labels=labels,
        options=options,
        where=_where(table.get("where", {}), source),
        **texts,
    )


def _check_keys(table: dict[str, Any], source: str) -> None:
    """Raises LorajaxError for a key that is unknown, missing, or of no use beside the others."""
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0)
            raise LorajaxError(f"{source}: unknown key {key!r}: did you mean {near[0]!r}? Keys are {', '.join(KEYS)}")
    for keys in (("files", "dataset"), ("target", "correct_option"), ("input",), ("cluster",)):
        if sum(key in table for key in keys) != 1:
            expected = f"{'either ' * (len(keys) - 1)}{' or '.join(map(repr, keys))}"
            raise LorajaxError(f"{source}: expected {expected}, found {', '.join(map(repr, table)) or 'nothing'}")
    for key, other in (
        *((key, "dataset") for key in ("config", "revision", "splits")),
        *((key, "files") for key in ("format", "columns")),
        ("labels", "target"),
        ("correct_option", "options"),
    ):
        if key in table and other not in table:
            raise LorajaxError(f"{source}: {key!r} goes with {other!r}, which is not there")


def _text(value: Any, key: str, source: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise LorajaxError(f"{source}: {key!r} must be a non-empty text, found {value!r:.80}")
    return value


def _list(value: Any, key: str, source: str) -> list[str]:
    if not isinstance(value, list) or not value:
        raise LorajaxError(f"{source}: {key!r} must be a list of at least one text, found {value!r:.80}")
    return [_text(item, key, source) for item in value]


def _template(value: Any, key: str, source: str) -> Template:
    text = _text(value, key, source)
    try:
        return Template.parse(text)
    except ValueError as error:
        raise LorajaxError(f"{source}: {key!r}: {error}, in {text!r}") from None


def _target(value: Any, source: str) -> str | Template:
    """The field that is the target: named as it is, or alone in braces; else the text that holds fields."""
    text = _template(value, "target", source)
    if not text.fields:
        return value
    alone = len(text.parts) == 1 and not text.parts[0][0]
    return text.fields[0] if alone else text


def _places(table: dict[str, Any], source: str) -> dict[str | None, tuple[str, ...]]:
    """`files` or `splits` by side; empty for all the splits that a data set has."""
    key = "files" if "files" in table else "splits"
    value = table.get(key, {})
    if key in table and not value:
        raise LorajaxError(f"{source}: {key!r} is empty")
    named = value if isinstance(value, dict) else {None: value}
    places: dict[str | None, tuple[str, ...]] = {}
    for name, given in named.items():
        side = read_split(name, f"{source}: {key!r}")
        texts = _list([given] if isinstance(given, str) else given, key, source)
        places[side] = (*places.get(side, ()), *texts)
    if value and set(places) != {None}:
        check_sides(places, f"{source}: {key!r}")
    return places


def check_sides(places: Mapping[str | None, tuple[str, ...]], where: str) -> None:
    """Raises LorajaxError unless `places` has rows to train on and rows to test on, and no others."""
    if None in places or "train" not in places or len(places) == 1 or set(places) - {"train", "test", "dev"}:
        raise LorajaxError(f"{where}: expected train, and test or dev; found {', '.join(map(str, places))}")


def _where(value: Any, source: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise LorajaxError(f"{source}: 'where' must be a table of field to value, found {value!r:.80}")
    kept = {}
    for field, given in value.items():
        texts = [as_key(item) for item in (given if isinstance(given, list) else [given])]
        if not texts or None in texts:
            raise LorajaxError(
                f"{source}: 'where': expected a value or a list of them for {field!r}, found {given!r:.80}"
            )
        kept[field] = tuple(text for text in texts if text is not None)
    return kept
