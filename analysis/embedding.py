"""Maps of one layer: points of hidden-state space on two axes, with the settings that made them.

A map persuades whether or not there is anything to see: `analysis.clusters` has the numbers.

van der Maaten & Hinton, "Visualizing data using t-SNE", JMLR 9, 2008.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from analysis.arrays import as_jax, check_choice, prepare

__all__ = ["Embedding", "EmbeddingSettings", "centred_layers", "embed"]


@dataclass(frozen=True)
class EmbeddingSettings:
    """What makes a map again. None: the method has no such setting."""

    method: str
    pca_dims: int | None = None  # t-SNE sees this many principal components
    perplexity: float | None = None
    init: str | None = None
    seed: int | None = None
    iterations: int | None = None
    sklearn: str | None = None  # version


class Embedding(NamedTuple):
    """A map of one layer, how much it loses, and what makes it again."""

    points: np.ndarray  # `[n, 2]`, float64
    loss: float  # pca: share of the variance that both axes leave out. tsne: Kullback-Leibler divergence in nats
    settings: EmbeddingSettings


def embed(
    points: ArrayLike,
    method: Literal["pca", "tsne"] = "pca",
    *,
    perplexity: float | None = None,
    pca_dims: int = 50,
    iterations: int = 1000,
    seed: int = 0,
) -> Embedding:
    """points `[n, d]` -> map `[n, 2]`, float64, by one method. An axis of "pca" points to its largest coordinate.

    "tsne" is scikit-learn's, on the first `pca_dims` principal components, started from two of them, in one thread: the
    same seed, versions and kind of processor give the same map to the last bit, on any number of cores.

    Args:
        perplexity: t-SNE looks at 3 · perplexity neighbours, so at most (n - 1) / 3. None: 30, or that if it is less.
        pca_dims: at least 2. Fewer are taken where the points have fewer.
        iterations: of t-SNE's descent. seed: of what scikit-learn draws.

    Raises:
        ValueError: points are not `[n, d]`; no such method; perplexity does not go with n; pca_dims < 2; a row is not
            finite; all points are equal.
    """
    check_choice("method", method, ("pca", "tsne"))
    points = as_jax("points", points)
    if points.ndim != 2:
        raise ValueError(f"points must be [points, features], got shape {points.shape}")
    [x] = centred_layers("points", *prepare({"points": points[None]}))
    if not x.any():
        raise ValueError(f"all {len(x)} points are equal: there is nothing to map")
    if method == "pca":
        axes, share = _principal_components(x, 2)
        return Embedding(axes, float(1 - share.sum()), EmbeddingSettings("pca"))
    most = (len(x) - 1) / 3
    perplexity = min(30.0, most) if perplexity is None else float(perplexity)
    if not 1 <= perplexity <= most:
        raise ValueError(f"perplexity must be in [1, (n - 1) / 3 = {most:.4g}] for n = {len(x)}, got {perplexity:.4g}")
    if pca_dims < 2:
        raise ValueError(f"pca_dims must be at least 2, got {pca_dims}")
    import sklearn
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    tsne = TSNE(perplexity=perplexity, init="pca", max_iter=iterations, random_state=seed)
    with threadpool_limits(1):  # threads add up in any order, and t-SNE blows up the last bit
        start, _ = _principal_components(x, pca_dims)
        axes = tsne.fit_transform(start / np.abs(start).max()).astype(np.float64)
    settings = EmbeddingSettings("tsne", start.shape[1], perplexity, "pca", seed, iterations, sklearn.__version__)
    return Embedding(axes, float(tsne.kl_divergence_), settings)


def _principal_components(x: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Centred x `[n, d]` -> coordinates `[n, dims]`, of which fewer, but two, where x has fewer; shares of variance."""
    n, d = x.shape
    square, vectors = np.linalg.eigh(x @ x.T if n < d else x.T @ x)
    square, vectors = square[::-1][:dims].clip(0), vectors[:, ::-1][:, :dims]
    axes = vectors * np.sqrt(square) if n < d else x @ vectors
    axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)
    return np.pad(axes, ((0, 0), (0, max(0, 2 - axes.shape[1])))), square / (x * x).sum()


def centred_layers(name: str, layers, keep) -> Iterator[np.ndarray]:
    """The rows kept of each layer, float64, centred."""
    keep = np.asarray(keep)
    for index, layer in enumerate(layers):
        x = np.asarray(layer).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(x).all(1) & keep)
        if len(bad):
            raise ValueError(f"{name}: layer {index}, row {bad[0]} is not finite ({len(bad)} such rows)")
        x = x[keep] - x[keep][:1]  # equal points become exactly 0
        yield x - x.mean(0)
