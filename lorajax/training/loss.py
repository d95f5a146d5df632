"""Cross-entropy of answer tokens, without a `[B, T, V]` tensor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from lorajax.lora.adapter import Adapter
from lorajax.models.llama import Llama

#: Rows of logits that exist at a time, over all adapters.
CHUNK = 1024


def answer_loss(model: Llama, adapter: Adapter | None, batch: dict[str, Array], *, remat: bool = False) -> Array:
    """Mean negative log-likelihood, in nats, of each adapter's answer tokens: `[N]` float32."""
    sums, counts = answer_sums(model, adapter, batch, remat=remat)
    return sums / jnp.maximum(counts, 1)


def answer_sums(
    model: Llama, adapter: Adapter | None, batch: dict[str, Array], *, remat: bool = False
) -> tuple[Array, Array]:
    """Summed negative log-likelihood of the answer tokens and their number, both `[N]` float32.

    `batch` is as in lorajax.data.batching. Sums add up over micro-batches, so means weigh every token alike.
    """
    hidden = model(batch["tokens"], adapter, remat=remat).hidden
    hidden = jnp.take_along_axis(hidden, batch["positions"][..., None], axis=2)
    N, B, R = batch["positions"].shape
    # Chunks of C positions: [chunks, N, C, ...], the last one filled up with positions of weight 0.
    C = min(B * R, max(1, CHUNK // N))
    chunks = -(-B * R // C)

    def cut(x: Array) -> Array:
        x = x.reshape(N, B * R, -1)
        x = jnp.pad(x, ((0, 0), (0, chunks * C - B * R), (0, 0)))
        return jnp.moveaxis(x.reshape(N, chunks, C, -1), 1, 0)

    @jax.checkpoint
    def chunk_sum(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        h, label, weight = chunk
        logits = model.logits(h)
        right = jnp.take_along_axis(logits, label, axis=-1)[..., 0]
        losses = jax.nn.logsumexp(logits, axis=-1) - right
        return total + jnp.sum(losses * weight[..., 0], axis=-1), None

    parts = (cut(hidden), cut(batch["labels"]), cut(batch["weights"]))
    sums, _ = jax.lax.scan(chunk_sum, jnp.zeros(N, jnp.float32), parts)
    return sums, jnp.sum(batch["weights"], axis=(1, 2))
