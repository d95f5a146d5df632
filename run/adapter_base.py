"""Adapters against the weights they change: intruder dimensions and amplification (`run.compare_adapters --base`)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import jax
import numpy as np
import xarray as xr

from analysis.base_directions import amplification, base_svd, intruder_dimensions
from lorajax.errors import LorajaxError
from lorajax.models.checkpoint import load
from run.adapter_measures import join_blocks
from run.adapter_set import Block
from run.terminal import say

#: How many singular vectors of the tuned weight are looked at, and the cosine below which one is an intruder.
TOP, EPSILON = 10, 0.5


def against_base(blocks: Iterable[Block], names: Sequence[str], base: str) -> xr.Dataset:
    """`base_value` (base_measure, task, module, layer) of the adapters `names`:

    intruders                  of the leading 10 singular vectors of W + ΔW, those unlike any of W's
    amplification              ‖ΔW‖ / ‖Uᵀ W V‖ along the update's own directions
    amplification_by_chance    what random directions of the same number would give
    relative_norm              ‖ΔW‖ / ‖W‖

    Raises:
      LorajaxError: the model has no such module or layer, or a weight of another shape.
    """
    model = load(base, say=say).model
    parts = []
    for block in blocks:
        say(f"  {block.module}: singular vectors of {len(block.layers)} weights of the base model")
        weights = _weights(model, block, base)
        values = np.stack([_measured(block, k, weights[layer]) for k, layer in enumerate(block.layers)], -1)
        parts.append(
            xr.Dataset(
                {"base_value": (("base_measure", "task", "module", "layer"), values[:, :, None])},
                coords={"base_measure": list(MEASURES), "task": list(names)}
                | {"module": [block.module], "layer": list(block.layers)},
            )
        )
    return join_blocks(parts)


MEASURES = ("intruders", "amplification", "amplification_by_chance", "relative_norm")


def _weights(model, block: Block, base: str) -> np.ndarray:
    """The base model's kernels of a module, `[layers, in, out]`."""
    try:
        kernels = np.asarray(functools.reduce(getattr, block.module.split("."), model.blocks).kernel[...])
    except AttributeError:
        raise LorajaxError(f"--base {base}: has no module {block.module}") from None
    if max(block.layers) >= len(kernels) or kernels.shape[1:] != block.shape[::-1]:
        raise LorajaxError(
            f"--base {base}: {block.module} has {len(kernels)} layers of {list(kernels.shape[:0:-1])}; the adapters "
            f"have updates of layer {max(block.layers)} and weights of {list(block.shape)}"
        )
    return kernels


def _measured(block: Block, k: int, kernel: np.ndarray) -> np.ndarray:
    """`[measure, task]` of one layer."""
    updates = jax.tree.map(lambda x: x[:, k], block.updates)
    W = kernel.T
    strength = amplification(updates, W)
    found = intruder_dimensions(updates, base_svd(W), top=min(TOP, *W.shape), epsilon=EPSILON)
    norm = np.linalg.norm(np.asarray(updates.s), axis=-1) / np.linalg.norm(W)
    missing = np.asarray(updates.rank) == 0
    rows = [np.where(missing, np.nan, np.asarray(x, float)) for x in (found.number, strength.factor)]
    by_chance = np.asarray(strength.inside, float) * np.asarray(strength.factor, float) / np.asarray(strength.random)
    return np.stack([*rows, np.where(missing, np.nan, by_chance), np.where(missing, np.nan, norm)])
