"""What reads a class off an encoder: RoBERTa's classification head, trained with the adapter and part of it.

    scores = tanh(h @ dense + dense_bias) @ out + out_bias        h: hidden state of an example's first token

It is the entry `HEAD` of an adapter, beside its updates, and has N as they do: every leaf has four axes, the second one
for the adapters. The first one, where updates have layers, has length 1.

Its classes are those of all tasks of a study (`lorajax.data.classes`). The loss of an example is the cross-entropy over
the classes of its own task; columns of other tasks take no part and get no gradients.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lorajax.data.classes import Classes
from lorajax.errors import LorajaxError

#: Its name in an adapter, and that of the module in the checkpoint and in PEFT files.
HEAD = "classifier"

# Constants: they pass through transformations as what a program is compiled for.
jax.tree_util.register_static(Classes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """dense `[1, N, D, D]`, dense_bias `[1, N, 1, D]`, out `[1, N, D, C]`, out_bias `[1, N, 1, C]`, float32."""

    dense: Array
    dense_bias: Array
    out: Array
    out_bias: Array
    classes: Classes = dataclasses.field(metadata={"static": True})

    def scores(self, hidden: Array) -> Array:
        """Scores of all classes, `[N, B, R, D]` to `[N, B, R, C]`, in float32."""
        x = jnp.einsum("nbrd,nde->nbre", hidden.astype(jnp.float32), self.dense[0])
        x = jnp.tanh(x + self.dense_bias[0, :, None])
        return jnp.einsum("nbrd,ndc->nbrc", x, self.out[0]) + self.out_bias[0, :, None]

    def own_scores(self, hidden: Array, labels: Array) -> Array:
        """The same, -inf for the classes of other tasks than that of `labels [N, B, R]`."""
        owners = self.classes.owners
        own = jnp.asarray(owners)[labels][..., None] == owners
        return jnp.where(own, self.scores(hidden), -jnp.inf)

    def losses(self, hidden: Array, labels: Array) -> Array:
        """Negative log-likelihood, in nats, of `labels [N, B, R]` among the classes of their tasks: `[N, B, R]`."""
        scores = self.own_scores(hidden, labels)
        right = jnp.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(scores, axis=-1) - right

    def with_classes(self, classes: Classes) -> Head:
        """The head with one column for each of `classes`; where it has no such class, the column is zero.

        Raises:
          LorajaxError: the labels of this head are not known, so nothing says which columns they are.
        """
        if classes == self.classes:
            return self
        if "" in self.classes.tasks:
            raise LorajaxError(
                f"a classification head of {len(self.classes)} classes whose labels are not known cannot be used with "
                f"{', '.join(classes.labels()[:4])}; expected 'classes' in the lorajax.json beside the adapter"
            )
        known = {name: i for i, name in enumerate(self.classes.names)}
        places = np.asarray([known.get(name, 0) for name in classes.names])
        there = np.asarray([name in known for name in classes.names])

        def columns(x: Array) -> Array:
            return jnp.where(there, x[..., places], 0)

        return dataclasses.replace(self, out=columns(self.out), out_bias=columns(self.out_bias), classes=classes)


def init_head(size: int, classes: Classes, names: Sequence[str], *, std: float, seed: int, shared: bool) -> Head:
    """New heads, one per name, as transformers draws them: N(0, std²) and zero biases; float32.

    The values of a column depend on (seed, the adapter's name, task and label) alone, and not on which other classes
    there are; if `shared`, not on the adapter's name either.
    """

    def draw(name: str, part: str, shape: tuple[int, ...]) -> Array:
        key = jax.random.key(seed)
        for text in ("" if shared else name, HEAD, part):
            key = jax.random.fold_in(key, zlib.crc32(text.encode()))
        return std * jax.random.normal(key, shape, jnp.float32)

    def columns(name: str) -> Array:
        return jnp.stack([draw(name, f"{task}: {label}", (size,)) for task, label in classes.names], axis=-1)

    N = len(names)
    return Head(
        dense=jnp.stack([draw(name, "dense", (size, size)) for name in names])[None],
        dense_bias=jnp.zeros((1, N, 1, size), jnp.float32),
        out=jnp.stack([columns(name) for name in names])[None],
        out_bias=jnp.zeros((1, N, 1, len(classes)), jnp.float32),
        classes=classes,
    )


def stack_heads(heads: Sequence[Head | None], sizes: Sequence[int]) -> Head:
    """One set of heads, with all classes of any; in place of None, `sizes[i]` heads to which all classes are alike."""
    there = [head for head in heads if head is not None]
    classes = Classes(tuple(dict.fromkeys(name for head in there for name in head.classes.names)))

    def part(head: Head | None, size: int) -> Head:
        if head is not None:
            return head.with_classes(classes)
        return jax.tree.map(lambda x: jnp.zeros((1, size, *x.shape[2:]), jnp.float32), there[0].with_classes(classes))

    parts = [part(head, size) for head, size in zip(heads, sizes, strict=True)]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts)
