"""One command at a time writes to a study: with real processes, killed for real."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from lorajax.errors import LorajaxError
from run import lock
from run.lock import LOCK, study_lock
from run.study_folder import StudyFolder

HOLD = """
import pathlib, sys, time
from run.lock import study_lock
with study_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / "study"` until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "study"), "--tasks", "rte"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_another_process_is_refused_until_the_first_is_done(tmp_path, holder):
    study = tmp_path / "study"
    with pytest.raises(LorajaxError) as refused, study_lock(study):
        pass
    message = str(refused.value)
    assert message.startswith(f"{study}: another command is writing to this study (pid {holder.pid} on ")
    assert f" on {socket.gethostname()} since " in message
    assert "--tasks rte); wait for it or name another folder" in message
    written = json.loads((study / LOCK).read_text())
    assert set(written) == {"pid", "host", "command", "since"}
    with study_lock(tmp_path / "other"):  # another study is free
        pass
    holder.stdin.close()
    holder.wait(timeout=30)
    with study_lock(study):
        pass


def test_kill_9_frees_the_lock(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    assert json.loads((tmp_path / "study" / LOCK).read_text())["pid"] == holder.pid  # its file is there still
    with study_lock(tmp_path / "study"):
        assert json.loads((tmp_path / "study" / LOCK).read_text())["pid"] == os.getpid()


def refused_elsewhere(folder) -> bool:
    """Whether another process is refused the lock."""
    ended = subprocess.run(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0 or "another command is writing" in ended.stderr, ended.stderr
    return ended.returncode != 0


def test_a_process_may_enter_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with study_lock(tmp_path / "study"):
        with study_lock(lock.Path("study")):  # the same folder under another name
            pass
        assert refused_elsewhere(tmp_path / "study")  # leaving the inner one has not freed it
    assert not refused_elsewhere(tmp_path / "study")


def test_it_is_freed_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), study_lock(tmp_path):
        raise KeyError
    assert not refused_elsewhere(tmp_path)


def test_a_forked_child_has_not_the_lock_and_does_not_free_it(tmp_path):
    """A fork copies what the process knows of its locks. In a process of its own, since JAX's threads do not fork."""
    code = """
import os, pathlib, sys
from lorajax.errors import LorajaxError
from run.lock import study_lock
folder = pathlib.Path(sys.argv[1])
with study_lock(folder):
    child = os.fork()
    if child == 0:
        try:
            with study_lock(folder):
                os._exit(1)
        except LorajaxError:
            sys.exit(0)  # leaves the outer block
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (folder / ".lock").exists()
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert refused_elsewhere(tmp_path)


def test_only_one_of_many_is_inside(tmp_path):
    """Processes that take and leave the lock as fast as they can, so that deleting the file meets opening it."""
    code = """
import os, pathlib, sys, time
from lorajax.errors import LorajaxError
from run.lock import study_lock
folder, taken = pathlib.Path(sys.argv[1]), 0
print("ready", flush=True)
sys.stdin.readline()  # all begin when all have started
until = time.time() + 3
while time.time() < until:
    try:
        with study_lock(folder):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))  # fails when another is inside
            os.unlink(folder / "inside")
            taken += 1
    except LorajaxError as error:
        assert "another command is writing" in str(error), error
print(taken)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "study")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    several = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in several] == ["ready\n"] * 3
    for process in several:
        process.stdin.write("\n")
        process.stdin.flush()
    taken = [int(process.communicate(timeout=60)[0] or -1) for process in several]
    assert [process.returncode for process in several] == [0, 0, 0]
    assert min(taken) > 0


def test_it_leaves_nothing_behind(tmp_path):
    with study_lock(tmp_path / "typo"):
        pass
    assert not (tmp_path / "typo").exists()
    with study_lock(tmp_path / "study"):
        (tmp_path / "study" / "study.json").write_text("{}")
    assert [p.name for p in (tmp_path / "study").iterdir()] == ["study.json"]
    (tmp_path / "empty").mkdir()
    with study_lock(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()  # it was there before


def test_a_study_can_be_made_inside_its_lock(tmp_path):
    from run.options import StudyConfig

    with study_lock(tmp_path / "study"):
        StudyFolder.create(tmp_path / "study", StudyConfig(), {})
    assert StudyFolder.open(tmp_path / "study").config == StudyConfig()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "study").write_text("")
    with pytest.raises(LorajaxError, match="is a file; expected a folder"), study_lock(tmp_path / "study"):
        pass
    with pytest.raises(LorajaxError, match="could not be made"), study_lock(tmp_path / "study" / "deeper"):
        pass


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(LorajaxError, match="could not be opened"), study_lock(tmp_path / "study"):
        pass
    assert (tmp_path / "precious").read_text() == "text"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_in_the_file_system_work_goes_on(tmp_path, monkeypatch, capsys, number):
    """No such file system is at hand, so its answer is put in place of the real one."""

    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with study_lock(tmp_path):
        assert not list(tmp_path.iterdir())
    assert "has no locks" in capsys.readouterr().out


def test_without_locks_in_the_system_work_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "fcntl", None)
    with study_lock(tmp_path):
        assert not list(tmp_path.iterdir())
    assert "has no file locks" in capsys.readouterr().out
