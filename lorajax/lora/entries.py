"""Updates merged entry by entry, and cut to a rank: the arithmetic behind `lorajax.lora.merge`, in NumPy.

A site is one module of one layer. An update there is a pair of factors: a `[in, r]` @ b `[r, out]` in float32, with
its scale and weight, and with r = 0 where an adapter has none.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import ArpackError, eigsh

#: Of larger matrices a few eigenvectors are found by iteration, which is faster there.
LANCZOS = 200

Site = tuple[str, int]  # a module's path and a layer
Pair = tuple[np.ndarray, np.ndarray]


class Cut(NamedTuple):
    """An update a @ b of at most the rank asked for, float64; its squared norm before, and how much of it is gone."""

    a: np.ndarray
    b: np.ndarray
    norm: float
    lost: float


class Entries(Protocol):
    """The numbers that are merged at one site, and the way back to factors."""

    def adapts(self, i: int) -> bool:
        """Whether adapter i has an update here."""

    def of(self, i: int) -> np.ndarray:
        """Adapter i's numbers, float32."""

    def cut(self, merged: np.ndarray, rank: int | None) -> Cut:
        """The update that has the numbers `merged`, of at most `rank`."""


class Dense:
    """The entries of the updates, `[in, out]` in float32; made when asked for and not kept."""

    def __init__(self, pairs: Sequence[Pair]):
        self._pairs = pairs

    def adapts(self, i: int) -> bool:
        return self._pairs[i][0].shape[1] > 0

    def of(self, i: int) -> np.ndarray:
        a, b = self._pairs[i]
        return a @ b

    def cut(self, merged: np.ndarray, rank: int | None) -> Cut:
        return cut_dense(merged, rank or sum(len(b) for _, b in self._pairs))


class Tied:
    """The entries of S V_i `[k, in]`, in the basis U `[out, k]` that all share: U S V_i is the update `[out, in]`."""

    def __init__(self, pairs: Sequence[Pair]):
        self._pairs = pairs
        outer, triangle = np.linalg.qr(np.concatenate([b for _, b in pairs], dtype=np.float64).T)
        own = np.split(triangle, np.cumsum([len(b) for _, b in pairs])[:-1], 1)
        # The parts of the core differ from the updates by orthonormal bases on both sides.
        core = [t @ np.linalg.qr(a.astype(np.float64))[1].T for (a, _), t in zip(pairs, own, strict=True)]
        u, s, _ = np.linalg.svd(np.concatenate(core, 1), full_matrices=False)
        u = u[:, s > 10 * s.size * np.finfo(np.float64).eps * s.max(initial=0)]
        self._basis, self._parts = outer @ u, [u.T @ t for t in own]

    def adapts(self, i: int) -> bool:
        return self._pairs[i][0].shape[1] > 0

    def of(self, i: int) -> np.ndarray:
        return (self._parts[i] @ self._pairs[i][0].T).astype(np.float32)

    def cut(self, merged: np.ndarray, rank: int | None) -> Cut:
        return cut(merged.T, self._basis.T, rank)


class Selection(Protocol):
    """Which of adapter i's numbers at a site take part: the others are 0 in what it returns."""

    def __call__(self, x: np.ndarray, i: int, site: Site) -> np.ndarray: ...


def merge_entries(
    sites: Mapping[Site, Entries], count: int, select: Selection, *, signed: bool, rank: int | None
) -> dict[Site, Cut]:
    """The selected numbers of `count` adapters, site by site: their sum, or if `signed` what `agreed` makes of them."""

    def merged(site: Site, entries: Entries) -> np.ndarray:
        selected = [partial(lambda i: select(entries.of(i), i, site), i) for i in range(count)]
        return agreed(selected) if signed else total(selected)

    return {site: entries.cut(merged(site, entries), rank) for site, entries in sites.items()}


def largest(sites: Mapping[Site, Entries], count: int, density: float, *, whole: bool) -> Selection:
    """Keeps the share `density` of each adapter's numbers, the largest: at every site, or of all sites if `whole`."""

    def thresholds(chosen: Sequence[Entries]) -> list[float]:
        own = [[entries for entries in chosen if entries.adapts(i)] for i in range(count)]
        return [threshold([partial(entries.of, i) for entries in own[i]], density) for i in range(count)]

    least = thresholds(list(sites.values())) if whole else []

    @lru_cache(1)
    def at(site: Site) -> list[float]:
        return thresholds([sites[site]])

    return lambda x, i, site: np.where(np.abs(x) >= (least or at(site))[i], x, 0)


