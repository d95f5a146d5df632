"""CKA against its definitions in float64, exact rationals, a public implementation, and what must and must not change it."""

import logging
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analysis import cka
from analysis.cka import cka_all_pairs, cka_both, duplicate_rows, missing_reason

ESTIMATORS = ("debiased", "biased")


# --- the definitions ---


def hsic_biased(K, L):
    n = len(K)
    H = np.eye(n) - np.ones((n, n)) / n
    return np.trace(K @ H @ L @ H) / (n - 1) ** 2


def hsic_debiased(K, L):
    """Song et al. 2012, eq. 5."""
    n, one = len(K), np.ones(len(K))
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    total = (
        np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ K @ L @ one)
    )
    return total / (n * (n - 3))


def expected(xs, ys, estimator):
    """float64 CKA `[L1, L2]` of the numbers given, by the definitions. Shift and scale first: neither changes CKA."""
    hsic = {"biased": hsic_biased, "debiased": hsic_debiased}[estimator]

    def gram(x):
        x = np.asarray(x, np.float64)
        x = x - x.mean(0)
        x = x / np.abs(x).max()
        return x @ x.T

    Ks, Ls = [gram(x) for x in xs], [gram(y) for y in ys]
    return np.array([[hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)) for L in Ls] for K in Ks])


def features(seed, layers, n, d, shared=8):
    """Layers that share more and more latent factors, with noise: CKA of every size."""
    rng = np.random.default_rng(seed)
    latent = np.random.default_rng(0).standard_normal((n, shared))
    weight = np.linspace(0, 1, layers)[:, None, None]
    return weight * (latent @ rng.standard_normal((layers, shared, d))) + rng.standard_normal((layers, n, d))


# --- correct values ---


def constant_feature(x):
    return np.where(np.arange(x.shape[2]) == 1, 0.1, x)


def massive(x):
    return x + 1000.0 * (np.arange(x.shape[2]) < 2)


def duplicated(x):
    return np.concatenate([x[:, :-4], x[:, :4]], 1)


def rank_deficient(x):
    return x[:, :, :3] @ np.random.default_rng(1).standard_normal((3, x.shape[2]))


def outlier_row(x):
    return x * np.where(np.arange(x.shape[1]) == 0, 1e4, 1.0)[:, None]


CASES = {
    "n > d": (40, 8, 5, None),
    "n < d": (12, 60, 30, None),
    "n = d": (24, 24, 24, None),
    "n = 4": (4, 3, 6, None),
    "one feature": (30, 1, 1, None),
    "d >> n": (16, 3000, 2000, None),
    "several strips and chunks": (601, 40, 30, None),
    "constant feature": (30, 12, 9, constant_feature),
    "duplicated rows": (30, 12, 9, duplicated),
    "rank deficient": (30, 12, 9, rank_deficient),
    "two features of mean 1000": (100, 64, 48, massive),
    "common offset 100": (100, 64, 48, lambda x: x + 100),
    "outlier in the first row": (50, 64, 48, outlier_row),
    "scale 1e4": (40, 20, 10, lambda x: x * 1e4),
    "scale 1e-15": (40, 20, 10, lambda x: x * 1e-15),
    "scale 1e-20": (40, 20, 10, lambda x: x * 1e-20),
    "scale 1e20": (40, 20, 10, lambda x: x * 1e20),
}


@pytest.mark.parametrize("case", CASES)
def test_definitions(case):
    n, d1, d2, change = CASES[case]
    xs, ys = features(1, 3, n, d1), features(2, 2, n, d2)
    if change:
        xs, ys = change(xs), change(ys)
    xs, ys = xs.astype(np.float32), ys.astype(np.float32)
    both = cka_both(xs, ys)
    for estimator in ESTIMATORS:
        want = expected(xs, ys, estimator)
        np.testing.assert_allclose(getattr(both, estimator), want, rtol=0, atol=1e-6, err_msg=estimator)
        np.testing.assert_allclose(cka_all_pairs(xs, ys, estimator=estimator), want, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            cka_all_pairs(xs, xs, estimator=estimator), expected(xs, xs, estimator), rtol=0, atol=1e-6
        )


