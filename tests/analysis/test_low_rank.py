"""Thin decompositions of updates, from their factors, against dense ones in float64."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.low_rank import ThinSVD, missing_reason, orthonormal_basis, scaled_to_unit, thin_svd


def factors(seed=0, batch=(3,), out=40, size=30, r=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*batch, out, r)), rng.standard_normal((*batch, r, size))


def dense(svd):
    return np.einsum("...or,...r,...ir->...oi", *(np.asarray(x, np.float64) for x in svd[:3]))


def test_is_the_dense_decomposition():
    """SciPy's SVD of the dense product in float64; values to 2e-6 of the largest, in float32."""
    B, A = factors(batch=(2, 3))
    scale = np.array([[2.0, -0.5, 1.0], [3.0, 1e-3, -7.0]])
    svd = thin_svd(*(jnp.asarray(x, jnp.float32) for x in (B, A, scale)))
    update = scale[..., None, None] * (B @ A)
    expected = np.linalg.svd(update, compute_uv=False)[..., :5]
    np.testing.assert_allclose(svd.s / expected[..., :1], expected / expected[..., :1], atol=2e-6)
    np.testing.assert_allclose(dense(svd) / expected[..., :1, None], update / expected[..., :1, None], atol=2e-6)
    for side in (svd.u, svd.v):
        np.testing.assert_allclose(
            np.swapaxes(side, -1, -2) @ side, np.broadcast_to(np.eye(5), (2, 3, 5, 5)), atol=2e-6
        )
    assert (np.asarray(svd.rank) == 5).all()


