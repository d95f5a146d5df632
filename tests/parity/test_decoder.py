"""The decoder against transformers + torch, float32, length 230: every hidden state, logits, export."""

import numpy as np
import pytest

from lorajax.models.weights import save_hf
from tests.parity.models import SHAPES, torch, transformers

pytestmark = pytest.mark.parametrize("pair", SHAPES, indirect=True)
LENGTH = 230


def relative(ours, theirs) -> float:
    """Largest difference over the largest value."""
    ours, theirs = np.asarray(ours, np.float64), theirs.detach().numpy().astype(np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def batch(model) -> np.ndarray:
    return np.random.default_rng(0).integers(3, model.config.vocab_size, (2, LENGTH))


def test_hidden_states_and_logits(pair):
    theirs, ours, _ = pair
    tokens = batch(ours)
    expected = theirs(torch.tensor(tokens), output_hidden_states=True)
    out = ours(tokens[None], collect=lambda h: h)
    states = np.asarray(out.states[:, 0])
    # transformers gives embedding, block 1 to L-1, and the last block only after the final norm.
    assert len(states) == len(expected.hidden_states) + 1 == len(ours.config.layer_names)
    compared = [*range(ours.config.num_layers), ours.config.num_layers + 1]
    for i, state in zip(compared, expected.hidden_states, strict=True):
        assert relative(states[i], state) < 1e-5, ours.config.layer_names[i]
    assert relative(ours.logits(out.hidden)[0], expected.logits) < 1e-5


def test_what_is_tested_would_show_a_wrong_rope(pair):
    """The lengths above are long enough: without its scaling the rotary embedding gives other logits."""
    import dataclasses

    from flax import nnx

    from lorajax.models.config import RopeConfig
    from lorajax.models.llama import Llama

    theirs, ours, _ = pair
    if ours.config.rope.type == "default":
        wrong = RopeConfig(theta=ours.config.rope.theta * 2)
    else:
        wrong = RopeConfig(theta=ours.config.rope.theta)
    model = Llama(dataclasses.replace(ours.config, rope=wrong), rngs=nnx.Rngs(0))
    nnx.update(model, nnx.state(ours))
    tokens = batch(ours)
    logits = model.logits(model(tokens[None]).hidden)[0]
    assert relative(logits, theirs(torch.tensor(tokens)).logits) > 1e-3


def test_right_padding_changes_nothing(pair):
    _, ours, _ = pair
    tokens = batch(ours)
    padded = np.pad(tokens, ((0, 0), (0, 26)))
    np.testing.assert_allclose(ours(padded[None]).hidden[:, :, :LENGTH], ours(tokens[None]).hidden, atol=2e-5)


def test_export_loads_in_transformers(pair, tmp_path):
    theirs, ours, _ = pair
    save_hf(ours, tmp_path / "out", shard_bytes=60_000)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    tokens = torch.tensor(batch(ours))
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
