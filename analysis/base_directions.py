"""Updates against the weight they change: intruder dimensions and the amplification factor. One place at a time.

======================== ========================================================= ============ =======================
`intruder_dimensions`    of the top k singular vectors of W + ΔW, those whose       0 ... k      rotation of W and ΔW,
                         |cosine| with every singular vector of W is below ε                     common scale
`amplification`          ‖ΔW‖ / ‖Uᵀ W V‖, U and V the singular vectors of ΔW        0 ... inf    rotation of W and ΔW,
                                                                                                common scale
======================== ========================================================= ============ =======================

W is `[out, in]`, ΔW = U diag(s) Vᵀ come as a ThinSVD of N tasks `[N, ...]`, the norms are Frobenius norms, and
"rotation" is W → Q W R, ΔW → Q ΔW R. Both change with the size of ΔW against W: an amplification doubles with ΔW, and
a direction that is new to W is an intruder only once its singular value has risen among the top k.

**Intruder dimensions** (Shuttleworth et al., definition 1: max_i cos(y_j, x_i) < ε; their code: the absolute cosine,
left vectors, k = 10, ε = 0.5, all defaults here). The singular vectors x_i of W are the min(out, in) thin ones. Read
with care: where singular values of W nearly coincide, a tiny update turns their vectors into each other and makes
intruders that span nothing new. Chance: a random direction of d dimensions has a largest |cosine| of about
√(2 log d / d), 0.06 at 4096.

**Amplification factor** (Hu et al., section 7.3; table 7 has 21.5 for r = 4 and 1.9 for r = 64 in GPT-3): how much
stronger the update is than W is along the same directions. For random U and V of rank r, ‖Uᵀ W V‖ is
r ‖W‖ / √(out · in) in the root mean square: `random` of the result. The paper's third column, W's own top r directions,
is ‖s[:r]‖ of `base_svd`.

**Method.** With the thin SVD W = P S Qᵀ, made once, W + ΔW is diag(S) + a bᵀ in the coordinates of P and Q (and of what
U and V have outside of them), with a and b of r columns. Its top singular vectors are taken from the space of the first
coordinates and of the block Krylov space S^2j [b, S a], which is widened until ‖(W + ΔW)ᵀ u - σ v‖ <= `tolerance` σ_1
for each (or it is the whole space). So an update costs O((out + in) r²) a step, never an SVD of `[out, in]`.

Accuracy: a vector to tolerance · σ_1 / (distance to the next singular value).

Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", 2024.
Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import as_jax, check_choice
from analysis.low_rank import ThinSVD

__all__ = ["Amplification", "Intruders", "amplification", "base_svd", "intruder_dimensions"]

Side = Literal["left", "right"]


class Intruders(NamedTuple):
    """NaN throughout for an update that is not finite."""

    number: jax.Array
    """`[N]`, as float: intruders among the top singular vectors of W + ΔW."""
    cosine: jax.Array
    """`[N, top]`: largest |cosine| of each with any singular vector of W."""
    s: jax.Array
    """`[N, top]`: their singular values, descending."""


class Amplification(NamedTuple):
    """NaN for a zero update, and for one that is not finite."""

    factor: jax.Array
    """`[N]`: ‖ΔW‖ / ‖Uᵀ W V‖; inf where W is 0 along the update."""
    inside: jax.Array
    """`[N]`: ‖Uᵀ W V‖, of W along the update's directions."""
    random: jax.Array
    """`[N]`: root mean square of that norm for random directions of the same rank."""


def base_svd(W: ArrayLike) -> ThinSVD:
    """All m = min(out, in) singular vectors of W `[out, in]`: u `[out, m]`, s `[m]`, v `[in, m]`. Made once a place.

    Raises:
        ValueError: W is no matrix, or not finite.
    """
    w = _matrix(W)
    if not bool(jnp.isfinite(w).all()):
        raise ValueError(f"W {w.shape} has values that are not finite")
    u, s, vt = jnp.linalg.svd(w, full_matrices=False)
    return ThinSVD(u, s, vt.T, jnp.asarray(len(s)))


def intruder_dimensions(
    updates: ThinSVD,
    base: ThinSVD,
    *,
    top: int = 10,
    epsilon: float = 0.5,
    side: Side = "left",
    tolerance: float | None = None,
) -> Intruders:
    """Intruders among the `top` singular vectors of W + ΔW, for each of N updates.

    Args:
        updates: of one place: u `[N, out, r]`, s `[N, r]`, v `[N, in, r]`.
        base: `base_svd(W)`.
        epsilon: an intruder's cosine with every singular vector of W is below it.
        side: of the singular vectors: `left` (`[out]`, as in the paper) or `right` (`[in]`).
        tolerance: of the residuals, as a share of the largest singular value; 100 eps by default.

    Raises:
        ValueError: shapes do not go together, top is not in 1..min(out, in), or no such side.
    """
    check_choice("side", side, get_args(Side))
    m = base.s.shape[-1]
    _check(updates, (base.u.shape[0], base.v.shape[0]))
    if not 1 <= top <= m:
        raise ValueError(f"top must be in 1..{m} for W {(base.u.shape[0], base.v.shape[0])}, got {top}")
    finite = jnp.isfinite(updates.s).all(-1)
    s = jnp.where(finite[:, None], updates.s, 0)
    tolerance = 100 * float(jnp.finfo(s.dtype).eps) if tolerance is None else tolerance
    a, b = _coordinates(base.u, updates.u) * s[:, None], _coordinates(base.v, updates.v)
    S, steps = jnp.pad(base.s, (0, s.shape[-1])).astype(a.dtype), 8
    while True:
        left, sigma, right, residual, whole = _top(S, a, b, top, steps)
        if bool((residual <= tolerance).all()) or bool(whole):
            break
        steps *= 4
    vectors = left if side == "left" else right
    cosine = jnp.where(finite[:, None], jnp.abs(vectors[:, :m]).max(1), jnp.nan)
    number = jnp.where(finite, (cosine < epsilon).sum(-1), jnp.nan)
    return Intruders(number, cosine, jnp.where(finite[:, None], sigma, jnp.nan))


