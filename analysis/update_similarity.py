"""Similarity of low-rank updates: cosine and distance, subspace overlap, and what predicts interference when merging.

All start from thin decompositions ΔW = U diag(s) Vᵀ of N tasks in K places (`analysis.low_rank`); [k, i, j] is task i
against task j in place k, and ‖·‖ the Frobenius norm. None depends on how an update is split in factors.

======================== ========================================================= ============ =======================
`cosine`                 <ΔW_i, ΔW_j> / (‖ΔW_i‖ ‖ΔW_j‖), of the flattened updates   -1 ... 1     rotation, scale
`l2`                     ‖ΔW_i - ΔW_j‖, or of both brought to norm 1 (`relative`)   0; 0 ... 2   rotation; and scale
`subspace_similarity`    φ(p, q) = ‖U_i[:, :p]ᵀ U_j[:, :q]‖² / min(p, q)            0 ... 1      rotation, scale
`subspace_alignment`     SAR = ‖P_j ΔW_i‖ / ‖ΔW_i‖, P_j the top directions of j     0 ... 1      rotation, scale
`merged_alignment`       the same with P of the sum of all updates                  0 ... 1      rotation, common scale
`task_interference`      STI = Σ|(UᵀU - I) Σ (VᵀV - I)|, U = [U_1 ... U_N]          0 ...        rotation; ~ scale
`pair_interference`      the same for each pair                                     0 ...        rotation; ~ scale
======================== ========================================================= ============ =======================

"rotation": ΔW → Q ΔW R, one orthogonal Q and R for all tasks. "scale": a positive factor for each task; "~ scale":
proportional to a common factor. Where one update changes its sign, `cosine` does; φ, SAR and STI of pairs do not see
it; `l2`, and what is made of more than two tasks, changes. φ and SAR are not determined where singular values coincide
at the cut, nor STI wherever they do; φ at p = q = r always is.

**Chance.** For unrelated updates of random directions: cosine 0 ± (out · in)^-½; φ max(p, q) / d; SAR √(k_j / d); STI
of a pair 0.64 (r = 1) to 0.8 times r² (‖ΔW_i‖ + ‖ΔW_j‖) (out · in)^-½.

**Where papers and their code differ.** *φ* (Hu et al., section 7.2): singular vectors of the factor A (or B) alone,
whose order depends on the split; here those of ΔW. Appendix G has φ = (1 - d²) / p with the projection metric d; it is
1 - d² / p. *SAR* (Marczak et al., equations 5 and 6): the fewest k with ‖ΔW - P_k ΔW‖ <= ε ‖ΔW‖, ε = 0.05; the
authors' script takes 95 % of the norm instead (ε = 0.31), and one direction fewer. *STI* (Gargiulo et al.): ‖·‖₁ is
read as the sum of absolute entries; FusionBench stacks the U_i below each other, which is not the definition. They cut
each update to r / N directions before merging; an adapter keeps its r.

**Accuracy.** float32: inner products 1e-6 of the norms; `l2` 2e-6 of the larger norm also for nearly equal updates
(from a QR of both factors side by side, where the inner products would cancel). **Cost.** One GEMM a place and side for
all pairs; `merged_alignment` a QR of d × N r and an SVD of N r; `l2` a QR of d × 2r for each pair closer than cosine
0.9. What needs single entries is in `analysis.signs`.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", 2025.
Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from analysis.arrays import check_choice
from analysis.low_rank import ThinSVD, decomposed, scaled_to_unit

__all__ = [
    "MergedAlignment", "Side", "check_updates", "cosine", "frobenius_norms", "inner_products", "l2", "merged_alignment",
    "pair_interference", "subspace_alignment", "subspace_similarity", "task_interference",
]  # fmt: skip

#: What an update writes (left, `[out]`) or reads (right, `[in]`).
Side = Literal["left", "right"]

#: Pairs of nearly equal updates whose difference is decomposed at a time.
CHUNK = 128

#: Below this share of ‖x‖² + ‖y‖², ‖x - y‖² is taken from the factors of the difference.
NEAR = 0.1


class MergedAlignment(NamedTuple):
    """How much of each update the leading directions of the sum of all hold."""

    ratio: jax.Array
    """`[N, K]`, 0 ... 1."""
    dimensions: jax.Array
    """int `[K]`: k_M, the directions of the sum that were taken."""


def frobenius_norms(updates: ThinSVD) -> jax.Array:
    """‖ΔW‖ of updates `[..., out, in]` -> `[...]`; 0 for a zero update, NaN for one that is not finite."""
    size = jnp.max(updates.s, -1, keepdims=True)
    safe = jnp.where(size == 0, 1, size)
    return size[..., 0] * jnp.linalg.norm(updates.s / safe, axis=-1)


def inner_products(updates: ThinSVD) -> jax.Array:
    """<ΔW_i, ΔW_j>, the sum of products of entries, `[K, N, N]`. Raises ValueError if updates are not `[N, K, ...]`."""
    norms = frobenius_norms(check_updates(updates)).T
    return _unit_inner(*_units(updates)) * norms[:, :, None] * norms[:, None, :]


def cosine(updates: ThinSVD) -> jax.Array:
    """Of updates as vectors of their entries, `[K, N, N]`; NaN for zero updates. Raises as `inner_products` does."""
    there = frobenius_norms(check_updates(updates)).T > 0
    return jnp.where(there[:, :, None] & there[:, None, :], _unit_inner(*_units(updates)), jnp.nan)


def l2(updates: ThinSVD, *, relative: bool = False) -> jax.Array:
    """‖ΔW_i - ΔW_j‖ `[K, N, N]`, accurate for nearly equal updates.

    Args:
        relative: scale every update to norm 1 first: 2 sin(angle / 2), and NaN for zero updates.

    Raises:
        ValueError: updates are not `[N, K, ...]`.
    """
    updates = scaled_to_unit(check_updates(updates)) if relative else check_updates(updates)
    i, j = np.triu_indices(updates.s.shape[0], 1)
    norms = frobenius_norms(updates).T
    a, b = norms[:, i], norms[:, j]
    size = jnp.maximum(a, b)
    safe = jnp.where(size == 0, 1, size)
    a, b = a / safe, b / safe
    both = a**2 + b**2
    square = both - 2 * a * b * _unit_inner(*_units(updates))[:, i, j]
    values = np.array(jnp.sqrt(jnp.where(square > 0, square, 0 * square)))
    place, pair = np.nonzero(np.asarray(square < NEAR * both))
    for start in range(0, len(pair), CHUNK):
        k, p = (np.resize(x[start : start + CHUNK], CHUNK) for x in (place, pair))
        values[k, p] = decomposed(_difference, updates, i[p], j[p], k, safe[k, p])
    half = jnp.asarray(values) * size
    return (0 * norms[:, :, None] * jnp.eye(len(norms[0]))).at[:, i, j].set(half).at[:, j, i].set(half)


def subspace_similarity(updates: ThinSVD, side: Side = "right") -> jax.Array:
    """φ of the top p singular vectors of i and the top q of j, `[K, N, N, r, r]` at [k, i, j, p - 1, q - 1].

    `right` compares what updates read, as the LoRA paper does (A), `left` what they write (B). NaN beyond a rank.

    Raises:
        ValueError: updates are not `[N, K, ...]`, or no such side.
    """
    return _phi(_basis(updates, side), check_updates(updates).rank)


def subspace_alignment(updates: ThinSVD, *, epsilon: float = 0.05, side: Side = "left") -> jax.Array:
    """SAR of each pair `[K, N, N]`: the share of ‖ΔW_i‖ inside the top k_j directions of ΔW_j. Not symmetric.

    Args:
        epsilon: k_j is the least k that leaves at most this share of ‖ΔW_j‖ out.
        side: of the singular vectors; the paper has `left`.

    Raises:
        ValueError: updates are not `[N, K, ...]`, epsilon is not in 0..1, or no such side.
    """
    return _alignment(_basis(updates, side), _units(updates)[1], _epsilon(epsilon))


def merged_alignment(updates: ThinSVD, *, epsilon: float = 0.05, side: Side = "left") -> MergedAlignment:
    """SAR of every update against the sum of all (task arithmetic). Updates that are not finite are left out.

    Arguments and errors are those of `subspace_alignment`.
    """
    s = jnp.where(jnp.isfinite(check_updates(updates).s), updates.s, 0)
    own, other = _basis(updates, side), _basis(updates, "right" if side == "left" else "left")
    relative = s / jnp.max(s, (0, 2), keepdims=True)
    ratio, dimensions = decomposed(_merged, own, relative, other, _epsilon(epsilon))
    return MergedAlignment(jnp.where(frobenius_norms(updates) > 0, ratio.T, jnp.nan), dimensions)


def task_interference(updates: ThinSVD) -> jax.Array:
    """STI of the whole set `[K]`; updates that are not finite are left out. Raises as `inner_products` does.

    0 where no two updates share directions on both sides: sharing one side alone does not count.
    """
    finite = jnp.isfinite(check_updates(updates).s)
    return _set_interference(updates.u, jnp.where(finite, updates.s, 0), updates.v)


def pair_interference(updates: ThinSVD) -> jax.Array:
    """STI of each pair `[K, N, N]`, symmetric; on the diagonal that of an update and its copy, 2 Σ s.

    Raises:
        ValueError: updates are not `[N, K, ...]`.
    """
    half = _pair_interference(*check_updates(updates)[:3])
    return half + half.swapaxes(1, 2)


def check_updates(updates: ThinSVD) -> ThinSVD:
    """The same, if they are batched by task and place. Raises ValueError if not."""
    if len(updates) != 4 or updates.u.ndim != 4 or updates.s.ndim != 3:
        raise ValueError(f"updates must be a ThinSVD of [tasks, places, ...], got u {np.shape(updates[0])}")
    return updates


def _basis(updates, side):
    check_choice("side", side, get_args(Side))
    return check_updates(updates).u if side == "left" else updates.v


def _epsilon(epsilon):
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must be in 0..1, got {epsilon}")
    return epsilon


def _units(updates):
    """u, s of norm 1 (0 of a zero update) and v."""
    unit = jnp.where((updates.rank == 0)[..., None] & (updates.s == 0), 0, scaled_to_unit(updates).s)
    return updates.u, unit, updates.v


# --- the compiled part ------------------------------------------------------------------------------------------------
# Einsum letters: n, m tasks; o, e entries of a row and a column; d ambient; r, t directions.


def _einsum(subscripts, *operands):
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST)


def _places(function, *arrays):
    """function of each place's part of arrays `[N, K, ...]`, stacked."""
    return lax.map(lambda xs: function(*xs), tuple(x.swapaxes(0, 1) for x in arrays))


