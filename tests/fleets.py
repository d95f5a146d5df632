"""Small fleets on random tokens."""

from __future__ import annotations

import jax
import numpy as np

from lorajax.data.batching import Stream
from lorajax.data.prompts import Tokenized
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.training.config import TrainConfig
from lorajax.training.fleet import Fleet

LORA = LoraConfig(rank=2, targets=("all-linear",), init="independent")
QUICK = TrainConfig(steps=6, batch_size=3, learning_rate=1e-2)


def tokenized(seed: int, count: int = 20, vocab: int = 97) -> Tokenized:
    """Examples of 4 to 11 prompt and 1 to 4 answer tokens."""
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.integers(3, vocab, rng.integers(low, high)).astype(np.int32)
    return Tokenized(tuple(draw(4, 12) for _ in range(count)), tuple(draw(1, 5) for _ in range(count)))


def fleet_of(config, names, lora=LORA, *, settings=QUICK, steps=None, rates=None) -> Fleet:
    """Adapter `a` is trained on data set 0, `b` on 1 and so on, `E` on the first three."""
    sets = {name: [tokenized(i) for i in ((0, 1, 2) if name == "E" else (ord(name) - 97,))] for name in names}
    return Fleet(
        names=tuple(names),
        adapter=init_adapter(config, lora, names),
        streams=tuple(Stream(name, sets[name], seed=0) for name in names),
        steps=steps or (settings.steps,) * len(names),
        learning_rates=rates or (settings.learning_rate,) * len(names),
        pad=0,
    )


def assert_close(found, want) -> None:
    """Trees that differ by rounding, after some steps of Adam.

    Adam divides a gradient by its own size: an entry whose gradient is little more than rounding may move either way,
    by up to the learning rate. So nearly all entries are close, and none is far off.
    """
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True)
    off = np.concatenate([np.abs(np.asarray(a) - np.asarray(b)).ravel() for a, b in pairs])
    assert np.mean(off > 2e-5) < 0.01, np.mean(off > 2e-5)
    assert off.max() < 5e-3, off.max()


def assert_same(found, want) -> None:
    """Trees with equal leaves, to the bit."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
