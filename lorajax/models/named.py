"""Sizes of well-known models by name, and of any other from its `config.json` alone: nothing else is fetched.

    config_of("llama2-7b"), config_of("folder/of/a/checkpoint"), config_of("owner/name")

The facts are those of the published `config.json` files. Licences may ask for consent before the weights are fetched;
sizes are no secret.
"""

from __future__ import annotations

import re
from pathlib import Path

from lorajax.errors import LorajaxError
from lorajax.models.config import ModelConfig, RopeConfig


def _llama3_rope(factor: float) -> RopeConfig:
    return RopeConfig("llama3", 500_000.0, factor, 1.0, 4.0, 8192)


def _mistral(vocab: int, *, theta: float, window: int | None) -> ModelConfig:
    return ModelConfig(
        vocab, 4096, 14336, 32, 32, 8, 128,
        rope=RopeConfig(theta=theta), sliding_window=window, max_positions=32768, architecture="MistralForCausalLM",
    )  # fmt: skip


def _qwen25(
    vocab: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, *, positions: int, eps: float = 1e-6
) -> ModelConfig:
    # The sizes up to 3B have a vocabulary of 151936 and a tied head; the larger ones pad it to 152064 and untie it.
    return ModelConfig(
        vocab, hidden, inner, layers, heads, kv_heads, hidden // heads,
        rope=RopeConfig(theta=1_000_000.0), norm_eps=eps, tie_embeddings=vocab == 151936, qkv_bias=True,
        max_positions=positions, architecture="Qwen2ForCausalLM",
    )  # fmt: skip


def _smollm2(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, *, theta: float) -> ModelConfig:
    rope = RopeConfig(theta=theta)
    sizes = (49152, hidden, inner, layers, heads, kv_heads, 64)
    return ModelConfig(*sizes, rope=rope, tie_embeddings=True, max_positions=8192)


_LLAMA3 = RopeConfig(theta=500_000.0)

#: vocabulary, hidden size, inner size, layers, heads, key-value heads, size of a head; then what differs.
MODELS: dict[str, ModelConfig] = {
    "llama2-7b": ModelConfig(32000, 4096, 11008, 32, 32, 32, 128, max_positions=4096),
    "llama2-13b": ModelConfig(32000, 5120, 13824, 40, 40, 40, 128, max_positions=4096),
    "llama2-70b": ModelConfig(32000, 8192, 28672, 80, 64, 8, 128, max_positions=4096),
    "llama3-8b": ModelConfig(128256, 4096, 14336, 32, 32, 8, 128, rope=_LLAMA3, max_positions=8192),
    "llama3-70b": ModelConfig(128256, 8192, 28672, 80, 64, 8, 128, rope=_LLAMA3, max_positions=8192),
    "llama3.1-8b": ModelConfig(128256, 4096, 14336, 32, 32, 8, 128, rope=_llama3_rope(8.0), max_positions=131072),
    "llama3.2-1b": ModelConfig(
        128256, 2048, 8192, 16, 32, 8, 64, rope=_llama3_rope(32.0), tie_embeddings=True, max_positions=131072
    ),
    "llama3.2-3b": ModelConfig(
        128256, 3072, 8192, 28, 24, 8, 128, rope=_llama3_rope(32.0), tie_embeddings=True, max_positions=131072
    ),
    "mistral-7b-v0.1": _mistral(32000, theta=10_000.0, window=4096),
    "mistral-7b-v0.2": _mistral(32000, theta=1_000_000.0, window=None),
    "mistral-7b-v0.3": _mistral(32768, theta=1_000_000.0, window=None),
    "qwen2.5-0.5b": _qwen25(151936, 896, 4864, 24, 14, 2, positions=32768),
    "qwen2.5-1.5b": _qwen25(151936, 1536, 8960, 28, 12, 2, positions=131072),
    "qwen2.5-3b": _qwen25(151936, 2048, 11008, 36, 16, 2, positions=32768),
    "qwen2.5-7b": _qwen25(152064, 3584, 18944, 28, 28, 4, positions=131072),
    "qwen2.5-14b": _qwen25(152064, 5120, 13824, 48, 40, 8, positions=131072, eps=1e-5),
    "qwen2.5-32b": _qwen25(152064, 5120, 27648, 64, 40, 8, positions=131072, eps=1e-5),
    "qwen2.5-72b": _qwen25(152064, 8192, 29568, 80, 64, 8, positions=131072, eps=1e-5),
    "smollm2-135m": _smollm2(576, 1536, 30, 9, 3, theta=100_000.0),
    "smollm2-360m": _smollm2(960, 2560, 32, 15, 5, theta=100_000.0),
    "smollm2-1.7b": _smollm2(2048, 8192, 24, 32, 32, theta=130_000.0),
}

#: The small checkpoint of the package registry goes by its alias.
MODELS["smollm2"] = MODELS["smollm2-135m"]


def config_of(name: str) -> ModelConfig:
    """The config of a model: a name of MODELS, a folder, a `config.json`, or a hub id `owner/name`.

    Of a hub repository only its `config.json` is fetched.

    Raises:
      LorajaxError: none of these, or a config.json that cannot be had or read.
    """
    if name in MODELS:
        return MODELS[name]
    path = Path(name).expanduser()
    if path.is_dir():
        return ModelConfig.read(path / "config.json")
    if path.is_file() and path.suffix == ".json":
        return ModelConfig.read(path)
    if path.is_file() and path.suffix == ".gguf":
        from lorajax.models.gguf import GGUFFile

        return GGUFFile(path).config
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return ModelConfig.read(_hub_config(name))
    raise LorajaxError(
        f"model {name!r}: no such folder or file; expected a folder, a config.json, a .gguf file, a hub id owner/name, "
        f"or one of: {', '.join(MODELS)}"
    )


def _hub_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json"))
    except Exception as error:  # connection, authorisation, absence: one message for all
        raise LorajaxError(f"model {name!r}: not a folder here, and the hub gave no config.json: {error}") from error
