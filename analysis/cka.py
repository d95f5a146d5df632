"""Centred kernel alignment (CKA) of all pairs of layers, compiled: one Gram matrix per layer, one product for all.

Two layers that saw the same n examples are similar when the same examples are similar in both. With Gram matrices
``K = Xᶜ Xᶜᵀ`` and ``L = Yᶜ Yᶜᵀ`` of the column-centred features (or of an rbf kernel: `analysis.kernels` defines it),

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
So it is with the rbf kernel too, whose bandwidth scales with the features.

NaN means 0/0: the layer has nothing to compare. Its features are constant over the examples; or not all finite; or
(debiased only) its U-centred Gram is zero to working precision: the examples are equally far from each other, or all
are equal but one. `missing_reason` says which. Other layers are not affected. No denominator has an epsilon, which
would break the invariance to scale: features of size 1e-20 and 1e20 are as good as any.

Time: half of an n×d×n product a layer, then one product over all layers. Memory: (L1 + L2)·n²/2 floats, up to 1 GB. For
more, or with `tile=`, Grams are streamed in tiles that all layers share, and only the features and a tile a layer are
held: exact for any n. Several devices share the tiles. `minibatch_cka` is for features that do not fit at all; it is
another estimator.

Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited", ICML 2019.
Song, Smola, Gretton, Bedo & Borgwardt, "Feature selection via dependence maximization", JMLR 13, 2012 (eq. 5).
Székely & Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42, 2014.
Nguyen, Raghu & Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021 (HSIC_1 for deep networks).
Murphy, Zylberberg & Fyshe, "Correcting biased centered kernel alignment measures...", arXiv 2405.01012, 2024.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from analysis import hsic, layerwise
from analysis.arrays import Layers, check_choice, prepare
from analysis.gram import row_facts
from analysis.hsic import MIN_ROWS, Estimator
from analysis.kernels import Kernel
from analysis.layerwise import duplicate_rows, missing_reason

__all__ = ["CKA", "Devices", "Estimator", "Kernel", "NonFinite", "biased_null_mean", "cka_all_pairs", "cka_both"]
__all__ += ["cka_same_layer", "duplicate_rows", "minibatch_cka", "missing_reason"]

NonFinite = Literal["raise", "missing"]
Devices = Mesh | Sequence[jax.Device]


class CKA(NamedTuple):
    """Both estimates of the same layer pairs, each `[L1, L2]`."""

    debiased: jax.Array
    biased: jax.Array


def cka_all_pairs(
    xs: Layers,
    ys: Layers,
    *,
    estimator: Estimator = "debiased",
    kernel: Kernel = "linear",
    bandwidth: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    nonfinite: NonFinite = "raise",
    tile: int | None = None,
    devices: Devices | None = None,
) -> jax.Array:
    """CKA of every layer of xs `[L1, n, d1]` with every layer of ys `[L2, n, d2]` -> `[L1, L2]`.

    Row i of both is the same example. Half-precision and integer features are computed in float32, float64 in float64
    if jax has x64 enabled (if not, jax rounds it to float32 on entry). If `xs is ys`, Grams are computed once.

    Args:
        estimator: "debiased" (n >= 4) or "biased" (n >= 2); definitions in the module docstring.
        kernel: "linear" or "rbf" (`analysis.kernels`), which also sees relations that are not linear, and tends to
            linear as the bandwidth grows. Streamed, it goes over the Gram four times, for its exact median.
        bandwidth: of rbf: σ in units of the root of the median squared distance between two rows of the layer.
        mask: bool `[n]`; the value is that of the examples where it is True. Lets tasks of different n be padded to one
            compiled shape. `jax.vmap` over xs, ys and mask works; there, a task with too few examples is NaN.
        nonfinite: a NaN or infinity in a kept row can "raise" an error that names it, or make its layer "missing"
            (NaN). Under jit and vmap, where values are not known, it is always missing.
        tile: stream the Grams in tiles of so many rows; None: in memory if they fit in 1 GB, else the largest that do.
        devices: these share the tiles, a list or a mesh, and each gets a copy of the features; None: those that the
            features are on.

    Raises:
        ValueError: shapes do not go together, there are too few examples, or values are not finite; says which.
    """
    check_choice("estimator", estimator, get_args(Estimator))
    return _compute(xs, ys, (estimator,), kernel, bandwidth, mask, nonfinite, tile, devices)[0]


def cka_both(
    xs: Layers,
    ys: Layers,
    *,
    kernel: Kernel = "linear",
    bandwidth: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    nonfinite: NonFinite = "raise",
    tile: int | None = None,
    devices: Devices | None = None,
) -> CKA:
    """`cka_all_pairs` for both estimators, each `[L1, L2]`, at the cost of one: inner products are shared. n >= 4."""
    return CKA(*_compute(xs, ys, CKA._fields, kernel, bandwidth, mask, nonfinite, tile, devices))


def cka_same_layer(
    xs: Layers,
    ys: Layers,
    *,
    estimator: Estimator = "debiased",
    kernel: Kernel = "linear",
    bandwidth: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    nonfinite: NonFinite = "raise",
) -> jax.Array:
    """CKA of layer l of xs `[L, n, d1]` with layer l of ys `[L, n, d2]` -> `[L]`: the diagonal of `cka_all_pairs`.

    With fewer features than examples (d1 + d2 < n), linear CKA is made of d×d products of features, at a cost linear
    in n, instead of n×n products of examples. The two are equal. The debiased one is then a difference, though: a layer
    for which float32 is not enough (rows much longer than the others) is done by its Gram. Under vmap both are
    computed. Besides the features, one layer is held at a time. Arguments and dtypes are those of `cka_all_pairs`.

    Raises:
        ValueError: as `cka_all_pairs`, or numbers of layers differ.
    """
    check_choice("estimator", estimator, get_args(Estimator))
    x, y, keep, dtype, bandwidth = _prepare(xs, ys, (estimator,), kernel, bandwidth, mask, nonfinite)
    y = x if y is None else y
    if len(x) != len(y):
        raise ValueError(f"both sides need the same layers (axis 0), got xs {x.shape}, ys {y.shape}")
    how = hsic.plan(kernel, 2, x.shape[1], dtype.itemsize)
    features = kernel == "linear" and x.shape[2] + y.shape[2] < x.shape[1]
    values, sizes = layerwise.same_layer(x, y, keep, bandwidth, how=how, dtype=dtype, features=features)
    _check_finite(x, y, sizes, keep, nonfinite)
    return _settled(values[CKA._fields.index(estimator)])


def minibatch_cka(batches: Iterable[tuple[Layers, Layers]]) -> jax.Array:
    """Linear CKA `[L1, L2]` as Nguyen et al. (2021) estimate it, from batches (xs `[L1, n, d1]`, ys `[L2, n, d2]`).

    HSIC_1 of (K, L), (K, K) and (L, L) is summed over batches, all of equal weight, and CKA is the ratio of the sums.
    One batch is held at a time. Each mean of HSIC_1 is unbiased whatever the batch size; still this is not the value of
    all examples together, which also compares examples of different batches. It varies more, and with how examples were
    put into batches. Use `cka_all_pairs` where the features fit.

    Raises:
        ValueError: there is no batch, a batch has fewer than 4 examples (leave it out, or merge it with another),
            numbers of layers differ, or values are not finite; says which batch.
    """
    sums: list[np.ndarray] = []
    for i, (xs, ys) in enumerate(batches):
        try:
            x, y, keep, dtype, one = _prepare(xs, ys, ("debiased",), "linear", 1.0, None, "raise")
            how = hsic.plan("linear", 2 * max(len(x), 0 if y is None else len(y)), x.shape[1], dtype.itemsize)
            _, (products, _), sides = hsic.all_pairs(x, y, keep, one, how=how, dtype=dtype)
            _check_finite(x, y, [side.size for side in sides], keep, "raise")
        except ValueError as error:
            raise ValueError(f"batch {i}: {error}") from error
        # Features were divided by their size, which differs between batches. float64 has room for its fourth power.
        k, m = (np.asarray(side.size, np.float64) ** 2 for side in sides)
        uv, uu, vv = (np.asarray(value, np.float64) / (x.shape[1] * (x.shape[1] - 3)) for value in products)
        # Nothing from layers whose Gram is zero in this batch (NaN), not even rounding.
        new = [uv * np.where(uu > 0, k, 0)[:, None] * np.where(vv > 0, m, 0), np.nan_to_num(uu) * k**2]
        new += [np.nan_to_num(vv) * m**2]
        if sums and sums[0].shape != uv.shape:
            raise ValueError(f"batch {i} has {uv.shape} layers, the batches before it {sums[0].shape}")
        sums = [total + value for total, value in zip(sums, new, strict=True)] if sums else new
    if not sums:
        raise ValueError("there are no batches")
    uv, uu, vv = sums
    with np.errstate(invalid="ignore"):
        return jnp.asarray(uv / (np.sqrt(uu)[:, None] * np.sqrt(vv)), dtype)


def biased_null_mean(
    xs: Layers,
    ys: Layers,
    *,
    kernel: Kernel = "linear",
    bandwidth: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    nonfinite: NonFinite = "raise",
) -> jax.Array:
    """Mean of biased CKA over all permutations of the examples of ys: its level for unrelated layers -> `[L1, L2]`.

    Exactly tr K · tr L / ((n-1) |K| |L|) of the centred Grams, |K|² = Σ_ij K_ij². About d/(n+d) for Gaussian features.
    (That of the debiased estimator is 0.) Arguments, dtypes and errors are those of `cka_all_pairs`; n >= 2.
    """
    x, y, keep, dtype, bandwidth = _prepare(xs, ys, ("biased",), kernel, bandwidth, mask, nonfinite)
    how = hsic.plan(kernel, 1, x.shape[1], dtype.itemsize)
    _, x_share, x_size = layerwise.lengths(x, keep, bandwidth, how=how, dtype=dtype)
    y_share, y_size = x_share, x_size
    if y is not None:
        _, y_share, y_size = layerwise.lengths(y, keep, bandwidth, how=how, dtype=dtype)
    _check_finite(x, y, (x_size, y_size), keep, nonfinite)
    return _settled(x_share[:, None] * y_share / (keep.sum() - 1).astype(dtype))


# --- the arguments ----------------------------------------------------------------------------------------------------


def _prepare(xs, ys, estimators, kernel, bandwidth, mask, nonfinite):
    """-> x, y (None if it is x), keep, dtype, bandwidth."""
    check_choice("kernel", kernel, get_args(Kernel))
    check_choice("nonfinite", nonfinite, get_args(NonFinite))
    if not isinstance(bandwidth, jax.core.Tracer):
        bandwidth = float(bandwidth)  # one program for integers and others
        if not 0 < bandwidth < np.inf:
            raise ValueError(f"bandwidth must be positive and finite, got {bandwidth}")
    least = {f"{estimator} CKA": MIN_ROWS[estimator] for estimator in estimators}
    if xs is ys:
        x, keep = prepare({"xs": xs}, mask, least=least)
        y = None
    else:
        x, y, keep = prepare({"xs": xs, "ys": ys}, mask, least=least)
    if kernel == "rbf" and x.shape[1] > 90_000:
        raise ValueError(f"kernel='rbf' counts pairs in 32 bits: n must be at most 90,000, got {x.shape[1]}")
    return x, y, keep, jnp.promote_types(jnp.result_type(x, x if y is None else y), jnp.float32), bandwidth


def _compute(xs, ys, estimators, kernel, bandwidth, mask, nonfinite, tile, devices):
    x, y, keep, dtype, bandwidth = _prepare(xs, ys, estimators, kernel, bandwidth, mask, nonfinite)
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be at least 1 row, got {tile}")
    layers = len(x) + (0 if y is None else len(y))
    how = hsic.plan(kernel, layers, x.shape[1], dtype.itemsize, tile, hsic.devices_of(devices, x, y))
    x, y, keep = hsic.placed(how, x, y, keep)
    values, _, sides = hsic.all_pairs(x, y, keep, bandwidth, how=how, dtype=dtype)
    _check_finite(x, y, [side.size for side in sides], keep, nonfinite)
    return [_settled(values[CKA._fields.index(estimator)]) for estimator in estimators]


def _settled(values):
    """jax may read NumPy's and torch's memory in place: be done with it before the caller can write there again."""
    return values if isinstance(values, jax.core.Tracer) else jax.block_until_ready(values)


def _check_finite(x, y, sizes, keep, nonfinite):
    """Raises for the first kept row that is not finite. `sizes` say which layers to look at: usually none."""
    if nonfinite == "missing" or any(isinstance(value, jax.core.Tracer) for value in (x, y, *sizes, keep)):
        return
    for name, side, size in (("xs", x, sizes[0]), ("ys", x if y is None else y, sizes[1])):
        for layer in np.flatnonzero(~np.isfinite(size)):
            bad = np.asarray(row_facts(side[layer : layer + 1], keep)[0][0])
            if bad.any():  # if not, only the differences of rows overflow: missing
                raise ValueError(
                    f"{name}: row {bad.argmax()} of layer {layer} is not finite ({bad.sum()} of its {keep.sum()} rows "
                    "are not). With nonfinite='missing' its values are NaN instead"
                )
