"""Spectral projection of one update on the space of another, against the dense matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from analysis.low_rank import ThinSVD, thin_svd
from analysis.projection import Form, entropy, lp_distance, project, projection_all_pairs, rec

FORMS = Form.__args__
OUT, IN, R, RANKS = 14, 11, 4, (4, 3, 4, 1)


def rotation(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def factors(seed=0, ranks=RANKS, places=2, out=OUT, size=IN, r=R, own=0.7):
    """B `[N, K, out, r]` and A `[N, K, r, in]` of tasks that are alike: values are not near 0."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((1, places, out, r)) + own * rng.standard_normal((len(ranks), places, out, r))
    A = rng.standard_normal((1, places, r, size)) + own * rng.standard_normal((len(ranks), places, r, size))
    B = B * np.array([5, 3, 1, 0.5])[:r]
    return np.where(np.arange(r) < np.array(ranks)[:, None, None, None], B, 0), A


def dense_pair(w1, w2, rank, form, order):
    """All measures from their definitions, of dense matrices."""
    u, s, vt = np.linalg.svd(w1)
    u, s1, v = u[:, :rank], s[:rank], vt[:rank].T
    signed = np.array([u[:, a] @ w2 @ v[:, a] for a in range(rank)])
    s2 = {"signed": signed, "absolute": abs(signed), "nonnegative": np.clip(signed, 0, None)}[form]
    p, q = s1 / s1.sum(), s2 / s2.sum()
    size = np.linalg.norm(w2) ** 2
    valid = (s2 >= 0).all()
    shannon = lambda x: -sum(y * np.log(y) for y in x if y > 0)
    return {
        "rec": np.minimum(p, q).sum() if valid else np.nan,
        "lp": np.linalg.norm(s1 - s2, order),
        "lp_normalised": np.linalg.norm(p - q, order) if valid else np.nan,
        "entropy_s1": shannon(p) / np.log(R),
        "entropy_s2": shannon(q) / np.log(R) if valid else np.nan,
        "capture_diagonal": np.linalg.norm(signed) ** 2 / size,
        "capture_block": np.linalg.norm(u.T @ w2 @ v) ** 2 / size,
        "capture_columns": np.linalg.norm(u @ u.T @ w2) ** 2 / size,
        "capture_rows": np.linalg.norm(w2 @ v @ v.T) ** 2 / size,
        "s2": np.pad(s2, (0, R - rank)),
    }


@pytest.mark.parametrize(("form", "p"), [("absolute", 1), ("signed", 3), ("nonnegative", np.inf)])
def test_all_pairs_are_the_definitions(form, p):
    """Dense float64, every ordered pair, unequal ranks: within 2e-5."""
    B, A = factors()
    expected = [
        [[dense_pair(B[i, k] @ A[i, k], B[j, k] @ A[j, k], RANKS[i], form, p) for j in range(4)] for i in range(4)]
        for k in range(2)
    ]
    result = projection_all_pairs(thin_svd(B.astype(np.float32), A.astype(np.float32)), form=form, p=p)
    for name, value in result._asdict().items():
        dense = np.array([[[pair[name] for pair in row] for row in place] for place in expected])
        assert value.dtype == jnp.float32
        # S2 has an error of eps times the largest singular value, about 100 here.
        tolerance = 1e-4 if name in ("s2", "lp") else 2e-5
        np.testing.assert_allclose(value, dense, rtol=2e-5, atol=tolerance, err_msg=name)
    assert (np.asarray(result.s2) < 0).any() == (form == "signed")


def test_double_precision():
    B, A = factors()
    with jax.enable_x64(True):
        result = projection_all_pairs(thin_svd(B, A))
        for name, value in result._asdict().items():
            assert value.dtype == jnp.float64
            expected = dense_pair(B[1, 0] @ A[1, 0], B[0, 0] @ A[0, 0], RANKS[1], "absolute", 1)[name]
            np.testing.assert_allclose(value[0, 1, 0], expected, rtol=1e-10, atol=1e-10, err_msg=name)


