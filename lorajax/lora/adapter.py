"""LoRA (Hu et al., 2021, arXiv 2106.09685) as plain data: a set of N adapters is a dict of stacked factors.

    adapter = {"self_attn.q_proj": Lora(a [layers, N, in, r], b [layers, N, r, out], scale [layers, N]), ...}

The update of adapter n in layer l is `scale[l, n] * a[l, n] @ b[l, n]`, added to the frozen kernel `[in, out]`. Keys
are the module's path inside a block, as in the checkpoint. Everything downstream is a function of this tree: the model
applies it, `jax.grad` differentiates its factors, optax updates them, PEFT files hold them, `analysis` measures them.

* One adapter is N = 1. `stack` joins sets along N, `take` picks from one.
* For an encoder there may be one entry more, `HEAD`, which reads classes off it: see `lorajax.lora.head`.
* A rank below the set's largest is padded with zero columns of `a` and zero rows of `b`: they get zero gradients and
  stay zero. A layer that is not adapted has scale 0.
* `split` parts what is trained (factors, heads) from what is not (scales, classes); `join` is its inverse.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from lorajax.data.classes import Classes
from lorajax.errors import LorajaxError
from lorajax.lora.head import HEAD, Head, init_head, stack_heads
from lorajax.lora.targets import linear_shapes, target_layers
from lorajax.models.products import product
from lorajax.models.roberta_config import RobertaConfig
from lorajax.models.tables import Config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lora:
    """The low-rank updates of one module: a `[layers, N, in, r]`, b `[layers, N, r, out]`, scale `[layers, N]`.

    Inside a block the layer axis is gone. `dropout` holds a key per layer and adapter while training with dropout.
    """

    a: Array
    b: Array
    scale: Array
    dropout: Dropout | None = None

    def delta(self, x: Array) -> Array:
        """The update's part of the output, for one layer: x `[N, B, T, in]` to `[N, B, T, out]`, in x's dtype."""
        if self.dropout is not None:
            x = self.dropout(x)
        N, B, T, _ = x.shape
        a, b = self.a.astype(x.dtype), self.b.astype(x.dtype)
        return _low_rank(x.reshape(N, B * T, -1), a, b, self.scale).reshape(N, B, T, -1)


@jax.custom_vjp
def _low_rank(x: Array, a: Array, b: Array, scale: Array) -> Array:
    """`scale * x @ a @ b` for rows x `[N, T, in]`, a `[N, in, r]`, b `[N, r, out]`, scale `[N]`."""
    return _low_rank_forward(x, a, b, scale)[0]


def _low_rank_forward(x: Array, a: Array, b: Array, scale: Array):
    down = checkpoint_name(product("nti,nir->ntr", x, a), "product")
    return product("ntr,nro->nto", _scaled(down, scale), b), (x, a, b, scale, down)


def _low_rank_backward(saved, dy: Array):
    # Written out so that x and dy, the large operands, stay in the layout they have: what is transposed is [T, r].
    # Left to the transposition rule, dy is copied to [out, T] for every product with `down`.
    x, a, b, scale, down = saved
    up = product("nto,nro->ntr", dy, b)
    scaled = _scaled(up, scale)
    dx = product("ntr,nir->nti", scaled, a)
    da = jnp.swapaxes(product("ntr,nti->nri", scaled, x), 1, 2)
    db = product("ntr,nto->nro", _scaled(down, scale), dy)
    return dx, da, db, jnp.sum((up * down).astype(jnp.float32), axis=(1, 2))


def _scaled(x: Array, scale: Array) -> Array:
    # In float32: 16 / 3 in 16 bit is another scale than the one in the adapter's file.
    return (x * scale[:, None, None]).astype(x.dtype)


_low_rank.defvjp(_low_rank_forward, _low_rank_backward)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Drops inputs of the updates with probability `rate`; `keys [layers, N]`, so adapters drop independently."""

    keys: Array
    rate: float = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        kept = jax.vmap(lambda key, row: jax.random.bernoulli(key, 1 - self.rate, row.shape))(self.keys, x)
        return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


