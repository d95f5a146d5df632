"""The fleet step: adapter i trained with others is adapter i trained alone; a killed run ends as an unkilled one."""

import dataclasses
import json
import math
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lorajax.data.batching import Layout
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import init_adapter, join, split, take
from lorajax.mesh import make_mesh
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Execution, Llama
from lorajax.training.config import TrainConfig
from lorajax.training.evaluate import Evaluator
from lorajax.training.fleet import shapes_of
from lorajax.training.loop import train
from lorajax.training.loss import answer_loss
from lorajax.training.step import init_state, layouts, learning_rate, make_step
from lorajax.training.stopping import Stopped
from tests.fleets import LORA, QUICK, assert_close, assert_same, fleet_of, tokenized


def test_one_of_a_fleet_equals_it_alone(model, config, tmp_path):
    settings = dataclasses.replace(QUICK, weight_decay=0.1, clip=0.5, lora_plus=4.0)
    names = ["E", "a", "b"]
    together = train(model, fleet_of(config, names), settings, tmp_path / "all", dropout=0.1).adapter
    for i, name in enumerate(names):
        alone = train(model, fleet_of(config, [name]), settings, tmp_path / name, dropout=0.1).adapter
        assert_close(take(together, [i]), alone)
    start = fleet_of(config, names).adapter
    moved = [float(jnp.abs(together[p].b - start[p].b).max()) for p in start]
    assert min(moved) > 1e-3


@pytest.mark.slow
def test_dropout_changes_the_result(model, config, tmp_path):
    """Otherwise the test above would hold without any dropout."""
    a, b = (train(model, fleet_of(config, ["a"]), QUICK, tmp_path / str(r), dropout=r).adapter for r in (0.0, 0.1))
    assert float(jnp.abs(a["mlp.up_proj"].b - b["mlp.up_proj"].b).max()) > 1e-3


@pytest.mark.slow
def test_sixteen_together_equal_sixteen_alone(model, config, tmp_path):
    names = [chr(97 + i) for i in range(16)]
    settings = dataclasses.replace(QUICK, steps=3)
    together = train(model, fleet_of(config, names), settings, tmp_path / "all").adapter
    for i, name in enumerate(names):
        alone = train(model, fleet_of(config, [name]), settings, tmp_path / name).adapter
        assert_close(take(together, [i]), alone)


