"""Models: Llama-family decoders and RoBERTa encoders, from Hugging Face folders, GGUF files and the hub, and back.

A model is called with tokens `[N, B, T]` and a set of N adapters, or none (`lorajax.models.llama`). Public names, by
module:

    checkpoint      load, locate, Checkpoint
    named           config_of
    config          ModelConfig, RopeConfig
    roberta_config  RobertaConfig
    kinds           build, is_encoder
    llama           Llama, Output
    roberta         Roberta
    weights         save_hf, merge
    tokenizer       load_tokenizer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorajax import _reads_when_asked

if TYPE_CHECKING:
    from lorajax.models.checkpoint import Checkpoint, load, locate
    from lorajax.models.config import ModelConfig, RopeConfig
    from lorajax.models.kinds import build, is_encoder
    from lorajax.models.llama import Llama, Output
    from lorajax.models.named import config_of
    from lorajax.models.roberta import Roberta
    from lorajax.models.roberta_config import RobertaConfig
    from lorajax.models.tokenizer import load_tokenizer
    from lorajax.models.weights import merge, save_hf

__all__ = [
    "Checkpoint", "Llama", "ModelConfig", "Output", "Roberta", "RobertaConfig", "RopeConfig", "build", "config_of",
    "is_encoder", "load", "load_tokenizer", "locate", "merge", "save_hf",
]  # fmt: skip

if not TYPE_CHECKING:  # type checkers see the imports above, and that there are no other names
    __getattr__ = _reads_when_asked(
        __name__,
        {
            "checkpoint": "load locate Checkpoint",
            "config": "ModelConfig RopeConfig",
            "kinds": "build is_encoder",
            "llama": "Llama Output",
            "named": "config_of",
            "roberta": "Roberta",
            "roberta_config": "RobertaConfig",
            "tokenizer": "load_tokenizer",
            "weights": "save_hf merge",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
