"""A tokenizer and a checkpoint small enough to make in a test."""

from __future__ import annotations

import functools
from pathlib import Path

from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.weights import save_hf

CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@functools.cache
def _backend() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def tiny_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Bytes as tokens, 259 of them."""
    backend = Tokenizer.from_str(_backend().to_str())
    if bos:  # as the tokenizers of Llama and Mistral do it
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


TINY = ModelConfig(
    vocab_size=264, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    tie_embeddings=True, max_positions=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip


def tiny_checkpoint(folder: Path, config: ModelConfig = TINY) -> Path:
    """A Hugging Face folder with random weights and the tokenizer above."""
    save_hf(Llama(config, rngs=nnx.Rngs(0)), folder, tokenizer=tiny_tokenizer())
    return folder
