"""What all tests share. Eight virtual CPU devices, so that sharded paths run everywhere; no network."""

import os
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lorajax.models.config import ModelConfig, RopeConfig
from lorajax.models.llama import Llama

# Programs of the tests are tiny and many: optimising them would take longer than running them.
QUICK_TO_COMPILE = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if jax.__version_info__ < (0, 11):  # later ones do not know the flag
    QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", *QUICK_TO_COMPILE]
)
os.environ["HF_HUB_OFFLINE"] = "1"
jax.config.update("jax_default_matmul_precision", "highest")

TESTS = Path(__file__).parent

#: Cases of one test of a measure, or of a comparison with another implementation, that are not `slow`: the everyday run
#: is to be short, and CI runs all.
EVERYDAY_CASES = 1

#: Where the workers of one run keep compiled programs for each other: many tests compile the same small ones.
PROGRAMS = "LORAJAX_TEST_PROGRAMS"


def pytest_addoption(parser):
    parser.addoption("--one-of-each", action="store_true", help="of each test function the first case only")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="lorajax-tests-")
    jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(PROGRAMS), ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(config, items):
    # Modules with long fixtures first: what idle workers take over from others is then without any.
    order = ("run", "browser", "docs", "faults", "recipes", "parity", "lorajax", "analysis")
    rooms = {item: item.path.relative_to(TESTS).parts[0] for item in items}
    items.sort(key=lambda item: order.index(rooms[item]) if rooms[item] in order else len(order))
    seen: dict[str, int] = {}
    for item in items:
        function = item.nodeid.split("[")[0]
        seen[function] = seen.get(function, 0) + 1
        marker = item.get_closest_marker("everyday_cases")
        if marker is None and rooms[item] not in ("parity", "analysis"):
            continue
        if seen[function] > (EVERYDAY_CASES if marker is None else marker.args[0]):
            item.add_marker(pytest.mark.slow)
    if config.getoption("--one-of-each"):
        first = {item.nodeid.split("[")[0]: item for item in reversed(items)}
        config.hook.pytest_deselected(items=[item for item in items if item not in first.values()])
        items[:] = reversed(first.values())


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Thousands of compiled programs in one process run into the limit on memory maps, which ends it."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """A decoder with everything in it: grouped queries, llama3 rotary scaling, tied head; three blocks of width 32."""
    rope = RopeConfig("llama3", 500_000.0, 8.0, 1.0, 4.0, 64)
    return ModelConfig(97, 32, 64, 3, 4, 2, 8, rope=rope, tie_embeddings=True, max_positions=512)


@pytest.fixture(scope="session")
def model(config) -> Llama:
    """`config` with random weights, committed to one device as a loaded model is."""
    from lorajax.mesh import make_mesh, replicate

    graphdef, state = nnx.split(Llama(config, rngs=nnx.Rngs(0)))
    return nnx.merge(graphdef, replicate(state, make_mesh()))


@pytest.fixture
def tokens(config) -> jax.Array:
    """Tokens `[2, 3, 40]`."""
    return jax.random.randint(jax.random.key(1), (2, 3, 40), 0, config.vocab_size)


def randomize(adapter, seed: int = 7, scale: float = 0.2):
    """`adapter` with random factors: B of a new adapter is zero, and hides mistakes."""
    import dataclasses

    def fill(path, lora):
        key = jax.random.fold_in(jax.random.key(seed), len(path))
        return dataclasses.replace(lora, b=scale * jax.random.normal(key, lora.b.shape, jnp.float32))

    return {path: fill(path, lora) for path, lora in adapter.items()}
