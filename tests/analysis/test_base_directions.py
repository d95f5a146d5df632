"""Intruder dimensions and amplification, against dense float64 NumPy from the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.base_directions import amplification, base_svd, intruder_dimensions
from analysis.low_rank import ThinSVD, thin_svd


def weight(out, size, seed=0, decay=1.0):
    """Random directions; singular values 1, 1/2, 1/3, ... to the power of decay."""
    rng = np.random.default_rng(seed)
    u, _, vt = np.linalg.svd(rng.standard_normal((out, size)), full_matrices=False)
    return u * np.arange(1, min(out, size) + 1.0) ** -decay @ vt


def factors(out, size, N=3, r=3, seed=1):
    """From too small to matter to larger than W."""
    rng = np.random.default_rng(seed)
    B, A = rng.standard_normal((N, out, r)), rng.standard_normal((N, r, size))
    return B * np.array([0.01, 0.1, 2.0][:N])[:, None, None] / (out * size) ** 0.5, A


def thin(B, A, dtype=np.float64):
    """As `thin_svd` has it, by NumPy from the dense product: nothing to compile."""
    u, s, vt = np.linalg.svd(B @ A, full_matrices=False)
    r = B.shape[-1]
    u, s, v = u[..., :r], s[..., :r], vt[..., :r, :].swapaxes(-1, -2)
    return ThinSVD(*(jnp.asarray(x, dtype) for x in (u, s, v)), jnp.asarray((s > 1e-9 * s[..., :1]).sum(-1)))


def dense_cosines(W, update, top, side):
    """As the authors' code does it: thin SVDs, absolute cosines, the largest over all vectors of W."""
    (u, _, vt), (U, S, Vt) = np.linalg.svd(W, full_matrices=False), np.linalg.svd(W + update, full_matrices=False)
    cosines = u.T @ U if side == "left" else vt @ Vt.T
    return np.abs(cosines).max(0)[:top], S[:top]