def test_s2_is_the_nearest_diagonal():
    """Least squares on all entries of ΔW_2, signed and not negative; and no perturbation is nearer."""
    B, A = factors(ranks=(4, 4), places=1, own=4)
    space, update = (thin_svd(*(x[i, 0].astype(np.float32) for x in (B, A))) for i in (0, 1))
    u, v = (np.asarray(x, np.float64) for x in (space.u, space.v))
    w2 = (B[1] @ A[1])[0]
    design = np.stack([np.outer(u[:, a], v[:, a]).ravel() for a in range(R)], 1)
    signed = np.asarray(project(space, update, form="signed"))
    assert (signed < -0.1).any()
    np.testing.assert_allclose(signed, np.linalg.lstsq(design, w2.ravel())[0], atol=1e-4)
    nonnegative = np.asarray(project(space, update, form="nonnegative"))
    np.testing.assert_allclose(nonnegative, scipy.optimize.nnls(design, w2.ravel())[0], atol=1e-4)
    np.testing.assert_allclose(project(space, update), abs(signed))
    residual, rng = lambda s: np.linalg.norm(u * s @ v.T - w2), np.random.default_rng(0)
    for step in rng.standard_normal((200, R)) * 10.0 ** rng.uniform(-2, 1, (200, 1)):
        assert residual(signed + step) > residual(signed)
        assert residual(np.clip(nonnegative + step, 0, None)) >= residual(nonnegative) - 1e-6
    assert residual(abs(signed)) > residual(nonnegative) > residual(signed), "absolute minimises neither"


