"""GGUF files of the Llama architecture as a source of tensors: config, weights and tokenizer in one file.

Weights are dequantised by the `gguf` package, a tensor at a time. llama.cpp stores the rows of q and k so that rotary
pairs are neighbours; they are put back into the order of the original checkpoint, where a pair is (i, i + head_dim /
2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lorajax.errors import LorajaxError
from lorajax.models.config import ModelConfig, RopeConfig, check_heads
from lorajax.models.keys import Keys
from lorajax.models.rope import inverse_frequencies
from lorajax.models.safetensors_folder import Index

#: llama.cpp's tensor names -> those of a Hugging Face checkpoint.
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: llama.cpp's table of llama3 rotary factors: what divides each frequency. It names no parameters.
ROPE_FACTORS = "rope_freqs.weight"


class GGUFFile:
    """One GGUF file: a `TensorSource`, and the metadata that config and tokenizer are read from.

    Raises:
      LorajaxError: the `gguf` package is not installed, the file is not a whole GGUF file, or it is of another
        architecture.
    """

    def __init__(self, path: Path):
        try:
            import gguf
        except ModuleNotFoundError:
            raise LorajaxError(f"{path}: reading GGUF files needs an extra: pip install 'lorajax[gguf]'") from None
        self.path, self._dequantize = path, gguf.dequantize
        try:
            self._reader = gguf.GGUFReader(path)
        except FileNotFoundError:
            raise LorajaxError(f"{path}: no such file") from None
        except Exception as error:  # the reader raises whatever NumPy or a broken header makes it raise
            raise LorajaxError(f"{path}: not a complete GGUF file ({error})") from error
        architecture = self.get("general.architecture")
        if architecture != "llama":
            raise LorajaxError(f"{path}: GGUF architecture {architecture!r} is not supported; expected 'llama'")
        self._tensors = {_hf_name(t.name): t for t in self._reader.tensors if t.name != ROPE_FACTORS}
        self._rope_factors = next((t.data for t in self._reader.tensors if t.name == ROPE_FACTORS), None)
        self.shapes = {name: tuple(int(n) for n in reversed(t.shape)) for name, t in self._tensors.items()}
        self.config = self._config()

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value of `key`."""
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def read(self, name: str, index: Index) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            values = self._dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise LorajaxError(f"{self.path}: tensor {tensor.name} is of type {kind}, which cannot be read") from None
        values = values.reshape(self.shapes[name])
        module = name.split(".")[-2]
        if module in ("q_proj", "k_proj"):
            heads = self.config.num_heads if module == "q_proj" else self.config.num_kv_heads
            pairs = values.reshape(heads, -1, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        return values[index]

    def where(self, name: str) -> str:
        return str(self.path)

    def _config(self) -> ModelConfig:
        if "model.embed_tokens.weight" not in self.shapes:
            raise LorajaxError(f"{self.path}: tensor token_embd.weight is missing")
        if self.get("llama.expert_count"):
            raise LorajaxError(f"{self.path}: mixtures of experts are not supported")
        names = [n for n in self._reader.fields if n.startswith("llama.") or n.endswith("_token_id")]
        read = Keys({name: self.get(name) for name in names}, str(self.path), "metadata key ")
        hidden, heads = read.whole("llama.embedding_length"), read.whole("llama.attention.head_count")
        kv_heads = read.whole_or_null("llama.attention.head_count_kv", heads)
        head_dim = read.whole_or_null("llama.attention.key_length", None)
        kv_heads, head_dim = check_heads(hidden, heads, kv_heads, head_dim, str(self.path))
        if read.whole("llama.rope.dimension_count", head_dim) != head_dim:
            raise LorajaxError(f"{self.path}: rotary positions on a part of each head are not supported")
        return ModelConfig(
            vocab_size=self.shapes["model.embed_tokens.weight"][0],
            hidden_size=hidden,
            intermediate_size=read.whole("llama.feed_forward_length"),
            num_layers=read.whole("llama.block_count"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rope=self._rope(read, head_dim),
            # Stored as float32: the shortest decimal that means it, 1e-5 and not 9.99999975e-6.
            norm_eps=float(str(np.float32(read.number("llama.attention.layer_norm_rms_epsilon")))),
            tie_embeddings="lm_head.weight" not in self.shapes,
            qkv_bias="model.layers.0.self_attn.q_proj.bias" in self.shapes,
            output_bias="model.layers.0.self_attn.q_proj.bias" in self.shapes,
            mlp_bias="model.layers.0.mlp.up_proj.bias" in self.shapes,
            max_positions=read.whole("llama.context_length", 2048),
            bos_token_id=read.token_id("tokenizer.ggml.bos_token_id"),
            eos_token_id=read.token_id("tokenizer.ggml.eos_token_id"),
            pad_token_id=read.token_id("tokenizer.ggml.padding_token_id"),
        )

    def _rope(self, read: Keys, head_dim: int) -> RopeConfig:
        theta = read.number("llama.rope.freq_base", 10_000.0)
        scaling = self.get("llama.rope.scaling.type", "none")
        if scaling == "linear":
            return RopeConfig("linear", theta, factor=read.number("llama.rope.scaling.factor", 1.0))
        if scaling != "none":
            raise LorajaxError(f"{self.path}: rope type {scaling!r} is not supported; expected 'none' or 'linear'")
        if self._rope_factors is None:
            return RopeConfig(theta=theta)
        factors = np.asarray(self._rope_factors, np.float64)
        plain = inverse_frequencies(RopeConfig(theta=theta), head_dim)
        rope = RopeConfig("llama3", theta, factor=float(factors.max(initial=1.0)))
        if factors.shape != plain.shape or not np.allclose(
            plain / inverse_frequencies(rope, head_dim), factors, rtol=1e-3
        ):
            raise LorajaxError(f"{self.path}: {ROPE_FACTORS} does not hold the llama3 factors; not supported")
        return rope


def _hf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in BLOCK_NAMES:
        return f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.{parts[3]}"
    return name
