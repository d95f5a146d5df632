"""An adapter in some layers only: which layers does a task need?

An adapter's `scale` is `[layers, N]`, so a subset of its layers is a row of zeros and ones. M subsets of one adapter
are M adapters with the same factors: `lorajax.training.ablation` runs them as members of a fleet, N at a time, in one
compiled program for all subsets, adapters and sets of examples.

Layers are counted from 1, as in `config.layer_names`. With `|` for layers that are kept, of five layers:

    base        .....        none
    full        |||||        all
    single  3   ..|..        one
    prefix  1-3 |||..        the first ones
    suffix  3-5 ..|||        the last ones
    band    2-3 .||..        some that are named
    without 3   ||.||        all but one, or all but a band that is named
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

#: What the other masks are measured against, and the kinds that can be chosen.
BASIC = ("base", "full")
KINDS = ("single", "prefix", "suffix", "without", "band")

#: Bootstrap samples, and the ends of their 95 % intervals.
DRAWS, LEVELS = 2000, (0.025, 0.975)

Band = tuple[int, int]  # first and last layer


@dataclasses.dataclass(frozen=True)
class LayerMask:
    """Layers `first` to `last`, counted from 1: those kept, or of kind `without` those removed. `base` has 0 and 0."""

    kind: str
    first: int
    last: int

    @property
    def label(self) -> str:
        """Its name, such as `base`, `single 3`, `prefix 1-3` or `without 2-3`."""
        if self.kind in BASIC:
            return self.kind
        alone = self.first == self.last and self.kind in ("single", "without")
        return f"{self.kind} {self.first}" if alone else f"{self.kind} {self.first}-{self.last}"

    @property
    def place(self) -> tuple[int, bool, int, int]:
        """Where it stands among others: `without` a single layer comes before `without` a band."""
        return (
            (*BASIC, *KINDS).index(self.kind),
            self.kind == "without" and self.first < self.last,
            self.first,
            self.last,
        )

    def keep(self, layers: int) -> np.ndarray:
        """Which of `layers` layers are kept: bool `[layers]`."""
        numbers = np.arange(1, layers + 1)
        inside = (numbers >= self.first) & (numbers <= self.last)
        return ~inside if self.kind == "without" else inside


def layer_masks(kinds: Sequence[str], layers: int, bands: Sequence[Band] = ()) -> tuple[LayerMask, ...]:
    """`base`, `full` and every mask of `kinds`, each once, in the order of `KINDS`; some may keep the same layers.

    Raises:
      ValueError: an unknown kind, or a band that is not inside the model.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown kind of mask {kind!r}: expected some of {', '.join(KINDS)}")
    for first, last in bands:
        if not 1 <= first <= last <= layers:
            raise ValueError(f"band {first}-{last}: expected first to last layer, of the model's 1 to {layers}")
    each = range(1, layers + 1)
    found = {
        "single": [(k, k) for k in each],
        "prefix": [(1, k) for k in each],
        "suffix": [(k, layers) for k in each],
        "without": [*((k, k) for k in each), *bands],
        "band": list(bands),
    }
    chosen = {LayerMask(kind, *band) for kind in kinds for band in found[kind]}
    both = {LayerMask("base", 0, 0), LayerMask("full", 1, layers)}
    return tuple(sorted(both | chosen, key=lambda mask: mask.place))


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One adapter on one task: nats `[masks, n]`, summed over the answer of each of n examples, and tokens `[n]`."""

    masks: tuple[LayerMask, ...]
    nats: np.ndarray
    tokens: np.ndarray

    def joined(self, other: Ablation) -> Ablation:
        """With the other masks of `other`, in order."""
        nats = dict(zip(self.masks, self.nats, strict=True)) | dict(zip(other.masks, other.nats, strict=True))
        masks = tuple(sorted(nats, key=lambda mask: mask.place))
        return Ablation(masks, np.stack([nats[mask] for mask in masks]), self.tokens)

    def statistics(self) -> tuple[dict[str, np.ndarray], str]:
        """What each mask costs, every value `[masks]` float64; and why there are no shares, '' where there are.

        loss: nats per answer token. difference: loss minus that of `full`; error, low and high: its standard error and
        95 % interval, paired over examples. share, share_low, share_high: what is kept of the gain, (loss of base -
        loss) / (loss of base - loss of full); NaN where the 95 % interval of the gain includes 0.

        With s the nats and t the tokens of an example, a loss is sum(s) / sum(t): a ratio, whose standard error comes
        from the examples' residuals (Cochran, 1977, Sampling Techniques). Intervals are percentiles of DRAWS bootstrap
        samples of examples, the same ones for all masks and, of a number of examples, for all adapters.
        """
        kinds = [mask.kind for mask in self.masks]
        base, full, n = kinds.index("base"), kinds.index("full"), len(self.tokens)
        paired, total = self.nats - self.nats[full], self.tokens.sum()
        difference = paired.sum(axis=1) / total
        residuals = paired - difference[:, None] * self.tokens
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
        drawn = counts @ paired.T / (counts @ self.tokens)[:, None]
        low, high = np.quantile(drawn, LEVELS, axis=0)
        values = {
            "loss": self.nats.sum(axis=1) / total,
            "difference": difference,
            "error": np.sqrt(n / (n - 1) * np.sum(residuals**2, axis=1)) / total,
            "low": low,
            "high": high,
        }
        if not low[base] > 0:
            gain = f"{difference[base]:.4f} nats a token, 95 % interval {low[base]:.4f} to {high[base]:.4f}"
            values |= {name: np.full(len(kinds), np.nan) for name in ("share", "share_low", "share_high")}
            return values, f"the gain of the whole adapter cannot be told from 0 with {n} examples: {gain}"
        with np.errstate(divide="ignore", invalid="ignore"):  # a few samples may have no gain
            share_low, share_high = np.quantile(1 - drawn / drawn[:, [base]], LEVELS, axis=0)
        share = 1 - difference / difference[base]
        return values | {"share": share, "share_low": share_low, "share_high": share_high}, ""


def smallest_band(masks: Sequence[LayerMask], shares: np.ndarray, *, enough: float = 0.9) -> LayerMask | None:
    """The fewest layers in a row that keep `enough` of the gain; of equally many, those that keep most.

    `full` is the answer where no smaller mask of those measured does. None without shares, or where no mask of layers
    in a row was measured but `full`.
    """
    rows = [(mask, share) for mask, share in zip(masks, shares, strict=True) if mask.kind not in ("base", "without")]
    fits = [(mask.last - mask.first, -share, i) for i, (mask, share) in enumerate(rows) if share >= enough]
    return rows[min(fits)[2]][0] if fits and len(rows) > 1 else None


def costliest(masks: Sequence[LayerMask], values: dict[str, np.ndarray]) -> list[LayerMask]:
    """The single layers whose removal costs something (95 % interval above 0), those that cost most first."""
    lone = [i for i, m in enumerate(masks) if m.kind == "without" and m.first == m.last and values["low"][i] > 0]
    return [masks[i] for i in sorted(lone, key=lambda i: -values["difference"][i])]
