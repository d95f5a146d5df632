"""Several LoRA adapters over one base model merged into one, as *updates* ΔW_i = scale_i · a_i b_i.

Factors are no coordinates of an update: (a G, G⁻¹ b) is the same one for every invertible G. So sums or means of a and
of b apart are no merge: they add the cross terms a_i b_j, and depend on G. All methods here are functions of the
updates, and the weights λ_i multiply these before anything else: weight -1 is the same as -b and weight 1.

* `linear`: Σ λ_i ΔW_i, task arithmetic (Ilharco et al., 2023, arXiv 2212.04089); a negative weight negates. `average`:
  the same with weights that sum to 1. From factors, joined side by side: exact, and the ranks add up.
* `ties` (Yadav et al., 2023, arXiv 2306.01708): of every update the entries of largest magnitude are kept, a share
  `density` of them; each entry's sign is that of the sum over adapters; the mean is taken over those that have it.
  With the same λ for all, this is λ times the merge of the paper, which trims by the whole `model`.
* `dare_linear`, `dare_ties` (Yu et al., 2024, arXiv 2311.03099): entries are dropped at random, with rate 1 - density,
  and the others divided by density; then the sum, or the election of signs and the mean.
* `knots` (Stoica et al., 2025, arXiv 2410.19735): with the updates `[out, in]` side by side = U S [V_1 ... V_n], it is
  `ties` on the entries of S V_i, in the basis U that all share. From factors: a QR of each, and an SVD as small as the
  sum of ranks, which is also the largest rank of the outcome.

Signs and magnitudes of entries are not to be had from factors, so `ties` and `dare` multiply them out: one module of
one layer at a time, one adapter after another. The outcome has no low rank and is cut by a truncated SVD, the best in
squared norm; `Merged` tells the share that this discards. After `dare` it is large: a random selection adds noise in
all directions, and the cut takes most of it away again.

All of it runs on the host in NumPy, decompositions in float64: merging is done once, and needs no accelerator.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import Adapter, Lora, LoraConfig, head_of, loras, size
from lorajax.lora.entries import Cut, Dense, Entries, Pair, Site, Tied, at_random, cut, largest, merge_entries

Method = Literal["average", "linear", "ties", "dare_linear", "dare_ties", "knots"]

#: Share of entries that is kept, unless --density says another: the one of the TIES paper.
DENSITY = 0.2


@dataclasses.dataclass(frozen=True)
class MergeConfig:
    """How adapters are merged."""

    method: Method = "linear"
    """`linear` sums updates, `average` averages them, `ties`, `dare_*` and `knots` resolve conflicts between them."""
    weights: tuple[float, ...] = ()
    """Factors on the updates, in the adapters' order: 1 each by default. `average` divides them by their sum."""
    rank: int | None = None
    """Rank of the outcome at most, cut by SVD; by default the sum of the adapters' ranks."""
    density: float | None = None
    """Share of entries kept, 0.2 by default: the largest (ties, knots), or at random (dare: 1 - the drop rate)."""
    trim: Literal["module", "model"] = "module"
    """Where ties and knots look for the largest entries: in each `module` of each layer, or in the whole `model`."""
    seed: int = 0
    """Of the entries that dare drops."""

    def __post_init__(self):
        if not all(map(math.isfinite, self.weights)):
            raise LorajaxError(f"--weights must be finite numbers, found {_numbers(self.weights)}")
        if self.rank is not None and self.rank < 1:
            raise LorajaxError(f"--rank must be at least 1, found {self.rank}")
        if self.density is not None and self.method in ("average", "linear"):
            raise LorajaxError(f"--density goes with ties, dare and knots; --method {self.method} keeps all entries")
        if self.density is not None and not 0 < self.density <= 1:
            raise LorajaxError(f"--density must be above 0 and at most 1, found {self.density}")
        if self.trim == "model" and self.method not in ("ties", "knots"):
            raise LorajaxError(f"--trim model goes with ties and knots; --method {self.method} trims nothing")
        if self.seed < 0:
            raise LorajaxError(f"--seed must be 0 or more, found {self.seed}")

    def factors(self, count: int) -> tuple[float, ...]:
        """The factor on the update of each of `count` adapters.

        Raises:
          LorajaxError: another number of weights; weights of an average that sum to 0.
        """
        weights = self.weights or (1.0,) * count
        if len(weights) != count:
            raise LorajaxError(f"--weights: {len(weights)} numbers for {count} adapters; expected one for each")
        if self.method != "average":
            return weights
        if not (total := math.fsum(weights)):
            raise LorajaxError(f"--weights {_numbers(weights)} sum to 0, and --method average divides by their sum")
        return tuple(weight / total for weight in weights)


@dataclasses.dataclass(frozen=True)
class Merged:
    """A merged adapter, and what the cut to its rank has cost."""

    adapter: dict[str, Lora]
    """A set of one; all its scales are 1, or 0 where a layer is not adapted."""
    lora: LoraConfig
    """Its largest rank, and an alpha that makes the scale 1: what `save_adapter` is to state."""
    norms: dict[str, np.ndarray]
    """Squared Frobenius norm of the merged update before the cut: float64 `[layers]` by module."""
    lost: dict[str, np.ndarray]
    """How much of it the cut has discarded: float64 `[layers]` by module."""

    def discarded(self, path: str | None = None) -> float:
        """Share of the squared norm that was discarded, in all layers of one module or of all; NaN of a zero update."""
        paths = list(self.norms) if path is None else [path]
        whole = math.fsum(float(self.norms[p].sum()) for p in paths)
        return math.fsum(float(self.lost[p].sum()) for p in paths) / whole if whole else math.nan


