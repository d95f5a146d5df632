"""Summaries that a user puts beside the documents: `summaries.jsonl`, of `{"document": ..., "summary": ...}`."""

from __future__ import annotations

from pathlib import Path

from lorajax.data.jsonl import read_records
from lorajax.data.reading import Reading
from lorajax.errors import LorajaxError

FILE = "summaries.jsonl"


def read_summaries(folder: Path, reading: Reading) -> dict[str, tuple[str, str]]:
    """Of each document that has one, by its name in `#begin document (NAME)`: the summary and its "file:line".

    Raises:
      LorajaxError: a record without one of the texts, or a second one of a document, that `reading` does not allow.
    """
    found: dict[str, tuple[str, str]] = {}
    for where, record in read_records(folder / FILE, reading):
        try:
            for key in ("document", "summary"):
                if not isinstance(record.get(key), str) or not record[key].strip():
                    raise LorajaxError(f"{where}: {key!r} must be a non-empty text, found {record.get(key)!r}")
            if other := found.get(record["document"]):
                raise LorajaxError(f"{where}: document {record['document']!r} has a summary already, at {other[1]}")
        except LorajaxError as error:
            reading.bad(error)
        else:
            found[record["document"]] = (record["summary"].strip(), where)
    return found
