"""Principal angles and the distances made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from analysis.grassmann import (
    Variant,
    all_pair_angles,
    distance,
    expected_distance,
    grassmann_all_pairs,
    principal_angles,
)
from analysis.low_rank import orthonormal_basis, thin_svd

VARIANTS = Variant.__args__
METRICS = [v for v in VARIANTS if v != "martin"]


def rotation(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def at_angles(angles, d=40, seed=0):
    """Two bases `[d, k]` of subspaces with these angles, each behind an arbitrary invertible map of its columns."""
    k, angles = len(angles), np.asarray(angles)
    frame = rotation(d, seed)
    x = frame[:, :k]
    y = x * np.cos(angles) + frame[:, k : 2 * k] * np.sin(angles)
    return x @ rotation(k, seed + 1), y @ rotation(k, seed + 2)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


ANGLES = {
    "ordinary": [0.1, 0.7, 1.3],
    "tiny": [1e-7, 1e-5, 1e-3],
    "tiny and large": [1e-7, 1e-6, 0.5, np.pi / 2 - 1e-7],
    "around 45 degrees": [np.pi / 4 - 1e-9, np.pi / 4, np.pi / 4 + 1e-9],
    "equal": [0.3, 0.3, 0.3],
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("angles", ANGLES.values(), ids=ANGLES)
def test_planted_angles(angles):
    """To 1e-6 relative in float64, from 1e-7 to π/2."""
    np.testing.assert_allclose(principal_angles(*at_angles(angles)), sorted(angles), rtol=1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("angles", [[0.0, 1e-8, np.pi / 2], [0.0, 0.0, 0.0], [np.pi / 2] * 3])
def test_angles_of_exactly_0_and_a_right_angle(angles):
    np.testing.assert_allclose(principal_angles(*at_angles(angles)), angles, atol=2e-15)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", [(40, 8), (9, 8), (8, 8), (5, 1)])
def test_scipy(shape):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape), rng.standard_normal(shape)
    np.testing.assert_allclose(principal_angles(x, y), scipy.linalg.subspace_angles(x, y)[::-1], rtol=1e-10, atol=1e-14)


def test_single_precision():
    """Absolute error below 2e-6, also for angles whose cosine is 1."""
    for angles in ANGLES.values():
        x, y = (m.astype(np.float32) for m in at_angles(angles, d=400))
        np.testing.assert_allclose(principal_angles(x, y), sorted(angles), atol=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_space_is_at_no_distance_from_itself(variant):
    x = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    assert float(distance(principal_angles(x, x @ rotation(8, 1).astype(np.float32)), variant)) < 3e-6


@pytest.mark.usefixtures("double")
def test_distances_are_what_they_are_called():
    """Those that have a definition without angles, from it."""
    x, y = (np.linalg.qr(m)[0] for m in at_angles([0.2, 0.7, 1.4]))
    angles = principal_angles(x, y)
    p, q, cross = x @ x.T, y @ y.T, x.T @ y
    rotate, _ = scipy.linalg.orthogonal_procrustes(y, x)
    for variant, expected in {
        "sum": 2.3,
        "geodesic": np.sqrt(0.2**2 + 0.7**2 + 1.4**2),
        "chordal": np.linalg.norm(p - q) / np.sqrt(2),
        "procrustes": np.linalg.norm(x - y @ rotate),
        "fubini_study": np.arccos(abs(np.linalg.det(cross))),
        "binet_cauchy": np.sqrt(1 - np.linalg.det(cross) ** 2),
        "asimov": 1.4,
        "projection": np.linalg.norm(p - q, 2),
        "spectral": min(np.linalg.norm(x @ rotation(3, 0) - y, 2), 2 * np.sin(0.7)),
        "martin": np.sqrt(-np.log(np.linalg.det(cross) ** 2)),
    }.items():
        np.testing.assert_allclose(distance(angles, variant), expected, rtol=1e-10, err_msg=variant)


def test_right_angles():
    assert float(distance(np.array([0.1, np.pi / 2], np.float32), "martin")) == np.inf
    assert float(distance(np.array([0.1, np.pi / 2], np.float32), "binet_cauchy")) == 1


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("variant", METRICS)
def test_triangle_inequality(variant):
    """Among 30 subspaces, some of them close together; and `martin` is seen to break it."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((12, 3))
    spaces = np.stack([centre + 10.0 ** rng.uniform(-3, 1) * rng.standard_normal((12, 3)) for _ in range(30)])
    u, ranks = orthonormal_basis(spaces[:, None])
    D = np.asarray(grassmann_all_pairs(u, ranks, variant=variant))[0]
    assert (D[:, None, :] <= D[:, :, None] + D[None] + 1e-12).all()
    np.testing.assert_array_equal(D, D.T)
    M = np.asarray(grassmann_all_pairs(u, ranks, variant="martin"))[0]
    assert (M[:, None, :] > M[:, :, None] + M[None] + 1e-3).any()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("unequal", ["pad", "contained"])
