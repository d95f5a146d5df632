"""Low-rank updates ΔW = scale · B A, from their factors: thin singular value decompositions, never a dense product.

An update is what LoRA adds to a weight `[out, in]`; B is `[out, r]` and A is `[r, in]`, as PEFT files hold them. B and
A are not determined by the update: (B G, G⁻¹ A) is the same one for every invertible G. So factors are never compared,
updates are. Every measure of updates starts from

    ΔW = U diag(s) Vᵀ,   U `[out, r]` and V `[in, r]` orthonormal, s >= 0 descending,

made by a QR of each factor and an SVD of the r × r core: O((out + in) r²), where the dense way takes O(out · in · r)
for the product alone. All functions are batched over any leading axes (tasks, layers, modules) and compiled.

Directions with s not above `tolerance` times the largest count as not there: `rank` tells how many are, and the other
columns of U and V are 0, so that they drop out of every inner product. The default tolerance is 10 r eps: errors of the
decomposition are a few r eps, whatever `out` and `in` are (the usual max(out, in) eps would, in float32 and at 4096,
drop directions that a trained adapter does use). A zero update has rank 0; one that is not finite has s = NaN and rank
0.

Accuracy: s to a few eps of the largest; relative to itself as far as the factors are well conditioned.
"""

from __future__ import annotations

import functools
import importlib
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import as_jax

__all__ = ["ThinSVD", "after", "decomposed", "missing_reason", "orthonormal_basis", "scaled_to_unit", "thin_svd"]


#: Matrices that are decomposed together on a CPU.
CHUNK = 16


class ThinSVD(NamedTuple):
    """U diag(s) Vᵀ of updates `[..., out, in]`; columns of u and v, and entries of s, are 0 from `rank` on."""

    u: jax.Array
    """`[..., out, r]`: what the update writes."""
    s: jax.Array
    """`[..., r]`, descending."""
    v: jax.Array
    """`[..., in, r]`: what the update reads."""
    rank: jax.Array
    """int `[...]`."""


def thin_svd(B: ArrayLike, A: ArrayLike, scale: ArrayLike = 1.0, *, tolerance: float | None = None) -> ThinSVD:
    """Singular value decomposition of `scale · B @ A` for B `[..., out, r]`, A `[..., r, in]`, scale `[...]`.

    Factors padded with zero columns and rows, to a common r, give the same. In float32, or float64 if given.

    Args:
        tolerance: directions at or below this share of the largest singular value are dropped; 10 r eps by default.

    Raises:
        ValueError: shapes do not go together; r exceeds out or in.
    """
    b, a, scale = as_jax("B", B), as_jax("A", A), as_jax("scale", scale)
    if b.ndim < 2 or a.ndim < 2 or b.shape[-1] != a.shape[-2] or b.shape[:-2] != a.shape[:-2]:
        raise ValueError(f"expected B [..., out, r] and A [..., r, in], got B {b.shape} and A {a.shape}")
    r, batch = b.shape[-1], b.shape[:-2]
    if r == 0 or r > min(b.shape[-2], a.shape[-1]):
        raise ValueError(f"the rank must be in 1..min(out, in), got B {b.shape} and A {a.shape}")
    if scale.shape not in ((), batch):
        raise ValueError(f"scale must be one number or {batch} as B {b.shape} has, got {scale.shape}")
    dtype = _dtype(b, a)
    tolerance = 10 * r * float(jnp.finfo(dtype).eps) if tolerance is None else tolerance
    scale = jnp.broadcast_to(scale, batch).astype(dtype)
    return decomposed(partial(_thin_svd, tolerance=tolerance), b.astype(dtype), a.astype(dtype), scale)


def orthonormal_basis(x: ArrayLike, *, tolerance: float | None = None) -> tuple[jax.Array, jax.Array]:
    """Orthonormal bases of the column spaces of x `[..., d, r]` -> `[..., d, r]`, 0 from the rank on, and int `[...]`.

    Args:
        tolerance: as in `thin_svd`.

    Raises:
        ValueError: x is no stack of matrices, or r exceeds d.
    """
    x = as_jax("x", x)
    if x.ndim < 2 or not 0 < x.shape[-1] <= x.shape[-2]:
        raise ValueError(f"x must be [..., d, r] with 1 <= r <= d, got shape {x.shape}")
    dtype, r = _dtype(x), x.shape[-1]
    tolerance = 10 * r * float(jnp.finfo(dtype).eps) if tolerance is None else tolerance
    return decomposed(partial(_basis, tolerance=tolerance), x.astype(dtype))


def scaled_to_unit(svd: ThinSVD) -> ThinSVD:
    """The updates of svd, each with Frobenius norm 1: what size alone explains is gone. NaN where an update is 0."""
    size = jnp.max(svd.s, -1, keepdims=True)
    s = svd.s / size
    return svd._replace(s=s / jnp.linalg.norm(s, axis=-1, keepdims=True))


