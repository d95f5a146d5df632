"""Canonical correlations of all pairs of layers: mean CCA, SVCCA and PWCCA, compiled, one decomposition per layer.

CCA asks which directions of the features two layers have in common, however large or small the directions are. With
orthonormal bases U, V `[n, r]` of the column-centred features, the canonical correlations ρ_i are the singular values
of UᵀV: the cosines of the principal angles between what the two layers can tell about the n examples.

``cca_mean``  Σ_i ρ_i / min(r_x, r_y), all directions of the features           (Hotelling 1936; r = rank)
``svcca``     the same for the leading singular directions of either side       (Raghu et al. 2017)
``pwcca``     Σ_i α_i ρ_i / Σ_i α_i,  α_i = Σ_j |⟨h_i, x_j⟩|                    (Morcos et al. 2018)
              h_i the canonical variables of one side `[n]`, x_j its centred features, i up to min(r_x, r_y)

All are in [0, 1], 1 if one side's space contains the other's. Values are not clamped: 1 may come out as 1 + 1e-7.

Unchanged by: a shift; one permutation of the examples on both sides; and for `cca_mean` any invertible linear map of
either side's features. `svcca` bears a rotation and one scale factor per side, not one per feature. `pwcca` bears an
invertible map of the side that gives no weights, and of the other side a permutation, signs and one scale factor: not
even a rotation, since weights are sums over single features.

**Read with n in mind.** Correlations are forced up by few examples. For unrelated Gaussian features the mean of ρ_i² is
max(r_x, r_y)/(n-1), and r_x + r_y - (n-1) of the ρ_i are exactly 1 whatever the data, if that is positive. With r = n-1
directions a layer explains everything about the examples, all ρ_i are 1, and nothing was measured: the value is NaN.
With hidden states of d >= n-1 features that is so for `cca_mean` and `pwcca`; take `svcca`, more examples, or CKA.

NaN also for constant features (0/0). `missing_reason` says which layer and why; other layers are not affected. Where
several ρ_i are equal, as are those of 1 above, their h_i are not determined, and neither is how PWCCA weighs them.

Accuracy: in float32 about 1e-6 for well-conditioned features. `cca_mean` and `pwcca` scale features to length one
first, which changes no ρ_i, so that features of very different size are no difficulty. A direction counts towards the
rank if its singular value exceeds max(n, d)·eps times the largest: nearly collinear features are where float32 and
float64 may differ.

Cost: an SVD per layer, and one of r_x × r_y per pair of layers: 0.1 s for 400 directions on two cores, 1 s for 1000.

Hotelling, "Relations between two sets of variates", Biometrika 28, 1936.
Raghu, Gilmer, Yosinski & Sohl-Dickstein, "SVCCA", NeurIPS 2017.
Morcos, Raghu & Bengio, "Insights on representational similarity in neural networks with canonical correlation", NeurIPS
2018. Their code takes the side of smaller rank for the weights; here the caller says which.
Zhao, Ziser & Cohen, "Understanding domain learning in language models through subpopulation analysis", BlackboxNLP 2022
(SVCCA with a fixed number of directions per model size).
"""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, check_choice, prepare
from analysis.rows import centred, check_finite, compute_dtype, narrow, settle, sides
from analysis.spectrum import directions_for

__all__ = ["WeightSide", "cca_mean", "kept_directions", "missing_reason", "pwcca", "svcca"]

WeightSide = Literal["x", "y"]

# Einsum letters: i examples; p, q directions; d features.


def cca_mean(xs: Layers, ys: Layers, *, mask: ArrayLike | None = None) -> jax.Array:
    """Mean canonical correlation of every layer of xs `[L1, n, d1]` with every layer of ys `[L2, n, d2]` -> `[L1, L2]`.

    Row i of both is the same example. Layers of different widths may come as a list. float32, or float64 if given.

    Args:
        mask: bool `[n]`; the value is that of the examples where it is True.

    Raises:
        ValueError: shapes do not go together, n < 3, or a row is not finite.
    """
    return _compare(xs, ys, mask, _mean)


def svcca(
    xs: Layers, ys: Layers, *, share: float = 0.99, dims: int | None = None, mask: ArrayLike | None = None
) -> jax.Array:
    """Mean CCA of the leading singular directions of the centred features, `[L1, L2]`. Arguments as `cca_mean`.

    Args:
        share: keep the fewest directions whose squared singular values sum to this share of the total; at a tie the
            fewer. `kept_directions` tells how many. Of variance, σ²: shares of Σσ keep more.
        dims: keep this many instead (all, if the rank is smaller), as with a number fixed for all layers.

    Raises:
        ValueError: as `cca_mean`; share is not in (0, 1); dims is not in 1..n-2.
    """
    return _compare(xs, ys, mask, _mean, share if dims is None else None, dims)


def pwcca(xs: Layers, ys: Layers, *, weights: WeightSide = "x", mask: ArrayLike | None = None) -> jax.Array:
    """Projection-weighted CCA, `[L1, L2]`. Not symmetric: `weights` names the side whose features give the weights.

    Otherwise as `cca_mean`.
    """
    check_choice("weights", weights, get_args(WeightSide))
    return _compare(xs, ys, mask, _weighted_by_x if weights == "x" else _weighted_by_y)


def kept_directions(
    xs: Layers, *, share: float | None = None, dims: int | None = None, mask: ArrayLike | None = None
) -> np.ndarray:
    """Number of directions of each layer of xs `[L, n, d]` that enter -> int `[L]`.

    With share or dims as given to `svcca`; with neither the rank, as in `cca_mean` and `pwcca`.
    """
    return _kept(xs, share, dims, mask)[0]


