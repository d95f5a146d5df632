"""The table between the parameters of our RoBERTa and the tensors of a Hugging Face checkpoint, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lorajax.models.roberta_config import RobertaConfig
from lorajax.models.tensors import Tensor

#: What names begin with in checkpoints that have a head over the encoder; `RobertaModel` alone has bare names.
PREFIX = "roberta."

#: What checkpoints hold beside the encoder. Its heads are for other tasks than ours, whose adapters bring their own.
BESIDE = re.compile(r"(lm_head|classifier)\..+|(roberta\.)?(pooler\..+|embeddings\.(position|token_type)_ids)")


def roberta_tensors(config: RobertaConfig, *, prefix: str = "") -> list[Tensor]:
    """The table for one encoder: every parameter and every tensor exactly once; `prefix` begins all names.

    `shape` and `axes` leave the layer axis out; a stacked parameter has it in front.
    """
    size, inner = config.hidden_size, config.intermediate_size

    def table(parameter: str, name: str, rows: int, axis: str | None) -> Tensor:
        return Tensor((parameter,), f"{prefix}embeddings.{name}.weight", (rows, size), (axis, "embed"), stacked=False)

    def linear(module: str, shape: tuple[int, int], axes: tuple[str, str]) -> list[Tensor]:
        path, name = ("blocks", *module.split(".")), f"{prefix}encoder.layer.{{layer}}.{module}"
        return [
            Tensor((*path, "kernel"), f"{name}.weight", shape, axes, stacked=True, transposed=True),
            Tensor((*path, "bias"), f"{name}.bias", shape[1:], axes[1:], stacked=True),
        ]

    def norm(path: tuple[str, ...], name: str, stacked: bool) -> list[Tensor]:
        return [
            Tensor((*path, ours), f"{prefix}{name}.{theirs}", (size,), (None,), stacked)
            for ours, theirs in (("scale", "weight"), ("bias", "bias"))
        ]

    def block_norm(module: str) -> list[Tensor]:
        return norm(("blocks", *module.split("."), "norm"), f"encoder.layer.{{layer}}.{module}.LayerNorm", True)

    return [
        table("embedding", "word_embeddings", config.vocab_size, "vocab"),
        table("positions", "position_embeddings", config.position_rows, None),
        table("token_types", "token_type_embeddings", config.token_types, None),
        *norm(("norm",), "embeddings.LayerNorm", False),
        *linear("attention.self.query", (size, size), ("embed", "heads")),
        *linear("attention.self.key", (size, size), ("embed", "heads")),
        *linear("attention.self.value", (size, size), ("embed", "heads")),
        *linear("attention.output.dense", (size, size), ("heads", "embed")),
        *block_norm("attention.output"),
        *linear("intermediate.dense", (size, inner), ("embed", "inner")),
        *linear("output.dense", (inner, size), ("inner", "embed")),
        *block_norm("output"),
    ]


def prefix_of(names: Iterable[str]) -> str:
    """What the names of a checkpoint's encoder begin with."""
    return PREFIX if any(name.startswith(PREFIX) for name in names) else ""


def is_beside(name: str) -> bool:
    """Whether a checkpoint's tensor is no part of the encoder: heads, the pooler, constants."""
    return BESIDE.fullmatch(name) is not None
