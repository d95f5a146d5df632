"""The encoder with its classification head against transformers + torch, and its adapters against the real peft."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorajax.data.classes import Classes
from lorajax.lora.adapter import LoraConfig, head_of, init_adapter, join, loras, split, with_classes
from lorajax.lora.head import HEAD
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.models.kinds import read_config
from lorajax.models.safetensors_folder import SafetensorsFolder
from lorajax.models.weights import load_weights, save_hf
from lorajax.training.loss import answer_loss
from tests.conftest import randomize
from tests.parity.models import torch, transformers

peft = pytest.importorskip("peft", reason="needs peft: pip install 'lorajax[test]'")

LENGTH, LABELS = 200, 3
CLASSES = Classes(tuple(("nli", label) for label in ("no", "maybe", "yes")))
TARGETS = {
    "query_and_value": dict(rank=4, alpha=8.0),  # the default targets
    "all_linear": dict(rank=3, alpha=16.0, targets=("all-linear",), rslora=True),
    "some_layers": dict(rank=2, alpha=4.0, targets=(r"roberta\.encoder\.layer\.[02]\.(attention\.)?output\.dense",)),
}


def torch_model(kind: str):
    """A random float32 model of three blocks; biases and norms are random too."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=199, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=258, type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.1, num_labels=LABELS,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )  # fmt: skip
    model = getattr(transformers, kind)(config).float().eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
    return model


