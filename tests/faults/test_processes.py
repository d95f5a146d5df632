"""Two real processes with two devices each: the numbers of one, and no end of one that the other does not notice.

They find each other over a port of this machine, and gloo adds up between them.
"""

from __future__ import annotations

import json
import resource
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load

from lorajax.training.checkpoints import WRITE_SECONDS
from tests.faults.commands import ONE_GROUP, PATIENCE, communicate, leftovers, results, wait_for


def end(processes, code: int = 0) -> list[tuple[str, str]]:
    """What both say; they have to end with `code`."""
    told = communicate(processes)
    assert [p.returncode for p in processes] == [code, code], told
    return told


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    """A study of two processes that nothing interrupted, and what they said."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    return folder, end(bench.start_two(folder, *ONE_GROUP))


@pytest.mark.slow
def test_a_folder_that_only_one_sees(bench, tmp_path):
    """Both end at once, with the reason, and the second one writes nothing."""
    told = end(bench.start_two(tmp_path / "here", *ONE_GROUP, second=tmp_path / "there"), 2)
    for _, err in told:
        assert "the processes [1] do not see it; name a folder that all processes share" in err
    assert not (tmp_path / "there").exists()
    again = end(bench.start_two(tmp_path / "here", "--steps", "9", *ONE_GROUP), 2)
    assert "config.steps is 12 there and 9 here" in again[0][1]  # an error of the first process alone
    assert "the first process had an error" in again[1][1]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(bench, whole, tmp_path):
    """The same mesh in one process. Sums over devices are taken in another order: losses to 1e-5, factors to 1e-4."""
    study, told = whole
    bench.run(tmp_path / "study", "--mesh", "data=2,fsdp=2", *ONE_GROUP, devices=4)
    two, one = results(study), results(tmp_path / "study")
    assert list(two) == list(one)
    for name in one:
        if name.endswith(".safetensors"):
            a, b = load(two[name]), load(one[name])
            assert a.keys() == b.keys()
            for key in a:
                np.testing.assert_allclose(a[key], b[key], atol=1e-4)
    logs = [[json.loads(line) for line in files["metrics.jsonl"].splitlines()] for files in (two, one)]
    for row, again in zip(*logs, strict=True):
        assert row.keys() == again.keys()
        for key in ("loss", "validation"):
            assert row.get(key, {}) == pytest.approx(again.get(key, {}), rel=1e-5)
    assert leftovers(study) == []
    # One speaks; what gloo itself prints may be in the middle of a line.
    assert "measuring held-out losses" in told[0][0]
    assert all(word not in told[1][0] for word in ("step", "training", "measuring"))


@pytest.mark.slow
def test_both_killed(bench, whole, tmp_path):
    processes = bench.start_two(tmp_path / "study", *ONE_GROUP)
    wait_for(processes[0], "step 7/12")
    for process in processes:
        process.kill()
    communicate(processes)
    told = end(bench.start_two(tmp_path / "study", *ONE_GROUP))
    assert "step 1/12" not in told[0][0]
    assert results(tmp_path / "study") == results(whole[0])
    assert leftovers(tmp_path / "study") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "number", "codes"), [(1, signal.SIGTERM, [143, 143]), (0, signal.SIGINT, [130, 143])], ids=str
)
def test_a_signal_to_one_stops_both(bench, whole, tmp_path, told, number, codes):
    processes = bench.start_two(tmp_path / "study", *ONE_GROUP)
    wait_for(processes[0], "step 2/12")
    processes[told].send_signal(number)
    out = communicate(processes)
    assert [p.returncode for p in processes] == codes, out
    assert "with a checkpoint; the same command goes on from there" in out[0][0]
    assert list((tmp_path / "study" / "training").glob("*/checkpoints/[0-9]*"))
    end(bench.start_two(tmp_path / "study", *ONE_GROUP))
    assert results(tmp_path / "study") == results(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_of_one_ends_both(bench, whole, tmp_path, broken):
    """The disk of one is full: it says so, and the other does not wait for ever."""
    processes = bench.start_two(tmp_path / "study", *ONE_GROUP)
    wait_for(processes[0], "step 4/12")
    resource.prlimit(processes[broken].pid, resource.RLIMIT_FSIZE, (100, 100))
    began = time.monotonic()
    out = communicate(processes, WRITE_SECONDS + PATIENCE)
    assert processes[broken].returncode != 0
    assert "could not be written" in out[broken][1] or "no checkpoint could be written" in out[broken][1]
    assert processes[1 - broken].returncode != 0
    print(f"ended after {time.monotonic() - began:.0f} s with {[p.returncode for p in processes]}")
    end(bench.start_two(tmp_path / "study", *ONE_GROUP))
    assert results(tmp_path / "study") == results(whole[0])
