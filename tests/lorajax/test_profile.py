"""A profile holds the steps asked for, and no profile stops a training."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from lorajax.errors import LorajaxError
from lorajax.training.profile import profile


@pytest.fixture
def step():
    """A compiled step, with a name to look for."""

    @jax.jit
    def profiled_step(x):
        return jnp.tanh(x @ x)

    profiled_step(jnp.ones((8, 8)))
    return profiled_step


def traced(folder):
    """Names of the events in the one trace of `folder`, and the numbers of its steps."""
    (file,) = (folder / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "train")
    return [e.get("name", "") for e in events], steps


def run_steps(running, step, numbers, then=lambda x: None):
    x = jnp.ones((8, 8))
    for number in numbers:
        running.step(number, x)
        x = step(x)
    then(x)


def test_profile_holds_the_steps_asked_for(tmp_path, step):
    said = []
    with profile(tmp_path, first=2, count=3, say=said.append) as running:
        run_steps(running, step, range(10))
    names, steps = traced(tmp_path)
    assert steps == [2, 3, 4]
    assert "PjitFunction(profiled_step)" in names
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert said == [f"wrote a profile to {tmp_path / 'profile'}"]


def test_profile_is_written_when_the_loop_fails(tmp_path, step):
    def fail(x):
        raise KeyError

    with pytest.raises(KeyError), profile(tmp_path, first=2, count=30) as running:
        run_steps(running, step, range(4), then=fail)
    assert traced(tmp_path)[1] == [2, 3]
    with profile(tmp_path / "next", first=0, count=1) as running:  # jax can trace again
        run_steps(running, step, range(2))
    assert traced(tmp_path / "next")[1] == [0]


@pytest.mark.parametrize(("first", "count"), [(0, 0), (50, 3)])
def test_no_profile_no_files(tmp_path, step, first, count):
    with profile(tmp_path, first=first, count=count) as running:
        run_steps(running, step, range(5))
    assert not list(tmp_path.iterdir())


def test_profile_that_cannot_start_stops_nothing(tmp_path, step):
    said = []
    with profile(tmp_path / "one", first=0, count=9), profile(tmp_path, first=0, count=2, say=said.append) as running:
        jax.profiler.start_trace(tmp_path / "other")
        try:
            run_steps(running, step, range(5))
        finally:
            jax.profiler.stop_trace()
    assert len(said) == 1
    assert "already been started" in said[0]


def test_profile_of_fewer_than_no_steps_is_refused(tmp_path):
    with pytest.raises(LorajaxError, match="--profile.*-1"), profile(tmp_path, first=0, count=-1):
        pass
