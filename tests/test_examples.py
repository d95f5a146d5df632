"""The scripts in `examples/` run as they are, in short, and say what is true."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from pathlib import Path

import pytest

from tests.tiny import tiny_checkpoint

EXAMPLES = Path(__file__).parents[1] / "examples"
ALL = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture
def example(monkeypatch, capsys, tmp_path):
    """Runs an example with these arguments, and returns what it printed."""

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny checkpoint, and the folder that train_two_adapters.py fills."""
    folder = tmp_path_factory.mktemp("examples")
    return tiny_checkpoint(folder / "model"), folder / "out"


def numbers(line: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d+\.\d+", line)]


def test_they_are_short_and_listed():
    assert len(ALL) >= 5
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    for script in ALL:
        assert len(script.read_text("utf-8").splitlines()) < 40, script.name
        assert f"[{script.name}]({script.name})" in listed


def test_cka_of_two_models(example):
    """Similarity falls with depth, and the layer of noise alone is at chance: 0 in its interval, and p not small."""
    rows = [numbers(line) for line in example("cka_of_two_models").splitlines()[1:]]
    debiased, low, high, _, p = zip(*rows, strict=True)
    assert list(debiased[:5]) == sorted(debiased[:5], reverse=True)
    assert debiased[4] > 0.5 > debiased[5]
    assert low[5] < 0 < high[5]
    assert max(p[:5]) < 0.05 < p[5]


def test_map_of_adapters(example):
    """Two directions of four are shared within a subject: half of the distance by chance there, all of it elsewhere."""
    rows = [line.split()[:7] for line in example("map_of_adapters").splitlines()[1:]]
    assert [name for name, *_ in rows] == ["dates", "french", "german", "products", "spanish", "sums"]
    first, second = {"dates", "products", "sums"}, {"french", "german", "spanish"}
    for name, *values in rows:
        for (other, *_), value in zip(rows, values, strict=True):
            together = {name, other} <= first or {name, other} <= second
            want = 0 if name == other else 0.5 if together else 1
            assert float(value) == pytest.approx(want, abs=0.08), (name, other)


@pytest.mark.slow
def test_a_fleet_from_python_to_the_map(example, trained):
    """Train, then the other scripts on what was trained. A run that is done is gone on with: nothing is trained again."""
    model, out = trained
    lines = example("train_two_adapters", model, out).splitlines()
    assert [int(line.split()[0]) for line in lines[:6]] == list(range(1, 7))
    for own, line in enumerate(lines[6:], start=1):
        losses = numbers(line.split("token:")[1])
        assert losses[own] < losses[0]  # each has learned something of its task
    again = example("train_two_adapters", model, out).splitlines()
    assert again == lines[6:]

    rows = example("map_of_adapters", out).splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["arithmetic", "capital_city"]
    states = example("hidden_states", model, out / "arithmetic").splitlines()
    assert len(states) == 4  # embedding, two blocks, final norm
    assert numbers(states[0])[0] == pytest.approx(1, abs=1e-3)  # no adapter has reached the embedding
    merged = example("merge_two_adapters", model, out / "arithmetic", out / "capital_city", out / "merged")
    assert (out / "merged" / "adapter_model.safetensors").exists()
    assert "average" in merged


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_two_adapters", "hidden_states", "merge_two_adapters"])
def test_on_smollm2_without_arguments(example, script):
    pytest.importorskip("gguf")
    assert example(script)
