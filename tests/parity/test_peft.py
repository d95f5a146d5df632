"""Adapters against the real peft: files in both directions, gradients, merging."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter, join, linear_shapes, split, stack, take
from lorajax.lora.peft import load_adapter, resolve, save_adapter
from lorajax.models.weights import merge, save_hf
from lorajax.training.loss import answer_loss
from tests.conftest import randomize
from tests.parity.models import torch, transformers

peft = pytest.importorskip("peft", reason="needs peft: pip install 'lorajax[test]'")

TARGETS = {
    "q_and_v": dict(rank=4, alpha=8.0, targets=("q_proj", "v_proj")),
    "all_linear": dict(rank=3, alpha=16.0, targets=("all-linear",)),
    "rslora": dict(rank=4, alpha=8.0, targets=("o_proj", "down_proj"), rslora=True),
    "some_layers": dict(rank=2, alpha=4.0, targets=(r"model\.layers\.[02]\.self_attn\.(q|k)_proj",)),
}


def adapted(pair, keys):
    theirs, ours, folder = pair
    lora = LoraConfig(**keys)
    return theirs, ours, folder, lora, randomize(init_adapter(ours.config, lora, ["a"], seed=3))


def fresh(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float()


def batch(config, length=210):
    return np.random.default_rng(1).integers(3, config.vocab_size, (2, length))


@pytest.mark.parametrize("pair", ["llama3_tied", "mistral", "qwen2_tied"], indirect=True)
@pytest.mark.parametrize("keys", TARGETS.values(), ids=TARGETS)
def test_our_folder_in_peft_gives_our_logits(pair, keys, tmp_path):
    _, ours, folder, lora, adapter = adapted(pair, keys)
    save_adapter(adapter, lora, tmp_path / "adapter", base="tiny")
    theirs = peft.PeftModel.from_pretrained(fresh(folder), tmp_path / "adapter")
    tokens = batch(ours.config)
    expected = theirs(torch.tensor(tokens)).logits.detach().numpy()
    found = np.asarray(ours.logits(ours(tokens[None], adapter).hidden)[0])
    base = np.asarray(ours.logits(ours(tokens[None]).hidden)[0])
    assert np.abs(expected - base).max() > 0.05  # the adapter does something
    # 1.1e-5 was seen where torch has AVX-512.
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("pair", ["llama3", "qwen2"], indirect=True)
@pytest.mark.parametrize(
    "keys",
    [
        dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        dict(r=4, lora_alpha=8, target_modules="all-linear", use_rslora=True),
        dict(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "up_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 2},
            alpha_pattern={"up_proj": 3},
        ),
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_peft_folder_in_ours_gives_pefts_logits(pair, keys, tmp_path):
    _, ours, folder = pair
    torch.manual_seed(5)
    theirs = peft.get_peft_model(fresh(folder), peft.LoraConfig(task_type="CAUSAL_LM", **keys))
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    theirs.save_pretrained(tmp_path / "adapter")
    adapter, lora = load_adapter(tmp_path / "adapter", ours.config)
    assert lora.rank == 4
    tokens = batch(ours.config)
    expected = theirs(torch.tensor(tokens)).logits.detach().numpy()
    found = np.asarray(ours.logits(ours(tokens[None], adapter).hidden)[0])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


PATTERNS = {
    "ranks": dict(rank_pattern={"layers.1.self_attn.q_proj": 2, "up_proj": 6}, alpha_pattern={"up_proj": 3}),
    "anchored": dict(
        rank_pattern={"^model.layers.1.self_attn.q_proj": 2, "^layers.0.self_attn.q_proj": 1},
        alpha_pattern={"^model.layers.2.mlp.up_proj": 5, "^mlp.up_proj": 7, "model.layers.0.self_attn.q_proj$": -3},
        use_rslora=True,
    ),
    "ambiguous": dict(
        rank_pattern={r"layers\.[01]\.self_attn\.q_proj": 2, "q_proj": 3},
        alpha_pattern={r"(.*\.)?1\..*": 3, "q_proj|up_proj": 2.5, "mlp.up_proj": 1e3, "proj": 9},
    ),
}


@pytest.mark.parametrize("pair", ["llama3"], indirect=True)
@pytest.mark.parametrize("patterns", PATTERNS.values(), ids=PATTERNS)
def test_patterns_mean_what_they_mean_in_peft_and_survive_saving(pair, patterns, tmp_path):
    """peft's folder in ours, and ours saved again in peft: the same logits. Alone, or as a member of a stack."""
    _, ours, folder = pair
    torch.manual_seed(5)
    keys = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], **patterns)
    made = peft.get_peft_model(fresh(folder), keys)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    made.save_pretrained(tmp_path / "theirs")
    tokens = batch(ours.config, 60)

    def logits(saved):
        # Always of a folder: peft sorts the patterns when it writes them, and the first that matches counts.
        return peft.PeftModel.from_pretrained(fresh(folder), saved)(torch.tensor(tokens)).logits.detach().numpy()

    expected = logits(tmp_path / "theirs")
    close = dict(atol=1e-5 * np.abs(expected).max())
    adapter, lora = load_adapter(tmp_path / "theirs", ours.config)
    np.testing.assert_allclose(ours.logits(ours(tokens[None], adapter).hidden)[0], expected, **close)
    save_adapter(adapter, lora, tmp_path / "ours", base="tiny")
    np.testing.assert_allclose(logits(tmp_path / "ours"), expected, **close)

    other = LoraConfig(rank=8, alpha=3.0, targets=("all-linear",))
    both = stack([randomize(init_adapter(ours.config, other, ["b"])), adapter])
    save_adapter(take(both, [1]), other, tmp_path / "member", base="tiny")
    np.testing.assert_allclose(logits(tmp_path / "member"), expected, **close)


