"""Merges adapters as updates, never as factors: python examples/merge_two_adapters.py [MODEL ADAPTER ADAPTER [OUT]]

MODEL tells the sizes: no weights are read. Without arguments, two random adapters of SmolLM2's sizes are merged.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from lorajax.lora import LoraConfig, MergeConfig, init_adapter, load_adapter, merge_adapters, save_adapter
from lorajax.models import config_of

model = sys.argv[1] if len(sys.argv) > 3 else "smollm2"
config = config_of(model)


def random_adapter(seed: int):
    new = init_adapter(config, LoraConfig(rank=4), ["random"], seed=seed)
    keys = dict(zip(new, jax.random.split(jax.random.key(seed), len(new)), strict=True))
    return {k: dataclasses.replace(x, b=0.02 * jax.random.normal(keys[k], x.b.shape)) for k, x in new.items()}


folders = [Path(argument) for argument in sys.argv[2:4]]
adapters = [load_adapter(folder, config)[0] for folder in folders] or [random_adapter(1), random_adapter(2)]

for method in ("average", "ties"):
    merged = merge_adapters(adapters, MergeConfig(method, rank=8))
    norm = np.sqrt(sum(squares.sum() for squares in merged.norms.values()))
    lost = f"the cut to rank {merged.lora.rank} loses {merged.discarded():.2%} of its square"
    print(f"{method:8} norm {norm:7.3f}; {lost}")

out = Path(sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp())
save_adapter(merged.adapter, merged.lora, out, base=model)
print(f"wrote the last one to {out}")
