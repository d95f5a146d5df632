"""GGUF files written by the gguf package itself: types, permutation, rotary factors, tokenizers, broken files."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from lorajax.data.prompts import begins_with_bos
from lorajax.errors import LorajaxError
from lorajax.models.config import ModelConfig, RopeConfig
from lorajax.models.gguf import BLOCK_NAMES, GGUFFile
from lorajax.models.llama import Llama
from lorajax.models.rope import inverse_frequencies
from lorajax.models.tensors import tensors
from lorajax.models.tokenizer import gguf_tokenizer
from lorajax.models.weights import load_weights

gguf = pytest.importorskip("gguf", reason="needs gguf: pip install 'lorajax[gguf]'")

CONFIG = ModelConfig(96, 64, 96, 2, 4, 2, 16, norm_eps=1e-5, max_positions=256)
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0", "Q5_1"]


def checkpoint(config=CONFIG) -> dict[str, np.ndarray]:
    """Random tensors under Hugging Face names."""
    flat = dict(nnx.to_flat_state(nnx.state(Llama(config, rngs=nnx.Rngs(0)))))
    values = {}
    for tensor in tensors(config):
        for layer, name in enumerate(tensor.names(config.num_layers)):
            value = np.asarray(flat[tensor.path][...])
            value = value[layer] if tensor.stacked else value
            values[name] = np.ascontiguousarray(value.T if tensor.transposed else value)
    return values


def write(path, values, *, kind="F32", config=CONFIG, architecture="llama", extra=None, tokenizer=None):
    """What llama.cpp's converter does: its names, its order of q and k rows, its types."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    back = {ours: theirs for theirs, ours in BLOCK_NAMES.items()}
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}  # fmt: skip
    for name, value in values.items():
        for module, heads in (("q_proj", config.num_heads), ("k_proj", config.num_kv_heads)):
            if f".{module}." in name:
                value = value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        parts = name.split(".")
        theirs = top.get(name) or f"blk.{parts[2]}.{back['.'.join(parts[3:-1])]}.weight"
        type_ = gguf.GGMLQuantizationType["F32" if value.ndim == 1 else kind]
        writer.add_tensor(theirs, gguf.quantize(value, type_), raw_dtype=type_)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value)
    if tokenizer:
        tokenizer(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_gives_the_checkpoint_back(tmp_path, kind):
    values = checkpoint()
    file = GGUFFile(write(tmp_path / "m.gguf", values, kind=kind))
    assert file.config == CONFIG
    flat = dict(nnx.to_flat_state(nnx.state(load_weights(file, file.config))))
    type_ = gguf.GGMLQuantizationType[kind]
    for tensor in tensors(CONFIG):
        for layer, name in enumerate(tensor.names(CONFIG.num_layers)):
            found = np.asarray(flat[tensor.path][...])
            found = found[layer] if tensor.stacked else found
            found, want = found.T if tensor.transposed else found, values[name]
            if want.ndim > 1:
                rounded = gguf.dequantize(gguf.quantize(want, type_), type_)
                np.testing.assert_array_equal(found, rounded, err_msg=name)
                coarse = {"F32": 0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2}.get(kind, 0.15)
                assert np.abs(found - want).max() <= coarse * np.abs(want).max()
            else:
                np.testing.assert_array_equal(found, want)


def test_llama3_rotary_factors_are_recognised(tmp_path):
    rope, plain = RopeConfig("llama3", 500000.0, 8.0), RopeConfig(theta=500000.0)
    config = ModelConfig(96, 64, 96, 2, 4, 2, 16, rope=rope, max_positions=256)
    factors = (inverse_frequencies(plain, 16) / inverse_frequencies(rope, 16)).astype(np.float32)
    path = write(tmp_path / "m.gguf", checkpoint(config), config=config, extra={"rope_freqs.weight": factors})
    assert GGUFFile(path).config.rope == rope
    path = write(
        tmp_path / "n.gguf", checkpoint(config), config=config, extra={"rope_freqs.weight": factors[::-1].copy()}
    )
    with pytest.raises(LorajaxError, match="does not hold the llama3 factors"):
        GGUFFile(path)


class TestBroken:
    def test_other_architecture(self, tmp_path):
        with pytest.raises(LorajaxError, match="GGUF architecture 'qwen2' is not supported"):
            GGUFFile(write(tmp_path / "m.gguf", checkpoint(), architecture="qwen2"))

    @pytest.mark.parametrize("keep", [0, 3, 64, 600, -1000])
    def test_truncated(self, tmp_path, keep):
        path = write(tmp_path / "m.gguf", checkpoint())
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(LorajaxError, match=r"m\.gguf: not a complete GGUF file"):
            GGUFFile(path)

    def test_missing(self, tmp_path):
        with pytest.raises(LorajaxError, match="no such file"):
            GGUFFile(tmp_path / "m.gguf")

    def test_missing_tensor(self, tmp_path):
        values = checkpoint()
        del values["model.layers.1.mlp.down_proj.weight"]
        file = GGUFFile(write(tmp_path / "m.gguf", values))
        with pytest.raises(LorajaxError, match=r"model\.layers\.1\.mlp\.down_proj\.weight is missing"):
            load_weights(file, file.config)

    def test_missing_embedding_or_number(self, tmp_path):
        values = checkpoint()
        del values["model.embed_tokens.weight"]
        with pytest.raises(LorajaxError, match=r"m\.gguf: tensor token_embd\.weight is missing"):
            GGUFFile(write(tmp_path / "m.gguf", values))
        broken = dataclasses.replace(CONFIG, num_heads=0)
        with pytest.raises(
            LorajaxError, match=r"llama\.attention\.head_count must be a positive whole number, found 0"
        ):
            GGUFFile(
                write(tmp_path / "n.gguf", {"model.embed_tokens.weight": values["model.norm.weight"]}, config=broken)
            )

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("llama.block_count", "two", "must be a positive whole number, found 'two'"),
            ("llama.feed_forward_length", 2.5, "must be a positive whole number, found 2.5"),
            ("llama.attention.head_count", None, "must be a positive whole number, found no such key"),
            ("llama.attention.head_count_kv", [2, 2], r"must be a positive whole number, found \[2, 2\]"),
            ("llama.attention.key_length", "16", "must be a positive whole number, found '16'"),
            ("llama.attention.layer_norm_rms_epsilon", float("nan"), "must be a positive number, found nan"),
            ("llama.rope.freq_base", "1e4", "must be a positive number, found '1e4'"),
            ("tokenizer.ggml.eos_token_id", "</s>", "must be a whole number or null, found '</s>'"),
        ],
    )
    def test_metadata_of_the_wrong_type(self, tmp_path, key, value, message):
        def replace(writer):
            writer.kv_data[0].pop(key, None)
            if value is not None:
                writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))

        with pytest.raises(LorajaxError, match=rf"m\.gguf: metadata key {key} {message}"):
            GGUFFile(write(tmp_path / "m.gguf", checkpoint(), tokenizer=replace))

    def test_heads_and_rotary_factors_that_do_not_fit(self, tmp_path):
        uneven = dataclasses.replace(CONFIG, num_kv_heads=3)
        with pytest.raises(LorajaxError, match="4 is not a multiple of num_key_value_heads 3"):
            GGUFFile(
                write(
                    tmp_path / "m.gguf", {}, config=uneven, extra={"token_embd.weight": np.ones((96, 64), np.float32)}
                )
            )
        short = {"rope_freqs.weight": np.ones(3, np.float32)}
        with pytest.raises(LorajaxError, match="does not hold the llama3 factors"):
            GGUFFile(write(tmp_path / "n.gguf", checkpoint(), extra=short))

    def test_yarn(self, tmp_path):
        def yarn(writer):
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)

        with pytest.raises(LorajaxError, match="rope type 'yarn' is not supported"):
            GGUFFile(write(tmp_path / "m.gguf", checkpoint(), tokenizer=yarn))


