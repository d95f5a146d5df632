"""The frozen base in 8 or 4 bits: weights are kept as codes and become numbers again inside the product that uses them.

Nothing but storage changes: activations, adapters, embedding, norms, biases and head keep the compute dtype, and the
base is never differentiated. The idea, and the 4-bit code book, are QLoRA's (Dettmers et al., 2023, arXiv 2305.14314),
without its second quantisation of the scales.

A kernel `[in, out]` is cut along `in`, the axis that a product sums over, into tiles that share a float32 scale:

    kind   codes                          scales                     bits a weight   a weight is
    int8   int8  [tiles, tile, out]       float32 [tiles, 1, out]    8.5             code * scale
    nf4    uint8 [tiles, tile / 2, out]   float32 [tiles, 1, out]    4.5             NF4[code] * scale

`tile` is 64 where that divides `in`, else the largest power of two that does and is at least 16, else the whole axis.
Tiles have an axis of their own so that codes and scales are split over a mesh alike, `tiles` as `in` and `out` as
`out`: a tile is never cut, and `in` is split only where the mesh divides its number of tiles.

Two 4-bit codes are packed into a byte here, not left to 4-bit array types, which have not taken half a byte in every
release and on every device: row j of a tile is the low half of byte j, row j + tile / 2 the high half. NF4 is looked up
by 15 selections, not by indexing: a gather is slow on a TPU, and one over the flattened codes, as in qwix, would bring
a kernel that is split over devices together on each of them.

Weights are encoded by qwix, an extra: `pip install 'lorajax[quant]'`. Decoding needs JAX alone.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from lorajax.errors import LorajaxError
from lorajax.models.products import product
from lorajax.models.tables import table
from lorajax.models.tensors import Tensor

if TYPE_CHECKING:
    from lorajax.models.kinds import Model

Quantize = Literal["none", "int8", "nf4"]

#: Weights that share a scale, where the size of a kernel allows it.
TILE, SMALLEST_TILE = 64, 16

#: Quantiles of a normal distribution, scaled to [-1, 1], zero among them (QLoRA, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class Encoded(NamedTuple):
    """A kernel in codes; shapes and dtypes are those of the table above, possibly with leading axes."""

    codes: Array
    scales: Array


class QuantizedKernel(nnx.Module):
    """What a `Linear` holds in place of its kernel parameter: `Encoded`, and the product with it."""

    def __init__(self, encoded: Encoded, kind: Quantize):
        self.codes = nnx.Param(encoded.codes)
        self.scales = nnx.Param(encoded.scales)
        self.kind = kind

    def __call__(self, x: Array) -> Array:
        """`x @ kernel`, `[N, B, T, in]` to `[N, B, T, out]` in the dtype of x; differentiable in x.

        The kernel is decoded anew in the backward pass. Kept from the forward pass it would be one array per layer:
        the whole model in the compute dtype.
        """

        def decoded(x: Array, encoded: Encoded) -> Array:
            return product("nbti,io->nbto", x, decode(encoded, self.kind).astype(x.dtype))

        return jax.checkpoint(decoded, prevent_cse=False)(x, Encoded(self.codes[...], self.scales[...]))


def quantize(model: Model, kind: Quantize) -> Model:
    """A copy of `model` whose block kernels are stored as `kind`; `model` itself for "none".

    Traceable, so `nnx.eval_shape(lambda: quantize(Llama(...), kind))` tells what the model will take before it exists.
    Loading with `quantize=` gives the same values without ever holding the model in its full size.

    Raises:
      LorajaxError: `kind` is none of "none", "int8", "nf4"; qwix is not installed; `model` is quantised already; a
        kernel has an odd number of inputs ("nf4").
    """
    check_kind(kind)
    if kind == "none":
        return model
    refuse_quantized(model, "quantising")
    copy = nnx.merge(*nnx.split(model))
    for tensor in table(model.config):
        if is_block_kernel(tensor):
            linear = _owner(copy, tensor)
            linear.kernel = QuantizedKernel(_encode_layers(linear.kernel[...], kind), kind)
    return copy


def quantization(model: Model) -> Quantize:
    """How the block kernels of `model` are stored."""
    first = next(tensor for tensor in table(model.config) if is_block_kernel(tensor))
    kernel = _owner(model, first).kernel
    return kernel.kind if isinstance(kernel, QuantizedKernel) else "none"


def refuse_quantized(model: Model, action: str) -> None:
    """Raises LorajaxError if `model` is quantised: `action` needs the weights as they were."""
    if (kind := quantization(model)) != "none":
        raise LorajaxError(
            f"{action} needs full weights, and this model is quantised ({kind}); load it without --quantize"
        )


def check_kind(kind: str) -> None:
    """Raises LorajaxError unless `kind` is known and what it needs is installed."""
    if kind not in get_args(Quantize):
        raise LorajaxError(f"quantize {kind!r}: expected one of {', '.join(map(repr, get_args(Quantize)))}")
    if kind != "none":
        _qwix(kind)


def is_block_kernel(tensor: Tensor) -> bool:
    """Whether this parameter is one of those that are quantised: the kernels of the blocks' linear layers."""
    return tensor.stacked and tensor.path[-1] == "kernel"


