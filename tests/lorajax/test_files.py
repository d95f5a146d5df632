"""Files are written whole or not at all, also when the disk is full."""

import contextlib
import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lorajax.errors import LorajaxError
from lorajax.files import confined, fingerprint, replacing, write_text
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.training.loop import Checkpoints, MetricsLog
from lorajax.training.step import TrainConfig, init_state
from run.task_results import write
from tests.tiny import TINY


@contextlib.contextmanager
def full_disk(size: int = 2000):
    """No file can grow beyond `size` bytes: what a full disk does, by the operating system itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_text(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with full_disk(), pytest.raises(LorajaxError, match=r"a\.txt: could not be written: File too large"):
        write_text(file, "new" * 10_000)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_adapter(tmp_path):
    lora = LoraConfig(rank=4)
    old, new = (init_adapter(TINY, lora, ["a"], seed=seed) for seed in (0, 1))
    save_adapter(old, lora, tmp_path / "a", base="tiny")
    with full_disk(), pytest.raises(LorajaxError, match=r"/a: could not be written: .*File too large"):
        save_adapter(new, lora, tmp_path / "a", base="tiny")
    kept, _ = load_adapter(tmp_path / "a", TINY)
    np.testing.assert_array_equal(kept["self_attn.q_proj"].a, old["self_attn.q_proj"].a)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_others_can_read_what_they_could_read_of_any_file(tmp_path):
    lora = LoraConfig(rank=4)
    save_adapter(init_adapter(TINY, lora, ["a"]), lora, tmp_path / "a", base="tiny")
    (tmp_path / "ordinary").write_text("x")
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    assert len(set(modes.values())) == 1, modes


def test_results(tmp_path):
    data = xr.Dataset({"x": ("i", np.random.default_rng(0).standard_normal(10_000))})
    with full_disk(), pytest.raises(LorajaxError, match=r"x\.nc: could not be written: File too large"):
        write(data, tmp_path / "x.nc")
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_and_log(tmp_path):
    state, _ = init_state(init_adapter(TINY, LoraConfig(rank=8), ["a"]), TrainConfig(), ["a"])
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)

    def save_on_a_full_disk():
        with full_disk(), Checkpoints(tmp_path / "c") as checkpoints:  # written in the background until it is closed
            checkpoints.save(2, jax.tree.map(lambda x: x + jnp.ones_like(x), state))

    with pytest.raises(LorajaxError, match="no checkpoint could be written"):
        save_on_a_full_disk()
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert int(checkpoints.restore(state).step) == 0
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.rewind(0)
        log.write(1, {"loss": {"a" * 5000: 1.0}})
        with full_disk(), pytest.raises(LorajaxError, match=r"m\.jsonl: could not be written: File too large"):
            log.flush()


def test_left_overs_of_a_killed_process_are_swept(tmp_path):
    (tmp_path / ".a.0123abcd.tmp").mkdir()
    (tmp_path / ".a.0123abcd.tmp" / "x").write_text("half")
    (tmp_path / ".b.0123abcd.tmp").write_text("another's")
    write_text(tmp_path / "a", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.0123abcd.tmp", "a"]


def test_an_error_inside_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "a", "old")

    def fail():
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_confined(tmp_path):
    assert confined(tmp_path, "a/b.safetensors", source="s") == tmp_path / "a" / "b.safetensors"
    for bad in ("../x", "/etc/passwd", "a/../../x", "..\\x", "", "a/.."):
        with pytest.raises(LorajaxError, match="s: the path .* leaves its folder"):
            confined(tmp_path, bad, source="s")


def test_fingerprint_sees_every_byte_of_ordinary_files(tmp_path):
    file = tmp_path / "a"
    content = bytearray(5 << 20)
    seen = set()
    for position in (None, 0, (2 << 20) + 5, (5 << 20) - 1):
        if position is not None:
            content[position] ^= 1
        file.write_bytes(content)
        seen.add(fingerprint([file]))
    assert len(seen) == 4
