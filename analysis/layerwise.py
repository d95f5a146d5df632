"""One layer at a time: CKA of same layers, from features where those are few; and which layers have no CKA, and why."""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, check_choice, prepare
from analysis.gram import centring, kahan, product, row_facts, rows_of, sum_rows
from analysis.hsic import MIN_ROWS, Estimator, Plan, Products, all_pairs, cosines, plan
from analysis.kernels import Kernel, zero_below

__all__ = ["duplicate_rows", "lengths", "missing_reason", "same_layer"]

# Rows that one product of features sums over: their sums are added with compensation.
_ROWS = 1024
# How many times ⟨A, A⟩ the diagonal of K may add to |XᵀX|². Measured errors in float32 are below 4e-7 up to 30 times,
# and reach 2e-6 beyond: the Gram takes over long before.
_LOST = 4.0


@partial(jax.jit, static_argnames=("how", "dtype"))
def lengths(x, keep, bandwidth, *, how: Plan, dtype):
    """x `[L, n, d]` -> are (debiased, biased) lengths above zero, bool `[L]`; trace / length of HKH `[L]`; sizes."""

    def layer(x):
        _, products, (side, _) = all_pairs(x[None], None, keep, bandwidth, how=how, dtype=dtype)
        valid = [(p.uu > 0)[0] for p in products]
        return valid, side.trace[0] / jnp.sqrt(products[1].uu[0]), side.size[0]

    return lax.map(layer, x)


@partial(jax.jit, static_argnames=("how", "dtype", "features"))
def same_layer(x, y, keep, bandwidth, *, how: Plan, dtype, features: bool):
    """x `[L, n, d1]`, y `[L, n, d2]` -> cosines of layers l and l `[L]` (debiased, biased), sizes (x, y).

    With `features` the products are made of features where float32 allows it, otherwise of Grams.
    """

    def layer(xy):
        x, y = (side[None] for side in xy)

        def by_gram():
            values, _, sides = all_pairs(x, y, keep, bandwidth, how=how, dtype=dtype)
            return [value[0, 0] for value in values], [side.size[0] for side in sides]

        if not features:
            return by_gram()
        products, sizes, exact = _by_features(x, y, keep, dtype)
        return lax.cond(exact, lambda: ([cosines(p) for p in products], sizes), by_gram)

    return lax.map(layer, (x, y))


def _by_features(x, y, keep, dtype):
    """x `[1, n, d1]`, y `[1, n, d2]` -> Products of scalars (debiased, biased), sizes, whether float32 is enough.

    Linear kernels only: ⟨K, L⟩ = |XᵀY|², and ⟨A, B⟩ by the identity in `analysis.kernels`. That is a difference, which
    loses what the diagonals outweigh: rows that are much longer than the others.
    """
    n = keep.sum().astype(dtype)
    by = [centring(side[0].astype(dtype), keep, n) for side in (x, y)]
    size = min(x.shape[1], _ROWS)

    def add(sums, start):
        pieces = [rows_of(side, keep, b, start, size) for side, b in zip((x, y), by, strict=True)]
        u, v = (jnp.where(piece.mine[:, None], piece.x, 0) for piece in pieces)
        r, q = (u**2).sum(1), (v**2).sum(1)
        new = [product(a.T, b.T) for a, b in ((u, v), (u, u), (v, v))]
        new += [jnp.stack([sum_rows(w) for w in (r * q, r * r, q * q, r, q)])]
        return [kahan(total, value) for total, value in zip(sums, new, strict=True)], None

    a, b = x.shape[2], y.shape[2]
    zero = [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for shape in ((a, b), (a, a), (b, b), (5,))]
    sums = lax.scan(add, zero, jnp.arange(0, x.shape[1], size))[0]
    biased = [sum_rows((total**2).sum(1)) for total, _ in sums[:3]]
    *diagonals, t, u = sums[3][0]

    def products(inner, x_zero, y_zero):
        uv, uu, vv = inner
        return Products(uv, jnp.where(uu > x_zero, uu, jnp.nan), jnp.where(vv > y_zero, vv, jnp.nan))

    def u_centred(inner, diagonal, traces):
        weight = n / jnp.where(n > 2, n - 2, jnp.inf)
        return jnp.where(n >= 4, inner - weight * (diagonal - traces / n) - traces / (n - 1), 0)

    debiased = [u_centred(*terms) for terms in zip(biased, diagonals, (t * u, t**2, u**2), strict=True)]
    _, rr, qq = diagonals
    exact = (rr < _LOST * debiased[1]) & (qq < _LOST * debiased[2])
    missing = (t == 0) | (u == 0) | (n < 4)  # constant layers: by either way
    both = products(debiased, zero_below(t, rr), zero_below(u, qq)), products(biased, 0, 0)
    return both, [b.size for b in by], exact | missing


