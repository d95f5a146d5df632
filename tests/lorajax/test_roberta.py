"""The encoder and its heads: padding, packing, fleets, classes. Parity with transformers is in tests/parity."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lorajax.activations import HiddenStates
from lorajax.confusion import accuracy, majority, matthews
from lorajax.data.batching import Layout, Stream, lay_out
from lorajax.data.classes import Classes, find_classes
from lorajax.data.prompts import PromptConfig, Tokenized, join, pick, tokenize
from lorajax.data.task import Example, Task
from lorajax.errors import LorajaxError
from lorajax.generation import generate
from lorajax.lora.adapter import (
    LoraConfig,
    head_of,
    init_adapter,
    loras,
    size,
    split,
    stack,
    take,
    with_classes,
    zeros_like,
)
from lorajax.lora.adapter import join as join_factors
from lorajax.lora.head import HEAD
from lorajax.lora.merge import merge_adapters
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.lora.targets import linear_shapes, target_layers
from lorajax.lora.updates import read_updates
from lorajax.mesh import make_mesh
from lorajax.models.checkpoint import load
from lorajax.models.kinds import build, read_config
from lorajax.models.roberta_config import RobertaConfig
from lorajax.models.roberta_tensors import roberta_tensors
from lorajax.models.weights import merge, save_hf
from lorajax.training.ablation import MaskedLosses
from lorajax.training.capacity import Setup, abstract_arguments
from lorajax.training.config import TrainConfig
from lorajax.training.evaluate import Evaluator
from lorajax.training.fleet import Fleet
from lorajax.training.loop import train
from lorajax.training.loss import answer_loss, answer_sums
from lorajax.training.step import init_state
from tests.conftest import randomize
from tests.fleets import assert_close, assert_same
from tests.tiny_encoder import TINY_ENCODER, tiny_encoder

CLASSES = Classes((("a", "no"), ("a", "yes"), ("b", "x"), ("b", "y"), ("b", "z")))
LORA = LoraConfig(rank=2, targets=("all-linear",), init="independent")
QUICK = TrainConfig(steps=6, batch_size=3, learning_rate=1e-2)
PAD = TINY_ENCODER.pad_token_id


@pytest.fixture(scope="module")
def encoder():
    from lorajax.mesh import replicate

    graphdef, state = nnx.split(build(TINY_ENCODER))
    return nnx.merge(graphdef, replicate(state, make_mesh()))


def texts(seed, lengths):
    rng = np.random.default_rng(seed)
    return [np.r_[0, rng.integers(4, 260, n - 2), 2].astype(np.int32) for n in lengths]


def examples(seed, numbers, count=20) -> Tokenized:
    """Texts of 4 to 14 tokens of the classes `numbers`."""
    rng = np.random.default_rng(seed)
    prompts = texts(seed, rng.integers(4, 15, count))
    return Tokenized(
        tuple(prompts), tuple(np.array([c], np.int32) for c in rng.choice(numbers, count)), classes=CLASSES
    )


SETS = {"a": examples(0, [0, 1]), "b": examples(1, [2, 3, 4])}
SETS["E"] = join(list(SETS.values()))


def new(names=("a",), lora=LORA, classes=CLASSES, seed=0):
    return init_adapter(TINY_ENCODER, lora, names, classes=classes, seed=seed)


def random_adapter(names=("a", "b"), seed=7):
    """Random updates and heads."""
    adapter = new(names, seed=seed)
    noise = lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size + seed), x.shape)
    return randomize(loras(adapter), seed) | {HEAD: jax.tree.map(noise, head_of(adapter))}


def fleet_of(names, *, settings=QUICK, steps=None, validation=()) -> Fleet:
    return Fleet(
        names=tuple(names),
        adapter=new(names),
        streams=tuple(Stream(name, [SETS[name]], seed=0) for name in names),
        steps=steps or (settings.steps,) * len(names),
        learning_rates=(settings.learning_rate,) * len(names),
        pad=PAD,
        validation=validation,
    )


def batch_of(own: Tokenized, *, packed, N=1):
    laid = lay_out(own.rows, Layout(len(own), 32, 16), pad=PAD, packed=packed)
    return {key: np.repeat(value[None], N, axis=0) for key, value in laid.items()}


class TestEncoder:
    def test_padding_and_neighbours_change_nothing(self, encoder):
        """Each text alone, padded, and packed with others into one row: the same hidden states."""
        parts = texts(0, [9, 5, 12])
        adapter = take(random_adapter(), [0])
        packed = np.full((1, 1, 40), PAD, np.int32)
        packed[0, 0, :26] = np.concatenate(parts)
        segments = np.zeros_like(packed)
        segments[0, 0, :26] = np.repeat([1, 2, 3], [9, 5, 12])
        together = encoder(packed, adapter, segments=segments).hidden[0, 0]
        start = 0
        for part in parts:
            alone = encoder(part[None, None], adapter).hidden[0, 0]
            padded = encoder(np.pad(part, (0, 7), constant_values=PAD)[None, None], adapter).hidden[0, 0]
            np.testing.assert_allclose(padded[: len(part)], alone, atol=1e-5)
            np.testing.assert_allclose(together[start : start + len(part)], alone, atol=1e-5)
            start += len(part)

    def test_one_of_a_set_is_that_adapter_alone(self, encoder):
        adapter, tokens = random_adapter(), np.stack([np.stack(texts(n, [20, 20])) for n in (1, 2)])
        both = encoder(tokens, adapter, collect=lambda h: h)
        for n in range(2):
            alone = encoder(tokens[n : n + 1], take(adapter, [n]), collect=lambda h: h)
            np.testing.assert_allclose(both.states[:, n], alone.states[:, 0], atol=1e-5)
        assert both.states.shape == (3, 2, 2, 20, 32)
        np.testing.assert_array_equal(both.states[-1], both.hidden)
        assert np.abs(both.hidden - encoder(tokens).hidden).max() > 0.05

    @pytest.mark.everyday_cases(1)
    @pytest.mark.parametrize("kind", ["int8", "nf4"])
    def test_quantised(self, kind, tmp_path):
        """As far from the model as rounding takes it, in every block: and no farther."""
        folder, tokens = tiny_encoder(tmp_path / "m"), np.stack(texts(3, [30, 30]))[None]
        whole, small = (load(str(folder), quantize=q).model(tokens).hidden for q in ("none", kind))
        assert 1e-4 < np.abs(small - whole).max() < (0.1 if kind == "int8" else 1.0)

    def test_bfloat16(self, tmp_path):
        folder, tokens = tiny_encoder(tmp_path / "m"), np.stack(texts(3, [30, 30]))[None]
        whole, half = (load(str(folder), dtype=d).model(tokens).hidden for d in (jnp.float32, jnp.bfloat16))
        assert half.dtype == jnp.bfloat16
        assert np.abs(half - whole).max() < 0.1

    def test_every_parameter_has_one_tensor(self, encoder):
        paths = [tensor.path for tensor in roberta_tensors(TINY_ENCODER)]
        flat = dict(nnx.to_flat_state(nnx.split(encoder)[1]))
        assert sorted(paths) == sorted(flat)
        assert sum(x[...].size for x in flat.values()) == TINY_ENCODER.parameter_count()

    @pytest.mark.slow
    def test_its_first_token_is_measured(self, encoder):
        prompts = texts(5, [9, 17, 5])
        made = HiddenStates(encoder, batch_size=2, pad=PAD)(take(random_adapter(), [0]), prompts)
        for i, prompt in enumerate(prompts):
            want = encoder(prompt[None, None], take(random_adapter(), [0]), collect=lambda h: h).states[:, 0, 0, 0]
            np.testing.assert_allclose(np.asarray(made.values)[0, :, i], want, atol=1e-5)


class TestConfig:
    def test_round_trip(self):
        config = dataclasses.replace(TINY_ENCODER, token_types=2, norm_eps=1e-6, pad_token_id=3)
        assert RobertaConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported; expected 'gelu'"),
            ({"position_embedding_type": "relative_key"}, "position_embedding_type .* expected 'absolute'"),
            ({"is_decoder": True}, "is_decoder True is not supported"),
            ({"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
            ({"pad_token_id": None}, "pad_token_id must be a token id"),
            ({"num_hidden_layers": "2"}, "num_hidden_layers must be a positive whole number, found '2'"),
            ({"architectures": ["BertModel"]}, "architecture 'BertModel' is not one of"),
        ],
    )
    def test_what_is_not_computed_is_refused(self, keys, message, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(TINY_ENCODER.to_hf() | keys))
        with pytest.raises(LorajaxError, match=message):
            read_config(tmp_path / "config.json")

    def test_targets(self):
        decoders = target_layers(LoraConfig().targets, TINY_ENCODER)
        assert list(decoders) == ["attention.self.query", "attention.self.value"]
        assert list(target_layers(["dense"], TINY_ENCODER)) == [p for p in linear_shapes(TINY_ENCODER) if "dense" in p]
        assert list(target_layers(["attention.output.dense", "key"], TINY_ENCODER)) == [
            "attention.self.key",
            "attention.output.dense",
        ]
        with pytest.raises(LorajaxError, match="target 'up_proj' matches no linear module; there are: attention.self"):
            target_layers(["up_proj"], TINY_ENCODER)

    def test_tokenizer_from_vocabulary_and_merges(self, tmp_path):
        checkpoint = load(str(tiny_encoder(tmp_path / "m")))
        assert checkpoint.tokenizer("ab")["input_ids"] == [
            0,
            *checkpoint.tokenizer.convert_tokens_to_ids(["a", "b"]),
            2,
        ]
        words = json.loads((tmp_path / "m" / "vocab.json").read_text())
        (tmp_path / "m" / "vocab.json").write_text(json.dumps(words | {"more": len(words)}))
        assert load(str(tmp_path / "m")).fingerprint != checkpoint.fingerprint

    def test_another_padding_than_the_tokenizers(self, tmp_path):
        folder = tiny_encoder(tmp_path / "m")
        keys = json.loads((folder / "config.json").read_text())
        keys |= {"pad_token_id": 0, "max_position_embeddings": keys["max_position_embeddings"]}
        (folder / "config.json").write_text(json.dumps(keys))
        with pytest.raises(LorajaxError, match=r"tokenizer pads with token 1; the model's config.json says .* 0"):
            load(str(folder))


class TestHead:
    @pytest.mark.slow
    def test_classes_of_other_tasks_take_no_part(self, encoder):
        """Neither in the loss nor in the gradients, which are those of a head for the one task."""
        adapter, batch = random_adapter(["a"]), batch_of(SETS["b"], packed=True)
        own = with_classes(adapter, CLASSES.of("b"))
        alone = {**batch, "labels": np.maximum(batch["labels"] - 2, 0)}

        def gradients(adapter, batch):
            factors, scales = split(adapter)
            loss = lambda f: answer_loss(encoder, join_factors(f, scales), batch).sum()
            return jax.value_and_grad(loss)(factors)

        (loss, wide), (expected, narrow) = gradients(adapter, batch), gradients(own, alone)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert not wide[HEAD]["out"][..., :2].any()
        assert not wide[HEAD]["out_bias"][..., :2].any()
        assert np.abs(narrow[HEAD]["out"]).max() > 1e-3
        cut = {**wide, HEAD: wide[HEAD] | {name: wide[HEAD][name][..., 2:] for name in ("out", "out_bias")}}
        for found, want in zip(jax.tree.leaves(cut), jax.tree.leaves(narrow), strict=True):
            np.testing.assert_allclose(found, want, atol=1e-6)

    def test_without_a_head_all_classes_are_alike(self, encoder):
        evaluate = Evaluator(encoder, rows=4, pad=PAD)
        adapter = stack([zeros_like(random_adapter(["a"])), randomize(loras(new())), random_adapter(["a"])])
        for name, count in (("a", 2), ("b", 3)):
            losses, number = evaluate(adapter, SETS[name])
            np.testing.assert_allclose(losses[:2], np.log(count), rtol=1e-6)
            assert abs(losses[2] - np.log(count)) > 0.01
            assert number == 20

    def test_a_class_that_it_has_never_heard_of_has_score_zero(self):
        head = head_of(take(random_adapter(), [0]))
        h = jax.random.normal(jax.random.key(0), (1, 1, 4, 32))
        more = Classes((("c", "new"), *CLASSES.names[::-1]))
        found = head.with_classes(more).scores(h)
        np.testing.assert_allclose(found[..., 1:], head.scores(h)[..., ::-1], atol=1e-6)
        assert not found[..., 0].any()
        assert head.with_classes(more).with_classes(CLASSES).classes == CLASSES

    def test_split_take_and_stack(self):
        adapter = random_adapter(["a", "b", "c"])
        assert size(adapter) == 3
        assert_same(join_factors(*split(adapter)), adapter)
        assert_same(stack([take(adapter, [0]), take(adapter, [2, 1])]), take(adapter, [0, 2, 1]))
        factors, _ = split(adapter)
        assert all(leaf.ndim == 4 and leaf.shape[1] == 3 for leaf in jax.tree.leaves(factors))

    def test_initial_values_depend_on_seed_name_and_label_alone(self):
        wide, narrow = new(["a", "b"]), new(["b"], classes=CLASSES.of(["b"]))
        np.testing.assert_array_equal(wide[HEAD].out[:, 1:, :, 2:], narrow[HEAD].out)
        np.testing.assert_array_equal(wide[HEAD].dense[:, 1:], narrow[HEAD].dense)
        assert np.abs(wide[HEAD].out[:, 0] - wide[HEAD].out[:, 1]).max() > 0.01
        shared = new(["a", "b"], lora=dataclasses.replace(LORA, init="shared"))
        np.testing.assert_array_equal(shared[HEAD].out[:, 0], shared[HEAD].out[:, 1])
        large = init_adapter(dataclasses.replace(TINY_ENCODER, hidden_size=256), LORA, ["a"], classes=CLASSES)
        np.testing.assert_allclose(np.std(large[HEAD].dense), TINY_ENCODER.initializer_range, rtol=0.02)

    def test_what_cannot_be_done_with_it(self, encoder, config, tmp_path):
        adapter = random_adapter(["a"])
        with pytest.raises(LorajaxError, match="a classification head is for an encoder; found LlamaForCausalLM"):
            init_adapter(config, LoraConfig(), ["a"], classes=CLASSES)
        with pytest.raises(LorajaxError, match="the adapters have none"):
            answer_sums(encoder, loras(adapter), batch_of(SETS["a"], packed=True))
        with pytest.raises(LorajaxError, match="generation needs a decoder"):
            generate(encoder, None, [texts(0, [5])])
        with pytest.raises(LorajaxError, match="with classification heads cannot be merged"):
            merge_adapters([adapter, adapter])
        with pytest.raises(LorajaxError, match="cannot be merged into a model"):
            save_hf(encoder, tmp_path / "out", adapter=adapter)

    def test_updates_without_a_head_merge_into_the_encoder(self, encoder):
        adapter, tokens = loras(random_adapter(["a"])), np.stack(texts(4, [12, 12]))[None]
        np.testing.assert_allclose(merge(encoder, adapter)(tokens).hidden, encoder(tokens, adapter).hidden, atol=1e-5)


class TestFiles:
    def test_round_trip(self, tmp_path):
        adapter = take(random_adapter(), [1])
        save_adapter(adapter, LORA, tmp_path / "x", base="tiny", notes={"steps": 3})
        found, lora = load_adapter(tmp_path / "x", TINY_ENCODER)
        assert_same(found, adapter)
        assert lora.rank == 2
        assert json.loads((tmp_path / "x/lorajax.json").read_text())["steps"] == 3
        target_layers(lora.targets, TINY_ENCODER)  # what is stated can be asked for again
        updates = read_updates(tmp_path / "x")
        assert "4 tensors beside the low-rank updates" in updates.notes[0]
        assert "roberta.encoder.layer.*.attention.self.query" in updates.modules

    def test_labels_that_are_not_known(self, encoder, tmp_path):
        """As in a folder of peft's own: it can be used for its scores, not for the classes of a study."""
        adapter = take(random_adapter(), [0])
        save_adapter(adapter, LORA, tmp_path / "x", base="tiny")
        (tmp_path / "x/lorajax.json").unlink()
        found, _ = load_adapter(tmp_path / "x", TINY_ENCODER)
        np.testing.assert_array_equal(found[HEAD].out, adapter[HEAD].out)
        with pytest.raises(LorajaxError, match="head of 5 classes whose labels are not known"):
            Evaluator(encoder, rows=4, pad=PAD)(found, SETS["a"])
        save_adapter(found, LORA, tmp_path / "y", base="tiny")
        assert not (tmp_path / "y/lorajax.json").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("base_model.model.classifier.out_proj.bias"), "head has no out_proj.bias"),
            (lambda t: t.update({"base_model.model.classifier.dense.weight": np.zeros((3, 3), np.float32)}),
             r"dense.weight has shape \[3, 3\]; expected \[32, 32\]"),
            (lambda t: t.update({"base_model.model.score.weight": np.zeros((3, 3), np.float32)}),
             "score.weight belongs to no linear module"),
        ],
    )  # fmt: skip
    def test_broken_heads(self, change, message, tmp_path):
        from safetensors.numpy import load_file, save_file

        save_adapter(take(random_adapter(), [0]), LORA, tmp_path, base="tiny")
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(LorajaxError, match=message):
            load_adapter(tmp_path, TINY_ENCODER)

    def test_notes_of_another_head(self, tmp_path):
        save_adapter(take(random_adapter(), [0]), LORA, tmp_path, base="tiny")
        (tmp_path / "lorajax.json").write_text(json.dumps({"classes": [["a", "no"], ["a", "yes"]]}))
        with pytest.raises(LorajaxError, match=r"out_proj.weight has shape \[5, 32\].* and 2 classes"):
            load_adapter(tmp_path, TINY_ENCODER)
        (tmp_path / "lorajax.json").write_text(json.dumps({"classes": "no"}))
        with pytest.raises(LorajaxError, match=r"lorajax.json: classes must be a list of \[task, label\]"):
            load_adapter(tmp_path, TINY_ENCODER)

    def test_a_decoder_has_no_place_for_a_head(self, config, tmp_path):
        save_adapter(init_adapter(config, LORA, ["a"]), LORA, tmp_path, base="tiny")
        keys = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(keys | {"modules_to_save": ["classifier"]}))
        with pytest.raises(LorajaxError, match="modules_to_save .* is not supported"):
            load_adapter(tmp_path, config)


