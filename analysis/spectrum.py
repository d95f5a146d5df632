"""Spectra of layers: how much variance lies in how many directions, and what is read from it, per layer.

With the features of n examples centred, X `[n, d]`, the eigenvalues λ_i = σ_i²/(n-1) of their covariance say how the
variance is spread. `spectrum` computes them, `analysis.moments` does for any number of examples, the rest reads them:

``dimensions_for_variance``  min k: Σ_{i≤k} λ_i >= share · Σ λ_i                          1 .. rank
``participation_ratio``      (Σ λ)² / Σ λ²                                                1 .. rank
``effective_rank``           exp H(p), p_i = σ_i / Σ σ                                    1 .. rank
``rankme``                   the same of features that are not centred                    1 .. rank
``matrix_entropy``           log(Σ p_i^α) / (1 - α), p_i = λ_i / Σ λ; α = 1: H(p)         0 .. log rank

H(p) = -Σ p log p in nats, 0 log 0 = 0. All but `rankme` do not change under a rotation, reflection or shift of the
features, one scale factor, or an order of the examples; all do under a linear map or a scale per feature. `rankme`, and
any of them with `centre=False`, changes under a shift: a large mean is one large σ, and hides all else.

**They grow with n**, as long as n is not far above the number of directions: compare layers at one n. Centred, none
exceeds n-1.

NaN is 0/0: constant features have no variance to share out. No epsilon is added anywhere, RankMe's 1e-7 in p neither.

Accuracy. σ comes from the SVD of the features, not from a covariance: squaring in float32 leaves of each λ only what
exceeds 1e-6 of the largest, so a σ below 1e-3 of the largest is lost. Variance shares and the participation ratio do
not notice; `effective_rank` and entropies of α < 1, which live off the tail, do. ``method="gram"`` squares (the Gram or
the covariance, whichever is smaller): for accelerators, where an SVD is slow. So does `analysis.moments`.

Squares limit the range too: features beyond 1e19 or below 1e-19 overflow or vanish in float32. Scale them.

Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
Garrido, Balestriero, Najman & LeCun, "RankMe: assessing the downstream performance of pretrained self-supervised
representations by their rank", ICML 2023.
Skean et al., "Layer by layer: uncovering hidden representations in language models", ICML 2025 (matrix entropy; their
states are not centred, each scaled to length one: ``spectrum(xs, centre=False, unit_rows=True)``).
Giraldo, Rao & Príncipe, "Measures of entropy from data using infinitely divisible kernels", IEEE Trans. IT 61, 2015.
Chan, Golub & LeVeque, "Algorithms for computing the sample variance", American Statistician 37, 1983.
"""

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, check_choice, prepare
from analysis.gram import centred_rows, centring, product
from analysis.rows import check_finite, compute_dtype, narrow, settle

__all__ = ["Method", "Summary", "curvature", "dimensions_for_variance", "directions_for", "effective_rank"]
__all__ += ["eigenvalues_of", "matrix_entropy", "participation_ratio", "rankme", "spectrum", "summary"]

Method = Literal["svd", "gram"]


class Summary(NamedTuple):
    """Numbers of each layer, `[L]`; all but the first do not depend on the scale of the features."""

    variance: jax.Array
    """Σ λ, the variance of all features together."""
    largest_share: jax.Array
    """λ_1 / Σ λ: near 1 if one direction outweighs all others, as massive activations do."""
    dimensions: jax.Array
    """`dimensions_for_variance`."""
    participation_ratio: jax.Array
    effective_rank: jax.Array
    """From σ; RankMe if not centred."""
    matrix_entropy: jax.Array
    """In nats."""


