"""Adapters that the real peft wrote, on models that lorajax does not know, compared by their weights."""

import numpy as np
import pytest

from lorajax.lora.updates import read_updates
from run.compare_adapters import CompareAdapters, compare_adapters

torch = pytest.importorskip("torch", reason="needs torch: pip install 'lorajax[test]'")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="needs peft: pip install 'lorajax[test]'")

KINDS = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True},
    "patterns": {"r": 4, "rank_pattern": {"query": 2}, "alpha_pattern": {"layer.1.attention.self.value": 3}},
    "dora": {"r": 2, "use_dora": True},
    "some_layers": {"r": 4, "layers_to_transform": [1]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of adapters of a tiny BERT with a classifier, and the updates that peft computes for each."""
    out, updates = tmp_path_factory.mktemp("peft"), {}
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    for seed, (name, keys) in enumerate(KINDS.items()):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
        settings = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], **keys)
        adapted = peft.get_peft_model(model, settings)
        torch.manual_seed(seed)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        adapted.save_pretrained(out / name)
        layers = {n: m for n, m in adapted.named_modules() if hasattr(m, "get_delta_weight")}
        updates[name] = {n: m.get_delta_weight("default").detach().double().numpy() for n, m in layers.items()}
    return out, updates


@pytest.mark.parametrize("kind", KINDS)
def test_updates_are_those_of_peft(folder, kind):
    """Relative to the largest entry, 1e-6 in float32."""
    out, expected = folder
    found = read_updates(out / kind)
    places = {(module, layer): u for module, layers in found.modules.items() for layer, u in layers.items()}
    assert len(places) == len(expected[kind]) == (2 if kind == "some_layers" else 4)
    for name, update in expected[kind].items():
        layer, side = int(name.split(".layer.")[1][0]), name.rsplit(".", 1)[1]
        own = places[f"bert.encoder.layer.*.attention.self.{side}", layer]
        np.testing.assert_allclose(own.scale * own.B @ own.A, update, atol=1e-6 * abs(update).max())
    assert any("DoRA" in note for note in found.notes) == (kind == "dora")


def test_pairs_are_compared(folder, tmp_path):
    """Cosines of the updates that peft computes, to 1e-5."""
    out, expected = folder
    pairs = compare_adapters(CompareAdapters((str(out),), out=tmp_path, draws=20))
    assert sorted(pairs.task.values) == sorted(KINDS)
    own = pairs.value.sel(measure="cosine", module="attention.self.value", layer=1)
    updates = {
        kind: next(u for n, u in expected[kind].items() if ".layer.1." in n and n.endswith("value")) for kind in KINDS
    }
    for a, first in updates.items():
        for b, second in updates.items():
            cosine = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
            np.testing.assert_allclose(own.sel(task_i=a, task_j=b), cosine, atol=1e-5)
    assert np.isnan(pairs.value.sel(measure="cosine", layer=0, task_i="some_layers")).all()
