"""PEFT folders: what is written for unusual adapters, and the messages for folders that are not what they should be."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter, stack, take, updates, zeros_like
from lorajax.lora.peft import load_adapter, save_adapter
from tests.conftest import randomize
from tests.tiny import TINY

LORA = LoraConfig(rank=2, alpha=4.0, targets=("all-linear",), dropout=0.1)
Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def make(lora, seed=0):
    return randomize(init_adapter(TINY, lora, ["a"], seed=seed), seed=seed)


@pytest.fixture
def folder(tmp_path):
    save_adapter(make(LORA), LORA, tmp_path / "adapter", base="tiny")
    return tmp_path / "adapter"


def set_keys(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def set_tensors(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def fails(folder, message):
    with pytest.raises(LorajaxError, match=message):
        load_adapter(folder, TINY)


def equal_updates(found, expected, **tolerance):
    found, expected = updates(found), updates(expected)
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], err_msg=path, **tolerance)


class TestSaved:
    def test_round_trip_is_exact(self, folder, tmp_path):
        adapter, lora = load_adapter(folder, TINY)
        assert (lora.rank, lora.alpha, lora.dropout, lora.rslora) == (2, 4.0, 0.1, False)
        assert set(lora.targets) == {path.split(".")[-1] for path in adapter}
        for path, module in make(LORA).items():
            for field in ("a", "b", "scale"):
                np.testing.assert_array_equal(getattr(adapter[path], field), getattr(module, field))
        save_adapter(adapter, lora, tmp_path / "again", base="tiny")
        for file in sorted(p.name for p in folder.iterdir()):
            assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()

    @pytest.mark.parametrize("rslora", [False, True])
    def test_members_of_a_stack_of_different_ranks(self, rslora, tmp_path):
        """Whatever rank and alpha are stated, the update is the member's own."""
        configs = [
            LoraConfig(rank=4, alpha=8.0, targets=("all-linear",), rslora=rslora),
            LoraConfig(rank=2, alpha=7.0, targets=("q_proj", r"down_proj")),
            LoraConfig(rank=3, alpha=-5.0, targets=(r"model\.layers\.1\.mlp\.(up|down)_proj",)),
        ]
        members = [make(lora, seed) for seed, lora in enumerate(configs)]
        joined = stack(members)
        for i, member in enumerate(members):
            for stated in configs:
                save_adapter(take(joined, [i]), stated, tmp_path / "adapter", base="tiny")
                found, lora = load_adapter(tmp_path / "adapter", TINY)
                assert lora.rank == max(stated.rank, configs[i].rank)  # never cut
                equal_updates(found, member, rtol=1e-5, atol=1e-6)

    def test_stated_rank_and_scale_leave_the_factors_alone(self, tmp_path):
        small, large = make(LORA), make(LoraConfig(rank=4, targets=("all-linear",)))
        save_adapter(small, LORA, tmp_path / "alone", base="tiny")
        save_adapter(take(stack([large, small]), [1]), LORA, tmp_path / "picked", base="tiny")
        for file in (tmp_path / "alone").iterdir():
            assert (tmp_path / "picked" / file.name).read_bytes() == file.read_bytes()

    def test_new_adapter_keeps_its_rank(self, tmp_path):
        save_adapter(init_adapter(TINY, LORA, ["a"]), LORA, tmp_path / "adapter", base="tiny")  # B is zero
        assert load_adapter(tmp_path / "adapter", TINY)[1].rank == 2

    def test_nothing_to_write(self, tmp_path):
        with pytest.raises(LorajaxError, match="adapter: the scale of every layer is 0"):
            save_adapter(zeros_like(make(LORA)), LORA, tmp_path / "adapter", base="tiny")
        assert not (tmp_path / "adapter").exists()

    def test_a_set_of_two(self, tmp_path):
        with pytest.raises(LorajaxError, match="holds one adapter, found a set of 2"):
            save_adapter(stack([make(LORA)] * 2), LORA, tmp_path / "adapter", base="tiny")

    def test_something_else_is_there(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(LorajaxError, match=r"holds thesis\.tex, which is no part of an adapter"):
            save_adapter(make(LORA), LORA, tmp_path, base="tiny")
        with pytest.raises(LorajaxError, match=r"thesis\.tex: could not be written"):
            save_adapter(make(LORA), LORA, tmp_path / "thesis.tex", base="tiny")
        assert (tmp_path / "thesis.tex").read_text() == "precious"


class TestConfig:
    """Keys of adapter_config.json: the message names the file, the key, what was found and what was expected."""

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("peft_type", "IA3", "'LORA'"),
            *(("r", value, "a positive whole number") for value in (True, None, 0, 2.0, "2")),
            *(
                ("lora_alpha", value, "a finite number other than 0")
                for value in (None, float("nan"), float("inf"), True, "8", 0, 10**400)
            ),
            *(("lora_dropout", value, r"a number in \[0, 1\)") for value in (1.0, -0.1, None, True, float("nan"))),
            ("use_rslora", "no", "true or false"),
            *(("rank_pattern", value, "{regular expression: positive whole number}")
              for value in ([2], "q_proj", 3, {"q_proj": True}, {"q_proj": 0}, {"(": 2}, {"a{99999999999999}": 2},
                            {"(" * 5000 + ")" * 5000: 2})),
            *(("alpha_pattern", value, "{regular expression: finite number other than 0}")
              for value in ([2], {"q_proj": "x"}, {"q_proj": None}, {"q_proj": float("nan")}, {"*": 2.0})),
            *(("target_modules", value, "a list of names, or one regular expression") for value in (3, {"a": 1}, [1])),
            ("bias", "all", "'none'"),
            *(("init_lora_weights", value, "true, false, 'gaussian' or 'orthogonal'")
              for value in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "eva", "lora_ga", "mica", "new", ["eva"])),
            *((key, value, "null or false") for key, value in {
                "use_dora": True, "use_qalora": True, "lora_bias": True, "fan_in_fan_out": True,
                "use_bdlora": {"nblocks": 2}, "kasa_config": {"beta": 1}, "monteclora_config": {"num_samples": 8},
                "velora_config": {"rank": 1}, "arrow_config": {"top_k": 3}, "loftq_config": {"loftq_bits": 4},
                "layer_replication": [[0, 2], [1, 2]], "target_parameters": ["experts.gate_up_proj"],
                "trainable_token_indices": [0], "modules_to_save": ["lm_head"], "megatron_config": {"a": 1},
                "alora_invocation_tokens": [1, 2], "ensure_weight_tying": True, "of_the_next_peft": 0,
            }.items()),
        ],
        ids=lambda value: f"{value!s:.20}",
    )  # fmt: skip
    def test_refused(self, folder, key, value, expected):
        set_keys(folder, **{key: value})
        fails(folder, rf"adapter_config\.json: {key} = .+ is not supported; expected {expected}")

    def test_unset_or_harmless(self, folder):
        expected, _ = load_adapter(folder, TINY)
        unset = dict(use_dora=False, loftq_config={}, modules_to_save=None, target_parameters=[], of_the_next_peft=None)
        described = dict(
            auto_mapping={"unsloth_fixed": True}, peft_version="0.99", revision="main", layers_to_transform=[0, 1],
            layers_pattern="layers", exclude_modules=["x"], megatron_core="megatron.core", qalora_group_size=16,
            inference_mode=False, task_type="FEATURE_EXTRACTION", base_model_name_or_path=None,
            init_lora_weights="gaussian", rank_pattern=None, target_modules=None,
        )  # fmt: skip
        set_keys(folder, **unset, **described)
        found, _ = load_adapter(folder, TINY)
        equal_updates(found, expected, rtol=0)

    def test_defaults_are_pefts(self, folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({"peft_type": "LORA", "r": 2}))
        adapter, lora = load_adapter(folder, TINY)
        assert (lora.alpha, lora.dropout, lora.rslora) == (8.0, 0.0, False)
        assert float(adapter["mlp.up_proj"].scale[0, 0]) == 4.0

    def test_targets_are_those_of_the_tensors(self, folder):
        set_tensors(folder, lambda t: {k: v for k, v in t.items() if "layers.1.mlp.up_proj" in k})
        _, lora = load_adapter(folder, TINY)
        assert lora.targets == (r"model\.layers\.1\.mlp\.up_proj",)
        assert init_adapter(TINY, lora, ["a"])["mlp.up_proj"].scale.tolist() == [[0.0], [2.0]]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("\xff", "not JSON"),
            ("[1]", r"holds \[1\]; expected an object"),
        ],
        ids=["cut", "deep", "encoding", "list"],
    )
    def test_not_an_object(self, folder, text, message):
        (folder / "adapter_config.json").write_text(text, "latin-1")
        fails(folder, rf"adapter_config\.json: {message}")

    def test_no_config(self, folder):
        (folder / "adapter_config.json").unlink()
        fails(folder, r"adapter_config\.json: No such file .*; expected a PEFT adapter folder")
        fails(folder / "adapter_model.safetensors", "Not a directory; expected a PEFT adapter folder")