def at_random(density: float, seed: int) -> Selection:
    """Keeps each number with probability `density`, and divides it by that; draws depend on seed, adapter and site."""

    def select(x: np.ndarray, i: int, site: Site) -> np.ndarray:
        draws = np.random.default_rng([seed, i, zlib.crc32(site[0].encode()), site[1]]).random(x.shape, np.float32)
        return np.where(draws < density, x / np.float32(density), 0)

    return select


def total(parts: Sequence[Callable[[], np.ndarray]]) -> np.ndarray:
    """The sum of arrays, which are made one at a time."""
    result = parts[0]()
    for part in parts[1:]:
        result = result + part()
    return result


def agreed(parts: Sequence[Callable[[], np.ndarray]]) -> np.ndarray:
    """For every entry the mean of those that have the sign of the sum; 0 where the sum is. Each part is made twice."""
    sign = np.sign(total(parts))
    mean, voters = np.zeros_like(sign), np.zeros(sign.shape, np.int32)
    for part in parts:
        x = part()
        agrees = np.sign(x) == sign
        mean += np.where(agrees, x, 0)
        voters += agrees
    return mean / np.maximum(voters, 1).astype(sign.dtype)


def threshold(blocks: Sequence[Callable[[], np.ndarray]], share: float) -> float:
    """The magnitude that the top `share` of all entries of the float32 `blocks` reaches: exact, one block at a time.

    Floats that are not negative are ordered as their bits are: the upper 16 bits are counted, then the lower 16 of
    those that have the right upper ones.
    """

    def counts(part: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = np.zeros(1 << 16, np.int64)
        for block in blocks:
            found += np.bincount(part(np.abs(block()).view(np.uint32).ravel()), minlength=1 << 16)
        return found

    def place(found: np.ndarray, rank: int) -> tuple[int, int]:
        """Where the rank-th largest is, and which one of those there it is."""
        above = np.cumsum(found[::-1])
        i = int(np.searchsorted(above, rank))
        return len(found) - 1 - i, rank - int(above[i] - found[::-1][i])

    upper = counts(lambda bits: bits >> 16)
    if not (total := int(upper.sum())):
        return 0.0
    high, rest = place(upper, max(1, round(share * total)))
    low, _ = place(counts(lambda bits: bits[bits >> 16 == high] & 0xFFFF), rest)
    return float(np.array(high << 16 | low, np.uint32).view(np.float32))


# --- cutting to a rank ------------------------------------------------------------------------------------------------


def cut(a: np.ndarray, b: np.ndarray, rank: int | None) -> Cut:
    """a `[in, R]` @ b `[R, out]` with the largest `rank` singular values; as it is where R is no more."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    most = min(rank or len(b), len(a), b.shape[1])
    if len(b) <= most:
        return Cut(a, b, float(np.sum((a.T @ a) * (b @ b.T))), 0.0)
    (left, upper), (right, lower) = np.linalg.qr(a), np.linalg.qr(b.T)
    u, s, vt = np.linalg.svd(upper @ lower.T)
    root = np.sqrt(s[:most])
    return Cut(
        left @ u[:, :most] * root, root[:, None] * (vt[:most] @ right.T), float(s @ s), float(s[most:] @ s[most:])
    )


def cut_dense(update: np.ndarray, rank: int) -> Cut:
    """The same of `update [in, out]`, from the leading eigenvectors of its smaller Gram matrix, in float64."""
    update = update.astype(np.float64)
    rows = update if update.shape[0] <= update.shape[1] else update.T
    norm, basis = float(np.sum(rows**2)), _leading(rows @ rows.T, min(rank, len(rows)))
    parts = basis.T @ rows
    s = np.linalg.norm(parts, axis=1)
    root = np.sqrt(np.where(s > 0, s, 1))
    down, up = basis * root, parts / root[:, None]
    lost = max(0.0, norm - float(np.sum(s**2)))
    return Cut(down, up, norm, lost) if rows is update else Cut(up.T, down.T, norm, lost)


def _leading(gram: np.ndarray, count: int) -> np.ndarray:
    """Eigenvectors `[n, count]` of the largest eigenvalues of a matrix `[n, n]` that has none below 0."""
    n = len(gram)
    if n >= LANCZOS and 4 * count < n and gram.any():
        start = np.random.default_rng(0).normal(size=n)
        with contextlib.suppress(ArpackError):
            values, basis = eigsh(gram, count, v0=start)
            # Lanczos iterations can overlook one of several equal eigenvalues: no larger one may be left.
            left = eigsh(gram - basis * values @ basis.T, 1, v0=start, tol=1e-6, return_eigenvectors=False)
            if left[0] <= values.min() * (1 + 1e-5):
                return basis[:, np.argsort(-values)]
    return scipy.linalg.eigh(gram, subset_by_index=(n - count, n - 1), driver="evr")[1][:, ::-1]
