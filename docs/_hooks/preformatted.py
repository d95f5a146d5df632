"""Module docstrings hold tables whose columns are lined up by spaces: Markdown would run them together.

A paragraph with such columns becomes a code block; everything else stays as it is. (An extension of griffe, which reads
the docstrings for mkdocstrings.)
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ALIGNED = re.compile(r"\S {2,}\S")


class Preformatted(griffe.Extension):
    """Turns lined-up paragraphs of module docstrings into code blocks."""

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Called for every module that is read."""
        if mod.docstring is not None:
            mod.docstring.value = preformatted(mod.docstring.value)


def preformatted(text: str) -> str:
    """`text` with paragraphs that have lined-up columns fenced."""
    return "\n\n".join(map(_paragraph, re.split(r"\n[ \t]*\n", text)))


def _paragraph(text: str) -> str:
    lines = text.strip("\n").splitlines()
    if lines and not lines[0].startswith("    ") and sum(bool(ALIGNED.search(line)) for line in lines) > 1:
        return "\n".join(["```text", *map(_plain, lines), "```"])
    return text


def _plain(line: str) -> str:
    """Without marks of code, and with its columns where they were."""
    return re.sub(r"(`+)([^`]+)\1", lambda found: found[2] + " " * (2 * len(found[1])), line).rstrip()
