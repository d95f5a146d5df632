"""What measures of similarity do to the rows of layers before they differ: check, centre, compare, add up."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from analysis.arrays import Layers, prepare
from analysis.gram import centred_rows, centring, sum_rows

__all__ = ["Distance", "centred", "check_finite", "compared", "compute_dtype", "distances2", "frobenius", "inner"]
__all__ += ["narrow", "no_structure", "ragged", "settle", "sides"]

#: How two rows are compared; `distances2` says what is computed.
Distance = Literal["euclidean", "cosine", "correlation"]

# Einsum letters: l, m layers of xs and ys; b blocks; k entries of a block.


def sides(
    xs: Layers, ys: Layers, mask: ArrayLike | None, least: dict[str, int]
) -> tuple[jax.Array, jax.Array | None, Any]:
    """`prepare` for two sides -> x `[L1, n, d1]`, y `[L2, n, d2]` (None if `ys is xs`: compute it once), mask `[n]`.

    Raises:
        ValueError: as `prepare` and `check_finite`.
    """
    if xs is ys:
        x, keep = prepare({"xs": xs}, mask, least=least)
        check_finite({"xs": x}, keep)
        return x, None, keep
    x, y, keep = prepare({"xs": xs, "ys": ys}, mask, least=least)
    check_finite({"xs": x, "ys": y}, keep)
    return x, y, keep


def check_finite(arrays: dict[str, jax.Array], keep: ArrayLike) -> None:
    """Raises ValueError that names the first row that is kept and not finite. Not under jit, where values are unknown.

    A value too large for the dtype that jax holds it in is infinite there, and so not finite.
    """
    for name, x in arrays.items():
        if isinstance(x, jax.core.Tracer) or isinstance(keep, jax.core.Tracer):
            continue
        bad = np.asarray(_not_finite(x, keep))
        if bad.any():
            layer, row = np.argwhere(bad)[0]
            raise ValueError(f"{name}: layer {layer}, row {row} is not finite as {x.dtype} ({bad.sum()} such rows)")


@jax.jit
def _not_finite(x, keep):
    return keep & ~jnp.isfinite(x).all(-1)


def compute_dtype(*arrays: jax.Array | None) -> Any:
    """float32, or float64 if one of them is."""
    return jnp.promote_types(jnp.result_type(*(x for x in arrays if x is not None)), jnp.float32)


def settle(value: Any) -> Any:
    """value, computed: jax may read NumPy's and torch's memory in place, and the caller may write there next."""
    leaf = jax.tree.leaves(value)[0]
    return value if isinstance(leaf, jax.core.Tracer) else jax.block_until_ready(value)


def centred(x: jax.Array, keep: jax.Array, dtype: Any) -> jax.Array:
    """x `[n, d]` minus its mean over kept rows, times a constant that makes it about one. Dropped rows are 0."""
    x = x.astype(dtype)
    return centred_rows(x, keep, centring(x, keep, keep.sum().astype(dtype)))


def narrow(x: jax.Array) -> jax.Array:
    """x `[n, d]` -> `[n, min(n, d)]` with the same inner products of rows: rotated into the space that the rows span.

    So with the same singular values and left singular vectors; an SVD of it takes half the time for d = 2n.
    """
    return x if x.shape[0] >= x.shape[1] else jnp.linalg.qr(x.T, mode="r").T


def frobenius(x: jax.Array) -> jax.Array:
    """√Σ x² of a matrix, of which only rows are plain sums."""
    return jnp.sqrt(sum_rows((x * x).sum(1)))


def inner(us: jax.Array, vs: jax.Array, block: int = 4096) -> jax.Array:
    """us `[l, k]`, vs `[m, k]` -> inner products `[l, m]`. Blocks are plain sums, and are added with compensation."""
    block = min(block, us.shape[1])
    us, vs = (jnp.pad(u, ((0, 0), (0, -u.shape[1] % block))).reshape(len(u), -1, block) for u in (us, vs))
    return sum_rows(jnp.einsum("lbk,mbk->blm", us, vs, precision=lax.Precision.HIGHEST))


# --- distances --------------------------------------------------------------------------------------------------------


def compared(x: jax.Array, keep: jax.Array, distance: Distance, dtype: Any) -> jax.Array:
    """x `[n, d]` -> the rows between which `distances2` are taken; dropped rows are 0.

    NaN where a row has no direction: all zero ("cosine"), or the same value everywhere ("correlation").
    """
    x = jnp.where(keep[:, None], x.astype(dtype), 0)
    if distance == "euclidean":
        # A power of two: equal differences stay equal. Features of 1e-20 and 1e20 have squares then.
        size = jnp.abs(jnp.where(keep[:, None], x - x[jnp.argmax(keep)], 0)).max()
        exponent = jnp.clip(jnp.frexp(jnp.where(jnp.isfinite(size), size, 1))[1], -120, 120)
        return x * jnp.ldexp(jnp.ones((), dtype), -exponent)
    if distance == "correlation":
        one_value = (x == x[:, :1]).all(1, keepdims=True)
        x = x - x.mean(1, keepdims=True)
        x = jnp.where(one_value, 0, x - x.mean(1, keepdims=True))
    x = x / jnp.abs(x).max(1, keepdims=True)
    return jnp.where(keep[:, None], x / jnp.linalg.norm(x, axis=1, keepdims=True), 0)


def distances2(row: jax.Array, rows: jax.Array) -> jax.Array:
    """row `[d]` or rows `[n, d]`, and rows `[n, d]`, from `compared` -> `[n]`; order and ties are what counts.

    ============= =================================================
    "euclidean"   |x - y|², up to a constant of the layer
    "cosine"      |x/|x| - y/|y||² = 2(1 - cosine)
    "correlation" the same with each row minus its own mean: 2(1 - r)
    ============= =================================================

    Sums of squared differences, not |x|² + |y|² - 2x·y: that leaves rounding where rows are equal, and breaks ties.
    """
    return ((rows - row) ** 2).sum(1)


def no_structure(smallest: jax.Array, largest: jax.Array) -> jax.Array:
    """True if squared distances between these are equal to working precision, or one is NaN: nothing to compare."""
    return ~(largest - smallest > _ROUNDING * jnp.finfo(largest.dtype).eps * largest)


# Rows equally far apart, rotated and stored in float32 with an offset of ten times their size: 40 eps, at n = 1000.
_ROUNDING = 64


def ragged(side: Layers) -> bool:
    """Whether layers differ in width."""
    return isinstance(side, Sequence) and len({np.shape(layer)[-1:] for layer in side}) > 1
