"""The command line of all commands. `lorajax NAME ...` is `python -m run.NAME ...`.

Flags come from a dataclass, by tyro. `--help` is one screen: what the command is for, an example, the main flags, and
the names and defaults of the others; `--help-all` explains all of them.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import itertools
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from lorajax.errors import LorajaxError
from run.terminal import EXIT_CODES, SHARED, command, fail, while_read

T = TypeVar("T")

COMMANDS = {
    "plan": "tell what a study takes on a machine: memory, time and price, without weights",
    "study": "train adapters, compare them across all layers, write the report",
    "finetune": "train a fleet of LoRA adapters over one frozen model",
    "cka_all_layers": "CKA of all layer pairs between base, multi-task and control models",
    "spectrum": "how the hidden states of each task spread, layer by layer",
    "embed_tasks": "maps of the tasks' prompts by layer, and how clustered they are",
    "readability": "correlate readability and size of the tasks with CKA",
    "ablate_layers": "apply adapters in some layers only: which layers a task needs",
    "compare_adapters": "compare adapters by weights: distances, projections, the map of tasks",
    "score": "let the models of a study answer held-out prompts, and score the answers",
    "report": "write a study's report again from its results",
    "merge_adapters": "merge adapters of one base model into one PEFT adapter",
    "export": "write the model, with an adapter merged or without, as a Hugging Face folder",
}

HELP = ("-h", "--help")
HELP_ALL = "--help-all"


def main() -> None:
    """Entry point of the console script."""
    first = sys.argv[1] if len(sys.argv) > 1 else HELP[1]
    name = first.replace("-", "_")
    if name not in COMMANDS:
        out = sys.stdout if first in (*HELP, HELP_ALL) else sys.stderr
        if out is sys.stderr:
            print(f"error: {first}: no such command", file=out)
        with while_read():
            print("usage: lorajax NAME ...   (lorajax NAME --help tells more)", file=out)
            for title, rows in (("commands", COMMANDS), ("flags of every command", SHARED), ("exit codes", EXIT_CODES)):
                print(f"\n{title}", *(f"  {key:16} {text}" for key, text in rows.items()), sep="\n", file=out)
        sys.exit(0 if out is sys.stdout else 2)
    del sys.argv[1]
    command(lambda: importlib.import_module(f"run.{name}").main())


def cli(
    kind: type[T],
    *,
    prog: str,
    description: str | None,
    example: str = "",
    main: Sequence[str] | None = None,
    default: T | None = None,
) -> T:
    """The command line as an instance of `kind`; bad input and `--help` end the command.

    Args:
      prog: the command, `python -m run.NAME`.
      description: what it is for, with the forms of its command line.
      example: what follows `prog` in a command line that works as it is, with the study of `make demo` if one is read.
      main: fields that `--help` explains, all by default; it names the others with their defaults, and `--help-all`
        explains them too.
      default: an instance of other defaults than those of `kind`.
    """
    import tyro

    arguments, description = sys.argv[1:], description or ""
    if set(HELP) & set(arguments):
        with while_read():
            print(short_help(kind, description, example=f"{prog} {example}", main=main, default=default))
        sys.exit(0)
    if HELP_ALL in arguments:
        arguments = [HELP[1]]
        description += "".join(f"\n{flag}: {purpose}" for flag, purpose in SHARED.items())
    others: dict[str, Any] = {} if default is None else {"default": default}
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            options = tyro.cli(kind, prog=prog, description=description, args=arguments, **others)
    except SystemExit as end:
        if end.code:
            # What a dataclass of ours refuses is told as every other mistake is.
            cause: BaseException | None = end
            while cause is not None and not isinstance(cause, LorajaxError):
                cause = cause.__context__
            fail(str(cause or _with_hint(_unboxed(errors.getvalue()), kind, default)))
        raise
    sys.stderr.write(errors.getvalue())
    return options


def _unboxed(message: str) -> str:
    """What tyro says in a box, in one line, without its title and its footer."""
    parts = [" ".join(part.split()) for part in re.split("-{4,}|\u2500{4,}", re.sub("[\u2502-\u257f]", " ", message))]
    told = [part for part in parts if part and not part.startswith("For full helptext")]
    return ". ".join(told[1:] or told)


def _with_hint(message: str, kind: type, default: Any) -> str:
    """The message with a way out, where tyro knows none for a flag that there is not: `--lr` is `--learning-rate`."""
    message = message.replace(" (default: )", "")
    unknown = re.match(r"Unrecognized options: --([\w-]+)", message)
    if unknown is None or "Perhaps you meant" in message:
        return message
    words = [flag.field.split("_") for flag in _flags(kind, default) if not flag.positional]
    meant = [f"--{'-'.join(own)}" for own in words if "".join(word[0] for word in own) == unknown[1]]
    return f"{message}. " + (
        f"Perhaps you meant: {' or '.join(meant)}" if meant else "--help names this command's flags"
    )


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag as `--help` shows it."""

    field: str
    group: str
    positional: bool
    form: str
    default: str
    purpose: str


