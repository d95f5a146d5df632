"""A JSON array read one element at a time: the whole file is never in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorajax.data.reading import Reading
from lorajax.errors import LorajaxError

_CHUNK = 1 << 20
#: Characters of one element at most. What is no JSON after so many is not read on in the hope that it becomes some.
LONGEST = 1 << 24
_SPACE = re.compile(r"[ \t\r\n]*")


def read_array(file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of the JSON array in `file`, in its order, each with "file: row N" for messages, from 1.

    An element that is no object is a bad row. What is no JSON ends the reading, whatever `reading` allows: where the
    next element begins cannot be known.

    Raises:
      LorajaxError: the file cannot be read, is no JSON array, or ends before the array does.
    """
    decoder, row = json.JSONDecoder(), 0
    try:
        with file.open(encoding="utf-8") as text:
            window = _Window(text)
            if window.next() != "[":
                raise LorajaxError(f"{file}: expected a JSON array, which begins with '['")
            window.at += 1
            sign = window.next()
            while sign != "]":
                window.next()
                row += 1
                where = f"{file}: row {row}"
                value = window.decode(decoder, where)
                if isinstance(value, dict):
                    yield where, value
                else:
                    reading.bad(LorajaxError(f"{where}: expected a JSON object, found {type(value).__name__}"))
                sign = window.next()
                if sign == ",":
                    window.at += 1
                elif sign != "]":
                    raise LorajaxError(f"{file}: after row {row}: expected ',' or ']', {_found(sign)}")
            window.at += 1
            if sign := window.next():
                raise LorajaxError(f"{file}: after the array of {row} rows: expected its end, {_found(sign)}")
    except (OSError, UnicodeDecodeError) as error:
        raise LorajaxError(f"{file}: after row {row}: could not be read: {error}") from None


def _found(sign: str) -> str:
    return f"found {sign!r}" if sign else "found the end of the file"


class _Window:
    """The part of a text file that is being looked at: `text[at:]` is what comes next."""

    def __init__(self, file: Any):
        self._file, self.text, self.at = file, "", 0

    def _more(self) -> bool:
        """Reads on, and forgets what lies behind; False at the end of the file."""
        # As much again as there is, so that a long element is not tried too often.
        read = self._file.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + read, 0
        return bool(read)

    def next(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def decode(self, decoder: json.JSONDecoder, where: str) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                value, self.at = decoder.raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError as error:
                # Perhaps the rest of it is still to be read.
                if len(self.text) - self.at > LONGEST or not self._more():
                    cut = error.pos >= len(self.text.rstrip()) or error.msg.startswith("Unterminated")
                    hint = "; the file ends here" if cut else ""
                    raise LorajaxError(f"{where}: not JSON: {error.msg}{hint}") from None
            except (ValueError, RecursionError) as error:  # a number or a nesting that Python will not read
                raise LorajaxError(f"{where}: not JSON: {error}") from None
