"""What a step takes, told from shapes: against the step with real arrays, and against XLA's own count."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from lorajax.data.batching import Layout
from lorajax.errors import LorajaxError
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.machines import MACHINES, Speed, host_bytes, machine, machine_of
from lorajax.mesh import make_mesh, put
from lorajax.models.checkpoint import load
from lorajax.models.config import ModelConfig
from lorajax.models.named import MODELS, config_of
from lorajax.training.capacity import (
    CLEARLY,
    FITS,
    Memory,
    Setup,
    abstract_model,
    bytes_on_device,
    estimate,
    fleet_size,
    largest_fleet,
    measure,
    memory_of,
)
from lorajax.training.config import TrainConfig
from lorajax.training.fleet import place, shapes_of
from lorajax.training.flops import count_flops, xla_flops
from lorajax.training.step import init_state, layouts, make_step
from tests.tiny import TINY, tiny_checkpoint

LORA = LoraConfig(rank=2)
SMALL = Layout(rows=2, length=16, answers=8)
#: Wide enough that products are nearly all of the work.
WIDE = ModelConfig(512, 128, 256, 3, 4, 2, 32, tie_embeddings=True)


def setup(config=TINY, *, train=TrainConfig(), mesh=None, layout=SMALL, lora=LORA, **how) -> Setup:
    mesh = mesh or make_mesh()
    return Setup(abstract_model(config, mesh, **how), lora, train, layout, mesh)


def held(tree) -> int:
    """Bytes that the first device really holds of a tree of arrays."""
    first = jax.devices()[0]
    own = [s.data for x in jax.tree.leaves(tree) for s in x.addressable_shards if s.device == first]
    return sum(
        jax.random.key_data(x).nbytes if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x.nbytes for x in own
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("capacity") / "model")


@pytest.mark.everyday_cases(1)
@pytest.mark.parametrize(
    ("sizes", "quantize"), [({}, "none"), ({"data": 2, "fsdp": 2}, "none"), ({"fsdp": 2, "tensor": 2}, "int8")]
)
def test_the_abstract_model_is_laid_out_as_the_loaded_one(checkpoint, sizes, quantize):
    if quantize != "none":
        pytest.importorskip("qwix")
    mesh = make_mesh(**sizes)
    loaded = load(str(checkpoint), mesh=mesh, quantize=quantize, say=lambda text: None).model
    found = nnx.to_flat_state(nnx.split(abstract_model(TINY, mesh, quantize=quantize))[1])
    for (path, shape), (same, array) in zip(found, nnx.to_flat_state(nnx.split(loaded)[1]), strict=True):
        shape, array = shape.get_value(), array.get_value()
        assert path == same
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype), path
        assert shape.sharding.is_equivalent_to(array.sharding, array.ndim), path


def test_memory_is_that_of_the_step_with_real_arrays(checkpoint):
    mesh, N = make_mesh(data=2, fsdp=2), 4
    train = TrainConfig(patience=2, evaluate_every=1)
    model = load(str(checkpoint), mesh=mesh, say=lambda text: None).model
    graphdef, base = nnx.split(model)
    names = [str(n) for n in range(N)]
    start = init_state(init_adapter(model.config, LORA, names), train, names)
    placed = layouts(mesh, *start)
    state, fixed = put(start, placed)
    shapes, dtypes = shapes_of(SMALL, N, packed=True)
    zeros = {key: np.zeros(shape, dtypes[key]) for key, shape in shapes.items()}
    batch = place(lambda members: {key: x[members] for key, x in zeros.items()}, shapes, mesh, dtypes)
    step = make_step(graphdef, train, mesh, placed[0]).lower(state, base, fixed, batch).compile()
    held_base, held_batch, held_keys = held(base), held(batch), held(fixed.keys)
    held_adapters = held((state, dataclasses.replace(fixed, keys=None))) + held_keys
    assert int(step(state, base, fixed, batch)[0].step) == 1

    found = measure(setup(train=train, mesh=mesh), N)
    assert (found.base, found.adapters, found.batch) == (held_base, held_adapters, held_batch)
    # Random keys are not read without dropout: the compiler leaves them out of the program's arguments.
    real = step.memory_analysis()
    assert real.argument_size_in_bytes == held_base + held_adapters + held_batch - held_keys
    assert real.temp_size_in_bytes == found.temporaries
    assert found.total == sum(dataclasses.asdict(found).values())


@pytest.mark.everyday_cases(1)
@pytest.mark.parametrize(
    ("remat", "sizes"), [("none", {}), ("products", {"data": 2, "fsdp": 2}), ("block", {"data": 2, "fsdp": 2})]
)
def test_the_estimate_is_an_upper_bound(remat, sizes):
    made = setup(WIDE, train=TrainConfig(remat=remat), mesh=make_mesh(**sizes), layout=Layout(4, 64, 32))
    needed = measure(made, 2).total
    assert needed < estimate(made, 2) < 8 * needed


def test_rows_are_rounded_up_to_the_mesh():
    made = setup(mesh=make_mesh(data=2, fsdp=2), train=TrainConfig(accumulate=3), layout=Layout(5, 8, 8))
    assert made.layout_for(2).rows == 6  # rows over fsdp alone
    assert made.layout_for(3).rows == 12  # three adapters do not divide over data: rows over both


@pytest.mark.everyday_cases(1)
@pytest.mark.parametrize(
    ("remat", "targets", "accumulate"),
    [("none", ("q_proj", "v_proj"), 1), ("products", ("all-linear",), 1), ("block", ("o_proj", "down_proj"), 2)],
)
def test_the_formula_counts_what_xla_counts(remat, targets, accumulate):
    train = TrainConfig(remat=remat, accumulate=accumulate)
    step = (WIDE, LoraConfig(rank=4, targets=targets), train, Layout(2, 128, 64), 2)
    # 10 %: the formula leaves out elementwise work, and XLA leaves out gradients below the first adapter.
    assert count_flops(*step).total == pytest.approx(xla_flops(*step), rel=0.1)


def fake(slope: int, *, first: int = 100, refuses: int = 10**9):
    """Memory of fleets of which each adapter takes `slope`; from `refuses` on the compiler says no."""
    asked = []

    def memory(size: int) -> Memory:
        asked.append(size)
        if size >= refuses:
            raise LorajaxError("too large")
        return Memory(first, 0, 0, slope * size + (3 * size if size > 2 else 0), 0)

    return memory, asked


@pytest.mark.parametrize("data", [1, 2, 4])
@pytest.mark.parametrize("refuses", [7, 10**9])
@pytest.mark.parametrize("room", [109, 120, 155, 200, 417, 10**6])
def test_the_largest_fleet_is_the_largest_that_fits(data, refuses, room):
    made = setup(mesh=make_mesh(data=data))
    memory, asked = fake(10, refuses=refuses)
    found = largest_fleet(made, most=40, device_bytes=int(np.ceil(room / FITS)), memory=memory)
    compiled = len(asked)
    fits = [n for n in range(1, 41) if n < refuses and memory(n).total <= room]
    whole = [n for n in fits if n % data == 0]
    best = max(whole or fits or [0])
    assert found in [0, *fits]
    assert 0.95 * best <= found <= best
    assert compiled <= 9
    assert not whole or found % data == 0


def test_a_fleet_is_sized_by_compiled_programs_only_where_memory_is_short(monkeypatch):
    made = setup()
    needed = measure(made, 2).total
    ask = lambda room, most: fleet_size(
        made.model, LORA, made.train, made.layout, made.mesh, most=most, device_bytes=room
    )
    assert ask(int(needed / FITS) + 1, 64) == 2
    assert ask(int(needed / FITS) + 1, 1) == 1
    monkeypatch.setattr("lorajax.training.capacity.measure", lambda *_: pytest.fail("compiled"))
    assert ask(int(estimate(made, 8) / CLEARLY) + 1, 8) == 8


def test_what_does_not_fit_is_told_with_what_would_help():
    made = setup(train=TrainConfig(batch_size=4), layout=Layout(4, 16, 8))
    with pytest.raises(LorajaxError, match=r"one adapter needs .* GB .*each device can give") as error:
        fleet_size(made.model, LORA, made.train, made.layout, made.mesh, most=4, device_bytes=1000)
    order = [
        str(error.value).index(way) for way in ("--remat block", "--accumulate 2", "--quantize nf4", "--mesh fsdp")
    ]
    assert order == sorted(order)
    train = dataclasses.replace(made.train, remat="block", accumulate=4)
    with pytest.raises(LorajaxError) as error:
        fleet_size(made.model, LORA, train, made.layout, made.mesh, most=4, device_bytes=1000)
    assert "--remat" not in str(error.value)
    assert "--accumulate" not in str(error.value)


def test_devices_of_a_cpu_share_its_memory():
    assert host_bytes() > 2**20
    one, four = memory_of(make_mesh()), memory_of(make_mesh(data=4), held=10**12)
    assert 0.1 * one < 4 * (four - 10**12) < 10 * one


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3.1-8b", 8_030_261_248),
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.2-3b", 3_212_749_824),
        ("llama3-70b", 70_553_706_496),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mistral-7b-v0.3", 7_248_023_552),
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
    ],
)
def test_named_models_have_their_published_number_of_parameters(name, parameters):
    config = config_of(name)
    assert config.parameter_count() == parameters
    assert ModelConfig.from_hf(config.to_hf()) == config
    shapes = nnx.split(abstract_model(config, make_mesh(), dtype=np.dtype("bfloat16")))[1]
    assert bytes_on_device(shapes) == 2 * parameters


def test_models_are_also_found_by_folder_and_file(checkpoint):
    assert config_of(str(checkpoint)) == config_of(str(checkpoint / "config.json"))
    assert config_of(str(checkpoint)).hidden_size == TINY.hidden_size
    with pytest.raises(LorajaxError, match=r"model 'llama5': .*llama2-7b"):
        config_of("llama5")
    with pytest.raises(LorajaxError, match=r"nobody/nothing.*config\.json"):
        config_of("nobody/nothing")
    assert "smollm2" in MODELS


def test_accelerators_are_found_by_name_and_by_what_jax_calls_them():
    assert machine("V5E") is MACHINES["v5e"]
    with pytest.raises(LorajaxError, match=r"'h1000'.*h100"):
        machine("h1000")
    kinds = {
        "TPU v5 lite": "v5e", "TPU v6 lite": "v6e", "TPU v5p": "v5p", "TPU v5": "v5p", "TPU v4": "v4",
        "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h200", "NVIDIA A100-SXM4-80GB": "a100-80",
        "NVIDIA A100 80GB PCIe": "a100-80", "NVIDIA A100-SXM4-40GB": "a100-40", "NVIDIA L4": "l4",
        "NVIDIA GeForce RTX 4090": "rtx4090", "Tesla T4": "t4",
    }  # fmt: skip
    assert {kind: found and found.name for kind in kinds if (found := machine_of(kind)) or True} == kinds
    assert machine_of("NVIDIA L40S") is None
    assert machine_of("cpu") is None


def test_a_step_is_bound_by_work_or_by_memory():
    speed = Speed(operations=100.0, bandwidth=10.0)
    assert speed.seconds(200, 1) == 2
    assert speed.seconds(200, 50) == 5
    assert Speed(100.0, None).seconds(200, 50) == 2
    assert Speed(None, 10.0).seconds(200, 50) is None
