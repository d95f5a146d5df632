"""Intervals and permutation tests of CKA: how long they take, and how often the intervals cover the truth.

    python benchmarks/cka_inference.py [--layers 32] [--examples 1000] [--width 2048] [--permutations 50]
    python benchmarks/cka_inference.py --coverage [--samples 500] [--decay 0]

Times are the best of `--repeats` warm calls. NumPy's own product of two square matrices is timed beside them, since
other work on the machine slows all alike: a bootstrap of same layers does 8 n² B multiply-adds a pair.

Coverage: samples of Gaussian layers whose population CKA is known. Five factors are shared, and the standard deviation
of feature j's noise is j to the power of -decay: with decay 1, few directions hold most of the variance. Columns: the
interval of `analysis.bootstrap`, and how often it lies below and above the truth; a normal interval with its standard
error; one with the plain jackknife's; percentiles of the bootstrap without copies (these two of every fourth sample).
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from analysis import bootstrap
from analysis.bootstrap import bootstrap_cka, cka_interval
from analysis.permutation import permutation_test
from analysis.whole_grams import unit_gram


def hidden_states(layers, n, d, seed):
    """Layers that share more with those of another seed the later they are; a common mean, and one large feature."""
    rng = np.random.default_rng(seed)
    latent = np.random.default_rng(0).standard_normal((n, 32), dtype=np.float32)
    x = rng.standard_normal((layers, n, d), dtype=np.float32)
    for i in range(layers):
        x[i] += latent @ rng.standard_normal((32, d), dtype=np.float32) * (i / layers / 4)
        x[i] += rng.standard_normal(d, dtype=np.float32)
        x[i, :, 3] += 40
    return jnp.asarray(x)


def timed(run, repeats):
    """-> seconds of the first call, and the best of the others."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds[0], min(seconds[1:])


def times(args):
    xs, ys = (hidden_states(args.layers, args.examples, args.width, seed) for seed in (1, 2))
    square = np.random.default_rng(0).standard_normal((2000, 2000), dtype=np.float32)
    m = args.permutations
    runs = {
        "NumPy: product of two 2000 x 2000": lambda: square @ square,
        "cka_interval, same layers": lambda: cka_interval(xs, ys),
        "cka_interval, all pairs": lambda: cka_interval(xs, ys, pairs="all"),
        "bootstrap_cka, same layers, B = 1000": lambda: bootstrap_cka(xs, ys),
        f"permutation_test, all pairs, {m}": lambda: permutation_test(xs, ys, permutations=m),
        f"permutation_test, all pairs, {2 * m}": lambda: permutation_test(xs, ys, permutations=2 * m),
    }
    print(f"{args.layers} layers a side, n={args.examples}, d={args.width}, {os.cpu_count()} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    print(f"{'':44}{'first call':>12}{'warm':>9}  seconds")
    best = {}
    for name, run in runs.items():
        first, best[name] = timed(run, args.repeats)
        print(f"{name:44}{first:12.2f}{best[name]:9.3f}")
    *_, fewer, more = best.values()
    each = (more - fewer) / m
    print(f"so a permutation takes {each:.3f} s, and 1,000 of them {fewer + (1000 - m) * each:.0f} s")


def population(share, factors, noise):
    """Population CKA of share·factors + noise on both sides; factors two `[k, d]`, noise `[d]`."""
    xx, yy, xy = (share * a.T @ b for a, b in ((factors[0],) * 2, (factors[1],) * 2, factors))
    xx, yy = xx + np.diag(noise**2), yy + np.diag(noise**2)
    return (xy**2).sum() / np.linalg.norm(xx) / np.linalg.norm(yy)


def samples(n, d, true, count, decay, seed, k=5):
    """x, y `[count, n, d]` of layers whose population CKA is `true`."""
    rng = np.random.default_rng(seed)
    size = np.arange(1, k + 1)[:, None] ** -(decay / 2)
    factors = tuple(size * np.linalg.qr(rng.standard_normal((d, k)))[0].T for _ in range(2))
    noise = np.arange(1, d + 1) ** -decay / np.sqrt(d)
    share = np.exp(brentq(lambda s: population(np.exp(s), factors, noise) - true, -20, 20)) if true else 0
    latent = rng.standard_normal((count, n, k)) * np.sqrt(share)
    sides = (latent @ a + rng.standard_normal((count, n, d)) * noise for a in factors)
    return tuple(side.astype(np.float32) for side in sides)


@jax.jit
def plain(x, y, weights):
    """x, y `[n, d]` -> jackknife standard error, CKA of re-weighted examples."""
    keep = jnp.ones(len(x), bool)
    a, b = (unit_gram(side, keep, jnp.ones(()), "linear", "debiased").matrix for side in (x, y))
    e = a - b
    return jnp.sqrt(bootstrap._jackknife(a, b, e, (e * e).sum(), keep, len(x))), bootstrap._drawn(a, b, weights)


def coverage(args):
    z = norm.ppf(0.975)
    print(f"{'n':>4}{'d':>5}{'true':>6}{'mean':>8}{'sd':>8}{'se':>8} |", end="")
    print("  covers  below  above |  normal jackknife bootstrap")
    for n in (50, 100, 200):
        weights = jnp.asarray(bootstrap._weights(np.ones(n, bool), 400, 0))
        for d in (10, 50, 300):
            for true in (0.0, 0.3, 0.8):
                x, y = samples(n, d, true, args.samples, args.decay, 1000 * n + d)
                found = cka_interval(x, y)
                below, above = (found.high < true).mean(), (found.low > true).mean()
                off = np.abs(found.value - true)
                some = range(0, args.samples, 4)
                errors, drawn = map(np.array, zip(*(plain(x[i], y[i], weights) for i in some), strict=True))
                low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
                rates = (
                    1 - below - above, below, above, (off <= z * found.standard_error).mean(),
                    (off[::4] <= z * errors).mean(), ((low <= true) & (true <= high)).mean(),
                )  # fmt: skip
                print(f"{n:4}{d:5}{true:6.1f}{found.value.mean():8.3f}{found.value.std():8.4f}", end="")
                print(f"{found.standard_error.mean():8.4f} |", end="")
                print(
                    "{:8.1f}{:7.1f}{:7.1f} |{:8.1f}{:10.1f}{:10.1f}".format(*(100 * rate for rate in rates)), flush=True
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--permutations", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--decay", type=float, default=0.0)
    args = parser.parse_args()
    (coverage if args.coverage else times)(args)


if __name__ == "__main__":
    main()
