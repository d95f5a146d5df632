"""A study that was killed, at whatever moment, and started again until it is done has the files of one that was not.

To the bit: the log of the training, the held-out losses, and every adapter. Adapters of both groups, early stopping's
measurements and asynchronous checkpoints are part of it.
"""

from __future__ import annotations

import random
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.commands import ONE_GROUP, PATIENCE, communicate, finish, leftovers, results, wait_for

#: How many times a process is killed in each of the long tests.
KILLS = 20

#: What a process says when it gets to each part of its work.
PARTS = {"training": "training", "held-out losses": "measuring"}


@pytest.mark.slow
def test_one_kill_and_one_signal(bench, one_group, tmp_path):
    """SIGKILL in the middle of the training, and SIGTERM after the next start."""
    process = bench.start(tmp_path / "study", *ONE_GROUP)
    wait_for(process, "step 5/12")
    process.kill()
    process.communicate()
    assert not (tmp_path / "study" / "adapters").exists()
    process = bench.start(tmp_path / "study", *ONE_GROUP)
    wait_for(process, "step 7/12")
    process.send_signal(signal.SIGTERM)
    out = finish(process, 143)
    assert re.search(r"stopped at step \d+ of 12 with a checkpoint", out)
    out = bench.run(tmp_path / "study", *ONE_GROUP)
    assert "step 7/12" not in out  # it went on from the checkpoint that the signal made
    assert results(tmp_path / "study") == results(one_group)
    assert leftovers(tmp_path / "study") == []


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    """A study that nothing interrupted, and the seconds it takes once its programs are compiled."""
    folder = tmp_path_factory.mktemp("whole")
    bench.run(folder / "first")
    began = time.monotonic()
    bench.run(folder / "again")
    seconds = time.monotonic() - began
    assert results(folder / "first") == results(folder / "again")
    return folder / "first", seconds


def check(study, want, hit) -> None:
    """The finished `study` is what it should be."""
    print(f"{study.name}: stopped {len(hit)} times: {hit}")
    assert results(study) == results(want)
    assert leftovers(study) == []


def part(out: str) -> str:
    """What a process that said `out` was doing last."""
    saw = [name for name, said in PARTS.items() if said in out]
    return saw[-1] if saw else "start-up"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "count"), [(signal.SIGKILL, KILLS), (signal.SIGTERM, 8)])
def test_stopped_at_random_times(bench, whole, tmp_path, number, count):
    """Times from start-up to a little before the end; a study that gets done is followed by a new one."""
    want, seconds = whole
    draw, left, studies = random.Random(number), count, 0
    while left:
        study, hit, done = tmp_path / f"study{studies}", [], False
        studies += 1
        while not done:
            process = bench.start(study)
            try:
                out, err = process.communicate(timeout=draw.uniform(0.1, 1) * seconds if left else PATIENCE)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                out, err = process.communicate(timeout=PATIENCE)
            done = process.returncode == 0
            if not done:
                # Before the training begins and after it, SIGTERM acts as ever; a shell calls -15 143, too.
                assert process.returncode in (-number, 143 if number == signal.SIGTERM else -number), err[-3000:]
                left -= 1
                hit.append(part(out))
        check(study, want, hit)


@pytest.mark.slow
def test_killed_before_random_changes_of_files(bench, whole, tmp_path):
    """Kills aimed at writes: between a checkpoint's files, between adapters, before a rename."""
    command = [sys.executable, "-m", "tests.faults.killed_at"]
    out = finish(bench.start(tmp_path / "count", command=[*command, "0"]))
    changes = int(re.search(r"changes: (\d+)", out)[1])
    draw, left, studies = random.Random(0), KILLS, 0
    while left:
        study, hit, done = tmp_path / f"study{studies}", [], False
        studies += 1
        while not done:
            moment = draw.randint(1, changes) if left else 0
            process = bench.start(study, command=[*command, str(moment)])
            _, err = communicate([process])[0]
            done = process.returncode == 0
            if not done:
                assert process.returncode == -signal.SIGKILL, err[-3000:]
                left -= 1
                hit.append(f"{moment} of {changes}")
        check(study, whole[0], hit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "told"),
    [(1000, r"metrics\.jsonl: could not be written: "), (20_000, r"checkpoints: no checkpoint could be written: ")],
    ids=["log", "checkpoint"],
)
def test_a_disk_that_fills(bench, tmp_path, room, told):
    """No file may grow beyond `room` bytes, which is what a full disk does; checkpoints are written in the background.

    The log has a few thousand bytes, and the state of adapters of this rank some hundred thousand.
    """
    flags = [*ONE_GROUP, "--rank", "32", "--targets", "all-linear"]
    bench.run(tmp_path / "whole", *flags)
    process = bench.start(tmp_path / "study", *flags)
    wait_for(process, "step 4/12")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
    error = finish(process, 2)
    print(error)
    assert re.search("error: .*" + told, error), error
    assert "Traceback" not in error
    bench.run(tmp_path / "study", *flags)
    check(tmp_path / "study", tmp_path / "whole", ["full disk"])
