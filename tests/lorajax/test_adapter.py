"""Adapter sets as data: one adapter in a set is that adapter alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import (
    LoraConfig,
    init_adapter,
    join,
    linear_shapes,
    size,
    split,
    stack,
    take,
    target_layers,
    updates,
    with_dropout,
    zeros_like,
)
from lorajax.models.weights import merge
from tests.conftest import randomize

ALL = LoraConfig(rank=4, alpha=8, targets=("all-linear",))


def make(config, names=("a", "b"), lora=ALL, seed=0):
    return randomize(init_adapter(config, lora, names, seed=seed), seed=seed + 11)


def probe(hidden):
    """A scalar of the hidden states; the same for each adapter. (Their squares would be constant after the norm.)"""
    return jnp.sum(hidden * jax.random.normal(jax.random.key(9), hidden.shape[1:]))


def test_new_adapters_change_nothing(model, config, tokens):
    adapter = init_adapter(config, ALL, ["a", "b"])
    np.testing.assert_array_equal(model(tokens, adapter).hidden, model(tokens).hidden)


def test_set_equals_each_alone_and_vmap(model, config, tokens):
    adapter = make(config, lora=LoraConfig(rank=4, targets=("all-linear",), init="independent"))
    together = model(tokens, adapter).hidden
    for i in range(2):
        alone = model(tokens[i : i + 1], take(adapter, [i])).hidden[0]
        np.testing.assert_allclose(together[i], alone, atol=3e-5)
    assert np.abs(together[0] - model(tokens).hidden[0]).max() > 0.1
    # The oracle: a model of one adapter, vmapped over the set.
    one = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], adapter)
    graphdef, base = nnx.split(model)
    mapped = jax.vmap(lambda t, a: nnx.merge(graphdef, base)(t[None], a).hidden[0])(tokens, one)
    np.testing.assert_allclose(together, mapped, atol=3e-5)


def test_gradient_of_the_sum_is_the_stack_of_gradients(model, config, tokens):
    factors, scales = split(make(config))

    def loss(factors, tokens, scales):
        return probe(model(tokens, join(factors, scales)).hidden)

    together = jax.grad(loss)(factors, tokens, scales)
    for i in range(2):
        cut = lambda tree: jax.tree.map(lambda x: x[:, i : i + 1], tree)  # noqa: B023
        alone = jax.grad(loss)(cut(factors), tokens[i : i + 1], cut(scales))
        for found, want in zip(jax.tree.leaves(cut(together)), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


def test_merged_equals_unmerged(model, config, tokens):
    adapter = make(config, ["a"])
    merged = merge(model, adapter)(tokens[:1]).hidden
    np.testing.assert_allclose(merged, model(tokens[:1], adapter).hidden, atol=2e-5)
    with pytest.raises(LorajaxError, match="set of 2"):
        merge(model, make(config))


def test_stack_and_take_are_inverse_and_pad_ranks(model, config, tokens):
    small = make(config, ["a"], LoraConfig(rank=2, targets=("q_proj",)))
    large = make(config, ["b"], LoraConfig(rank=4, alpha=3, targets=("q_proj", "mlp.up_proj")))
    both = stack([small, large])
    assert size(both) == 2
    together = model(tokens, both).hidden
    np.testing.assert_allclose(together[0], model(tokens[:1], small).hidden[0], atol=1e-5)
    np.testing.assert_allclose(together[1], model(tokens[1:], large).hidden[0], atol=1e-5)
    for path, delta in updates(take(both, [1])).items():
        np.testing.assert_array_equal(delta, updates(large)[path])


def test_padded_ranks_get_no_gradient(model, config, tokens):
    both = stack([make(config, ["a"], LoraConfig(rank=2)), make(config, ["b"], LoraConfig(rank=4))])
    factors, scales = split(both)
    grads = jax.grad(lambda f: probe(model(tokens, join(f, scales)).hidden))(factors)
    for pair in grads.values():
        assert not np.asarray(pair["a"][:, 0, :, 2:]).any()
        assert not np.asarray(pair["b"][:, 0, 2:]).any()
        assert np.asarray(pair["a"][:, 1, :, 2:]).any()


def test_scale_zero_is_the_base(model, config, tokens):
    np.testing.assert_array_equal(model(tokens, zeros_like(make(config))).hidden, model(tokens).hidden)


def test_init_depends_on_the_name_alone(config):
    independent = LoraConfig(init="independent")
    several = init_adapter(config, independent, ["x", "y", "z"], seed=5)
    alone = init_adapter(config, independent, ["y"], seed=5)
    shared = init_adapter(config, LoraConfig(), ["x", "y"], seed=5)
    for path in alone:
        np.testing.assert_array_equal(several[path].a[:, 1:2], alone[path].a)
        assert not np.array_equal(several[path].a[:, 0], several[path].a[:, 1])
        np.testing.assert_array_equal(shared[path].a[:, 0], shared[path].a[:, 1])
    a = np.asarray(init_adapter(config, LoraConfig(rank=64), ["x"])["self_attn.q_proj"].a)
    for layer in range(config.num_layers):  # uniform in +-1/sqrt(32): std 1/sqrt(3 * 32), per layer
        np.testing.assert_allclose(a[layer].std(), (3 * 32) ** -0.5, rtol=0.05)


def test_rslora_scale(config):
    plain = init_adapter(config, LoraConfig(rank=4, alpha=8), ["x"])["self_attn.q_proj"].scale
    rs = init_adapter(config, LoraConfig(rank=4, alpha=8, rslora=True), ["x"])["self_attn.q_proj"].scale
    assert np.unique(plain) == [2.0]
    assert np.unique(rs) == [4.0]


def test_targets(config):
    assert set(target_layers(["all-linear"], config)) == set(linear_shapes(config))
    assert list(target_layers(["v_proj", "self_attn.q_proj"], config)) == ["self_attn.q_proj", "self_attn.v_proj"]
    some = target_layers([r"model\.layers\.[12]\.mlp\..*"], config)
    assert list(some) == ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert some["mlp.up_proj"].tolist() == [False, True, True]
    for bad in (["q_prj"], ["q_proj", "nothing"], ["(["], []):
        with pytest.raises(LorajaxError, match=r"target"):
            target_layers(bad, config)


def test_dropout_is_each_adapters_own(model, config, tokens):
    adapter = make(config)
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = model(tokens, with_dropout(adapter, 0.5, keys)).hidden
    alone = model(tokens[1:], with_dropout(take(adapter, [1]), 0.5, keys[1:])).hidden
    np.testing.assert_allclose(dropped[1], alone[0], atol=1e-5)
    assert np.abs(dropped - model(tokens, adapter).hidden).max() > 0.01
    assert with_dropout(adapter, 0.0, keys) is adapter
    # Unbiased: the mean over many draws is the update without dropout.
    lora = jax.tree.map(lambda x: x[0], make(config, ["a"])["self_attn.q_proj"])
    x = jax.random.normal(jax.random.key(3), (1, 1, 1, 32))
    draws = jax.random.split(jax.random.key(4), 4000)

    def drop(key):
        import dataclasses

        from lorajax.lora.adapter import Dropout

        return dataclasses.replace(lora, dropout=Dropout(key[None], 0.3)).delta(x)

    mean, exact = jax.vmap(drop)(draws).mean(0), lora.delta(x)
    np.testing.assert_allclose(mean, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("bad", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"init": "same"}])
def test_bad_settings(bad):
    with pytest.raises(LorajaxError, match="--"):
        LoraConfig(**bad)
