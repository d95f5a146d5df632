"""What a decoder looks like, read from the checkpoint's own `config.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorajax.errors import LorajaxError

#: Architectures of the Llama family that this decoder computes exactly.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3")


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: the base `theta` and how frequencies are rescaled for long contexts."""

    type: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of one Llama-family decoder. Sizes are in elements."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig = RopeConfig()
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    max_positions: int = 2048
    architecture: str = "LlamaForCausalLM"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Labels of the `num_layers + 2` hidden states: embedding, every block (raw residual stream), final norm."""
        return ("embedding", *(f"block {i}" for i in range(1, self.num_layers + 1)), "final norm")

    def parameter_count(self) -> int:
        """Number of weights; a tied head is counted once."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        h, f = self.hidden_size, self.intermediate_size
        block = h * (2 * q + 2 * kv) + 3 * h * f + 2 * h
        block += (q + 2 * kv + h) * self.attention_bias + (2 * f + h) * self.mlp_bias
        return self.num_layers * block + h + self.vocab_size * h * (1 if self.tie_embeddings else 2)

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """The config in `path`, a `config.json`.

        Raises:
          LorajaxError: no such file, not JSON, a key missing, or an architecture or rope type not computed here.
        """
        try:
            keys = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise LorajaxError(
                f"{path}: no such file; a model folder needs the config.json of its checkpoint"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise LorajaxError(f"{path}: not JSON: {error}") from None
        if not isinstance(keys, dict):
            raise LorajaxError(f"{path}: expected a JSON object, found {type(keys).__name__}")
        return cls.from_hf(keys, source=str(path))

    @classmethod
    def from_hf(cls, keys: Mapping[str, Any], *, source: str = "config") -> ModelConfig:
        """The config in the `keys` of a Hugging Face `config.json`, old (rope_theta) or new (rope_parameters)."""

        def required(key: str) -> int:
            if not isinstance(keys.get(key), int) or keys[key] < 1:
                raise LorajaxError(f"{source}: {key} must be a positive whole number, found {keys.get(key)!r}")
            return keys[key]

        architecture = (keys.get("architectures") or ["(none)"])[0]
        if architecture not in ARCHITECTURES:
            raise LorajaxError(f"{source}: architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        if keys.get("hidden_act", "silu") != "silu":
            raise LorajaxError(f"{source}: hidden_act {keys['hidden_act']!r} is not supported; expected 'silu'")
        hidden, heads = required("hidden_size"), required("num_attention_heads")
        kv_heads = keys.get("num_key_value_heads") or heads
        if heads % kv_heads:
            raise LorajaxError(
                f"{source}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        head_dim = keys.get("head_dim") or hidden // heads
        if head_dim % 2:
            raise LorajaxError(f"{source}: head_dim must be even for rotary positions, found {head_dim}")
        eos = keys.get("eos_token_id")
        return cls(
            vocab_size=required("vocab_size"),
            hidden_size=hidden,
            intermediate_size=required("intermediate_size"),
            num_layers=required("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rope=read_rope(keys, source=source),
            norm_eps=float(keys.get("rms_norm_eps", 1e-6)),
            tie_embeddings=bool(keys.get("tie_word_embeddings", False)),
            attention_bias=bool(keys.get("attention_bias", False)),
            mlp_bias=bool(keys.get("mlp_bias", False)),
            # transformers ignores the key for Llama; only Mistral's attention is windowed.
            sliding_window=keys.get("sliding_window") if architecture == "MistralForCausalLM" else None,
            max_positions=int(keys.get("max_position_embeddings", 2048)),
            architecture=architecture,
            bos_token_id=keys.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            pad_token_id=keys.get("pad_token_id"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The keys of a `config.json` that transformers (4 and 5) reads as this model."""
        rope: dict[str, Any] = {"rope_type": self.rope.type}
        if self.rope.type != "default":
            rope["factor"] = self.rope.factor
        if self.rope.type == "llama3":
            rope |= {
                "low_freq_factor": self.rope.low_freq_factor,
                "high_freq_factor": self.rope.high_freq_factor,
                "original_max_position_embeddings": self.rope.original_max_positions,
            }
        mistral = self.architecture == "MistralForCausalLM"
        keys: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": "mistral" if mistral else "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "max_position_embeddings": self.max_positions,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            # Old readers take these two keys, new ones the third.
            "rope_theta": self.rope.theta,
            "rope_scaling": None if self.rope.type == "default" else dict(rope),
            "rope_parameters": {"rope_theta": self.rope.theta, **rope},
        }
        if mistral:
            keys["sliding_window"] = self.sliding_window
        return keys


def read_rope(keys: Mapping[str, Any], *, source: str) -> RopeConfig:
    """Rotary settings from `rope_parameters`, or from the older `rope_theta` + `rope_scaling`.

    Raises:
      LorajaxError: a rope type other than ROPE_TYPES, or a parameter that the type needs is missing.
    """
    scaling = dict(keys.get("rope_parameters") or keys.get("rope_scaling") or {})
    type_ = scaling.get("rope_type") or scaling.get("type") or "default"
    if type_ not in ROPE_TYPES:
        raise LorajaxError(f"{source}: rope type {type_!r} is not supported; expected one of {', '.join(ROPE_TYPES)}")
    partial = scaling.get("partial_rotary_factor", keys.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise LorajaxError(f"{source}: partial_rotary_factor {partial} is not supported; expected 1")
    theta = scaling.get("rope_theta", keys.get("rope_theta", 10_000.0))
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }[type_]
    for key in needed:
        if not isinstance(scaling.get(key), int | float):
            raise LorajaxError(f"{source}: rope type {type_!r} needs the number {key!r}, found {scaling.get(key)!r}")
    if type_ == "default":
        return RopeConfig(theta=float(theta))
    if type_ == "linear":
        return RopeConfig(type_, float(theta), factor=float(scaling["factor"]))
    return RopeConfig(
        type_,
        float(theta),
        float(scaling["factor"]),
        float(scaling["low_freq_factor"]),
        float(scaling["high_freq_factor"]),
        int(scaling["original_max_position_embeddings"]),
    )
