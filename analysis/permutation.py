"""Is a CKA value more than chance? Permutation tests of all layer pairs at once.

The hypothesis that is tested: the two sides have nothing to do with each other, so that pairing the rows of xs with
the rows of ys in any other order would have been as likely. The examples of ys are permuted, the same way in all
layers, and all layer pairs computed anew from the Grams, which are made once: ⟨A_l, P B_m Pᵀ⟩ for centred Grams of
length one, a length that no permutation changes.

    p             = (1 + number of permutations with a value at least as large) / (1 + number of permutations)
    p_familywise  = the same for the largest value over all layer pairs (Westfall & Young 1993)

Both are valid at any n, without assumptions on the features, if the examples are exchangeable (independent draws are;
prompts in blocks of one document are not). Below 0.05 in one pair, `p` says that this pair, chosen beforehand, is
related; `p_familywise` holds for every pair of the table at once: under the hypothesis the chance that any of all
pairs has one of at most 0.05 is 5 %. Layers of one model resemble each other, and a maximum over the same permutation
knows that, which Bonferroni does not.

**What chance looks like** has a closed form, so it need not be learnt from permutations:

* debiased: mean 0 and variance 2/(n(n-3)), exactly and for any features. (Rows of a U-centred Gram
  sum to zero, so every sum of A_ij A_kl over a pattern of equal indices is a multiple of Σ A².) Every pair of layers
  has the same null mean and standard deviation; only tails differ. So `p_familywise` uses the values as they are.
* biased: mean tr K · tr L/((n-1)|K||L|), exactly (`analysis.cka.biased_null_mean`), about d/(n+d): it differs between
  layers by more than the effects that are looked for. So for this estimator the maximum is taken of (value - mean)/sd,
  with mean and sd over all permutations and the given order; as they are the same for all orders, the test stays
  exact.

A p-value is not the size of an effect: with 1,000 prompts nearly every pair of layers of language models is
significant.

Memory: (L1 + 2 L2)·n² floats. Time: per permutation one gather of n² rows of L2 floats and one product of
[L1, n²] with [n², L2], in blocks that fit in a cache.

Westfall & Young, "Resampling-based multiple testing", Wiley 1993.
Phipson & Smyth, "Permutation p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9, 2010.
Kazi-Aoual, Hitier, Sabatier & Lebreton, "Refined approximations to permutation tests", CSDA 20, 1995 (null moments).
"""

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, check_choice
from analysis.cka import Estimator
from analysis.gram import kahan
from analysis.kernels import Kernel
from analysis.whole_grams import sides, unit_grams

__all__ = ["PermutationTest", "debiased_null_sd", "permutation_test"]

# Einsum letters: l, m layers of xs and ys; i, j examples.


class PermutationTest(NamedTuple):
    """All `[L1, L2]`, and NaN where a layer has no CKA (`analysis.cka.missing_reason`)."""

    value: np.ndarray
    p_value: np.ndarray
    """One-sided: that a value as large comes about by chance in this pair."""
    p_familywise: np.ndarray
    """That a value as large, relative to its pair, comes about by chance in any pair."""
    null_mean: np.ndarray
    """Over the permutations; the exact one is in the module docstring."""
    null_sd: np.ndarray
    null: np.ndarray
    """The values under each permutation `[permutations, L1, L2]`."""


