"""README.md and the pages in docs/: their blocks of code, commands, headings and links."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}

#: Languages of fences. README's commands stand in fences without one.
LANGUAGES = {"bash", "json", "python", "text", "toml"}
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: where it is, and what it holds."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, each on one line, without comments."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        found = [re.sub(r"(^|\s+)#( .*)?$", "", line).strip() for line in lines]
        return [re.sub(r"\s+", " ", command) for command in found if command]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = PAGES[page].read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        language = match[1] or ("bash" if page == "README.md" else "")
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, match[2] or "", match[3]))
    return found


def commands() -> dict[str, list[str]]:
    """Every command in a fenced block, with the pages it is on."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.language == "bash":
                for command in block.commands:
                    found.setdefault(command, []).append(page)
    return found


def mentions() -> dict[str, str]:
    """Our commands in running text and tables, `python -m run.X ...`, with a page of each."""
    found = {}
    for page in PAGES:
        text = FENCE.sub("", PAGES[page].read_text("utf-8"))
        for match in re.finditer(r"`((?:python -m run\.|run\.|lorajax )[a-z_]+ [^`]+|python -m run\.[a-z_]+)`", text):
            command = " ".join(match[1].split())
            found[command if not command.startswith("run.") else f"python -m {command}"] = page
    return found


def links(page: str) -> list[str]:
    """Targets of links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "code", FENCE.sub("", PAGES[page].read_text("utf-8"))))


def anchors(path: Path) -> set[str]:
    """What can follow `#` in a link to a Markdown file: its headings as MkDocs names them."""
    return {slug(head) for head in re.findall(r"^#{1,6} (.+)$", FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)}


def slug(heading: str) -> str:
    """Of a heading, as Python-Markdown makes it: ASCII, lower case, hyphens for spaces."""
    text = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())
