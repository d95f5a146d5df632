"""Similarities of updates, from factors, against dense float64 NumPy from the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import signs
from analysis.low_rank import ThinSVD, scaled_to_unit, thin_svd
from analysis.signs import sign_agreement
from analysis.update_similarity import (
    cosine,
    frobenius_norms,
    inner_products,
    l2,
    merged_alignment,
    pair_interference,
    subspace_alignment,
    subspace_similarity,
    task_interference,
)

N, K, OUT, IN, R = 5, 3, 24, 18, 4
PAIRS = [cosine, l2, inner_products, subspace_similarity, subspace_alignment, pair_interference]


def factors(seed=0):
    """Related updates of unlike size; task 4 has rank 2."""
    rng = np.random.default_rng(seed)
    B, A = rng.standard_normal((N, K, OUT, R)), rng.standard_normal((N, K, R, IN))
    B, A = B + rng.standard_normal((K, OUT, R)), A + rng.standard_normal((K, R, IN))
    B[4, :, :, 2:] = 0
    return B * np.array([1, 2, 0.1, 5, 1])[:, None, None, None], A


def single(B, A, **kwargs):
    return thin_svd(B.astype(np.float32), A.astype(np.float32), **kwargs)


@pytest.fixture(scope="module")
def case():
    """Updates in float32, and dense in float64."""
    B, A = factors()
    return single(B, A), B @ A


@pytest.fixture(scope="module")
def missing():
    """The same, but task 1 is zero in place 0 and task 2 not finite in place 1."""
    B, A = factors()
    B[1, 0], A[2, 1, 0, 0] = 0, np.nan
    return single(B, A)


def svd(update):
    """Without the directions that are rounding."""
    u, s, vt = np.linalg.svd(update)
    rank = (s > 1e-9 * s[0]).sum()
    return u[:, :rank], s[:rank], vt[:rank].T


def pairwise(function, dense):
    return np.array([[[function(x, y) for y in dense[:, k]] for x in dense[:, k]] for k in range(dense.shape[1])])


def test_cosine_inner_products_and_norms(case):
    updates, dense = case
    norms = np.linalg.norm(dense, axis=(2, 3))
    expected = pairwise(lambda x, y: (x * y).sum(), dense)
    np.testing.assert_allclose(frobenius_norms(updates), norms, rtol=2e-6)
    np.testing.assert_allclose(inner_products(updates), expected, atol=2e-6 * norms.max() ** 2)
    expected /= norms.T[:, :, None] * norms.T[:, None]
    np.testing.assert_allclose(cosine(updates), expected, atol=2e-6)
    tiny = updates._replace(s=updates.s * 1e-30)
    np.testing.assert_allclose(cosine(tiny), expected, atol=2e-6)
    np.testing.assert_allclose(frobenius_norms(tiny), norms * 1e-30, rtol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_l2(case, relative):
    updates, dense = case
    if relative:
        dense = dense / np.linalg.norm(dense, axis=(2, 3), keepdims=True)
    expected = pairwise(lambda x, y: np.linalg.norm(x - y), dense)
    np.testing.assert_allclose(l2(updates, relative=relative), expected, rtol=2e-5)


@pytest.mark.parametrize("difference", [1e-2, 1e-4, 1e-5])
def test_l2_of_nearly_equal_updates(difference):
    """To 2e-6 of the updates' norm, where inner products lose everything below 1e-3; in float64 to 1e-12."""
    B, A = factors()
    B[1:], A[1:] = B[0] * (1 + difference * np.random.default_rng(1).standard_normal(B[1:].shape)), A[0]
    B, A = B.astype(np.float32).astype(float), A.astype(np.float32).astype(float)
    dense = B @ A
    norm, expected = np.linalg.norm(dense[0, 0]), pairwise(lambda x, y: np.linalg.norm(x - y), dense)
    np.testing.assert_allclose(l2(single(B, A)), expected, atol=2e-6 * norm)
    with jax.enable_x64(True):
        np.testing.assert_allclose(l2(thin_svd(B, A)), expected, atol=1e-12 * norm)


