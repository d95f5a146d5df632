"""Reads `*_gold_conll` files, the format of CoNLL-2012 and OntoNotes (Pradhan et al., CoNLL 2012, shared task).

A file is a series of blocks, each a part of a document, and a document's parts follow each other:

    #begin document (bn/cnn/00/cnn_0001); part 000
    ...
    #end document

Within a block each line is a word, and an empty line ends a sentence. Columns are separated by white space: document,
part, word number, word, part of speech, parse bit, predicate lemma, frameset, word sense, speaker, named entity, then
one column for each predicate of the sentence, then coreference. Word senses and speakers are not kept. Other lines that
begin with # are comments.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lorajax.data.conll2012.columns import labelled, references
from lorajax.data.conll2012.document import ANNOTATIONS, Chain, Document, Mention, Part, Predicate, Sentence
from lorajax.data.conll2012.tree import read_tree
from lorajax.data.reading import Reading
from lorajax.errors import LorajaxError

_BEGIN, _END, _FORM = "#begin document", "#end document", "'#begin document (NAME); part 000'"
_BEGIN_LINE = re.compile(r"#begin document \((.+)\); part ([0-9]{1,9})")
#: Columns of a sentence without predicates, and where these begin.
LEAST, FIRST_PREDICATE = 12, 11

#: A word's columns, with its line.
_Row = tuple[int, list[str]]


@dataclasses.dataclass(frozen=True)
class _Block:
    """The lines of one part, as they were read; `error` is what is wrong with its ends or its text."""

    name: str
    number: int
    line: int
    sentences: list[list[_Row]]
    error: LorajaxError | None


def read_documents(files: Iterable[Path], reading: Reading) -> Iterator[Document]:
    """The documents of `files`, one at a time.

    A document is what `reading` calls a row: when one of its parts is bad, all of it is passed over.

    Raises:
      LorajaxError: a bad document, by file and line, that `reading` does not allow; a file that cannot be read or is
        empty; a document that was read before.
    """
    seen: dict[str, str] = {}
    for file in files:
        for name, group in itertools.groupby(_blocks(file), key=lambda block: block.name):
            blocks = list(group)
            try:
                document = _document(file, name, blocks, seen)
            except LorajaxError as error:
                reading.bad(error)
            else:
                yield document


def _document(file: Path, name: str, blocks: Sequence[_Block], seen: dict[str, str]) -> Document:
    where = f"{file}:{blocks[0].line}"
    for block in blocks:
        if block.error:
            raise block.error
    if (other := seen.setdefault(name, where)) != where:
        raise LorajaxError(
            f"{where}: document {name!r} was read before, at {other}; expected its parts together, and only once"
        )
    parts: dict[int, Part] = {}
    for block in blocks:
        if block.number in parts:
            raise LorajaxError(f"{file}:{block.line}: part {block.number:03} of document {name!r} is there twice")
        parts[block.number] = _part(file, block)
    return Document(name, tuple(parts.values()), file, blocks[0].line)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with file.open("rb") as lines:
            yield from enumerate(lines, 1)
    except OSError as error:
        raise LorajaxError(f"{file}: could not be read: {error.strerror or error}") from None


def _blocks(file: Path) -> Iterator[_Block]:
    """The blocks of a file; what is wrong with one is told by the block itself, so that the next one can be read."""
    block: _Block | None = None
    begun, fresh, line = False, True, 0
    for line, raw in _lines(file):
        # Bytes are split at ASCII white space only: a word may hold a no-break space.
        columns = raw.split()
        fresh = fresh or not columns
        if not columns or (raw.startswith(b"#") and columns[0] not in (b"#begin", b"#end")):
            continue
        begun = True
        if columns[0] == b"#end":
            yield block or _broken(file, line, f"{_END!r} without a {_BEGIN!r} before it")
            block = None
        elif columns[0] == b"#begin":
            if block is not None:
                yield _ended(file, block, f"another document begins at line {line}")
            block, fresh = _begin(file, line, columns), True
        else:
            block = block or _broken(file, line, f"a row outside of a document; expected {_FORM}")
            if block.error is None:
                try:
                    row = b" ".join(columns).decode("utf-8").split(" ")
                except UnicodeDecodeError as error:
                    wrong = LorajaxError(f"{file}:{line}: not UTF-8: {error.reason}; expected text in that encoding")
                    block = dataclasses.replace(block, error=wrong)
                    continue
                if fresh:
                    block.sentences.append([])
                block.sentences[-1].append((line, row))
                fresh = False
    if block is not None:
        yield _ended(file, block, f"the file ends after line {line}")
    if not begun:
        raise LorajaxError(f"{file}: holds no document; expected {_FORM} and rows")


def _begin(file: Path, line: int, columns: Sequence[bytes]) -> _Block:
    text = b" ".join(columns).decode("utf-8", "replace")
    match = _BEGIN_LINE.fullmatch(text)
    return (
        _Block(match[1], int(match[2]), line, [], None) if match else _broken(file, line, f"{text!r}; expected {_FORM}")
    )


def _broken(file: Path, line: int, message: str) -> _Block:
    return _Block("", 0, line, [], LorajaxError(f"{file}:{line}: {message}"))


def _ended(file: Path, block: _Block, how: str) -> _Block:
    """`block` without its end."""
    error = LorajaxError(f"{file}:{block.line}: document {block.name!r} has no {_END!r}: {how}")
    return dataclasses.replace(block, error=block.error or error)


def _part(file: Path, block: _Block) -> Part:
    sentences: list[Sentence] = []
    chains: dict[int, list[Mention]] = {}
    if not block.sentences:
        raise LorajaxError(f"{file}:{block.line}: document {block.name!r} has no rows")
    for number, rows in enumerate(block.sentences):
        _check(file, block, rows)
        lines = [line for line, _ in rows]

        def where(word: int, lines: Sequence[int] = lines) -> str:
            return f"{file}:{lines[word]}"

        columns = list(zip(*(columns for _, columns in rows), strict=True))
        sentences.append(_sentence(columns, lines[0], where))
        for chain, start, end in references(columns[-1], where):
            chains.setdefault(chain, []).append(Mention(number, start, end))
    in_order = (Chain(chain, tuple(sorted(m, key=lambda m: (m[0], m[1], -m[2])))) for chain, m in chains.items())
    return Part(block.number, tuple(sentences), tuple(in_order))


def _check(file: Path, block: _Block, rows: Sequence[_Row]) -> None:
    """Raises LorajaxError for rows that are cut, missing, or of another document."""
    width = len(rows[0][1])
    for word, (line, row) in enumerate(rows):
        if len(row) < LEAST:
            raise LorajaxError(f"{file}:{line}: {len(row)} columns; expected {LEAST} or more")
        if len(row) != width:
            raise LorajaxError(
                f"{file}:{line}: {len(row)} columns; expected {width}, as in the first row of its sentence"
            )
        if row[0] != block.name or row[1].lstrip("0") != str(block.number).lstrip("0"):
            raise LorajaxError(
                f"{file}:{line}: a row of document {row[0]!r}, part {row[1]}; "
                f"expected {block.name!r}, part {block.number}, as its #begin says"
            )
        if row[2] != str(word):
            raise LorajaxError(f"{file}:{line}: word number {row[2]!r}; expected {word}")


def _sentence(columns: Sequence[Sequence[str]], line: int, where: Callable[[int], str]) -> Sentence:
    words, tags, bits, lemmas, framesets, entities = (columns[i] for i in (3, 4, 5, 6, 7, 10))
    marked = [word for word, frameset in enumerate(framesets) if frameset != "-"]
    predicates = []
    columns_of_arguments = columns[FIRST_PREDICATE:-1]
    for order, column in enumerate(columns_of_arguments):
        arguments = labelled(column, "argument", where)
        verbs = [part.start for part in arguments if part.label == "V"]
        if not verbs and len(marked) == len(columns_of_arguments):
            verbs = [marked[order]]
        if not verbs:
            raise LorajaxError(f"{where(0)}: column {FIRST_PREDICATE + order + 1} has no (V*); expected its predicate")
        predicates.append(Predicate(verbs[0], lemmas[verbs[0]], framesets[verbs[0]], arguments))
    return Sentence(
        words=tuple(words),
        tags=tuple(tags),
        tree=read_tree(bits, where),
        predicates=tuple(predicates),
        entities=labelled(entities, "named entity", where),
        line=line,
    )


def annotations_there(files: Iterable[Path]) -> set[str]:
    """Those of ANNOTATIONS that any row of `files` has. Faults are left to `read_documents`."""
    there: set[str] = set()
    for file in files:
        for _, raw in _lines(file):
            row = raw.split()
            if raw.startswith(b"#") or len(row) < LEAST:
                continue
            found = {
                "parse": row[5].strip(b"*()") not in (b"", b"TOP", b"-"),
                "predicates": len(row) > LEAST,
                "entities": row[10] not in (b"*", b"-"),
                "coreference": row[-1] != b"-",
            }
            there.update(kind for kind, is_there in found.items() if is_there)
            if len(there) == len(ANNOTATIONS):
                return there
    return there
