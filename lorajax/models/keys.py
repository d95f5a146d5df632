"""Typed reading of metadata that others wrote: a config.json, the header of a GGUF file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from lorajax.errors import LorajaxError


@dataclasses.dataclass(frozen=True)
class Keys:
    """Typed reading of `values`. A `default` is for an absent key; null is allowed where a method says so.

    Raises:
      LorajaxError: a value of another type, or none; the message names `source` and the key (after `prefix`).
    """

    values: Mapping[str, Any]
    source: str
    prefix: str = ""

    def error(self, key: str, expected: str) -> LorajaxError:
        found = repr(self.values[key]) if key in self.values else "no such key"
        return LorajaxError(f"{self.source}: {self.prefix}{key} must be {expected}, found {found}")

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, "a positive whole number" if least == 1 else f"a whole number of at least {least}")
        return value

    def whole_or_null(self, key: str, null: int | None, default: int | None = None) -> int | None:
        """As `whole`, but null means `null`, and so does an absent key unless it has a `default` of its own."""
        if self.values.get(key) is None:
            return default if default is not None and key not in self.values else null
        return self.whole(key)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise self.error(key, "a positive number")
        return float(value)

    def switch(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def token_id(self, key: str) -> int | None:
        """A number or null, as an absent key is; -1 is some checkpoints' "none"."""
        value = self.values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.error(key, "a whole number or null")
        return value

    def token_ids(self, key: str) -> int | tuple[int, ...] | None:
        """As `token_id`, or a list of numbers."""
        value = self.values.get(key)
        if not isinstance(value, list):
            return self.token_id(key)
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            raise self.error(key, "a whole number, a list of them or null")
        return tuple(value)
