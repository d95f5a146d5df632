"""Tiny random models of transformers + torch, saved as Hugging Face folders: what ours is compared with."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'lorajax[test]'")
transformers = pytest.importorskip("transformers")

COMMON = {"vocab_size": 199, "max_position_embeddings": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

#: name -> (config class, its keys). Shapes differ from each other on purpose: heads x head_dim != hidden, GQA, ties,
#: biases, windows.
SHAPES = {
    "llama2": ("LlamaConfig", dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4)),
    "llama3": (
        "LlamaConfig",
        dict(
            hidden_size=64,
            intermediate_size=112,
            num_hidden_layers=3,
            num_attention_heads=8,
            num_key_value_heads=2,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=500000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
    ),
    "llama3_tied": (  # as Llama 3.2
        "LlamaConfig",
        dict(
            hidden_size=72,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=500000.0,
                factor=32.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
    ),
    "linear_rope_with_biases": (
        "LlamaConfig",
        dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            head_dim=12,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0),
        ),
    ),
    "mistral": (
        "MistralConfig",
        dict(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=50,
        ),
    ),
    "mistral_without_window": (  # as v0.2 and v0.3
        "MistralConfig",
        dict(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            sliding_window=None,
            rope_parameters=dict(rope_type="default", rope_theta=1e6),
        ),
    ),
    "qwen2_tied": (  # as the sizes up to 3B
        "Qwen2Config",
        dict(
            hidden_size=56,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=7,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=1e6),
        ),
    ),
    "qwen2": (  # as 7B
        "Qwen2Config",
        dict(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters=dict(rope_type="default", rope_theta=1e6),
        ),
    ),
    "qwen2_with_window": (
        "Qwen2Config",
        dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            use_sliding_window=True,
            sliding_window=50,
            max_window_layers=0,
        ),
    ),
    "smollm2": (
        "LlamaConfig",
        dict(
            hidden_size=72,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=100000.0),
        ),
    ),
}


def torch_model(name: str):
    """A random float32 model; biases and norm weights are random too, where torch would leave zeros and ones."""
    kind, keys = SHAPES[name]
    config = getattr(transformers, kind)(**COMMON, **keys, initializer_range=0.1, attn_implementation="eager")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
    return model
