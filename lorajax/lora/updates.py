"""The updates in PEFT folders, whatever the base model: for comparing adapters, without a model to put them on.

`load_adapter` fits an adapter to a model it knows. Here only the adapter's own two files are read, and names are taken
as they come: `base_model.model.bert.encoder.layer.3.attention.self.query.lora_A.weight` is layer 3 of the module
`bert.encoder.layer.*.attention.self.query`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from lorajax.errors import LorajaxError
from lorajax.files import refuse_pickle
from lorajax.lora.peft import CONFIG, HARMLESS, WEIGHTS, read_config, resolve
from lorajax.models.safetensors_folder import open_safetensors

#: Keys that change a model, and leave the low-rank update of its weights what it is.
BESIDE = frozenset({
    "bias", "ensure_weight_tying", "fan_in_fan_out", "lora_bias", "modules_to_save", "trainable_token_indices",
    "use_dora",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Update:
    """ΔW = scale · B A of one module of one layer, a weight `[out, in]`; float32."""

    B: np.ndarray
    """`[out, r]`"""
    A: np.ndarray
    """`[r, in]`"""
    scale: float


@dataclasses.dataclass(frozen=True)
class Updates:
    """All low-rank updates of one adapter."""

    modules: Mapping[str, Mapping[int, Update]]
    """By the module's path, `*` for the layer's number, then by that number."""
    base: str
    """Base model it was trained on, as its config names it; may be empty."""
    notes: tuple[str, ...]
    """What else the adapter holds, which is no low-rank update."""


def read_updates(folder: Path) -> Updates:
    """The updates of the PEFT adapter in `folder`.

    LoRA and rsLoRA with any ranks and alphas. Of DoRA it is the part before the magnitudes are set, and a note says so.

    Raises:
      LorajaxError: files missing or broken, pickled weights, another kind of adapter, a setting that changes the base
        model or the update in a way that is not known here, tensors that are no factors, or shapes that do not fit.
    """
    keys = read_config(folder, HARMLESS | BESIDE)
    file = folder / WEIGHTS
    if not file.exists():
        refuse_pickle(next(folder.glob("adapter_model.bin"), file))
        raise LorajaxError(f"{file}: no such file; expected the adapter's weights beside {CONFIG}")
    factors, others = _factors(file)
    notes = [f"{others} tensors beside the low-rank updates (whole modules, biases) are not compared"] if others else []
    if keys["use_dora"]:
        notes.append("DoRA: its low-rank part is compared, before magnitudes are set")
    found: dict[str, dict[int, Update]] = {}
    outside = []
    for name, (down, up) in factors.items():
        rank = resolve(keys["rank_pattern"], name, keys["r"])
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != rank or up.shape[1] != rank:
            raise LorajaxError(
                f"{file}: {name} has lora_A {list(down.shape)} and lora_B {list(up.shape)}; expected [{rank}, in] and "
                f"[out, {rank}] (rank from {CONFIG})"
            )
        alpha = float(resolve(keys["alpha_pattern"], name, keys["lora_alpha"]))
        place = re.fullmatch(r"(.*?\.)?([0-9]{1,6})(\..+)?", name)
        if place is None:
            outside.append(name)
            continue
        module = f"{place[1] or ''}*{place[3] or ''}"
        update = Update(up, down, alpha / (rank**0.5 if keys["use_rslora"] else rank))
        found.setdefault(module, {})[int(place[2])] = update
    if outside:
        notes.append(f"{', '.join(sorted(outside)[:3])}: in no numbered layer, not compared")
    if not found:
        raise LorajaxError(f"{file}: holds no LoRA tensors of a module in a numbered layer")
    modules = {name: dict(sorted(found[name].items())) for name in sorted(found)}
    return Updates(modules, str(keys["base_model_name_or_path"] or ""), tuple(notes))


def _factors(file: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """(lora_A, lora_B) by the module's name, and the number of other tensors."""
    handle = open_safetensors(file)
    pairs: dict[str, dict[str, str]] = {}
    others = 0
    for tensor in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight", tensor)
        if match is None:
            if re.search(r"\.lora_(?!magnitude_vector|[AB]\.(default\.)?bias)", tensor):
                raise LorajaxError(f"{file}: tensor {tensor} is not supported; expected lora_A and lora_B of modules")
            others += ".lora_magnitude_vector" not in tensor
            continue
        name, factor = match.groups()
        if factor in (pair := pairs.setdefault(name, {})):
            raise LorajaxError(f"{file}: tensors {pair[factor]} and {tensor} are the same factor; expected one of them")
        pair[factor] = tensor
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise LorajaxError(f"{file}: {name} has lora_{next(iter(pair))} alone; expected lora_A and lora_B")
    try:
        read = {
            name: tuple(handle.get_tensor(pair[f]).astype(np.float32) for f in "AB") for name, pair in pairs.items()
        }
    except (AttributeError, TypeError, SafetensorError) as error:
        raise LorajaxError(f"{file}: {error}; expected tensors in float32, float16 or bfloat16") from error
    return read, others  # type: ignore[return-value]
