"""Similarity of all pairs of layers by shape (Procrustes) and by distances between examples (RSA), compiled.

``procrustes_similarity``  ‖X̂ᵀŶ‖_* = max over rotations Q of ⟨X̂, ŶQ⟩,  X̂ = Xᶜ/|Xᶜ|_F                          [0, 1]
``procrustes_distance``    its arccos: the angle between the two shapes, in radians                        [0, π/2]
``rsa``                    correlation of the n(n-1)/2 distances between examples in X with those in Y      [-1, 1]

with Xᶜ the column-centred features and ‖·‖_* the sum of singular values. The angle is a metric (zero for equal shapes
only, symmetric, triangle inequality): the angular shape distance of Williams et al. 2021, there also for other groups.

Unchanged by: a rotation or reflection of the features of either side, one scale factor, and one permutation of the
examples on both sides. Procrustes also by a shift, and RSA by one with distance="euclidean"; "cosine" bears a scale per
example, "correlation" also a constant added to all features of an example. All change under a linear map or a scale
per feature.

Read with n in mind: ‖X̂ᵀŶ‖_* of unrelated features grows with d and shrinks with n, like biased CKA. RSA of unrelated
features is about 0 for any n, but its n(n-1)/2 distances are far from independent: permute examples to test it, not
distances. Repeated examples (`analysis.cka.duplicate_rows`) are at distance 0 in both sides, which raises RSA.

NaN is 0/0: constant features; for RSA also examples that are all equally far apart (to working precision), or one that
has no direction (all zero with "cosine", one value in all features with "correlation"). Other layers are not affected.

Williams, Kunz, Kornblith & Linderman, "Generalized shape metrics on neural representations", NeurIPS 2021.
Kriegeskorte, Mur & Bandettini, "Representational similarity analysis", Frontiers in Systems Neuroscience 2, 2008.
"""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, check_choice
from analysis.rows import (
    Distance,
    centred,
    compared,
    compute_dtype,
    distances2,
    frobenius,
    inner,
    narrow,
    no_structure,
    ragged,
    settle,
    sides,
)

__all__ = ["Comparison", "procrustes_distance", "procrustes_similarity", "rsa"]

Comparison = Literal["spearman", "pearson", "cosine"]

# Einsum letters: i examples; p, q features.


def procrustes_similarity(xs: Layers, ys: Layers, *, mask: ArrayLike | None = None) -> jax.Array:
    """Procrustes similarity of every layer of xs `[L1, n, d1]` with every layer of ys `[L2, n, d2]` -> `[L1, L2]`.

    Row i of both is the same example; d1 and d2 may differ. Layers of different widths may come as a list. float32, or
    float64 if given. Not clamped: 1 may come out as 1 + 1e-6.

    Cost: one SVD of min(n, d1) × min(n, d2) per pair of layers, 1 s for 1000 on two cores.

    Args:
        mask: bool `[n]`; the value is that of the examples where it is True.

    Raises:
        ValueError: shapes do not go together, n < 2, or a row is not finite.
    """
    return _procrustes(xs, ys, mask, _nuclear)


def procrustes_distance(xs: Layers, ys: Layers, *, mask: ArrayLike | None = None) -> jax.Array:
    """Angular Procrustes distance in radians, `[L1, L2]`: 0 for the same shape. Arguments as `procrustes_similarity`.

    From the length of what is left after the best rotation, 2 arcsin(|X̂ - ŶQ|/2), not by arccos, which in float32 tells
    nothing below 5e-4. Equal shapes come out at about 1e-6, or at up to 2e-4 if features are of very unequal size (a
    spectrum of four decades). Takes about three times as long as the similarity.
    """
    return _procrustes(xs, ys, mask, _angle)


