"""All measures of pairs of adapters, as labelled results, module by module.

Names of measures, for a pair (i, j) in one module and layer; definitions are in the modules of `analysis`:

grassmann_columns, grassmann_rows   distance of what they write, of what they read     (`analysis.grassmann`)
..._share                           the same as a share of what random subspaces of these sizes have
overlap_columns, overlap_rows       φ of all directions: ‖UᵢᵀUⱼ‖² / the smaller rank    (`analysis.update_similarity`)
cosine, l2, alignment (of i inside j), interference           of the updates as such
rec, lp, lp_normalised, entropy_s1, entropy_s2, capture_...   update j on the space of i (`analysis.projection`);
                                    entropies are shares of the log of the largest rank in the set
l2_equal_norm, lp_equal_norm, interference_equal_norm         every update scaled to norm 1 first
sign_common, sign_equal             entries kept by both after trimming, and those of equal sign (on request)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
import xarray as xr

from analysis.grassmann import Unequal, Variant, expected_distance, grassmann_all_pairs
from analysis.low_rank import ThinSVD, missing_reason, scaled_to_unit
from analysis.projection import Form, inner_products, projection_all_pairs
from analysis.signs import sign_agreement
from analysis.update_similarity import (
    cosine,
    frobenius_norms,
    l2,
    pair_interference,
    subspace_alignment,
)
from lorajax.errors import LorajaxError
from run.adapter_set import Block

Family = Literal["grassmann", "distances", "projection", "signs"]


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """What is measured, and by which convention."""

    measures: tuple[Family, ...] = ("grassmann", "distances", "projection")
    """Families of measures; `signs` multiplies the factors out, block by block, and takes longest."""
    variant: Variant = "sum"
    """Which function of the principal angles is the Grassmann distance; `sum` and `geodesic` are the common ones."""
    unequal: Unequal = "pad"
    """Of unequal ranks, a missing angle counts as π/2 (`pad`), or only the smaller space's angles do (`contained`)."""
    form: Form = "absolute"
    """What becomes of negative entries of a projection's diagonal S2."""
    p: float = 1.0
    """Of the L_p distances of spectra; at least 1, or inf."""
    sign_share: float = 0.2
    """Of each update's entries, the largest that `signs` compares."""

    def __post_init__(self):
        if not self.measures:
            raise LorajaxError("--measures: name at least one of grassmann, distances, projection, signs")
        if not self.p >= 1:
            raise LorajaxError(f"--p must be at least 1 (or inf), found {self.p}")
        if not 0 < self.sign_share <= 1:
            raise LorajaxError(f"--sign-share must be in (0, 1], found {self.sign_share}")


def measure_pairs(
    blocks: Iterable[Block], names: Sequence[str], config: MeasureConfig, tell=lambda text: None
) -> xr.Dataset:
    """All measures of all pairs of adapters `names`.

    -> `value` (measure, module, layer, task_i, task_j), NaN where a module has no such layer or an update is missing;
    `expected` (side, module, layer, task_i, task_j) of random subspaces; `singular_value` (task, module, layer,
    direction), `rank`, `norm` and `reason` (task, module, layer): why an update is missing, or nothing.
    """
    parts = []
    for block in blocks:
        tell(f"  {block.module}: {len(block.layers)} layers of {block.shape[0]} x {block.shape[1]}")
        parts.append(_measured(block, list(names), config))
    joined = join_blocks(parts)
    return joined.assign(reason=joined.reason.fillna(""))