@pytest.mark.parametrize("batch", [(37,), (6, 8)])
def test_many_are_decomposed_as_one_is(batch):
    """A CPU takes a few at a time; 37 are no multiple of them. To rounding, as the matrix's neighbours differ."""
    B, A = (jnp.asarray(x, jnp.float32) for x in factors(batch=batch, out=24, size=20, r=3))
    B = B.at[(1,) * len(batch)].set(0)
    scale = jnp.arange(1.0, 1 + np.prod(batch)).reshape(batch)
    many, (basis, rank) = thin_svd(B, A, scale), orthonormal_basis(B)
    for place in np.ndindex(*batch):
        one, (own, own_rank) = thin_svd(B[place], A[place], scale[place]), orthonormal_basis(B[place])
        np.testing.assert_allclose(many.s[place], one.s, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(dense(ThinSVD(*(x[place] for x in many))), dense(one), atol=2e-5 * (1 + one.s[0]))
        np.testing.assert_allclose(basis[place] @ basis[place].T, own @ own.T, atol=2e-6)
        assert (int(many.rank[place]), int(rank[place])) == (int(one.rank), int(own_rank))


def test_double_precision():
    with jax.enable_x64(True):
        B, A = factors()
        svd = thin_svd(B, A)
        assert svd.s.dtype == jnp.float64
        np.testing.assert_allclose(dense(svd), B @ A, atol=1e-13)


def test_the_same_update_from_other_factors():
    """(B G, G⁻¹ A), one of them tiny and one huge, and padded with zeros: the same decomposition."""
    B, A = factors(batch=())
    G = np.random.default_rng(1).standard_normal((5, 5))
    other = thin_svd(
        np.pad(B @ G * 1e-18, ((0, 0), (0, 3))).astype(np.float32),
        np.pad(np.linalg.solve(G, A) * 1e18, ((0, 3), (0, 0))).astype(np.float32),
    )
    svd = thin_svd(B.astype(np.float32), A.astype(np.float32))
    assert other.s.shape == (8,)
    assert int(other.rank) == 5
    np.testing.assert_allclose(other.s[:5], svd.s, rtol=1e-4)
    assert not np.asarray(other.s[5:]).any()
    assert not np.asarray(other.u[:, 5:]).any()
    np.testing.assert_allclose(dense(other), dense(svd), atol=1e-4)


@pytest.mark.parametrize("condition", [1, 1e2, 2e3, 1e5])
def test_factors_of_any_condition(condition):
    """Orthonormal to 3e-6, and the product that of float64."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((3, n, 5)))[0] for n in (200, 5))
    B = ((left * np.geomspace(1, 1 / condition, 5)) @ np.swapaxes(right, 1, 2)).astype(np.float32)
    A = rng.standard_normal((3, 5, 30)).astype(np.float32)
    svd = thin_svd(B, A, tolerance=1e-9)
    for side in (svd.u, svd.v):
        np.testing.assert_allclose(np.swapaxes(side, 1, 2) @ side, np.broadcast_to(np.eye(5), (3, 5, 5)), atol=3e-6)
    update = B.astype(np.float64) @ A
    np.testing.assert_allclose(dense(svd), update, atol=3e-6 * np.linalg.norm(update, 2, axis=(1, 2)).max())


def test_decompositions_do_not_wait_for_each_other():
    """On one CPU device, whose few threads two batched decompositions at a time would hold for ever."""
    program = (
        "import numpy as np; from analysis.low_rank import thin_svd; from analysis.grassmann import principal_angles\n"
        "x = np.random.default_rng(0).standard_normal((200, 576, 8)).astype(np.float32)\n"
        "print(thin_svd(x, np.swapaxes(x, 1, 2)).rank.sum(), principal_angles(x, x[::-1]).shape)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=200, check=True)
    assert done.stdout.split() == ["1600", "(200,", "8)"]


def test_directions_below_the_tolerance_are_not_there():
    u = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 4)))[0]
    v = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 4)))[0]
    s = np.array([1, 1e-2, 1e-4, 1e-9])
    B, A = (u * s).astype(np.float32), v.T.astype(np.float32)
    svd = thin_svd(B, A)
    assert int(svd.rank) == 3
    assert not np.asarray(svd.v[:, 3]).any()
    np.testing.assert_allclose(svd.s[:3], s[:3], rtol=1e-2)
    assert int(thin_svd(B, A, tolerance=1e-3).rank) == 2
    assert int(orthonormal_basis(B)[1]) == 3


def test_updates_that_are_nothing():
    B, A = (np.asarray(x, np.float32) for x in factors(batch=(4,)))
    B[1], A[2, 0, 0] = 0, np.nan
    svd = thin_svd(B, A, np.array([1, 1, 1, 0.0]))
    assert np.asarray(svd.rank).tolist() == [5, 0, 0, 0]
    assert missing_reason(svd).tolist() == [
        None,
        "the update is zero",
        "the update is not finite",
        "the update is zero",
    ]
    assert np.isfinite(svd.s[0]).all()
    assert np.isnan(svd.s[2]).all()
    assert np.isfinite(svd.u).all()


def test_scaled_to_unit():
    B, A = (np.asarray(x, np.float32) for x in factors(batch=(3,)))
    B[2] = 0
    svd = scaled_to_unit(thin_svd(B, A, np.array([1e-15, 100.0, 1])))
    np.testing.assert_allclose(np.linalg.norm(svd.s[:2], axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(svd.s[0] / svd.s[0, 0], thin_svd(B, A).s[0] / thin_svd(B, A).s[0, 0], rtol=1e-6)
    assert np.isnan(svd.s[2]).all()


@pytest.mark.parametrize(
    ("shapes", "scale", "message"),
    [
        (((5, 2), (3, 5)), 1.0, r"B \[\.\.\., out, r\] and A \[\.\.\., r, in\], got B \(5, 2\) and A \(3, 5\)"),
        (((4, 5, 2), (2, 5)), 1.0, r"got B \(4, 5, 2\) and A \(2, 5\)"),
        (((3, 4), (4, 9)), 1.0, r"the rank must be in 1\.\.min\(out, in\)"),
        (((2, 5, 2), (2, 2, 5)), np.ones(3), r"scale must be one number or \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit(shapes, scale, message):
    with pytest.raises(ValueError, match=message):
        thin_svd(*(np.ones(shape, np.float32) for shape in shapes), scale)
