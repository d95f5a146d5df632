"""How commands speak: plain words to people, paths with `--quiet`, one JSON object to programs with `--json`.

Every command has these two flags. With `--quiet`, stdout gets the paths of the results, one a line, and nothing else;
of a command that writes no file, its tables. With `--json`, stdout gets one object at the end, and all else goes to
stderr: `files` are the paths of the results, made now or before, and the command's docstring names its other keys. NaN
is null. Where the exit code is not 0 there is the key `error`, and no other unless the code is 3. What ends the process
at once leaves no object: SIGKILL, and SIGTERM where no training is there to be ended with a checkpoint.

Exit codes are those of `EXIT_CODES`. Tables, colours and progress bars are for terminals: what is not one gets plain
columns as wide as they are, and now and then a line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lorajax.errors import LorajaxError

if TYPE_CHECKING:
    from lorajax.training.loop import Progress as Trained

EXIT_CODES = {
    "0": "done, or nothing was left to do",
    "1": "a crash: a mistake of this program, with its traceback",
    "2": "bad input; the message names the flag, file or key, and what was expected",
    "3": "some adapters failed (loss not finite); what does not need them is done",
    "128 + n": "stopped by signal n (130: Ctrl-C, 143: SIGTERM); the same command goes on",
}

#: Flags of every command, taken from the command line before its own are parsed.
SHARED = {
    "--quiet": "Print the paths of results alone, and errors.",
    "--json": "Print one JSON object of results at the end; all else goes to stderr.",
}

#: Steps that a loss is averaged over before it is shown.
SMOOTH = 10


class PartlyFailed(LorajaxError):
    """Some adapters failed, and everything else is done: exit code 3."""


@dataclasses.dataclass
class _Voice:
    """How the command was asked to speak, and what it has found."""

    quiet: bool = False
    json: bool = False
    found: dict[str, Any] = dataclasses.field(default_factory=lambda: {"files": []})


def _open_console() -> Console:
    # A pipe or a file has no width: nothing is squeezed there, nor coloured, whatever FORCE_COLOR says.
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, force_terminal=False, width=10_000)


_voice, _console = _Voice(), _open_console()


def speaks() -> bool:
    """Whether this process does: of many the first one."""
    if "jax" not in sys.modules:
        return True
    from lorajax.distributed import is_first

    return is_first()


def on_terminal() -> bool:
    """Whether somebody watches, so that lines may be rewritten."""
    return _console.is_terminal and not _voice.quiet and speaks()


# --- what a command says ----------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line of plain text; nothing with `--quiet`."""
    if speaks() and not _voice.quiet:
        _console.print(text, markup=False, soft_wrap=True)


def wrote(*files: Path, note: str = "") -> None:
    """Tells the paths of results, and a note to people; with `--quiet` each path on a line of its own, and no note."""
    if _voice.json or _voice.quiet:
        new = [str(file) for file in files if str(file) not in _voice.found["files"]]
        _voice.found["files"] += new
        for file in new if speaks() and not _voice.json else ():
            print(file)
    told = [str(f) if i == 0 or f.parent != files[i - 1].parent else f.name for i, f in enumerate(files)]
    say(f"wrote {' and '.join([', '.join(told[:-1]), told[-1]] if len(told) > 1 else told)}{note}")


def result(**found: Any) -> None:
    """What `--json` tells: JSON types, paths, arrays and tables (as a list of rows), under these keys."""
    if _voice.json:
        _voice.found |= found


def taken() -> dict[str, Any]:
    """What was found so far, which is then no longer among the results."""
    found, _voice.found = _voice.found, _Voice().found
    return found


def plain(value: Any) -> Any:
    """`value` in JSON types; what is not a finite number is None."""
    if isinstance(value, dict):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    if hasattr(value, "itertuples"):  # a table
        return [plain(row) for row in value.to_dict("records")]
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Sequence[int] = (),
    only_result: bool = False,
) -> None:
    """A table whose first column is text and whose others are numbers, but for the columns `words`, which may wrap.

    `only_result`: the command writes no file, so that this is its result, with `--quiet` too.
    """
    if not speaks() or (_voice.quiet and (_voice.json or not only_result)):
        return
    seen = _console.is_terminal
    table = Table(box=box.SIMPLE_HEAD if seen else None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or i in words else "right", no_wrap=i not in words)
    for row in rows:
        table.add_row(*map(Text, row))
    _console.print(f"\n{title}", style="bold", markup=False, soft_wrap=True)
    _console.print(table)


