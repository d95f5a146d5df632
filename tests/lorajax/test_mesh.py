"""A mesh changes where the work is done, not what comes out."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import take
from lorajax.mesh import RULES, automatic_sizes, choose_mesh, fleet_axes, make_mesh, parse_mesh, row_devices, sharding
from lorajax.models.config import ModelConfig
from lorajax.models.safetensors_folder import SafetensorsFolder
from lorajax.models.weights import load_weights
from lorajax.training.evaluate import Evaluator
from lorajax.training.fleet import place, shapes_of
from lorajax.training.loop import train
from tests.fleets import QUICK, assert_close, assert_same, fleet_of, tokenized
from tests.tiny import TINY, tiny_checkpoint

SETTINGS = dataclasses.replace(QUICK, steps=3, batch_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("mesh") / "model")


def load(folder, mesh):
    return load_weights(SafetensorsFolder(folder), ModelConfig.read(folder / "config.json"), mesh=mesh)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """Four adapters, and one, trained on one device: (adapter, losses, held-out losses)."""
    return {names: trained(folder, make_mesh(), names, tmp_path_factory.mktemp("one")) for names in ("Eabc", "a")}


def trained(folder, mesh, names, out):
    model = load(folder, mesh)
    adapter = train(model, fleet_of(TINY, names, settings=SETTINGS), SETTINGS, out, dropout=0.1).adapter
    held, _ = Evaluator(model, rows=8, pad=0)(adapter, tokenized(9))
    return adapter, losses(out), held


CASES = [
    *(("Eabc", sizes) for sizes in ((2, 2, 2), (4, 2, 1), (1, 2, 4), (8, 1, 1), (2, 1, 4))),
    *(("a", sizes) for sizes in ((2, 4, 1), (2, 2, 2), (1, 8, 1), (1, 4, 2), (1, 1, 4))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("names", "sizes"), CASES, ids=str)
def test_any_mesh_gives_the_numbers_of_one_device(folder, alone, tmp_path, sizes, names):
    """Fleet over `data` where it divides (4 over 2 or 4), rows of a lone adapter over data x fsdp; losses to 1e-4."""
    mesh = make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])
    adapter, logged, held = trained(folder, mesh, names, tmp_path)
    want, want_logged, want_held = alone[names]
    for row, again in zip(logged, want_logged, strict=True):
        assert row == pytest.approx(again, rel=1e-4)
    assert_close(adapter, want)
    np.testing.assert_allclose(held, want_held, rtol=1e-3)


@pytest.mark.slow
def test_restored_on_other_devices(folder, alone, tmp_path):
    """Begun on eight devices, gone on with on two, and then on one."""
    fleet = fleet_of(TINY, "Eabc", settings=SETTINGS)

    class Killed(Exception):
        pass

    def kill_at(step):
        def report(progress):
            if progress.step == step:
                raise Killed

        return report

    for step, mesh in ((1, make_mesh(data=4, fsdp=2)), (2, make_mesh(fsdp=2))):
        with pytest.raises(Killed):
            train(load(folder, mesh), fleet, SETTINGS, tmp_path, dropout=0.1, checkpoint_every=1, report=kill_at(step))
    steps = []
    last = train(
        load(folder, make_mesh()), fleet, SETTINGS, tmp_path, dropout=0.1, report=lambda p: steps.append(p.step)
    )
    assert steps[0] > 1
    assert_close(last.adapter, alone["Eabc"][0])
    for row, again in zip(losses(tmp_path), alone["Eabc"][1], strict=True):
        assert row == pytest.approx(again, rel=1e-4)


def test_state_and_batch_are_where_the_rules_say():
    """Shapes of one device's part: N over data, rows over fsdp; a lone adapter's rows over both."""
    mesh = make_mesh(data=4, fsdp=2)
    fleet = fleet_of(TINY, "Eabc", settings=SETTINGS)
    layout = fleet.plan(SETTINGS, mesh).at(0)
    assert layout.rows % 2 == 0
    shapes, dtypes = shapes_of(layout, 4, packed=True)
    built = []

    def build(members):
        built.append(members)
        return fleet.batch(0, layout, SETTINGS, members)

    batch = place(build, shapes, mesh, dtypes)
    assert batch["tokens"].sharding.shard_shape(batch["tokens"].shape) == (1, layout.rows // 2, layout.length)
    assert [range(4)[m] for m in built] == [range(i, i + 1) for i in range(4)]  # each device's share, once
    whole = fleet.batch(0, layout, SETTINGS)
    assert_same(batch, {key: whole[key] for key in batch})
    assert fleet_axes(mesh, 3) == (None, "lone_row")
    assert row_devices(mesh, 3) == 8
    lone = sharding(mesh, [*fleet_axes(mesh, 1), None], (1, 16, 24))
    assert lone.shard_shape((1, 16, 24)) == (1, 2, 24)


def test_rules_name_axes_of_the_mesh():
    axes = [a for rule in RULES.values() for a in ((rule,) if isinstance(rule, str) else rule)]
    assert set(axes) == {"data", "fsdp", "tensor"}


def test_flags():
    assert parse_mesh("data=4, fsdp=2") == {"data": 4, "fsdp": 2, "tensor": 1}
    for text in ("data", "data=0", "model=2", "4,2", "data=2;fsdp=2"):
        with pytest.raises(LorajaxError, match="--mesh"):
            parse_mesh(text)
    with pytest.raises(LorajaxError, match="needs 16 devices; found 8"):
        choose_mesh("data=16", base_bytes=0)
    assert choose_mesh("auto", base_bytes=10**9).size == 1  # virtual devices share the cores


def test_automatic_sizes():
    """Weights on as few devices as hold them in 0.4 of their memory."""
    assert automatic_sizes(8, base_bytes=16 * 10**9, device_bytes=80 * 10**9) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert automatic_sizes(8, base_bytes=16 * 10**9, device_bytes=16 * 10**9) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert automatic_sizes(6, base_bytes=140 * 10**9, device_bytes=16 * 10**9)["fsdp"] == 6
    assert automatic_sizes(4, base_bytes=1, device_bytes=None)["data"] == 4


@pytest.mark.slow
def test_part_of_a_fleet_is_on_its_own_device(folder, tmp_path):
    """A fleet of three does not divide over two: still right, with its rows spread instead."""
    mesh = make_mesh(data=2)
    adapter, _, _ = trained(folder, mesh, "abc", tmp_path / "two")
    single = trained(folder, make_mesh(), "b", tmp_path / "one")[0]
    assert_close(take(adapter, [1]), single)
    assert jax.device_count() == 8
