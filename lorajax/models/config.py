"""What a decoder looks like, read from the checkpoint's own `config.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorajax.errors import LorajaxError
from lorajax.models.keys import Keys

ROPE_TYPES = ("default", "linear", "llama3")
THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture: its `model_type`, and what transformers takes for keys that its config.json leaves out."""

    model_type: str
    kv_heads: int | None = None  # as many as heads
    max_positions: int = 2048


#: Architectures of the Llama family that this decoder computes exactly.
FAMILIES = {
    "LlamaForCausalLM": Family("llama"),
    "MistralForCausalLM": Family("mistral", kv_heads=8, max_positions=131_072),
    "Qwen2ForCausalLM": Family("qwen2", kv_heads=32, max_positions=32_768),
}
ARCHITECTURES = tuple(FAMILIES)


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
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
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
        block += (q + 2 * kv) * self.qkv_bias + h * self.output_bias + (2 * f + h) * self.mlp_bias
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
        family = FAMILIES[architecture]
        # transformers reads the bias keys for Llama alone: Mistral has no biases, Qwen2 those of q, k and v.
        llama = family.model_type == "llama"
        bias = llama and read.switch("attention_bias")
        hidden, heads, layers = (read.whole(key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
        kv_heads = read.whole_or_null("num_key_value_heads", heads, family.kv_heads or heads)
        head_dim = read.whole_or_null("head_dim", None)
        kv_heads, head_dim = check_heads(hidden, heads, kv_heads, head_dim, source)
        return cls(
            vocab_size=read.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("intermediate_size"),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rope=read_rope(keys, source=source),
            norm_eps=read.number("rms_norm_eps", 1e-6),
            tie_embeddings=read.switch("tie_word_embeddings"),
            qkv_bias=bias or family.model_type == "qwen2",
            output_bias=bias,
            mlp_bias=llama and read.switch("mlp_bias"),
            sliding_window=read_window(read, family.model_type, layers),
            max_positions=read.whole("max_position_embeddings", family.max_positions),
            architecture=architecture,
            bos_token_id=read.token_id("bos_token_id"),
            eos_token_id=read.token_ids("eos_token_id"),
            pad_token_id=read.token_id("pad_token_id"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The keys of a `config.json` that transformers (4 and 5) reads as this model.

        Raises:
          LorajaxError: no config.json of this architecture says what this config does, such as a window for Llama.
        """
        rope: dict[str, Any] = {"rope_type": self.rope.type}
        if self.rope.type != "default":
            rope["factor"] = self.rope.factor
        if self.rope.type == "llama3":
            rope |= {
                "low_freq_factor": self.rope.low_freq_factor,
                "high_freq_factor": self.rope.high_freq_factor,
                "original_max_position_embeddings": self.rope.original_max_positions,
            }
        model_type, window = FAMILIES[self.architecture].model_type, self.sliding_window
        keys: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": model_type,
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
            "max_position_embeddings": self.max_positions,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            # Old readers take these two keys, new ones the third.
            "rope_theta": self.rope.theta,
            "rope_scaling": None if self.rope.type == "default" else dict(rope),
            "rope_parameters": {"rope_theta": self.rope.theta, **rope},
        }
        if model_type == "llama":
            keys |= {"attention_bias": self.qkv_bias, "mlp_bias": self.mlp_bias}
        else:
            keys["sliding_window"] = window
        if model_type == "qwen2":
            first = self.num_layers if window is None else 0
            keys |= {"use_sliding_window": window is not None, "max_window_layers": first}
        again = dataclasses.asdict(ModelConfig.from_hf(keys))
        lost = [name for name, value in dataclasses.asdict(self).items() if again[name] != value]
        if lost:
            raise LorajaxError(f"no config.json of {self.architecture} can say {lost[0]} = {getattr(self, lost[0])!r}")
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


def read_window(read: Keys, model_type: str, num_layers: int) -> int | None:
    """How many keys a token sees at most, itself included, in all layers; None for all of them.

    As transformers has it: Llama has no window; Mistral's is `sliding_window`, 4096 where the key is absent; Qwen2's is
    switched on by `use_sliding_window`, in the layers from `max_window_layers` on or in those that `layer_types` names.

    Raises:
      LorajaxError: keys of the wrong type, or a window in some layers only.
    """
    if model_type == "llama" or (model_type == "qwen2" and not read.switch("use_sliding_window")):
        window = None
    else:
        window = read.whole_or_null("sliding_window", None, 4096)
    if model_type != "qwen2":
        return window
    types, kinds = read.values.get("layer_types"), ("full_attention", "sliding_attention")
    if types is None:
        first = read.whole("max_window_layers", 28, least=0)
        sliding = max(num_layers - first, 0) if window else 0
    elif isinstance(types, list) and len(types) == num_layers and all(kind in kinds for kind in types):
        sliding = types.count("sliding_attention")
    else:
        raise read.error("layer_types", f"a list of {num_layers} names, {' or '.join(kinds)}")
    if sliding == 0:
        return None
    if window is None:
        raise read.error("use_sliding_window", "true, with a sliding_window, for the sliding_attention of layer_types")
    if sliding < num_layers:
        where = "max_window_layers" if types is None else "layer_types"
        raise LorajaxError(
            f"{read.source}: {where} gives {sliding} of {num_layers} layers a sliding window; expected all or none: a "
            "window in some layers only is not supported"
        )
    return window


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
        key = "rope_parameters" if "rope_type" in new else "rope_scaling"
        expected = f"expected one of {', '.join(ROPE_TYPES)}"
        raise LorajaxError(f"{source}: {key}: rope type {type_!r} is not supported; {expected}")
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