def test_project_is_one_of_all_pairs():
    """Also where the two updates are held at different widths r."""
    B, A = (x.astype(np.float32) for x in factors())
    svd = thin_svd(B, A)
    s2 = projection_all_pairs(svd).s2
    narrow = thin_svd(B[1, :, :, :3], A[1, :, :3])
    one = ThinSVD(*(x[0] for x in svd))
    np.testing.assert_allclose(project(one, narrow), s2[:, 0, 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(project(narrow, one), s2[:, 1, 0, :3], rtol=1e-4, atol=1e-5)


def test_a_task_on_its_own_space():
    svd = thin_svd(*(x.astype(np.float32) for x in factors()))
    own = jax.tree.map(lambda x: np.asarray(x)[:, range(4), range(4)], projection_all_pairs(svd))
    np.testing.assert_allclose(own.s2, np.swapaxes(svd.s, 0, 1), rtol=1e-5, atol=1e-5)
    for name in ("rec", "capture_diagonal", "capture_block", "capture_columns", "capture_rows"):
        np.testing.assert_allclose(getattr(own, name), 1, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(own.lp_normalised, 0, atol=2e-6)
    np.testing.assert_allclose(own.entropy_s1, own.entropy_s2, atol=2e-6)


def test_a_task_inside_another():
    """B's update has A's among its directions: the space of B takes in all of A, the space of A a part of B."""
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.standard_normal((OUT, R)))[0], np.linalg.qr(rng.standard_normal((IN, R)))[0]
    outer, inner = np.array([4.0, 3, 2, 1]), np.array([3.0, 5, 0, 0])
    B, A = np.stack([u * inner, u * outer])[:, None], np.stack([v.T, v.T])[:, None]
    result = projection_all_pairs(thin_svd(B.astype(np.float32), A.astype(np.float32)))
    a, b = 0, 1
    for name in ("capture_diagonal", "capture_block", "capture_columns", "capture_rows"):
        share = np.asarray(getattr(result, name))[0]
        assert share[b, a] == pytest.approx(1, abs=1e-6)
        assert share[a, b] == pytest.approx((16 + 9) / 30, abs=1e-6)
    np.testing.assert_allclose(result.s2[0, b, a], inner, atol=1e-5)
    np.testing.assert_allclose(result.s2[0, a, b], [3, 4, 0, 0], atol=1e-5)  # of a, the larger direction first
    assert float(result.rec[0, b, a]) == pytest.approx(3 / 8 + 3 / 10, abs=1e-6)
    assert float(result.rec[0, a, b]) == pytest.approx(3 / 7 + 3 / 8, abs=1e-6)


def test_captures_are_nested():
    result = projection_all_pairs(thin_svd(*(x.astype(np.float32) for x in factors())))
    assert (result.capture_diagonal <= result.capture_block + 1e-6).all()
    assert (result.capture_block <= np.minimum(result.capture_columns, result.capture_rows) + 1e-6).all()
    assert (np.maximum(result.capture_columns, result.capture_rows) <= 1 + 1e-6).all()
    assert (abs(result.capture_columns - np.swapaxes(result.capture_columns, 1, 2)) > 0.01).any()


# --- spectra ------------------------------------------------------------------------------------------------------------


def test_identities():
    """REC = 1 - total variation; normalised L1 = 2 (1 - REC); fixed values."""
    s1, s2 = np.random.default_rng(0).exponential(size=(2, 50, 8))
    p, q = (s / s.sum(-1, keepdims=True) for s in (s1, s2))
    events = np.array([[m >> a & 1 for a in range(8)] for m in range(256)])
    variation = ((p - q) @ events.T).max(-1)  # the largest difference in probability of any event
    np.testing.assert_allclose(rec(s1, s2), 1 - variation, atol=1e-6)
    np.testing.assert_allclose(lp_distance(s1, s2, 1, normalised=True), 2 * (1 - rec(s1, s2)), atol=1e-6)
    for order in (1, 1.5, 2, np.inf):
        np.testing.assert_allclose(lp_distance(s1, s2, order), np.linalg.norm(s1 - s2, order, axis=-1), rtol=1e-5)
    assert float(rec([1, 1, 2], [2, 2])) == pytest.approx(0.5), "of unequal length"
    assert float(entropy([2.0, 1, 1, 0], base=2, normalised=False)) == pytest.approx(1.5)
    assert float(entropy([2.0, 1, 1, 0])) == pytest.approx(0.75)
    assert float(entropy([2.0, 1, 1, 0], rank=3)) == pytest.approx(1.5 / np.log2(3))


def test_spectra_that_are_no_distribution():
    for s in ([0.0, 0], [1, -0.5], [np.nan, 1]):
        assert np.isnan(rec([2.0, 1], s))
        assert np.isnan(rec(s, [2.0, 1]))
        assert np.isnan(entropy(s))
        assert np.isnan(lp_distance(s, [2.0, 1], normalised=True))
    assert float(lp_distance([1, -0.5], [1, 0.5])) == 1
    assert np.isnan(entropy([3.0])), "log 1 = 0"


@pytest.mark.parametrize("size", [1e-30, 1e29])
def test_spectra_of_any_size(size):
    """Squares and sums of them leave float32."""
    s1, s2 = np.float32([3e8, 2e8, 2e8]) * np.float32(size), np.float32([1e8, 2e8, 4e8]) * np.float32(size)
    assert float(rec(s1, s2)) == pytest.approx(1 / 7 + 4 / 7)
    assert float(lp_distance(s1, s2, 2)) == pytest.approx(np.sqrt(8) * 1e8 * size, rel=1e-5)
    assert np.isfinite(entropy(s1))


def test_level_of_unrelated_directions():
    """Eight independent normal projections: the entropies that tell the forms apart, 0.876 and 0.53."""
    x = np.random.default_rng(0).standard_normal((200_000, 8))
    assert float(entropy(abs(x)).mean()) == pytest.approx(0.876, abs=1e-3)
    assert np.nanmean(entropy(np.clip(x, 0, None))) == pytest.approx(0.53, abs=5e-3)


@pytest.mark.parametrize(("h1", "level"), [(0.852, 0.579), (0.868, 0.591), (0.774, 0.520), (0.779, 0.524)])
def test_rec_of_unrelated_directions(h1, level):
    """For geometric spectra with the published entropies, of summarisation and of entity recognition."""
    geometric = lambda ratio: ratio ** np.arange(8)
    ratio = scipy.optimize.brentq(lambda ratio: float(entropy(geometric(ratio))) - h1, 0.2, 0.99)
    x = abs(np.random.default_rng(0).standard_normal((200_000, 8)))
    assert float(rec(geometric(ratio), x).mean()) == pytest.approx(level, abs=1e-3)


# --- what changes nothing, and what does --------------------------------------------------------------------------------


def test_invariances():
    """Other factors, other signs, rotated spaces; sizes, except for L_p. Not a stretch, nor the two tasks exchanged."""
    rng = np.random.default_rng(0)
    B, A = factors()
    G = rng.standard_normal((R, R))
    values = lambda B, A, scale=1.0: projection_all_pairs(thin_svd(B.astype(np.float32), A.astype(np.float32), scale))
    expected = values(B, A)

    def same(other, but=()):
        for name in set(expected._fields) - set(but):
            np.testing.assert_allclose(getattr(other, name), getattr(expected, name), atol=2e-4, err_msg=name)

    full = [0, 2]  # of rank r: an invertible factor leaves no zero columns
    moved_b, moved_a = B.copy(), A.copy()
    moved_b[full], moved_a[full] = B[full] @ G, np.linalg.solve(G, A[full])
    same(values(moved_b, moved_a))
    same(values(rotation(OUT, 0) @ B, A @ rotation(IN, 1)))
    same(values(B, A, np.array([[-1.0] * 2, [1] * 2, [1] * 2, [1] * 2])))
    sizes = np.array([[1e-15] * 2, [10] * 2, [1e12] * 2, [1] * 2])
    same(values(B, A, sizes), but=("lp", "s2"))
    assert abs(values(B, A, sizes).lp - expected.lp).max() > 1
    assert abs(values(np.diag(2.0 ** np.arange(OUT)) @ B, A).rec - expected.rec).max() > 0.05
    assert abs(expected.rec - np.swapaxes(expected.rec, 1, 2)).max() > 0.05


def test_signs_of_singular_vectors():
    svd = thin_svd(*(x.astype(np.float32) for x in factors()))
    flip = np.random.default_rng(0).choice([-1.0, 1.0], svd.s.shape).astype(np.float32)[..., None, :]
    for one, other in zip(
        projection_all_pairs(svd), projection_all_pairs(svd._replace(u=svd.u * flip, v=svd.v * flip)), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-5)


def test_equal_singular_values_leave_s2_undetermined():
    """U Q Qᵀ Vᵀ is the same update; S2 differs, and of the captures the diagonal one."""
    B, A = factors(ranks=(4, 4), places=1)
    svd = thin_svd(B.astype(np.float32), A.astype(np.float32))
    s = svd.s.at[0].set(1)
    Q = rotation(R, 0).astype(np.float32)
    one = projection_all_pairs(svd._replace(s=s))
    other = projection_all_pairs(svd._replace(u=svd.u.at[0].set(svd.u[0] @ Q), s=s, v=svd.v.at[0].set(svd.v[0] @ Q)))
    for name in ("capture_block", "capture_columns", "capture_rows"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)
    assert abs(one.rec - other.rec)[0, 0, 1] > 0.05
    assert abs(one.capture_diagonal - other.capture_diagonal)[0, 0, 1] > 0.01


def test_missing_updates():
    """A zero update and one that is not finite: their pairs are NaN, the others as they were."""
    B, A = (x.astype(np.float32) for x in factors())
    expected = projection_all_pairs(thin_svd(B, A))
    B[1, 0], A[2, 1, 0, 0] = 0, np.inf
    result = projection_all_pairs(thin_svd(B, A))
    gone = np.zeros((2, 4, 4), bool)
    gone[0, 1] = gone[0, :, 1] = gone[1, 2] = gone[1, :, 2] = True
    for name in expected._fields:
        value, before = np.asarray(getattr(result, name)), np.asarray(getattr(expected, name))
        assert np.isnan(value[gone]).all(), name
        np.testing.assert_array_equal(value[~gone], before[~gone], err_msg=name)


def test_entropy_units():
    svd = thin_svd(*(x.astype(np.float32) for x in factors()))
    nominal, numerical, nats = (
        projection_all_pairs(svd, entropy_unit=unit) for unit in ("nominal", "numerical", "nats")
    )
    for name in ("entropy_s1", "entropy_s2"):
        value = np.asarray(getattr(nats, name))
        np.testing.assert_allclose(getattr(nominal, name), value / np.log(R), rtol=1e-6)
        ranks = np.log(np.array(RANKS[:3], np.float32))[:, None]
        np.testing.assert_allclose(getattr(numerical, name)[:, :3], value[:, :3] / ranks, rtol=1e-6)
        assert np.isnan(getattr(numerical, name)[:, 3]).all(), "rank 1"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda svd: projection_all_pairs(svd, form="abs"), "form must be one of 'absolute', 'signed', 'nonnegative'"),
        (lambda svd: projection_all_pairs(svd, p=0.5), "p must be at least 1, or inf, got 0.5"),
        (lambda svd: projection_all_pairs(svd, entropy_unit="bits"), "entropy_unit must be one of 'nominal'"),
        (lambda svd: projection_all_pairs(ThinSVD(*(x[0] for x in svd))), r"updates must be batched \[tasks, places\]"),
        (lambda svd: project(svd, svd._replace(v=svd.u)), r"must agree in all but r, got v \(4, 2, 11, 4\) and"),
        (lambda svd: lp_distance([1.0], [1.0], np.nan), "p must be at least 1, or inf, got nan"),
        (lambda svd: entropy([1.0], base=1), "base must be above 1, got 1"),
        (lambda svd: rec(1.0, [1.0]), r"spectra must be \[\.\.\., r\] with r >= 1, got shapes \[\(\), \(1,\)\]"),
    ],
)
def test_arguments(call, message):
    svd = thin_svd(*(x.astype(np.float32) for x in factors()))
    with pytest.raises(ValueError, match=message):
        call(svd)
