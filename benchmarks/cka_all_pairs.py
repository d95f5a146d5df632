"""Debiased CKA of all layer pairs of two models: lorajax, NumPy and a public package, timed in turns on one data set.

    python benchmarks/cka_all_pairs.py [--layers 32] [--examples 1000] [--width 2048]

Every layer has a common mean, and two features of mean 40 and 118, as hidden states of language models do. The error is
against float64. The package is pytorch-cka (`pip install pytorch-cka`), the fastest that was found; it is left out when
not installed. Prints the best of three runs of each, taken in turns, since other work on the machine slows all alike.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from analysis.cka import cka_all_pairs, cka_both


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
    """Name -> function of nothing that gives debiased CKA `[L, L]`."""
    jxs, jys = jnp.asarray(xs), jnp.asarray(ys)
    out = {
        "lorajax": lambda: cka_all_pairs(jxs, jys).block_until_ready(),
        "lorajax, both estimators": lambda: jax.block_until_ready(cka_both(jxs, jys)).debiased,
        "NumPy float32": lambda: numpy_cka(xs, ys, np.float32),
    }
    try:
        import torch
        from cka import cka_from_features
    except ImportError:
        print("pytorch-cka is not installed: left out")
        return out
    txs, tys = torch.from_numpy(xs), torch.from_numpy(ys)
    return out | {"pytorch-cka": lambda: cka_from_features(txs, tys).numpy()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--width", type=int, default=2048)
    args = parser.parse_args()
    xs, ys = (hidden_states(args.layers, args.examples, args.width, seed) for seed in (1, 2))
    print(f"{args.layers} x {args.layers} layers, n={args.examples}, d={args.width}; jax {jax.__version__} on", end=" ")
    print(
        f"{jax.devices()[0].device_kind}, numpy {np.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )

    runs = contestants(xs, ys)
    times = {name: [] for name in runs}
    values = {}
    start = time.perf_counter()
    runs["lorajax"]()
    print(f"first call of lorajax, with compilation: {time.perf_counter() - start:.2f} s")
    for _ in range(3):
        for name, run in runs.items():
            start = time.perf_counter()
            values[name] = np.asarray(run())
            times[name].append(time.perf_counter() - start)
    exact = numpy_cka(xs, ys, np.float64)
    print(f"{'':28}{'seconds':>8}{'/ lorajax':>11}{'max error':>11}")
    for name in runs:
        best, error = min(times[name]), np.abs(values[name] - exact).max()
        print(f"{name:28}{best:8.2f}{best / min(times['lorajax']):11.2f}{error:11.1e}")


if __name__ == "__main__":
    main()
