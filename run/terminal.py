"""How commands speak: one console, one progress line, one way to fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from lorajax.distributed import is_first
from lorajax.errors import LorajaxError

# A pipe or a file has no width: tables are not squeezed there.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def say(text: str) -> None:
    """One line of plain text; of many processes the first one speaks."""
    if is_first():
        console.print(text, markup=False, soft_wrap=True)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[int] = ()) -> None:
    """A table whose first column is text and whose others are numbers, but for the columns `words`, which may wrap."""
    if not is_first():
        return
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or i in words else "right", no_wrap=i not in words)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def progress() -> Progress:
    """A bar with a note on its right; on a terminal only, since it rewrites its line."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal or not is_first())


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 3 min 05 s, 2 h 10 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


def command(main: Callable[[], object]) -> None:
    """Runs a command: bad input ends it with one message and exit code 2, a signal with 128 and its number."""
    keep_compiled_programs()
    # transformers says at import that it found no torch; nothing here needs one.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from lorajax.training.stopping import Stopped

    try:
        main()
    except LorajaxError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the last checkpoint")
        sys.exit(130)


def keep_compiled_programs() -> None:
    """Keeps compiled programs between commands, in the user's cache, unless JAX was told where already."""
    import jax

    from lorajax.models.checkpoint import cache_folder

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