def merge_adapters(adapters: Sequence[Adapter], config: MergeConfig | None = None) -> Merged:
    """The adapters, each a set of one, merged into one.

    They may differ in ranks, scales, modules and layers: where one is not adapted, its update is zero. That counts as a
    zero in `average`, and takes no part in the means of `ties` and `knots`. A draw of signs elects none and gives 0.

    Raises:
      LorajaxError: no adapters, a set of several, shapes of different models, values that are not finite, a
        classification head, or weights that do not go with them.
    """
    config = MergeConfig() if config is None else config
    if any(head_of(adapter) is not None for adapter in adapters):
        raise LorajaxError("adapters with classification heads cannot be merged: a head is no sum of others")
    updates = [loras(adapter) for adapter in adapters]
    sites = _sites(updates, config.factors(len(adapters)))
    if config.method in ("average", "linear"):
        cuts = {site: cut(*_joined(pairs), config.rank) for site, pairs in sites.items()}
    else:
        kind = Tied if config.method == "knots" else Dense
        there: dict[Site, Entries] = {site: kind(own) for site, own in sites.items() if any(len(b) for _, b in own)}
        cuts = {site: cut(*_joined(own), None) for site, own in sites.items() if site not in there}
        density = DENSITY if config.density is None else config.density
        select = (
            at_random(density, config.seed)
            if config.method.startswith("dare")
            else largest(there, len(adapters), density, whole=config.trim == "model")
        )
        signed = config.method != "dare_linear"
        cuts |= merge_entries(there, len(adapters), select, signed=signed, rank=config.rank)
    return _assemble(cuts, next(iter(updates[0].values())).a.shape[0])


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _sites(adapters: Sequence[dict[str, Lora]], weights: Sequence[float]) -> dict[Site, list[Pair]]:
    """For each module of each layer that is adapted, every adapter's update with its scale and weight in b.

    Columns of a and rows of b that add nothing, such as padding, are left out; r is 0 where nothing is left.
    """
    if not adapters:
        raise LorajaxError("nothing to merge: name at least one adapter")
    shapes: dict[str, tuple[int, int, int]] = {}
    for n, adapter in enumerate(adapters, 1):
        if (members := size(adapter)) != 1:
            raise LorajaxError(f"adapter {n} is a set of {members}; expected one")
        for path, lora in adapter.items():
            own = (len(lora.scale), lora.a.shape[2], lora.b.shape[3])
            if shapes.setdefault(path, own) != own:
                raise LorajaxError(
                    f"adapter {n}: {path} has (layers, in, out) = {own}, and {shapes[path]} in the adapters before it"
                )
            if not all(np.isfinite(leaf).all() for leaf in (lora.a, lora.b, lora.scale)):
                raise LorajaxError(f"adapter {n}: {path} holds values that are not finite")
    if len({layers for layers, _, _ in shapes.values()}) > 1:
        raise LorajaxError("the adapters are of models with different numbers of layers")

    def pair(adapter: dict[str, Lora], weight: float, path: str, layer: int) -> Pair:
        if path not in adapter:
            return np.zeros((shapes[path][1], 0), np.float32), np.zeros((0, shapes[path][2]), np.float32)
        lora = adapter[path]
        a, b = np.asarray(lora.a[layer, 0], np.float32), np.asarray(lora.b[layer, 0], np.float32)
        b = b * np.float32(weight * float(lora.scale[layer, 0]))
        used = a.any(0) & b.any(1)
        return a[:, used], b[used]

    # One copy from the device for each module, not one for each layer.
    adapters = [jax.device_get(adapter) for adapter in adapters]
    return {
        (path, layer): [pair(adapter, weight, path, layer) for adapter, weight in zip(adapters, weights, strict=True)]
        for path, (layers, _, _) in shapes.items()
        for layer in range(layers)
        if any(path in adapter and adapter[path].scale[layer, 0] for adapter in adapters)
    }


def _joined(pairs: Sequence[Pair]) -> Pair:
    """The sum of updates as one: a side by side, b below each other."""
    return np.concatenate([a for a, _ in pairs], 1), np.concatenate([b for _, b in pairs], 0)


def _assemble(cuts: Mapping[Site, Cut], layers: int) -> Merged:
    """The adapter whose update at each site is the one cut there."""
    merged, norms, lost = {}, {}, {}
    for path in dict.fromkeys(path for path, _ in cuts):
        own = {layer: found for (p, layer), found in cuts.items() if p == path}
        ends, rank = next(iter(own.values())), max(1, *(len(found.b) for found in own.values()))
        a = np.zeros((layers, 1, len(ends.a), rank), np.float32)
        b = np.zeros((layers, 1, rank, ends.b.shape[1]), np.float32)
        scale, norms[path], lost[path] = np.zeros((layers, 1), np.float32), np.zeros(layers), np.zeros(layers)
        for layer, found in own.items():
            r = len(found.b)
            a[layer, 0, :, :r], b[layer, 0, :r], scale[layer] = found.a, found.b, 1
            norms[path][layer], lost[path][layer] = found.norm, found.lost
        merged[path] = Lora(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))
    rank = max((lora.a.shape[3] for lora in merged.values()), default=1)
    return Merged(merged, LoraConfig(rank=rank, alpha=float(rank)), norms, lost)
