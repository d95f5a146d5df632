"""Is a spectral projection more than chance? Two null models for `analysis.projection`, all ordered pairs at once.

Both keep S1, the space of task i, and the singular values of task j, and make the rest of ΔW_j random:

**random_subspaces.** ΔW_j = U diag(s_j) Vᵀ with U and V uniformly random (Haar) and independent. Without this level no
REC, entropy or capture can be read. A rejection says that the two updates are not unrelated directions of out and in
dimensions, which is little: updates of one weight of one model are drawn to the same directions by the inputs that all
tasks share, and by factors A that started at the same values. Two tasks with nothing in common may be far from this
null. It does not test whether these two share more than other tasks do; other pairs of tasks of the same model tell.

**permuted_pairs.** ΔW_j = Σ_b ± s_j[b] u_π(b) v_σ(b)ᵀ with its own singular vectors; permutations π and σ and signs
are uniformly random. The hypothesis is exchangeability: given the directions that j writes and those that it reads, it
is arbitrary which of them go together, how strongly, and with which sign; all of these updates were as likely. (True,
for one, of U_j and V_j that are random rotations within whatever spaces they span. Signs are part of it, since (u, v)
and (-u, -v) are the same pair: without them a p-value would depend on which of the two a library returns.) The overlap
of the spaces, which may be the model's doing, is granted; what is tested is that j uses shared directions in the pairs
and in the order of strength that i does. It does not test whether the spaces overlap: `capture_columns` and
`capture_rows` move only as far as j's strong directions lie more in i's space than its weak ones. An order that the
model imposes on all tasks leads to rejection too. With rank 1 there is nothing to permute, and p is 1.

One-sided p = (1 + draws as extreme) / (1 + draws), in the direction of related tasks: REC and captures large, distances
and the entropy of S2 small. Uniform under the hypothesis; larger where draws are tied. Draws without a value do not
count, draws equal to the value up to rounding do. A p-value holds for one pair and place chosen beforehand: correct
tables by `analysis.inference`.

**Over places.** The mean over all places, of one module or several of any sizes, is tested against means of draws that
are independent between places; that is part of the hypothesis. A place that a pair lacks is left out of both.

Exactness: U_iᵀU of a uniformly random basis U is a block of a random orthogonal matrix, whatever U_i is. U is the
orthonormal factor of a Gaussian matrix G = U R, so its first r rows T give T R⁻¹; R depends on the other d - r rows by
a triangular matrix only, with known distribution (Bartlett's). So `haar_blocks` draws r × r numbers for any d, without
approximation. One set of draws serves all pairs of a place: p-values of different pairs are dependent.

Time: per place draws · N² r (`random_subspaces`) or draws · N² r³ (`permuted_pairs`); 60 tasks of rank 8, with 1000
draws, take about 2 and 4 seconds of a CPU core per place. Memory: 32 draws · N² floats.

Muirhead, "Aspects of multivariate statistical theory", Wiley 1982 (section 3.2).
Phipson & Smyth, "Permutation p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9, 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from analysis.arrays import check_choice
from analysis.grassmann import wishart_root
from analysis.low_rank import ThinSVD
from analysis.projection import (
    EntropyUnit,
    Form,
    check_projection,
    compare_spectra,
    inner_products,
    projection_all_pairs,
    unit_spectra,
)

__all__ = ["MEASURES", "Chance", "Null", "ProjectionNull", "haar_blocks", "projection_null"]

Null = Literal["random_subspaces", "permuted_pairs"]

#: What is tested: fields of `Projection`, and whether related tasks are expected to have more of it (or less).
MEASURES = {
    "rec": True,
    "lp": False,
    "lp_normalised": False,
    "entropy_s2": False,
    "capture_diagonal": True,
    "capture_block": True,
    "capture_columns": True,
    "capture_rows": True,
}

#: Floats of the draws that are worked on at a time.
_BLOCK = 2**22


class Chance(NamedTuple):
    """A measure beside what chance makes of it; NumPy arrays of one shape, NaN where the measure is undefined."""

    value: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    """Of single draws."""
    z: np.ndarray
    """(value - null_mean) / null_sd, of a skewed null; NaN where all draws are equal."""
    p_value: np.ndarray


class ProjectionNull(NamedTuple):
    """By name of the measure (`MEASURES`)."""

    per_place: dict[str, Chance]
    """`[K, N, N]`, the K places of all modules in order."""
    over_places: dict[str, Chance]
    """`[N, N]`, of the mean over places."""


def projection_null(
    updates: ThinSVD | Sequence[ThinSVD],
    *,
    null: Null = "random_subspaces",
    form: Form = "absolute",
    p: float = 1.0,
    entropy_unit: EntropyUnit = "nominal",
    draws: int = 1000,
    seed: int = 0,
) -> ProjectionNull:
    """All measures of all ordered pairs i -> j against a null model.

    Args:
        updates: batched `[N, K]`, or one such for each module (q, v, ...) with the same N tasks, of any sizes and K.
        form, p, entropy_unit: as in `projection_all_pairs`.
        draws: per place; the smallest possible p-value is 1 / (draws + 1).
        seed: the draws of a place depend on it, on the module's and the place's number, draws, sizes and ranks only.

    Raises:
        ValueError: as `projection_all_pairs`; modules of different N; draws < 1; there is no such null.
    """
    check_choice("null", null, get_args(Null))
    modules = [updates] if isinstance(updates, ThinSVD) else list(updates)
    for module in modules:
        check_projection(module, form, p, entropy_unit)
    if len({len(module.s) for module in modules}) != 1 or not any(module.s.shape[1] for module in modules):
        found = [module.s.shape for module in modules]
        raise ValueError(f"expected modules of the same N tasks and at least one place, got shapes {found}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    how = {"form": form, "p": float(p), "unit": entropy_unit}
    per_place: list = []
    sums: tuple = ()
    for number, module in enumerate(modules):
        fields = projection_all_pairs(module, form=form, p=p, entropy_unit=entropy_unit)._asdict()
        values = np.stack([fields[name] for name in MEASURES], 1)  # [K, measures, N, N]
        # On the host: slices by place then cost nothing. The bases stay where they are.
        module = module._replace(s=np.asarray(module.s), rank=np.asarray(module.rank))  # type: ignore[arg-type]
        for k, value in enumerate(values):
            drawn = _DRAW[null](np.random.default_rng([seed, number, k]), draws, module, k, how)
            per_place.append(_chance(value, drawn))
            sums = _added(sums or _nothing(value, drawn), value, drawn)
    whole = [np.stack(part, 1) for part in zip(*per_place, strict=True)]  # [measures, K, N, N]
    mean = [np.asarray(part) for part in _chance(*(total / n for total, n in sums))]
    return ProjectionNull(
        *({name: Chance(*(x[m] for x in of)) for m, name in enumerate(MEASURES)} for of in (whole, mean))
    )


def haar_blocks(rng: np.random.Generator, draws: int, d: int, r: int) -> np.ndarray:
    """Upper left r × r blocks of `draws` Haar-random orthogonal d × d matrices -> `[draws, r, r]` float64, exactly.

    Or UᵀU' of a fixed and a random basis of r orthonormal columns; of fewer columns, a block of it.
    """
    top = rng.standard_normal((draws, r, r))
    # The other d - r rows of a Gaussian matrix count by their triangular factor only (Bartlett).
    rest = wishart_root(rng, draws, r, d - r)
    q, triangle = np.linalg.qr(np.concatenate([top, rest], 1))
    # Signs of the diagonal are LAPACK's and depend on the rows; the factor that makes Q uniform has positive ones.
    return q[:, :r] * np.sign(np.diagonal(triangle, axis1=1, axis2=2))[:, None]


# --- draws of one place `[draws, measures, N, N]` --------------------------------------------------------------------
# Einsum letters: i task whose space it is, j task whose update; a, c directions of i; b, l, m of j.
def _random_subspaces(rng, draws, module, k, how):
    cu, cv = (haar_blocks(rng, draws, *x.shape[2:]).astype(x.dtype) for x in (module.u, module.v))
    return _of_random_blocks(cu, cv, module.s[:, k], module.rank[:, k], **how)


@partial(jax.jit, static_argnames=("form", "p", "unit"))
def _of_random_blocks(cu, cv, s, rank, *, form, p, unit):
    t, size = unit_spectra(s, rank)
    (N, r), keep = s.shape, jnp.arange(s.shape[1]) < rank[:, None]
    total, present = (t**2).sum(-1), (rank > 0)[:, None] & (rank > 0)

    def draw(blocks):
        u, v = blocks
        block = jnp.einsum("ab,jb,cb->jac", u, t, v, precision=lax.Precision.HIGHEST)
        # A space of fewer directions has the first rows.
        diagonal = jnp.diagonal(block, axis1=-2, axis2=-1) * keep[:, None]
        values = compare_spectra(s[:, None], diagonal * size[:, None], rank[:, None], form, p, unit)
        shares = {
            "capture_diagonal": (diagonal**2).sum(-1),
            "capture_block": jnp.einsum("jac,ia,ic->ij", block**2, keep, keep, precision=lax.Precision.HIGHEST),
            "capture_columns": jnp.einsum("ab,jb,ia->ij", u**2, t**2, keep, precision=lax.Precision.HIGHEST),
            "capture_rows": jnp.einsum("ab,jb,ia->ij", v**2, t**2, keep, precision=lax.Precision.HIGHEST),
        }
        return _stacked(values, shares, total, present)

    return lax.map(draw, (cu, cv), batch_size=_at_a_time(len(cu), N * N * r))


def _permuted_pairs(rng, draws, module, k, how):
    N, _, r = module.s.shape
    rank = module.rank[:, k]
    # u_l goes with ± s[strength[l]] and v_partner[l]: two permutations of the first `rank`, the others stay.
    beyond = np.where(np.arange(r) < rank[:, None], 0, 2 + np.arange(r))[:, None]
    strength, partner = (np.argsort(rng.random((N, draws, r)) + beyond, -1).astype(np.int32) for _ in range(2))
    signs = rng.choice(np.array([-1, 1], np.int8), (N, draws, r))
    cu, cv = (_inner_products(side, k) for side in (module.u, module.v))
    return _of_permutations(cu, cv, module.s[:, k], module.rank[:, k], strength, partner, signs, **how)


_inner_products = jax.jit(lambda bases, k: inner_products(bases[:, k]))


@partial(jax.jit, static_argnames=("form", "p", "unit"))
def _of_permutations(cu, cv, s, rank, strength, partner, signs, *, form, p, unit):
    t, size = unit_spectra(s, rank)
    N, r = s.shape
    present = rank > 0

    def task(of_j):
        u, v, tj, size_j, present_j, *draws = of_j  # u, v [i, a, l]
        columns, rows, total = (u**2).sum(1), (v**2).sum(1), (tj**2).sum()

        def draw(at):
            order, partner, sign = at
            core = jax.nn.one_hot(partner, r, dtype=tj.dtype) * (tj[order] * sign)[:, None]  # [l, m]
            half = jnp.einsum("ial,lm->iam", u, core, precision=lax.Precision.HIGHEST)
            block = jnp.einsum("iam,icm->iac", half, v, precision=lax.Precision.HIGHEST)
            diagonal = jnp.diagonal(block, axis1=-2, axis2=-1)
            values = compare_spectra(s, diagonal * size_j, rank, form, p, unit)
            shares = {
                "capture_diagonal": (diagonal**2).sum(-1),
                "capture_block": (block**2).sum((-2, -1)),
                "capture_columns": jnp.einsum("il,lm->i", columns, core**2, precision=lax.Precision.HIGHEST),
                "capture_rows": jnp.einsum("im,lm->i", rows, core**2, precision=lax.Precision.HIGHEST),
            }
            return _stacked(values, shares, total, present & present_j)

        return lax.map(draw, tuple(draws), batch_size=_at_a_time(len(draws[0]), N * r * r))

    sides = (c.swapaxes(0, 1) for c in (cu, cv))
    values = lax.map(task, (*sides, t, size, present, strength, partner, signs))  # [j, draws, measures, i]
    return values.transpose(1, 2, 3, 0)


def _stacked(values, shares, total, present):
    values |= {name: share / total for name, share in shares.items()}
    return jnp.stack([jnp.where(present, values[name], jnp.nan) for name in MEASURES])


def _at_a_time(draws, floats):
    return min(draws, max(_BLOCK // floats, 1))


_DRAW = {"random_subspaces": _random_subspaces, "permuted_pairs": _permuted_pairs}


# --- values against draws --------------------------------------------------------------------------------------------


@jax.jit
def _chance(value, null):
    """Value `[measures, N, N]`, null `[draws, measures, N, N]` -> the parts of Chance, each as the value."""
    sign = jnp.where(jnp.array(list(MEASURES.values())), 1, -1)[:, None, None]
    start, zero = jnp.nan_to_num(value), jnp.zeros_like(value)

    # Draw by draw: a reduction over the leading axis strides through memory. Relative to the value: draws that all
    # equal it have a spread of 0.
    def first(carry, x):
        n, total, largest = carry
        defined = ~jnp.isnan(x)
        away = jnp.where(defined, x - start, 0)
        return (n + defined, total + away, jnp.fmax(largest, jnp.abs(x))), None

    (n, total, largest), _ = lax.scan(first, (zero, zero, jnp.abs(start)), null)
    mean = start + total / n
    # Draws that leave the value as it is, of exact arithmetic, must count as equal in spite of rounding.
    rounding = 16 * jnp.finfo(value.dtype).eps * largest

    def second(carry, x):
        squares, extreme = carry
        squares += jnp.where(jnp.isnan(x), 0, x - mean) ** 2
        return (squares, extreme + (sign * (x - value) >= -rounding)), None

    (squares, extreme), _ = lax.scan(second, (zero, zero), null)
    sd, p_value = jnp.sqrt(squares / (n - 1)), (1 + extreme) / (1 + n)
    z = jnp.where(sd > rounding, (value - mean) / sd, jnp.nan)
    missing = jnp.isnan(value)
    return value, *(jnp.where(missing, jnp.nan, x) for x in (mean, sd, z, p_value))


def _nothing(*arrays):
    return tuple((jnp.zeros_like(x), jnp.zeros(x.shape, jnp.int32)) for x in arrays)


@partial(jax.jit, donate_argnums=0)
def _added(sums, *arrays):
    """Sums over places and numbers of places, of each array, with what is not NaN added."""
    return tuple((total + jnp.nan_to_num(x), n + ~jnp.isnan(x)) for (total, n), x in zip(sums, arrays, strict=True))