TEXTS = ["Hello world", "  two  spaces\n\nand 1234 numbers", "Füße 42 € 你好 🙂", "don't I'll we've", ""]


def byte_level(writer, pre="smollm"):
    """A byte-level BPE trained on a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(["hello world numbers spaces and two 1234 1234 12"] * 3, trainer)
    import json

    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    return backend


def test_byte_level_tokenizer(tmp_path):
    made = []
    path = write(tmp_path / "m.gguf", checkpoint(), tokenizer=lambda w: made.append(byte_level(w, "gpt-2")))
    tokenizer = gguf_tokenizer(GGUFFile(path))
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == made[0].encode(text).ids
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<s>a</s>")["input_ids"][0] == 0
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert not begins_with_bos(tokenizer)
    digits = gguf_tokenizer(GGUFFile(write(tmp_path / "n.gguf", checkpoint(), tokenizer=byte_level)))
    assert digits.convert_ids_to_tokens(digits("1234")["input_ids"]) == ["1", "2", "3", "4"]
    with pytest.raises(LorajaxError, match="pre-tokenizer 'klingon' is not supported"):
        gguf_tokenizer(GGUFFile(write(tmp_path / "o.gguf", checkpoint(), tokenizer=lambda w: byte_level(w, "klingon"))))


def test_sentence_piece_tokenizer_against_sentencepiece(tmp_path):
    spm = pytest.importorskip("sentencepiece", reason="needs sentencepiece, the independent implementation")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("hello world numbers spaces and two\nthe quick brown fox\nI don't know what we've got\n" * 20)
    spm.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "spm"), vocab_size=340, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, minloglevel=2,
    )  # fmt: skip
    theirs = spm.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))

    def add(writer):
        count = theirs.get_piece_size()
        kinds = [
            3 if theirs.is_control(i) else 2 if theirs.is_unknown(i) else 6 if theirs.is_byte(i) else 1
            for i in range(count)
        ]
        writer.add_tokenizer_model("llama")
        writer.add_token_list([theirs.id_to_piece(i) for i in range(count)])
        writer.add_token_scores([theirs.get_score(i) for i in range(count)])
        writer.add_token_types(kinds)
        writer.add_bos_token_id(theirs.bos_id())
        writer.add_eos_token_id(theirs.eos_id())
        writer.add_unk_token_id(theirs.unk_id())

    ours = gguf_tokenizer(GGUFFile(write(tmp_path / "m.gguf", checkpoint(), tokenizer=add)))
    assert begins_with_bos(ours)
    for text in [t for t in TEXTS if t]:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs.encode(text), text
        assert ours.decode(theirs.encode(text)) == text
