"""Linguistic tasks made of OntoNotes, or of any files in the format of CoNLL-2012: `--data conll2012:FOLDER`.

Every `FOLDER/**/*gold_conll` is read, in name order, one document at a time (`reader.py`). Documents are cut into
passages of whole sentences (`passages.py`), and each task is a function of a passage (`tasks.py`), so that tasks differ
in what they ask and not in what they ask it about. A task whose annotation a document lacks leaves out the passages of
that document; all tasks on one annotation have the same passages.

Files below folders called train, development or test, as in the official release, are on that side (development stands
in for a test part that is not there); so are files such as `train.english.v4_gold_conll`. Otherwise about a fifth of
the documents, by a hash of their names, is tested on. Either way a document is on one side, the same in every task
(`sides.py`).

The rules for punctuation are those of English: files named arabic or chinese, or below such folders, are passed over.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from lorajax.data.conll2012.document import ANNOTATIONS, Document
from lorajax.data.conll2012.passages import Passage, passages, whole
from lorajax.data.conll2012.reader import annotations_there, read_documents
from lorajax.data.conll2012.sides import Sides, name_parts, named_sides, side_of
from lorajax.data.conll2012.summaries import FILE, read_summaries
from lorajax.data.conll2012.tasks import KINDS, SUMMARY, Kind, example
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits
from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError

__all__ = ["PASSAGE_WORDS", "Conll2012", "open_source"]

#: Words of a passage at most, unless one sentence is longer.
PASSAGE_WORDS = 150

_OTHER_LANGUAGES = frozenset({"arabic", "chinese"})


@dataclasses.dataclass(frozen=True)
class _Group:
    """The tasks on one annotation, and the passages that are kept for them."""

    needs: str | None
    tasks: tuple[Kind, ...]
    sides: Sides

    def take(self, document: Document, cut: Sequence[Passage], side: str, reading: Reading) -> None:
        missing = self.needs is not None and self.needs not in document.annotations
        for task in self.tasks:
            for _ in cut:
                reading.row(task.name)
            if missing:
                reading.drop(task.name, f"are of documents without {self.needs}", len(cut))
        for passage in () if missing else cut:
            self.sides.offer(side, passage.name, passage.text, functools.partial(self._examples, passage))

    def _examples(self, passage: Passage) -> dict[str, Example]:
        return {task.name: example(task, passage.text, task.answer(passage)) for task in self.tasks}


@dataclasses.dataclass(frozen=True)
class _Summaries:
    """The task made of a file of summaries, about whole documents. `left` are the summaries not yet given away."""

    left: dict[str, tuple[str, str]]
    sides: Sides

    def take(self, document: Document, side: str, reading: Reading) -> None:
        reading.row(SUMMARY.name)
        if document.name not in self.left:
            reading.drop(SUMMARY.name, "are documents without a summary")
            return
        summary, _ = self.left.pop(document.name)
        text = whole(document).text
        self.sides.offer(side, document.name, text, lambda: {SUMMARY.name: example(SUMMARY, text, summary)})

    def finish(self, reading: Reading) -> None:
        for _ in self.left:
            reading.row(SUMMARY.name)
        reading.drop(SUMMARY.name, "are summaries of documents that were not read", len(self.left))


class Conll2012:
    """The tasks of a folder of documents.

    Args:
      folder: where the files are, at any depth.
      words: of a passage at most.
    """

    def __init__(self, folder: Path, words: int = PASSAGE_WORDS):
        self._folder = folder
        self._words = words
        self._files: list[Path] | None = None

    def files(self, reading: Reading) -> list[Path]:
        """The files that are read.

        Raises:
          LorajaxError: no such folder, or nothing in it.
        """
        if self._files is None:
            self._files = _files(self._folder, reading)
        return self._files

    def clusters(self, reading: Reading) -> dict[str, str]:
        """The cluster of every task whose annotation any of the documents has."""
        there = annotations_there(self.files(reading))
        for kind in ANNOTATIONS:
            if kind not in there:
                missing = [task.name for task in KINDS.values() if task.needs == kind]
                reading.say(f"{self._folder}: no document has {kind}; not there: {', '.join(missing)}")
        found = [task for task in KINDS.values() if task.needs is None or task.needs in there]
        if (self._folder / FILE).exists():
            found.append(SUMMARY)
        return {task.name: task.cluster for task in found}

    def read(self, names: Sequence[str], limits: Limits, reading: Reading) -> dict[str, Task]:
        """The tasks `names`. Of more passages than `limits` allows, those are kept whose text has the smallest hash.

        Raises:
          LorajaxError: a bad document, by file and line, or a task without passages on one of its sides.
        """
        files = self.files(reading)
        named = named_sides(self._folder, files)
        wanted = [KINDS[name] for name in names if name != SUMMARY.name]
        groups = [
            _Group(needs, tuple(task for task in wanted if task.needs == needs), Sides(limits))
            for needs in dict.fromkeys(task.needs for task in wanted)
        ]
        summaries = None
        if SUMMARY.name in names:
            summaries = _Summaries(read_summaries(self._folder, reading), Sides(limits))
        for document in read_documents(files, reading):
            side = named[document.file] if named else side_of(document.name)
            cut = list(passages(document, self._words)) if groups else []
            for group in groups:
                group.take(document, cut, side, reading)
            if summaries:
                summaries.take(document, side, reading)
        found = {task.name: self._task(task, group.sides) for group in groups for task in group.tasks}
        if summaries:
            summaries.finish(reading)
            found[SUMMARY.name] = self._task(SUMMARY, summaries.sides)
        return {name: found[name] for name in names}

    def _task(self, task: Kind, sides: Sides) -> Task:
        train, test = (tuple(examples[task.name] for examples in sides.kept(side)) for side in ("train", "test"))
        for side, examples in (("train", train), ("test", test)):
            if not examples:
                other = len(train) + len(test)
                raise LorajaxError(
                    f"{self._folder}: task {task.name!r}: no {side} rows (and {other} on the other side); "
                    "folders named train and test part the documents, or else a hash of their names"
                )
        return Task(task.name, task.cluster, train, test)


def _files(folder: Path, reading: Reading) -> list[Path]:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise LorajaxError(f"--data conll2012:{folder}: {found}; expected a folder of *_gold_conll files")
    files, passed_over = [], 0
    for path in sorted(folder.rglob("*gold_conll")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if _OTHER_LANGUAGES.isdisjoint(name_parts(folder, path)):
            files.append(path)
        else:
            passed_over += 1
    if passed_over:
        reading.say(f"{folder}: {passed_over} files named {' or '.join(sorted(_OTHER_LANGUAGES))} are passed over")
    if not files:
        raise LorajaxError(f"{folder}: holds no *_gold_conll file, in English")
    return files


def open_source(where: str) -> Conll2012:
    """The source of `--data conll2012:FOLDER`."""
    return Conll2012(Path(where).expanduser())