@jax.jit
def _unit_inner(u, s, v):
    def place(u, s, v):
        u = u * s[:, None]
        x = (_einsum("ndr,mdt->nmrt", u, u) * _einsum("ndr,mdt->nmrt", v, v)).sum((2, 3))
        return (x + x.T) / 2

    return _places(place, u, s, v)


@jax.jit
def _difference(updates, i, j, place, size):
    """‖ΔW_i - ΔW_j‖ / size: of [U_i s_i, -U_j s_j] [V_i, V_j]ᵀ, whose factors' triangles differ without cancelling."""
    u, s, v = updates.u, updates.s, updates.v
    si, sj = s[i, place][:, None] / size[:, None, None], s[j, place][:, None] / size[:, None, None]
    left = jnp.concatenate([u[i, place] * si, -u[j, place] * sj], -1)
    mine, others = _triangles(left, jnp.concatenate([v[i, place], v[j, place]], -1))
    return jnp.linalg.norm(_einsum("pra,pta->prt", mine, others), axis=(1, 2))


def _triangles(left, right):
    """R of the QR of each, in one call: two at a time wait for each other for ever on the CPU of jax 0.10."""
    rows = max(left.shape[-2], right.shape[-2])  # rows of zeros change nothing
    both = [jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, rows - x.shape[-2]), (0, 0)]) for x in (left, right)]
    return jnp.linalg.qr(jnp.stack(both), mode="r")


