"""Parts of pages that are made when the pages are built, so that they cannot grow old.

    <!-- help: study -->                      what `python -m run.study --help-all` prints
    <!-- help: lorajax -->                    what `lorajax --help` prints
    <!-- notebook: analysis_alone.ipynb -->   the cells of a notebook beside the page

MkDocs calls `on_page_markdown` for every page.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HELP = re.compile(r"<!-- help: (\w+) -->")
NOTEBOOK = re.compile(r"<!-- notebook: ([\w-]+\.ipynb) -->")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The page's text with its generated parts."""
    root, folder = Path(config.config_file_path).parent, Path(page.file.abs_src_path).parent
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a command takes seconds to import what it needs
        texts = {name: pool.submit(help_text, name, root) for name in HELP.findall(markdown)}
    markdown = HELP.sub(lambda found: f"```text\n{texts[found[1]].result()}\n```", markdown)
    return NOTEBOOK.sub(lambda found: "\n\n".join(cells(folder / found[1])), markdown)


def help_text(name: str, root: Path) -> str:
    """What the command prints of itself, at 100 columns, without colour."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    asked = [sys.executable, "-m", *(["run", "--help"] if name == "lorajax" else [f"run.{name}", "--help-all"])]
    done = subprocess.run(asked, cwd=root, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{' '.join(asked[1:])} ended with exit code {done.returncode}:\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def cells(notebook: Path) -> list[str]:
    """The cells as Markdown: text as it is, code as fenced blocks."""
    found = json.loads(notebook.read_text("utf-8"))["cells"]
    sources = [("".join(cell["source"]), cell["cell_type"]) for cell in found]
    return [f"```python\n{text}\n```" if kind == "code" else text for text, kind in sources]