def short_help(
    kind: type, description: str, *, example: str, main: Sequence[str] | None = None, default: Any = None
) -> str:
    """Help in one screen; arguments as of `cli`."""
    flags = list(_flags(kind, default))
    main = [flag.field for flag in flags if not flag.positional] if main is None else main
    if unknown := set(main) - {flag.field for flag in flags}:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    wide = min(100, shutil.get_terminal_size((100, 24)).columns)
    forms = [line.strip() for line in description.splitlines() if line.strip().startswith("python -m run.")]
    about = textwrap.fill(" ".join(description.split("\n\n")[0].split()), wide)
    commands = [textwrap.wrap(line, wide - 6, subsequent_indent="      ") for line in (*forms, f"example: {example}")]
    lines = [about, "", *("  " + " \\\n".join(parts) for parts in commands), ""]

    def explain(form: str, purpose: str) -> list[str]:
        margin, told = " " * 26, textwrap.wrap(purpose, wide - 26)
        begin = [f"  {form:<24}{told[0]}"] if len(form) < 24 else [f"  {form}", margin + told[0]]
        return [*begin, *(margin + line for line in told[1:])]

    chosen = [flag for flag in flags if flag.positional] + [f for name in main for f in flags if f.field == name]
    for flag in chosen:
        lines += explain(flag.form, flag.purpose + (f" (default: {flag.default})" if flag.default else ""))
    for flag_, purpose in SHARED.items():
        lines += explain(flag_, purpose)
    rest = {flag.group: [f for f in flags if f.group == flag.group and f not in chosen] for flag in flags}
    if any(rest.values()):
        lines += ["", f"more flags, with their defaults; {HELP_ALL} explains all:"]
    for group, own in rest.items():
        if own:
            named = ", ".join(f"{flag.form.split()[0]}\u00a0({flag.default})" for flag in own)
            wrapped = textwrap.wrap(f"{group}: {named}", wide - 4, break_on_hyphens=False)
            lines += [f"  {'  ' * (i > 0)}{line}" for i, line in enumerate(wrapped)]
    return "\n".join(lines).replace("\u00a0", " ")


def _flags(kind: type, default: Any, group: str = "other") -> Iterator[Flag]:
    """The flags that tyro makes of the dataclass `kind`."""
    import tyro

    hints, purposes = typing.get_type_hints(kind, include_extras=True), _purposes(kind)
    for field in dataclasses.fields(kind):
        hint, markers = hints[field.name], list[Any]()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *markers = typing.get_args(hint)
        value = field.default if default is None else getattr(default, field.name)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _flags(hint, None if value is dataclasses.MISSING else value, field.name)
            continue
        metavar = next((own.metavar for own in markers if getattr(own, "metavar", None)), None)
        positional = tyro.conf.Positional in markers
        off = "[no-]" if value is True else ""
        form = metavar or field.name.upper() if positional else f"--{off}{field.name.replace('_', '-')}{_values(hint)}"
        yield Flag(field.name, group, positional, form, _text(value), " ".join(purposes.get(field.name, "").split()))


def _purposes(kind: type) -> dict[str, str]:
    """What the source says below each field."""
    found = {}
    for base in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in itertools.pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = str(text.value.value)
    return found


def _values(hint: Any) -> str:
    """What is to be written after a flag of this type."""
    inner = typing.get_args(hint)
    if hint is bool:
        return ""
    if typing.get_origin(hint) is typing.Literal:
        return f" {{{','.join(map(str, inner))}}}"
    if typing.get_origin(hint) is tuple:
        return f"{_values(inner[0])} ..."
    if type(None) in inner:
        return _values(next(own for own in inner if own is not type(None)))
    return f" {hint.__name__.upper()}"


def _text(default: Any) -> str:
    """A default as it would be written; nothing where there is none."""
    if default is dataclasses.MISSING:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return "none" if default in (None, "") else str(default)


if __name__ == "__main__":
    main()
