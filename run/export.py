"""Writes a model as a Hugging Face folder that transformers loads: plain, or with one adapter merged into its weights.

    python -m run.export smollm2 OUT
    python -m run.export smollm2 OUT --adapter STUDY/adapters/E

`--json` has `files` alone, the folder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import tyro

from lorajax.lora.peft import load_adapter
from lorajax.models.checkpoint import load
from lorajax.models.weights import check_new_folder, save_hf
from run.__main__ import cli
from run.options import Dtype
from run.terminal import command, say, wrote


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a model as a Hugging Face folder."""

    model: tyro.conf.Positional[str]
    """`smollm2`, a folder, a .gguf file, or a hub id owner/name."""
    out: tyro.conf.Positional[Path]
    """Folder to write: new or empty."""
    adapter: Path | None = None
    """PEFT folder of the adapter to merge."""
    dtype: Dtype = "float32"
    """Of the weights that are written."""


def export(options: Export) -> None:
    """Loads, merges and writes."""
    check_new_folder(options.out)
    checkpoint = load(options.model, dtype=jnp.dtype(options.dtype), say=say)
    adapter = None if options.adapter is None else load_adapter(options.adapter, checkpoint.model.config)[0]
    save_hf(checkpoint.model, options.out, tokenizer=checkpoint.tokenizer, adapter=adapter)
    wrote(options.out)


def main() -> None:
    """Entry point of `python -m run.export`."""
    export(cli(Export, prog="python -m run.export", description=__doc__, example="smollm2 exported"))


if __name__ == "__main__":
    command(main)