Adapter = dict[str, Lora | Head]
Factors = dict[str, dict[str, Array]]
Scales = dict[str, Array | Classes]


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """What is adapted, and how strongly."""

    rank: int = 8
    """Rank r of every update."""
    alpha: float = 16.0
    """Updates are scaled by alpha / r (rsLoRA: alpha / sqrt(r))."""
    dropout: float = 0.0
    """Probability of dropping an input of the updates, in training only."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Module names, `all-linear`, or one regular expression over full names such as 'model.layers.0.mlp.up_proj'. Of an
    encoder, q_proj, k_proj and v_proj are query, key and value."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) (Kalajdzievski, 2023) instead of alpha / r."""
    init: Literal["shared", "independent"] = "shared"
    """A's initial values: `shared` by all adapters, as when separate runs use one seed, or `independent`."""

    def __post_init__(self):
        if self.rank < 1:
            raise LorajaxError(f"--rank must be at least 1, found {self.rank}")
        if not math.isfinite(self.alpha) or self.alpha == 0:
            raise LorajaxError(f"--alpha must be a number other than 0, found {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise LorajaxError(f"--dropout must be in [0, 1), found {self.dropout}")
        if self.init not in ("shared", "independent"):
            raise LorajaxError(f"--init must be 'shared' or 'independent', found {self.init!r}")

    @property
    def scale(self) -> float:
        """Factor on `a @ b`."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def init_adapter(
    config: Config,
    lora: LoraConfig,
    names: Sequence[str],
    *,
    seed: int = 0,
    classes: Classes | None = None,
) -> Adapter:
    """New adapters, one per name: A as PEFT draws it, U(-1/sqrt(in), 1/sqrt(in)) for every layer; B zero; float32.

    An adapter's values depend on (seed, its name, module, layer) alone, so it is the same in any set; with
    `lora.init == "shared"` they do not depend on the name either. With `classes`, each gets a head for them.

    Raises:
      LorajaxError: a target that matches nothing; `classes` for a decoder.
    """

    def draw(name: str, path: str, in_features: int) -> Array:
        key = jax.random.key(seed)
        for part in ("" if lora.init == "shared" else name, path):
            key = jax.random.fold_in(key, zlib.crc32(part.encode()))
        bound = in_features**-0.5
        shape = (config.num_layers, in_features, lora.rank)
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    shapes = linear_shapes(config)
    adapter: Adapter = {}
    for path, layers in target_layers(lora.targets, config).items():
        in_features, out_features = shapes[path]
        adapter[path] = Lora(
            a=jnp.stack([draw(name, path, in_features) for name in names], axis=1),
            b=jnp.zeros((config.num_layers, len(names), lora.rank, out_features), jnp.float32),
            scale=jnp.where(jnp.asarray(layers)[:, None], lora.scale, 0.0) * jnp.ones((1, len(names)), jnp.float32),
        )
    if classes is not None:
        if not isinstance(config, RobertaConfig):
            raise LorajaxError(f"a classification head is for an encoder; found {config.architecture}")
        std, shared = config.initializer_range, lora.init == "shared"
        adapter[HEAD] = init_head(config.hidden_size, classes, names, std=std, seed=seed, shared=shared)
    return adapter


def loras(adapter: Mapping[str, Lora | Head]) -> dict[str, Lora]:
    """The low-rank updates of the adapters, without their heads."""
    return {path: part for path, part in adapter.items() if isinstance(part, Lora)}


def head_of(adapter: Mapping[str, Lora | Head]) -> Head | None:
    """The heads of the adapters, if they have any."""
    head = adapter.get(HEAD)
    return head if isinstance(head, Head) else None


def with_classes(adapter: Adapter, classes: Classes | None) -> Adapter:
    """The adapters with heads for `classes` (`Head.with_classes`); as they are without heads, or where that is None."""
    head = head_of(adapter)
    return adapter if head is None or classes is None else {**adapter, HEAD: head.with_classes(classes)}


def size(adapter: Mapping[str, Lora | Head]) -> int:
    """N, the number of adapters in the set."""
    return jax.tree.leaves(adapter)[0].shape[1]


def take(adapter: Adapter, indices: Sequence[int]) -> Adapter:
    """The adapters at `indices`, in that order."""
    picked = np.asarray(indices)
    return jax.tree.map(lambda x: x[:, picked], adapter)


def stack(adapters: Sequence[Adapter]) -> Adapter:
    """One set of all the adapters, in order; modules missing in one are zero there, ranks are padded to the largest.

    Heads have all classes of any; where a head or a class is missing, its scores are 0.
    """
    adapted: dict[str, list[Lora]] = {}
    for adapter in adapters:
        for path, lora in loras(adapter).items():
            adapted.setdefault(path, []).append(lora)
    joined: Adapter = {}
    for path, found in adapted.items():
        layers, _, in_features, _ = found[0].a.shape
        rank, out_features = max(x.a.shape[-1] for x in found), found[0].b.shape[-1]
        parts = []
        for adapter in adapters:
            n = size(adapter)
            lora = loras(adapter).get(path) or Lora(
                jnp.zeros((layers, n, in_features, 0)), jnp.zeros((layers, n, 0, out_features)), jnp.zeros((layers, n))
            )
            pad = rank - lora.a.shape[-1]
            a = jnp.pad(lora.a, ((0, 0), (0, 0), (0, 0), (0, pad)))
            b = jnp.pad(lora.b, ((0, 0), (0, 0), (0, pad), (0, 0)))
            parts.append(Lora(a, b, lora.scale))
        joined[path] = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts)
    heads = [head_of(adapter) for adapter in adapters]
    if any(head is not None for head in heads):
        joined[HEAD] = stack_heads(heads, [size(adapter) for adapter in adapters])
    return joined


def zeros_like(adapter: Adapter) -> Adapter:
    """The set whose updates are all zero: the base model, in the shape of `adapter`. Its heads score all classes 0."""
    return jax.tree.map(jnp.zeros_like, adapter)


def split(adapter: Adapter) -> tuple[Factors, Scales]:
    """What is trained, and what is fixed: the factors and the scales of updates, weights and classes of heads."""
    factors: Factors = {path: {"a": x.a, "b": x.b} for path, x in loras(adapter).items()}
    scales: Scales = {path: x.scale for path, x in loras(adapter).items()}
    if (head := head_of(adapter)) is not None:
        fields = [field.name for field in dataclasses.fields(head) if field.name != "classes"]
        factors[HEAD], scales[HEAD] = {name: getattr(head, name) for name in fields}, head.classes
    return factors, scales


def join(factors: Factors, scales: Scales) -> Adapter:
    """Inverse of `split`."""

    def part(own: dict[str, Array], fixed: Any) -> Lora | Head:
        return Head(**own, classes=fixed) if isinstance(fixed, Classes) else Lora(own["a"], own["b"], fixed)

    return {path: part(own, scales[path]) for path, own in factors.items()}


def with_dropout(adapter: Adapter, rate: float, keys: Array) -> Adapter:
    """The same adapters, dropping inputs of updates in the coming call; `keys [N]`, one per adapter."""
    if rate == 0:
        return adapter

    def module(path: str, lora: Lora) -> Lora:
        layers = jnp.arange(lora.scale.shape[0])
        own = jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(path.encode())))(keys)
        per_layer = jax.vmap(lambda layer: jax.vmap(lambda key: jax.random.fold_in(key, layer))(own))(layers)
        return dataclasses.replace(lora, dropout=Dropout(per_layer, rate))

    return {**adapter, **{path: module(path, lora) for path, lora in loras(adapter).items()}}


def updates(adapter: Adapter) -> dict[str, Array]:
    """Dense updates `[layers, N, in, out]` in float32; for merging and tests, not for measures."""
    with jax.default_matmul_precision("highest"):
        return {p: jnp.einsum("lnir,lnro,ln->lnio", x.a, x.b, x.scale) for p, x in loras(adapter).items()}
