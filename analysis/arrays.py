"""The arguments that all measures of layers share: arrays of any library in, checked jax arrays out.

A side is `[L, n, d]`: L layers of n examples, or a list of L arrays `[n, d_l]` where widths differ. Features are then
filled up with zeros to the widest layer, which no measure here sees: all of them are made from distances or inner
products of examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

__all__ = ["Layers", "as_jax", "check_choice", "prepare"]

#: One side of a comparison: `[L, n, d]`, or L arrays `[n, d_l]`.
Layers = ArrayLike | Sequence[ArrayLike]


def prepare(
    arrays: dict[str, Layers], mask: ArrayLike | None = None, *, least: dict[str, int] | None = None
) -> tuple[Any, ...]:
    """Named sides and a mask -> the sides as `[L, n, d]`, and the mask as bool `[n]` (last).

    Half-precision and integer features keep their dtype: measures compute in float32, or in float64 where features are.

    Args:
        least: what needs how many examples, for the error: `{"debiased CKA": 4}`.

    Raises:
        ValueError: shapes do not go together, there are too few examples, or values are complex. Names what was found.
    """
    sides = {name: _side(name, x) for name, x in arrays.items()}
    shapes = ", ".join(f"{name} {x.shape}" for name, x in sides.items())
    if len({x.shape[1] for x in sides.values()}) > 1:
        raise ValueError(f"both sides need the same n examples (axis 1), got {shapes}")
    n = next(iter(sides.values())).shape[1]
    if n == 0:
        raise ValueError(f"there are no examples (axis 1) in {shapes}")
    keep = np.ones(n, bool) if mask is None else mask if isinstance(mask, jax.Array) else np.asarray(mask)
    if keep.dtype != bool or keep.shape != (n,):
        raise ValueError(f"mask must be bool of shape ({n},) for {shapes}, got {keep.dtype} of shape {keep.shape}")
    if not isinstance(keep, jax.core.Tracer):
        kept = np.asarray(keep).sum()
        for what, number in (least or {}).items():
            if kept < number:
                raise ValueError(f"{what} needs n >= {number} examples, got n = {kept} in {shapes}")
    return *sides.values(), keep


def as_jax(name: str, x: ArrayLike) -> jax.Array:
    """NumPy, jax or torch array (any device, bfloat16 too) -> jax array.

    Raises:
        ValueError: it is complex.
    """
    if not isinstance(x, jax.Array):
        x = x.detach() if hasattr(x, "detach") else x  # torch
        try:
            x = np.asarray(x)
        except TypeError:  # torch's bfloat16, or a tensor on a GPU
            x = jnp.from_dlpack(x.contiguous())  # type: ignore[union-attr]
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        raise ValueError(f"{name} must be real, got {x.dtype}")
    return x


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises ValueError, which lists the choices, if `value` is not one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def _side(name: str, x: Layers) -> jax.Array:
    if isinstance(x, list | tuple) and len({np.shape(layer) for layer in x}) > 1:
        layers = [as_jax(f"{name}[{i}]", layer) for i, layer in enumerate(x)]
        if any(layer.ndim != 2 for layer in layers) or len({len(layer) for layer in layers}) > 1:
            found = ", ".join(str(layer.shape) for layer in layers)
            raise ValueError(f"{name}: expected a list of [n, d] arrays with one n, got shapes {found}")
        widest = max(layer.shape[1] for layer in layers)
        return jnp.stack([jnp.pad(layer, ((0, 0), (0, widest - layer.shape[1]))) for layer in layers])
    if isinstance(x, list | tuple) and len(x) and not np.isscalar(x[0]):
        x = jnp.stack([as_jax(f"{name}[{i}]", layer) for i, layer in enumerate(x)])
    side = as_jax(name, x)  # type: ignore[arg-type]
    if side.ndim != 3:
        raise ValueError(f"{name} must be [layers, examples, features], got shape {side.shape}")
    return side
