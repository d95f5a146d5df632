"""The updates in PEFT folders of any base model."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.lora.peft import save_adapter
from lorajax.lora.updates import read_updates
from tests.conftest import randomize
from tests.tiny import TINY

BERT = "base_model.model.bert.encoder.layer.{}.attention.self.{}"


def write(folder, tensors, **keys):
    folder.mkdir()
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    keys = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "base_model_name_or_path": "bert-base-uncased"} | keys
    (folder / "adapter_config.json").write_text(json.dumps(keys))
    return folder


def factors(name, r=2, out=6, size=5, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((r, size)).astype(np.float32), rng.standard_normal((out, r)).astype(np.float32)
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}


def test_a_model_that_is_not_known_here(tmp_path):
    tensors = (
        factors(BERT.format(0, "query")) | factors(BERT.format(11, "query"), seed=1) | factors(BERT.format(0, "value"))
    )
    updates = read_updates(write(tmp_path / "a", tensors))
    assert {module: list(layers) for module, layers in updates.modules.items()} == {
        "bert.encoder.layer.*.attention.self.query": [0, 11],
        "bert.encoder.layer.*.attention.self.value": [0],
    }
    found = updates.modules["bert.encoder.layer.*.attention.self.query"][11]
    np.testing.assert_array_equal(found.B, tensors[BERT.format(11, "query") + ".lora_B.weight"])
    np.testing.assert_array_equal(found.A, tensors[BERT.format(11, "query") + ".lora_A.weight"])
    assert found.scale == 4
    assert updates.base == "bert-base-uncased"
    assert updates.notes == ()


def test_the_same_as_on_the_model(tmp_path):
    """What `load_adapter` puts on a model, of an adapter with rsLoRA."""
    lora = LoraConfig(rank=3, alpha=5, rslora=True)
    adapter = randomize(init_adapter(TINY, lora, ["a"]))
    save_adapter(adapter, lora, tmp_path / "a", base="tiny")
    updates = read_updates(tmp_path / "a")
    for path, module in adapter.items():
        for layer, update in updates.modules[f"model.layers.*.{path}"].items():
            expected = np.asarray(module.scale[layer, 0] * module.a[layer, 0] @ module.b[layer, 0]).T
            np.testing.assert_allclose(update.scale * update.B @ update.A, expected, rtol=1e-5, atol=1e-7)


def test_ranks_and_alphas_by_pattern(tmp_path):
    tensors = (
        factors(BERT.format(0, "query"), r=4) | factors(BERT.format(1, "query")) | factors(BERT.format(1, "value"))
    )
    keys = {"rank_pattern": {"layer.0.attention.self.query": 4}, "alpha_pattern": {"value": 3}, "use_rslora": True}
    modules = read_updates(write(tmp_path / "a", tensors, **keys)).modules
    assert modules["bert.encoder.layer.*.attention.self.query"][0].scale == 8 / 4**0.5
    assert modules["bert.encoder.layer.*.attention.self.query"][1].scale == 8 / 2**0.5
    assert modules["bert.encoder.layer.*.attention.self.value"][1].scale == 3 / 2**0.5


def test_encoder_and_decoder_keep_their_names(tmp_path):
    names = [
        "base_model.model.encoder.block.3.layer.0.SelfAttention.q",
        "base_model.model.decoder.block.3.layer.1.EncDecAttention.q",
    ]
    modules = read_updates(write(tmp_path / "a", factors(names[0]) | factors(names[1]))).modules
    assert sorted(modules) == ["decoder.block.*.layer.1.EncDecAttention.q", "encoder.block.*.layer.0.SelfAttention.q"]
    assert all(list(layers) == [3] for layers in modules.values())


def test_what_is_no_low_rank_update_is_told_of(tmp_path):
    name = BERT.format(0, "query")
    tensors = factors(name) | factors("base_model.model.lm_head", seed=1)
    tensors |= {
        f"{name}.lora_magnitude_vector.weight": np.ones(6, np.float32),
        "base_model.model.classifier.weight": np.ones((2, 6), np.float32),
    }
    updates = read_updates(
        write(tmp_path / "a", tensors, use_dora=True, modules_to_save=["classifier"], bias="lora_only")
    )
    assert list(updates.modules) == ["bert.encoder.layer.*.attention.self.query"]
    assert updates.notes == (
        "1 tensors beside the low-rank updates (whole modules, biases) are not compared",
        "DoRA: its low-rank part is compared, before magnitudes are set",
        "lm_head: in no numbered layer, not compared",
    )


@pytest.mark.parametrize(
    ("tensors", "keys", "message"),
    [
        ({}, {"peft_type": "IA3"}, r"peft_type = 'IA3' is not supported; expected 'LORA'"),
        ({}, {"init_lora_weights": "pissa"}, r"init_lora_weights = 'pissa' is not supported"),
        ({}, {"layer_replication": [[0, 4]]}, r"layer_replication = .* is not supported"),
        ({}, {"r": 3}, r"lora_A \[2, 5\] and lora_B \[6, 2\]; expected \[3, in\] and \[out, 3\]"),
        ({"base_model.model.h.0.conv.lora_A.weight": np.ones((2, 5, 3, 3), np.float32)}, {}, r"conv has lora_A alone"),
        ({"base_model.model.wte.lora_embedding_A": np.ones((2, 5), np.float32)}, {}, r"lora_embedding_A is not supported"),
        ({BERT.format(0, "query") + ".lora_A.default.weight": np.ones((2, 5), np.float32)}, {}, "are the same factor"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_compared(tmp_path, tensors, keys, message):
    folder = write(tmp_path / "a", factors(BERT.format(0, "query")) | tensors, **keys)
    with pytest.raises(LorajaxError, match=message) as error:
        read_updates(folder)
    assert str(folder) in str(error.value)


def test_files_that_are_not_there_or_broken(tmp_path):
    with pytest.raises(LorajaxError, match=r"adapter_config\.json: No such file"):
        read_updates(tmp_path)
    folder = write(tmp_path / "a", factors(BERT.format(0, "query")))
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(LorajaxError, match=r"adapter_model\.safetensors"):
        read_updates(folder)
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(LorajaxError, match="pickle"):
        read_updates(folder)