def laid_out(model, config, folder, **other):
    """Adapters, and losses of all steps."""
    chosen = dataclasses.replace(QUICK, batch_size=6, **other)
    adapter = train(model, fleet_of(config, ["E", "a"]), chosen, folder).adapter
    return adapter, [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def usual(model, config, tmp_path_factory):
    return laid_out(model, config, tmp_path_factory.mktemp("usual") / "a")


@pytest.mark.everyday_cases(1)
@pytest.mark.parametrize(
    "other",
    [
        {"accumulate": 3, "packing": False},
        {"packing": False},
        {"remat": "none"},
        {"accumulate": 2},
        {"remat": "block"},
    ],
    ids=str,
)
def test_how_a_step_is_computed_changes_nothing(model, config, tmp_path, usual, other):
    """Packing, parts and what is kept are layouts of the same work: results differ by rounding."""
    (one, losses), (two, others) = usual, laid_out(model, config, tmp_path / "a", **other)
    for row, again in zip(losses, others, strict=True):
        assert row == pytest.approx(again, rel=2e-5)
    assert_close(one, two)


@pytest.mark.slow
def test_killed_run_ends_as_an_unkilled_one(model, config, tmp_path):
    fleet = fleet_of(config, ["E", "a"], steps=(6, 4))
    whole = train(model, fleet, QUICK, tmp_path / "whole", checkpoint_every=2).adapter

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
    assert_same(again.adapter, whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    rows = [json.loads(line) for line in logs[0].splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [sorted(row["loss"]) for row in rows] == [["E", "a"]] * 4 + [["E"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_with_a_checkpoint(model, config, tmp_path, number):
    fleet = fleet_of(config, ["a"])
    whole = train(model, fleet, QUICK, tmp_path / "whole").adapter

    def ask(progress):
        if progress.step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        train(model, fleet, QUICK, tmp_path / "stopped", report=ask)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    last = lambda progress: os.kill(os.getpid(), number) if progress.step == 6 else None
    with pytest.raises(Stopped):  # in the last step, too: else nobody would hear of it
        train(model, fleet, QUICK, tmp_path / "last", report=last)
    assert_same(train(model, fleet, QUICK, tmp_path / "last").adapter, whole)
    steps = []
    again = train(model, fleet, QUICK, tmp_path / "stopped", report=lambda p: steps.append(p.step)).adapter
    assert steps[0] > 2  # there was no other checkpoint to go on from
    assert_same(again, whole)
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "stopped/metrics.jsonl").read_text()


def test_finished_run_is_not_run_again(model, config, tmp_path):
    fleet = fleet_of(config, ["a"])
    first = train(model, fleet, QUICK, tmp_path).adapter
    again = train(model, fleet, QUICK, tmp_path, report=lambda p: pytest.fail("a step was run")).adapter
    assert_same(first, again)


def test_training_learns(model, config, tmp_path):
    fleet = fleet_of(config, ["a"], steps=(60,))
    adapter = train(model, fleet, TrainConfig(steps=60, batch_size=8, learning_rate=2e-2), tmp_path).adapter
    evaluate = Evaluator(model, rows=6, pad=0)
    before, _ = evaluate(fleet.adapter, tokenized(0))
    after, tokens = evaluate(adapter, tokenized(0))
    assert after[0] < 0.5 * before[0]
    assert tokens == sum(len(a) for a in tokenized(0).answers)


@pytest.mark.slow
def test_own_steps_and_rates(model, config, tmp_path):
    """Adapters with other lengths and rates in one fleet equal runs with these settings, to rounding."""
    fleet = fleet_of(config, ["a", "b", "c"], steps=(2, 6, 4), rates=(1e-2, 2e-2, 5e-3))
    together = train(model, fleet, QUICK, tmp_path / "all")
    assert together.steps == {"a": 2, "b": 6, "c": 4}
    for i, (name, steps, rate) in enumerate(zip("abc", fleet.steps, fleet.learning_rates, strict=True)):
        settings = dataclasses.replace(QUICK, steps=steps, learning_rate=rate)
        alone = train(model, fleet_of(config, [name], settings=settings), settings, tmp_path / name).adapter
        assert_close(take(together.adapter, [i]), alone)


def test_a_finished_adapter_is_frozen_to_the_bit(model, config):
    fleet = fleet_of(config, ["a", "b"], steps=(2, 5))
    step, state, base, fixed = prepared(model, fleet, dataclasses.replace(QUICK, weight_decay=0.1))
    kept = None
    for number in range(5):
        if number == 2:
            kept = jax.tree.map(lambda x: np.array(x), (state.factors, state.optimizer))
        state, _ = step(state, base, fixed, batch_of(fleet, number))
    assert step._cache_size() == 1  # nothing was compiled again for it
    factors, optimizer = state.factors, state.optimizer
    for was, now in zip(*map(jax.tree.leaves, (kept[0], factors)), strict=True):
        np.testing.assert_array_equal(was[:, 0], now[:, 0])
        assert np.abs(was[:, 1] - np.asarray(now[:, 1])).max() > 0
    for was, now in zip(*map(jax.tree.leaves, (kept[1], optimizer)), strict=True):
        np.testing.assert_array_equal(was[0], now[0])


def test_diverging_adapter_stops_alone(model, config, tmp_path):
    fleet = fleet_of(config, ["a", "b"])
    broken = jax.tree.map(lambda x: x.at[:, 1].set(jnp.nan), fleet.adapter)
    result = train(model, dataclasses.replace(fleet, adapter=broken), QUICK, tmp_path / "two")
    assert result.failed == {"b": 1}
    assert result.steps == {"a": 6, "b": 0}
    alone = train(model, fleet_of(config, ["a"]), QUICK, tmp_path / "one")
    assert_close(take(result.adapter, [0]), alone.adapter)
    rows = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert all(list(row["loss"]) == ["a"] for row in rows)


@pytest.mark.slow
def test_divergence_in_the_middle_keeps_the_state_before(model, config, tmp_path):
    """A learning rate that overflows: what is left is finite, and the others never notice."""
    fleet = fleet_of(config, ["a", "b"], rates=(1e-2, 1e36))
    settings = dataclasses.replace(QUICK, schedule="constant", warmup=0.0, clip=0.0)
    result = train(model, fleet, settings, tmp_path / "two")
    assert list(result.failed) == ["b"]
    assert result.failed["b"] > 1
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(result.adapter))
    alone = train(model, fleet_of(config, ["a"]), settings, tmp_path / "one").adapter
    assert_close(take(result.adapter, [0]), alone)


@pytest.mark.slow
def test_early_stopping_keeps_the_best(model, config, tmp_path):
    """Validation on other data than the training's: it gets worse once the adapter learns by heart."""
    settings = TrainConfig(
        steps=60, batch_size=8, learning_rate=5e-2, evaluate_every=4, patience=2, schedule="constant", warmup=0.0
    )
    fleet = dataclasses.replace(
        fleet_of(config, ["a", "b"], settings=settings), validation=(tokenized(7), tokenized(8))
    )
    result = train(model, fleet, settings, tmp_path / "whole", checkpoint_every=1000)
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    evaluate = Evaluator(model, rows=8, pad=0)
    for i, (name, held) in enumerate(zip("ab", fleet.validation, strict=True)):
        curve = {row["step"]: row["validation"][name] for row in rows if name in row.get("validation", {})}
        assert list(curve) == list(range(4, result.steps[name] + 1, 4))
        best = min(curve, key=curve.get)
        assert result.steps[name] == best + 2 * 4 < 60  # two measurements without a better one
        assert evaluate(take(result.adapter, [i]), held)[0][0] == pytest.approx(curve[best], rel=1e-5)
        assert max(row["step"] for row in rows if name in row["loss"]) == result.steps[name]

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 13:
            raise Killed

    with pytest.raises(Killed):
        train(model, fleet, settings, tmp_path / "killed", checkpoint_every=6, report=kill)
    again = train(model, fleet, settings, tmp_path / "killed", checkpoint_every=6)
    assert_same(again.adapter, result.adapter)
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "killed/metrics.jsonl").read_text()


@pytest.mark.slow
def test_early_stopping_is_the_same_alone(model, config, tmp_path):
    """A shorter adapter is measured at its own last step, as it would be alone."""
    settings = dataclasses.replace(QUICK, steps=9, evaluate_every=4, patience=3)
    fleet = fleet_of(config, ["a", "b"], steps=(6, 9))
    fleet = dataclasses.replace(fleet, validation=(tokenized(0), tokenized(1)))
    train(model, fleet, settings, tmp_path / "two")
    lines = (tmp_path / "two/metrics.jsonl").read_text().splitlines()
    measured = {row["step"]: sorted(row["validation"]) for row in map(json.loads, lines) if "validation" in row}
    assert measured == {4: ["a", "b"], 6: ["a", "b"], 8: ["b"], 9: ["b"]}


def prepared(model, fleet, settings, mesh=None):
    """Step, state, base and what is fixed, on `mesh`."""
    graphdef, base = nnx.split(model)
    mesh = mesh or make_mesh()
    start = init_state(fleet.adapter, settings, fleet.names, steps=fleet.steps, learning_rates=fleet.learning_rates)
    placed = layouts(mesh, *start)
    return (
        make_step(graphdef, settings, mesh, placed[0]),
        *jax.device_put(start, placed)[:1],
        base,
        jax.device_put(start, placed)[1],
    )


def batch_of(fleet, number, layout=Layout(3, 24, 8)):
    return jax.device_put(fleet.batch(number, layout, dataclasses.replace(QUICK, packing=False)))


def test_step_compiles_once_and_base_is_an_argument(model, config):
    fleet = fleet_of(config, ["E", "a", "b"])
    step, state, base, fixed = prepared(model, fleet, QUICK)
    for number in range(4):
        state, _ = step(state, base, fixed, batch_of(fleet, number))
    assert step._cache_size() == 1

    def arguments(names) -> tuple[int, int]:
        fleet = fleet_of(config, names)
        step, state, base, fixed = prepared(model, fleet, QUICK)
        memory = step.lower(state, base, fixed, batch_of(fleet, 0)).compile().memory_analysis()
        own = sum(x.nbytes for x in jax.tree.leaves((state, fixed.scales)))
        return memory.argument_size_in_bytes, own

    (one, own_one), (four, own_four) = arguments(["a"]), arguments(["a", "b", "c", "d"])
    batches = 3 * (24 * 4 + 8 * 12)
    # All that grows with N is what belongs to the adapters: state, batch, keys.
    assert abs((four - one) - (own_four - own_one) - 3 * batches) < 1024


def test_losses_against_optax(model, config, tokens):
    """Chunked, gathered cross-entropy equals optax on the full logits; so do its gradients."""
    rng = np.random.default_rng(0)
    predict = np.sort(rng.permuted(np.tile(np.arange(39), (2, 3, 1)), axis=-1)[..., :7], axis=-1)
    labels, weights = rng.integers(0, 97, (2, 3, 7)), (rng.random((2, 3, 7)) < 0.7).astype(np.float32)
    batch = {"tokens": tokens, "predict": predict, "labels": labels, "weights": weights}
    factors, scales = split(fleet_of(config, ["a", "b"]).adapter)
    factors = jax.tree.map(lambda x: x + 0.1, factors)

    def plain(factors):
        hidden = model(tokens, join(factors, scales), execution=Execution("none")).hidden
        picked = jnp.take_along_axis(model.logits(hidden), predict[..., None], axis=2)
        losses = optax.softmax_cross_entropy_with_integer_labels(picked, labels)
        return (losses * weights).sum((1, 2)) / weights.sum((1, 2))

    want, want_grads = plain(factors), jax.grad(lambda f: plain(f) @ jnp.asarray([1.0, 3.0]))(factors)
    import lorajax.training.loss as module

    for chunk in (module.CHUNK, 12):  # one chunk, and several with the last one filled up
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CHUNK", chunk)
            ours = lambda f: answer_loss(model, join(f, scales), batch)
            np.testing.assert_allclose(ours(factors), want, rtol=1e-6)
            grads = jax.grad(lambda f, ours=ours: ours(f) @ jnp.asarray([1.0, 3.0]))(factors)
            for found, expected in zip(*map(jax.tree.leaves, (grads, want_grads)), strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("sure", [0.0, 20.0])
def test_gradient_in_bfloat16_where_the_model_is_sure(sure):
    """The head's gradient in bfloat16 is within 2 % of float32's, however little of it is left."""
    config = ModelConfig(512, 64, 64, 1, 4, 4, 16, tie_embeddings=True)
    model = Llama(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 512, (1, 1, 16))
    rows = np.asarray(model.embedding[...].astype(jnp.float32))
    hidden = rng.standard_normal((1, 1, 1, 16, 64)) + sure * rows[labels][None] / np.square(rows[labels]).sum(-1).mean()
    hidden = jnp.asarray(hidden, jnp.bfloat16)
    from lorajax.training.loss import _chunked_sums

    graphdef, state = nnx.split(model)
    weights = jnp.ones((1, 1, 1, 16))
    loss = lambda h: _chunked_sums(graphdef, state, h, jnp.asarray(labels[None]), weights)[0]
    found = jax.grad(loss)(hidden).astype(jnp.float32)

    def exact(h):
        logits = h @ rows.T
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[None][..., None], -1).sum()

    want = jax.grad(exact)(hidden.astype(jnp.float32))
    if sure:
        assert float(loss(hidden)) / 16 < 0.02
    off = jnp.linalg.norm(found - want, axis=-1) / jnp.linalg.norm(want, axis=-1)
    assert float(off.max()) < 0.02, off


@pytest.mark.everyday_cases(1)
@pytest.mark.parametrize("untied", [False, True])
def test_no_full_logits_in_the_program(untied):
    """No array of the compiled step is as large as `[B, T, V]`."""
    config = ModelConfig(4096, 32, 64, 2, 4, 2, 8, tie_embeddings=not untied)
    model = Llama(config, rngs=nnx.Rngs(0))
    fleet = fleet_of(config, ["a", "b"])
    layout = Layout(16, 512, 512)
    shapes, dtypes = shapes_of(layout, 2, packed=False)
    batch = {key: jax.ShapeDtypeStruct(shapes[key], dtypes[key]) for key in shapes}
    step, state, base, fixed = prepared(model, fleet, QUICK)
    lowered = step.lower(state, base, fixed, batch)
    full = 2 * 16 * 512 * 4096
    sizes = [[int(n) for n in dims.split(",")] for dims in re.findall(r"f32\[([\d,]+)\]", lowered.compile().as_text())]
    largest = max(math.prod(dims) for dims in sizes if 4096 in dims)
    assert 1024 * 4096 <= largest < full / 8


def test_matrix_work_is_what_the_count_says():
    """XLA counts a loop's body once, so one block and one chunk: forward 2P, backward 2P (activations only)."""
    config = ModelConfig(512, 128, 256, 1, 4, 2, 32)
    model = Llama(config, rngs=nnx.Rngs(0))
    N, B, T, R = 2, 4, 64, 4
    fleet = fleet_of(config, ["a", "b"], lora=dataclasses.replace(LORA, rank=1, targets=("q_proj", "v_proj")))
    step, state, base, fixed = prepared(model, fleet, dataclasses.replace(QUICK, remat="none"))
    shapes, dtypes = shapes_of(Layout(B, T, R), N, packed=False)
    batch = {key: jax.ShapeDtypeStruct(shapes[key], dtypes[key]) for key in shapes}
    flops = step.lower(state, base, fixed, batch).compile().cost_analysis()["flops"]
    linears = 128 * (128 + 64 + 64 + 128) + 3 * 128 * 256
    # q k^T and its product with v: 2 products forward, 4 backward, each 2 T^2 per head and channel.
    attention = 6 * 2 * T * 128
    tokens = N * B * T
    # Backward needs no gradient below the first adapted products: q and v take theirs from the adapter alone.
    first = 2 * 128 * (128 + 64 + 64)
    # The head: scores, and the gradient with respect to the hidden states.
    head = N * B * R * 2 * 2 * 128 * 512
    expected = tokens * (4 * linears - first + attention) + head
    assert 0.97 * expected < flops < 1.12 * expected, flops / expected


def test_schedules_against_optax():
    for kind, end in (("cosine", 0.0), ("linear", 0.0), ("constant", 1e-2)):
        config = TrainConfig(schedule=kind, warmup=0.1)
        values = np.asarray(learning_rate(config, np.arange(101), 100, 1e-2))
        after = {
            "cosine": optax.cosine_decay_schedule(1e-2, 90),
            "linear": optax.linear_schedule(1e-2, 0.0, 90),
            "constant": optax.constant_schedule(1e-2),
        }[kind]
        want = optax.join_schedules([optax.linear_schedule(1e-3, 1e-2, 9), after], [10])
        np.testing.assert_allclose(values, [float(want(i)) for i in range(101)], rtol=1e-5, atol=1e-9)
        assert abs(values[100] - end) < 1e-6
    assert float(learning_rate(TrainConfig(warmup=0.0), 0, 200, 1e-3)) == pytest.approx(1e-3)


def test_initial_state_is_a_copy(model, config):
    """The step donates its state: the caller's adapter must outlive it."""
    adapter = init_adapter(config, LORA, ["a"])
    step, state, base, fixed = prepared(model, fleet_of(config, ["a"]), QUICK)
    step(state, base, fixed, batch_of(fleet_of(config, ["a"]), 0))
    assert bool(jnp.isfinite(adapter["mlp.up_proj"].a).all())


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"schedule": "step"},
        {"warmup": 1.0},
        {"remat": "some"},
        {"lora_plus": -1.0},
        {"patience": 3},
        {"accumulate": 0},
        {"per_adapter": ("E.steps=none",)},
        {"per_adapter": ("steps=4",)},
        {"per_adapter": ("E.size=4",)},
    ],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(LorajaxError, match="--"):
        TrainConfig(**bad)


def test_settings_of_single_adapters():
    config = TrainConfig(epochs=2.0, batch_size=8, per_adapter=("w*.steps=7", "wmt.steps=9", "E.learning_rate=5e-4"))
    assert [config.steps_for(name, 100) for name in ("a", "wnli", "wmt", "E")] == [25, 7, 9, 25]
    assert config.own("E") == {"learning_rate": 5e-4}
    config.check_names(["wmt", "E"])
    with pytest.raises(LorajaxError, match=r"--per-adapter E\.learning_rate=5e-4: no adapter of that name"):
        config.check_names(["wmt"])
