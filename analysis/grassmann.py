"""Distances between the subspaces that low-rank updates write to (columns of B) or read from (rows of A).

Two subspaces of dimensions p and q have min(p, q) principal angles 0 <= θ_1 <= ... <= π/2 (Jordan 1875): with
orthonormal bases U and V, cos θ_i are the singular values of UᵀV, and sin θ_i those of (I - UUᵀ)V. Cosines tell nothing
about small angles (cos 1e-4 is 1 in float32), sines nothing about angles near π/2; each angle is taken from the one
that is accurate, so that the distance of a space to itself is 0 up to rounding. Nothing is clamped away from 1.

The field has many distances, all functions of the angles. Which one a text means by "Grassmann distance" varies:

``sum``           Σ θ_i                                at most k π/2      (the sum of arc cosines)
``geodesic``      (Σ θ_i²)^½                           at most √k π/2     arc length on the Grassmannian
``chordal``       (Σ sin² θ_i)^½                       at most √k         ‖P_U - P_V‖_F / √2
``procrustes``    2 (Σ sin² θ_i/2)^½                   at most √(2k)      min over rotations of ‖U - VQ‖_F
``fubini_study``  arccos Π cos θ_i                     at most π/2
``binet_cauchy``  (1 - Π cos² θ_i)^½                   at most 1
``asimov``        θ_k, the largest                     at most π/2
``projection``    sin θ_k                              at most 1          ‖P_U - P_V‖_2
``spectral``      2 sin θ_k/2                          at most √2
``martin``        (-Σ log cos² θ_i)^½                  unbounded; inf where an angle is π/2; no metric

All but `martin` are metrics on subspaces of one dimension. **Unequal dimensions** (Ye & Lim 2016): `unequal="pad"`
counts each missing angle as π/2, and a space inside a larger one is at a distance; `"contained"` leaves missing angles
out, and its distance is 0 (no metric: two lines in one plane). The zero space, and one that is not finite, gives NaN.

**Against chance.** Random 8-dimensional subspaces of 4096 dimensions are at 98 % of the largest distance, those of 768
dimensions at 94 %: distances between modules of different width (q and v under grouped queries) can be averaged only as
a share of their own expectation, `expected_distance`, which is simulated without ever forming a d-dimensional basis.

Invariant to: an invertible r × r factor moved between B and A, the scale alpha / r, a rotation of the ambient space.

Accuracy: absolute error of an angle a few eps times √d; in float64, 1e-6 relative from angles of 1e-7 on (tested
against subspaces with known angles). Cost: one GEMM per layer and an SVD of r × r per pair; sines only for pairs with
an angle below 45 degrees.

Björck & Golub, "Numerical methods for computing angles between linear subspaces", Math. Comp. 27, 1973. Edelman, Arias
& Smith, "The geometry of algorithms with orthogonality constraints", SIAM J. Matrix Anal. Appl. 20, 1998. Ye & Lim,
"Schubert varieties and distances between subspaces of different dimensions", SIAM J. Matrix Anal. Appl. 37, 2016.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import as_jax, check_choice
from analysis.low_rank import after, decomposed, orthonormal_basis

__all__ = [
    "Expected",
    "Unequal",
    "Variant",
    "all_pair_angles",
    "distance",
    "expected_distance",
    "grassmann_all_pairs",
    "principal_angles",
]

Variant = Literal[
    "sum",
    "geodesic",
    "chordal",
    "procrustes",
    "fubini_study",
    "binet_cauchy",
    "asimov",
    "projection",
    "spectral",
    "martin",
]
Unequal = Literal["pad", "contained"]

#: Parts that all subspaces are cut into for their products: more are fewer products, and each slower.
STRIPS = 4

#: Pairs of subspaces whose sines are computed at a time.
CHUNK = 128


def principal_angles(x: ArrayLike, y: ArrayLike, *, unequal: Unequal = "pad") -> jax.Array:
    """Angles in radians, ascending, between the column spaces of x `[..., d, p]` and y `[..., d, q]`.

    -> `[..., max(p, q)]`, NaN where there is no angle: filled up with π/2 (`pad`) or NaN (`contained`) between the
    smaller and the larger numerical rank, and NaN beyond. The columns need not be orthonormal.

    Raises:
        ValueError: the shapes do not go together, or unequal is not one of the two.
    """
    check_choice("unequal", unequal, get_args(Unequal))
    x, y = as_jax("x", x), as_jax("y", y)
    if x.ndim < 2 or x.ndim != y.ndim or x.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"x and y must be [..., d, p] and [..., d, q], got shapes {x.shape} and {y.shape}")
    width = max(x.shape[-1], y.shape[-1])
    (u, p), (v, q) = orthonormal_basis(_widened(x, width)), orthonormal_basis(_widened(y, width))
    return decomposed(partial(_angles, pad=unequal == "pad"), u, v, p, q)


def distance(angles: ArrayLike, variant: Variant = "geodesic") -> jax.Array:
    """The distance of that name from angles `[..., k]` in radians -> `[...]`; NaN angles are not there.

    NaN where no angle is there. Raises ValueError if there is no such variant.
    """
    check_choice("variant", variant, get_args(Variant))
    return _distance(as_jax("angles", angles), variant)


def grassmann_all_pairs(
    bases: ArrayLike, ranks: ArrayLike | None = None, *, variant: Variant = "geodesic", unequal: Unequal = "pad"
) -> jax.Array:
    """Distances of all pairs of N subspaces, in each of K places (layers, modules): `[N, K, d, r]` -> `[K, N, N]`.

    Args:
        bases: orthonormal columns up to the rank and 0 beyond, as `thin_svd` gives them (`u` or `v`).
        ranks: int `[N, K]`; r everywhere if not given.
        unequal: what becomes of missing angles where ranks differ, "pad" or "contained".

    Raises:
        ValueError: bases is not `[N, K, d, r]`, ranks not `[N, K]`, or no such variant or unequal.
    """
    check_choice("variant", variant, get_args(Variant))
    angles, (i, j) = all_pair_angles(bases, ranks, unequal=unequal)
    N, half = np.shape(bases)[0], _distance(angles, variant)
    # A space is at distance 0 from itself; that of the zero space to itself is as undefined as its others.
    own = jnp.where(_ranks(as_jax("bases", bases), ranks) > 0, 0.0, jnp.nan).T.astype(half.dtype)
    whole = jnp.zeros((half.shape[0], N, N), half.dtype).at[:, i, j].set(half).at[:, j, i].set(half)
    return whole.at[:, jnp.arange(N), jnp.arange(N)].set(own)


def all_pair_angles(
    bases: ArrayLike, ranks: ArrayLike | None = None, *, unequal: Unequal = "pad"
) -> tuple[jax.Array, tuple[np.ndarray, np.ndarray]]:
    """`principal_angles` `[K, pairs, r]` of all pairs i < j, and i and j. Else as `grassmann_all_pairs`, ranks too."""
    check_choice("unequal", unequal, get_args(Unequal))
    u = as_jax("bases", bases)
    if u.ndim != 4:
        raise ValueError(f"bases must be [subspaces, places, d, r], got shape {u.shape}")
    rank = _ranks(u, ranks)
    i, j = np.triu_indices(u.shape[0], 1)
    if not len(i):
        return jnp.zeros((u.shape[1], 0, u.shape[3]), u.dtype), (i, j)
    cosines = decomposed(_all_cosines, u)
    sines = np.zeros(cosines.shape, cosines.dtype)
    # Sines cost d r² and an SVD of d × r a pair, and only angles below 45 degrees need them: mostly there are none.
    place, pair = np.nonzero(np.asarray(cosines[..., 0]) > 0.7)
    for start in range(0, len(pair), CHUNK):
        k, p = (np.resize(x[start : start + CHUNK], CHUNK) for x in (place, pair))
        sines[k, p] = decomposed(_sines_of, u, rank, i[p], j[p], k)
    return _paired(cosines, jnp.asarray(sines), rank[i].T, rank[j].T, unequal == "pad"), (i, j)


class Expected(NamedTuple):
    """What random subspaces give."""

    mean: float
    std: float
    """Of single distances, not of the mean."""


@functools.lru_cache(maxsize=1024)
def expected_distance(
    d: int,
    p: int,
    q: int | None = None,
    *,
    variant: Variant = "geodesic",
    unequal: Unequal = "pad",
    draws: int = 4000,
    seed: int = 0,
) -> Expected:
    """Distance between uniformly random subspaces of dimensions p and q (p if not given) of d dimensions.

    From `draws` pairs simulated by seed, measured by variant and unequal. The mean's relative error is std / mean /
    √draws, below 1e-3 for 8 of 768 dimensions.
    cos² θ are the eigenvalues of a multivariate beta variable, W₁ (W₁ + W₂)⁻¹ with independent Wishart matrices W₁, W₂
    of the smaller dimension with (larger, d - larger) degrees of freedom (Muirhead 1982, section 3.3).

    Raises:
        ValueError: p or q is not in 1..d, or no such variant.
    """
    q = p if q is None else q
    if not (1 <= p <= d and 1 <= q <= d):
        raise ValueError(f"dimensions must be in 1..{d}, got {p} and {q}")
    check_choice("unequal", unequal, get_args(Unequal))
    small, large = sorted((p, q))
    rng = np.random.default_rng(seed)
    # U, d × small, random; the other space spans the first `large` axes: cosines are those of U's first rows.
    top, rest = wishart_root(rng, draws, small, large), wishart_root(rng, draws, small, d - large)
    # Singular values of top · R⁻¹ with RᵀR = topᵀtop + restᵀrest are the cosines, those of rest · R⁻¹ the sines.
    lower = np.swapaxes(np.asarray(np.linalg.qr(np.concatenate([top, rest], 1), mode="r")), 1, 2)
    cos, sin = (
        np.linalg.svd(np.linalg.solve(lower, np.swapaxes(part, 1, 2)), full_matrices=False, compute_uv=False)
        for part in (top, rest)
    )
    cos, sin = _filled(cos, small), _filled(sin, small)[:, ::-1]
    angles = np.arctan2(sin, cos)
    if unequal == "pad":
        angles = np.pad(angles, ((0, 0), (0, large - small)), constant_values=np.pi / 2)
    values = np.asarray(distance(jnp.asarray(angles), variant), np.float64)
    return Expected(float(values.mean()), float(values.std(ddof=1)))


def wishart_root(rng, draws, size, freedom):
    """Matrices T `[draws, min(freedom, size), size]` with TᵀT Wishart of that many degrees of freedom (Bartlett)."""
    rows = min(freedom, size)
    t = np.triu(rng.standard_normal((draws, rows, size)), 1)
    i = np.arange(rows)
    t[:, i, i] = np.sqrt(rng.chisquare(freedom - i, (draws, rows)))
    return t


def _filled(x, size):
    return np.pad(x[:, :size], ((0, 0), (0, size - min(size, x.shape[1]))))


# --- the compiled part ------------------------------------------------------------------------------------------------
# Einsum letters: d ambient; r, s directions of the two sides.


def _ranks(u, ranks):
    if ranks is None:
        return jnp.full(u.shape[:2], u.shape[3])
    ranks = as_jax("ranks", ranks)
    if ranks.shape != u.shape[:2]:
        raise ValueError(f"ranks must be {u.shape[:2]} as bases {u.shape} has, got {ranks.shape}")
    return ranks


def _widened(x, width):
    """x `[..., d, p]` with columns of zeros up to `width`, and rows as far as that needs them."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, max(0, width - x.shape[-2])), (0, width - x.shape[-1])])


@partial(jax.jit, static_argnames="pad")
def _angles(u, v, p, q, pad):
    sines = _sines(u, v, p, q)
    cosines = jnp.linalg.svd(after(_inner(u, v), sines[..., None]), compute_uv=False)
    return _paired(cosines, sines, p, q, pad)


@jax.jit
def _all_cosines(u):
    """Of the pairs i < j of bases `[N, K, d, r]` -> `[K, pairs, r]`, descending."""
    # By rows, of which a CPU makes products faster; all at once, in half of the time of one place after another.
    return lax.map(lambda rows: jnp.linalg.svd(_products(rows), compute_uv=False), u.transpose(1, 0, 3, 2))


def _products(rows):
    """U_iᵀ U_j of the pairs i < j of bases given by rows `[N, r, d]` -> `[pairs, r, r]`, as `triu_indices` has them.

    In strips of subspaces, each with itself and those after it: 5/8 of all products where there are four.
    """
    N, r, d = rows.shape
    flat, step, found = rows.reshape(N * r, d), -(-N // STRIPS), []
    for first in range(0, N, step):
        own = min(step, N - first)
        strip, rest = flat[first * r : (first + own) * r], flat[first * r :]
        c = jnp.einsum("ad,bd->ab", strip, rest, precision=lax.Precision.HIGHEST)
        i, j = np.triu_indices(own, 1, N - first)
        found.append(c.reshape(own, r, N - first, r)[i, :, j])
    return jnp.concatenate(found)


@jax.jit
def _sines_of(u, rank, i, j, place):
    return _sines(u[i, place], u[j, place], rank[i, place], rank[j, place])


def _inner(u, v):
    return jnp.einsum("...dr,...ds->...rs", u, v, precision=lax.Precision.HIGHEST)


def _sines(u, v, p, q):
    """Descending: min(p, q) sines first, then zeros."""
    # What the smaller space has outside of the larger. Columns of zeros add zeros, which sort last.
    swap = (q > p)[..., None, None]
    large, small = jnp.where(swap, v, u), jnp.where(swap, u, v)
    for _ in range(2):  # the second time takes away what rounding left inside
        small = small - jnp.einsum("...dr,...rs->...ds", large, _inner(large, small), precision=lax.Precision.HIGHEST)
    return jnp.linalg.svd(jnp.linalg.qr(small, mode="r"), compute_uv=False)


def _paired(cosines, sines, p, q, pad):
    """Ascending angles from cosines and sines, both descending, of spaces of dimensions p and q."""
    k = jnp.arange(cosines.shape[-1])
    fewer, more = jnp.minimum(p, q)[..., None], jnp.maximum(p, q)[..., None]
    # The largest cosine belongs to the smallest sine.
    sines = jnp.take_along_axis(sines, jnp.clip(fewer - 1 - k, 0), -1)
    angle = jnp.where(cosines > 0.7, jnp.arcsin(jnp.clip(sines, 0, 1)), jnp.arccos(jnp.clip(cosines, 0, 1)))
    angle = jnp.where(k < fewer, angle, jnp.pi / 2 if pad else jnp.nan)
    # NaN passes: comparisons with it would not.
    undefined = (fewer == 0) | jnp.isnan(cosines)
    return jnp.where((k < more) & ~undefined, angle, jnp.nan)


@partial(jax.jit, static_argnames="variant")
def _distance(angles, variant):
    there = ~jnp.isnan(angles)
    theta = jnp.where(there, angles, 0)
    sin2 = jnp.sin(theta) ** 2
    largest = theta.max(-1)
    # log Π cos² θ: from sines, accurate for small angles; π/2 is no floating-point number, and its cosine is not 0.
    log_cos = jnp.where(theta < jnp.asarray(jnp.pi / 2, theta.dtype), jnp.log(jnp.cos(theta)), -jnp.inf)
    log_cos2 = jnp.where(theta < jnp.pi / 4, jnp.log1p(-sin2), 2 * log_cos).sum(-1)
    value = {
        "sum": lambda: theta.sum(-1),
        "geodesic": lambda: jnp.linalg.norm(theta, axis=-1),
        "chordal": lambda: jnp.sqrt(sin2.sum(-1)),
        "procrustes": lambda: 2 * jnp.linalg.norm(jnp.sin(theta / 2), axis=-1),
        "fubini_study": lambda: jnp.arctan2(jnp.sqrt(-jnp.expm1(log_cos2)), jnp.exp(log_cos2 / 2)),
        "binet_cauchy": lambda: jnp.sqrt(-jnp.expm1(log_cos2)),
        "asimov": lambda: largest,
        "projection": lambda: jnp.sin(largest),
        "spectral": lambda: 2 * jnp.sin(largest / 2),
        "martin": lambda: jnp.sqrt(-log_cos2),
    }[variant]()
    return jnp.where(there.any(-1), value, jnp.nan)
