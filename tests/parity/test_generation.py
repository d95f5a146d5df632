"""Generated text against transformers + torch: greedy tokens in float32, and what top-k and top-p leave over."""

import jax.numpy as jnp
import numpy as np
import pytest

from lorajax.generation import GenerateConfig, cut, generate
from tests.parity.models import torch, transformers

NEW = 20


@pytest.mark.parametrize("pair", ["llama2", "llama3", "mistral"], indirect=True)
def test_greedy(pair):
    """Prompts shorter and longer than the sliding window of 50 and the 64 positions before rope scaling."""
    theirs, ours, _ = pair
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, ours.config.vocab_size, length) for length in (3, 45, 110)]
    answers = generate(ours, None, [prompts], config=GenerateConfig(NEW))[0]
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = torch.tensor(prompt)[None]
        settings = transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
        expected = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        assert answer.tokens.tolist() == expected[0, len(prompt) :].tolist()
    assert len({token for answer in answers for token in answer.tokens.tolist()}) > 10


@pytest.mark.parametrize(("top_k", "top_p"), [(7, 1.0), (0, 0.4), (0, 0.95), (20, 0.8)])
def test_cut(top_k, top_p):
    logits = 3 * np.random.default_rng(1).normal(size=(50, 199)).astype(np.float32)
    expected = torch.tensor(logits)
    if top_k:
        expected = transformers.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = transformers.TopPLogitsWarper(top_p)(None, expected)
    np.testing.assert_array_equal(cut(jnp.asarray(logits), top_k=top_k, top_p=top_p), expected.numpy())