X = [[1, 2], [0, -1], [3, 1], [-2, 0], [1, 1], [4, -3]]
Y = [[2, 0, 1], [1, 1, 0], [0, 3, -1], [1, -2, 2], [5, 0, 0], [-1, 1, 1]]
GOLD = {"biased": Fraction(53919649, 235045399), "debiased": Fraction(20577, 154672)}  # exact squares of the values


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_exact_rationals(estimator):
    gold = float(GOLD[estimator]) ** 0.5
    assert expected([X], [Y], estimator) == pytest.approx(gold, abs=1e-15)
    assert cka_all_pairs([X], [Y], estimator=estimator).item() == pytest.approx(gold, abs=2e-7)
    with jax.enable_x64(True):
        value = cka_all_pairs(np.array([X], float), np.array([Y], float), estimator=estimator)
        assert value.dtype == jnp.float64
        assert value.item() == pytest.approx(gold, abs=1e-15)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("shape", [(40, 8, 5), (12, 60, 30), (100, 64, 48)])
def test_public_implementation(shape, estimator):
    core = pytest.importorskip("ckatorch.core", reason="ckatorch is not installed")
    torch = pytest.importorskip("torch")
    n, d1, d2 = shape
    xs, ys = massive(features(1, 3, n, d1)), features(2, 2, n, d2)
    want = [
        [core.cka_base(torch.tensor(x), torch.tensor(y), "linear", estimator == "debiased") for y in ys] for x in xs
    ]
    np.testing.assert_allclose(cka_all_pairs(xs, ys, estimator=estimator), want, rtol=0, atol=1e-5)  # xs rounded to f32
    with jax.enable_x64(True):
        np.testing.assert_allclose(cka_all_pairs(xs, ys, estimator=estimator), want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    xs, ys = (jnp.asarray(features(s, 3, 50, 40) + 10, dtype) for s in (1, 2))
    for estimator, value in zip(ESTIMATORS, cka_both(xs, ys), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected(xs, ys, estimator), rtol=0, atol=1e-6)


def test_accepts_torch_and_lists():
    torch = pytest.importorskip("torch")
    xs, ys = (features(s, 2, 20, 6).astype(np.float32) for s in (1, 2))
    want = cka_all_pairs(jnp.asarray(xs), jnp.asarray(ys))
    np.testing.assert_array_equal(cka_all_pairs(xs, ys.tolist()), want)
    np.testing.assert_array_equal(cka_all_pairs(torch.tensor(xs, requires_grad=True), torch.tensor(ys)), want)
    strided = torch.tensor(xs).bfloat16()[:, ::2]
    np.testing.assert_array_equal(
        cka_all_pairs(strided, ys[:, ::2]), cka_all_pairs(strided.float().numpy(), ys[:, ::2])
    )


# --- what it means ---


def rotate(x, rng):
    return x @ np.linalg.qr(rng.standard_normal(x.shape[-1:] * 2))[0]


UNCHANGED = {
    "rotation": rotate,
    "reflection": lambda x, rng: x * rng.choice([-1, 1], x.shape[-1]),
    "one scale": lambda x, rng: 37.0 * x,
    "shift": lambda x, rng: x + 5 * rng.standard_normal(x.shape[-1]),
    "permuted features": lambda x, rng: x[..., rng.permutation(x.shape[-1])],
}
CHANGED = {
    "linear map": lambda x, rng: x @ rng.standard_normal(x.shape[-1:] * 2),
    "scale per feature": lambda x, rng: x * np.exp(2 * rng.standard_normal(x.shape[-1])),
    "permuted examples, one side": lambda x, rng: x[:, rng.permutation(x.shape[1])],
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("change", UNCHANGED | CHANGED)
def test_invariance(change, estimator):
    xs, ys = features(1, 3, 80, 20), features(2, 3, 80, 30)
    before = cka_all_pairs(xs, ys, estimator=estimator)[1:, 1:]  # layer 0 has nothing in common
    after = cka_all_pairs((UNCHANGED | CHANGED)[change](xs, np.random.default_rng(3)), ys, estimator=estimator)[1:, 1:]
    if change in UNCHANGED:
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)
    else:
        assert np.abs(after - before).min() > 0.02
        assert np.abs(after - before).max() > 0.1


def test_permuting_examples_on_both_sides_changes_nothing():
    xs, ys, order = features(1, 3, 80, 20), features(2, 3, 80, 30), np.random.default_rng(3).permutation(80)
    np.testing.assert_allclose(cka_all_pairs(xs[:, order], ys[:, order]), cka_all_pairs(xs, ys), rtol=0, atol=2e-6)


def test_symmetry_and_self_similarity():
    xs, ys = features(1, 3, 50, 20), features(2, 2, 50, 30)
    for xy, yx, xx in zip(cka_both(xs, ys), cka_both(ys, xs), cka_both(xs, xs), strict=True):
        np.testing.assert_allclose(xy, yx.T, rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.diag(xx), 1, rtol=0, atol=1e-6)
        np.testing.assert_allclose(xx, xx.T, rtol=0, atol=1e-6)
    np.testing.assert_allclose(cka_all_pairs(xs, xs.copy()), cka_all_pairs(xs, xs), rtol=0, atol=1e-6)


def test_unrelated_data_is_zero_debiased_and_d_over_n_plus_d_biased():
    n, d = 100, 400
    xs, ys = np.random.default_rng(0).standard_normal((2, 8, n, d))
    both = cka_both(xs, ys)
    assert abs(both.debiased.mean()) < 0.01
    assert (both.debiased < 0).any()  # not clamped
    np.testing.assert_allclose(both.biased, d / (n + d), rtol=0, atol=0.02)


def test_finds_the_layers_that_share_latent_factors():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((3, 200, 10))  # layer i of both sides sees latent i, each in its own random basis
    xs, ys = (latents @ rng.standard_normal((3, 10, d)) + 0.5 * rng.standard_normal((3, 200, d)) for d in (64, 96))
    value = np.asarray(cka_all_pairs(xs, ys))
    assert np.diag(value).min() > 0.8
    assert np.abs(value[~np.eye(3, dtype=bool)]).max() < 0.05


def test_repeated_prompts_raise_cka_of_unrelated_data():
    xs, ys = np.random.default_rng(0).standard_normal((2, 1, 50, 100))
    assert abs(cka_all_pairs(xs, ys).item()) < 0.05
    assert cka_all_pairs(np.repeat(xs, 2, 1), np.repeat(ys, 2, 1)).item() > 0.3


# --- missing values ---


def broken_layers(n=30, d=10):
    """Layers in order: good, constant, one NaN, two infinities, all rows equal but one, one-hot, good."""
    xs = features(1, 7, n, d).astype(np.float32)
    xs[1] = 0.1 * np.arange(d)
    xs[2, 3, 4] = np.nan
    xs[3, 5:7, 0] = np.inf
    xs[4, 1:] = xs[4, 0]
    xs[4, -1] += 1
    one_hot = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    return np.concatenate([xs, np.zeros((7, n, n - d), np.float32)], 2), one_hot


def test_missing_values_are_nan_and_leave_other_layers_alone():
    xs, one_hot = broken_layers()
    xs[5] = one_hot
    ys = features(2, 2, 30, 8).astype(np.float32)
    both = cka_both(xs, ys)
    for estimator, missing in (("debiased", [1, 2, 3, 4, 5]), ("biased", [1, 2, 3])):
        value = np.asarray(getattr(both, estimator))
        good = np.setdiff1d(np.arange(7), missing)
        assert np.isnan(value[missing]).all()
        np.testing.assert_allclose(value[good], expected(xs[good], ys, estimator), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(value[good], cka_all_pairs(xs[good], ys, estimator=estimator))
        reasons = missing_reason(xs, estimator=estimator)
        assert [i for i, reason in enumerate(reasons) if reason] == missing
    assert missing_reason(xs)[1:6] == [
        "constant features: all 30 rows are equal",
        "non-finite values in 1 of 30 rows (as float32)",
        "non-finite values in 2 of 30 rows (as float32)",
        *["no structure: all rows are equally far apart, or equal but one (U-centred Gram is 0 in float32)"] * 2,
    ]


def test_missing_reason_of_few_rows_and_extreme_range():
    xs = features(1, 1, 10, 4).astype(np.float32)
    mask = np.arange(10) < 3
    assert missing_reason(xs, mask=mask) == ["only 3 rows: debiased CKA needs at least 4"]
    assert missing_reason(xs, mask=mask, estimator="biased") == [None]
    xs[0, :2, 0] = 3e38, -3e38  # their difference overflows
    assert missing_reason(xs) == ["out of range: features differ by too little or too much for float32"]
    assert np.isnan(cka_all_pairs(xs, xs)).all()


def test_duplicate_rows():
    xs = np.zeros((3, 6, 2), np.float32)
    xs[1] = np.arange(12).reshape(6, 2)
    xs[2] = [[1, 2], [3, 4], [1, 2], [0.0, 1], [-0.0, 1], [1, 2]]
    np.testing.assert_array_equal(duplicate_rows(xs), [5, 0, 3])
    np.testing.assert_array_equal(duplicate_rows(jnp.asarray(xs, jnp.bfloat16), mask=np.arange(6) < 4), [3, 0, 1])


def test_gradients_are_right_and_finite_beside_a_missing_layer():
    xs, ys = features(1, 2, 12, 5).astype(np.float32), jnp.asarray(features(2, 2, 12, 4), jnp.float32)
    xs[1] = 1.0
    both = jax.grad(lambda x: jnp.nansum(cka_all_pairs(x, ys)))(jnp.asarray(xs))
    assert (both[1] == 0).all()
    with jax.enable_x64(True):
        x, y, step = features(1, 2, 12, 5)[:1], np.asarray(ys, float), np.zeros((1, 12, 5))
        step[0, 3, 2] = 1e-6
        slope = (expected(x + step, y, "debiased") - expected(x - step, y, "debiased")).sum() / 2e-6
    assert both[0, 3, 2] == pytest.approx(slope, rel=1e-3)


# --- masks, vmap, compilation, errors ---


@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_mask_equals_leaving_rows_out(padding):
    xs, ys, keep = features(1, 3, 40, 20) + 10, features(2, 2, 40, 30), np.random.default_rng(0).random(40) < 0.6
    keep[0] = False
    xs[:, ~keep] = ys[:, ~keep] = padding
    for masked, plain in zip(cka_both(xs, ys, mask=keep), cka_both(xs[:, keep], ys[:, keep]), strict=True):
        np.testing.assert_allclose(masked, plain, rtol=0, atol=1e-6)
    assert missing_reason(xs, mask=keep) == [None] * 3


def test_vmap_over_padded_tasks():
    ns = [4, 17, 30, 3]
    keep = np.arange(30) < np.array(ns)[:, None]
    xs = np.stack([features(s, 3, 30, 12) for s in range(4)])
    ys = np.stack([features(s, 2, 30, 9) for s in range(4, 8)])
    xs[~keep.repeat(3, 0).reshape(4, 3, 30)] = np.nan
    value = jax.vmap(lambda x, y, m: cka_all_pairs(x, y, mask=m))(xs, ys, keep)
    for i, n in enumerate(ns[:3]):
        np.testing.assert_allclose(value[i], cka_all_pairs(xs[i, :, :n], ys[i, :, :n]), rtol=0, atol=1e-6)
    assert np.isnan(value[3]).all()  # too few examples; alone it would have been an error
    full = jax.vmap(cka_both)(xs[2:3], ys[2:3])
    np.testing.assert_allclose(full.biased[0], cka_all_pairs(xs[2], ys[2], estimator="biased"), rtol=0, atol=1e-6)


def test_compiles_once_per_shape(caplog):
    def compilations(seed, n=23, mask=None):
        xs, ys = features(seed, 2, n, 7), features(seed + 1, 2, n, 6)
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            cka_all_pairs(xs, ys, mask=mask)
        return sum("Compiling jit(_all_pairs)" in record.getMessage() for record in caplog.records)

    assert compilations(1) == 1
    assert compilations(2) == 0
    assert compilations(3, mask=np.arange(23) < 9) == 0  # one program for all masks, and for none
    assert compilations(4, n=24) == 1


GOOD = np.ones((2, 8, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka_all_pairs(GOOD[0], GOOD), r"xs must be \[layers, examples, features\], got shape \(8, 3\)"),
        (lambda: cka_all_pairs(GOOD, GOOD[:, :7]), r"same n examples .* got xs \(2, 8, 3\), ys \(2, 7, 3\)"),
        (lambda: cka_all_pairs(GOOD[:, :3], GOOD[:, :3]), r"debiased CKA needs n >= 4 examples, got n = 3"),
        (lambda: cka_all_pairs(GOOD[:, :1], GOOD[:, :1], estimator="biased"), r"biased CKA needs n >= 2 .* n = 1"),
        (lambda: cka_all_pairs(GOOD, GOOD, mask=np.arange(8) < 3), r"needs n >= 4 examples, got n = 3"),
        (lambda: cka_both(GOOD[:, :0], GOOD[:, :0]), r"no examples"),
        (lambda: cka_all_pairs(GOOD, GOOD, mask=np.ones(7, bool)), r"mask must be bool of shape \(8,\)"),
        (lambda: cka_all_pairs(GOOD, GOOD, mask=np.ones(8)), r"mask must be bool .* got float32"),
        (lambda: cka_all_pairs(GOOD, GOOD, estimator="unbiased"), r"estimator must be one of 'debiased', 'biased'"),
        (lambda: cka_all_pairs(GOOD, GOOD, kernel="rbf"), r"kernel must be one of 'linear'; got 'rbf'"),
        (lambda: cka_both(GOOD * 1j, GOOD), r"xs must be real, got complex64"),
        (lambda: missing_reason(GOOD, estimator="song"), r"estimator must be one of"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_analysis_stands_alone():
    source = open(cka.__file__).read()
    assert "lorajax" not in source.split('"""')[2]
