"""The real small checkpoint: our reading of its GGUF file against transformers' own. Fetches 93 MB on first use."""

import numpy as np
import pytest

from lorajax.models.checkpoint import load, locate
from tests.parity.models import torch, transformers

pytestmark = pytest.mark.slow
TEXT = "The quick brown fox jumps over 1234 lazy dogs. Ein Satz auf Deutsch: Füße, 42 €! \n\tdef f(x):\n    return x ** 2\n"


@pytest.fixture(scope="module")
def checkpoint():
    return load("smollm2")


@pytest.fixture(scope="module")
def theirs():
    path = locate("smollm2")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def test_logits(checkpoint, theirs):
    ids = checkpoint.tokenizer(TEXT * 6)["input_ids"][:220]
    assert len(ids) == 220
    ours = np.asarray(checkpoint.model.logits(checkpoint.model(np.asarray(ids)[None, None]).hidden)[0, 0])
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    print(f"largest difference of logits: {np.abs(ours - expected).max():.2e}")
    np.testing.assert_allclose(ours, expected, atol=2e-4)
    assert (ours.argmax(-1) == expected.argmax(-1)).all()


def test_weights_are_the_same_to_the_bit(checkpoint, theirs):
    from flax import nnx

    from lorajax.models.tensors import tensors

    flat = dict(nnx.to_flat_state(nnx.state(checkpoint.model)))
    expected = theirs.state_dict()
    for tensor in tensors(checkpoint.model.config):
        for layer, name in enumerate(tensor.names(30)):
            value = flat[tensor.path][...]
            value = np.asarray(value[layer] if tensor.stacked else value)
            assert np.array_equal(value.T if tensor.transposed else value, expected[name].numpy()), name


def test_tokenizer_round_trip_and_digits(checkpoint):
    ids = checkpoint.tokenizer(TEXT)["input_ids"]
    assert checkpoint.tokenizer.decode(ids) == TEXT
    pieces = checkpoint.tokenizer.convert_ids_to_tokens(checkpoint.tokenizer("1234")["input_ids"])
    assert pieces == ["1", "2", "3", "4"]
    assert checkpoint.model.config.parameter_count() == 134_515_008
