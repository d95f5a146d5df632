"""What the fields of a row hold, and texts that are filled in from them."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from typing import Any

from lorajax.errors import LorajaxError

#: A row of a table, by the names of its columns.
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Template:
    """A text with places: pairs of literal text and the field that follows it, if one does."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """The template that `text` writes: `{field}` is a place, `{{` and `}}` are braces.

        Raises:
          ValueError: a brace that is not closed, or anything but a field in braces.
        """
        try:
            parts = tuple(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{error} (a brace itself is written {{{{ or }}}})") from None
        if any(field == "" or form or conversion for _, field, form, conversion in parts):
            raise ValueError("expected {field} and no more in braces")
        return cls(tuple((literal, field) for literal, field, _, _ in parts))

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(field for _, field in self.parts if field is not None)

    def fill(self, row: Record, where: str) -> str:
        """The text with what `row` holds in its places."""
        return "".join(text + ("" if field is None else as_text(row, field, where)) for text, field in self.parts)


def value_at(row: Record, field: str) -> Any:
    """What `row` holds at `field`: a column, or a path through nested ones.

    Raises:
      KeyError: it has no such field.
    """
    if field in row:
        return row[field]
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(field)
        value = value[part]
    return value


def plain(value: Any) -> str | None:
    """`value` as text if it is text, a number or a truth value ("true", "false"); None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) and value == value else None


def as_key(value: Any) -> str | None:
    """`value` as it is written in `labels` and `where`: as text, and 1.0 as 1.

    A column of whole numbers with gaps is often stored as floats.
    """
    return plain(int(value) if isinstance(value, float) and value.is_integer() else value)


def as_text(row: Record, field: str, where: str) -> str:
    """What `row` holds at `field`, as text.

    Raises:
      LorajaxError: nothing (null), or neither text nor a number.
    """
    value = value_at(row, field)
    text = plain(value)
    if text is None:
        raise LorajaxError(f"{where}: field {field!r}: expected a text or a number, found {value!r:.80}")
    return text