@jax.jit
def _phi(basis, rank):
    def place(u, rank):
        x = jnp.cumsum(jnp.cumsum(_einsum("ndr,mdt->nmrt", u, u) ** 2, 2), 3)
        p = 1 + jnp.arange(u.shape[-1])
        there = p <= rank[:, None]
        there = there[:, None, :, None] & there[None, :, None, :]
        return jnp.where(there, x / jnp.minimum(p[:, None], p), jnp.nan)

    return _places(place, basis, rank)


def _dimensions(s, epsilon):
    """The least k with Σ_{i > k} s_i² <= ε² Σ s_i²."""
    left = jnp.cumsum(s[..., ::-1] ** 2, -1)[..., ::-1]
    return (left > epsilon**2 * left[..., :1]).sum(-1)


@jax.jit
def _alignment(basis, s, epsilon):
    def place(u, s):
        top = jnp.arange(s.shape[-1]) < _dimensions(s, epsilon)[:, None]
        inside = jnp.linalg.norm(_einsum("ndr,mdt->nmrt", u * s[:, None], u * top[:, None]), axis=(2, 3))
        return jnp.where((s[:, 0] != 0)[:, None] & (s[:, 0] != 0), inside + 0 * s[:, 0], jnp.nan)

    return _places(place, basis, s)


@jax.jit
def _merged(own, s, other, epsilon):
    def place(own, s, other):
        def joined(x):  # [N, d, r] -> side by side, [d, N r]
            return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)

        mine, others = _triangles(joined(own * s[:, None]), joined(other))
        p, sigma, _ = jnp.linalg.svd(_einsum("ae,be->ab", mine, others), full_matrices=False)
        k = _dimensions(sigma, epsilon)
        inside = _einsum("ab,ae->be", p * (jnp.arange(len(sigma)) < k), mine).reshape(-1, *s.shape)
        return jnp.linalg.norm(inside, axis=(0, 2)) / jnp.linalg.norm(s, axis=-1), k

    return _places(place, own, s, other)


@jax.jit
def _set_interference(u, s, v):
    def place(u, s, v):
        task = jnp.repeat(jnp.arange(len(s)), s.shape[-1])

        def others(x):  # XᵀX - I, where a task's own block is 0: its columns are orthonormal
            x = jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)
            return jnp.where(task[:, None] == task, 0, _einsum("da,db->ab", x, x))

        return jnp.abs(_einsum("ab,bc->ac", others(u) * s.reshape(-1), others(v))).sum()

    return _places(place, u, s, v)


@jax.jit
def _pair_interference(u, s, v):
    def place(u, s, v):
        left, right = _einsum("ndr,mdt->nmrt", u, u), _einsum("ndr,mdt->nmrt", v, v)
        return jnp.abs(_einsum("nmra,ma,nmta->nmrt", left, s, right)).sum((2, 3)) + 0 * (s[:, :1] + s[:, 0])

    return _places(place, u, s, v)