def progress() -> Progress:
    """A bar with the time that is left and a note on its right; on a terminal only, since it rewrites its line."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Progress(*columns, console=_console, disable=not on_terminal())


@contextlib.contextmanager
def training_view(names: Sequence[str], steps: int) -> Iterator[Callable[[Trained], None]]:
    """The losses of the adapters `names` as they are trained: a table with a bar, or, on no terminal, a line at times.

    Gives what is to be called with what is known after each step. The table is drawn by a thread of its own, four times
    a second at most, from numbers that are on the host already.
    """
    losses: dict[str, list[float]] = {name: [] for name in names}  # of this run
    last = dict.fromkeys(names, (0, math.nan))  # step and learning rate
    bar = progress()
    line = bar.add_task("training", total=steps, note="compiling")

    def take(now: Trained) -> None:
        speed = f"{now.tokens_per_second:,.0f} tokens/s"
        bar.update(line, completed=now.step, note=speed)
        for name, loss in now.loss.items():
            losses[name].append(loss)
            last[name] = now.step, now.learning_rate[name]
        if not on_terminal() and (now.step % max(1, now.steps // 20) == 0 or now.step == 1):
            mean = _mean(list(now.loss.values()))
            say(f"  step {now.step}/{now.steps}  mean loss {mean:.3f}  {speed}  {duration(now.seconds_left)} left")

    def draw() -> Group:
        room = max(2, _console.height - 7)  # without head, foot, bar, and the line that the cursor is on
        shown = names if len(names) <= room else names[: room - 1]
        table = Table("adapter", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("step", f"loss, mean of {SMOOTH} steps", "change", "learning rate"):
            table.add_column(column, justify="right")
        recent = {name: _mean(own[-SMOOTH:]) for name, own in losses.items()}
        change = {name: recent[name] - _mean(own[:SMOOTH]) for name, own in losses.items()}
        for name in shown:
            step, rate = last[name]
            cells = (str(step), f"{recent[name]:.3f}", f"{change[name]:+.3f}", f"{rate:.1e}")
            table.add_row(Text(name), *(cells if step else ()))
        if rest := names[len(shown) :]:
            means = (_mean([own[name] for name in rest]) for own in (recent, change))
            table.add_row(f"mean of {len(rest)} more", "", *(f"{mean:.3f}" for mean in means), "")
        return Group(table, bar)

    live = Live(get_renderable=draw, console=_console, refresh_per_second=4)
    with live if on_terminal() else contextlib.nullcontext():
        yield take


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 3 min 05 s, 2 h 10 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


# --- how a command begins and ends ------------------------------------------------------------------------------------


def command(main: Callable[[], object]) -> None:
    """Runs a command with the flags of every command; ends the process unless all is done: see `EXIT_CODES`."""
    global _voice, _console
    asked = {flag for flag in SHARED if flag in sys.argv[1:]}
    sys.argv = [word for word in sys.argv if word not in asked]
    helps = {"-h", "--help", "--help-all"} & set(sys.argv[1:])
    _voice, out, code = _Voice("--quiet" in asked, "--json" in asked and not helps), sys.stdout, 1
    try:
        with contextlib.redirect_stdout(sys.stderr) if _voice.json else contextlib.nullcontext():
            _console = _open_console()
            code = _run(main)
    except Exception as error:
        _voice.found = {"error": f"{type(error).__name__}: {error}"}
        raise
    finally:
        if _voice.json and speaks():
            print(json.dumps(plain(_voice.found), allow_nan=False), file=out, flush=True)
        _voice, _console = _Voice(), _open_console()
    if code:
        sys.exit(code)


@contextlib.contextmanager
def while_read() -> Iterator[None]:
    """Ends the process without a word where the reader of stdout has left, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write goes nowhere
        sys.exit(141)  # 128 + SIGPIPE


def _run(main: Callable[[], object]) -> int:
    """The exit code."""
    keep_compiled_programs()
    # transformers says at import that it found no torch; nothing here needs one.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from lorajax.training.stopping import Stopped

    try:
        main()
        return 0
    except PartlyFailed as error:
        found = _voice.found
        fail(str(error))
        _voice.found = found | _voice.found
        return 3
    except LorajaxError as error:
        fail(str(error))
        return 2
    except (Stopped, KeyboardInterrupt) as error:
        stopped = isinstance(error, Stopped)
        message = str(error) if stopped else "interrupted; the same command goes on from the last checkpoint"
        print(message, file=sys.stderr) if _voice.quiet else say(message)
        _voice.found = {"error": message}
        return error.exit_code if isinstance(error, Stopped) else 130


def fail(message: str) -> None:
    """Tells an error on stderr, and makes it the command's only result."""
    if _voice.json:
        _voice.found = {"error": message}
    plainly = None if sys.stderr.isatty() else False
    console = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=plainly)
    console.print(f"error: {message}", style="red", markup=False)


def keep_compiled_programs() -> None:
    """Keeps compiled programs between commands, in the user's cache, unless JAX was told where already."""
    import jax

    from lorajax.models.checkpoint import cache_folder

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