@pytest.mark.parametrize("shape", [(60, 60), (90, 50), (50, 90)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_dense(shape, side):
    """Square, tall and wide; float64 to 1e-8, float32 to 1e-4."""
    W, (B, A) = weight(*shape), factors(*shape)
    expected = [dense_cosines(W, x, 5, side) for x in B @ A]
    cosine, s = (np.stack(x) for x in zip(*expected, strict=True))
    assert 0 < (cosine < 0.5).sum() < cosine.size
    with jax.enable_x64(True):
        found = intruder_dimensions(thin(B, A), base_svd(W), top=5, side=side)
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-8)
    np.testing.assert_allclose(found.s, s, rtol=1e-10)
    np.testing.assert_array_equal(found.number, (cosine < 0.5).sum(1))
    if shape != (90, 50):
        return
    found = intruder_dimensions(thin(B, A, np.float32), base_svd(W.astype(np.float32)), top=5, side=side)
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-4)
    np.testing.assert_allclose(found.s, s, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_larger_weights(decay):
    """200 x 150, of which few directions are used; with a flat spectrum the space is widened until the vectors are found."""
    W = weight(200, 150, decay=decay) if decay else np.random.default_rng(0).standard_normal((200, 150)) / 20
    B, A = factors(200, 150, r=2)
    B = B * (1 if decay else 10)
    found = intruder_dimensions(thin(B, A, np.float32), base_svd(W.astype(np.float32)), top=5)
    for n, update in enumerate(B @ A):
        cosine, s = dense_cosines(W, update, 5, "left")
        np.testing.assert_allclose(found.cosine[n], cosine, atol=5e-3)
        np.testing.assert_allclose(found.s[n], s, rtol=1e-4)


@pytest.mark.parametrize("strength", [0.05, 0.4, 3.0])
def test_a_planted_intruder(strength):
    """A direction that W does not have is one as soon as it is strong enough to be among the top; one of W's own never."""
    W = weight(90, 50)
    u, s, vt = np.linalg.svd(W)
    B, A = np.zeros((3, 90, 3)), np.zeros((3, 3, 50))
    B[0, :, 0], B[1, :, 0] = strength * u[:, 60], strength * u[:, 7]  # outside of W's columns; its eighth direction
    A[0, 0], A[1, 0] = vt[30:].sum(0) / 20**0.5, vt[7]
    with jax.enable_x64(True):
        found = intruder_dimensions(thin(B, A), base_svd(W), top=5)
    assert found.number.tolist() == [float(strength > s[4]), 0, 0]
    np.testing.assert_allclose(found.cosine[1:], 1, atol=1e-6)
    if strength == 3:
        assert float(found.cosine[0, 0]) < 0.1


def test_invariances_of_intruders():
    """Rotations and a common scale; not the size of ΔW alone."""
    W, (B, A) = weight(60, 60), factors(60, 60)
    q, p = (np.linalg.qr(np.random.default_rng(s).standard_normal((60, 60)))[0] for s in (3, 4))
    with jax.enable_x64(True):
        call = lambda B, A, W: np.asarray(intruder_dimensions(thin(B, A), base_svd(W), top=5).cosine)
        expected = call(B, A, W)
        np.testing.assert_allclose(call(q @ B, A @ p, q @ W @ p), expected, atol=1e-8)
        np.testing.assert_allclose(call(1e-3 * B, A, 1e-3 * W), expected, atol=1e-8)
        np.testing.assert_allclose(call(-1e-9 * B, A, W), 1, atol=1e-6)
        assert np.abs(call(0.2 * B, A, W) - expected).max() > 0.1


def test_amplification():
    W, (B, A) = weight(90, 50), factors(90, 50)
    found = amplification(thin(B, A, np.float32), W.astype(np.float32))
    for n, update in enumerate(B @ A):
        u, _, vt = np.linalg.svd(update)
        inside = np.linalg.norm(u[:, :3].T @ W @ vt[:3].T)
        np.testing.assert_allclose(found.inside[n], inside, rtol=1e-4)
        np.testing.assert_allclose(found.factor[n], np.linalg.norm(update) / inside, rtol=1e-4)


def test_amplification_of_what_it_amplifies():
    """An update along W's own directions: the ratio of the strengths; twice the update, twice the factor."""
    W = weight(40, 30)
    u, s, vt = np.linalg.svd(W)
    B, A = np.stack([u[:, :2] * s[:2] * scale for scale in (1, 2, -20)]), np.broadcast_to(vt[:2], (3, 2, 30))
    found = amplification(thin(B, A, np.float32), W.astype(np.float32))
    np.testing.assert_allclose(found.factor, [1, 2, 20], rtol=1e-5)
    np.testing.assert_allclose(found.inside, np.linalg.norm(s[:2]), rtol=1e-5)


def test_random_directions():
    """Their mean square is the expectation, and their factor is not: W is the same along all of them."""
    rng = np.random.default_rng(0)
    W = weight(40, 30).astype(np.float32)
    updates = thin_svd(
        rng.standard_normal((2000, 40, 3)).astype(np.float32), rng.standard_normal((2000, 3, 30)).astype(np.float32)
    )
    found = amplification(updates, W)
    assert float(jnp.sqrt((found.inside**2).mean())) == pytest.approx(float(found.random[0]), rel=0.03)
    np.testing.assert_allclose(found.random, 3 * np.linalg.norm(W) / 1200**0.5, rtol=1e-5)


def test_missing_updates():
    W, (B, A) = weight(90, 50), factors(90, 50)
    B[1], A[2, 0, 0] = 0, np.nan
    updates, base = thin_svd(B.astype(np.float32), A.astype(np.float32)), base_svd(W.astype(np.float32))
    found, size = intruder_dimensions(updates, base, top=5), amplification(updates, W.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.number), [False, False, True])
    np.testing.assert_array_equal(np.isnan(size.factor), [False, True, True])
    np.testing.assert_allclose(found.cosine[1], 1, atol=1e-5)
    assert float(found.number[1]) == 0
    assert np.isnan(found.cosine[2]).all()
    nothing = amplification(updates, np.zeros((90, 50), np.float32))
    assert float(nothing.factor[0]) == np.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, b: base_svd(np.ones(3)), r"W must be \[out, in\], got shape \(3,\)"),
        (lambda x, b: base_svd(np.full((3, 2), np.nan)), r"W \(3, 2\) has values that are not finite"),
        (lambda x, b: amplification(x, np.ones((90, 60))), r"with W \(90, 60\), got u \(3, 90, 3\) and v \(3, 50, 3\)"),
        (lambda x, b: intruder_dimensions(x, base_svd(np.eye(50, 90))), r"with W \(50, 90\), got u"),
        (lambda x, b: intruder_dimensions(x, b, top=51), r"top must be in 1\.\.50 for W \(90, 50\), got 51"),
        (lambda x, b: intruder_dimensions(x, b, side="both"), "side must be one of 'left', 'right'; got 'both'"),
    ],
)
def test_arguments(call, message):
    B, A = factors(90, 50)
    with pytest.raises(ValueError, match=message):
        call(thin(B, A, np.float32), base_svd(weight(90, 50).astype(np.float32)))