# --- what is missing --------------------------------------------------------------------------------------------------


def missing_reason(
    xs: Layers,
    *,
    estimator: Estimator = "debiased",
    kernel: Kernel = "linear",
    bandwidth: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    values: ArrayLike | None = None,
) -> list[str | None]:
    """Why each layer of xs `[L, n, d]` has no CKA, None if it has: a reason exactly where `cka_all_pairs` is NaN.

    Args:
        estimator: and kernel, bandwidth, mask, as they were given to `cka_all_pairs`.
        values: what `cka_all_pairs` gave for xs and any other side, `[L, L2]`. Layers that have a value are then not
            looked at, and a Gram is computed only for a layer whose features do not show the reason.

    Raises:
        ValueError: xs is not `[L, n, d]`, the mask is not `[n]`, or n is too small for the estimator.
    """
    check_choice("estimator", estimator, get_args(Estimator))
    layers, keep = prepare({"xs": xs}, mask)
    dtype = jnp.promote_types(layers.dtype, jnp.float32)
    bad_rows, constant = (np.asarray(fact) for fact in row_facts(layers, keep))
    n = int(keep.sum())
    has_value = np.zeros(len(layers), bool)
    if values is not None:
        given = np.asarray(values)
        if given.ndim != 2 or len(given) != len(layers):
            raise ValueError(f"values must be [{len(layers)}, layers of the other side], got shape {given.shape}")
        has_value |= ~np.isnan(given).all(1)

    def shown(bad_rows, constant):
        if bad_rows:
            return f"non-finite values in {bad_rows} of {n} rows (as {layers.dtype})"
        if n < MIN_ROWS[estimator]:
            return f"only {n} rows: {estimator} CKA needs at least {MIN_ROWS[estimator]}"
        return f"constant features: all {n} rows are equal" if constant else None

    def hidden(debiased, biased, size):
        if not biased and kernel == "rbf" and np.isfinite(size):
            return "no bandwidth: at least half of all pairs of rows are equal"
        if not biased:
            return f"out of range: features differ by too little or too much for {dtype}"
        if estimator == "debiased" and not debiased:
            return f"no structure: all rows are equally far apart, or equal but one (U-centred Gram is 0 in {dtype})"
        return None

    facts = zip(has_value, bad_rows.sum(1), constant, strict=True)
    reasons = [None if has else shown(bad, same) for has, bad, same in facts]
    unclear = np.array([i for i, reason in enumerate(reasons) if reason is None and not has_value[i]], int)
    if len(unclear):
        how = plan(kernel, 1, layers.shape[1], dtype.itemsize)
        some = layers if len(unclear) == len(layers) else layers[unclear]
        valid, _, size = lengths(some, keep, bandwidth, how=how, dtype=dtype)
        for i, *found in zip(unclear, *map(np.asarray, (*valid, size)), strict=True):
            reasons[i] = hidden(*found)
    return reasons


def duplicate_rows(xs: Layers, *, mask: ArrayLike | None = None) -> np.ndarray:
    """Number of rows that repeat an earlier row exactly, per layer of xs `[L, n, d]` -> int `[L]`. Runs on the host.

    Repeated rows are usually prompts that differ in nothing the model sees. They agree in every layer of every model,
    and so raise CKA.

    Args:
        mask: bool `[n]`; rows where it is False are left out.

    Raises:
        ValueError: xs is not `[L, n, d]`, or the mask is not `[n]`.
    """
    xs, keep = prepare({"xs": xs}, mask)
    rows = np.asarray(xs)[:, keep]
    rows = rows + np.zeros((), rows.dtype)  # -0.0 + 0.0 is 0.0: equal numbers get equal bytes
    return np.array([len(layer) - len({row.tobytes() for row in layer}) for layer in rows])