class TestTraining:
    @pytest.mark.slow
    def test_one_of_a_fleet_equals_it_alone(self, encoder, tmp_path):
        together = train(encoder, fleet_of("abE"), QUICK, tmp_path / "all").adapter
        for i, name in ((0, "a"), (2, "E")):
            assert_close(take(together, [i]), train(encoder, fleet_of(name), QUICK, tmp_path / name).adapter)
        start = new("abE")[HEAD]
        np.testing.assert_array_equal(together[HEAD].out[:, 0, :, 2:], start.out[:, 0, :, 2:])  # classes of b
        assert np.abs(together[HEAD].out[:, 2] - start.out[:, 2]).min(axis=(0, 1)).max() > 0
        assert np.abs(together[HEAD].dense - start.dense).max() > 1e-3

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "other", [dict(packing=False), dict(accumulate=2), dict(remat="none"), dict(remat="block")]
    )
    def test_how_a_step_is_computed_changes_nothing(self, encoder, other, tmp_path):
        usual = train(encoder, fleet_of("aE"), QUICK, tmp_path / "usual").adapter
        assert_close(train(encoder, fleet_of("aE"), dataclasses.replace(QUICK, **other), tmp_path / "x").adapter, usual)

    @pytest.mark.slow
    def test_on_a_mesh(self, encoder, tmp_path):
        from lorajax.mesh import replicate

        graphdef, state = nnx.split(encoder)
        spread = nnx.merge(graphdef, replicate(jax.device_get(state), make_mesh(data=2, fsdp=2)))
        found = train(spread, fleet_of("aE"), QUICK, tmp_path / "mesh").adapter
        assert_close(found, train(encoder, fleet_of("aE"), QUICK, tmp_path / "one").adapter)

    @pytest.mark.slow
    def test_killed_run_ends_as_an_unkilled_one(self, encoder, tmp_path):
        class Killed(Exception):
            pass

        def kill(progress):
            if progress.step == 5:
                raise Killed

        settings = dataclasses.replace(QUICK, steps=8, evaluate_every=2, patience=4)
        fleet = fleet_of("aE", settings=settings, validation=(SETS["a"], SETS["E"]))
        whole = train(encoder, fleet, settings, tmp_path / "whole", dropout=0.1)
        with pytest.raises(Killed):
            train(encoder, fleet, settings, tmp_path / "killed", dropout=0.1, checkpoint_every=2, report=kill)
        again = train(encoder, fleet, settings, tmp_path / "killed", dropout=0.1, checkpoint_every=2)
        assert_same(again.adapter, whole.adapter)
        assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "killed/metrics.jsonl").read_text()

    @pytest.mark.slow
    def test_it_learns(self, encoder, tmp_path):
        """Every label of the training data, by heart; and what is taken for what is counted."""
        settings = TrainConfig(steps=80, batch_size=10, learning_rate=1e-2)
        trained = train(encoder, fleet_of("b", settings=settings), settings, tmp_path).adapter
        found = Evaluator(encoder, rows=4, pad=PAD).measure(stack([trained, zeros_like(trained)]), SETS["b"])
        labels = np.array([int(a[0]) for a in SETS["b"].answers])
        assert found.loss[0] < 0.1
        np.testing.assert_array_equal(found.confusion.sum(axis=2), [np.bincount(labels, minlength=5)] * 2)
        np.testing.assert_array_equal(found.confusion[0], np.diag(np.bincount(labels, minlength=5)))

    def test_memory_is_that_of_the_real_state(self, encoder):
        setup = Setup(encoder, LORA, QUICK, Layout(4, 32, 8), make_mesh(), CLASSES)
        state, _, fixed, _ = abstract_arguments(setup, 2)
        real = init_state(new("ab"), QUICK, "ab")
        for found, want in zip(jax.tree.leaves((state, fixed)), jax.tree.leaves(real), strict=True):
            assert (found.shape, found.dtype) == (want.shape, want.dtype)

    @pytest.mark.slow
    def test_losses_in_some_layers_only(self, encoder):
        """Each example by itself, under its mask: the head stays."""
        adapter, keep = random_adapter(["a"]), np.array([[0, 0], [1, 0], [1, 1]], bool)
        losses = MaskedLosses(encoder, [SETS["a"], SETS["E"]], members=2, rows=3, pad=PAD)
        nats, counts = losses(adapter, keep, SETS["E"])
        assert (counts == 1).all()
        updates = loras(adapter)
        for m, mask in enumerate(keep):
            scaled = {p: dataclasses.replace(x, scale=x.scale * mask[:, None]) for p, x in updates.items()}
            own = {**scaled, HEAD: adapter[HEAD]}
            for i in (0, 7, 39):
                one = batch_of(pick(SETS["E"], [i]), packed=False)
                np.testing.assert_allclose(nats[m, i], answer_loss(encoder, own, one)[0], atol=2e-5)


