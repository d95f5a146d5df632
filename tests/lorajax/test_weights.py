"""Checkpoints on disk: every tensor exactly once, sharded or not; everything broken is named."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from lorajax.data.prompts import PromptConfig, begins_with_bos, prompt_ids
from lorajax.data.task import Example
from lorajax.errors import LorajaxError
from lorajax.mesh import make_mesh
from lorajax.models.checkpoint import load, locate
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.safetensors_folder import SafetensorsFolder
from lorajax.models.tensors import tensors
from lorajax.models.weights import load_weights, save_hf
from tests.tiny import TINY, tiny_checkpoint, tiny_tokenizer


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path):
    save_hf(Llama(TINY, rngs=nnx.Rngs(0)), tmp_path / "sharded", shard_bytes=20_000)
    return tmp_path / "sharded"


def read(folder, **keys):
    return load_weights(SafetensorsFolder(folder), ModelConfig.read(folder / "config.json"), **keys)


@pytest.mark.parametrize(
    "keys",
    [{}, {"tie_embeddings": False}, {"qkv_bias": True}, {"qkv_bias": True, "output_bias": True, "mlp_bias": True}],
)
def test_table_covers_every_parameter_exactly_once(keys):
    config = dataclasses.replace(TINY, **keys)
    state = nnx.state(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    ours = {path: leaf.shape for path, leaf in nnx.to_flat_state(state)}
    table = tensors(config)
    assert len({t.path for t in table}) == len(table)
    names = [name for t in table for name in t.names(config.num_layers)]
    assert len(set(names)) == len(names)
    assert ours == {t.path: ((config.num_layers,) if t.stacked else ()) + t.shape for t in table}
    assert config.parameter_count() == sum(int(np.prod(shape)) for shape in ours.values())


def test_save_and_load_are_inverse(folder, sharded):
    want = jax.tree.leaves(nnx.state(Llama(TINY, rngs=nnx.Rngs(0))))
    for source in (folder, sharded):
        for a, b in zip(jax.tree.leaves(nnx.state(read(source))), want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_qwen2_with_its_own_tokenizer(tmp_path):
    """Biases of q, k and v alone, and no beginning-of-sequence token, though config.json names one as Qwen2's does."""
    config = dataclasses.replace(TINY, architecture="Qwen2ForCausalLM", qkv_bias=True)
    byte_tokens = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
    tokenizer = Qwen2Tokenizer(vocab=byte_tokens, merges=[])
    save_hf(Llama(config, rngs=nnx.Rngs(0)), tmp_path / "model", tokenizer=tokenizer)
    loaded = load(str(tmp_path / "model"))
    assert loaded.model.config == config
    assert config.bos_token_id is not None
    attention = loaded.model.blocks.self_attn
    assert [p.bias is not None for p in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)] == [
        True, True, True, False,
    ]  # fmt: skip
    assert not begins_with_bos(loaded.tokenizer)
    example = Example(task="t", cluster="c", input="ab", targets=("x",))
    prompt = prompt_ids(example, loaded.tokenizer, PromptConfig())
    assert prompt == [byte_tokens[c] for c in "abĊAnswer:"]  # Ċ is how byte-level BPE writes a line's end
    # A checkpoint that names a token it never puts in front gets none either; one whose tokenizer does gets it.
    named = Qwen2Tokenizer(vocab=byte_tokens, merges=[], bos_token="<|endoftext|>")
    assert named.bos_token_id is not None
    assert not begins_with_bos(named)
    assert begins_with_bos(tiny_tokenizer(bos=True))


def test_bfloat16(folder):
    leaves = jax.tree.leaves(nnx.state(read(folder, dtype=jnp.bfloat16)))
    assert {x.dtype for x in leaves} == {jnp.dtype(jnp.bfloat16)}