def test_unequal_ranks(unequal):
    """Given plainly, as numerical rank, or as a padded basis: the same angles."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 2))
    expected = np.full(5, np.pi / 2 if unequal == "pad" else np.nan)
    expected[:2] = scipy.linalg.subspace_angles(x, y)[::-1]
    doubled = np.concatenate([y, y @ rng.standard_normal((2, 2)), np.zeros((20, 1))], 1)
    for one, other in [(x, y), (y, x), (x, doubled), (doubled, x)]:
        np.testing.assert_allclose(principal_angles(one, other, unequal=unequal), expected, rtol=1e-10)


@pytest.mark.usefixtures("double")
def test_a_space_inside_a_larger_one():
    x = np.random.default_rng(0).standard_normal((20, 5))
    inside = x[:, :2] @ np.array([[1.0, 2.0], [3.0, 4.0]])
    assert float(distance(principal_angles(x, inside, unequal="contained"))) < 1e-14
    np.testing.assert_allclose(distance(principal_angles(inside, x), "sum"), 1.5 * np.pi, rtol=1e-12)


def test_all_pairs_are_the_pairs():
    """Close and far pairs, unequal ranks, a zero space and one that is not finite, in several places."""
    rng = np.random.default_rng(0)
    B = rng.standard_normal((7, 3, 50, 4)).astype(np.float32)
    B[1] = B[0] + 1e-4 * B[1]
    B[2, :, :, 2:] = 0
    B[3, 1], B[4, 2, 0, 0] = 0, np.nan
    svd = thin_svd(B, np.broadcast_to(np.eye(4, 9, dtype=np.float32), (7, 3, 4, 9)))
    angles, (i, j) = all_pair_angles(svd.u, svd.rank)
    assert angles.shape == (3, 21, 4)
    for place in range(3):
        one_by_one = principal_angles(svd.u[i, place], svd.u[j, place])
        np.testing.assert_allclose(angles[place], one_by_one, atol=3e-6)
    D = np.asarray(grassmann_all_pairs(svd.u, svd.rank, variant="sum"))
    np.testing.assert_allclose(D[0][i, j], distance(principal_angles(svd.u[i, 0], svd.u[j, 0]), "sum"), atol=1e-5)
    assert (D[:, 0, 1] < 1e-2).all()
    assert np.isnan(D[1, 3]).all()
    assert np.isnan(D[2, 4]).all()
    assert np.isnan(D).sum() == 2 * 13


def test_the_factors_do_not_matter():
    """An invertible factor moved between B and A, alpha, a rotation of the space; but not a stretch of the space."""
    rng = np.random.default_rng(0)
    B, A, G = rng.standard_normal((2, 1, 30, 4)), rng.standard_normal((2, 1, 4, 20)), rng.standard_normal((4, 4))

    def both(B, A, scale=1.0):
        svd = thin_svd(B.astype(np.float32), A.astype(np.float32), scale)
        return [float(grassmann_all_pairs(side, svd.rank)[0, 0, 1]) for side in (svd.u, svd.v)]

    expected = both(B, A)
    np.testing.assert_allclose(both(B @ G, np.linalg.solve(G, A)), expected, rtol=1e-5)
    np.testing.assert_allclose(both(B, A, -16.0), expected, rtol=1e-5)
    np.testing.assert_allclose(both(rotation(30, 0) @ B, A), expected, rtol=1e-5)
    assert abs(both(np.diag(10.0 ** np.arange(-15, 15)) @ B, A)[0] - expected[0]) > 0.1


@pytest.mark.parametrize("shared", range(5))
def test_shared_directions(shared):
    """Tasks that share k of r directions are at k angles of 0; fewer shared, farther."""
    frame = rotation(30, 0)
    x, y = frame[:, :4], frame[:, 4 - shared : 8 - shared]
    np.testing.assert_allclose(distance(principal_angles(x, y), "chordal"), np.sqrt(4 - shared), atol=1e-5)


@pytest.mark.parametrize(("d", "geodesic", "total"), [(4096, 4.343, 12.28), (1024, 4.233, 11.97), (768, 4.205, 11.89)])
def test_random_subspaces(d, geodesic, total):
    """The levels known for rank 8, from few draws: to 0.2 %."""
    assert expected_distance(d, 8).mean == pytest.approx(geodesic, rel=2e-3)
    assert expected_distance(d, 8, variant="sum").mean == pytest.approx(total, rel=2e-3)


@pytest.mark.parametrize(("d", "p", "q"), [(40, 4, 4), (40, 3, 6), (9, 4, 6), (6, 6, 2), (4, 4, 4)])
@pytest.mark.parametrize("unequal", ["pad", "contained"])
def test_expectation_is_that_of_drawn_subspaces(d, p, q, unequal):
    """Drawn in d dimensions; means within five standard errors. E Σ cos² = pq/d exactly."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2000, d, p)).astype(np.float32), rng.standard_normal((2000, d, q)).astype(np.float32)
    values = np.asarray(distance(principal_angles(x, y, unequal=unequal)), np.float64)
    expected = expected_distance(d, p, q, unequal=unequal)
    error = 5 * np.hypot(values.std() / 2000**0.5, expected.std / 4000**0.5)
    assert abs(values.mean() - expected.mean) <= error + 1e-5
    assert values.std() == pytest.approx(expected.std, rel=0.15, abs=1e-5)
    cos2 = np.cos(np.asarray(principal_angles(x, y, unequal="contained"))) ** 2
    assert np.nansum(cos2, 1).mean() == pytest.approx(p * q / d, rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: principal_angles(x, x[:4]), r"got shapes \(5, 2\) and \(4, 2\)"),
        (lambda x: principal_angles(x, x, unequal="drop"), "unequal must be one of 'pad', 'contained'; got 'drop'"),
        (lambda x: distance(x, "grassmann"), "variant must be one of 'sum'"),
        (lambda x: grassmann_all_pairs(x), r"bases must be \[subspaces, places, d, r\], got shape \(5, 2\)"),
        (lambda x: grassmann_all_pairs(x[None, None], jnp.ones(3, int)), r"ranks must be \(1, 1\)"),
        (lambda x: expected_distance(4, 5), r"dimensions must be in 1\.\.4, got 5 and 5"),
    ],
)
def test_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((5, 2), np.float32))
