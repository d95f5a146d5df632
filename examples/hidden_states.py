"""Hidden states of prompts under base and adapter, and their CKA: python examples/hidden_states.py [MODEL [ADAPTER]]

MODEL is as in train_two_adapters.py. ADAPTER is a PEFT folder; without it, an adapter with random updates is taken.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

from analysis import cka_same_layer, dimensions_for_variance
from analysis.spectrum import spectrum
from lorajax import HiddenStates
from lorajax.lora import LoraConfig, init_adapter, load_adapter, stack, zeros_like
from lorajax.models import load

checkpoint = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
config = checkpoint.model.config
if len(sys.argv) > 2:
    adapter, _ = load_adapter(Path(sys.argv[2]), config)
else:
    adapter = init_adapter(config, LoraConfig(), ["random"])
    keys = dict(zip(adapter, jax.random.split(jax.random.key(0), len(adapter)), strict=True))
    adapter = {k: dataclasses.replace(x, b=0.5 * jax.random.normal(keys[k], x.b.shape)) for k, x in adapter.items()}

places = ["France", "Japan", "Kenya", "Chile", "Canada", "Norway", "Egypt", "India", "Peru", "Poland"]
asked = ["The capital of {} is", "People in {} speak", "The money of {} is called", "{} lies on the continent of"]
prompts = [np.array(checkpoint.tokenizer(a.format(p))["input_ids"]) for a in asked for p in places]

states = HiddenStates(checkpoint.model, batch_size=20, pad=0)  # of the last token; or tokens="mean", "all"
base, adapted = np.asarray(states(stack([zeros_like(adapter), adapter]), prompts).values)  # [layers, prompts, features]
cka, dims = cka_same_layer(base, adapted), dimensions_for_variance(spectrum(adapted))
for name, value, count in zip(config.layer_names, cka, dims, strict=True):
    print(f"{name:>12}  CKA of base and adapter {value:6.3f}   dimensions for 99 % of the variance {count:3.0f}")
