"""The base in 8 and 4 bits: codes against their definition, the model against one with decoded kernels, bytes, meshes."""

import dataclasses
import functools
import importlib.util
import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.mesh import make_mesh
from lorajax.models.checkpoint import load
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.quantize import NF4, Encoded, cut, decode, encode, quantization, quantize, tile_size
from lorajax.models.tensors import tensors
from lorajax.models.weights import merge, save_hf
from tests.conftest import randomize
from tests.tiny import TINY, tiny_checkpoint

needs_qwix = pytest.mark.skipif(
    importlib.util.find_spec("qwix") is None, reason="qwix is not installed: pip install 'lorajax[quant]'"
)
KINDS = ("int8", "nf4")
BITS = {"int8": 8 + 32 / 64, "nf4": 4 + 32 / 64}  # with a float32 scale for 64 weights

#: Wide enough for two tiles of 64 along every axis that is summed over.
WIDE = dataclasses.replace(
    TINY, hidden_size=128, intermediate_size=256, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32
)


def kernel(in_features: int, out_features: int, seed: int = 0) -> np.ndarray:
    """Normal weights with a few outliers, and one tile of zeros."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(in_features, out_features)).astype(np.float32)
    w[rng.integers(in_features, size=5), rng.integers(out_features, size=5)] *= 30
    w[: tile_size(in_features), 0] = 0
    return w


def unpack(codes: np.ndarray) -> np.ndarray:
    """Two codes of every byte, as the module's description says."""
    return np.concatenate([codes % 16, codes // 16], axis=-2)


def decode_numpy(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """`[..., in, out]` of `[..., tiles, tile, out]`, by definition."""
    values = np.float32(NF4)[unpack(codes)] if codes.dtype == np.uint8 else codes.astype(np.float32)
    w = values * scales
    return w.reshape(*w.shape[:-3], -1, w.shape[-1])


def decoded_twin(quantized: Llama, plain: Llama) -> Llama:
    """`plain` with the kernels of `quantized`, decoded by NumPy."""
    graphdef, state = nnx.split(plain)
    flat, stored = dict(nnx.to_flat_state(state)), dict(nnx.to_flat_state(nnx.state(quantized)))
    for path in flat:
        if (*path, "codes") in stored:
            w = decode_numpy(*(np.asarray(stored[*path, name][...]) for name in ("codes", "scales")))
            flat[path] = flat[path].replace(jnp.asarray(w, flat[path][...].dtype))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def leaves(model: Llama) -> dict:
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model))}


@functools.partial(jax.jit, static_argnums=0)
def evaluate(graphdef, base, tokens, adapter=None):
    """All hidden states, and the gradient of a function of the last one in the adapter (None without one)."""

    def loss(adapter):
        out = nnx.merge(graphdef, base)(tokens, adapter, collect=lambda h: h)
        return jnp.sum(jnp.sin(out.hidden)), out.states

    (_, states), gradient = jax.value_and_grad(loss, has_aux=True)(adapter)
    return states, gradient


def hidden_states(model: Llama, tokens) -> jax.Array:
    return evaluate(*nnx.split(model), tokens)[0]


def weights_of_a_layer(config: ModelConfig) -> int:
    return sum(math.prod(t.shape) for t in tensors(config) if t.path[-1] == "kernel")


@functools.cache
def compiled_gradient(kind):
    """What XLA says of the memory of an adapter's gradient; no weight is made."""
    adapter = jax.eval_shape(lambda: init_adapter(WIDE, LoraConfig(targets=("all-linear",)), ["a"]))
    graphdef, base = nnx.split(nnx.eval_shape(lambda: quantize(Llama(WIDE, rngs=nnx.Rngs(0)), kind)))
    tokens = jax.ShapeDtypeStruct((1, 1, 8), jnp.int32)
    return evaluate.lower(graphdef, base, tokens, adapter).compile().memory_analysis()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("quantize") / "model", WIDE))


@pytest.fixture(scope="module")
def wide(folder) -> Llama:
    """The checkpoint in full."""
    return load(folder).model


def test_nf4_is_the_quantiles_of_the_paper():
    """Appendix E: 8 quantiles above zero, 7 below and zero, the outermost at probability (1 - 1/32 + 1 - 1/30) / 2."""
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
    above, below = norm.ppf(np.linspace(offset, 0.5, 9)[:-1]), -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    book = np.sort(np.concatenate([above, below, [0]]))
    np.testing.assert_allclose(NF4, book / book.max(), atol=2e-7)


@pytest.mark.parametrize(
    ("size", "tile"), [(4096, 64), (11008, 64), (576, 64), (64, 64), (96, 32), (48, 16), (40, 40), (100, 100), (8, 8)]
)
def test_tile_sizes(size, tile):
    assert tile_size(size) == tile