def spectrum(
    xs: Layers,
    *,
    centre: bool = True,
    unit_rows: bool = False,
    method: Method = "svd",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Eigenvalues of the covariance of each layer of xs `[L, n, d]` -> `[L, min(n, d)]`, descending.

    float32, or float64 if given. Layers of different widths may come as a list.

    Args:
        centre: False: of the second moments Xᵀ X / n, without centring (centred: divided by n-1).
        unit_rows: scale each row to length one first (before centring), so that all examples weigh the same. A row of
            zeros has no direction: its layer is NaN.
        method: "gram" if speed outweighs the tail, see the module docstring; there, eigenvalues below 8 eps of the
            largest are rounding and set to 0.
        mask: bool `[n]`; only the examples where it is True. The others leave zeros at the end.

    Raises:
        ValueError: shapes, n < 2 (centred), or a row that is not finite.
    """
    check_choice("method", method, get_args(Method))
    x, keep = prepare({"xs": xs}, mask, least={"a covariance": 2} if centre else None)
    check_finite({"xs": x}, keep)
    return settle(_spectrum(x, keep, centre, unit_rows, method, compute_dtype(x)))


def summary(
    xs: Layers,
    *,
    share: float = 0.99,
    alpha: float = 1.0,
    centre: bool = True,
    unit_rows: bool = False,
    method: Method = "svd",
    mask: ArrayLike | None = None,
) -> Summary:
    """All numbers of each layer of xs `[L, n, d]` from one decomposition.

    Arguments, dtypes and errors as of `spectrum`, `dimensions_for_variance` (share) and `matrix_entropy` (alpha).
    """
    values = spectrum(xs, centre=centre, unit_rows=unit_rows, method=method, mask=mask)
    total = values.sum(-1)
    return Summary(
        variance=total,
        largest_share=_shares(values)[..., 0],
        dimensions=dimensions_for_variance(values, share),
        participation_ratio=participation_ratio(values),
        effective_rank=effective_rank(values),
        matrix_entropy=matrix_entropy(values, alpha=alpha),
    )


# --- reading eigenvalues ----------------------------------------------------------------------------------------------


def dimensions_for_variance(eigenvalues: ArrayLike, share: float = 0.99) -> jax.Array:
    """eigenvalues `[..., k]` -> fewest directions that hold this share of the variance `[...]`, whole floats.

    At a tie the fewer: a share is reached also if rounding (4 eps) leaves it short. NaN without variance.

    Zhao, Ziser & Cohen (EMNLP 2024) count so with 0.99. Of eigenvalues, σ²: shares of Σσ, as in some SVCCA code, need
    more directions.

    Raises:
        ValueError: share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    values = jnp.asarray(eigenvalues)
    return jnp.where(jnp.isnan(_shares(values)[..., 0]), jnp.nan, directions_for(values, share).astype(values.dtype))


def directions_for(eigenvalues: jax.Array, share: ArrayLike) -> jax.Array:
    """`dimensions_for_variance` as int, 0 without variance, of a share that need not be known yet."""
    p = _shares(eigenvalues)
    rest = jnp.flip(jnp.cumsum(jnp.flip(p, -1), -1), -1)  # small ones first: what is left before direction k
    return (rest > (1 - share) + 4 * jnp.finfo(p.dtype).eps).sum(-1)


def participation_ratio(eigenvalues: ArrayLike) -> jax.Array:
    """eigenvalues `[..., k]` -> (Σλ)²/Σλ² `[...]`: k if all are equal, 1 if there is one."""
    return 1 / (_shares(eigenvalues) ** 2).sum(-1)


def effective_rank(eigenvalues: ArrayLike, *, squared: bool = False) -> jax.Array:
    """eigenvalues `[..., k]` -> exp of the entropy of their roots' shares `[...]` (Roy & Vetterli 2007).

    Args:
        squared: of the eigenvalues themselves (σ²), as some code has it: smaller, and exp of `matrix_entropy`.
    """
    values = jnp.asarray(eigenvalues)
    return jnp.exp(_entropy(_shares(values if squared else jnp.sqrt(values))))


def rankme(xs: Layers, *, mask: ArrayLike | None = None) -> jax.Array:
    """RankMe of each layer of xs `[L, n, d]` -> `[L]`: `effective_rank` of features as they are, not centred.

    mask, dtypes and errors are those of `spectrum`.
    """
    return effective_rank(spectrum(xs, centre=False, mask=mask))


def matrix_entropy(eigenvalues: ArrayLike, *, alpha: float = 1.0, out_of: ArrayLike | None = None) -> jax.Array:
    """eigenvalues `[..., k]` -> Rényi entropy of order alpha of their shares `[...]`, in nats.

    Args:
        alpha: above 0; 1 is Shannon's (von Neumann's), 2 is the log of the participation ratio, inf is -log of the
            largest share. The larger, the less the tail counts.
        out_of: divide by the log of this: min(n, d) makes the largest possible value 1; n or d are in use too.

    Raises:
        ValueError: alpha is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    p = _shares(eigenvalues)
    if alpha == 1:
        entropy = _entropy(p)
    elif alpha == float("inf"):
        entropy = -jnp.log(p.max(-1))
    else:
        largest = p.max(-1, keepdims=True)  # p^α of a small p vanishes, and the log is taken of the sum
        entropy = (jnp.log(((p / largest) ** alpha).sum(-1)) + alpha * jnp.log(largest[..., 0])) / (1 - alpha)
    return entropy if out_of is None else entropy / jnp.log(jnp.asarray(out_of, p.dtype))


def _shares(values):
    """values `[..., k]` in descending order, divided by their sum. NaN for 0/0."""
    values = jnp.flip(jnp.sort(jnp.asarray(values), -1), -1)
    values = values / values[..., :1]  # the sum of large ones may overflow, that of small ones vanish
    return values / values.sum(-1, keepdims=True)


def _entropy(p):
    return -(p * jnp.log(jnp.where(p > 0, p, 1))).sum(-1)


# --- eigenvalues ------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("centre", "unit_rows", "method", "dtype"))
def _spectrum(xs, keep, centre, unit_rows, method, dtype):
    n = keep.sum().astype(dtype)

    def layer(x):
        x = jnp.where(keep[:, None], x.astype(dtype), 0)
        if unit_rows:
            x = x / jnp.where(keep, jnp.abs(x).max(1), 1)[:, None]
            x = x / jnp.where(keep, jnp.linalg.norm(x, axis=1), 1)[:, None]
        if centre:
            by = centring(x, keep, n)
            x, size = centred_rows(x, keep, by), by.size
        else:
            size = jnp.abs(x).max()
            x = x * (1 / jnp.where(size > 0, size, 1))
        if method == "svd":
            values = jnp.linalg.svd(narrow(x), compute_uv=False) ** 2
        else:
            small = x if x.shape[0] <= x.shape[1] else x.T
            values = eigenvalues_of(product(small, small))
        # A layer that is not finite, known only under jit, is missing.
        return jnp.where(jnp.isfinite(size), values, jnp.nan) * (size / (n - 1 if centre else n)) * size

    return lax.map(layer, xs)


def eigenvalues_of(moments: jax.Array) -> jax.Array:
    """Symmetric positive `[k, k]` -> its eigenvalues, descending; 0 where there is but the rounding of the largest."""
    values = jnp.flip(jnp.linalg.eigvalsh(moments))
    return jnp.where(values > _ROUNDING * jnp.finfo(values.dtype).eps * values[0], values, 0 * values[0])


_ROUNDING = 8  # measured: 3


# --- along a sequence -------------------------------------------------------------------------------------------------


def curvature(states: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Mean angle between successive steps of a sequence of states `[..., T, d]` -> `[...]`, radians in [0, π].

    With steps v_t = h_{t+1} - h_t, the mean over t of the angle between v_t and v_{t+1}: 0 is a straight line, π/2 the
    expected value of steps that have nothing to do with each other, and independent *states* give 2π/3, since two
    steps share one. Unchanged by rotation, reflection, shift and one scale factor, and by reversing the sequence.
    Public code differs: one version takes the angle between states, another |cos|, which is never above π/2.

    To be used where states are: inside jit, scan and vmap (a layer scan need not keep the states of all layers).
    Accurate for small angles too. Half precision is computed in float32.

    Args:
        mask: bool `[..., T]`, True for tokens that count; leading axes may be left out. A step needs two such tokens in
            a row, an angle three.

    Raises:
        ValueError: states have fewer than two axes, or the mask is not bool or not of their shape.

    NaN, as 0/0, with fewer than three tokens in a row; if two successive states are equal (a repeated token in the
    embedding layer), where a step has no direction; and for states that are not finite.

    Hénaff, Goris & Simoncelli, "Perceptual straightening of natural videos", Nature Neuroscience 22, 2019.
    Skean et al. 2025, as above.
    """
    states = jnp.asarray(states)
    states = states.astype(jnp.promote_types(states.dtype, jnp.float32))
    keep = jnp.asarray(True if mask is None else mask)
    if states.ndim < 2 or keep.dtype != bool or keep.shape != states.shape[:-1][states.ndim - 1 - keep.ndim :]:
        raise ValueError(
            f"expected states [..., T, d] and a bool mask [..., T], got {states.shape} and {keep.dtype} {keep.shape}"
        )
    keep = jnp.broadcast_to(keep, states.shape[:-1])
    steps = jnp.where((keep[..., 1:] & keep[..., :-1])[..., None], states[..., 1:, :] - states[..., :-1, :], 1)
    steps = steps / jnp.abs(steps).max(-1, keepdims=True)
    steps = steps / jnp.linalg.norm(steps, axis=-1, keepdims=True)
    a, b = steps[..., :-1, :], steps[..., 1:, :]
    # Not arccos(a·b), which loses half of the digits near 0 and π.
    angle = 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=-1), jnp.linalg.norm(a + b, axis=-1))
    valid = keep[..., 2:] & keep[..., 1:-1] & keep[..., :-2]
    return jnp.where(valid, angle, 0).sum(-1) / valid.sum(-1)
