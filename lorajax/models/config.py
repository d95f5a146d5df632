"""What a decoder looks like, read from the checkpoint's own `config.json`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorajax.errors import LorajaxError

#: Architectures of the Llama family that this decoder computes exactly.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3")
THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class Keys:
    """Typed reading of `values`. A `default` is for an absent key; null is allowed where a method says so.

    Raises:
      LorajaxError: a value of another type, or none; the message names `source` and the key (after `prefix`).
    """

    values: Mapping[str, Any]
    source: str
    prefix: str = ""

    def error(self, key: str, expected: str) -> LorajaxError:
        found = repr(self.values[key]) if key in self.values else "no such key"
        return LorajaxError(f"{self.source}: {self.prefix}{key} must be {expected}, found {found}")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(key, "a positive whole number")
        return value

    def whole_or_null(self, key: str, null: int | None, default: int | None = None) -> int | None:
        """As `whole`, but null means `null`, and so does an absent key unless it has a `default` of its own."""
        if self.values.get(key) is None:
            return default if default is not None and key not in self.values else null
        return self.whole(key)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise self.error(key, "a positive number")
        return float(value)

    def switch(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def token_id(self, key: str) -> int | None:
        """A number or null, as an absent key is; -1 is some checkpoints' "none"."""
        value = self.values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.error(key, "a whole number or null")
        return value

    def token_ids(self, key: str) -> int | tuple[int, ...] | None:
        """As `token_id`, or a list of numbers."""
        value = self.values.get(key)
        if not isinstance(value, list):
            return self.token_id(key)
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            raise self.error(key, "a whole number, a list of them or null")
        return tuple(value)


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: the base `theta` and how frequencies are rescaled for long contexts."""

    type: str = "default"
    theta: float = THETA
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
          LorajaxError: no such file, not JSON, a key missing or of the wrong type, or an architecture or rope type not
            computed here.
        """
        try:
            keys = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise LorajaxError(
                f"{path}: no such file; a model folder needs the config.json of its checkpoint"
            ) from None
        except OSError as error:
            raise LorajaxError(f"{path}: could not be read: {error}") from None
        except (ValueError, RecursionError) as error:
            raise LorajaxError(f"{path}: not JSON: {error}") from None
        if not isinstance(keys, dict):
            raise LorajaxError(f"{path}: expected a JSON object, found {type(keys).__name__}")
        return cls.from_hf(keys, source=str(path))

    @classmethod
    def from_hf(cls, keys: Mapping[str, Any], *, source: str = "config") -> ModelConfig:
        """The config in the `keys` of a Hugging Face `config.json`, old (rope_theta) or new (rope_parameters)."""
        read = Keys(keys, source)
        names = keys.get("architectures") or ["(none)"]
        if not isinstance(names, list):
            raise read.error("architectures", "a list of names")
        if (architecture := names[0]) not in ARCHITECTURES:
            raise LorajaxError(f"{source}: architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        if keys.get("hidden_act", "silu") != "silu":
            raise LorajaxError(f"{source}: hidden_act {keys['hidden_act']!r} is not supported; expected 'silu'")
        # What transformers takes absent keys for; it ignores the window for Llama.
        mistral = architecture == "MistralForCausalLM"
        hidden, heads = read.whole("hidden_size"), read.whole("num_attention_heads")
        kv_heads = read.whole_or_null("num_key_value_heads", heads, 8 if mistral else heads)
        head_dim = read.whole_or_null("head_dim", None)
        kv_heads, head_dim = check_heads(hidden, heads, kv_heads, head_dim, source)
        return cls(
            vocab_size=read.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("intermediate_size"),
            num_layers=read.whole("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rope=read_rope(keys, source=source),
            norm_eps=read.number("rms_norm_eps", 1e-6),
            tie_embeddings=read.switch("tie_word_embeddings"),
            attention_bias=read.switch("attention_bias"),
            mlp_bias=read.switch("mlp_bias"),
            sliding_window=read.whole_or_null("sliding_window", None, 4096) if mistral else None,
            max_positions=read.whole("max_position_embeddings", 131_072 if mistral else 2048),
            architecture=architecture,
            bos_token_id=read.token_id("bos_token_id"),
            eos_token_id=read.token_ids("eos_token_id"),
            pad_token_id=read.token_id("pad_token_id"),
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


def check_heads(hidden: int, heads: int, kv_heads: int | None, head_dim: int | None, source: str) -> tuple[int, int]:
    """Number of key-value heads and size of a head, where null has its default; a LorajaxError if they do not fit."""
    if head_dim is None and hidden % heads:
        raise LorajaxError(f"{source}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    kv_heads, head_dim = kv_heads or heads, head_dim or hidden // heads
    if heads % kv_heads:
        raise LorajaxError(f"{source}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2 or not head_dim:
        raise LorajaxError(f"{source}: head_dim must be even for rotary positions, found {head_dim}")
    return kv_heads, head_dim


def read_rope(keys: Mapping[str, Any], *, source: str) -> RopeConfig:
    """Rotary settings from `rope_parameters`, or from the older `rope_theta` + `rope_scaling`.

    Raises:
      LorajaxError: a rope type other than ROPE_TYPES, a parameter that the type needs is missing, or the two keys are
        both there and disagree (readers differ in which one they follow).
    """
    new, old = (_scaling(keys, name, source) for name in ("rope_parameters", "rope_scaling"))
    for key in sorted(new.keys() & old.keys()):
        if new[key] != old[key]:
            both = f"{key} is {new[key]!r} in one, {old[key]!r} in the other"
            raise LorajaxError(f"{source}: rope_parameters and rope_scaling disagree: {both}")
    scaling = {"rope_theta": keys.get("rope_theta", THETA), "rope_type": "default", **old, **new}
    if (type_ := scaling["rope_type"]) not in ROPE_TYPES:
        raise LorajaxError(f"{source}: rope type {type_!r} is not supported; expected one of {', '.join(ROPE_TYPES)}")
    partial = scaling.get("partial_rotary_factor", keys.get("partial_rotary_factor"))
    if partial is not None and (isinstance(partial, bool) or partial != 1):
        raise LorajaxError(f"{source}: partial_rotary_factor {partial!r} is not supported; expected 1")
    read = Keys(scaling, source, f"rope type {type_!r}: ")
    theta = read.number("rope_theta")
    if type_ == "default":
        return RopeConfig(theta=theta)
    if type_ == "linear":
        return RopeConfig(type_, theta, factor=read.number("factor"))
    low, high = read.number("low_freq_factor"), read.number("high_freq_factor")
    if high <= low:
        raise read.error("high_freq_factor", f"more than low_freq_factor {low}")
    return RopeConfig(type_, theta, read.number("factor"), low, high, read.whole("original_max_position_embeddings"))


def _scaling(keys: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """One of the two rope keys, with the type under its new name and its theta; empty when absent, null or empty."""
    value = keys.get(name)
    if value is None or value == {}:
        return {}
    if not isinstance(value, Mapping):
        raise LorajaxError(f"{source}: {name} must be an object or null, found {value!r}")
    rest = {key: v for key, v in value.items() if key != "type"}
    type_ = value.get("rope_type") or value.get("type") or "default"
    return {"rope_theta": keys.get("rope_theta", THETA), **rest, "rope_type": type_}
