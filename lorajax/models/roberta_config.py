"""What a RoBERTa encoder (Liu et al., 2019, arXiv 1907.11692) looks like, read from its `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lorajax.errors import LorajaxError
from lorajax.models.keys import Keys

#: Checkpoints of the same encoder, with or without a head: only the encoder is used.
ENCODERS = ("RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification")


@dataclasses.dataclass(frozen=True)
class RobertaConfig:
    """Sizes of one encoder, in elements.

    `max_positions` is the longest text in tokens. The checkpoint's table of positions has `pad_token_id + 1` rows more:
    positions are counted from there.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int = 512
    token_types: int = 1
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int = 1

    @property
    def architecture(self) -> str:
        """What a folder with this encoder alone says it is."""
        return "RobertaModel"

    @property
    def num_kv_heads(self) -> int:
        """As many as there are heads of queries."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden_size // self.num_heads

    @property
    def tie_embeddings(self) -> bool:
        """There is no head over the vocabulary, so the embedding is the only array of its size."""
        return True

    @property
    def position_rows(self) -> int:
        """Rows of the checkpoint's table of positions."""
        return self.max_positions + self.pad_token_id + 1

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Labels of the `num_layers + 1` hidden states: embedding, every block. Each ends with a LayerNorm already."""
        return ("embedding", *(f"block {i}" for i in range(1, self.num_layers + 1)))

    def parameter_count(self) -> int:
        """Number of weights of the encoder."""
        h, f = self.hidden_size, self.intermediate_size
        block = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h
        return self.num_layers * block + (self.vocab_size + self.position_rows + self.token_types + 2) * h

    @classmethod
    def from_hf(cls, keys: Mapping[str, Any], *, source: str = "config") -> RobertaConfig:
        """The config in the `keys` of a Hugging Face `config.json`.

        Raises:
          LorajaxError: a key is missing or of the wrong type, or the model is not computed here.
        """
        read = Keys(keys, source)
        names = keys.get("architectures") or ["(none)"]
        if not isinstance(names, list) or names[0] not in ENCODERS:
            raise LorajaxError(f"{source}: architectures {names!r}: expected one of {', '.join(ENCODERS)}")
        for key, only in (
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
            ("is_decoder", False),
            ("add_cross_attention", False),
        ):
            if keys.get(key, only) != only:
                raise LorajaxError(f"{source}: {key} {keys[key]!r} is not supported; expected {only!r}")
        hidden, heads = read.whole("hidden_size", 768), read.whole("num_attention_heads", 12)
        if hidden % heads:
            raise LorajaxError(f"{source}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        pad = 1 if "pad_token_id" not in keys else read.token_id("pad_token_id")
        vocab, rows = read.whole("vocab_size", 50265), read.whole("max_position_embeddings", 512)
        if pad is None or not 0 <= pad < min(vocab, rows - 1):
            raise read.error("pad_token_id", "a token id below max_position_embeddings - 1")
        return cls(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=read.whole("intermediate_size", 3072),
            num_layers=read.whole("num_hidden_layers", 12),
            num_heads=heads,
            max_positions=rows - pad - 1,
            token_types=read.whole("type_vocab_size", 2),
            norm_eps=read.number("layer_norm_eps", 1e-12),
            initializer_range=read.number("initializer_range", 0.02),
            bos_token_id=read.token_id("bos_token_id"),
            eos_token_id=read.token_ids("eos_token_id"),
            pad_token_id=pad,
        )

    def to_hf(self) -> dict[str, Any]:
        """The keys of a `config.json` that transformers reads as this encoder."""
        return {
            "architectures": [self.architecture],
            "model_type": "roberta",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "hidden_act": "gelu",
            "max_position_embeddings": self.position_rows,
            "type_vocab_size": self.token_types,
            "layer_norm_eps": self.norm_eps,
            "initializer_range": self.initializer_range,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }
