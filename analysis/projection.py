"""Spectral projection: how one task's update uses the space of another, for all ordered pairs of tasks.

Task i's update ΔW_i = U_i diag(S1) V_iᵀ has a space, U_i and V_i, and a use of it, its singular values S1 = s_i. The
update of task j is represented in that space by the diagonal matrix nearest to it:

    S2 = argmin_S ‖U_i diag(S) V_iᵀ - ΔW_j‖_F = diag(U_iᵀ ΔW_j V_i) = ((U_iᵀU_j) ∘ (V_iᵀV_j)) s_j,

because ‖U_i diag(S) V_iᵀ - ΔW_j‖² = ‖ΔW_j‖² - ‖S2‖² + ‖S - S2‖². The pair **i -> j** is the space of i and the update
of j, entry [k, i, j] of every result; j -> i is another number.

**The form of S2.** The minimiser is *signed*: where it is negative, j writes the opposite of what i writes. Over S >= 0
the minimiser is max(0, S2), *nonnegative*. |S2|, *absolute*, minimises neither; it asks how strongly a direction is
used, whichever way. The work that proposed this for adapters leaves the form open. Its entropies, 0.84 to 0.87 of the
largest, fit `absolute`, the default here: unrelated updates of rank 8 give 0.84 to 0.87 in that form, and 0.50 to 0.53
in the nonnegative one. Its L1 is of spectra that are not normalised.

Measures, from S1 and S2, p = S1 / ΣS1 and q = S2 / ΣS2 (normalised spectra):

``lp``                (Σ |S1 - S2|^p)^(1/p)        >= 0, in units of singular values: the size of i's update dominates
``lp_normalised``     the same of p and q          0 .. 2^(1/p)
``rec``               Σ min(p_a, q_a)              0 .. 1: 1 - total variation; twice the Bayes error between p and q
``entropy_s1``        -Σ p log p / log r           0 .. 1: 1 if all directions are used alike
``entropy_s2``        -Σ q log q / log r           0 .. 1
``capture_diagonal``  ‖S2‖² / ‖ΔW_j‖²              0 .. 1; of the signed S2, whatever the form
``capture_block``     ‖U_iᵀ ΔW_j V_i‖² / ‖ΔW_j‖²   0 .. 1, at least the diagonal
``capture_columns``   ‖U_iU_iᵀ ΔW_j‖² / ‖ΔW_j‖²    0 .. 1, at least the block: of what j writes
``capture_rows``      ‖ΔW_j V_iV_iᵀ‖² / ‖ΔW_j‖²    0 .. 1, at least the block: of what j reads

With p = 1, lp_normalised is 2 (1 - rec). Near-total capture in one direction only is inclusion: j lies in i. REC and
entropies are of shapes, and can be large where the captures are 1e-6.

**Chance is not 0.** Unrelated updates of rank 8 have an expected REC of 0.50 to 0.70, depending on both spectra (0.51
to 0.57 for geometric ones with the published entropies), see `analysis.projection_null`. Their captures have the means
r_i / (out · in) (diagonal), r_i² / (out · in) (block), r_i / out and r_i / in.

**Ranks.** S1 and S2 have rank_i entries, whatever the rank of j; all further entries are 0. Entropies are divided by
the log of the arrays' width r ("nominal"), or of rank_i ("numerical"; 0/0 at rank 1).

NaN: pairs with a missing update; normalised measures where S2 is all 0, or `signed` and somewhere negative.

Invariant to: an invertible r × r factor moved between B and A, the sign of a pair of singular vectors, rotations of
input and output space, and, except for `lp`, the sizes of both updates. **Undetermined** where i has equal singular
values: its singular vectors are then arbitrary, and with them S2 and everything made of it; the captures but the
diagonal are not.

Accuracy: of S2, a few eps √d times the largest singular value of j. Cost: per place two GEMMs of [N r, d] with itself,
and O(r³) per pair; nothing of size out × in.

Fosse et al., "Statistical deficiency for task inclusion estimation", ACL 2025 (of the same task vectors).
Ilharco et al., "Editing models with task arithmetic", ICLR 2023 (task vectors).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import as_jax, check_choice
from analysis.low_rank import ThinSVD

__all__ = ["EntropyUnit", "Form", "Projection", "entropy", "lp_distance", "project", "projection_all_pairs", "rec"]

Form = Literal["absolute", "signed", "nonnegative"]
EntropyUnit = Literal["nominal", "numerical", "nats"]


class Projection(NamedTuple):
    """All ordered pairs, `[K, N, N]`: entry [k, i, j] is the update of j on the space of i. NaN where undefined."""

    rec: jax.Array
    lp: jax.Array
    lp_normalised: jax.Array
    entropy_s1: jax.Array
    """The same for all j, but where the update of j is missing: averages are then over the same places."""
    entropy_s2: jax.Array
    capture_diagonal: jax.Array
    capture_block: jax.Array
    capture_columns: jax.Array
    capture_rows: jax.Array
    s2: jax.Array
    """`[K, N, N, r]` in the form asked for, 0 from rank_i on."""


def projection_all_pairs(
    svd: ThinSVD, *, form: Form = "absolute", p: float = 1.0, entropy_unit: EntropyUnit = "nominal"
) -> Projection:
    """All measures of all ordered pairs of N tasks in each of K places, from updates batched `[N, K]`.

    Args:
        form: of S2, see the module docstring.
        p: of the L_p distances, at least 1, or inf.
        entropy_unit: share of log r, share of log rank_i, or nats.

    Raises:
        ValueError: svd is not batched so, p < 1, or there is no such form or unit.
    """
    check_projection(svd, form, p, entropy_unit)
    return _all_pairs(svd, form, float(p), entropy_unit)


def project(space: ThinSVD, update: ThinSVD, *, form: Form = "absolute") -> jax.Array:
    """S2 of each update `[..., out, in]` on its space `[..., out, in]` -> `[..., r]` of the space's r, in their dtype.

    Raises:
        ValueError: out, in or the leading axes differ, or there is no such form.
    """
    check_choice("form", form, get_args(Form))
    for side, x, y in (("u", space.u, update.u), ("v", space.v, update.v)):
        if x.shape[:-1] != y.shape[:-1]:
            raise ValueError(f"space and update must agree in all but r, got {side} {x.shape} and {y.shape}")
    s2 = jnp.einsum("...ab,...b,...ab->...a", _cross(space.u, update.u), update.s, _cross(space.v, update.v))
    return jnp.where(((space.rank > 0) & (update.rank > 0))[..., None], in_form(s2, form), jnp.nan)


# --- measures of spectra ----------------------------------------------------------------------------------------------


def rec(s1: ArrayLike, s2: ArrayLike) -> jax.Array:
    """Overlap of normalised spectra `[..., r]`, Σ min(s1/Σs1, s2/Σs2) -> `[...]` in [0, 1]; 1 - total variation.

    In float32, or float64 if given. Zeros fill up the shorter. NaN where a spectrum is 0 or has a negative entry.
    """
    p, q = (_distribution(s) for s in _spectra(s1, s2))
    return jnp.minimum(p, q).sum(-1)


def lp_distance(s1: ArrayLike, s2: ArrayLike, p: float = 1.0, *, normalised: bool = False) -> jax.Array:
    """(Σ |s1 - s2|^p)^(1/p) of spectra `[..., r]` -> `[...]`, dtype as `rec`; the largest difference if p is inf.

    Args:
        normalised: of spectra divided by their sums, NaN as in `rec`; otherwise they may be signed.

    Raises:
        ValueError: p < 1, which gives no distance.
    """
    check_p(p)
    x, y = _spectra(s1, s2)
    return _lp(_distribution(x) - _distribution(y), p) if normalised else _lp(x - y, p)


def entropy(s: ArrayLike, *, base: float = math.e, normalised: bool = True, rank: ArrayLike | None = None) -> jax.Array:
    """Shannon entropy of spectra s `[..., r]` divided by their sums -> `[...]`. dtype and NaN as in `rec`.

    Args:
        base: of the logarithm, e for nats and 2 for bits. Of no effect on a normalised entropy.
        normalised: divide by log r, the largest possible value, so that the result is in [0, 1]; 0/0 where r is 1.
        rank: `[...]`, numbers to take in place of r there.

    Raises:
        ValueError: base is not above 1.
    """
    if not base > 1:
        raise ValueError(f"base must be above 1, got {base}")
    (x,) = _spectra(s)
    nats = _entropy(_distribution(x))
    if not normalised:
        return nats / math.log(base)
    return nats / jnp.log(jnp.asarray(x.shape[-1] if rank is None else rank, x.dtype))


# --- for this module and projection_null ------------------------------------------------------------------------------
# Einsum letters: i task whose space it is, j task whose update; a, c directions of i; b of j; d ambient.


def check_projection(svd: ThinSVD, form: str, p: float, entropy_unit: str) -> None:
    """Raises the ValueErrors of `projection_all_pairs`."""
    check_choice("form", form, get_args(Form))
    check_choice("entropy_unit", entropy_unit, get_args(EntropyUnit))
    check_p(p)
    if svd.u.ndim != 4 or svd.v.ndim != 4 or svd.s.ndim != 3:
        raise ValueError(
            f"updates must be batched [tasks, places], got u {svd.u.shape}, s {svd.s.shape} and v {svd.v.shape}"
        )


def check_p(p: float) -> None:
    if not p >= 1:
        raise ValueError(f"p must be at least 1, or inf, got {p}")


def unit_spectra(s: jax.Array, rank: jax.Array) -> tuple[jax.Array, jax.Array]:
    """s `[N, r]` -> s over its largest value, 0 where the update is missing, and that value `[N]`.

    Squares of it neither overflow nor vanish.
    """
    present = rank > 0
    size = jnp.where(present, s[:, 0], 1)
    return jnp.where(present[:, None], s / size[:, None], 0), size


def in_form(s2: jax.Array, form: str) -> jax.Array:
    """Signed S2 -> S2 in that form."""
    return {"signed": lambda x: x, "absolute": jnp.abs, "nonnegative": lambda x: jnp.maximum(x, 0)}[form](s2)


def compare_spectra(
    s1: jax.Array, s2: jax.Array, rank: jax.Array, form: str, p: float, unit: str
) -> dict[str, jax.Array]:
    """The measures of spectra `[..., r]` (that broadcast), S2 still signed -> `[...]` by name; rank `[...]` of S1."""
    of = _entropy_divisor(unit, rank, s2.shape[-1])
    s2 = in_form(s2, form)
    p1, p2 = _shares(s1), _shares(_undefined_if_negative(s2) if form == "signed" else s2)
    return {
        "rec": jnp.minimum(p1, p2).sum(-1),
        "lp": _lp(s1 - s2, p),
        "lp_normalised": _lp(p1 - p2, p),
        "entropy_s2": _entropy(p2) / of,
    }


def _entropy_divisor(unit, rank, r):
    return {"nominal": math.log(r), "numerical": jnp.log(rank), "nats": 1.0}[unit]


@partial(jax.jit, static_argnames=("form", "p", "unit"))
def _all_pairs(svd, form, p, unit):
    def place(k):  # a slice at a time: the whole, transposed, would take as much memory again
        u, s, v, rank = (part[:, k] for part in svd)
        cu, cv = inner_products(u), inner_products(v)
        t, size = unit_spectra(s, rank)
        block = jnp.einsum("ijab,jb,ijcb->ijac", cu, t, cv, precision=lax.Precision.HIGHEST)
        diagonal = jnp.diagonal(block, axis1=-2, axis2=-1)
        shares = {
            "capture_diagonal": (diagonal**2).sum(-1),
            "capture_block": (block**2).sum((-2, -1)),
            "capture_columns": jnp.einsum("ijab,jb->ij", cu**2, t**2, precision=lax.Precision.HIGHEST),
            "capture_rows": jnp.einsum("ijab,jb->ij", cv**2, t**2, precision=lax.Precision.HIGHEST),
        }
        s2 = diagonal * size[:, None]
        values = compare_spectra(s[:, None], s2, rank[:, None], form, p, unit)
        values["entropy_s1"] = (_entropy(_shares(s)) / _entropy_divisor(unit, rank, s.shape[-1]))[:, None]
        values |= {name: x / (t**2).sum(-1) for name, x in shares.items()}
        present = (rank > 0)[:, None] & (rank > 0)
        whole = {name: jnp.where(present, x, jnp.nan) for name, x in values.items()}
        return Projection(**whole, s2=jnp.where(present[..., None], in_form(s2, form), jnp.nan))

    return lax.map(place, jnp.arange(svd.s.shape[1]))


def inner_products(bases: jax.Array) -> jax.Array:
    """Bases `[N, d, r]` -> those of all pairs, `[N, N, r, r]`."""
    return jnp.einsum("ida,jdb->ijab", bases, bases, precision=lax.Precision.HIGHEST)


def _cross(x, y):
    return jnp.einsum("...da,...db->...ab", x, y, precision=lax.Precision.HIGHEST)


def _spectra(*spectra):
    arrays = [as_jax("a spectrum", s) for s in spectra]
    if any(s.ndim == 0 or s.shape[-1] == 0 for s in arrays):
        raise ValueError(f"spectra must be [..., r] with r >= 1, got shapes {[s.shape for s in arrays]}")
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    width = max(s.shape[-1] for s in arrays)
    return [jnp.pad(s.astype(dtype), [(0, 0)] * (s.ndim - 1) + [(0, width - s.shape[-1])]) for s in arrays]


@jax.jit
def _distribution(s):
    return _shares(_undefined_if_negative(s))


def _undefined_if_negative(s):
    return jnp.where((s < 0).any(-1, keepdims=True), jnp.nan, s)


def _shares(s):
    """s `[..., r]` over its sum; NaN where that is 0/0."""
    s = s / s.max(-1, keepdims=True)  # the sum of large ones may overflow
    return s / s.sum(-1, keepdims=True)


@partial(jax.jit, static_argnames="p")
def _lp(difference, p):
    size = jnp.abs(difference)
    largest = size.max(-1)
    if p == math.inf:
        return largest
    scaled = size / jnp.where(largest > 0, largest, 1)[..., None]  # powers neither overflow nor vanish
    return largest * (scaled**p).sum(-1) ** (1 / p)


@jax.jit
def _entropy(p):
    """In nats, of shares `[..., r]`."""
    return -(p * jnp.log(jnp.where(p > 0, p, 1))).sum(-1)
