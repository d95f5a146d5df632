"""CKA's arguments: what is missing and why, masks, vmap, what is compiled, and errors."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import layerwise
from analysis.cka import CKA, cka_all_pairs, cka_both, cka_same_layer, duplicate_rows, minibatch_cka, missing_reason
from tests.analysis.cka_cases import ESTIMATORS, MISSING, assert_close, expected, features, missing_layers

# --- missing values ---

NO_STRUCTURE = "no structure: all rows are equally far apart, or equal but one (U-centred Gram is 0 in float32)"
REASONS = [
    None,
    "constant features: all 30 rows are equal",
    "non-finite values in 1 of 30 rows (as float32)",
    "non-finite values in 2 of 30 rows (as float32)",
    *[NO_STRUCTURE] * 3,
    None,
]


def test_missing_layers_are_nan_and_leave_the_others_alone():
    xs, ys = missing_layers(), features(30)[1]
    both = cka_both(xs, ys, nonfinite="missing")
    for estimator, missing in MISSING.items():
        value = np.asarray(getattr(both, estimator))
        good = np.setdiff1d(np.arange(8), missing)
        assert np.isnan(value[missing]).all()
        np.testing.assert_allclose(value[good], expected(xs[good], ys, estimator), rtol=0, atol=1e-6)
        for known in (None, value):
            reasons = missing_reason(xs, estimator=estimator, values=known)
            assert [layer for layer, reason in enumerate(reasons) if reason] == missing
    assert missing_reason(xs) == REASONS


def test_reasons_from_values_need_few_grams(monkeypatch):
    xs, ys = missing_layers(), features(30)[1]
    values = cka_all_pairs(xs, ys, nonfinite="missing")
    looked_at = []
    lengths = layerwise.lengths
    monkeypatch.setattr(
        layerwise, "lengths", lambda x, *args, **how: looked_at.append(len(x)) or lengths(x, *args, **how)
    )
    assert missing_reason(xs, values=values) == REASONS
    assert missing_reason(xs[[0, 7]], values=values[jnp.array([0, 7])]) == [None, None]
    assert looked_at == [3]  # those without structure; the features of others show why
    # If the other side has no value at all, that is not the fault of these layers.
    nothing = np.full((8, 2), np.nan)
    assert missing_reason(xs, values=nothing) == REASONS
    assert looked_at == [3, 5]


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(bad):
    xs, ys = features()
    ys[1, [5, 9], 3] = bad
    message = r"ys: row 5 of layer 1 is not finite \(2 of its 40 rows are not\)\. With nonfinite='missing'"
    for call in (
        cka_all_pairs,
        cka_both,
        lambda x, y: cka_all_pairs(x, y, tile=16),
        lambda x, y: cka_same_layer(x[1:], y),
    ):
        with pytest.raises(ValueError, match=message):
            call(xs, ys)
    with pytest.raises(ValueError, match="xs: row 5 of layer 1 "):
        cka_all_pairs(ys, ys)
    assert np.isfinite(cka_all_pairs(xs, ys, mask=np.arange(40) > 9)).all()
    values = cka_all_pairs(xs, ys, nonfinite="missing")
    assert np.isnan(values).all(0).tolist() == [False, True]
    np.testing.assert_allclose(jax.jit(cka_all_pairs)(xs, ys), values, rtol=0, atol=1e-6)  # cannot raise


# --- masks, vmap, compilation ---


@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_mask_equals_leaving_rows_out(padding):
    xs, ys = features()
    keep = np.random.default_rng(0).random(40) < 0.6
    keep[0] = False
    xs[:, ~keep] = ys[:, ~keep] = padding
    assert_close(cka_both(xs, ys, mask=keep), xs[:, keep], ys[:, keep])
    assert missing_reason(xs, mask=keep) == [None] * 3


@pytest.mark.parametrize("tile", [None, 16])
def test_vmap_over_padded_tasks(tile):
    ns = [4, 17, 40, 3]
    keep = np.arange(40) < np.array(ns)[:, None]
    xs, ys = (np.stack(tasks) for tasks in zip(*[features(seed=seed) for seed in range(4)], strict=True))
    xs[np.broadcast_to(~keep[:, None], xs.shape[:3])] = np.nan
    values = jax.vmap(lambda x, y, mask: cka_both(x, y, mask=mask, tile=tile))(xs, ys, keep)
    for i, n in enumerate(ns[:3]):
        assert_close(CKA(values.debiased[i], values.biased[i]), xs[i, :, :n], ys[i, :, :n])
    assert np.isnan(values.debiased[3]).all()  # too few examples: alone it would be an error
    np.testing.assert_allclose(values.biased[3], expected(xs[3, :, :3], ys[3, :, :3], "biased"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tile", [None, 16])
def test_compiles_once_per_shape(caplog, tile):
    def compilations(seed, **options):
        xs, ys = features(23, seed=seed)
        xs, ys = jnp.asarray(xs), jnp.asarray(ys)
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            cka_all_pairs(xs, ys, tile=tile, **options)
        return sum("Compiling jit(" in record.getMessage() for record in caplog.records)

    one = 1 if tile else 3  # in memory: the Grams of either side, their products
    assert compilations(1) == one
    assert compilations(2) == 0
    # One program for all masks and none, and for both estimators.
    assert compilations(3, mask=np.arange(23) < 9) == 0
    assert compilations(4, estimator="biased") == 0
    assert compilations(5, kernel="rbf") == (1 if tile else 2)  # the products do not depend on the kernel
    assert compilations(6, kernel="rbf", bandwidth=0.5) == 0
    assert compilations(7, kernel="rbf", bandwidth=2) == 0


def test_vmap_compiles_once(caplog):
    stacked = jax.vmap(cka_all_pairs)
    counts = []
    for seed in (1, 2):
        xs, ys = (jnp.asarray(x)[:2].repeat(3, 0)[:, None] for x in features(23, seed=seed))
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            assert stacked(xs, ys).shape == (6, 1, 1)
        counts.append(sum("Compiling jit(" in record.getMessage() for record in caplog.records))
    assert counts[0] >= 1
    assert counts[1] == 0


# --- errors ---

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
        (lambda: cka_all_pairs(GOOD, GOOD, kernel="poly"), r"kernel must be one of 'linear', 'rbf'; got 'poly'"),
        (
            lambda: cka_all_pairs(GOOD, GOOD, kernel="rbf", bandwidth=0),
            r"bandwidth must be positive and finite, got 0.0",
        ),
        (lambda: cka_all_pairs(GOOD, GOOD, nonfinite="drop"), r"nonfinite must be one of 'raise', 'missing'"),
        (lambda: cka_all_pairs(GOOD, GOOD, tile=0), r"tile must be at least 1 row, got 0"),
        (lambda: cka_both(GOOD * 1j, GOOD), r"xs must be real, got complex64"),
        (lambda: cka_same_layer(GOOD, GOOD[:1]), r"same layers \(axis 0\), got xs \(2, 8, 3\), ys \(1, 8, 3\)"),
        (lambda: missing_reason(GOOD, estimator="song"), r"estimator must be one of"),
        (lambda: missing_reason(GOOD, values=np.ones(2)), r"values must be \[2, layers .*\], got shape \(2,\)"),
        (lambda: minibatch_cka([]), r"there are no batches"),
        (lambda: minibatch_cka([(GOOD, GOOD), (GOOD[:, :3], GOOD[:, :3])]), r"batch 1: debiased CKA needs n >= 4"),
        (
            lambda: minibatch_cka([(GOOD, GOOD), (GOOD, GOOD[:1])]),
            r"batch 1 has \(2, 1\) layers, .* before it \(2, 2\)",
        ),
        (lambda: minibatch_cka([(GOOD, GOOD * np.nan)]), r"batch 0: ys: row 0 of layer 0 is not finite"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_estimators_are_those_of_the_cases():
    assert CKA._fields == ESTIMATORS