@pytest.mark.parametrize("side", ["left", "right"])
def test_subspace_similarity(case, side):
    """Every p and q from the definition; NaN beyond the rank; at p = q = r it is 1 - d² / r, d the chordal distance."""
    updates, dense = case
    phi, index = np.asarray(subspace_similarity(updates, side)), 0 if side == "left" else 2
    for i, j in [(0, 1), (1, 4), (4, 1), (2, 2)]:
        u, v = svd(dense[i, 1])[index], svd(dense[j, 1])[index]
        expected = np.full((R, R), np.nan)
        for p in range(u.shape[1]):
            for q in range(v.shape[1]):
                expected[p, q] = np.linalg.norm(u[:, : p + 1].T @ v[:, : q + 1]) ** 2 / (min(p, q) + 1)
        np.testing.assert_allclose(phi[1, i, j], expected, atol=1e-4)
    u, v = svd(dense[0, 0])[index], svd(dense[1, 0])[index]
    chordal = np.linalg.norm(u @ u.T - v @ v.T) / np.sqrt(2)
    assert phi[0, 0, 1, -1, -1] == pytest.approx(1 - chordal**2 / R, abs=1e-5)


def inside(update, other, epsilon, index):
    """SAR by equations 5 and 6."""
    basis, s = svd(other)[index], svd(other)[1]
    k = next(k for k in range(len(s) + 1) if np.sqrt((s[k:] ** 2).sum()) <= epsilon * np.linalg.norm(s))
    x = update if index == 0 else update.T
    return np.linalg.norm(basis[:, :k] @ basis[:, :k].T @ x) / np.linalg.norm(x), k


@pytest.mark.parametrize(("epsilon", "side"), [(0.05, "left"), (0.4, "left"), (0.4, "right"), (0.0, "right")])
def test_alignment(case, epsilon, side):
    updates, dense = case
    index = 0 if side == "left" else 2
    expected = pairwise(lambda x, y: inside(x, y, epsilon, index)[0], dense)
    np.testing.assert_allclose(subspace_alignment(updates, epsilon=epsilon, side=side), expected, atol=1e-5)
    merged = merged_alignment(updates, epsilon=epsilon, side=side)
    expected = [[inside(x, dense[:, k].sum(0), epsilon, index) for k, x in enumerate(task)] for task in dense]
    np.testing.assert_allclose(merged.ratio, np.array(expected)[..., 0], atol=1e-5)
    # Nothing may be left out, and rounding adds directions to a sum that are not there.
    if epsilon:
        np.testing.assert_array_equal(merged.dimensions, np.array(expected)[0, :, 1])


def interference(updates):
    """STI of dense updates by the formula."""
    u, s, v = (np.concatenate(x, -1) for x in zip(*map(svd, updates), strict=True))
    eye = np.eye(len(s))
    return np.abs((u.T @ u - eye) @ np.diag(s) @ (v.T @ v - eye)).sum()


def test_interference(case):
    updates, dense = case
    np.testing.assert_allclose(
        pair_interference(updates), pairwise(lambda x, y: interference([x, y]), dense), rtol=1e-4
    )
    np.testing.assert_allclose(task_interference(updates), [interference(dense[:, k]) for k in range(K)], rtol=1e-4)
    own = np.diagonal(pair_interference(updates), axis1=1, axis2=2)
    np.testing.assert_allclose(own, 2 * np.asarray(updates.s).sum(-1).T, rtol=1e-5)


def trimmed(update, share):
    size = np.sort(np.abs(update), None)[::-1][int(share * update.size) - 1]
    return np.sign(update) * (np.abs(update) >= size), size


@pytest.mark.parametrize(("share", "block"), [(0.2, 2**24), (0.2, N * IN * 7), (1.0, N * IN * 7), (0.01, 2**24)])
def test_sign_agreement(share, block, monkeypatch):
    """Counted exactly in float64, whatever the blocks of rows are."""
    monkeypatch.setattr(signs, "BLOCK", block)
    B, A = factors()
    with jax.enable_x64(True):
        found = sign_agreement(thin_svd(B, A), share=share)
    dense = B @ A
    common = pairwise(lambda x, y: (trimmed(x, share)[0] * trimmed(y, share)[0] != 0).sum(), dense)
    equal = pairwise(lambda x, y: (trimmed(x, share)[0] * trimmed(y, share)[0] > 0).sum(), dense)
    kept = np.diagonal(common, axis1=1, axis2=2)
    np.testing.assert_array_equal(found.kept, kept.T)
    np.testing.assert_allclose(found.common, common / kept[:, :, None])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.equal, equal / common)
    expected = [[trimmed(x, share)[1] for x in task] for task in dense]
    np.testing.assert_allclose(found.threshold, expected, rtol=1e-10)


