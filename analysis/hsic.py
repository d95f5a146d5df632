"""Inner products of centred Gram matrices, ⟨A, B⟩, for all pairs of layers: in memory or streamed.

HSIC is such an inner product up to a factor, and CKA a cosine. Both ways give `Products` for both estimators.

* In memory: the Grams of all layers, half of each, then one product over all pairs of layers.
* Streamed: one tile of all layers at a time, for any number of examples. Devices may share the tiles.

Both use the same tiles, centring, and threshold for zero, and add up with compensation: one float32 sum over n²
products is off by 1e-5 when one example is 30 times larger than the others, and its entries outweigh the sum of all the
rest. So only rows are plain sums, and rows are added by Kahan's method.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from analysis.gram import centred_rows, centring, kahan, rows_of, tile_of, tile_pairs
from analysis.kernels import Kernel, gram_of, u_centred

__all__ = [
    "MIN_ROWS",
    "Estimator",
    "Plan",
    "Products",
    "Side",
    "all_pairs",
    "cosines",
    "devices_of",
    "placed",
    "plan",
]

Estimator = Literal["debiased", "biased"]
#: Fewest examples for which it is defined.
MIN_ROWS = {"debiased": 4, "biased": 2}

# Einsum letters: l, m layers of xs and ys; i, j examples.


class Products(NamedTuple):
    """Inner products of centred Grams: u of the layers of xs, v of those of ys. A length² is NaN where it is zero."""

    uv: jax.Array
    """`[L1, L2]`"""
    uu: jax.Array
    """`[L1]`"""
    vv: jax.Array
    """`[L2]`"""


class Side(NamedTuple):
    """What else is known of the layers of a side, `[L]`."""

    size: jax.Array
    """As in `Centring`: not finite where the layer is not."""
    trace: jax.Array
    """Of the doubly centred Gram."""


class Plan(NamedTuple):
    """How to go through the pairs of examples."""

    kernel: Kernel
    tile: int | None
    """Rows of a tile when streamed; None: the Grams are held in memory."""
    mesh: Mesh | None = None
    """Devices that share the tiles."""


#: Bytes of centred Grams that may be held in memory, and of the tiles of all layers when streamed.
GRAMS, TILES = 1_000_000_000, 256_000_000


def plan(
    kernel: Kernel, layers: int, n: int, itemsize: int, tile: int | None = None, devices: Sequence[Any] = ()
) -> Plan:
    """In memory if the Grams of so many layers fit and one device works; else the largest tiles that do."""
    many = len(devices) > 1
    if tile is None:
        # Half of every Gram, and what is made of one layer at a time.
        if not many and (layers + 4) * n * n * itemsize * 0.6 <= GRAMS:
            return Plan(kernel, None)
        tile = max(int((TILES / itemsize / layers) ** 0.5) // 128 * 128, 128)
        if many:  # at least four tiles for each
            tile = min(tile, max(-(-n // int(np.ceil((8 * len(devices)) ** 0.5))), 128))
    return Plan(kernel, min(tile, n), Mesh(np.array(devices), ("tiles",)) if many else None)


def devices_of(devices: Mesh | Sequence[jax.Device] | None, *sides: jax.Array | None) -> list[jax.Device]:
    """The devices named, or those that the sides live on."""
    if devices is not None:
        return list(devices.devices.flat if isinstance(devices, Mesh) else devices)
    concrete = [x for x in sides if x is not None and not isinstance(x, jax.core.Tracer)]
    return sorted(set().union(*(x.sharding.device_set for x in concrete)), key=lambda device: device.id)


def placed(how: Plan, *arrays: ArrayLike | None) -> tuple[Any, ...]:
    """The arrays, copied to all devices of the plan."""
    if how.mesh is None:
        return arrays
    everywhere = NamedSharding(how.mesh, PartitionSpec())
    return tuple(x if x is None else jax.device_put(x, everywhere) for x in arrays)


def all_pairs(x, y, keep, bandwidth, *, how: Plan, dtype):
    """x `[L1, n, d1]`, y `[L2, n, d2]` (None: x), keep bool `[n]` -> what compares all their layers.

    Returns:
        cosines `[L1, L2]` (debiased, biased), Products (debiased, biased), Sides (x, y).
    """
    if how.tile is not None:
        return _streamed(x, y, keep, bandwidth, how=how, dtype=dtype)
    us, x_gram, x_side = _grams(x, keep, bandwidth, how=how, dtype=dtype)
    if y is None:
        return *_in_memory(us, None, x_gram, x_gram, keep), [x_side, x_side]
    vs, y_gram, y_side = _grams(y, keep, bandwidth, how=how, dtype=dtype)  # one program for both, if of one shape
    return *_in_memory(us, vs, x_gram, y_gram, keep), [x_side, y_side]


@partial(jax.jit, static_argnames=("how", "dtype"))
def _grams(layers, keep, bandwidth, how, dtype):
    """`[L, n, d]` -> the U-centred tiles of each layer `[L, p * a, a]`, Grams, Side."""
    count, n = layers.shape[1], keep.sum().astype(dtype)
    # More pieces make fewer products below the diagonal, until they are too small to run at the full rate.
    size = -(-count // min(max(count // 160, 1), 6))
    pairs = tile_pairs(count, size)

    def layer(x):
        by = centring(x.astype(dtype), keep, n)
        pieces = {start: rows_of(x[None], keep, by, start, size) for start in range(0, count, size)}
        made = [tile_of(pieces[i], pieces[j]) for i, j in pairs.tolist()]
        length2 = jnp.zeros(count, dtype)
        for tile, (i, j) in zip(made, pairs, strict=True):
            if i == j:
                length2 = lax.dynamic_update_slice_in_dim(length2, jnp.diagonal(tile.product), tile.i, 0)
        tiles = jax.tree.map(lambda *tiles: jnp.stack(tiles), *made)

        def fold(step, zero):
            return lax.scan(lambda sums, tile: (step(sums, tile), None), zero, tiles)[0]

        gram = gram_of(fold, length2, keep, n, how.kernel, jnp.asarray(bandwidth, dtype))
        us = jax.vmap(lambda tile: u_centred(tile, gram, n, how.kernel))(tiles)
        return us.reshape(-1, size), gram, Side(by.size, gram.trace)

    return lax.map(layer, layers)  # one at a time: besides the Grams, only one layer's features are ever copied


@jax.jit
def _in_memory(us, vs, x_gram, y_gram, keep):
    sums = _add_inner(_no_sums(us, vs, us.dtype), us, vs)
    return _finish(sums, x_gram, y_gram, keep.sum().astype(us.dtype))


@partial(jax.jit, static_argnames=("how", "dtype"))
def _streamed(x, y, keep, bandwidth, how, dtype):
    pairs = jnp.asarray(tile_pairs(x.shape[1], how.tile))
    arguments = x, y, keep, keep.sum().astype(dtype), jnp.asarray(bandwidth, dtype)
    if how.mesh is None:
        return _over_tiles(pairs, *arguments, how=how)
    # As many for each device; the tiles that begin behind the last example are empty.
    pairs = jnp.pad(pairs, ((0, -len(pairs) % how.mesh.size), (0, 0)), constant_values=x.shape[1])
    share, whole = PartitionSpec("tiles"), PartitionSpec()
    spread = jax.shard_map(
        partial(_over_tiles, how=how),
        mesh=how.mesh,
        in_specs=(share, whole, whole, whole, whole, whole),
        out_specs=whole,
        check_vma=False,
    )
    return spread(pairs, *arguments)


def _over_tiles(pairs, x, y, keep, n, bandwidth, how):
    def everywhere(sums):
        return sums if how.mesh is None else lax.psum(sums, "tiles")

    def tile(layers, index, by, pair):
        return tile_of(*(rows_of(layers, keep, by, start, how.tile, index) for start in pair))

    def side(layers):
        def layer(index):
            features = layers[index].astype(n.dtype)
            by = centring(features, keep, n)
            length2 = (centred_rows(features, keep, by) ** 2).sum(1)

            def fold(step, zero):
                def add(sums, pair):
                    return step(sums, tile(layers, index, by, pair)), None

                return everywhere(lax.scan(add, zero, pairs)[0])

            gram = gram_of(fold, length2, keep, n, how.kernel, bandwidth)
            return by, gram, Side(by.size, gram.trace)

        return lax.map(layer, jnp.arange(len(layers)))

    def tiles(layers, bys, grams, pair):
        def layer(of):
            index, by, gram = of
            return u_centred(tile(layers, index, by, pair), gram, n, how.kernel)

        return lax.map(layer, (jnp.arange(len(layers)), bys, grams))

    def add(sums, pair):
        us = tiles(x, x_bys, x_grams, pair)
        return _add_inner(sums, us, None if y is None else tiles(y, y_bys, y_grams, pair)), None

    x_bys, x_grams, x_side = side(x)
    y_bys, y_grams, y_side = (x_bys, x_grams, x_side) if y is None else side(y)
    sums = everywhere(lax.scan(add, _no_sums(x, y, n.dtype), pairs)[0])
    return *_finish(sums, x_grams, y_grams, n), [x_side, y_side]


def _no_sums(x, y, dtype):
    """Compensated sums for ⟨u, v⟩ `[l, m]`, ⟨u, u⟩ `[l]`, ⟨v, v⟩ `[m]`; if y is x the first, which has the others."""
    shapes = [(len(x), len(x))] if y is None else [(len(x), len(y)), (len(x),), (len(y),)]
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for shape in shapes]


def _add_inner(sums, us, vs):
    """Compensated sums, us `[l, a, b]`, vs `[m, a, b]` (None: us) -> the sums with Σ_ij u_ij v_ij, added by rows."""
    rows, width = us.shape[1:]
    step = min(max(1024 // width, 1), rows)  # short rows are taken together

    def add(sums, i, step):
        u, v = (lax.dynamic_slice_in_dim(w, i, step, 1).reshape(len(w), -1) for w in (us, us if vs is None else vs))
        new = [jnp.einsum("lj,mj->lm", u, v, precision=lax.Precision.HIGHEST), (u**2).sum(1), (v**2).sum(1)]
        return [kahan(total, value) for total, value in zip(sums, new, strict=False)]

    whole = rows // step * step
    sums = lax.scan(lambda sums, i: (add(sums, i, step), None), sums, jnp.arange(0, whole, step))[0]
    return add(sums, whole, rows - whole) if whole < rows else sums


def _finish(sums, x_gram, y_gram, n):
    """Compensated sums over i < j -> cosines, Products (debiased, biased)."""

    def rows(gram):  # `[l, c, 256]`
        diagonal = gram.diagonal
        return jnp.pad(diagonal, ((0, 0), (0, -diagonal.shape[1] % 256))).reshape(len(diagonal), -1, 256)

    def products(values, x_zero, y_zero):
        uv, uu, vv = values if len(values) == 3 else (values[0], jnp.diag(values[0]), jnp.diag(values[0]))
        return Products(uv, jnp.where(uu > x_zero, uu, jnp.nan), jnp.where(vv > y_zero, vv, jnp.nan))

    diagonals = _add_inner(jax.tree.map(jnp.zeros_like, sums), rows(x_gram), None if len(sums) == 1 else rows(y_gram))
    t, u = x_gram.trace, y_gram.trace
    debiased = [2 * total for total, _ in sums]
    terms = zip(debiased, diagonals, (t[:, None] * u, t**2, u**2), strict=False)
    weight = n / jnp.where(n > 2, n - 2, jnp.inf)  # two examples have equal diagonals
    biased = [ab + weight * ce + tu / (n - 1) for ab, (ce, _), tu in terms]
    both = products(debiased, x_gram.zero, y_gram.zero), products(biased, 0, 0)
    return [cosines(one) for one in both], both


def cosines(products: Products) -> jax.Array:
    """Products of all pairs `[L1, L2]`, or of one pair -> cosines, NaN where a length is zero."""
    uv, uu, vv = products
    if uv.ndim == 2:
        uu = uu[:, None]
    valid = (uu > 0) & (vv > 0)
    # A value that `where` drops still has a gradient, which must not be NaN: hence two of them.
    length = jnp.sqrt(jnp.where(valid, uu, 1)) * jnp.sqrt(jnp.where(valid, vv, 1))
    return jnp.where(valid, uv / length, jnp.nan)
