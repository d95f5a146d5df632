"""Tasks from Natural Instructions files: one JSON object a file, with a definition and instances.

Super-NaturalInstructions (Wang et al., EMNLP 2022, arXiv 2204.07705) holds more than 1,600 such files, `task*.json`,
of up to 6,500 instances. Of each file this reads

Definition   the instruction (of several, the first)
Categories   the kind of task (of several, the first), which gives its cluster
Instances    `{id, input, output: [accepted answers]}`

and passes over the rest (examples, contributors, licences). A file is decoded value by value: its instances are never
in memory as one list of JSON, and the cluster of a task costs the first 64 KiB of its file. The published splits are
over tasks, not rows (`--unseen` is for that); rows are split by their input: `lorajax.data.splits`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from lorajax.data.jsonl import check_name
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits
from lorajax.data.splits import Row, make_task
from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

#: Categories that are one of FLAN's clusters. The others are clusters of their own: "Question Answering", for one, is
#: closed-book questions and reading comprehension alike.
CLUSTER_OF = {
    "Textual Entailment": "nli",
    "Commonsense Classification": "commonsense",
    "Sentiment Analysis": "sentiment",
    "Paraphrasing": "paraphrase",
    "Data to Text": "struct_to_text",
    "Coreference Resolution": "coreference",
    "Summarization": "summarization",
    "Translation": "translation",
    "Misc.": "misc",
}

#: Characters read from a file at once.
BLOCK = 1 << 16
#: What can stand behind a value.
BEHIND = frozenset(" \t\n\r,:]}")


class NaturalInstructions:
    """The task files of a folder; a task has the name of its file."""

    def __init__(self, files: Sequence[Path]):
        self._files = {file.stem: file for file in files}

    def clusters(self, reading: Reading) -> dict[str, str]:
        """The cluster of every task, in the order of their numbers; reads no file further than its categories."""
        for name, file in self._files.items():
            check_name("task", name, str(file))
        return {name: _head(file)[1] for name, file in self._files.items()}

    def read(self, names: Sequence[str], limits: Limits, reading: Reading) -> dict[str, Task]:
        """The tasks `names`, one file after the other, cut to `limits` in the order of `lorajax.data.splits.make_task`.

        Raises:
          LorajaxError: no JSON (file and line), an instance that lacks a key or has the id of another one (file and
            id), or no rows to train on or to test on.
        """
        tasks = {}
        for name in names:
            task = make_task(name, _rows(name, self._files[name], reading), reading=reading)
            tasks[name] = Task(name, task.cluster, task.train[: limits.train], task.test[: limits.test])
        return tasks


def open_source(where: str) -> NaturalInstructions:
    """The source of `--data ni:FOLDER`: a folder of `task*.json`, or one that holds it as `tasks`.

    Raises:
      LorajaxError: no such folder, or no such files in it.
    """
    folder = Path(where).expanduser()
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "no such folder"
        raise LorajaxError(f"--data ni:{where}: {found}; expected a folder of Natural Instructions files, task*.json")
    files = [*folder.glob("task*.json")] or [*(folder / "tasks").glob("task*.json")]
    if not files:
        raise LorajaxError(f"--data ni:{where}: holds no task*.json, and no folder 'tasks' that does")
    return NaturalInstructions(sorted(files, key=_by_number))


def _by_number(file: Path) -> tuple[int, str]:
    number = re.match(r"task(\d{0,9})", file.name)
    return int(number[1] if number and number[1] else 0), file.name


def cluster_of(category: str) -> str:
    """The cluster of a category of Natural Instructions: one of FLAN's, or the category as a name.

    "Sentiment Analysis" is `sentiment`, "Fill in The Blank" is `fill_in_the_blank`.
    """
    return CLUSTER_OF.get(category) or re.sub(r"\W+", "_", category.lower()).strip("_")


def _head(file: Path) -> tuple[str, str]:
    """Definition and cluster of a task file."""
    found: dict[str, Any] = {}
    for key, value in _scan(file):
        if key in ("Definition", "Categories"):
            found[key] = _first_text(value, key, file)
        if len(found) == 2:
            cluster = cluster_of(found["Categories"])
            check_name("cluster", cluster, f"{file}: 'Categories'")
            return found["Definition"], cluster
    missing = " and ".join(repr(key) for key in ("Definition", "Categories") if key not in found)
    raise LorajaxError(f"{file}: has no {missing}; expected a Natural Instructions file")


def _first_text(value: Any, key: str, file: Path) -> str:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise LorajaxError(f"{file}: {key!r} must be a list of at least one text, found {value!r:.80}")
    return _text(texts[0], f"{file}: {key!r}")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise LorajaxError(f"{what} must be a non-empty text, found {value!r:.80}")
    if half := re.search(r"[\ud800-\udfff]", value):
        raise LorajaxError(f"{what} holds {half[0]!r}, half of a character; expected valid Unicode")
    return value


def _rows(name: str, file: Path, reading: Reading) -> list[Row]:
    """The instances of a file; bad ones go to `reading`."""
    definition, cluster = _head(file)
    rows: list[Row] = []
    ids: set[str] = set()
    instances = (value for key, value in _scan(file) if key == "Instances")
    number = 0
    for number, instance in enumerate(instances, 1):
        reading.row(name)
        try:
            example, identity = _example(instance, f"{file}: instance {number}", name, cluster, definition)
            if identity in ids:
                raise LorajaxError(f"{file}: instance {number}: another one has the id {identity!r}, too")
        except LorajaxError as error:
            reading.bad(error)
        else:
            ids.add(identity)
            rows.append(Row(example, None, f"{file}: instance {identity!r}"))
    if not number:
        raise LorajaxError(f"{file}: has no instances; expected 'Instances' to be a list of at least one")
    return rows


def _example(instance: Any, where: str, task: str, cluster: str, definition: str) -> tuple[Example, str]:
    """The example of an instance, and its id. `where` names it by number, for the case that it has no id."""
    if not isinstance(instance, dict):
        raise LorajaxError(f"{where}: expected a JSON object, found {type(instance).__name__}")
    identity = _text(instance.get("id"), f"{where}: 'id'")
    where = f"{where} ({identity!r})"
    outputs = instance.get("output")
    if not isinstance(outputs, list) or not outputs:
        raise LorajaxError(f"{where}: 'output' must be a list of at least one text, found {outputs!r:.80}")
    targets = tuple(_text(output, f"{where}: 'output'") for output in outputs)
    return Example(task, cluster, _text(instance.get("input"), f"{where}: 'input'"), targets, definition), identity


def _scan(file: Path) -> Iterator[tuple[str, Any]]:
    """The keys of a JSON object with their values, in the order of the file; the instances one by one.

    Raises:
      LorajaxError: the file cannot be read, or is no JSON object, by file and line.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            text = _Json(file, stream)
            text.take("{")
            mark = "," if text.peek() != "}" else text.take("}")
            seen = set()
            while mark == ",":
                key = text.value()
                if not isinstance(key, str) or key in seen:
                    raise text.error(f"expected a new key, found {key!r}")
                seen.add(key)
                text.take(":")
                if key == "Instances":
                    yield from ((key, instance) for instance in text.items())
                else:
                    yield key, text.value()
                mark = text.take(",}")
            if text.peek():
                raise text.error("there is more behind the JSON object")
    except (OSError, UnicodeDecodeError) as error:
        raise LorajaxError(f"{file}: could not be read: {error}") from None


