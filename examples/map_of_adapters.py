"""Grassmann distances and a map of tasks, from a folder of PEFT adapters: python examples/map_of_adapters.py [FOLDER]

They have one rank and adapt the same modules (`lorajax compare_adapters` takes any, and says more). Without FOLDER, six
are made up: three on one subject, which share half of the directions of their updates, and three on another.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

from analysis import expected_distance, grassmann_all_pairs, map_tasks, mean_distances, thin_svd
from lorajax.lora import LoraConfig, init_adapter, read_updates, save_adapter, take
from lorajax.models import ModelConfig

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
if len(sys.argv) == 1:
    lora, rng = LoraConfig(rank=4), np.random.default_rng(0)
    subjects = ["french", "german", "spanish", "dates", "products", "sums"]
    for path, new in (made := init_adapter(ModelConfig(100, 64, 64, 3, 4, 2, 16), lora, subjects)).items():
        shared, own = (rng.standard_normal((3, n, 2, new.b.shape[3])) for n in (2, 6))
        made[path] = dataclasses.replace(new, b=np.concatenate([shared.repeat(3, axis=1), own], 2, dtype=np.float32))
    for i, name in enumerate(subjects):
        save_adapter(take(made, [i]), lora, folder / name, base="made-up")

names = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
adapters = [read_updates(folder / name).modules for name in names]
distances, chance = [], []
for module, layers in adapters[0].items():
    B, A = (np.stack([[getattr(own[module][k], f) for k in layers] for own in adapters]) for f in "BA")
    updates = thin_svd(B, A)  # of N adapters in K layers; B @ A is never formed
    distances.append(grassmann_all_pairs(updates.u, updates.rank, variant="sum"))  # of what they write to, [K, N, N]
    chance.append([expected_distance(B.shape[2], B.shape[3], variant="sum").mean] * len(layers))
mean = mean_distances(np.stack(distances), np.array(chance), normalise="expected", tasks=names).overall
print("Distances as shares of what chance gives, means over modules and layers; places on the map")
for name, row, (x, y) in zip(names, mean, map_tasks(mean).points, strict=True):
    print(f"{name:>12}", *(f"{value:6.3f}" for value in row), f"   ({x:6.3f}, {y:6.3f})")
