"""config.json: old and new keys, and everything that is refused."""

import json

import numpy as np
import pytest

from lorajax.errors import LorajaxError
from lorajax.models.config import ModelConfig, RopeConfig
from lorajax.models.rope import inverse_frequencies

KEYS = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        ({}, RopeConfig()),
        ({"rope_theta": 5e5}, RopeConfig(theta=5e5)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, RopeConfig(theta=1e5)),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}, RopeConfig("linear", 1e4, 2.0)),
        ({"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, RopeConfig("linear", 1e4, 2.0)),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, RopeConfig("llama3", 5e5, 8.0, 1.0, 4.0, 8192)),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}, RopeConfig("llama3", 5e5, 8.0, 1.0, 4.0, 8192)),
    ],
)  # fmt: skip
def test_rope_keys_old_and_new(keys, rope):
    config = ModelConfig.from_hf(KEYS | keys)
    assert config.rope == rope
    assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel' is not one of LlamaForCausalLM"),
        ({"architectures": None}, "architecture '\\(none\\)'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn' is not supported; expected one of"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}},
            "rope type 'llama3': low_freq_factor must be a positive number, found no such key",
        ),
        (
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
                "rope_scaling": {"type": "yarn", "factor": 4},
            },
            "rope_parameters and rope_scaling disagree: rope_type is 'default' in one, 'yarn' in the other",
        ),
        # transformers 5 takes rope_scaling as a whole: its theta would be 10000.
        (
            {
                "rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0},
                "rope_scaling": {"type": "linear", "factor": 2.0},
            },
            "disagree: rope_theta is 500000.0 in one, 10000.0 in the other",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4.0}},
            "high_freq_factor must be more than low_freq_factor 4.0, found 4.0",
        ),
        ({"partial_rotary_factor": True}, "partial_rotary_factor True is not supported"),
        ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads 4"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object or null, found 'linear'"),
        ({"rope_theta": "1e4"}, "rope_theta must be a positive number, found '1e4'"),
        ({"rms_norm_eps": None}, "rms_norm_eps must be a positive number, found None"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number, found nan"),
        ({"num_key_value_heads": "2"}, "num_key_value_heads must be a positive whole number, found '2'"),
        ({"hidden_size": True}, "hidden_size must be a positive whole number, found True"),
        ({"attention_bias": "yes"}, "attention_bias must be true or false, found 'yes'"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a whole number or null, found"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be a list of names"),
        (
            {"architectures": ["MistralForCausalLM"], "num_key_value_heads": 4, "sliding_window": -1},
            "sliding_window must be a positive whole number, found -1",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"hidden_size": None}, "hidden_size must be a positive whole number, found None"),
        ({"num_key_value_heads": 3}, "4 is not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"head_dim": 7}, "head_dim must be even"),
    ],
)
def test_refused(tmp_path, keys, message):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(KEYS | keys))
    with pytest.raises(LorajaxError, match=message) as error:
        ModelConfig.read(file)
    assert str(file) in str(error.value)


def test_not_a_config(tmp_path):
    with pytest.raises(LorajaxError, match="no such file"):
        ModelConfig.read(tmp_path / "config.json")
    for text in ("{", "[" * 100_000, '{"hidden_size": ' + "9" * 5000 + "}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(LorajaxError, match=r"config\.json: not JSON"):
            ModelConfig.read(tmp_path / "config.json")
    with pytest.raises(LorajaxError, match="could not be read"):
        ModelConfig.read(tmp_path)


def test_published_sizes():
    """Parameter counts as published: Llama-2-7B, Llama-3.2-1B (tied), Mistral-7B."""
    llama2 = ModelConfig(32000, 4096, 11008, 32, 32, 32, 128)
    llama32 = ModelConfig(128256, 2048, 8192, 16, 32, 8, 64, tie_embeddings=True)
    mistral = ModelConfig(32000, 4096, 14336, 32, 32, 8, 128)
    assert [c.parameter_count() for c in (llama2, llama32, mistral)] == [6738415616, 1235814400, 7241732096]


def test_sliding_window_is_mistrals():
    assert ModelConfig.from_hf(KEYS | {"sliding_window": 64}).sliding_window is None
    mistral = KEYS | {"architectures": ["MistralForCausalLM"], "num_key_value_heads": 4}
    assert ModelConfig.from_hf(mistral | {"sliding_window": 64}).sliding_window == 64
    assert ModelConfig.from_hf(mistral | {"sliding_window": None}).sliding_window is None
    assert ModelConfig.from_hf(mistral).sliding_window == 4096  # transformers' default


@pytest.mark.parametrize("kind", ["Llama", "Mistral"])
def test_defaults_of_absent_keys_are_transformers(kind):
    transformers = pytest.importorskip("transformers")
    shape = {
        "hidden_size": 64,
        "num_attention_heads": 8,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "vocab_size": 9,
    }
    theirs = getattr(transformers, f"{kind}Config")(**shape)
    ours = ModelConfig.from_hf(shape | {"architectures": [f"{kind}ForCausalLM"]})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == theirs.head_dim
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]


def test_llama3_frequencies_against_transformers():
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig

    keys = {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}
    theirs = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=keys, max_position_embeddings=131072)
    want, _ = rope_utils.ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    np.testing.assert_allclose(inverse_frequencies(RopeConfig("llama3", 5e5, 8.0), 128), want.numpy(), rtol=2e-6)
