"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864) with the frequency scalings of the Llama family."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from lorajax.models.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """Angular frequency of every rotated pair, `[head_dim / 2]` float64, in radians per position.

    `linear` divides all frequencies by `factor`. `llama3` (Llama 3.1, section 3.4 of arXiv 2407.21783) divides only
    those whose wavelength exceeds `original_max_positions / low_freq_factor`, keeps those shorter than
    `original_max_positions / high_freq_factor`, and interpolates between.
    """
    inverse = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.type == "linear":
        return inverse / rope.factor
    if rope.type == "llama3":
        wavelength = 2 * np.pi / inverse
        turns = rope.original_max_positions / wavelength
        keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        return inverse * (keep + (1 - keep) / rope.factor)
    return inverse


def rotation(rope: RopeConfig, head_dim: int, positions: Array) -> tuple[Array, Array]:
    """Cosine and sine of every angle: positions `[..., T]` to two float32 arrays `[..., T, 1, head_dim / 2]`."""
    angles = positions[..., None, None].astype(jnp.float32) * inverse_frequencies(rope, head_dim).astype(np.float32)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates the pairs (x[i], x[i + dim/2]) of `x [..., T, heads, dim]`, in float32, back to x's dtype."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
