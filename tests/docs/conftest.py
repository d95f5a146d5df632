"""What the tests of the documentation share."""

from pathlib import Path

import numpy as np
import pytest

from tests.tiny import TINY, tiny_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A checkpoint of two blocks with random weights."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


def save_adapters(folder: Path, names, base) -> list[Path]:
    """PEFT folders over the tiny checkpoint, with random updates of rank 2."""
    from lorajax.lora.adapter import Lora, LoraConfig
    from lorajax.lora.peft import save_adapter
    from lorajax.lora.targets import linear_shapes

    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=(TINY.num_layers, 1, *shape)).astype(np.float32)
    shapes = {path: linear_shapes(TINY)[path] for path in ("self_attn.q_proj", "self_attn.v_proj")}
    scale = np.full((TINY.num_layers, 1), 8.0, np.float32)
    for name in names:
        adapter = {path: Lora(draw(inner, 2), draw(2, out), scale) for path, (inner, out) in shapes.items()}
        save_adapter(adapter, LoraConfig(rank=2), folder / name, base=str(base))
    return [folder / name for name in names]
