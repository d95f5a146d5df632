"""Hidden states of prompts: the same whatever the batch, the padding and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lorajax.activations import HiddenStates
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter, stack, zeros_like
from lorajax.mesh import make_mesh
from tests.conftest import randomize

LENGTHS = (5, 30, 17, 1, 22)


@pytest.fixture
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 97, n).astype(np.int32) for n in LENGTHS]


@pytest.fixture
def pair(config):
    adapter = randomize(init_adapter(config, LoraConfig(), ["a"]))
    return stack([zeros_like(adapter), adapter])


def alone(model, pair, prompts):
    """Every state of every prompt by itself: `[prompts][N]` of `[L, T, D]`."""
    one = [jax.tree.map(lambda x, n=n: x[:, n : n + 1], pair) for n in range(2)]
    return [[model(p[None, None], a, collect=lambda h: h[0, 0]).states for a in one] for p in prompts]


@pytest.mark.parametrize("batch_size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 5, 8))])
@pytest.mark.everyday_cases(1)
def test_last_token(model, pair, prompts, batch_size):
    states = HiddenStates(model, batch_size=batch_size, pad=0)(pair, prompts)
    assert states.values.shape == (2, 5, 5, 32)
    assert states.values.dtype == jnp.float32
    assert states.prompts.tolist() == [0, 1, 2, 3, 4]
    assert states.per_prompt is None
    for i, want in enumerate(alone(model, pair, prompts)):
        for n in range(2):
            np.testing.assert_allclose(states.values[n, :, i], want[n][:, -1], atol=2e-5)


def test_mean_is_over_the_prompts_own_tokens(model, pair, prompts):
    states = HiddenStates(model, batch_size=3, pad=0, tokens="mean")(pair, prompts)
    for i, want in enumerate(alone(model, pair, prompts)):
        for n in range(2):
            np.testing.assert_allclose(states.values[n, :, i], want[n].mean(1), atol=2e-5)


def test_all_tokens_are_rows(model, pair, prompts):
    states = HiddenStates(model, batch_size=2, pad=0, tokens="all")(pair, prompts)
    assert states.values.shape == (2, 5, sum(LENGTHS), 32)
    assert states.prompts.tolist() == np.repeat(np.arange(5), LENGTHS).tolist()
    for i, want in enumerate(alone(model, pair, prompts)):
        for n in range(2):
            np.testing.assert_allclose(states.values[n][:, states.prompts == i], want[n], atol=2e-5)


def test_a_sample_of_all_tokens_is_part_of_them(model, pair, prompts):
    every = HiddenStates(model, batch_size=2, pad=0, tokens="all")
    whole, some, again = every(pair, prompts), every(pair, prompts, most=20), every(pair, prompts, most=20)
    assert some.values.shape[2] == len(some.prompts) == 20
    np.testing.assert_array_equal(some.values, again.values)
    rows = {row.tobytes() for row in np.asarray(whole.values[1, 2]).round(3)}
    assert all(row.tobytes() in rows for row in np.asarray(some.values[1, 2]).round(3))
    assert every(pair, prompts, most=1000).values.shape == whole.values.shape


def test_layers_and_something_of_every_prompt(model, pair, prompts):
    def norm(h, own):
        return jnp.where(own, jnp.linalg.norm(h, axis=-1), 0).sum(-1) / own.sum(-1)

    states = HiddenStates(model, batch_size=2, pad=0, layers=[0, 3], per_prompt=norm)(pair, prompts)
    assert states.values.shape == (2, 2, 5, 32)
    assert states.per_prompt.shape == (2, 2, 5)
    for i, want in enumerate(alone(model, pair, prompts)):
        for n in range(2):
            expected = np.linalg.norm(want[n], axis=-1).mean(-1)[[0, 3]]
            np.testing.assert_allclose(states.per_prompt[n, :, i], expected, rtol=1e-5)


def test_programs_are_few(model, pair):
    prompts = [np.arange(n, dtype=np.int32) % 97 for n in range(1, 49)]
    states = HiddenStates(model, batch_size=4, pad=0)
    states(pair, prompts)
    assert states._add._cache_size() == 4  # 16, 24, 32, 48


def test_on_a_mesh(model, pair, prompts):
    want = HiddenStates(model, batch_size=2, pad=0)(pair, prompts).values
    graphdef, base = nnx.split(model)
    for sizes in ({"data": 2, "fsdp": 2}, {"fsdp": 2, "tensor": 2}, {"data": 8}):
        mesh = make_mesh(**sizes)
        placed = jax.device_put(base, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
        values = HiddenStates(nnx.merge(graphdef, placed), batch_size=2, pad=0)(pair, prompts).values
        np.testing.assert_allclose(values, want, atol=2e-5)
        assert len(values.addressable_shards) == mesh.size
        assert values.addressable_shards[0].data.size * mesh.size == values.size


def test_bad_arguments(model):
    with pytest.raises(LorajaxError, match="--tokens must be one of last, mean, all, found 'first'"):
        HiddenStates(model, batch_size=1, pad=0, tokens="first")
    with pytest.raises(LorajaxError, match="expected numbers from 0 to 4"):
        HiddenStates(model, batch_size=1, pad=0, layers=[5])
