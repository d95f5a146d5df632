"""Where the files of FLAN 2021 are, and how they are written.

Two forms are public, both with the prompts already rendered from FLAN's ten templates a task:

* the data set `Muennighoff/flan` of the Hugging Face hub, files `{split}/{task}_10templates_{split}.jsonl`, a JSON
  object `{inputs, targets, task}` on each line; the same files in a local folder;
* the files of Zhao et al. (2024, arXiv 2410.20008) for LLaMA-Factory: a `dataset_info.json` with entries
  `{task}_{split}: {file_name, file_sha1}`, each file a JSON array (or lines) of `{instruction, input, output}`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lorajax.data.flan2021.arrays import read_array
from lorajax.data.flan2021.table import TASKS
from lorajax.data.jsonl import read_records
from lorajax.data.reading import Reading
from lorajax.errors import LorajaxError
from lorajax.files import confined

REPOSITORY = "Muennighoff/flan"
#: The head of its main branch since the files became JSON lines; a fixed one, so that a study means the same later.
REVISION = "049702ca5ffc5b3c62bf226aac67ba1493e8d548"
#: What is read. The validation files are not: examples to validate on are set aside from those trained on.
SPLITS = ("train", "test")
INFO = "dataset_info.json"
_SUFFIX = "_10templates"

Say = Callable[[str], None]


class Texts(NamedTuple):
    """What a row says."""

    definition: str | None
    input: str
    answer: str


class Files(Protocol):
    """One place with files of FLAN."""

    def tasks(self, say: Say) -> set[str]:
        """The tasks there are files of; tells of what else there is. Opens no file of rows."""
        ...

    def require(self, task: str) -> None:
        """Raises LorajaxError, naming the file expected, where a file of `task` is not there. Downloads nothing."""
        ...

    def fetch(self, task: str, split: str, say: Say) -> Path:
        """The file of a task that is there, downloaded or checked if need be."""
        ...

    def records(self, file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a file in their order, each with its place for messages."""
        ...

    def texts(self, record: dict[str, Any], task: str, where: str) -> Texts:
        """What the row says; raises LorajaxError where it is none of `task`."""
        ...


def public_name(task: str, split: str) -> str:
    """Path of a file in the public data set."""
    return f"{split}/{task}{_SUFFIX}_{split}.jsonl"


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        found = repr(value) if key in record else f"the keys {', '.join(record) or '(none)'}"
        raise LorajaxError(f"{where}: {key!r} must be a text, found {found}")
    if half := re.search(r"[\ud800-\udfff]", value):
        raise LorajaxError(f"{where}: {key!r} holds {half[0]!r}, half of a character; expected valid Unicode")
    return value