class TestTensors:
    def test_rank_that_does_not_match(self, folder):
        set_keys(folder, r=4)
        fails(
            folder,
            r"model\.layers\.0\..+_proj has lora_A \[2, \d+\] and lora_B \[\d+, 2\]; expected \[4, \d+\] and \[\d+, 4\] \(rank from",
        )

    def test_no_matrix(self, folder):
        set_tensors(folder, lambda t: t | {Q0: np.array(1, np.float32)})
        fails(folder, r"layers\.0\.self_attn\.q_proj has lora_A \[\] and")

    @pytest.mark.parametrize(
        "name",
        [
            "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight",
            "base_model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            "base_model.model.model.embed_tokens.lora_embedding_A",
            f"base_model.model.model.layers.{'9' * 5000}.self_attn.q_proj.lora_A.weight",
        ],
        ids=lambda name: name[:60],
    )
    def test_module_the_model_does_not_have(self, folder, name):
        set_tensors(folder, lambda t: t | {name: t[Q0]})
        fails(folder, rf"tensor {name} belongs to no linear module of the model \(2 layers of self_attn\.q_proj,")

    @pytest.mark.parametrize(
        "name",
        ["model.layers.0.self_attn.q_proj.lora_A.weight", Q0.replace("A.w", "A.default.w"), Q0.replace("0", "00")],
    )
    def test_the_same_factor_twice(self, folder, name):
        set_tensors(folder, lambda t: t | {name: t[Q0] + 1})
        fails(folder, "tensors .+ and .+ are the same factor; expected one of them")

    @pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.", "base_model.model.model."])
    def test_prefixes(self, folder, prefix):
        """As saved of a model with or without its head, with or without peft's own prefix."""
        expected, _ = load_adapter(folder, TINY)
        set_tensors(folder, lambda t: {prefix + k.removeprefix("base_model.model.model."): v for k, v in t.items()})
        equal_updates(load_adapter(folder, TINY)[0], expected, rtol=0)

    def test_half_a_pair(self, folder):
        set_tensors(folder, lambda t: {k: v for k, v in t.items() if not k.endswith("0.mlp.up_proj.lora_B.weight")})
        fails(folder, r"layers\.0\.mlp\.up_proj has lora_A alone; expected lora_A and lora_B")

    def test_none(self, folder):
        set_tensors(folder, lambda t: {})
        fails(folder, "holds no LoRA tensors")

    def test_half_precision(self, folder):
        set_tensors(folder, lambda t: {k: v.astype(jnp.bfloat16) for k, v in t.items()})
        found, _ = load_adapter(folder, TINY)
        assert found["mlp.up_proj"].a.dtype == jnp.float32
        equal_updates(found, make(LORA), atol=0.02)

    def test_eight_bits(self, folder):
        start = {Q0: 0, Q0.replace("lora_A", "lora_B"): 64}
        entries = {k: dict(dtype="F8_E4M3", shape=[2, 32], data_offsets=[v, v + 64]) for k, v in start.items()}
        header = json.dumps(entries).encode()
        (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
        fails(folder, r"adapter_model\.safetensors: .+; expected tensors in float32, float16 or bfloat16")

    def test_pickled(self, folder):
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        fails(folder, r"adapter_model\.bin: pickle files can run code")

    def test_missing(self, folder):
        (folder / "adapter_model.safetensors").unlink()
        fails(folder, r"adapter_model\.safetensors: no such file; expected the adapter's weights")

    def test_truncated(self, folder):
        file = folder / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-7])
        fails(folder, "not a complete safetensors file")