def missing_reason(svd: ThinSVD) -> np.ndarray:
    """Why an update of svd has no direction to compare, as objects `[...]`: a text, or None where it has."""
    finite, rank = np.isfinite(np.asarray(svd.s)).all(-1), np.asarray(svd.rank)
    reasons = np.full(rank.shape, None, object)
    reasons[rank == 0] = "the update is zero"
    reasons[~finite] = "the update is not finite"
    return reasons


def after(x: jax.Array, done: jax.Array) -> jax.Array:
    """x `[..., n, m]`, not to be had before done `[..., k, l]` is; NaN where that is not finite.

    Two batched decompositions that do not depend on each other may run at a time, each splitting its batch over the
    threads of the CPU: with as few threads as decompositions, jaxlib 0.10 waits for ever. So they are made to.
    """
    return x + 0 * done[..., :1, :1]


def decomposed(program, *arguments):
    """program(*arguments), computed when this returns, with LAPACK in one thread.

    XLA already splits a batch of small matrices over the threads of the CPU. OpenBLAS, below it, would again take all
    of them for each matrix: 20 times as slow here, when other work is on the machine. And another program with
    decompositions must not run beside this one (`after`). Under a trace there is nothing to wait for.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        return program(*arguments)
    with _blas().limit(limits=1, user_api="blas"):
        return jax.block_until_ready(program(*arguments))


@functools.cache
def _blas():
    importlib.import_module("scipy.linalg")  # whose library jax calls
    return threadpoolctl.ThreadpoolController()


def _dtype(*arrays):
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


# --- the compiled part ------------------------------------------------------------------------------------------------


def _in_chunks(function):
    """A function of arrays `[*batch, ...]`, the first of which are matrices, for a few matrices at a time.

    Every step of a decomposition writes its results anew. On a CPU those of all matrices at once do not stay in its
    caches, and getting the memory from the system takes longer than LAPACK does: 1.5 times as long in all.
    """

    @functools.wraps(function)
    def chunked(*arrays, tolerance):
        batch = arrays[0].shape[:-2]
        count = math.prod(batch)
        if count <= 2 * CHUNK or jax.default_backend() != "cpu":
            return function(*arrays, tolerance=tolerance)
        # A remainder would be a second program of decompositions beside the first: see `after`.
        each = next((n for n in range(CHUNK, CHUNK // 2, -1) if count % n == 0), CHUNK)
        chunks = -(-count // each)

        def cut(x):
            x = x.reshape(count, *x.shape[len(batch) :])
            x = jnp.pad(x, [(0, chunks * each - count)] + [(0, 0)] * (x.ndim - 1)) if count % each else x
            return x.reshape(chunks, each, *x.shape[1:])

        def joined(x):
            return x.reshape(chunks * each, *x.shape[2:])[:count].reshape(*batch, *x.shape[2:])

        parts = lax.map(lambda part: function(*part, tolerance=tolerance), tuple(map(cut, arrays)))
        return jax.tree.map(joined, parts)

    return chunked


@partial(jax.jit, static_argnames="tolerance")
@_in_chunks
def _thin_svd(b, a, scale, tolerance):
    # Brought to size 1 first, so that no product of tiny or huge factors leaves the range of the dtype.
    b, size_b = _normalised(b)
    a, size_a = _normalised(jnp.swapaxes(a, -1, -2))
    qb, rb = jnp.linalg.qr(b)
    qa, ra = jnp.linalg.qr(after(a, qb))
    core = jnp.einsum("...ij,...kj->...ik", rb, ra, precision=lax.Precision.HIGHEST)
    p, s, wt = jnp.linalg.svd(after(core, qa))
    rank = _rank(s, tolerance)
    keep = jnp.arange(s.shape[-1]) < rank[..., None]
    keep = keep | jnp.isnan(s)
    factor = size_b * size_a * jnp.abs(scale)
    u = jnp.einsum("...di,...ir->...dr", qb, p, precision=lax.Precision.HIGHEST)
    v = jnp.einsum("...di,...ri->...dr", qa, wt, precision=lax.Precision.HIGHEST)
    u = u * jnp.where(scale < 0, -1, 1)[..., None, None]
    s = jnp.where(keep, s * factor[..., None], 0)
    present = (rank > 0) & (factor != 0)
    there = (keep & present[..., None])[..., None, :]
    return ThinSVD(jnp.where(there, u, 0), s, jnp.where(there, v, 0), jnp.where(present, rank, 0))


@partial(jax.jit, static_argnames="tolerance")
@_in_chunks
def _basis(x, tolerance):
    q, triangle = jnp.linalg.qr(_normalised(x)[0])
    p, s, _ = jnp.linalg.svd(after(triangle, q))
    rank = _rank(s, tolerance)
    keep = jnp.arange(s.shape[-1]) < rank[..., None]
    u = jnp.einsum("...di,...ir->...dr", q, p, precision=lax.Precision.HIGHEST)
    return jnp.where(keep[..., None, :], u, 0), rank


def _rank(s, tolerance):
    return (s > tolerance * s[..., :1]).sum(-1)


def _normalised(x):
    """x `[..., d, r]` over its largest absolute value, and that value; over 1 where it is 0."""
    size = jnp.abs(x).max((-2, -1))
    safe = jnp.where(size > 0, size, 1)[..., None, None]
    return x / safe, size