def permutation_test(
    xs: Layers,
    ys: Layers,
    *,
    permutations: int = 1000,
    seed: int = 0,
    estimator: Estimator = "debiased",
    kernel: Kernel = "linear",
    bandwidth: float = 1.0,
    mask: ArrayLike | None = None,
    nonfinite: Literal["raise", "missing"] = "raise",
) -> PermutationTest:
    """Permutation test of CKA of every layer of xs `[L1, n, d1]` with every layer of ys `[L2, n, d2]`.

    Args:
        permutations: their number m; the smallest possible p-value is 1/(m+1).
        seed: of the permutations, which depend on it, on m, and on the mask only.
        estimator: "debiased" (n >= 4) or "biased" (n >= 3). For one pair the two order permutations nearly alike.
        kernel: with its bandwidth, as in `cka_all_pairs`.
        mask: bool `[n]`, the examples that count, and that are permuted. Does not change the compiled shape.
        nonfinite: as in `cka_all_pairs`.

    Raises:
        ValueError: arguments that do not go together, or rows that are not finite; says which.
    """
    check_choice("estimator", estimator, get_args(Estimator))
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    least = {f"a permutation test of {estimator} CKA": {"debiased": 4, "biased": 3}[estimator]}
    x, y, keep, dtype = sides(xs, ys, mask, kernel, nonfinite, least)
    orders = _orders(np.asarray(keep), permutations, seed)
    rows = min(max(_BLOCK // (x.shape[1] * len(y)), 1), x.shape[1])
    how = {"kernel": kernel, "estimator": estimator, "dtype": dtype, "rows": rows}
    values, exists = _permuted(x, y, jnp.asarray(keep), orders, bandwidth, **how)
    values = np.where(np.asarray(exists), np.asarray(values, np.float64), np.nan)
    # The same order, or one that swaps equal rows, must count as at least as large in spite of rounding.
    rounding = 8 * float(jnp.finfo(dtype).eps)
    return _summary(values, rounding, standardise=estimator == "biased")


def debiased_null_sd(n: int) -> float:
    """√(2/(n(n-3))): the standard deviation of debiased CKA over all permutations of n examples, for any features."""
    return (2 / (n * (n - 3))) ** 0.5


def _summary(values, rounding, standardise):
    """Values `[1 + m, L1, L2]`, of which the first are those of the given order -> PermutationTest."""
    value, null = values[0], values[1:]
    missing = np.isnan(value)
    p_value = (1 + (null >= value - rounding).sum(0)) / len(values)
    scores = values
    if standardise:
        sd = values.std(0)
        scores = np.divide(values - values.mean(0), sd, out=np.zeros_like(values), where=sd > 0)
        rounding = np.divide(rounding, sd, out=np.zeros_like(sd), where=sd > 0)
    p_familywise = np.full(value.shape, np.nan)
    if not missing.all():
        largest = np.nanmax(np.where(missing, np.nan, scores)[1:].reshape(len(null), -1), 1)
        p_familywise = (1 + (largest[:, None, None] >= scores[0] - rounding).sum(0)) / len(values)
    p_value, p_familywise = (np.where(missing, np.nan, p) for p in (p_value, p_familywise))
    return PermutationTest(value, p_value, p_familywise, null.mean(0), null.std(0), null)


def _orders(keep, permutations, seed):
    """`[1 + m, n]`: the given order, then permutations of the kept examples."""
    rng = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(keep), dtype=np.int32), (1 + permutations, 1))
    for order in orders[1:]:
        order[keep] = rng.permutation(order[keep])
    return orders


# Floats of a block of the permuted Grams: 1 MB.
_BLOCK = 2**18


@partial(jax.jit, static_argnames=("kernel", "estimator", "dtype", "rows"))
def _permuted(x, y, keep, orders, bandwidth, *, kernel, estimator, dtype, rows):
    """-> CKA under each order `[m, L1, L2]`, which pairs have one `[L1, L2]`; so many rows of the Grams at a time."""
    n, m = x.shape[1], len(y)
    bandwidth = jnp.asarray(bandwidth, dtype)
    u, v = (unit_grams(side, keep, bandwidth, kernel, estimator, dtype) for side in (x, y))
    fill = -n % rows
    us = jnp.pad(u.matrix, ((0, 0), (0, fill), (0, 0)))  # rows of zeros, to any row of the other side
    vs = v.matrix.transpose(1, 2, 0)  # layers side by side: a permuted entry is a run of memory

    def value(order):
        def add(carry, start):
            block = lax.dynamic_slice_in_dim(us, start, rows, 1).reshape(len(x), rows * n)
            permuted = vs[lax.dynamic_slice_in_dim(padded, start, rows)][:, order].reshape(rows * n, m)
            return kahan(carry, jnp.matmul(block, permuted, precision=lax.Precision.HIGHEST)), None

        padded = jnp.pad(order, (0, fill))
        zero = jnp.zeros((len(x), m), dtype)
        return lax.scan(add, (zero, zero), jnp.arange(0, n, rows))[0][0]

    return lax.map(value, orders), u.exists[:, None] & v.exists