class TestClasses:
    def task(self, *rows, name="t", options=None):
        made = tuple(Example(name, "nli", text, (target,), "Say.", options) for text, target in rows)
        return Task(name, "nli", made, made)

    def test_labels_are_options_or_targets(self):
        tasks = {
            "t": self.task(("1", "yes"), ("2", " no "), ("3", "yes")),
            "u": self.task(("1", "b"), ("2", "b"), name="u", options=("c", "b")),
        }
        found = find_classes(tasks)
        assert found.names == (("t", "no"), ("t", "yes"), ("u", "c"), ("u", "b"))
        assert found.owners.tolist() == [0, 0, 1, 1]
        assert found.of(["u"]).labels() == ["c", "b"]
        assert found.labels() == ["t: no", "t: yes", "u: c", "u: b"]

    def test_what_is_no_classification(self):
        with pytest.raises(LorajaxError, match="task 't': 65 different targets"):
            find_classes({"t": self.task(*((str(i), f"answer {i}") for i in range(65)))})
        mixed = {"t": self.task(*((str(i), f"answer {i}") for i in range(65))), "u": self.task(("1", "a"), ("2", "b"))}
        message = r"task 't': 65 .*\(1 more tasks are unfit\); tasks that can be told apart: u$"
        with pytest.raises(LorajaxError, match=message):
            find_classes({**mixed, "v": self.task(("1", "yes"))})
        with pytest.raises(LorajaxError, match="task 't': its training examples have one label, 'yes'"):
            find_classes({"t": self.task(("1", "yes"), ("2", "yes"))})

    def test_tokens(self, tmp_path):
        tokenizer = load(str(tiny_encoder(tmp_path / "m"))).tokenizer
        task = self.task(("abc", "yes"), ("de<pad>f", "no"), ("x" * 50, "no"))
        made = tokenize(task.test, tokenizer, PromptConfig(max_length=20, max_answer=1), find_classes({"t": task}))
        assert [answer.tolist() for answer in made.answers] == [[1], [0], [0]]
        assert [tokenizer.decode(ids) for ids in made.prompts[:2]] == ["<s>abc</s>", "<s>def</s>"]
        assert [len(ids) for ids in made.prompts] == [5, 5, 20]
        assert (made.cut_prompts, made.cut_answers) == (1, 0)
        other = self.task(("what is this?", "maybe"))
        with pytest.raises(LorajaxError, match="target 'maybe' of input 'what is this.' is no label .* 'no', 'yes'"):
            tokenize(other.test, tokenizer, PromptConfig(), find_classes({"t": task}))

    @pytest.mark.parametrize("packed", [False, True])
    def test_batches(self, packed):
        """An example is its text alone; the class is read off its first token."""
        own = SETS["b"]
        batch = lay_out(own.rows, Layout(20, 32, 8), pad=PAD, packed=packed)
        places = np.argwhere(batch["weights"] == 1)
        assert len(places) == len(own)
        starts = np.array([[r, batch["predict"][r, k]] for r, k in places])
        assert (batch["tokens"][tuple(starts.T)] == 0).all()
        rest = sorted((tuple(p), int(a[0])) for p, a in zip(own.prompts, own.answers, strict=True))
        ends = [next(i for i in range(t, 32) if batch["tokens"][r, i] == 2) for r, t in starts]
        texts = [tuple(batch["tokens"][r, t : end + 1]) for (r, t), end in zip(starts, ends, strict=True)]
        assert sorted(zip(texts, (int(batch["labels"][r, k]) for r, k in places), strict=True)) == rest
        assert (batch["tokens"] != PAD).sum() == sum(map(len, own.prompts))


def test_scores_against_scikit_learn():
    from sklearn.metrics import accuracy_score, confusion_matrix, matthews_corrcoef

    rng = np.random.default_rng(0)
    for count in (2, 4):
        classes, answers = rng.integers(0, count, (2, 60))
        answers = np.where(rng.random(60) < 0.4, classes, answers)
        found = np.pad(confusion_matrix(classes, answers), (1, 2))  # classes of other tasks
        np.testing.assert_allclose(accuracy(found), accuracy_score(classes, answers))
        np.testing.assert_allclose(matthews(found), matthews_corrcoef(classes, answers))
        np.testing.assert_allclose(majority(found), np.bincount(classes).max() / 60)
    assert np.isnan(matthews(np.array([[3, 0], [4, 0]])))
