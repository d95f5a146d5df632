"""Distances between tasks to test with."""

import numpy as np


def distances(*shape, n=6, seed=0):
    """`[*shape, n, n]`, uniform between 1 and 2."""
    x = np.triu(np.random.default_rng(seed).uniform(1, 2, (*shape, n, n)), 1)
    return x + np.swapaxes(x, -1, -2)


def without(T, task, place=...):
    """T, with a task missing in these places (an index of the leading axes)."""
    T = T.copy()
    T[place][..., task, :] = T[place][..., task] = np.nan
    return T


def spaces(tasks, places, d, r=4, groups=None, shared=0, seed=0):
    """Bases `[tasks, places, d, r]`, of which those of one group share so many directions."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tasks, places, d, r)).astype(np.float32)
    if shared:
        x[..., :shared] = rng.standard_normal((max(groups) + 1, places, d, shared))[groups]
    return np.linalg.qr(x)[0]


def placed(labels, rng, between=1.0, dims=3, pair_noise=0.0, far_off=0.0):
    """Distances of tasks at random around the centres of their clusters, which are the same for all `rng`."""
    x = between * np.random.default_rng(5).standard_normal((4, dims))[labels] + rng.standard_normal((len(labels), dims))
    noise = np.triu(pair_noise * rng.standard_normal((len(labels),) * 2), 1)
    alone = far_off * rng.exponential(size=len(labels))
    D = np.linalg.norm(x[:, None] - x, axis=-1) + alone[:, None] + alone + noise + noise.T
    return np.where(np.eye(len(labels)), 0, D + 10 * (pair_noise > 0))
