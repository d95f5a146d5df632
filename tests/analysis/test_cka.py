"""CKA against its definitions in float64, exact rationals, a public implementation, and what must (not) change it.

Most tests use the arrays of `features` and `cka_both`, so that few programs are compiled.
"""

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
    sums = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return (np.trace(K @ L) + sums - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))


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


def features(n=40, d1=20, d2=12, seed=1):
    """xs `[3, n, d1]`, ys `[2, n, d2]`, float32. Later layers share more latent factors: CKA of every size."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 8))

    def side(layers, d):
        share = np.linspace(0, 1, layers)[:, None, None]
        return share * (latent @ rng.standard_normal((layers, 8, d))) + rng.standard_normal((layers, n, d))

    return side(3, d1).astype(np.float32), side(2, d2).astype(np.float32)


def assert_close(value, xs, ys, atol=1e-6):
    """value is the CKA namedtuple of xs and ys."""
    for estimator in ESTIMATORS:
        want = expected(xs, ys, estimator)
        np.testing.assert_allclose(getattr(value, estimator), want, rtol=0, atol=atol, err_msg=estimator)


# --- correct values ---


@pytest.mark.parametrize("shape", [(40, 20, 12), (16, 600, 400), (4, 3, 6), (601, 40, 30)])
def test_definitions(shape):
    """n > d, n < d, the fewest examples, and several strips of the Gram."""
    xs, ys = features(*shape)
    assert_close(cka_both(xs, ys), xs, ys)


def place(x, i, axis):
    """True at index i of an axis of x, shaped to broadcast with x."""
    return np.moveaxis((np.arange(x.shape[axis]) == i).reshape(-1, 1, 1), 0, axis)


DATA = {
    "constant feature": lambda x: np.where(place(x, 1, 2), 0.1, x),
    "one feature": lambda x: np.where(place(x, 1, 2), x, 0.1),
    "duplicated rows": lambda x: np.concatenate([x[:, :-9], x[:, :9]], 1),
    "rank deficient": lambda x: x[:, :, :3] @ np.random.default_rng(1).standard_normal((3, x.shape[2])),
    "a feature of mean 1000": lambda x: x + 1000 * place(x, 0, 2),
    "common offset 100": lambda x: x + 100,
    "large first row": lambda x: np.where(place(x, 0, 1), 30 * x, x),
    "large later row": lambda x: np.where(place(x, 7, 1), 30 * x, x),
    **{f"scale {scale:g}": lambda x, scale=scale: x * scale for scale in (1e4, 1e-4, 1e-15, 1e-20, 1e20)},
}


@pytest.mark.parametrize("data", DATA)
def test_difficult_data(data):
    xs, ys = (DATA[data](x).astype(np.float32) for x in features())
    assert_close(cka_both(xs, ys), xs, ys)


X = [[1, 2], [0, -1], [3, 1], [-2, 0], [1, 1], [4, -3]]
Y = [[2, 0, 1], [1, 1, 0], [0, 3, -1], [1, -2, 2], [5, 0, 0], [-1, 1, 1]]
GOLD = {"debiased": Fraction(20577, 154672), "biased": Fraction(53919649, 235045399)}  # exact squares of the values


def test_exact_rationals():
    for value, estimator in zip(cka_both([X], [Y]), ESTIMATORS, strict=True):
        gold = float(GOLD[estimator]) ** 0.5
        assert value.item() == pytest.approx(gold, abs=2e-7)
        assert expected([X], [Y], estimator).item() == pytest.approx(gold, abs=1e-15)
    with jax.enable_x64(True):
        for value, estimator in zip(cka_both(np.array([X], float), np.array([Y], float)), ESTIMATORS, strict=True):
            assert value.dtype == jnp.float64
            assert value.item() == pytest.approx(float(GOLD[estimator]) ** 0.5, abs=1e-15)


def test_public_implementation():
    core = pytest.importorskip("ckatorch.core", reason="ckatorch is not installed")
    torch = pytest.importorskip("torch")
    xs, ys = (DATA["a feature of mean 1000"](x).astype(np.float64) for x in features())
    with jax.enable_x64(True):
        both = cka_both(xs, ys)
    for value, unbiased in zip(both, (True, False), strict=True):
        want = [[core.cka_base(torch.tensor(x), torch.tensor(y), "linear", unbiased).item() for y in ys] for x in xs]
        np.testing.assert_allclose(value, want, rtol=0, atol=1e-9)


def test_half_precision_is_computed_in_float32():
    xs, ys = (jnp.asarray(x + 10, dtype) for x, dtype in zip(features(), ("float16", "bfloat16"), strict=True))
    both = cka_both(xs, ys)
    assert both.debiased.dtype == jnp.float32
    assert_close(both, xs, ys)


def test_all_pairs_is_either_estimator():
    xs, ys = features()
    both = cka_both(xs, ys)
    for estimator in ESTIMATORS:
        value = cka_all_pairs(xs, ys, estimator=estimator)
        assert value.shape == (3, 2)
        np.testing.assert_allclose(value, getattr(both, estimator), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(cka_all_pairs(xs, ys), cka_all_pairs(xs, ys, estimator="debiased"))


def test_accepts_torch_and_lists():
    torch = pytest.importorskip("torch")
    xs, ys = features()
    want = cka_both(xs, ys)
    assert_close(cka_both(jnp.asarray(xs), ys.tolist()), xs, ys)
    for got in (cka_both(torch.tensor(xs, requires_grad=True), ys), cka_both(np.asfortranarray(xs), torch.tensor(ys))):
        np.testing.assert_array_equal(got, want)
    strided = torch.tensor(np.repeat(xs, 2, 1)).bfloat16()[:, ::2]
    assert_close(cka_both(strided, ys), strided.float().numpy(), ys)


# --- what it means ---


def rotate(x, rng):
    return x @ np.linalg.qr(rng.standard_normal(x.shape[-1:] * 2))[0]


UNCHANGED = {
    "rotation": rotate,
    "reflection": lambda x, rng: x * rng.choice([-1, 1], x.shape[-1]),
    "permuted features": lambda x, rng: x[..., rng.permutation(x.shape[-1])],
    "one scale": lambda x, rng: 37.0 * x,
    "shift": lambda x, rng: x + 5 * rng.standard_normal(x.shape[-1]),
}
CHANGED = {
    "linear map": lambda x, rng: x @ (rng.standard_normal(x.shape[-1:] * 2) * 4.0 ** np.arange(x.shape[-1])),
    "scale per feature": lambda x, rng: x * np.exp(2 * rng.standard_normal(x.shape[-1])),
    "permuted examples, one side": lambda x, rng: x[:, rng.permutation(x.shape[1])],
}


@pytest.mark.parametrize("change", UNCHANGED | CHANGED)
def test_invariance(change):
    xs, ys = features()
    changed = (UNCHANGED | CHANGED)[change](xs, np.random.default_rng(0)).astype(np.float32)
    for before, after in zip(cka_both(xs, ys), cka_both(changed, ys), strict=True):
        difference = np.abs(after - before)
        if change in UNCHANGED:
            assert difference.max() < 2e-6
        else:
            assert difference[2, 1] > 0.1  # the pair of layers that shares most


def test_permuting_examples_on_both_sides_changes_nothing():
    xs, ys = features()
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(cka_both(xs[:, order], ys[:, order]), cka_both(xs, ys), rtol=0, atol=1e-6)


def test_symmetry_and_self_similarity():
    xs, ys = features()
    for xy, yx in zip(cka_both(xs, ys), cka_both(ys, xs), strict=True):
        np.testing.assert_allclose(xy, yx.T, rtol=0, atol=1e-6)
    itself = cka_both(xs, xs)
    assert_close(itself, xs, xs)
    assert_close(cka_both(xs, xs.copy()), xs, xs)
    for xx in itself:
        np.testing.assert_allclose(np.diag(xx), 1, rtol=0, atol=3e-7)
        np.testing.assert_allclose(xx, xx.T, rtol=0, atol=3e-7)


def test_unrelated_data_and_planted_factors():
    rng, n, d = np.random.default_rng(0), 100, 400
    xs, ys = rng.standard_normal((2, 6, n, d))
    latents = rng.standard_normal((3, n, 5))  # layers 0, 1, 2 of both sides see latent 0, 1, 2, each in its own basis
    planted = np.eye(6, dtype=bool) & (np.arange(6) < 3)
    for side in (xs, ys):
        side[:3] = latents @ rng.standard_normal((3, 5, d)) + 0.5 * side[:3]
    both = cka_both(xs, ys)
    assert both.debiased[planted].min() > 0.8
    assert np.abs(both.debiased[~planted]).max() < 0.1
    assert np.abs(both.debiased[3:, 3:].mean()) < 0.01
    assert (both.debiased < 0).any()  # not clamped
    np.testing.assert_allclose(both.biased[3:, 3:], d / (n + d), rtol=0, atol=0.02)


def test_repeated_prompts_raise_cka_of_unrelated_data():
    xs, ys = (np.repeat(x[:1, :20], 2, 1).repeat(len(x), 0) for x in features())  # layers 0 share nothing
    assert cka_both(xs, ys).debiased.min() > 0.3


# --- missing values ---


def test_missing_layers_are_nan_and_leave_the_others_alone():
    n = 30
    xs = np.random.default_rng(0).standard_normal((8, n, n)).astype(np.float32)
    xs[1] = 0.1 * np.arange(n)
    xs[2, 3, 4] = np.nan
    xs[3, 5:7, 0] = np.inf
    xs[4, 1:], xs[4, -1] = xs[4, 0], 1  # all rows but one are equal
    xs[5] = np.eye(n)
    xs[6] = np.linalg.qr(xs[6])[0] + 10  # rows equally far apart, but rounded
    ys = features(n)[1]
    both = cka_both(xs, ys)
    for estimator, missing in (("debiased", [1, 2, 3, 4, 5, 6]), ("biased", [1, 2, 3])):
        value = np.asarray(getattr(both, estimator))
        good = np.setdiff1d(np.arange(8), missing)
        assert np.isnan(value[missing]).all()
        np.testing.assert_allclose(value[good], expected(xs[good], ys, estimator), rtol=0, atol=1e-6)
        reasons = missing_reason(xs, estimator=estimator)
        assert [layer for layer, reason in enumerate(reasons) if reason] == missing
    assert missing_reason(xs) == [
        None,
        "constant features: all 30 rows are equal",
        "non-finite values in 1 of 30 rows (as float32)",
        "non-finite values in 2 of 30 rows (as float32)",
        *["no structure: all rows are equally far apart, or equal but one (U-centred Gram is 0 in float32)"] * 3,
        None,
    ]


def test_missing_for_few_rows_or_extreme_range():
    xs, ys = features()
    xs[1, :2, 0] = 3e38, -3e38  # the difference overflows
    assert missing_reason(xs) == [None, "out of range: features differ by too little or too much for float32", None]
    assert np.isnan(cka_both(xs, ys)).all((0, 2)).tolist() == [False, True, False]
    mask = np.arange(40) > 36
    assert missing_reason(xs, mask=mask) == ["only 3 rows: debiased CKA needs at least 4"] * 3
    assert missing_reason(xs, mask=mask, estimator="biased") == [None] * 3


def test_duplicate_rows():
    xs = np.zeros((3, 6, 2), np.float32)
    xs[1] = np.arange(12).reshape(6, 2)
    xs[2] = [[1, 2], [3, 4], [1, 2], [0.0, 1], [-0.0, 1], [1, 2]]
    np.testing.assert_array_equal(duplicate_rows(xs), [5, 0, 3])
    np.testing.assert_array_equal(duplicate_rows(jnp.asarray(xs, jnp.bfloat16), mask=np.arange(6) < 4), [3, 0, 1])


def test_gradient_is_right_and_finite_beside_missing_layers():
    xs, ys = features()
    xs[1] = 1.0
    xs[2, 0, 0] = np.nan
    slopes = jax.grad(lambda x: jnp.nansum(cka_all_pairs(x, ys)))(jnp.asarray(xs))
    assert (slopes[1:] == 0).all()
    step = 1e-6 * (place(xs, 3, 1) & place(xs, 2, 2))[0]
    slope = (expected(xs[:1] + step, ys, "debiased") - expected(xs[:1] - step, ys, "debiased")).sum() / 2e-6
    assert slopes[0, 3, 2] == pytest.approx(slope, rel=1e-3)


# --- masks, vmap, compilation, errors ---


@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_mask_equals_leaving_rows_out(padding):
    xs, ys = features()
    keep = np.random.default_rng(0).random(40) < 0.6
    keep[0] = False
    xs[:, ~keep] = ys[:, ~keep] = padding
    assert_close(cka_both(xs, ys, mask=keep), xs[:, keep], ys[:, keep])
    assert missing_reason(xs, mask=keep) == [None] * 3


def test_vmap_over_padded_tasks():
    ns = [4, 17, 40, 3]
    keep = np.arange(40) < np.array(ns)[:, None]
    xs, ys = (np.stack(tasks) for tasks in zip(*[features(seed=seed) for seed in range(4)], strict=True))
    xs[np.broadcast_to(~keep[:, None], xs.shape[:3])] = np.nan
    values = jax.vmap(lambda x, y, mask: cka_both(x, y, mask=mask))(xs, ys, keep)
    for i, n in enumerate(ns[:3]):
        assert_close(cka.CKA(values.debiased[i], values.biased[i]), xs[i, :, :n], ys[i, :, :n])
    assert np.isnan(values.debiased[3]).all()  # too few examples: alone it would be an error
    np.testing.assert_allclose(values.biased[3], expected(xs[3, :, :3], ys[3, :, :3], "biased"), rtol=0, atol=1e-6)


def test_compiles_once_per_shape(caplog):
    def compilations(seed, mask=None):
        xs, ys = features(23, seed=seed)
        xs, ys = jnp.asarray(xs), jnp.asarray(ys)
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            cka_all_pairs(xs, ys, mask=mask)
        return sum("Compiling jit(" in record.getMessage() for record in caplog.records)

    assert compilations(1) == 3  # the Grams of either side, their cosines
    assert compilations(2) == 0
    assert compilations(3, mask=np.arange(23) < 9) == 0  # one program for all masks, and for none


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
        (lambda: cka_all_pairs(GOOD, GOOD, mask=np.ones(8)), r"mask must be bool .* got float64"),
        (lambda: cka_all_pairs(GOOD, GOOD, estimator="unbiased"), r"estimator must be one of 'debiased', 'biased'"),
        (lambda: cka_all_pairs(GOOD, GOOD, kernel="rbf"), r"kernel must be one of 'linear'; got 'rbf'"),
        (lambda: cka_both(GOOD * 1j, GOOD), r"xs must be real, got complex64"),
        (lambda: missing_reason(GOOD, estimator="song"), r"estimator must be one of"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
