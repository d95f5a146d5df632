"""The floating-point operations of a training step: counted by formula, and by XLA.

A product of `[m, k]` and `[k, n]` is 2 m k n operations; elementwise work, a few per cent, is left out. With
n = N * P * T tokens (padding is computed too), W weights in the kernels of the L blocks, A weights in the factors of
one adapter, and R answer tokens a row:

    frozen       4 W n           forward, and the gradient of the input; there is none of the weights
    adapters     6 A n           forward, and the gradients of input and factors
    attention    12 T H d n L    scores and weighted values over all T x T pairs, forward and backward; kernels that
                                 skip the pairs a causal mask hides do half of it
    head         4 V D N P R     scores of the answer tokens, and the gradient of the hidden states
    recompute    what `remat` does again in the backward pass
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.extend.core import jaxpr_as_fun

from lorajax.data.batching import Layout
from lorajax.lora.adapter import LoraConfig
from lorajax.lora.targets import linear_shapes, target_layers
from lorajax.mesh import make_mesh
from lorajax.models.attention import query_block
from lorajax.models.config import ModelConfig
from lorajax.training.capacity import Setup, abstract_arguments, abstract_model
from lorajax.training.config import TrainConfig
from lorajax.training.step import make_step


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one step of a whole fleet, over all devices, by kind."""

    frozen: int
    adapters: int
    attention: int
    head: int
    recompute: int

    @property
    def total(self) -> int:
        """All that is computed."""
        return self.frozen + self.adapters + self.attention + self.head + self.recompute


def count_flops(config: ModelConfig, lora: LoraConfig, train: TrainConfig, layout: Layout, size: int) -> Flops:
    """Operations of a step for N = `size` adapters, each with a batch of `layout`, by the formula above."""
    shapes = linear_shapes(config)
    adapted = {path: shapes[path] for path in target_layers(lora.targets, config)}
    tokens, layers = size * layout.rows * layout.length, config.num_layers
    weights = {path: inputs * outputs for path, (inputs, outputs) in shapes.items()}
    factors = {path: lora.rank * (inputs + outputs) for path, (inputs, outputs) in adapted.items()}
    pairs = 2 * layout.length * config.num_heads * config.head_dim  # one of the two products of attention, a token
    head = 4 * size * layout.rows * layout.answers * config.vocab_size * config.hidden_size

    # Products whose results are kept, or are not needed again, are not repeated; the scores always are, but with
    # `none`.
    last = "mlp.down_proj"
    again = {
        "none": 0,
        "products": pairs,
        "block": 2 * pairs
        + 2 * (sum(weights.values()) - weights[last])
        + 2 * sum(factors.values())
        - _second_half(lora, adapted, last),
    }[train.remat]
    if query_block(layout.length) < layout.length:
        again += pairs  # long rows: the scores of each block of queries, in its own backward pass
    return Flops(
        frozen=4 * sum(weights.values()) * tokens * layers,
        adapters=6 * sum(factors.values()) * tokens * layers,
        attention=6 * pairs * tokens * layers,
        head=head,
        recompute=again * tokens * layers,
    )


def _second_half(lora: LoraConfig, adapted: dict[str, tuple[int, int]], path: str) -> int:
    """Operations a token of the product with b in the update of `path`."""
    return 2 * lora.rank * adapted[path][1] if path in adapted else 0


def xla_flops(config: ModelConfig, lora: LoraConfig, train: TrainConfig, layout: Layout, size: int) -> float:
    """Operations of the same step as XLA counts them, elementwise ones too, before it optimises the program.

    XLA counts the body of a loop once, however often it runs. So the step is traced with all its loops unrolled, for
    one layer and for two, on one device of this process: the difference is a layer. Nothing is compiled or run.
    """
    mesh = make_mesh(devices=jax.local_devices()[:1])

    def count(layers: int) -> float:
        model = abstract_model(dataclasses.replace(config, num_layers=layers), mesh)
        setup = Setup(model, lora, train, layout, mesh)
        arguments = abstract_arguments(setup, size)
        placed = jax.tree.map(lambda x: x.sharding, arguments[0])
        with jax.disable_jit():  # a scan is a Python loop
            step = make_step(nnx.split(model)[0], train, mesh, placed, dropout=lora.dropout)
            unrolled = jax.make_jaxpr(step)(*arguments)
        leaves = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(arguments)]
        cost: Any = jax.jit(jaxpr_as_fun(unrolled)).lower(*leaves).cost_analysis()
        return cost["flops"]

    one, two = count(1), count(2)
    return one + (two - one) * (config.num_layers - 1)
