"""CKA of all layer pairs of two models: lorajax, NumPy and public packages, timed in turns on one data set.

    python benchmarks/cka.py [--quick] [--layers 32] [--examples 1000] [--width 2048] [--runs 5]

Every layer has a common mean, and two features of mean 40 and 118, as hidden states of language models do. The error is
against float64. The packages are pytorch-cka (`pip install pytorch-cka`), the fastest that was found, which does all
pairs at once, and ckatorch, which does one pair at a time: it gets four, and the time is for as many as the others do.
Both are left out when not installed. Printed is the best of the runs of each, taken in turns, since other work on the
machine slows all alike; NumPy's bare x @ x.T of all layers is there to read them by.

Without --quick comes the large case: 20,000 examples, 16 layers a side, width 1024, whose Grams would take 51 GB. It
runs alone in a process of its own, whose largest memory is printed.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from analysis.cka import cka_all_pairs, cka_both, cka_same_layer

# pytorch-cka is imported as `cka`, which must not find this file.
sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]


def hidden_states(layers, n, d, seed):
    rng = np.random.default_rng(seed)
    latent = np.random.default_rng(0).standard_normal((n, 32), dtype=np.float32)
    x = rng.standard_normal((layers, n, d), dtype=np.float32)
    for i in range(layers):
        x[i] += latent @ rng.standard_normal((32, d), dtype=np.float32) * (i / layers / 4)
        x[i] += rng.standard_normal(d, dtype=np.float32)
        x[i, :, 3] += 40
        x[i, :, 7] = 118 + 5 * x[i, :, 7]
    return x


def numpy_cka(xs, ys, dtype):
    """The same formulation in NumPy: centre, Gram (NumPy finds the symmetric product), U-centre, one product."""

    def units(layers):
        out = np.empty((len(layers), layers.shape[1] ** 2), dtype)
        for unit, x in zip(out, layers, strict=True):
            n = len(x)
            x = x.astype(dtype)
            x -= x.mean(0)
            k = x @ x.T
            np.fill_diagonal(k, 0)
            row = k.sum(1) / (n - 2)
            k -= row[:, None]
            k -= row
            k += row.sum() / (n - 1)
            np.fill_diagonal(k, 0)
            unit[:] = k.ravel() / np.linalg.norm(k)
        return out

    return units(xs) @ units(ys).T


def contestants(xs, ys):
    """Name -> (function of nothing that gives debiased CKA, how many times its work the whole is)."""
    jxs, jys = jnp.asarray(xs), jnp.asarray(ys)
    out = {
        "NumPy, x @ x.T alone": (lambda: [x @ x.T for side in (xs, ys) for x in side] and None, 1),
        "lorajax": (lambda: cka_all_pairs(jxs, jys), 1),
        "lorajax, both estimators": (lambda: cka_both(jxs, jys).debiased, 1),
        "lorajax, tiles of 512": (lambda: cka_all_pairs(jxs, jys, tile=512), 1),
        "lorajax, rbf": (lambda: cka_all_pairs(jxs, jys, kernel="rbf"), 1),
        "lorajax, same layers": (lambda: cka_same_layer(jxs, jys), 1),
        "NumPy float32": (lambda: numpy_cka(xs, ys, np.float32), 1),
    }
    try:
        import torch
    except ImportError:
        print("torch is not installed: its packages are left out")
        return out
    txs, tys = torch.from_numpy(xs), torch.from_numpy(ys)
    try:
        from cka import cka_from_features

        out["pytorch-cka"] = (lambda: cka_from_features(txs, tys).numpy(), 1)
    except ImportError:
        print("pytorch-cka is not installed: left out")
    try:
        from ckatorch.core import cka_base

        def four():
            pairs = [[cka_base(x, y, "linear", unbiased=True) for y in tys[:2]] for x in txs[:2]]
            return np.array([[value.item() for value in row] for row in pairs])

        out["ckatorch, from 4 pairs"] = (four, len(xs) * len(ys) / 4)
    except ImportError:
        print("ckatorch is not installed: left out")
    return out


def compare(args):
    xs, ys = (hidden_states(args.layers, args.examples, args.width, seed) for seed in (1, 2))
    print(f"{args.layers} x {args.layers} layers, n={args.examples}, d={args.width}; jax {jax.__version__} on", end=" ")
    print(
        f"{jax.devices()[0].device_kind}, numpy {np.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    runs = contestants(xs, ys)
    start = time.perf_counter()
    jax.block_until_ready(runs["lorajax"][0]())
    print(f"first call of lorajax, with compilation: {time.perf_counter() - start:.2f} s")
    for name in runs:
        if name.startswith("lorajax"):
            jax.block_until_ready(runs[name][0]())
    times = {name: [] for name in runs}
    values = {}
    for _ in range(args.runs):
        for name, (run, _) in runs.items():
            start = time.perf_counter()
            values[name] = jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    exact = numpy_cka(xs, ys, np.float64)
    print(f"{'':28}{'seconds':>8}{'/ lorajax':>11}{'max error':>11}")
    for name, (_, share) in runs.items():
        best = min(times[name]) * share
        line = f"{name:28}{best:8.2f}{best / min(times['lorajax']):11.2f}"
        if values[name] is None or "rbf" in name:
            print(line)
            continue
        value = np.asarray(values[name])
        want = np.diag(exact) if value.ndim == 1 else exact[: len(value), : value.shape[1]]
        print(f"{line}{np.abs(value - want).max():11.1e}")


def large(layers=16, n=20_000, d=1024):
    """The large case, in a process of its own."""

    @jax.jit
    def side(key, latent):  # made on the device, so that nothing but the features is held
        def layer(key):
            noise, mix, mean = jax.random.split(key, 3)
            x = jax.random.normal(noise, (n, d)) + latent @ jax.random.normal(mix, (32, d)) / 8
            return (x + jax.random.normal(mean, (d,))).at[:, 3].add(40).at[:, 7].mul(5).at[:, 7].add(118)

        return jax.lax.map(layer, jax.random.split(key, layers))

    latent = jax.random.normal(jax.random.key(0), (n, 32))
    xs, ys = (jax.block_until_ready(side(jax.random.key(seed), latent)) for seed in (1, 2))
    features = 2 * xs.nbytes / 1e9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    values = np.asarray(cka_all_pairs(xs, ys))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{layers} x {layers} layers, n={n}, d={d}: {seconds:.0f} s with compilation;", end=" ")
    print(f"peak memory {peak / 1e6:.2f} GB ({before / 1e6:.2f} before the call; features {features:.2f})")
    x, y = (np.asarray(side[-1], np.float64) for side in (xs, ys))
    x, y = x - x.mean(0), y - y.mean(0)

    def inner(x, y):  # debiased, in feature space
        r, q = (x**2).sum(1), (y**2).sum(1)
        return ((x.T @ y) ** 2).sum() - n / (n - 2) * (r * q).sum() + r.sum() * q.sum() / ((n - 1) * (n - 2))

    exact = inner(x, y) / np.sqrt(inner(x, x) * inner(y, y))
    print(f"last layers: {values[-1, -1]:.7f}, float64 {exact:.7f}, difference {abs(values[-1, -1] - exact):.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the large case")
    parser.add_argument("--large-only", action="store_true", help="nothing but the large case")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    if args.large_only:
        large()
        return
    compare(args)
    if not args.quick:
        subprocess.run([sys.executable, __file__, "--large-only"], check=True)


if __name__ == "__main__":
    main()