def missing_reason(
    xs: Layers, *, share: float | None = None, dims: int | None = None, mask: ArrayLike | None = None
) -> list[str | None]:
    """Why each layer of xs `[L, n, d]` has no value, None if it has; share and dims as in `kept_directions`."""
    ranks, n = _kept(xs, share, dims, mask)

    def reason(kept):
        if kept == 0:
            return f"constant features: all {n} rows are equal"
        if kept == n - 1:
            return f"{kept} directions explain any {n} examples: all correlations are 1"
        return None

    return [reason(kept) for kept in ranks]


# --- the compiled part ------------------------------------------------------------------------------------------------


class _Basis(NamedTuple):
    """Of each layer: `[L, n, k]`, orthonormal up to `rank` and 0 beyond; uᵀx `[L, k, d]`; int `[L]`."""

    u: jax.Array
    projected: jax.Array | None
    rank: jax.Array


@partial(jax.jit, static_argnames=("dims", "dtype", "project"))
def _basis(xs, keep, share, dims, dtype, project=False):
    """Of the leading dims directions, or those that hold `share` of the variance, or (both None) all."""
    n = keep.sum()

    def layer(x):
        x = centred(x, keep, dtype)
        scaled = x / _lengths(x) if share is None and dims is None else x
        u, sigma, _ = jnp.linalg.svd(narrow(scaled), full_matrices=False)
        rank = (sigma > jnp.maximum(n, x.shape[1]) * jnp.finfo(dtype).eps * sigma[0]).sum()
        if dims is not None:
            rank, u = jnp.minimum(rank, dims), u[:, :dims]
        elif share is not None:
            rank = jnp.minimum(rank, directions_for(sigma**2, share))
        u = jnp.where(keep[:, None] & (jnp.arange(u.shape[1]) < rank), u, 0)
        projected = jnp.einsum("ip,id->pd", u, x, precision=lax.Precision.HIGHEST) if project else None
        return _Basis(u, projected, rank)

    return lax.map(layer, xs)


def _lengths(x):
    """Lengths of the columns of x `[n, d]`, 1 where they are 0."""
    size = jnp.abs(x).max(0)
    size = jnp.where(size > 0, size, 1)
    return size * jnp.linalg.norm(x / size, axis=0) + (jnp.abs(x).max(0) == 0)


@partial(jax.jit, static_argnames="value")
def _pairs(x, y, n, value):
    """value of the bases of each pair of layers -> `[L1, L2]`."""

    def pair(a, b):
        both = jnp.minimum(a.rank, b.rank)
        valid = (both > 0) & (jnp.maximum(a.rank, b.rank) < n - 1)
        return jnp.where(valid, value(a, b, both), jnp.nan)

    return lax.map(lambda a: lax.map(lambda b: pair(a, b), y), x)


def _mean(a, b, both):
    cross = jnp.einsum("ip,iq->pq", a.u, b.u, precision=lax.Precision.HIGHEST)
    return jnp.linalg.svd(cross, compute_uv=False).sum() / both


def _weighted_by_x(a, b, both):
    cross = jnp.einsum("ip,iq->pq", a.u, b.u, precision=lax.Precision.HIGHEST)
    left, rho, _ = jnp.linalg.svd(cross, full_matrices=False)
    variables = jnp.einsum("pr,pd->rd", left, a.projected, precision=lax.Precision.HIGHEST)  # ⟨h_r, x_d⟩
    alpha = jnp.where(jnp.arange(len(rho)) < both, jnp.abs(variables).sum(1), 0)
    return (alpha * rho).sum() / alpha.sum()


def _weighted_by_y(a, b, both):
    return _weighted_by_x(b, a, both)


# --- the arguments ----------------------------------------------------------------------------------------------------


def _kept(xs, share, dims, mask):
    """Ranks `[L]` and the number of examples."""
    x, keep = prepare({"xs": xs}, mask, least={"CCA": 3})
    check_finite({"xs": x}, keep)
    _check(share, dims, keep, x.shape)
    return np.asarray(_basis(x, keep, share, dims, compute_dtype(x)).rank), int(keep.sum())


def _check(share: float | None, dims: int | None, keep: Any, shape: tuple[int, ...]) -> None:
    if share is not None and not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    n = len(keep) if isinstance(keep, jax.core.Tracer) else int(np.asarray(keep).sum())
    if dims is not None and not 1 <= dims <= n - 2:
        raise ValueError(f"dims must be in 1..n-2 = 1..{n - 2} for {shape}, got {dims}: n-1 explain any n examples")


def _compare(xs, ys, mask, value, share=None, dims=None):
    x, y, keep = sides(xs, ys, mask, {"CCA": 3})
    _check(share, dims, keep, x.shape)
    basis = partial(_basis, keep=keep, share=share, dims=dims, dtype=compute_dtype(x, y), project=value is not _mean)
    first = _trim(basis(x))
    return settle(_pairs(first, first if y is None else _trim(basis(y)), keep.sum(), value))


def _trim(basis: _Basis) -> _Basis:
    """Without directions that no layer has, in steps of 32: the SVD of a pair takes their cube. Nothing under jit."""
    if isinstance(basis.rank, jax.core.Tracer):
        return basis
    width = -(-max(int(basis.rank.max()), 1) // 32) * 32
    projected = None if basis.projected is None else basis.projected[:, :width]
    return basis._replace(u=basis.u[:, :, :width], projected=projected)
