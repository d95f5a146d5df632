"""Centred kernel alignment (CKA) of all pairs of layers, compiled: one Gram matrix per layer, one product for all.

Two layers that saw the same n examples are similar when the same examples are similar in both. With Gram matrices
``K = Xᶜ Xᶜᵀ`` and ``L = Yᶜ Yᶜᵀ`` of the column-centred features (linear kernel),

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) · HSIC(L, L))

for one of two estimators of HSIC:

``"biased"``    tr(K H L H) / (n-1)²,  H = I - 11ᵀ/n                          (Kornblith et al. 2019; range [0, 1])
``"debiased"``  [tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)) - 2/(n-2)·1ᵀK̃L̃1] / (n(n-3)),  K̃ = K with a zero diagonal
                                  (HSIC_1 of Song et al. 2012, the U-statistic; range [-1, 1])

Both are inner products of a centred Gram matrix (doubly centred, or U-centred as in Székely & Rizzo 2014), so CKA is a
cosine and everything below is one code path: centre each layer's Gram, multiply all with all, divide by the lengths.

The debiased value is the default. The biased one of unrelated data is about d/(n+d), not 0: small test sets look
similar to everything (Murphy et al. 2024). HSIC_1 has mean 0 there, and the price is that values may be negative; they
are not clamped. The ratio of unbiased estimates is itself only nearly unbiased, hence "debiased".

The value does not change under a rotation or reflection of either feature space, one scale factor for all its features,
a shift, or one permutation of the examples on both sides. It does under a general linear map, or a scale per feature.

NaN means 0/0: the layer has nothing to compare. Its features are constant over the examples; or not all finite; or
(debiased only) its U-centred Gram is zero to working precision: the examples are equally far from each other, or all
are equal but one. `missing_reason` says which. Other layers are not affected. No denominator has an epsilon, which
would break the invariance to scale: features of size 1e-20 and 1e20 are as good as any.

Memory: (L1 + L2)·n² floats. Time: one n×d×n product a layer, then one product over all layers.

Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited", ICML 2019.
Song, Smola, Gretton, Bedo & Borgwardt, "Feature selection via dependence maximization", JMLR 13, 2012 (eq. 5).
Székely & Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42, 2014.
Nguyen, Raghu & Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021 (HSIC_1 for deep networks).
Murphy, Zylberberg & Fyshe, "Correcting biased centered kernel alignment measures...", arXiv 2405.01012, 2024.
"""

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, check_choice, prepare

__all__ = ["CKA", "Estimator", "cka_all_pairs", "cka_both", "duplicate_rows", "missing_reason"]

Estimator = Literal["debiased", "biased"]

# Einsum letters: l, m layers of xs and ys; i, j examples; d features.


class CKA(NamedTuple):
    """Both estimates of the same layer pairs, each `[L1, L2]`."""

    debiased: jax.Array
    biased: jax.Array