class PublicRows:
    """The rows of the public data set."""

    def records(self, file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
        """See Files."""
        return read_records(file, reading)

    def texts(self, record: dict[str, Any], task: str, where: str) -> Texts:
        """See Files."""
        stated = _text(record, "task", where)
        if stated not in (task, task + _SUFFIX):
            raise LorajaxError(f"{where}: 'task' must be {task + _SUFFIX!r}, as the file's name says; found {stated!r}")
        return Texts(None, _text(record, "inputs", where), _text(record, "targets", where))


class Hub(PublicRows):
    """The public data set on the Hugging Face hub. Only the files of the tasks asked for are downloaded."""

    def tasks(self, say: Say) -> set[str]:
        """See Files."""
        return {task.name for task in TASKS.values() if not task.absent}

    def require(self, task: str) -> None:
        """See Files."""
        if why := TASKS[task].absent:
            raise LorajaxError(
                f"task {task!r}: data set {REPOSITORY} has no {public_name(task, 'train')}: {why}; expected one of the "
                f"other tasks, or --data flan2021:FOLDER with the file in it"
            )

    def fetch(self, task: str, split: str, say: Say) -> Path:
        """See Files."""
        from huggingface_hub import hf_hub_download

        name = public_name(task, split)
        say(f"task {task}: {name} of data set {REPOSITORY}")
        try:
            return Path(hf_hub_download(REPOSITORY, name, repo_type="dataset", revision=REVISION))
        except Exception as error:  # the hub's client raises of many kinds, all of which mean this
            why = " ".join(str(error).split())
            raise LorajaxError(
                f"--data flan2021: the hub did not give {name} of data set {REPOSITORY}: {why} "
                f"(from files on this machine: --data flan2021:FOLDER, with FOLDER/{name})"
            ) from error


class PublicFolder(PublicRows):
    """Files of the public data set in a local folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def tasks(self, say: Say) -> set[str]:
        """See Files."""
        found, others = set(), []
        for split in SPLITS:
            ending = f"{_SUFFIX}_{split}.jsonl"
            for file in sorted((self._folder / split).glob("*.jsonl")):
                task = file.name.removesuffix(ending)
                if file.name.endswith(ending) and task in TASKS:
                    found.add(task)
                else:
                    others.append(f"{split}/{file.name}")
        if not found:
            near = self._folder.absolute().parent
            hint = f" (there is one in {near})" if (near / INFO).is_file() else ""
            raise LorajaxError(
                f"{self._folder}: holds no file of FLAN 2021; expected files such as {public_name('rte', 'train')}, "
                f"or the {INFO} of LLaMA-Factory{hint}"
            )
        if others:
            say(f"{self._folder}: left out, since no tasks of FLAN 2021: {', '.join(others)}")
        return found

    def require(self, task: str) -> None:
        """See Files."""
        for split in SPLITS:
            if not (file := self._folder / public_name(task, split)).is_file():
                why = TASKS[task].absent
                hint = f" (the public files are without this task: {why})" if why else ""
                raise LorajaxError(f"task {task!r}: there is no file {file}{hint}")

    def fetch(self, task: str, split: str, say: Say) -> Path:
        """See Files."""
        return self._folder / public_name(task, split)


class FactoryFolder:
    """Files in LLaMA-Factory's form. Each is compared with the SHA-1 sum that `dataset_info.json` states."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._info = folder / INFO
        try:
            entries = json.loads(self._info.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise LorajaxError(f"{self._info}: could not be read: {error}") from None
        if not isinstance(entries, dict):
            raise LorajaxError(f"{self._info}: expected a JSON object of entries, found {type(entries).__name__}")
        self._entries = entries

    def tasks(self, say: Say) -> set[str]:
        """See Files."""
        known = {f"{task}_{split}" for task in TASKS for split in (*SPLITS, "validation")}
        mixtures = [name for name in self._entries if name.startswith("all_tasks_sample_")]
        others = [name for name in self._entries if name not in known and name not in mixtures]
        for names, what in ((mixtures, "mixtures of all tasks"), (others, "no tasks of FLAN 2021")):
            if names:
                say(f"{self._info}: left out, since {what}: {', '.join(names)}")
        found = {task for task in TASKS if any(self._there(task, split) for split in SPLITS)}
        if not found:
            raise LorajaxError(
                f"{self._info}: names no file of FLAN 2021 that is there; expected entries such as 'rte_train', "
                f"with a 'file_name' inside {self._folder}"
            )
        return found

    def _there(self, task: str, split: str) -> bool:
        return f"{task}_{split}" in self._entries and self._file(task, split).is_file()

    def _file(self, task: str, split: str) -> Path:
        name = f"{task}_{split}"
        entry = self._entries[name]
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise LorajaxError(f"{self._info}: entry {name!r}: expected a 'file_name', found {entry!r}")
        if unknown := sorted(set(entry) - {"file_name", "file_sha1"}):
            raise LorajaxError(
                f"{self._info}: entry {name!r}: expected no more than 'file_name' and 'file_sha1', "
                f"found {', '.join(map(repr, unknown))}, by which the rows would mean something else"
            )
        return confined(self._folder, entry["file_name"], source=str(self._info))

    def require(self, task: str) -> None:
        """See Files."""
        for split in SPLITS:
            if (name := f"{task}_{split}") not in self._entries:
                raise LorajaxError(f"task {task!r}: {self._info} has no entry {name!r}")
            if not (file := self._file(task, split)).is_file():
                raise LorajaxError(f"task {task!r}: there is no file {file}, which {self._info} names")

    def fetch(self, task: str, split: str, say: Say) -> Path:
        """See Files.

        Raises:
          LorajaxError: the file's SHA-1 sum is another than the one stated.
        """
        file, stated = self._file(task, split), self._entries[f"{task}_{split}"].get("file_sha1")
        if stated is None:
            say(f"{file}: not checked, since {INFO} states no SHA-1 sum")
            return file
        try:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha1").hexdigest()
        except OSError as error:
            raise LorajaxError(f"{file}: could not be read: {error}") from None
        if found != str(stated).lower():
            raise LorajaxError(f"{file}: its SHA-1 sum is {found}; expected {stated}, which {self._info} states")
        return file

    def records(self, file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
        """See Files."""
        try:
            with file.open("rb") as content:
                begin = content.read(4096).lstrip()[:1]
        except OSError as error:
            raise LorajaxError(f"{file}: could not be read: {error}") from None
        return read_array(file, reading) if begin == b"[" else read_records(file, reading)

    def texts(self, record: dict[str, Any], task: str, where: str) -> Texts:
        """See Files. LLaMA-Factory puts a line break between instruction and input, as our prompts do."""
        for key in ("history", "system"):
            if record.get(key):
                raise LorajaxError(f"{where}: {key!r} must be empty or absent, found {record[key]!r}")
        instruction, answer = _text(record, "instruction", where), _text(record, "output", where)
        instance = _text(record, "input", where) if "input" in record else ""
        return Texts(instruction, instance, answer) if instance.strip() else Texts(None, instruction, answer)


def open_files(where: str) -> Files:
    """The files in folder `where`, or on the hub when it is empty.

    Raises:
      LorajaxError: no such folder.
    """
    if not where:
        return Hub()
    folder = Path(where).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise LorajaxError(f"--data flan2021:{where}: {found}; expected a folder with files of FLAN 2021")
    return FactoryFolder(folder) if (folder / INFO).is_file() else PublicFolder(folder)