def test_sharded_over_a_mesh_gives_the_same_model(sharded):
    mesh = make_mesh(fsdp=2, tensor=2)
    model, whole = read(sharded, mesh=mesh), read(sharded)
    kernel = model.blocks.mlp.up_proj.kernel[...]
    assert kernel.sharding.spec == jax.P(None, "fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (2, 16, 24)
    tokens = jnp.arange(60).reshape(1, 2, 30)
    graphdef, base = nnx.split(model)
    hidden = jax.jit(lambda base, tokens: nnx.merge(graphdef, base)(tokens).hidden)(base, tokens)
    np.testing.assert_allclose(hidden, whole(tokens).hidden, atol=1e-5)
    with pytest.raises(LorajaxError, match="needs 64 devices; found 8"):
        make_mesh(data=64)


def test_host_reads_a_slice_at_a_time(sharded):
    """Each device's part is read by itself: no read is larger than one device's share of one tensor."""
    source, config = SafetensorsFolder(sharded), ModelConfig.read(sharded / "config.json")
    sizes = []

    class Watched:
        shapes, where = source.shapes, source.where

        def read(self, name, index):
            part = source.read(name, index)
            sizes.append(part.nbytes)
            return part

    load_weights(Watched(), config, mesh=make_mesh(fsdp=2, tensor=2))
    assert max(sizes) == max(np.prod(shape) for shape in source.shapes.values()) * 4 // 4


class TestBroken:
    """One broken thing at a time; the message names it."""

    def check(self, folder, message):
        with pytest.raises(LorajaxError, match=message):
            read(folder)

    def test_missing_shard(self, sharded):
        shard = sorted(sharded.glob("*.safetensors"))[1]
        shard.unlink()
        self.check(sharded, rf"index\.json: names {shard.name}, which is not in")

    @pytest.mark.parametrize("keep", [0, 5, 100, -40])
    def test_truncated_shard(self, folder, keep):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        self.check(folder, r"model\.safetensors: not a complete safetensors file")

    def test_corrupt_header(self, folder):
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[8:40] = b"\xff" * 32
        file.write_bytes(data)
        self.check(folder, r"model\.safetensors: not a complete safetensors file")

    def test_wrong_shape(self, folder):
        values = load_file(folder / "model.safetensors")
        values["model.layers.1.mlp.up_proj.weight"] = np.zeros((48, 31), np.float32)
        save_file(values, folder / "model.safetensors")
        self.check(folder, r"model\.layers\.1\.mlp\.up_proj\.weight has shape \[48, 31\]; config\.json says \[48, 32\]")

    def test_missing_tensor(self, folder):
        values = load_file(folder / "model.safetensors")
        del values["model.norm.weight"]
        save_file(values, folder / "model.safetensors")
        self.check(folder, r"model\.norm\.weight is missing .* expected shape \[32\]")

    def test_unknown_tensor_is_not_skipped(self, folder):
        values = load_file(folder / "model.safetensors")
        values["model.layers.0.self_attn.q_norm.weight"] = np.zeros(8, np.float32)
        save_file(values, folder / "model.safetensors")
        self.check(folder, r"1 tensors belong to no parameter .*q_norm")

    def test_redundant_tensors_are_fine(self, folder):
        values = load_file(folder / "model.safetensors")
        values["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
        values["lm_head.weight"] = values["model.embed_tokens.weight"]
        save_file(values, folder / "model.safetensors")
        read(folder)

    @pytest.mark.parametrize(
        "name", ["../elsewhere.safetensors", "/etc/passwd", "a/../../b.safetensors", "..\\b.safetensors"]
    )
    def test_path_leaving_its_folder(self, sharded, name):
        index = sharded / "model.safetensors.index.json"
        listed = json.loads(index.read_text())
        listed["weight_map"]["model.norm.weight"] = name
        index.write_text(json.dumps(listed))
        self.check(sharded, "leaves its folder")

    def test_index_that_lies(self, sharded):
        index = sharded / "model.safetensors.index.json"
        listed = json.loads(index.read_text())
        files = sorted(set(listed["weight_map"].values()))
        wrong = next(f for f in files if f != listed["weight_map"]["model.norm.weight"])
        listed["weight_map"]["model.norm.weight"] = wrong
        index.write_text(json.dumps(listed))
        self.check(sharded, rf"says that {wrong} holds tensor model\.norm\.weight; it does not")

    @pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
    def test_index_that_is_none(self, sharded, text):
        (sharded / "model.safetensors.index.json").write_text(text)
        self.check(sharded, r"index\.json: expected \{\"weight_map\"")

    def test_pickles_are_refused_unread(self, tmp_path):
        class Boom:
            def __reduce__(self):
                return (pytest.fail, ("a pickle was opened",))

        folder = tmp_path / "pickled"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(TINY.to_hf()))
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Boom()))
        for name in (folder, folder / "pytorch_model.bin"):
            with pytest.raises(LorajaxError, match=r"pytorch_model\.bin: pickle files can run code .* refused"):
                load(str(name))

    def test_empty_folder(self, tmp_path):
        with pytest.raises(LorajaxError, match="no safetensors file found"):
            SafetensorsFolder(tmp_path)

    def test_no_such_model(self, tmp_path):
        with pytest.raises(
            LorajaxError, match="expected a folder, a .gguf file, a hub id owner/name, or one of: smollm2"
        ):
            locate("nothing")
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(LorajaxError, match=r"a\.txt: expected a model folder or a \.gguf file"):
            locate(str(tmp_path / "a.txt"))

    def test_hub_out_of_reach(self):
        with pytest.raises(
            LorajaxError, match="model 'nobody/nothing': not a folder here, and the hub did not give it"
        ):
            locate("nobody/nothing", say=lambda text: None)

    def test_export_does_not_overwrite(self, folder):
        before = sorted(p.name for p in folder.iterdir())
        with pytest.raises(LorajaxError, match="exists and is not empty"):
            save_hf(Llama(TINY, rngs=nnx.Rngs(1)), folder)
        assert sorted(p.name for p in folder.iterdir()) == before
