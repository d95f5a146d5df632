"""LoRA adapters as plain data: made, read, written, stacked, merged, and taken apart by layers.

A set of N adapters is a dict from the path of a module to `Lora`, factors with an axis N (`lorajax.lora.adapter`). One
adapter is a set of one; `stack` joins sets, and `take` picks from one. Public names, by module:

    adapter         LoraConfig, Lora, init_adapter, stack, take, size, zeros_like, split, join
    peft            load_adapter, save_adapter
    merge           merge_adapters, MergeConfig, Merged
    updates         read_updates, Update, Updates
    masks           layer_masks, LayerMask, Ablation
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorajax import _reads_when_asked

if TYPE_CHECKING:
    from lorajax.lora.adapter import Lora, LoraConfig, init_adapter, join, size, split, stack, take, zeros_like
    from lorajax.lora.masks import Ablation, LayerMask, layer_masks
    from lorajax.lora.merge import MergeConfig, Merged, merge_adapters
    from lorajax.lora.peft import load_adapter, save_adapter
    from lorajax.lora.updates import Update, Updates, read_updates

__all__ = [
    "Ablation", "LayerMask", "Lora", "LoraConfig", "MergeConfig", "Merged", "Update", "Updates", "init_adapter",
    "join", "layer_masks", "load_adapter", "merge_adapters", "read_updates", "save_adapter", "size", "split",
    "stack", "take", "zeros_like",
]  # fmt: skip

if not TYPE_CHECKING:  # type checkers see the imports above, and that there are no other names
    __getattr__ = _reads_when_asked(
        __name__,
        {
            "adapter": "LoraConfig Lora init_adapter stack take size zeros_like split join",
            "masks": "layer_masks LayerMask Ablation",
            "merge": "merge_adapters MergeConfig Merged",
            "peft": "load_adapter save_adapter",
            "updates": "read_updates Update Updates",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
