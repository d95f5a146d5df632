"""Do two updates change the same entries, and in the same direction? Sign agreement after trimming, as in TIES merging.

Each update is trimmed to its largest entries by absolute value, a share of 20 % unless another is asked for. `common`
is the share of the entries kept of one that are kept of the other too, `equal` the share of those that have the same
sign in both: where it is low, averaging the two cancels.

Range 0 ... 1. Invariant to permutations and sign flips of rows and columns, to a positive factor for each task, and to
how an update is split in factors; not to rotations: this is about entries. Where one update changes its sign, `equal`
becomes one minus itself.

**Chance.** Equal signs ½, but not with the binomial error of that many entries, since a matrix of rank r has only
r (out + in - r) free ones. Entries kept of both: the kept share, if positions were independent; more as soon as the
rows or columns of large norm are the same ones.

The authors' code trims to the top 20 % of a whole task vector; PEFT each matrix, as here. Entries tied with the
threshold are kept; zeros never are. The threshold is exact.

Cost: out · in · N (4 r + 4 N) operations a place, in blocks of rows; the whole of an update is never held.

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from analysis.low_rank import ThinSVD
from analysis.update_similarity import check_updates

__all__ = ["SignAgreement", "sign_agreement"]

#: Entries of updates held at a time.
BLOCK = 2**24

#: Entries that are drawn to bracket a threshold, and the bracket's half width in standard errors.
SAMPLE, ERRORS = 2**16, 6.0


class SignAgreement(NamedTuple):
    """Of updates trimmed to their largest entries; NaN where nothing is kept."""

    common: jax.Array
    """`[K, N, N]`: share of the entries kept of i that are kept of j too."""
    equal: jax.Array
    """`[K, N, N]`: share of those that have the same sign in both."""
    kept: jax.Array
    """int `[N, K]`: entries kept."""
    threshold: jax.Array
    """`[N, K]`: the smallest absolute value that is kept."""


def sign_agreement(updates: ThinSVD, *, share: float = 0.2, seed: int = 0) -> SignAgreement:
    """Agreement in sign of the entries that two updates keep when each is trimmed to its largest.

    Two passes over blocks of rows. The threshold is exact, the ⌊share · out · in⌋-th largest absolute value: drawn
    entries bracket it, the first pass counts the entries above the bracket and collects those inside.

    Args:
        share: of the entries of each update, what to keep.
        seed: of the draw; no result depends on it.

    Raises:
        ValueError: updates are not `[N, K, ...]`, or share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    (N, K, out, _), size = check_updates(updates).u.shape, updates.v.shape[2]
    keep, rows = max(1, int(share * out * size)), max(1, min(out, BLOCK // (N * size)))
    both, same, threshold = np.zeros((K, N, N)), np.zeros((K, N, N)), np.zeros((N, K))
    for k in range(K):
        finite = jnp.isfinite(updates.s[:, k])
        left, right = updates.u[:, k] * jnp.where(finite, updates.s[:, k], 0)[:, None], updates.v[:, k]
        # Rows of zeros fill the last block: they are below every threshold, and zeros are not kept.
        blocks = jnp.pad(left, ((0, 0), (0, -out % rows), (0, 0))).reshape(N, -1, rows, left.shape[-1]).swapaxes(0, 1)
        threshold[:, k] = _thresholds(left, right, blocks, keep, np.random.default_rng(seed))
        level = jnp.asarray(threshold[:, k], left.dtype)
        for block in blocks:
            counts = _kept_counts(_entries(block, right), level)
            both[k] += counts[0]
            same[k] += counts[1]
        threshold[~np.asarray(finite).all(-1), k] = np.nan
    kept = np.diagonal(both, axis1=1, axis2=2)
    dtype = updates.s.dtype
    with np.errstate(invalid="ignore"):
        common, equal = both / kept[:, :, None], same / both
    common[np.broadcast_to(kept[:, None, :] == 0, common.shape)] = np.nan
    return SignAgreement(
        jnp.asarray(common, dtype), jnp.asarray(equal, dtype), jnp.asarray(kept.T, int), jnp.asarray(threshold, dtype)
    )


def _thresholds(left, right, blocks, keep, rng):
    """The keep-th largest absolute value of each update [N]."""
    N, out, size = left.shape[0], left.shape[1], right.shape[1]
    drawn = np.sort(_drawn(left, right, rng.integers(0, out, SAMPLE), rng.integers(0, size, SAMPLE)), axis=1)[:, ::-1]
    p, found = keep / (out * size), np.full(N, np.nan)
    width, missing = ERRORS * (p * (1 - p) / SAMPLE) ** 0.5 + 2 / SAMPLE, np.ones(N, bool)
    while missing.any():  # once, but for a sample that missed by six standard errors
        first, last = int((p - width) * SAMPLE), int((p + width) * SAMPLE) + 1
        high = drawn[:, first] if first > 0 else np.full(N, np.inf, drawn.dtype)
        low = drawn[:, last] if last < SAMPLE else np.zeros(N, drawn.dtype)
        above = np.zeros(N, int)
        inside: list[list[np.ndarray]] = [[] for _ in range(N)]
        for block in blocks:
            x = np.abs(np.asarray(_entries(block, right))).reshape(N, -1)
            for n in np.nonzero(missing)[0]:
                above[n] += np.count_nonzero(x[n] > high[n])
                inside[n].append(x[n][(x[n] >= low[n]) & (x[n] <= high[n])])
        for n in np.nonzero(missing)[0]:
            values, rank = np.concatenate(inside[n]), keep - above[n]
            if 1 <= rank <= len(values):
                found[n], missing[n] = np.partition(values, -rank)[-rank], False
        width *= 4
    return found


# --- the compiled part ------------------------------------------------------------------------------------------------
# Einsum letters: n, m tasks; o, e entries of a row and a column; r directions.


def _einsum(subscripts, *operands):
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST)


@jax.jit
def _entries(left, right):
    return _einsum("nor,ner->noe", left, right)


@jax.jit
def _drawn(left, right, row, column):
    return lax.map(lambda x: jnp.abs(_einsum("cr,cr->c", x[0][row], x[1][column])), (left, right))


@jax.jit
def _kept_counts(x, level):
    """Entries kept of both, and those of equal sign, `[2, N, N]`; x `[N, rows, in]`. Exact below 2²⁴ a block."""
    x = x.reshape(len(x), -1)
    sign = jnp.where(jnp.abs(x) >= level[:, None], jnp.sign(x), 0).astype(jnp.float32)
    kept = jnp.abs(sign)
    both, difference = _einsum("ne,me->nm", kept, kept), _einsum("ne,me->nm", sign, sign)
    return jnp.stack([both, (both + difference) / 2])