def padded(B, A):
    """[tasks, out, r] and [tasks, r, in] in the common shape, where programs are compiled already; other tasks are zero."""
    whole = np.zeros((N, K, OUT, R)), np.zeros((N, K, R, IN))
    whole[0][: len(B), :, :, : B.shape[2]], whole[1][: len(A), :, : A.shape[1]] = B[:, None], A[:, None]
    return single(*whole)


def test_sign_agreement_of_zeros_and_ties():
    """Rows of zeros are never kept, though 20 % of the entries would reach into them; equal entries are kept together."""
    rows = np.zeros((1, OUT, 2))
    rows[:, 0, 0] = rows[:, 1, 1] = 1
    B, A = np.concatenate([rows, -rows, rows]), np.ones((3, 2, IN))
    A[2, 1] = -1
    found = sign_agreement(padded(B, A), share=0.2)
    assert found.kept[:, 0].tolist() == [2 * IN] * 3 + [0] * 2
    np.testing.assert_allclose(found.common[0, :3, :3], 1)
    np.testing.assert_allclose(found.equal[0, :3, :3], [[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]])
    np.testing.assert_array_equal(found.threshold, 0)


def test_unrelated_updates_are_at_the_stated_levels():
    """64 x 48, rank 3, 780 pairs: means within a few percent of what the module says."""
    rng = np.random.default_rng(0)
    out, size, r = 64, 48, 3
    u, v = (np.linalg.qr(rng.standard_normal((40, 1, d, r)))[0].astype(np.float32) for d in (out, size))
    s = np.broadcast_to(np.array([3, 2, 1], np.float32) / 14**0.5, (40, 1, r))
    updates = ThinSVD(*map(jnp.asarray, (u, s, v)), jnp.full((40, 1), r))
    off = ~np.eye(40, dtype=bool)
    mean = lambda x: np.asarray(x)[0][off].mean(0)
    assert np.asarray(cosine(updates))[0][off].std() == pytest.approx((out * size) ** -0.5, rel=0.1)
    p = 1 + np.arange(r)
    np.testing.assert_allclose(mean(subspace_similarity(updates)), np.maximum(p[:, None], p) / size, rtol=0.1)
    np.testing.assert_allclose(mean(subspace_alignment(updates)) ** 2, 3 / out, rtol=0.1)
    assert 0.64 < mean(pair_interference(updates)) / (2 * r**2 * (out * size) ** -0.5) < 0.8
    found = sign_agreement(updates)
    assert mean(found.equal) == pytest.approx(0.5, abs=0.02)
    assert mean(found.common) == pytest.approx(0.2, abs=0.03)