class _Json:
    """A JSON text in a file, decoded value by value; no more of it is held than the value that is being read."""

    def __init__(self, file: Path, stream: TextIO):
        self._file, self._stream = file, stream
        self._text, self._at, self._line = "", 0, 1
        self._decoder = json.JSONDecoder()

    def error(self, message: str, line: int | None = None) -> LorajaxError:
        line = self._line + self._text.count("\n", 0, self._at) if line is None else line
        return LorajaxError(f"{self._file}:{line}: not a task file: {message}")

    def _more(self) -> bool:
        """Reads on. What is held doubles each time, so a long value is not decoded from its start too often."""
        block = self._stream.read(max(BLOCK, len(self._text) - self._at))
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\n\r":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, marks: str) -> str:
        """Passes over the next mark, which must be one of `marks`."""
        mark = self.peek()
        if not mark or mark not in marks:
            expected = " or ".join(repr(mark) for mark in marks)
            raise self.error(f"expected {expected}, found {mark!r}" if mark else f"ends where {expected} is expected")
        self._at += 1
        return mark

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():  # the value may have been cut off by the end of the block
                    continue
                raise self.error(error.msg, self._line + error.lineno - 1) from None
            except (ValueError, RecursionError) as error:  # a number or a nesting that Python will not read
                raise self.error(str(error)) from None
            # So may a number, and the beginning of one is a number, too.
            if self._text[end : end + 1] not in BEHIND and self._more():
                continue
            self._at = end
            return value

    def items(self) -> Iterator[Any]:
        """The items of the list that comes next."""
        self.take("[")
        mark = "," if self.peek() != "]" else self.take("]")
        while mark == ",":
            yield self.value()
            mark = self.take(",]")