def amplification(updates: ThinSVD, W: ArrayLike) -> Amplification:
    """How much stronger each of N updates is than W `[out, in]` along the update's own directions.

    Raises:
        ValueError: W is no matrix, or updates are not `[N, ...]` of its shape.
    """
    w = _matrix(W)
    _check(updates, w.shape)
    return _amplification(updates, w)


def _matrix(W) -> jax.Array:
    W = as_jax("W", W)
    if W.ndim != 2 or 0 in W.shape:
        raise ValueError(f"W must be [out, in], got shape {W.shape}")
    return W.astype(jnp.promote_types(W.dtype, jnp.float32))


def _check(updates, shape):
    u, v = np.shape(updates.u), np.shape(updates.v)
    if len(u) != 3 or (u[1], v[1]) != tuple(shape):
        raise ValueError(f"updates must be [N, ...] of one place with W {tuple(shape)}, got u {u} and v {v}")


# --- the compiled part ------------------------------------------------------------------------------------------------
# Einsum letters: n tasks; d ambient; m base directions; r directions of an update; c coordinates; w trial vectors.


def _einsum(subscripts, *operands):
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST)


@jax.jit
def _amplification(updates, W):
    u, s, v, rank = updates
    read = _einsum("oi,nir->nor", W, v)
    inside = jnp.linalg.norm(_einsum("nor,not->nrt", u, read), axis=(1, 2))
    inside = jnp.where(jnp.isfinite(s).all(-1) & (rank > 0), inside, jnp.nan)
    size = s.max(-1)
    random = jnp.where(jnp.isnan(inside), jnp.nan, rank * jnp.linalg.norm(W) / W.size**0.5)
    return Amplification(size * jnp.linalg.norm(s / size[:, None], axis=-1) / inside, inside, random)


@jax.jit
def _coordinates(basis, x):
    """x `[N, d, r]` in the basis `[d, m]` and an orthonormal one of what x has outside of it: `[N, m + r, r]`."""
    inside = _einsum("dm,ndr->nmr", basis, x)
    if basis.shape[0] == basis.shape[1]:  # nothing is outside
        return jnp.pad(inside, ((0, 0), (0, x.shape[-1]), (0, 0)))
    outside = x - _einsum("dm,nmr->ndr", basis, inside)
    outside = outside - _einsum("dm,nmr->ndr", basis, _einsum("dm,ndr->nmr", basis, outside))
    triangle = jnp.linalg.qr(outside, mode="r")
    return jnp.concatenate([inside, jnp.pad(triangle, ((0, 0), (0, x.shape[-1] - triangle.shape[1]), (0, 0)))], 1)


@partial(jax.jit, static_argnames=("top", "steps"))
def _top(S, a, b, top, steps):
    """Top singular vectors of diag(S) + a bᵀ `[N, c, top]`, values, largest relative residual, and if it is exact."""
    c, r = a.shape[1:]
    first = 3 * top + 2 * r  # above the values of the rest there is a gap, as an update of rank r moves values r places
    whole = first + 2 * r * steps >= c

    def one(ab):
        a, b = ab
        trial = jnp.eye(c, dtype=a.dtype) if whole else _trial(S, a, b, first, steps)
        q, triangle = jnp.linalg.qr(S[:, None] * trial + _einsum("cr,rw->cw", a, _einsum("cr,cw->rw", b, trial)))
        p, sigma, wt = jnp.linalg.svd(triangle)
        left, right = _einsum("cw,wt->ct", q, p[:, :top]), _einsum("cw,tw->ct", trial, wt[:top])
        back = S[:, None] * left + _einsum("cr,rt->ct", b, _einsum("cr,ct->rt", a, left))
        residual = jnp.linalg.norm(back - right * sigma[:top], axis=0).max() / sigma[0]
        return left, sigma[:top], right, residual

    return *lax.map(one, (a, b)), whole


def _trial(S, a, b, first, steps):
    """Orthonormal `[c, w]`: the first coordinates, and a Krylov space of S² on the others, which a and b reach into."""
    c, r = a.shape
    square = (S / S[0])[first:, None] ** 2
    block = jnp.concatenate([b, (S / S[0])[:, None] * a], 1)[first:]
    size = jnp.linalg.norm(block, axis=0)

    def extend(step, state):
        basis, block = state
        for _ in range(2):  # the second time takes away what rounding left
            block = block - _einsum("cw,wt->ct", basis, _einsum("cw,ct->wt", basis, block))
            block = jnp.linalg.qr(block)[0]
        return lax.dynamic_update_slice(basis, block, (0, 2 * r * step)), square * block

    start = jnp.zeros((c - first, 2 * r * steps), a.dtype), block / jnp.where(size > 0, size, 1)
    basis, _ = lax.fori_loop(0, steps, extend, start)
    head = jnp.concatenate([jnp.eye(first, dtype=a.dtype), jnp.zeros((first, basis.shape[1]), a.dtype)], 1)
    return jnp.concatenate([head, jnp.pad(basis, ((0, 0), (first, 0)))], 0)
