"""CKA between all layers of two models, from NumPy arrays alone, with intervals and p-values.

Here the arrays are made up: both models see the same 10 things in an example, and more noise of their own the deeper
the layer. So the truth is known: layers are alike, less so with depth, and layer 5 of `b` has nothing to do with `a`.
"""

import numpy as np

from analysis import cka_both, cka_interval, duplicate_rows, permutation_test

examples, layers = 300, 6
rng = np.random.default_rng(0)
shared = rng.standard_normal((examples, 10))  # the same examples, in the same order, on both sides


def hidden_states(width: int) -> np.ndarray:
    """Made-up states `[layers, examples, width]`; yours come from any framework."""
    noise = np.linspace(0.2, 3, layers)[:, None, None] * rng.standard_normal((layers, examples, width))
    return (shared @ rng.standard_normal((10, width)) + noise).astype(np.float32)


a, b = hidden_states(64), hidden_states(96)  # widths may differ
b[5] = rng.standard_normal(b[5].shape)
assert not duplicate_rows(a).any(), "repeated examples raise every similarity"

cka = cka_both(a, b)
interval = cka_interval(a, b)  # of equal layers, 95 %
test = permutation_test(a, b, permutations=200)
print("layer  debiased          interval   biased  p (over all pairs)")
for layer in range(layers):
    low, high = interval.low[layer], interval.high[layer]
    p = test.p_familywise[layer, layer]
    row = f"{cka.debiased[layer, layer]:9.3f}   [{low:6.3f}, {high:6.3f}] {cka.biased[layer, layer]:8.3f} {p:19.3f}"
    print(f"{layer:5d} {row}")