def rsa(
    xs: Layers,
    ys: Layers,
    *,
    distance: Distance = "euclidean",
    compare: Comparison = "spearman",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Representational similarity analysis: layers xs `[L1, n, d1]` with layers ys `[L2, n, d2]` -> `[L1, L2]`.

    Row i of both is the same example. float32, or float64 if given. Memory: (L1 + L2)·n²/2 floats. Time: n²·d plain
    operations per layer, 0.6 s for n = 1000, d = 2048 on two cores, half of it the sorting.

    Args:
        distance: between examples. "euclidean", of features as they are; "cosine", 1 - cosine; "correlation", 1 -
            Pearson correlation over the features of two examples. Where a few features have a large mean, "cosine" and
            "correlation" see little else: centre features over examples first to avoid that. In float32 such a mean of
            10,000 standard deviations also costs correlations their digits beyond 1e-4.
        compare: "spearman", where equal distances share the average of their ranks; "pearson"; or "cosine", the cosine
            of the distances as they are, in [0, 1] and high for any two layers.
        mask: bool `[n]`; the value is that of the examples where it is True.

    Raises:
        ValueError: shapes do not go together, n < 3, a row is not finite, or layers of different widths come with
            "correlation" (they are filled up with zeros, which changes means over features: call it layer by layer).
    """
    check_choice("distance", distance, get_args(Distance))
    check_choice("compare", compare, get_args(Comparison))
    for name, side in (("xs", xs), ("ys", ys)):
        if distance == "correlation" and ragged(side):
            raise ValueError(f"{name}: correlation distance needs layers of one width; pass them one by one")
    x, y, keep = sides(xs, ys, mask, {"RSA": 3})
    dtype = compute_dtype(x, y)
    first = _unit_distances(x, keep, distance, compare, dtype)
    second = first if y is None else _unit_distances(y, keep, distance, compare, dtype)
    return settle(_inner(first, second))


# --- Procrustes -------------------------------------------------------------------------------------------------------


def _procrustes(xs, ys, mask, value):
    x, y, keep = sides(xs, ys, mask, {"Procrustes": 2})
    dtype = compute_dtype(x, y)
    first = _shapes(x, keep, dtype)
    return settle(_pairs(first, first if y is None else _shapes(y, keep, dtype), value))


@partial(jax.jit, static_argnames="dtype")
def _shapes(xs, keep, dtype):
    """xs `[L, n, d]` -> centred, of length one, and rotated to no more features than examples, `[L, n, min(n, d)]`."""

    def layer(x):
        x = narrow(centred(x, keep, dtype))
        return x / frobenius(x)

    return lax.map(layer, xs)


@partial(jax.jit, static_argnames="value")
def _pairs(x, y, value):
    if x.shape[2] < y.shape[2]:
        x, y, swapped = y, x, True
    else:
        swapped = False
    values = lax.map(lambda a: lax.map(lambda b: value(a, b), y), x)
    return values.T if swapped else values


def _product(a, b):
    return jnp.einsum("ip,iq->pq", a, b, precision=lax.Precision.HIGHEST)


def _nuclear(a, b):
    return jnp.linalg.svd(_product(a, b), compute_uv=False).sum()


def _angle(a, b):
    """a `[i, p]`, b `[i, q]` with p >= q: no feature of b is lost when it is rotated onto a."""
    left, _, right = jnp.linalg.svd(_product(a, b), full_matrices=False)
    rotation = jnp.einsum("pr,rq->qp", left, right, precision=lax.Precision.HIGHEST)
    rotated = jnp.einsum("iq,qp->ip", b, rotation, precision=lax.Precision.HIGHEST)
    return 2 * jnp.arcsin(frobenius(a - rotated) / 2)


# --- RSA --------------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("distance", "compare", "dtype"))
def _unit_distances(xs, keep, distance, compare, dtype):
    """xs `[L, n, d]` -> what is compared, a vector of length one per layer `[L, ⌊n/2⌋·n]`; 0 for dropped rows."""
    n = xs.shape[1]
    # Each pair once: an example with the ones up to half the way round a circle of all; of even n, the last half once.
    steps = jnp.arange(1, n // 2 + 1)
    index = jnp.arange(n)
    once = (2 * steps[:, None] < n) | (index < n // 2)
    valid = (once & keep & jnp.asarray(keep)[(index + steps[:, None]) % n]).ravel()
    pairs = valid.sum()

    def layer(x):
        rows = compared(x, keep, distance, dtype)
        round_ = jnp.concatenate([rows, rows])
        squares = lax.map(lambda step: distances2(lax.dynamic_slice_in_dim(round_, step, n), rows), steps).ravel()
        missing = no_structure(jnp.where(valid, squares, jnp.inf).min(), jnp.where(valid, squares, -jnp.inf).max())
        if compare == "spearman":
            values = _centred_ranks(jnp.where(valid, squares, jnp.inf), pairs)
        else:
            values = jnp.sqrt(squares) if distance == "euclidean" else squares
        values = jnp.where(valid, values, 0)
        if compare == "pearson":
            for _ in range(2):  # the second time, what rounding left of the mean
                values = jnp.where(valid, values - values.sum() / pairs, 0)
        values = values / jnp.abs(values).max()
        values = values / jnp.sqrt(inner(values[None], values[None])[0, 0])
        return jnp.where(missing, jnp.nan, values)

    return lax.map(layer, xs)


_inner = jax.jit(inner)


def _centred_ranks(values, count):
    """Ranks of values `[m]`, of which the first `count` in order matter; equal ones share their average; sum 0."""
    order = jnp.arange(len(values))
    values, places = lax.sort((values, order), num_keys=1)
    new = jnp.concatenate([jnp.ones(1, bool), values[1:] != values[:-1]])
    first = lax.cummax(jnp.where(new, order, 0))
    last = lax.cummin(jnp.where(jnp.roll(new, -1), order, len(values)), reverse=True)
    return jnp.zeros(len(values), values.dtype).at[places].set((first + last - (count - 1)).astype(values.dtype))
