"""Centred kernel alignment (CKA) of all pairs of layers, in one compiled call.

Two layers that saw the same n examples are similar when the same examples are similar in both. With Gram matrices
``K = Xᶜ Xᶜᵀ`` and ``L = Yᶜ Yᶜᵀ`` of the column-centred features (linear kernel),

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) · HSIC(L, L))

for one of two estimators of HSIC:

``"biased"``    tr(K H L H) / (n-1)²,  H = I - 11ᵀ/n                          (Kornblith et al. 2019; range [0, 1])
``"debiased"``  [tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)) - 2/(n-2)·1ᵀK̃L̃1] / (n(n-3)),  K̃ = K with a zero diagonal
                                  (HSIC_1 of Song et al. 2012, the U-statistic; range [-1, 1])

Both are inner products of a centred Gram matrix (doubly centred, or U-centred as in Székely & Rizzo 2014), so CKA is a
cosine and everything below is one code path: centre each layer's Gram, scale it to length one, multiply all with all.

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

__all__ = ["CKA", "Estimator", "cka_all_pairs", "cka_both", "duplicate_rows", "missing_reason"]

Estimator = Literal["debiased", "biased"]

# Einsum letters: l, m layers of xs and ys; i, j examples; d features; c, k chunks of a flattened Gram and its entries.


class CKA(NamedTuple):
    """Both estimates of the same layer pairs, each `[L1, L2]`."""

    debiased: jax.Array
    biased: jax.Array


def cka_all_pairs(
    xs: ArrayLike,
    ys: ArrayLike,
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
    _check_choice("estimator", estimator, get_args(Estimator))
    return _compute(xs, ys, (estimator,), kernel, mask)[0]


def cka_both(xs: ArrayLike, ys: ArrayLike, *, kernel: str = "linear", mask: ArrayLike | None = None) -> CKA:
    """`cka_all_pairs` for both estimators at the cost of one: the Grams are shared. Needs n >= 4."""
    return CKA(*_compute(xs, ys, CKA._fields, kernel, mask))


def missing_reason(
    xs: ArrayLike, *, estimator: Estimator = "debiased", mask: ArrayLike | None = None
) -> list[str | None]:
    """Why each layer of xs `[L, n, d]` has no CKA, or None: not None exactly where `cka_all_pairs` gives NaN."""
    _check_choice("estimator", estimator, get_args(Estimator))
    xs, keep = _prepare({"xs": xs}, mask)
    dtype = _compute_dtype(xs)
    n, bad_rows, constant, has_biased, has_debiased = jax.device_get(_diagnose(xs, keep))

    def reason(bad_rows, constant, has_biased, has_debiased):
        if bad_rows:
            return f"non-finite values in {bad_rows} of {n} rows (as {xs.dtype})"
        if n < _MIN_ROWS[estimator]:
            return f"only {n} rows: {estimator} CKA needs at least {_MIN_ROWS[estimator]}"
        if constant:
            return f"constant features: all {n} rows are equal"
        if not has_biased:
            return f"out of range: features differ by too little or too much for {dtype}"
        if estimator == "debiased" and not has_debiased:
            return f"no structure: all rows are equally far apart, or equal but one (U-centred Gram is 0 in {dtype})"
        return None

    return [reason(*layer) for layer in zip(bad_rows, constant, has_biased, has_debiased, strict=True)]


def duplicate_rows(xs: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
    """Number of rows that repeat an earlier row exactly, per layer of xs `[L, n, d]` -> int `[L]`. Runs on the host.

    Repeated rows are usually prompts that differ in nothing the model sees. They agree in every layer of every model,
    and so raise CKA.
    """
    xs, keep = jax.device_get(_prepare({"xs": xs}, mask))
    rows = xs[:, keep] + np.zeros((), xs.dtype)  # -0.0 + 0.0 is 0.0: equal numbers get equal bytes
    return np.array([len(layer) - len({row.tobytes() for row in layer}) for layer in rows])


# --- the compiled part ------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="estimators")
def _all_pairs(xs, ys, keep, estimators):
    """xs `[L1, n, d1]`, ys `[L2, n, d2]` or None for xs, keep bool `[n]` -> one `[L1, L2]` per estimator."""
    dtype = _compute_dtype(xs, *([] if ys is None else [ys]))

    def units(layers):  # one layer at a time: besides the result, only one layer's features and Gram are ever alive
        return lax.map(lambda x: _units(x.astype(dtype), keep, estimators), layers)

    us = units(xs)
    vs = us if ys is None else units(ys)
    return tuple(_cosines(*u, *v) for u, v in zip(us, vs, strict=True))


@jax.jit
def _diagnose(xs, keep):
    """xs `[L, n, d]` -> n; per layer: number of rows not finite, all rows equal, has a biased CKA, a debiased one."""

    def layer(x):
        bad = keep & ~jnp.isfinite(x).all(-1)
        constant = (~keep[:, None] | (x == x[jnp.argmax(keep)])).all()
        has = [ok for _, ok in _units(x.astype(_compute_dtype(x)), keep, ("biased", "debiased"))]
        return bad.sum(), constant, *has

    return keep.sum(), *lax.map(layer, xs)


def _units(x, keep, estimators):
    """One layer x `[n, d]` -> per estimator: its centred Gram of length one, flattened `[c, k]`; whether it has one."""
    n = keep.sum().astype(x.dtype)
    gram = _gram(_centre_features(x, keep, n))
    return [_unit(*_CENTRE_GRAM[estimator](gram, keep, n)) for estimator in estimators]


def _centre_features(x, keep, n):
    """x `[n, d]` minus its mean, scaled to size about one; dropped rows are zero."""
    keep = keep[:, None]
    # Constant features become exactly 0, and a feature of mean 1000 has a small mean before any mean is computed.
    x = jnp.where(keep, x - x[jnp.argmax(keep)], 0)
    # Fourth powers of features follow. CKA does not depend on the scale: dividing changes no value and no gradient.
    scale = lax.stop_gradient(jnp.abs(x).max())
    mean = x.sum(0) / n
    rest = jnp.where(keep, x - mean, 0).sum(0) / n  # what rounding left of the mean
    return jnp.where(keep, ((x - mean) - rest) / jnp.where(scale > 0, scale, 1), 0)


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
    """Gram of centred features, whose rows and columns sum to zero as they are. It has a CKA unless it is zero."""
    return gram, (gram != 0).any()


def _u_centre(gram, keep, n):
    """A_ij = K_ij - r_i/(n-2) - r_j/(n-2) + s/((n-1)(n-2)) off the diagonal and 0 on it, where r = row sums and s = sum
    of K without its diagonal. Then ⟨A, B⟩ = n(n-3) HSIC_1.

    It has a CKA unless A is zero. Where A is zero in exact arithmetic (rows equally far apart, say one-hot), floats
    leave rounding, and the ratio of two roundings looks like a result. So zero means: no larger than the rounding error
    of K, whose entries are off by about eps·|x_i||x_j|.
    """
    off = keep[:, None] & keep & ~jnp.eye(len(gram), dtype=bool)
    k = jnp.where(off, gram, 0)
    row = k.sum(1) / (n - 2)
    a = jnp.where(off, k - row[:, None] - row + row.sum() / (n - 1), 0)
    size = jnp.diag(gram)
    rounding = _ROUNDING * jnp.finfo(gram.dtype).eps * jnp.sqrt(size.sum() ** 2 - (size**2).sum())
    return a, (n >= 4) & (_norm2(a) > rounding**2)


def _unit(gram, ok):
    """Centred Gram `[n, n]` -> itself over its Frobenius norm, flat in `_CHUNKS` pieces `[c, k]`, zero-padded; ok."""
    norm2 = _norm2(gram)
    ok = ok & jnp.isfinite(norm2) & (norm2 > 0)
    # Both wheres are needed for gradients: a NaN that is not chosen still has a gradient.
    unit = jnp.where(ok, gram, 0) / jnp.sqrt(jnp.where(ok, norm2, 1))
    return jnp.pad(unit.ravel(), (0, -unit.size % _CHUNKS)).reshape(_CHUNKS, -1), ok


def _norm2(a):
    return (a * a).sum(1).sum()  # rows first: short sums round less than one over n² entries


def _cosines(us, us_ok, vs, vs_ok):
    """Unit Grams us `[l, c, k]`, vs `[m, c, k]` -> their inner products `[l, m]`, NaN where either layer has none."""
    # A float32 sum over n² products loses digits; a sum of sums over chunks does not.
    pieces = lax.map(
        lambda c: jnp.einsum("lk,mk->lm", us[:, c], vs[:, c], precision=lax.Precision.HIGHEST), jnp.arange(_CHUNKS)
    )
    return jnp.where(us_ok[:, None] & vs_ok, pieces.sum(0), jnp.nan)


_CENTRE_GRAM = {"debiased": _u_centre, "biased": _double_centre}
_MIN_ROWS = {"debiased": 4, "biased": 2}
_CHUNKS = 16
# In units of eps·|x_i||x_j|. Measured in float32: rows without structure give up to 1, or 5 when their features were
# stored with an offset of ten times their size; random rows with 4096 features give 1e5.
_ROUNDING = 8


# --- the arguments ----------------------------------------------------------------------------------------------------


def _compute(xs, ys, estimators, kernel, mask):
    _check_choice("kernel", kernel, ("linear",))
    if xs is ys:
        x, keep = _prepare({"xs": xs}, mask, estimators)
        y = None
    else:
        x, y, keep = _prepare({"xs": xs, "ys": ys}, mask, estimators)
    out = _all_pairs(x, y, keep, tuple(estimators))
    # jax may read NumPy's and torch's memory in place: be done with it before the caller can write there again.
    return out if isinstance(out[0], jax.core.Tracer) else jax.block_until_ready(out)


def _prepare(arrays, mask, estimators=()):
    """Named arrays and mask -> the same as jax arrays, the mask bool `[n]`; or an error that names the shapes."""
    arrays = {name: _as_jax(name, x) for name, x in arrays.items()}
    for name, x in arrays.items():
        if x.ndim != 3:
            raise ValueError(f"{name} must be [layers, examples, features], got shape {x.shape}")
    shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
    if len({x.shape[1] for x in arrays.values()}) > 1:
        raise ValueError(f"both sides need the same n examples (axis 1), got {shapes}")
    n = next(iter(arrays.values())).shape[1]
    if n == 0:
        raise ValueError(f"there are no examples (axis 1) in {shapes}")
    keep = jnp.ones(n, bool) if mask is None else jnp.asarray(mask)
    if keep.dtype != bool or keep.shape != (n,):
        raise ValueError(f"mask must be bool of shape ({n},) for {shapes}, got {keep.dtype} of shape {keep.shape}")
    if not isinstance(keep, jax.core.Tracer):
        kept = int(keep.sum())
        for estimator in estimators:
            least = _MIN_ROWS[estimator]
            if kept < least:
                raise ValueError(f"{estimator} CKA needs n >= {least} examples, got n = {kept} in {shapes}")
    return *arrays.values(), keep


def _as_jax(name, x):
    if not isinstance(x, jax.Array):
        x = x.detach() if hasattr(x, "detach") else x  # torch
        try:
            x = np.asarray(x)
        except TypeError:  # torch's bfloat16, or a tensor on a GPU
            x = jnp.from_dlpack(x.contiguous())
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        raise ValueError(f"{name} must be real, got {x.dtype}")
    return x


def _compute_dtype(*arrays):
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
