"""config.json: old and new keys, and everything that is refused."""

import dataclasses
import json

import numpy as np
import pytest

from lorajax.errors import LorajaxError
from lorajax.models.config import ModelConfig, RopeConfig
from lorajax.models.named import MODELS
from lorajax.models.rope import inverse_frequencies
from lorajax.models.tensors import tensors

KEYS = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MISTRAL = KEYS | {"architectures": ["MistralForCausalLM"], "num_key_value_heads": 4}
QWEN2 = KEYS | {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 4}
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
        (
            QWEN2 | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
            "rope_scaling: rope type 'yarn' is not supported; expected one of default, linear, llama3",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            "rope_parameters: rope type 'yarn' is not supported",
        ),
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
        (MISTRAL | {"sliding_window": -1}, "sliding_window must be a positive whole number, found -1"),
        (
            QWEN2 | {"use_sliding_window": True, "max_window_layers": 1},
            "max_window_layers gives 1 of 2 layers a sliding window; expected all or none",
        ),
        (
            QWEN2 | {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
            "layer_types gives 1 of 2 layers a sliding window; expected all or none",
        ),
        (QWEN2 | {"layer_types": ["sliding_attention"] * 2}, "use_sliding_window must be true, with a sliding_window"),
        (QWEN2 | {"layer_types": ["full_attention"]}, "layer_types must be a list of 2 names, full_attention or"),
        (QWEN2 | {"layer_types": ["linear_attention"] * 2}, "layer_types must be a list of 2 names, full_attention or"),
        (QWEN2 | {"max_window_layers": -1}, "max_window_layers must be a whole number of at least 0, found -1"),
        (QWEN2 | {"use_sliding_window": "no"}, "use_sliding_window must be true or false, found 'no'"),
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


#: Parameters as the hub counts them in the published files; a tied head once.
PUBLISHED = {
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.2": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_models_have_their_published_sizes(name):
    assert MODELS[name].parameter_count() == PUBLISHED[name]
    assert ModelConfig.from_hf(MODELS[name].to_hf()) == MODELS[name]


def test_sliding_window_is_mistrals():
    assert ModelConfig.from_hf(KEYS | {"sliding_window": 64}).sliding_window is None
    assert ModelConfig.from_hf(MISTRAL | {"sliding_window": 64}).sliding_window == 64
    assert ModelConfig.from_hf(MISTRAL | {"sliding_window": None}).sliding_window is None
    assert ModelConfig.from_hf(MISTRAL).sliding_window == 4096  # transformers' default


@pytest.mark.parametrize(
    ("keys", "window"),
    [
        ({}, None),
        ({"sliding_window": 64}, None),  # as in the released models: a window that is switched off
        ({"use_sliding_window": True, "max_window_layers": 0}, 4096),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}, 64),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, None),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}, None),
        ({"use_sliding_window": True, "sliding_window": 64}, None),
        ({"use_sliding_window": True, "sliding_window": 64, "layer_types": ["sliding_attention"] * 2}, 64),
        ({"use_sliding_window": True, "sliding_window": 64, "layer_types": ["full_attention"] * 2}, None),
        ({"layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_windows_of_qwen2_are_transformers(keys, window):
    transformers = pytest.importorskip("transformers")
    config = ModelConfig.from_hf(QWEN2 | keys)
    assert config.sliding_window == window
    for theirs in (transformers.Qwen2Config(**QWEN2 | keys), transformers.Qwen2Config(**config.to_hf())):
        layers = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
        assert layers == [window, window]


@pytest.mark.parametrize("keys", [KEYS, MISTRAL, QWEN2], ids=["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("bias", [{}, {"attention_bias": True}, {"attention_bias": True, "mlp_bias": True}])
def test_biases_are_those_that_transformers_makes(keys, bias):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = ModelConfig.from_hf(keys | bias)
    assert ModelConfig.from_hf(config.to_hf()) == config
    theirs = getattr(transformers, keys["architectures"][0].replace("ForCausalLM", "Config"))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs(**keys | bias))
    names = [n for t in tensors(config) for n in t.names(config.num_layers)]
    assert sorted(names) == sorted(model.state_dict())
    assert config.parameter_count() == model.num_parameters()


@pytest.mark.parametrize(
    ("keys", "change", "message"),
    [
        (KEYS, {"sliding_window": 64}, "LlamaForCausalLM can say sliding_window = 64"),
        (KEYS, {"qkv_bias": True}, "LlamaForCausalLM can say output_bias = False"),
        (MISTRAL, {"mlp_bias": True}, "MistralForCausalLM can say mlp_bias = True"),
        (QWEN2, {"output_bias": True}, "Qwen2ForCausalLM can say output_bias = True"),
    ],
)
def test_what_no_config_can_say_is_not_written(keys, change, message):
    config = dataclasses.replace(ModelConfig.from_hf(keys), **change)
    with pytest.raises(LorajaxError, match=f"no config.json of {message}"):
        config.to_hf()


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2"])
def test_defaults_of_absent_keys_are_transformers(kind):
    transformers = pytest.importorskip("transformers")
    shape = {
        "hidden_size": 256,
        "num_attention_heads": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "vocab_size": 9,
    }
    theirs = getattr(transformers, f"{kind}Config")(**shape)
    ours = ModelConfig.from_hf(shape | {"architectures": [f"{kind}ForCausalLM"]})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == getattr(theirs, "head_dim", 256 // 32)  # Qwen2's config has none
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
