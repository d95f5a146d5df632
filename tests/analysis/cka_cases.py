"""CKA from its definitions in float64, and features to try it on."""

import numpy as np

ESTIMATORS = ("debiased", "biased")


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


def gram(x, bandwidth=None):
    """Linear if no bandwidth is given. Shift and scale first: neither changes CKA."""
    x = np.asarray(x, np.float64)
    x = x - x.mean(0)
    x = x / np.abs(x).max()
    if bandwidth is None:
        return x @ x.T
    distance2 = ((x[:, None] - x) ** 2).sum(-1)
    median = np.median(distance2[np.triu_indices(len(x), 1)])
    return np.exp(-distance2 / (2 * bandwidth**2 * median))


def expected(xs, ys, estimator, bandwidth=None):
    """float64 CKA `[L1, L2]` of the numbers given."""
    hsic = {"biased": hsic_biased, "debiased": hsic_debiased}[estimator]
    Ks, Ls = ([gram(x, bandwidth) for x in side] for side in (xs, ys))
    return np.array([[hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)) for L in Ls] for K in Ks])


def assert_close(value, xs, ys, atol=1e-6, bandwidth=None):
    """value is the CKA namedtuple of xs and ys."""
    for estimator in ESTIMATORS:
        want = expected(xs, ys, estimator, bandwidth)
        np.testing.assert_allclose(getattr(value, estimator), want, rtol=0, atol=atol, err_msg=estimator)


def features(n=40, d1=20, d2=12, seed=1):
    """xs `[3, n, d1]`, ys `[2, n, d2]`, float32. Later layers share more latent factors: CKA of every size."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 8))

    def side(layers, d):
        share = np.linspace(0, 1, layers)[:, None, None]
        return share * (latent @ rng.standard_normal((layers, 8, d))) + rng.standard_normal((layers, n, d))

    return side(3, d1).astype(np.float32), side(2, d2).astype(np.float32)


def place(x, i, axis):
    """True at index i of an axis of x, shaped to broadcast with x."""
    return np.moveaxis((np.arange(x.shape[axis]) == i).reshape(-1, 1, 1), 0, axis)


#: Ways to make features difficult. Each row is used by many tests: cheap on purpose.
DATA = {
    "constant feature": lambda x: np.where(place(x, 1, 2), 0.1, x),
    "one feature": lambda x: np.where(place(x, 1, 2), x, 0.1),
    "duplicated rows": lambda x: np.concatenate([x[:, :-9], x[:, :9]], 1),
    "rank deficient": lambda x: x[:, :, :3] @ np.random.default_rng(1).standard_normal((3, x.shape[2])),
    "a feature of mean 1000": lambda x: x + 1000 * place(x, 0, 2),
    "a feature of mean 10000": lambda x: x + 10000 * place(x, 0, 2),
    "common offset 100": lambda x: x + 100,
    "common offset 1000": lambda x: x + 1000,
    "large first row": lambda x: np.where(place(x, 0, 1), 30 * x, x),
    "large later row": lambda x: np.where(place(x, 7, 1), 30 * x, x),
    **{f"scale {scale:g}": lambda x, scale=scale: x * scale for scale in (1e4, 1e-4, 1e-15, 1e-20, 1e20)},
}


def missing_layers(n=30):
    """xs `[8, n, n]`: layer 0 and 7 are good; constant, NaN, inf, equal but one, one-hot, equally far apart but rounded."""
    xs = np.random.default_rng(0).standard_normal((8, n, n)).astype(np.float32)
    xs[1] = 0.1 * np.arange(n)
    xs[2, 3, 4] = np.nan
    xs[3, 5:7, 0] = np.inf
    xs[4, 1:], xs[4, -1] = xs[4, 0], 1
    xs[5] = np.eye(n)
    xs[6] = np.linalg.qr(xs[6])[0] + 10
    return xs


#: Which of `missing_layers` have no value.
MISSING = {"debiased": [1, 2, 3, 4, 5, 6], "biased": [1, 2, 3]}