def cka_all_pairs(
    xs: Layers,
    ys: Layers,
    *,
    estimator: Estimator = "debiased",
    kernel: str = "linear",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """CKA of every layer of xs `[L1, n, d1]` with every layer of ys `[L2, n, d2]` -> `[L1, L2]`.

    Row i of both is the same example. Half-precision and integer features are computed in float32, float64 in float64
    if jax has x64 enabled (if not, jax rounds it to float32 on entry). If `xs is ys`, Grams are computed once.

    Args:
        estimator: "debiased" (n >= 4) or "biased" (n >= 2); definitions in the module docstring.
        kernel: "linear".
        mask: bool `[n]`; the value is that of the examples where it is True. Lets tasks of different n be padded to one
            compiled shape. `jax.vmap` over xs, ys and mask works; there, a task with too few examples is NaN.
    """
    check_choice("estimator", estimator, get_args(Estimator))
    return _compute(xs, ys, (estimator,), kernel, mask)[0]


def cka_both(xs: Layers, ys: Layers, *, kernel: str = "linear", mask: ArrayLike | None = None) -> CKA:
    """`cka_all_pairs` for both estimators at little more than the cost of one: the Grams are shared. n >= 4."""
    return CKA(*_compute(xs, ys, CKA._fields, kernel, mask))


def missing_reason(xs: Layers, *, estimator: Estimator = "debiased", mask: ArrayLike | None = None) -> list[str | None]:
    """Why each layer of xs `[L, n, d]` has no CKA, None if it has: a reason exactly where `cka_all_pairs` is NaN."""
    check_choice("estimator", estimator, get_args(Estimator))
    layers, keep = prepare({"xs": xs}, mask)
    both = _pairs(layers, None, keep, ("debiased", "biased"))
    dtype = both[0].dtype
    rows = np.asarray(layers)[:, keep]
    bad_rows = (~np.isfinite(rows).all(-1)).sum(-1)
    constant = (rows == rows[:, :1]).all((1, 2))
    n = rows.shape[1]

    def reason(bad_rows, constant, debiased, biased):
        if bad_rows:
            return f"non-finite values in {bad_rows} of {n} rows (as {layers.dtype})"
        if n < _MIN_ROWS[estimator]:
            return f"only {n} rows: {estimator} CKA needs at least {_MIN_ROWS[estimator]}"
        if constant:
            return f"constant features: all {n} rows are equal"
        if np.isnan(biased):
            return f"out of range: features differ by too little or too much for {dtype}"
        if estimator == "debiased" and np.isnan(debiased):
            return f"no structure: all rows are equally far apart, or equal but one (U-centred Gram is 0 in {dtype})"
        return None

    return [reason(*layer) for layer in zip(bad_rows, constant, *map(np.diag, both), strict=True)]


def duplicate_rows(xs: Layers, *, mask: ArrayLike | None = None) -> np.ndarray:
    """Number of rows that repeat an earlier row exactly, per layer of xs `[L, n, d]` -> int `[L]`. Runs on the host.

    Repeated rows are usually prompts that differ in nothing the model sees. They agree in every layer of every model,
    and so raise CKA.
    """
    xs, keep = prepare({"xs": xs}, mask)
    rows = np.asarray(xs)[:, keep]
    rows = rows + np.zeros((), rows.dtype)  # -0.0 + 0.0 is 0.0: equal numbers get equal bytes
    return np.array([len(layer) - len({row.tobytes() for row in layer}) for layer in rows])


# --- the compiled part ------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("estimators", "dtype"))
def _centred_grams(xs, keep, estimators, dtype):
    """xs `[L, n, d]`, keep bool `[n]` -> per estimator: Grams us `[L, n, n]`; ⟨u, u⟩ up to which u is zero `[L]`."""

    def layer(x):
        x, n = x.astype(dtype), keep.sum().astype(dtype)
        gram = _gram(_centre_features(x, keep, n))
        return [_CENTRE[estimator](gram, keep, n) for estimator in estimators]

    return lax.map(layer, xs)  # one at a time: besides the Grams, only one layer's features are ever copied


def _centre_features(x, keep, n):
    """x `[n, d]` minus its mean, scaled to size about one. Dropped rows are zero; so is all of a non-finite layer."""
    keep = keep[:, None]
    # Constant features become exactly 0, and a feature of mean 1000 has a small mean before any mean is computed.
    x = jnp.where(keep, x - x[jnp.argmax(keep)], 0)
    # Fourth powers of features follow. CKA does not depend on the scale: dividing changes no value and no gradient.
    size = lax.stop_gradient(jnp.abs(x).max())
    x = jnp.where((size > 0) & jnp.isfinite(size), x, 0) * (1 / jnp.where(size > 0, size, 1))
    mean = x.sum(0) / n
    rest = jnp.where(keep, x - mean, 0).sum(0) / n  # what rounding left of the mean
    return jnp.where(keep, (x - mean) - rest, 0)


def _gram(x):
    """x `[n, d]` -> x xᵀ `[n, n]`, symmetric to the last bit. Only blocks on and above the diagonal are multiplied."""
    n = len(x)
    rows = max(256, -(-n // 8))  # at most 8 strips, none too small for an accelerator
    strips = [jnp.pad(_gram_tile(x[i : i + rows], x[i:]), ((0, 0), (i, 0))) for i in range(0, n, rows)]
    upper = jnp.concatenate(strips)
    return jnp.where(jnp.tri(n, dtype=bool), upper.T, upper)


def _gram_tile(x, y):
    """x `[i, d]`, y `[j, d]` -> `[i, j]`. Not TF32 nor bfloat16 on any backend: those lose what centring saved."""
    return jnp.einsum("id,jd->ij", x, y, precision=lax.Precision.HIGHEST)


def _double_centre(gram, keep, n):
    """The Gram of centred features as it is: its rows and columns sum to zero already."""
    return gram, jnp.zeros((), gram.dtype)


def _u_centre(gram, keep, n):
    """A_ij = K_ij - r_i/(n-2) - r_j/(n-2) + s/((n-1)(n-2)) off the diagonal and 0 on it, where r = row sums and s = sum
    of K without its diagonal. Then ⟨A, B⟩ = n(n-3) HSIC_1.

    Where A is zero in exact arithmetic (rows equally far apart, say one-hot), floats leave rounding, and the ratio of
    two roundings looks like a result. So A counts as zero if it is no larger than the rounding error of K, of which an
    entry is off by about eps·|x_i||x_j|. With fewer than four examples it always is zero.
    """
    off = keep[:, None] & keep & ~jnp.eye(len(gram), dtype=bool)
    k = jnp.where(off, gram, 0)
    row = k.sum(1) / (n - 2)
    a = jnp.where(off, k - row[:, None] - row + row.sum() / (n - 1), 0)
    size2 = jnp.diag(gram)
    rounding2 = (_ROUNDING * jnp.finfo(gram.dtype).eps) ** 2 * (size2.sum() ** 2 - (size2**2).sum())
    return jnp.where(n >= 4, a, 0), rounding2


@jax.jit
def _cosines(us, us_zero, vs=None, vs_zero=None):
    """Centred Grams us `[l, n, n]`, vs `[m, n, n]` (None: us) -> cosines `[l, m]`, NaN where a ⟨u, u⟩ <= us_zero."""
    if vs is None:
        [uv] = _inner((us, us))
        vs_zero, uu, vv = us_zero, uv, uv
    else:
        uv, uu, vv = _inner((us, vs), (us, us), (vs, vs))
    uu, vv = jnp.diag(uu), jnp.diag(vv)
    valid = (uu > us_zero)[:, None] & (vv > vs_zero)
    # A value that `where` drops still has a gradient, which must not be NaN: hence two of them.
    length = jnp.sqrt(jnp.where(valid, uu[:, None], 1)) * jnp.sqrt(jnp.where(valid, vv, 1))
    return jnp.where(valid, uv / length, jnp.nan)


def _inner(*pairs):
    """Pairs of us `[l, n, n]`, vs `[m, n, n]` -> Σ_ij u_ij v_ij `[l, m]` of each: one product over all pairs of layers.

    One float32 sum over n² products is off by 1e-5 when one example is 30 times larger than the others, and its entries
    outweigh the sum of all the rest. So only rows are plain sums, and rows are added with Kahan's compensation.
    """

    def add_row(carry, i):
        rows = [jnp.einsum("lj,mj->lm", us[:, i], vs[:, i], precision=lax.Precision.HIGHEST) for us, vs in pairs]
        rows = [row - lost for row, (_, lost) in zip(rows, carry, strict=True)]
        new = [total + row for row, (total, _) in zip(rows, carry, strict=True)]
        return [(t, (t - total) - row) for t, row, (total, _) in zip(new, rows, carry, strict=True)], None

    zeros = [(jnp.zeros((len(us), len(vs)), us.dtype),) * 2 for us, vs in pairs]
    return [total for total, _ in lax.scan(add_row, zeros, jnp.arange(pairs[0][0].shape[1]))[0]]


_CENTRE = {"debiased": _u_centre, "biased": _double_centre}
_MIN_ROWS = {"debiased": 4, "biased": 2}
# In units of eps·|x_i||x_j|. Measured in float32: rows without structure give up to 1, or 5 when their features were
# stored with an offset of ten times their size; random rows with 4096 features give 1e5.
_ROUNDING = 8


# --- the arguments ----------------------------------------------------------------------------------------------------


def _compute(xs, ys, estimators, kernel, mask):
    check_choice("kernel", kernel, ("linear",))
    least = {f"{estimator} CKA": _MIN_ROWS[estimator] for estimator in estimators}
    if xs is ys:
        x, keep = prepare({"xs": xs}, mask, least=least)
        y = None
    else:
        x, y, keep = prepare({"xs": xs, "ys": ys}, mask, least=least)
    values = _pairs(x, y, keep, estimators)
    # jax may read NumPy's and torch's memory in place: be done with it before the caller can write there again.
    return values if isinstance(values[0], jax.core.Tracer) else jax.block_until_ready(values)


def _pairs(x, y, keep, estimators):
    """x `[L1, n, d1]`, y `[L2, n, d2]` (None: x), keep bool `[n]` -> `[L1, L2]` per estimator."""
    dtype = jnp.promote_types(jnp.result_type(x, *([] if y is None else [y])), jnp.float32)
    us = _centred_grams(x, keep, estimators, dtype)
    if y is None:
        return [_cosines(*u) for u in us]
    return [_cosines(*u, *v) for u, v in zip(us, _centred_grams(y, keep, estimators, dtype), strict=True)]
