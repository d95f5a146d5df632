"""The two kinds of models, decoders and encoders, and what is asked of either by its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lorajax.errors import LorajaxError
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.roberta import Roberta
from lorajax.models.roberta_config import ENCODERS, RobertaConfig
from lorajax.models.tables import Config

Model = Llama | Roberta


def read_config(path: Path) -> Config:
    """The config in `path`, a `config.json`, by the architecture that it names.

    Raises:
      LorajaxError: no such file, not JSON, or a model that is not computed here.
    """
    keys = _encoder_keys(path)
    return ModelConfig.read(path) if keys is None else RobertaConfig.from_hf(keys, source=str(path))


def _encoder_keys(path: Path) -> dict[str, Any] | None:
    """The keys of an encoder's config; None for any other file, of which `ModelConfig.read` says what is wrong."""
    try:
        keys = json.loads(path.read_text("utf-8"))
        return keys if keys["architectures"][0] in ENCODERS else None
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


def build(config: Config, *, dtype: DTypeLike = jnp.float32, seed: int = 0) -> Model:
    """A model of `config` with random weights in `dtype`, the same for the same `seed`."""
    rngs = nnx.Rngs(seed)
    if isinstance(config, RobertaConfig):
        return Roberta(config, dtype=dtype, rngs=rngs)
    return Llama(config, dtype=dtype, rngs=rngs)


def is_encoder(config: Config) -> bool:
    """Whether the model reads a whole text, and answers with a class read off its first token."""
    return isinstance(config, RobertaConfig)


def decoder(model: Model, action: str) -> Llama:
    """`model`, if it is a decoder.

    Raises:
      LorajaxError: it is an encoder, which cannot do `action`.
    """
    if not isinstance(model, Llama):
        raise LorajaxError(
            f"{action} needs a decoder, which writes text; this model is an encoder, which classifies it"
        )
    return model