def join_blocks(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Results of blocks, each of one module and some layers, as one dataset; NaN where a module has no such layer."""
    modules = list(dict.fromkeys(str(part.module.values[0]) for part in parts))
    whole = []
    for module in modules:
        own = [part for part in parts if part.module.values[0] == module]
        whole.append(xr.concat(own, "layer", join="outer", combine_attrs="drop").sortby("layer"))
    return xr.concat(whole, "module", join="outer", combine_attrs="drop")


def _measured(block: Block, names: list[str], config: MeasureConfig) -> xr.Dataset:
    updates = block.updates
    values: dict[str, np.ndarray] = {}
    expected = np.stack([expectations(updates.rank, d, config) for d in block.shape])
    if "grassmann" in config.measures:
        for side, basis, by_chance in zip(("columns", "rows"), (updates.u, updates.v), expected, strict=True):
            own = np.asarray(grassmann_all_pairs(basis, updates.rank, variant=config.variant, unequal=config.unequal))
            values |= {f"grassmann_{side}": own, f"grassmann_{side}_share": own / by_chance}
    if "distances" in config.measures:
        values |= _distances(updates)
    if "projection" in config.measures:
        found = projection_all_pairs(updates, form=config.form, p=config.p)
        values |= {name: np.asarray(value) for name, value in found._asdict().items() if name != "s2"}
        equal = projection_all_pairs(scaled_to_unit(updates), form=config.form, p=config.p)
        values["lp_equal_norm"] = np.asarray(equal.lp)
    if "signs" in config.measures:
        signs = sign_agreement(updates, share=config.sign_share)
        values |= {"sign_common": np.asarray(signs.common), "sign_equal": np.asarray(signs.equal)}
    pair, one = ("module", "layer", "task_i", "task_j"), ("task", "module", "layer")
    reasons = missing_reason(updates)
    reasons[reasons == None] = ""  # noqa: E711 (elementwise)
    reasons[block.absent] = "not adapted"
    unpaired = (block.absent[:, None] | block.absent[None]).transpose(2, 0, 1)
    values = {name: np.where(unpaired, np.nan, value) for name, value in values.items()}
    return xr.Dataset(
        {
            "value": (("measure", *pair), np.stack(list(values.values()))[:, None].astype(np.float32)),
            "expected": (("side", *pair), expected[:, None].astype(np.float32)),
            "singular_value": ((*one, "direction"), np.asarray(updates.s)[:, None]),
            "rank": (one, np.asarray(updates.rank, np.float32)[:, None]),
            "norm": (one, np.asarray(frobenius_norms(updates))[:, None]),
            "reason": (one, reasons[:, None]),
        },
        coords={
            "measure": list(values),
            "module": [block.module],
            "layer": list(block.layers),
            "side": ["columns", "rows"],
            "direction": np.arange(1, updates.s.shape[-1] + 1),
        }
        | dict.fromkeys(("task", "task_i", "task_j"), names),
    )


def _distances(updates: ThinSVD) -> dict[str, np.ndarray]:
    fewer = jnp.minimum(updates.rank.T[:, :, None], updates.rank.T[:, None, :])
    found = {
        f"overlap_{side}": chordal_overlap(basis, fewer)
        for side, basis in (("columns", updates.u), ("rows", updates.v))
    }
    found |= {
        "cosine": cosine(updates),
        "l2": l2(updates),
        "l2_equal_norm": l2(updates, relative=True),
        "alignment": subspace_alignment(updates),
        "interference": pair_interference(updates),
        "interference_equal_norm": pair_interference(scaled_to_unit(updates)),
    }
    return {name: np.asarray(value) for name, value in found.items()}


def chordal_overlap(basis, fewer):
    """‖UᵢᵀUⱼ‖² / min(rank) `[K, N, N]`, from bases `[N, K, d, r]`: 1 where one space holds the other, NaN for none."""
    squares = jnp.stack([(inner_products(basis[:, k]) ** 2).sum((-2, -1)) for k in range(basis.shape[1])])
    return jnp.where(fewer > 0, squares / jnp.where(fewer > 0, fewer, 1), jnp.nan)


def expectations(ranks, d: int, config: MeasureConfig) -> np.ndarray:
    """Mean distance of random subspaces of d dimensions and these ranks int `[N, K]` -> `[K, N, N]`; NaN at rank 0."""
    ranks = np.asarray(ranks).T
    sizes = np.stack(np.broadcast_arrays(ranks[:, :, None], ranks[:, None, :]))
    result = np.full(sizes.shape[1:], math.nan)
    sizes = np.sort(sizes, axis=0)
    for p, q in {(int(p), int(q)) for p, q in sizes.reshape(2, -1).T if p}:
        draws = 4000 if q <= 32 else 400  # the larger the spaces, the less their distance varies
        mean = expected_distance(d, p, q, variant=config.variant, unequal=config.unequal, draws=draws).mean
        result[(sizes[0] == p) & (sizes[1] == q)] = mean
    return result
