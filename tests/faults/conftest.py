"""A checkpoint, and studies that nothing interrupted."""

import pytest

from tests.faults.commands import ONE_GROUP, Bench
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="package")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("faults")
    return Bench(tiny_checkpoint(folder / "model"), folder / "compiled")


@pytest.fixture(scope="package")
def one_group(bench, tmp_path_factory):
    """One group of two adapters, on one device."""
    folder = tmp_path_factory.mktemp("one_group") / "study"
    bench.run(folder, *ONE_GROUP)
    return folder
