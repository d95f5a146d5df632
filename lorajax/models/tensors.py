"""The one table between our parameters and the tensors of a Hugging Face checkpoint, used in both directions."""

from __future__ import annotations

import dataclasses

from lorajax.models.config import ModelConfig

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of our parameters and where a checkpoint keeps it.

    `name` holds `{layer}` when the checkpoint has one tensor per layer and we stack them. A linear layer's weight is
    `[out, in]` there and `[in, out]` here (`transposed`). `axes` are the logical axes of our array, for sharding.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    stacked: bool
    transposed: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the checkpoint."""
        return self.shape[::-1] if self.transposed else self.shape

    def names(self, num_layers: int) -> list[str]:
        """Every tensor of the checkpoint that this parameter is made of, in layer order."""
        return [self.name.format(layer=i) for i in range(num_layers)] if self.stacked else [self.name]


def tensors(config: ModelConfig) -> list[Tensor]:
    """The table for one model; every parameter and every tensor appears exactly once.

    `shape` and `axes` leave the layer axis out; a stacked parameter has it in front.
    """
    size, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def linear(module: str, shape: tuple[int, int], axes: tuple[str, str], bias: bool) -> list[Tensor]:
        path, name = ("blocks", *module.split(".")), f"model.layers.{{layer}}.{module}"
        rows = [Tensor((*path, "kernel"), f"{name}.weight", shape, axes, stacked=True, transposed=True)]
        if bias:
            rows.append(Tensor((*path, "bias"), f"{name}.bias", shape[1:], axes[1:], stacked=True))
        return rows

    def norm(module: str) -> Tensor:
        name = f"model.layers.{{layer}}.{module}.weight"
        return Tensor(("blocks", module, "scale"), name, (size,), (None,), stacked=True)

    table = [
        Tensor(("embedding",), "model.embed_tokens.weight", (vocab, size), ("vocab", "embed"), stacked=False),
        norm("input_layernorm"),
        *linear("self_attn.q_proj", (size, q), ("embed", "heads"), config.qkv_bias),
        *linear("self_attn.k_proj", (size, kv), ("embed", "heads"), config.qkv_bias),
        *linear("self_attn.v_proj", (size, kv), ("embed", "heads"), config.qkv_bias),
        *linear("self_attn.o_proj", (q, size), ("heads", "embed"), config.output_bias),
        norm("post_attention_layernorm"),
        *linear("mlp.gate_proj", (size, inner), ("embed", "inner"), config.mlp_bias),
        *linear("mlp.up_proj", (size, inner), ("embed", "inner"), config.mlp_bias),
        *linear("mlp.down_proj", (inner, size), ("inner", "embed"), config.mlp_bias),
        Tensor(("norm", "scale"), "model.norm.weight", (size,), (None,), stacked=False),
    ]
    if not config.tie_embeddings:
        path, shape, axes = ("lm_head", "kernel"), (size, vocab), ("embed", "vocab")
        table.append(Tensor(path, "lm_head.weight", shape, axes, stacked=False, transposed=True))
    return table


def is_redundant(name: str, config: ModelConfig) -> bool:
    """Tensors that some checkpoints hold and that say nothing new: rotary buffers, a copy of the tied head."""
    return name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight")
