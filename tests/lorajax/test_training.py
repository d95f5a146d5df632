"""The fleet step: adapter i trained with others is adapter i trained alone; a killed run ends as an unkilled one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lorajax.data.batching import Shape, Stream
from lorajax.data.prompts import Tokenized
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter, split, take
from lorajax.mesh import make_mesh, replicate
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.training.evaluate import Evaluator
from lorajax.training.loop import Fleet, train
from lorajax.training.loss import answer_loss
from lorajax.training.step import TrainConfig, adapter_keys, init_state, make_step, schedule

LORA = LoraConfig(rank=2, targets=("all-linear",), init="independent")
QUICK = TrainConfig(steps=6, batch_size=3, learning_rate=1e-2)


def tokenized(seed: int, count: int = 20, vocab: int = 97) -> Tokenized:
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.integers(3, vocab, rng.integers(low, high)).astype(np.int32)
    return Tokenized(tuple(draw(4, 12) for _ in range(count)), tuple(draw(1, 5) for _ in range(count)))


def fleet_of(config, names, lora=LORA) -> Fleet:
    sets = {name: [tokenized(i) for i in ((0, 1, 2) if name == "E" else (ord(name) - 97,))] for name in names}
    return Fleet(
        names=tuple(names),
        adapter=init_adapter(config, lora, names),
        streams=tuple(Stream(name, sets[name], seed=0) for name in names),
        shape=Shape(24, 5),
        pad=0,
    )


def test_one_of_a_fleet_equals_it_alone(model, config, tmp_path):
    settings = dataclasses.replace(QUICK, weight_decay=0.1, clip=0.5)
    together = train(model, fleet_of(config, ["E", "a", "b"]), settings, tmp_path / "all", dropout=0.1)
    for i, name in enumerate(["E", "a", "b"]):
        alone = train(model, fleet_of(config, [name]), settings, tmp_path / name, dropout=0.1)
        for found, want in zip(jax.tree.leaves(take(together, [i])), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(found, want, atol=2e-5)
    start = fleet_of(config, ["E", "a", "b"]).adapter
    moved = [float(jnp.abs(together[p].b - start[p].b).max()) for p in start]
    assert min(moved) > 1e-3


def test_killed_run_ends_as_an_unkilled_one(model, config, tmp_path):
    fleet = fleet_of(config, ["E", "a"])
    whole = train(model, fleet, QUICK, tmp_path / "whole", checkpoint_every=2)

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(model, fleet, QUICK, tmp_path / "killed", checkpoint_every=2, report=kill)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "lo')  # a line that the crash cut short
    seen = []
    again = train(model, fleet, QUICK, tmp_path / "killed", checkpoint_every=2, report=lambda p: seen.append(p.step))
    assert seen == [3, 4, 5, 6]
    for found, want in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(found, want)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    rows = [json.loads(line) for line in logs[0].splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]["loss"]) == {"E", "a"}


def test_finished_run_is_not_run_again(model, config, tmp_path):
    fleet = fleet_of(config, ["a"])
    first = train(model, fleet, QUICK, tmp_path)
    again = train(model, fleet, QUICK, tmp_path, report=lambda p: pytest.fail("a step was run"))
    np.testing.assert_array_equal(first["mlp.up_proj"].b, again["mlp.up_proj"].b)


def test_training_learns(model, config, tmp_path):
    fleet = fleet_of(config, ["a"])
    adapter = train(model, fleet, TrainConfig(steps=60, batch_size=8, learning_rate=2e-2), tmp_path)
    evaluate = Evaluator(model, batch_size=6, pad=0)
    before, _ = evaluate(fleet.adapter, tokenized(0))
    after, tokens = evaluate(adapter, tokenized(0))
    assert after[0] < 0.5 * before[0]
    assert tokens == sum(len(a) for a in tokenized(0).answers)


def test_diverging_adapter_is_named(model, config, tmp_path):
    fleet = fleet_of(config, ["a", "b"])
    broken = jax.tree.map(lambda x: x.at[:, 1].set(jnp.nan), fleet.adapter)
    with pytest.raises(LorajaxError, match=r"adapter 'b': loss nan at step 1"):
        train(model, dataclasses.replace(fleet, adapter=broken), QUICK, tmp_path)


def test_step_compiles_once_and_base_is_an_argument(model, config):
    fleet = fleet_of(config, ["E", "a", "b"])
    graphdef, base = nnx.split(model)
    mesh = make_mesh()
    state, scales = replicate(init_state(fleet.adapter, QUICK), mesh)
    keys = replicate(adapter_keys(fleet.adapter, fleet.names, seed=0), mesh)
    step = make_step(graphdef, QUICK)
    for number in range(4):
        state, _ = step(state, base, scales, fleet.batch(number, 3), keys)
    assert step._cache_size() == 1

    def temporary(names) -> tuple[int, int]:
        fleet = fleet_of(config, names)
        state, scales = init_state(fleet.adapter, QUICK)
        keys = adapter_keys(fleet.adapter, fleet.names, seed=0)
        memory = make_step(graphdef, QUICK).lower(state, base, scales, fleet.batch(0, 3), keys).compile()
        return memory.memory_analysis().argument_size_in_bytes, sum(x.nbytes for x in jax.tree.leaves((state, scales)))

    (one, own_one), (four, own_four) = temporary(["a"]), temporary(["a", "b", "c", "d"])
    batches = 3 * (24 * 4 + 5 * 12)
    # All that grows with N is what belongs to the adapters: state, batch, keys.
    assert abs((four - one) - (own_four - own_one) - 3 * batches) < 1024


def test_losses_against_optax(model, config, tokens):
    """Chunked, gathered cross-entropy equals optax on the full logits."""
    rng = np.random.default_rng(0)
    positions = np.sort(rng.permuted(np.tile(np.arange(39), (2, 3, 1)), axis=-1)[..., :7], axis=-1)
    labels, weights = rng.integers(0, 97, (2, 3, 7)), (rng.random((2, 3, 7)) < 0.7).astype(np.float32)
    batch = {"tokens": tokens, "positions": positions, "labels": labels, "weights": weights}
    logits = model.logits(model(tokens).hidden)
    picked = np.take_along_axis(np.asarray(logits), positions[..., None], axis=2)
    losses = optax.softmax_cross_entropy_with_integer_labels(picked, labels)
    want = (losses * weights).sum((1, 2)) / weights.sum((1, 2))
    import lorajax.training.loss as module

    for chunk in (module.CHUNK, 8):  # one chunk, and several with the last one filled up
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CHUNK", chunk)
            np.testing.assert_allclose(answer_loss(model, None, batch), want, rtol=1e-6)


def test_remat_gives_the_same_gradients(model, config):
    fleet = fleet_of(config, ["a", "b"])
    factors, scales = split(fleet.adapter)
    batch = fleet.batch(0, 3)
    from lorajax.lora.adapter import join

    grads = [
        jax.grad(lambda f, r=remat: answer_loss(model, join(f, scales), batch, remat=r).sum())(factors)
        for remat in (False, True)
    ]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_matrix_work_is_what_the_count_says():
    """XLA counts a loop's body once, so one block and one chunk: forward 2P, backward 2P (activations only)."""
    config = ModelConfig(512, 128, 256, 1, 4, 2, 32)
    model = Llama(config, rngs=nnx.Rngs(0))
    graphdef, base = nnx.split(model)
    lora = LoraConfig(rank=1)
    N, B, T, R = 2, 4, 64, 4
    adapter = init_adapter(config, lora, ["a", "b"])
    state, scales = init_state(adapter, QUICK)
    batch = {
        "tokens": jnp.zeros((N, B, T), jnp.int32),
        "positions": jnp.zeros((N, B, R), jnp.int32),
        "labels": jnp.zeros((N, B, R), jnp.int32),
        "weights": jnp.ones((N, B, R)),
    }
    keys = adapter_keys(adapter, ["a", "b"], seed=0)
    flops = make_step(graphdef, QUICK).lower(state, base, scales, batch, keys).compile().cost_analysis()["flops"]
    linears = 128 * (128 + 64 + 64 + 128) + 3 * 128 * 256
    # q k^T and its product with v: 2 products forward, 4 backward, each 2 T^2 per head and channel.
    attention = 6 * 2 * T * 128
    tokens = N * B * T
    # Backward needs no gradient below the first adapted products: q and v take theirs from the adapter alone.
    first = 2 * 128 * (128 + 64 + 64)
    # The head: forward, forward again in the backward pass (chunks are recomputed), backward.
    head = N * B * R * 3 * 2 * 128 * 512
    expected = tokens * (4 * linears - first + attention) + head
    assert 0.97 * expected < flops < 1.12 * expected, flops / expected


def test_schedules():
    for kind, end in (("cosine", 0.0), ("linear", 0.0), ("constant", 1e-2)):
        rate = schedule(TrainConfig(steps=100, learning_rate=1e-2, warmup=0.1, schedule=kind))
        values = np.asarray([float(rate(i)) for i in range(101)])
        np.testing.assert_allclose(values[0], 1e-3, rtol=1e-5)
        np.testing.assert_allclose(values[9:11], 1e-2, rtol=1e-5)
        assert abs(values[100] - end) < 1e-6
    assert float(schedule(TrainConfig(warmup=0.0))(0)) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"schedule": "step"}, {"warmup": 1.0}]
)
def test_bad_settings(bad):
    with pytest.raises(LorajaxError, match="--"):
        TrainConfig(**bad)
