"""Layers to try measures of similarity on, and what may be done to them. Shared by the tests of several measures."""

import jax
import numpy as np


def features(n=40, d1=14, d2=12, seed=1):
    """xs `[3, n, d1]`, ys `[2, n, d2]`, float32. Later layers share more latent factors: similarities of every size."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 8))

    def side(layers, d):
        share = np.linspace(0, 1, layers)[:, None, None]
        return share * (latent @ rng.standard_normal((layers, 8, d))) + rng.standard_normal((layers, n, d))

    return side(3, d1).astype(np.float32), side(2, d2).astype(np.float32)


def _place(x, i, axis):
    """True at index i of an axis of x, shaped to broadcast with x."""
    return np.moveaxis((np.arange(x.shape[axis]) == i).reshape(-1, 1, 1), 0, axis)


def _low_rank(x):
    return x[:, :, :3] @ np.random.default_rng(1).standard_normal((3, x.shape[2]))


HARD = {
    "plain": lambda x: x,
    "a constant feature": lambda x: np.where(_place(x, 1, 2), 0.1, x),
    "one feature": lambda x: np.where(_place(x, 1, 2), x, 0.1),
    "repeated rows": lambda x: np.concatenate([x[:, :-9], x[:, :9]], 1),
    "rank deficient": _low_rank,
    "a feature of mean 10000": lambda x: x + 10_000 * _place(x, 0, 2),
    "common offset 1000": lambda x: x + 1000,
    "large first row": lambda x: np.where(_place(x, 0, 1), 30 * x, x),
    **{f"scale {scale:g}": lambda x, scale=scale: x * scale for scale in (1e4, 1e-4, 1e-20, 1e20)},
}


def hard(name, *shape):
    xs, ys = features(*shape)
    return HARD[name](xs).astype(np.float32), HARD[name](ys).astype(np.float32)


def rotation(d, rng):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


#: What is done to xs alone.
CHANGES = {
    "rotation": lambda x, rng: x @ rotation(x.shape[-1], rng),
    "signs": lambda x, rng: x * rng.choice([-1, 1], x.shape[-1]),
    "one scale": lambda x, rng: 37.0 * x,
    "shift": lambda x, rng: x + 5 * rng.standard_normal(x.shape[-1]),
    "scale per example": lambda x, rng: x * np.exp(rng.standard_normal((x.shape[1], 1))),
    "shift per example": lambda x, rng: x + 3 * rng.standard_normal((x.shape[1], 1)),
    "scale per feature": lambda x, rng: x * np.exp(2 * rng.standard_normal(x.shape[-1])),
    "linear map": lambda x, rng: x @ (rng.standard_normal(x.shape[-1:] * 2) * 1.3 ** np.arange(x.shape[-1])),
    "order of examples": lambda x, rng: x[:, rng.permutation(x.shape[1])],
}


def expected(measure, xs, ys):
    """`[L1, L2]` of a measure of two float64 arrays `[n, d]`."""
    return np.array([[measure(np.asarray(x, np.float64), np.asarray(y, np.float64)) for y in ys] for x in xs])


def assert_invariant(measure, change, unchanged, atol):
    """`measure(xs, ys)` does not change if `change` is among `unchanged`, and else it does."""
    xs, ys = features()
    changed = CHANGES[change](xs, np.random.default_rng(0)).astype(np.float32)
    difference = np.abs(np.asarray(measure(changed, ys)) - np.asarray(measure(xs, ys)))
    if change in unchanged:
        assert difference.max() < atol
    else:
        assert difference.max() > 100 * atol


def assert_takes_every_form(measure, atol):
    """Lists, float64, half, layers of several widths, one side with itself: what all measures share."""
    xs, ys = features()
    want = np.asarray(measure(xs, ys))
    assert want.shape == (3, 2)
    assert want.dtype == np.float32

    def close(value, want=want, atol=atol):
        np.testing.assert_allclose(value, want, rtol=0, atol=atol)

    close(measure(list(xs), ys.tolist()))
    close(measure(xs, xs), measure(xs, xs.copy()))
    half = xs.astype(np.float16)
    close(measure(half, ys), measure(half.astype(np.float32), ys))
    with jax.enable_x64(True):
        value = measure(xs.astype(np.float64), ys)
        assert value.dtype == np.float64
        close(value)
    close(measure([xs[0][:, :9], xs[1]], ys)[0], measure(xs[:, :, :9], ys)[0])


def assert_order_and_masks(measure, atol):
    """The order of the examples does not matter, and a mask, also under vmap, is leaving examples out."""
    xs, ys = features()
    want = np.asarray(measure(xs, ys))
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(measure(xs[:, order], ys[:, order]), want, rtol=0, atol=atol)

    kept = np.arange(40) % 5 > 0
    part = measure(xs[:, kept], ys[:, kept])
    for padding in (0.0, 1e6, np.nan):
        padded = [np.where(kept[:, None], side, padding).astype(np.float32) for side in (xs, ys)]
        np.testing.assert_allclose(measure(*padded, mask=kept), part, rtol=0, atol=atol)
    tasks = jax.vmap(lambda x, y, mask: measure(x, y, mask=mask))
    both = tasks(np.stack([xs, padded[0]]), np.stack([ys, padded[1]]), np.stack([kept | True, kept]))
    np.testing.assert_allclose(both, np.stack([want, part]), rtol=0, atol=atol)


def assert_names_bad_rows(measure, pytest):
    xs, ys = features()
    ys[1, 7, 3] = np.nan
    ys[1, 9, 0] = np.inf
    with pytest.raises(ValueError, match=r"ys: layer 1, row 7 is not finite as float32 \(2 such rows\)"):
        measure(xs, ys)
    with pytest.raises(ValueError, match=r"same n examples"):
        measure(xs, ys[:, :-1])
    value = measure(xs, ys, mask=~np.isin(np.arange(40), (7, 9)))
    assert np.isfinite(value).all()
    assert np.isnan(jax.jit(measure)(xs, ys)[:, 1]).all()  # values are not known under jit: missing, not wrong
