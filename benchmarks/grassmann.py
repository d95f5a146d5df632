"""Grassmann distances and projections of all pairs of adapters: how long they take, against SciPy pair by pair.

    python benchmarks/grassmann.py [--quick] [--adapters 60] [--layers 32] [--width 4096] [--rank 8]

Adapters are random factors of q_proj and v_proj, both `width` x `width`, in memory, as arrays of JAX for us, NumPy for
SciPy; how long it takes to make the former from the latter is printed. SciPy's `subspace_angles` gets a sample of the
pairs, spread over the run, and its time is for as many as ours: the columns of two factors B. The first row is from the
same, bases included; all others are from both factors to all distances of the updates B A, decompositions included;
once more for half as many adapters, which are a quarter of the pairs. Ours are compiled before, and medians of three.
Also printed are the largest memory of the process, and the decomposition of one update from its factors against the
dense one (--dense: it takes half a minute).
"""

import argparse
import os
import resource
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from analysis.grassmann import grassmann_all_pairs
from analysis.low_rank import orthonormal_basis, thin_svd
from analysis.projection import projection_all_pairs
from analysis.update_similarity import cosine, l2


def factors(adapters, layers, width, rank, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((adapters, layers, width, rank), dtype=np.float32)


def seconds(run):
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def compare(B, A, measure):
    """All pairs in all places: thin SVDs of the updates, then the measure."""
    return measure(thin_svd(B, A))


def grassmann(updates):
    return grassmann_all_pairs(updates.u, updates.rank, variant="sum")


def columns_alone(B, A):
    """What SciPy compares: the column spaces of factors B."""
    return grassmann_all_pairs(*orthonormal_basis(B), variant="sum")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 layers, and 40 pairs for SciPy")
    parser.add_argument("--adapters", type=int, default=60)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dense", action="store_true", help="also the SVD of a dense update")
    args = parser.parse_args()
    layers, sample = (8, 40) if args.quick else (args.layers, 200)
    N, places = args.adapters, 2 * layers
    pairs = N * (N - 1) // 2 * places
    machine = f"jax {jax.__version__} on {jax.default_backend()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{N} adapters, {places} weights of {args.width} x {args.width}, r = {args.rank}: {pairs} pairs; {machine}")

    B = [factors(N, layers, args.width, args.rank, seed) for seed in (0, 1)]
    A = [np.swapaxes(factors(N, layers, args.width, args.rank, seed), 2, 3) for seed in (2, 3)]
    rng = np.random.default_rng(9)
    columns = [b[:, :4].copy() for b in B]  # what SciPy draws its pairs from; all layers once more would be a GB

    def scipy_pair():
        module, layer, (i, j) = rng.integers(2), rng.integers(columns[0].shape[1]), rng.choice(N, 2, replace=False)
        return scipy.linalg.subspace_angles(columns[module][i, layer], columns[module][j, layer])

    copied, (B, A) = seconds(lambda: jax.tree.map(jnp.asarray, (B, A)))

    columns_alone(B[0], A[0])  # compiled, and half of SciPy's sample
    for measure in (grassmann, cosine, l2, projection_all_pairs):
        compare(B[0], A[0], measure)
        compare(B[0][: N // 2], A[0][: N // 2], measure)
    first, _ = seconds(lambda: [scipy_pair() for _ in range(sample // 2)])
    print("                                        seconds   microseconds a pair")
    print(f"all factors, from NumPy to JAX         {copied:10.2f} {1e6 * copied / pairs:12.1f}")
    times = {}
    for name, measure in (
        ("columns of B", columns_alone),
        ("grassmann", partial(compare, measure=grassmann)),
        ("cosine", partial(compare, measure=cosine)),
        ("l2", partial(compare, measure=l2)),
        ("projection", partial(compare, measure=projection_all_pairs)),
    ):
        runs = [seconds(lambda measure=measure: [measure(b, a) for b, a in zip(B, A, strict=True)]) for _ in range(3)]
        spent, results = sorted(runs, key=lambda run: run[0])[1]
        times[name] = spent
        print(f"lorajax, {name:12} all pairs        {spent:10.2f} {1e6 * spent / pairs:12.1f}", flush=True)
        if name == "grassmann":
            kept = np.asarray(results[0])
    half, _ = seconds(lambda: [compare(b[: N // 2], a[: N // 2], grassmann) for b, a in zip(B, A, strict=True)])
    fewer = (N // 2) * (N // 2 - 1) // 2 * places
    print(f"lorajax, grassmann, {N // 2} adapters     {half:13.2f} {1e6 * half / fewer:12.1f}")
    second, _ = seconds(lambda: [scipy_pair() for _ in range(sample - sample // 2)])
    each = (first + second) / sample
    print(f"SciPy, from {sample} pairs             {each * pairs:13.0f} {1e6 * each:12.1f}")
    alone, whole = (each * pairs / times[name] for name in ("columns of B", "grassmann"))
    print(f"SciPy takes {alone:.0f} times as long for the columns of B; as ours for the updates, {whole:.0f} times")
    expected = scipy.linalg.subspace_angles(columns[0][0, 0], columns[0][1, 0]).sum()
    print(f"first pair: {kept[0, 0, 1]:.6f}, SciPy {expected:.6f}")
    print(f"largest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")

    one = (B[0][:1, :1], A[0][:1, :1])
    thin_svd(*one)
    spent = min(seconds(lambda: thin_svd(*one))[0] for _ in range(20))
    print(f"SVD of one update from its factors: {1e3 * spent:.2f} ms")
    if args.dense:
        dense, _ = seconds(lambda: np.linalg.svd(one[0][0, 0] @ one[1][0, 0]))
        print(f"dense, NumPy: {dense:.1f} s")


if __name__ == "__main__":
    main()