def test_patterns_resolve_as_in_peft():
    """Every pair of patterns, in both orders, for names of a model with and without its head."""
    patterns = [
        "q_proj", "proj", ".*proj", "self_attn.q_proj", "self_attn", "layers.1.self_attn.q_proj", "1.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj", "^model.layers.1.self_attn.q_proj", "^layers.1.self_attn.q_proj", "^q_proj",
        "q_proj$", r"layers\.[01]\..*", "q_proj|up_proj", "a)|(up_proj", "", "nothing",
    ]  # fmt: skip
    names = [
        f"{head}layers.{i}.{path}"
        for head in ("model.", "")
        for i in (1, 11)
        for path in ("self_attn.q_proj", "mlp.up_proj")
    ]
    for first, second in itertools.permutations(patterns, 2):
        ranks = {first: 1, second: 2}
        for name in names:
            expected = ranks.get(peft.utils.other.get_pattern_key(ranks.keys(), name), 8)
            assert resolve(ranks, name, 8) == expected, (ranks, name)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "pissa", "olora", "eva", "mica"])
def test_inits_that_change_the_base_model_are_refused(config, init, tmp_path):
    """Configurations as the real peft writes them, with all their keys."""
    save_adapter(init_adapter(config, LoraConfig(rank=4), ["a"]), LoraConfig(rank=4), tmp_path, base="tiny")
    peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=init).save_pretrained(tmp_path)
    if init in (True, False, "gaussian", "orthogonal"):
        load_adapter(tmp_path, config)
    else:
        with pytest.raises(
            LorajaxError, match=rf"adapter_config\.json: (init_lora_weights = '{init}'|eva_config) .+ expected"
        ):
            load_adapter(tmp_path, config)


@pytest.mark.parametrize(
    "pair",
    ["llama3", "llama3_tied", "mistral", "mistral_without_window", "qwen2", "qwen2_tied", "smollm2"],
    indirect=True,
)
def test_gradients_equal_pefts(pair, tmp_path):
    keys = TARGETS["all_linear"]
    _, ours, folder, lora, adapter = adapted(pair, keys)
    save_adapter(adapter, lora, tmp_path / "adapter", base="tiny")
    theirs = peft.PeftModel.from_pretrained(fresh(folder), tmp_path / "adapter", is_trainable=True)
    tokens = batch(ours.config)
    start = 150  # the answer is what follows: only its tokens count
    labels = np.where(np.arange(tokens.shape[1]) < start, -100, tokens)
    loss = theirs(torch.tensor(tokens), labels=torch.tensor(labels)).loss
    loss.backward()

    predict = np.broadcast_to(np.arange(start - 1, tokens.shape[1] - 1), (1, 2, tokens.shape[1] - start))
    ours_batch = {
        "tokens": jnp.asarray(tokens)[None],
        "predict": jnp.asarray(predict),
        "labels": jnp.asarray(tokens[None, :, start:]),
        "weights": jnp.ones(predict.shape, jnp.float32),
    }
    factors, scales = split(adapter)
    value, grads = jax.value_and_grad(lambda f: answer_loss(ours, join(f, scales), ours_batch).sum())(factors)
    np.testing.assert_allclose(float(value), loss.item(), rtol=1e-5)
    expected = dict(theirs.named_parameters())
    for path in linear_shapes(ours.config):
        for layer in range(ours.config.num_layers):
            for ours_name, their_name in (("a", "lora_A"), ("b", "lora_B")):
                name = f"base_model.model.model.layers.{layer}.{path}.{their_name}.default.weight"
                want = expected[name].grad.numpy().T
                found = np.asarray(grads[path][ours_name][layer, 0])
                np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("pair", ["llama3", "linear_rope_with_biases", "qwen2"], indirect=True)
def test_merged_equals_unmerged_and_loads_in_transformers(pair, tmp_path):
    _, ours, _, _, adapter = adapted(pair, TARGETS["all_linear"])
    tokens = batch(ours.config)
    unmerged = np.asarray(ours(tokens[None], adapter).hidden)
    merged = merge(ours, adapter)
    np.testing.assert_allclose(merged(tokens[None]).hidden, unmerged, atol=1e-5 * np.abs(unmerged).max())
    save_hf(ours, tmp_path / "merged", adapter=adapter)
    theirs = fresh(tmp_path / "merged")(torch.tensor(tokens)).logits.detach().numpy()
    np.testing.assert_allclose(ours.logits(unmerged)[0], theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("pair", ["llama2"], indirect=True)
def test_init_is_distributed_as_pefts(pair):
    _, ours, folder = pair
    theirs = peft.get_peft_model(fresh(folder), peft.LoraConfig(r=64, target_modules=["q_proj", "down_proj"]))
    adapter = init_adapter(ours.config, LoraConfig(rank=64, targets=("q_proj", "down_proj")), ["a"])
    for path, lora in adapter.items():
        want = [p.detach().numpy() for n, p in theirs.named_parameters() if path in n and "lora_A" in n]
        for layer in range(ours.config.num_layers):
            a = np.asarray(lora.a[layer, 0])
            bound = a.shape[0] ** -0.5
            assert np.abs(want[layer]).max() <= bound
            assert 0.97 * bound < np.abs(a).max() <= bound
            np.testing.assert_allclose(a.std(), want[layer].std(), rtol=0.05)
        assert not np.asarray(lora.b).any()
    assert nnx.split(ours)  # the model holds no adapter
