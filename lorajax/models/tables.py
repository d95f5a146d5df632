"""The table between parameters and a checkpoint's tensors, of any model: see `lorajax.models.tensors`."""

from __future__ import annotations

from collections.abc import Iterable

from lorajax.models.config import ModelConfig
from lorajax.models.roberta_config import RobertaConfig
from lorajax.models.roberta_tensors import is_beside, prefix_of, roberta_tensors
from lorajax.models.tensors import Tensor, is_redundant, tensors

Config = ModelConfig | RobertaConfig


def table(config: Config, names: Iterable[str] = ()) -> list[Tensor]:
    """The table for a checkpoint that holds tensors of these `names`; for the folders that we write, without any."""
    if isinstance(config, RobertaConfig):
        return roberta_tensors(config, prefix=prefix_of(names))
    return tensors(config)


def is_unused(name: str, config: Config) -> bool:
    """Tensors that some checkpoints hold and that are no part of the model: copies, constants, heads of an encoder."""
    return is_beside(name) if isinstance(config, RobertaConfig) else is_redundant(name, config)