@needs_qwix
@pytest.mark.parametrize("size", [128, 96, 40])
class TestCodes:
    """Against NumPy in float32: NF4 exactly, int8 up to the choice between two codes that are equally near."""

    def test_int8(self, size):
        w = kernel(size, 24)
        tiles = w.reshape(-1, tile_size(size), 24)
        found = encode(cut(jnp.asarray(w)), "int8")
        scales = np.abs(tiles).max(1, keepdims=True) / np.float32(127.5)
        scales[scales == 0] = 1
        assert (found.codes.dtype, found.scales.dtype) == (jnp.int8, jnp.float32)
        np.testing.assert_allclose(found.scales, scales, rtol=2e-7)  # XLA multiplies by 1 / 127.5
        np.testing.assert_allclose(found.codes, tiles / scales, rtol=0, atol=0.5 + 1e-4)
        error = np.abs(np.asarray(decode(found, "int8")).reshape(tiles.shape) - tiles)
        assert (error <= scales * (0.5 + 1e-4)).all()  # half a scale, and rounding of numbers up to 128 scales

    def test_nf4(self, size):
        w = kernel(size, 24)
        tiles = w.reshape(-1, tile_size(size), 24)
        found = encode(cut(jnp.asarray(w)), "nf4")
        scales = np.abs(tiles).max(1, keepdims=True)
        scales[scales == 0] = 1
        distance = np.abs((tiles / scales)[..., None] - np.float32(NF4))
        assert (found.codes.dtype, found.scales.dtype) == (jnp.uint8, jnp.float32)
        assert found.codes.shape == (len(tiles), tile_size(size) // 2, 24)
        np.testing.assert_array_equal(found.scales, scales)
        np.testing.assert_array_equal(unpack(np.asarray(found.codes)), distance.argmin(-1))
        np.testing.assert_array_equal(decode(found, "nf4"), decode_numpy(*map(np.asarray, found)))

    @pytest.mark.parametrize("kind", KINDS)
    def test_decoding_agrees_with_qwix(self, size, kind):
        import qwix

        w = jnp.asarray(kernel(size, 24))
        theirs = qwix.dequantize(
            qwix.quantize(
                w, kind if kind == "nf4" else jnp.int8, channelwise_axes=(1,), tiled_axes={0: tile_size(size)}
            )
        )
        np.testing.assert_array_equal(decode(encode(cut(w), kind), kind), theirs)


@needs_qwix
def test_nf4_agrees_with_bitsandbytes():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    w = kernel(128, 24)
    by_column = torch.from_numpy(np.ascontiguousarray(w.T))  # its tiles are runs of 64 weights in memory
    theirs = functional.dequantize_4bit(*functional.quantize_4bit(by_column, blocksize=64, quant_type="nf4"))
    np.testing.assert_array_equal(decode(encode(cut(jnp.asarray(w)), "nf4"), "nf4"), theirs.numpy().T)


@needs_qwix
@pytest.mark.everyday_cases(1)
@pytest.mark.parametrize("kind", KINDS)
class TestModel:
    def test_is_the_model_with_decoded_kernels(self, kind, model, config, tokens):
        """Hidden states of all layers and adapter gradients, to float32 rounding; and codes do change the model."""
        adapter = randomize(init_adapter(config, LoraConfig(targets=("all-linear",)), ["a", "b"]))
        small = quantize(model, kind)
        assert (quantization(small), quantization(model)) == (kind, "none")
        found, want, full = (
            evaluate(*nnx.split(m), tokens, adapter) for m in (small, decoded_twin(small, model), model)
        )
        np.testing.assert_allclose(found[0], want[0], atol=2e-5)
        assert np.abs(found[0] - full[0]).max() > 1e-3
        for a, b in zip(*(jax.tree.leaves(gradient) for _, gradient in (found, want)), strict=True):
            assert np.abs(b).max() > 0
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())

    def test_gradient_of_the_input_goes_through_the_decoded_kernel(self, kind, model):
        linear = jax.tree.map(lambda x: x[1], quantize(model, kind).blocks.mlp.up_proj)
        w = decode_numpy(*(np.asarray(x[...]) for x in (linear.kernel.codes, linear.kernel.scales)))
        x, dy = np.random.default_rng(0).normal(size=(2, 1, 2, 3, 64)).astype(np.float32)
        y, pull = jax.vjp(linear, x[..., :32])
        np.testing.assert_allclose(y, x[..., :32] @ w, atol=1e-5)
        np.testing.assert_allclose(pull(dy)[0], dy @ w.T, atol=1e-5)

    def test_bfloat16(self, kind, config, tokens):
        """Kernels are decoded in float32 and rounded once, as those of the twin are."""
        model = Llama(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        small = quantize(model, kind)
        states = hidden_states(small, tokens)
        assert states.dtype == jnp.bfloat16
        np.testing.assert_array_equal(states, hidden_states(decoded_twin(small, model), tokens))
        assert {leaf.dtype for path, leaf in leaves(small).items() if path[-1] == "scales"} == {jnp.dtype(jnp.float32)}

    @pytest.mark.slow
    def test_bytes_of_a_compiled_forward(self, kind):
        """Before any weight exists: 8.5 or 4.5 bits for a kernel's weight, as many as before for everything else."""
        weights = WIDE.num_layers * weights_of_a_layer(WIDE)
        full, small = (compiled_gradient(kind).argument_size_in_bytes for kind in ("none", kind))
        assert full - small == weights * (32 - BITS[kind]) / 8

    def test_no_decoded_kernel_is_kept_for_the_backward_pass(self, kind):
        """Beside its arguments, a gradient takes no more memory than over full weights and the kernels of one layer."""
        full, small = (compiled_gradient(kind).temp_size_in_bytes for kind in ("none", kind))
        assert small - full < 4 * weights_of_a_layer(WIDE)

    @pytest.mark.parametrize("shape", [{}, {"fsdp": 2, "tensor": 2}])
    def test_loading_is_quantising_what_was_loaded(self, kind, shape, folder, wide):
        small = load(folder, mesh=make_mesh(**shape), quantize=kind).model
        want, found = leaves(quantize(wide, kind)), leaves(small)
        assert found.keys() == want.keys()
        for path, leaf in found.items():
            np.testing.assert_array_equal(leaf, want[path])
        tokens = jnp.arange(60).reshape(1, 2, 30)
        states = hidden_states(small, tokens)
        np.testing.assert_allclose(states, hidden_states(decoded_twin(small, wide), tokens), atol=2e-5)
        if shape:
            split = {"up_proj": ("fsdp", "tensor"), "down_proj": ("tensor", "fsdp")}
            for (name, (rows, columns)), part in itertools.product(split.items(), ("codes", "scales")):
                leaf = found["blocks", "mlp", name, "kernel", part]
                assert leaf.sharding.spec == jax.P(None, rows, None, columns)
                assert leaf.addressable_shards[0].data.size == leaf.size // 4

    def test_decoding_stays_on_its_device(self, kind):
        """A split kernel is decoded where it lies."""
        place = jax.NamedSharding(make_mesh(fsdp=2, tensor=2), jax.P("fsdp", None, "tensor"))
        encoded = jax.device_put(encode(cut(jnp.asarray(kernel(128, 24))), kind), Encoded(place, place))
        compiled = jax.jit(decode, static_argnums=1).lower(encoded, kind).compile()
        assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "permute"))
        assert compiled.output_shardings.spec == jax.P("fsdp", "tensor")

    @pytest.mark.slow
    def test_tiles_are_not_cut(self, kind, tmp_path):
        """A mesh that divides an axis but not its tiles leaves it whole: one tile of 32 here, on two devices."""
        folder = str(tiny_checkpoint(tmp_path / "model"))
        found = leaves(load(folder, mesh=make_mesh(fsdp=2, tensor=2), quantize=kind).model)
        want = leaves(load(folder, quantize=kind).model)
        for part in ("codes", "scales"):
            path = ("blocks", "mlp", "up_proj", "kernel", part)
            assert found[path].sharding.spec == jax.P(None, None, None, "tensor")
            np.testing.assert_array_equal(found[path], want[path])

    def test_what_needs_full_weights_refuses(self, kind, model, config, tmp_path):
        small = quantize(model, kind)
        adapter = init_adapter(config, LoraConfig(), ["a"])
        for action in (
            lambda: merge(small, adapter),
            lambda: save_hf(small, tmp_path / "out"),
            lambda: quantize(small, kind),
        ):
            with pytest.raises(LorajaxError, match=rf"needs full weights.*\({kind}\); load it without --quantize"):
                action()
        assert not (tmp_path / "out").exists()


def test_none_changes_nothing(model):
    assert quantize(model, "none") is model


@needs_qwix
def test_an_odd_kernel_cannot_be_packed():
    with pytest.raises(LorajaxError, match="33 inputs.*even"):
        encode(cut(jnp.ones((33, 4))), "nf4")


def test_unknown_kind(model, tmp_path):
    for action in (lambda: quantize(model, "int3"), lambda: load(str(tmp_path / "absent"), quantize="int3")):
        with pytest.raises(LorajaxError, match="quantize 'int3': expected one of 'none', 'int8', 'nf4'"):
            action()


def test_without_the_extra(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "qwix", None)
    for action in (lambda: quantize(model, "nf4"), lambda: load(str(tmp_path / "absent"), quantize="nf4")):
        with pytest.raises(LorajaxError, match=r"pip install 'lorajax\[quant\]'"):
            action()