def load(folder):
    return load_weights(SafetensorsFolder(folder), read_config(folder / "config.json"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(torch's classifier, our encoder, their folder)."""
    theirs, folder = torch_model("RobertaForSequenceClassification"), tmp_path_factory.mktemp("roberta")
    theirs.save_pretrained(folder, max_shard_size="50KB")
    return theirs, load(folder), folder


def batch(model, lengths=(LENGTH, 57, 130)) -> np.ndarray:
    """Texts of different lengths that begin with `<s>`, padded on the right with the model's own token."""
    rng = np.random.default_rng(0)
    tokens = np.full((len(lengths), max(lengths)), model.config.pad_token_id)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = [0, *rng.integers(3, model.config.vocab_size, length - 2), 2]
    return tokens


def asked(tokens) -> dict:
    """What transformers takes."""
    return {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(tokens != 1).long()}


def relative(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), theirs.detach().numpy().astype(np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def head_like(theirs, classes=CLASSES):
    """Our head with torch's weights."""
    from lorajax.lora.head import Head

    kernel = lambda linear: jnp.asarray(linear.weight.detach().numpy().T)[None, None]
    bias = lambda linear: jnp.asarray(linear.bias.detach().numpy())[None, None, None]
    dense, out = theirs.classifier.dense, theirs.classifier.out_proj
    return Head(kernel(dense), bias(dense), kernel(out), bias(out), classes)


def adapted(ours, keys, seed=3):
    """Random factors, and a random head."""
    lora = LoraConfig(**keys)
    adapter = init_adapter(ours.config, lora, ["a"], seed=seed, classes=CLASSES)
    head = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), head_of(adapter))
    return lora, randomize(loras(adapter)) | {HEAD: head}


def scores(ours, adapter, tokens):
    return head_of(adapter).scores(ours(tokens[None], adapter).hidden[:, :, :1])[0, :, 0]


class TestBase:
    def test_hidden_states_and_logits(self, pair):
        theirs, ours, _ = pair
        tokens = batch(ours)
        expected = theirs(**asked(tokens), output_hidden_states=True)
        states = np.asarray(ours(tokens[None], collect=lambda h: h).states[:, 0])
        assert len(states) == len(expected.hidden_states) == len(ours.config.layer_names)
        own = tokens != 1  # of padding nothing is said
        for name, state, want in zip(ours.config.layer_names, states, expected.hidden_states, strict=True):
            assert relative(state[own], want[torch.tensor(own)]) < 1e-5, name
        assert relative(scores(ours, {HEAD: head_like(theirs)}, tokens), expected.logits) < 1e-5

    @pytest.mark.parametrize("kind", ["RobertaModel", "RobertaForMaskedLM"])
    def test_other_checkpoints_of_the_same_encoder(self, kind, tmp_path):
        """With bare names, with a pooler or with a head over the vocabulary."""
        theirs = torch_model(kind)
        theirs.save_pretrained(tmp_path)
        ours, tokens = load(tmp_path), batch(load(tmp_path))
        encoder = theirs if kind == "RobertaModel" else theirs.roberta
        expected, own = encoder(**asked(tokens)).last_hidden_state, tokens != 1
        assert relative(np.asarray(ours(tokens[None]).hidden[0])[own], expected[torch.tensor(own)]) < 1e-5

    def test_what_is_tested_would_show_wrong_positions_and_padding(self, pair):
        theirs, ours, _ = pair
        tokens = batch(ours)
        expected = theirs.roberta(**asked(tokens)).last_hidden_state[:, 0]
        right = np.asarray(ours(tokens[None]).hidden[0, :, 0])
        seen = np.asarray(ours(tokens[None], segments=np.ones_like(tokens)[None]).hidden[0, :, 0])
        assert relative(right, expected) < 1e-5
        assert relative(seen[1:], expected[1:]) > 1e-3  # padding is looked at
        assert relative(ours(np.roll(tokens, 1, axis=1)[None]).hidden[0, :1, 1], expected[:1]) > 1e-3  # shifted by one

    def test_export_loads_in_transformers(self, pair, tmp_path):
        theirs, ours, _ = pair
        save_hf(ours, tmp_path / "out", shard_bytes=30_000)
        again = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
        want = theirs.roberta.state_dict()
        assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in want.items()}
        for key, value in want.items():
            assert torch.equal(again.state_dict()[key], value), key
        classifier = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        assert torch.equal(
            classifier.roberta.encoder.layer[2].output.dense.weight, want["encoder.layer.2.output.dense.weight"]
        )


class TestAdapters:
    @pytest.mark.parametrize("keys", TARGETS.values(), ids=TARGETS)
    def test_our_folder_in_peft_gives_our_logits(self, pair, keys, tmp_path):
        _, ours, folder = pair
        lora, adapter = adapted(ours, keys)
        save_adapter(adapter, lora, tmp_path / "adapter", base=str(folder))
        base = transformers.AutoModelForSequenceClassification.from_pretrained(folder).float()
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        tokens = batch(ours)
        found = np.asarray(scores(ours, adapter, tokens))
        without = np.asarray(scores(ours, {HEAD: adapter[HEAD]}, tokens))
        assert np.abs(found - without).max() > 0.05  # the updates do something
        assert relative(found, theirs(**asked(tokens)).logits) < 1e-5
        again, _ = load_adapter(tmp_path / "adapter", ours.config)
        assert again[HEAD].classes == CLASSES
        np.testing.assert_allclose(scores(ours, again, tokens), found, atol=1e-5 * np.abs(found).max())

    def test_some_classes_of_a_study(self, pair, tmp_path):
        """An export of one task's classes: another number of labels than the base's, named as they are."""
        _, ours, folder = pair
        lora, adapter = adapted(ours, TARGETS["query_and_value"])
        more = Classes((*(("other", label) for label in "abcd"), *CLASSES.names[::-1]))
        wide = with_classes(adapter, more)
        assert wide[HEAD].out.shape[-1] == 7
        two = Classes(CLASSES.names[:2])
        save_adapter(with_classes(wide, two), lora, tmp_path / "adapter", base=str(folder))
        told = json.loads((tmp_path / "adapter" / "lorajax.json").read_text())
        assert told["id2label"] == {"0": "no", "1": "maybe"}
        theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(
            tmp_path / "adapter", num_labels=2, ignore_mismatched_sizes=True
        ).eval()
        tokens = batch(ours)
        expected = theirs(**asked(tokens)).logits
        assert expected.shape == (3, 2)
        assert relative(scores(ours, adapter, tokens)[:, :2], expected) < 1e-5

    @pytest.mark.parametrize("keys", [dict(), dict(target_modules="all-linear"), dict(use_rslora=True)])
    def test_peft_folder_in_ours_gives_pefts_logits(self, pair, keys, tmp_path):
        _, ours, folder = pair
        torch.manual_seed(5)
        base = transformers.AutoModelForSequenceClassification.from_pretrained(folder).float()
        own = dict(target_modules=["query", "value"]) | keys
        theirs = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, **own)).eval()
        with torch.no_grad():
            for name, value in theirs.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    value.normal_(std=0.2)
        theirs.save_pretrained(tmp_path / "adapter")
        adapter, lora = load_adapter(tmp_path / "adapter", ours.config)
        assert lora.rank == 4
        tokens = batch(ours)
        assert relative(scores(ours, adapter, tokens), theirs(**asked(tokens)).logits) < 1e-5
        save_adapter(adapter, lora, tmp_path / "again", base=str(folder))
        base = transformers.AutoModelForSequenceClassification.from_pretrained(folder).float()
        again = peft.PeftModel.from_pretrained(base, tmp_path / "again").eval()
        assert relative(scores(ours, adapter, tokens), again(**asked(tokens)).logits) < 1e-5

    def test_gradients_equal_pefts(self, pair, tmp_path):
        """Of all factors, and of the head."""
        _, ours, folder = pair
        lora, adapter = adapted(ours, TARGETS["all_linear"])
        save_adapter(adapter, lora, tmp_path / "adapter", base=str(folder))
        base = transformers.AutoModelForSequenceClassification.from_pretrained(folder).float()
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True).eval()
        tokens, labels = batch(ours), np.array([2, 0, 1])
        loss = theirs(**asked(tokens), labels=torch.tensor(labels)).loss
        loss.backward()
        ours_batch = {
            "tokens": jnp.asarray(tokens)[None],
            "predict": jnp.zeros((1, 3, 1), jnp.int32),
            "labels": jnp.asarray(labels)[None, :, None],
            "weights": jnp.ones((1, 3, 1), jnp.float32),
        }
        factors, scales = split(adapter)
        value, grads = jax.value_and_grad(lambda f: answer_loss(ours, join(f, scales), ours_batch).sum())(factors)
        np.testing.assert_allclose(float(value), loss.item(), rtol=1e-5)
        expected = {name: p.grad.numpy().T for name, p in theirs.named_parameters() if p.requires_grad}
        found = {}
        for path in loras(adapter):
            for layer in range(ours.config.num_layers):
                name = f"base_model.model.roberta.encoder.layer.{layer}.{path}"
                for part, theirs_part in (("a", "lora_A"), ("b", "lora_B")):
                    found[f"{name}.{theirs_part}.default.weight"] = grads[path][part][layer, 0]
        for part, name in (("dense", "dense"), ("out", "out_proj")):
            name = f"base_model.model.classifier.modules_to_save.default.{name}"
            found[f"{name}.weight"], found[f"{name}.bias"] = (
                grads[HEAD][part][0, 0],
                grads[HEAD][f"{part}_bias"][0, 0, 0],
            )
        assert found.keys() == expected.keys()
        for name, want in expected.items():
            np.testing.assert_allclose(found[name], want, atol=1e-4 * np.abs(want).max(), err_msg=name)
