"""The commands in README.md and docs/: all are known, all parse, and those that can run do."""

import contextlib
import importlib
import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import tyro

from run import terminal
from run.__main__ import COMMANDS
from tests.conftest import PROGRAMS
from tests.docs.commands import GIVEN, OUTSIDE, PARSED, QUICK, RUN, TASKS, TINY
from tests.docs.conftest import save_adapters
from tests.docs.pages import FENCE, LANGUAGES, PAGES, ROOT, Block, blocks, commands, mentions

#: A launcher, and how many words stand before the study.
LAUNCHERS = {"gpu.sh": 0, "tpu_vm.sh": 0, "slurm.sh": 0, "processes.sh": 1, "tpu_pod.sh": 3}


class Parsed(BaseException):
    """The options that a command would have begun with."""


def own(command):
    """(module, arguments) of one of our commands, launchers among them; None of others."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    for i, word in enumerate(words):
        if word.startswith("run/launch/"):
            assert os.access(ROOT / word, os.X_OK), word
            return "finetune", words[i + 1 + LAUNCHERS[Path(word).name] :]
    if words[:2] == ["python", "-m"] and words[2].startswith("run."):
        return words[2].removeprefix("run."), words[3:]
    return (words[1], words[2:]) if words[0] == "lorajax" else None


def call(command):
    """One of our commands in this process, from its command line on."""
    name, arguments = own(command)
    main = importlib.import_module(f"run.{name}").main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        patch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ[PROGRAMS])
        terminal.command(main)


def parse(command):
    """The options, made by the command's own parser."""
    real = tyro.cli

    def stop(*args, **kwargs):
        raise Parsed(real(*args, **kwargs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", stop)
        try:
            call(command)
        except Parsed as parsed:
            return parsed.args[0]
        except SystemExit as end:
            pytest.fail(f"{command}: exit code {end.code}")
    pytest.fail(f"{command}: nothing was parsed")


def test_every_command_is_known():
    found = commands()
    tables = [set(RUN), set(PARSED), OUTSIDE]
    unknown = {command: pages for command, pages in found.items() if sum(command in table for table in tables) != 1}
    assert not unknown, "name each of these in one table of tests/docs/commands.py"
    assert not set.union(*tables) - found.keys(), "in tests/docs/commands.py, and in no page any more"
    assert set(QUICK) <= set(RUN)


def test_every_block_says_what_it_is():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{page}, line {block.line}: {block.language!r}"
        rest = FENCE.sub("", PAGES[page].read_text())
        assert not re.search(r"^    (python -m|pip|make|run/)", rest, re.MULTILINE), (
            f"{page}: a command outside of a fence"
        )


def test_every_command_parses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, "docs/how-to/reproducing-the-papers.md")
    (tmp_path / "STUDY").mkdir()
    (tmp_path / "STUDY" / "study.json").touch()
    mentioned = [command for command in mentions() if "NAME ..." not in command]
    assert mentioned
    for command in [*RUN, *RUN.values(), *PARSED, *mentioned]:
        options = parse(command)
        assert type(options).__module__.startswith("run."), command
    options = parse("python -m run.study studies/demo --recipe demo")
    assert (options.out, options.config.train.steps) == (Path("studies/demo"), 25)


def test_a_wrong_flag_is_seen():
    with pytest.raises(pytest.fail.Exception, match="studies/demo --stepz"):
        parse("python -m run.study studies/demo --stepz 3")


def test_targets_and_extras_are_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    text = "\n".join(PAGES[page].read_text() for page in PAGES)
    made = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    asked = {extra for group in re.findall(r"'(?:\.|lorajax)\[([\w,]+)\]'", text) for extra in group.split(",")}
    asked |= set(re.findall(r"\bextras? `(\w+)`", text))
    assert made
    assert made <= targets
    assert asked
    assert asked <= extras


def test_every_command_has_its_place_in_the_reference():
    text = PAGES["docs/reference/commands.md"].read_text()
    parts = re.findall(r"^## (\w+)\n\n[^\n]+\n\n<!-- help: (\w+) -->$", text, re.MULTILINE)
    assert "<!-- help: lorajax -->" in text
    assert all(heading == name for heading, name in parts)
    assert sorted(name for _, name in parts) == sorted(COMMANDS)


# --- run for real -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from tests.tiny_encoder import tiny_encoder

    return tiny_encoder(tmp_path_factory.mktemp("checkpoints") / "encoder")


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny):
    """A finished study, for pages that begin with one."""
    folder = tmp_path_factory.mktemp("study") / "done"
    call(f"python -m run.study {folder} {TASKS} {TINY}".format(tiny=tiny))
    return folder


def lay_out(desk, page):
    """The files that a page shows, with their names."""
    for block in blocks(page):
        if block.title:
            (desk / block.title).write_text(block.text)


def lay_out_adapters(desk, base):
    """Three adapters, and which of them belong together."""
    save_adapters(desk / "my-adapters", ("red", "green", "blue"), base)
    (desk / "clusters.csv").write_text("name,cluster\nred,warm\ngreen,cold\nblue,cold\n")


def test_quick_commands_run(tmp_path, monkeypatch, tiny, capsys):
    monkeypatch.chdir(tmp_path)
    lay_out_adapters(tmp_path, tiny)
    for command in QUICK:
        call(RUN[command].format(tiny=tiny))
    assert "2 adapters merged by average" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {"average", "ties"}


def to_run(page) -> list[Block]:
    """The blocks of a page that a test runs, if a command is among them."""
    found = [block for block in blocks(page) if block.language in ("bash", "python")]
    return found if any(command in RUN for block in found for command in block.commands) else []


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)])
def test_pages_run_from_top_to_bottom(page, tmp_path, monkeypatch, request, tiny, encoder):
    from tests.tiny_encoder import tiny_tasks

    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, page)
    lay_out_adapters(tmp_path, tiny)
    (tmp_path / "my-model").symlink_to(tiny)
    tiny_tasks(tmp_path / "my-glue")
    for name in GIVEN.get(page, ()):
        shutil.copytree(request.getfixturevalue("study"), tmp_path / name)
    names: dict = {}
    for block in to_run(page):
        if block.language == "python" and page != "README.md":  # these have a test of their own, too
            with contextlib.redirect_stdout(None):
                exec(compile(block.text, page, "exec"), names)
            continue
        for command in block.commands if block.language == "bash" else ():
            if command in RUN:
                call(RUN[command].format(tiny=tiny, encoder=encoder))
    if page == "docs/how-to/adapters-from-the-hub.md":
        for named in re.findall(r"^\| (`.+?`) \|", PAGES[page].read_text(), re.MULTILINE):
            for name in re.findall(r"[\w.]+", named):
                assert (tmp_path / "results" / "clustered" / "results" / name).exists(), name