def tile_size(in_features: int) -> int:
    """How many weights share a scale: see the module's description."""
    tile = TILE
    while in_features % tile:
        tile //= 2
    return tile if tile >= SMALLEST_TILE else in_features


def cut(kernel: Array) -> Array:
    """`[..., in, out]` to `[..., tiles, tile, out]`."""
    *lead, in_features, out_features = kernel.shape
    return kernel.reshape(*lead, -1, tile_size(in_features), out_features)


def encode(tiles: Array, kind: Quantize) -> Encoded:
    """Tiles `[tiles, tile, out]` of any float dtype to their nearest codes, with scales from the largest magnitude.

    The scale is `max|w| / 127.5` for int8 (so that no code errs by more than half a scale) and `max|w|` for nf4.

    Raises:
      LorajaxError: qwix is not installed; `tile` is odd and `kind` is "nf4".
    """
    dtype = "nf4" if kind == "nf4" else jnp.int8
    found = _qwix(kind).quantize(tiles.astype(jnp.float32), dtype, channelwise_axes=(0, 2))
    if kind == "int8":
        return Encoded(found.qvalue, found.scale)
    tile = tiles.shape[1]
    if tile % 2:
        raise LorajaxError(
            f"quantize 'nf4': a kernel has {tile} inputs; two are packed in a byte: expected an even number"
        )
    low, high = jnp.split(found.qvalue.astype(jnp.uint8), 2, axis=1)
    return Encoded(low | (high << 4), found.scale)


def decode(encoded: Encoded, kind: Quantize) -> Array:
    """The kernel `[in, out]`, float32, of its codes: an inverse of `cut` and `encode` but for the rounding."""
    codes, scales = encoded
    if kind == "nf4":
        values = jnp.concatenate([_nf4(codes & 15, scales), _nf4(codes >> 4, scales)], axis=1)
    else:
        values = codes * scales
    return values.reshape(-1, codes.shape[-1])


def _nf4(codes: Array, scales: Array) -> Array:
    """`NF4[codes] * scales`: neighbours are decided by the lowest bit, pairs of them by the next, and so on.

    The code book is scaled before the selection: constants spread to the size of a kernel would be taken out of the
    scan over layers, and kept in memory all at once.
    """
    values = [scales * np.float32(value) for value in NF4]
    for bit in range(4):
        odd = (codes >> bit) & 1 == 1
        values = [jnp.where(odd, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def _owner(model: Model, tensor: Tensor) -> Any:
    """The module that has `tensor` among its attributes."""
    return functools.reduce(getattr, tensor.path[:-1], model)


@functools.partial(jax.jit, static_argnums=1)
def _encode_layers(kernels: Array, kind: Quantize) -> Encoded:
    """`[layers, in, out]`, one layer after the other: encoding takes several times the memory of what it encodes."""
    return jax.lax.map(lambda kernel: encode(cut(kernel), kind), kernels)


def _qwix(kind: str):
    try:
        import qwix
    except ModuleNotFoundError:
        raise LorajaxError(f"quantize {kind!r}: needs an extra: pip install 'lorajax[quant]'") from None
    return qwix
