"""Cross-entropy of answer tokens, without a `[B, T, V]` tensor; of an encoder's classes, by the adapters' own heads.

A decoder's head is frozen, so all that a backward pass needs of the logits is the gradient with respect to the hidden
states. It has the size of the hidden states and is computed in the same chunk as the loss: every chunk of logits exists
once, for two products with the head (scores forward, gradient back), and is never recomputed.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import Adapter, head_of
from lorajax.lora.head import Head
from lorajax.models.kinds import Model
from lorajax.models.llama import Execution, Llama

PLAIN = Execution()

#: Rows of logits that exist at a time, over all adapters, on each device.
CHUNK = 1024


def answer_loss(model: Model, adapter: Adapter | None, batch: dict[str, Array], execution: Execution = PLAIN) -> Array:
    """Mean negative log-likelihood, in nats, of each adapter's answer tokens: `[N]` float32."""
    sums, counts = answer_sums(model, adapter, batch, execution)
    return sums / jnp.maximum(counts, 1)


def answer_sums(
    model: Model, adapter: Adapter | None, batch: dict[str, Array], execution: Execution = PLAIN
) -> tuple[Array, Array]:
    """Summed negative log-likelihood of the answer tokens and their number, both `[N]` float32.

    `batch` is as in lorajax.data.batching. Sums add up over micro-batches, so means weigh every token alike. An answer
    that is read off an encoder is one class.

    Raises:
      LorajaxError: the model is an encoder, and the adapters have no heads.
    """
    counts = jnp.sum(batch["weights"], axis=(1, 2))
    if not isinstance(model, Llama):
        losses = required_head(adapter).losses(read_hidden(model, adapter, batch, execution), batch["labels"])
        return jnp.sum(batch["weights"] * losses, axis=(1, 2)), counts
    hidden = read_hidden(model, adapter, batch, execution)
    N, B, R = batch["predict"].shape
    # Chunks of c positions of every row, [chunks, N, B, c, ...], the last one filled up with positions of weight 0.
    # Rows are not cut, so that each device of a mesh works through its own.
    chunks = -(-R // max(1, CHUNK * execution.devices // (N * B)))
    c = -(-R // chunks)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, chunks * c - R)) + ((0, 0),) * (x.ndim - 3))
        return jnp.moveaxis(x.reshape(N, B, chunks, c, *x.shape[3:]), 2, 0)

    graphdef, state = nnx.split(model)
    parts = (cut(hidden), cut(batch["labels"]), cut(batch["weights"]))
    return _chunked_sums(graphdef, state, *parts), counts


def read_hidden(model: Model, adapter: Adapter | None, batch: dict[str, Array], execution: Execution = PLAIN) -> Array:
    """Hidden states of the places that answers are read off, `[N, P, R, D]`."""
    hidden = model(batch["tokens"], adapter, segments=batch.get("segments"), execution=execution).hidden
    return jnp.take_along_axis(hidden, batch["predict"][..., None], axis=2)


def required_head(adapter: Adapter | None) -> Head:
    """The heads of adapters for an encoder.

    Raises:
      LorajaxError: they have none.
    """
    if adapter is None or (head := head_of(adapter)) is None:
        raise LorajaxError("the model is an encoder, which answers by a classification head; the adapters have none")
    return head


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_sums(graphdef: nnx.GraphDef, state: nnx.State, hidden: Array, labels: Array, weights: Array) -> Array:
    """Weighted sums `[N]` over all chunks: hidden `[chunks, N, B, c, D]`, labels and weights `[chunks, N, B, c]`."""
    return _sums(graphdef, state, hidden, labels, weights, gradient=False)[0]


def _forward(graphdef: nnx.GraphDef, state: nnx.State, hidden: Array, labels: Array, weights: Array):
    return _sums(graphdef, state, hidden, labels, weights, gradient=True)


def _backward(graphdef: nnx.GraphDef, gradient: Array, sums_bar: Array):
    scale = sums_bar[None, :, None, None, None].astype(gradient.dtype)
    return None, gradient * scale, None, None


_chunked_sums.defvjp(_forward, _backward)


def _sums(
    graphdef: nnx.GraphDef, state: nnx.State, hidden: Array, labels: Array, weights: Array, *, gradient: bool
) -> tuple[Array, Array | None]:
    model: Llama = nnx.merge(graphdef, state)

    def add_chunk(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, Array | None]:
        h, label, weight = chunk
        logits, back = jax.vjp(model.logits, h)
        right = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
        top = jnp.max(logits, axis=-1)
        powers = jnp.exp(logits - top[..., None])
        norm = jnp.sum(powers, axis=-1)
        total = total + jnp.sum(weight * (jnp.log(norm) + top - right), axis=(1, 2))
        if not gradient:
            return total, None
        # d loss / d h = weight * (softmax(logits) - one_hot(label)) @ head. Subtracted before the product: where the
        # model is sure of the label, little is left, and after a product in 16 bit that would be rounding.
        is_label = jnp.arange(logits.shape[-1]) == label[..., None]
        (dh,) = back(jnp.where(is_label, powers - norm[..., None], powers))
        return total, (dh.astype(jnp.float32) * (weight / norm)[..., None]).astype(h.dtype)

    return jax.lax.scan(add_chunk, jnp.zeros(hidden.shape[1], jnp.float32), (hidden, labels, weights))