def test_planted_overlap():
    """Tasks that share one direction on both sides, on one side only, or none."""
    eye = np.eye(OUT)
    B = np.stack([eye[:, :2], eye[:, 1:3], eye[:, 1:3], eye[:, 8:10]]) * np.array([2.0, 1.0])
    eye = np.eye(IN)
    A = np.stack([eye[:2], eye[[5, 1]], eye[10:12], eye[2:4]])
    # Task 1 writes e1 from e5 (2) and e2 from e1 (1), task 0 e1 from e1 (1): both sides are shared, no entry is.
    updates, last = padded(B, A), (slice(None), 1, 1)
    np.testing.assert_allclose(cosine(updates)[0, :4, :4], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(subspace_similarity(updates, "left")[0, 0, :4][last], [1, 0.5, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(subspace_similarity(updates, "right")[0, 0, :4][last], [1, 0.5, 0, 0], atol=1e-6)
    # e1 holds 1 of the 5 of ‖ΔW_0‖², and 4 of the 5 of ‖ΔW_1‖².
    expected = [[1, 0.2**0.5, 0.2**0.5, 0], [0.8**0.5, 1, 1, 0]]
    np.testing.assert_allclose(subspace_alignment(updates)[0, :2, :4], expected, atol=1e-6)
    # Tasks 1 and 2 share one side alone, which does not count; but together they pass on what each shares with 0.
    np.testing.assert_allclose(
        pair_interference(updates)[0, :3, :4], [[6, 1, 0, 0], [1, 6, 0, 0], [0, 0, 6, 0]], atol=1e-5
    )
    np.testing.assert_allclose(task_interference(updates), 3, atol=1e-5)


def test_invariances(case):
    """The split in factors and a rotation of both spaces for all; own scales for all but l2 and STI; and not a stretch."""
    updates, (B, A) = case[0], factors()
    G = np.random.default_rng(1).standard_normal((N, K, R, R))
    q, p = (np.linalg.qr(np.random.default_rng(2).standard_normal((d, d)))[0] for d in (OUT, IN))
    scale = np.array([1, -2, 3, 4, 0.5])[:, None]
    split, turned = single(B @ G, np.linalg.solve(G, A)), single(q @ B, A @ p)
    scaled = single(B, A, scale=np.broadcast_to(scale, (N, K)))
    stretched = single(np.linspace(0, 1, OUT)[:, None] ** 4 * B, A)
    for measure in (*PAIRS, task_interference, lambda x: merged_alignment(x).ratio):
        expected = np.asarray(measure(updates))
        tolerance = dict(rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(measure(split), expected, **tolerance)
        np.testing.assert_allclose(measure(turned), expected, **tolerance)
        assert not np.allclose(measure(stretched), expected, **tolerance, equal_nan=True)
        if measure in (subspace_similarity, subspace_alignment):
            np.testing.assert_allclose(measure(scaled), expected, **tolerance)
        else:
            assert not np.allclose(measure(scaled), expected, **tolerance)
    np.testing.assert_allclose(jnp.abs(cosine(scaled)), jnp.abs(cosine(updates)), atol=1e-5)
    np.testing.assert_allclose(
        pair_interference(scaled_to_unit(scaled)), pair_interference(scaled_to_unit(updates)), rtol=1e-3
    )
    found, flipped, other = sign_agreement(updates), sign_agreement(scaled), sign_agreement(turned)
    np.testing.assert_allclose(flipped.common, found.common, atol=0.03)
    np.testing.assert_allclose(flipped.equal[:, 0, 2:], found.equal[:, 0, 2:], atol=0.03)
    np.testing.assert_allclose(flipped.equal[:, 0, 1], 1 - found.equal[:, 0, 1], atol=0.03)
    assert np.abs(np.asarray(other.common) - found.common).max() > 0.05


def test_missing_updates(missing, case):
    """NaN for what is missing, all else as it was. A zero update has a norm, distances and no interference."""
    whole, there = case[0], np.ones((K, N, N), bool)
    there[0, 1], there[0, :, 1], there[1, 2], there[1, :, 2] = False, False, False, False
    for measure in (*PAIRS, lambda x: sign_agreement(x).common, lambda x: sign_agreement(x).equal):
        found, expected = np.asarray(measure(missing)), np.asarray(measure(whole))
        np.testing.assert_allclose(found[there], expected[there], rtol=1e-4, atol=1e-5)
        assert np.isnan(found[1, 2]).all()
        assert np.isnan(found[1, :, 2]).all()
        if measure in (l2, inner_products, pair_interference):
            np.testing.assert_array_equal(found[0, 1], frobenius_norms(missing)[:, 0] if measure is l2 else 0)
        else:
            assert np.isnan(found[0, 1]).all()
    np.testing.assert_array_equal(np.isnan(merged_alignment(missing).ratio), ~np.array(there[:, 0, :] & there[:, 3]).T)
    assert np.isfinite(task_interference(missing)).all()
    assert np.isnan(np.asarray(l2(missing, relative=True))[0, 1]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: cosine(jax.tree.map(lambda a: a[0], x)), r"\[tasks, places, \.\.\.\], got u \(3, 24, 4\)"),
        (lambda x: subspace_similarity(x, "row"), "side must be one of 'left', 'right'; got 'row'"),
        (lambda x: subspace_alignment(x, epsilon=2), r"epsilon must be in 0\.\.1, got 2"),
        (lambda x: sign_agreement(x, share=20), r"share must be in \(0, 1\], got 20"),
    ],
)
def test_arguments(case, call, message):
    with pytest.raises(ValueError, match=message):
        call(case[0])
