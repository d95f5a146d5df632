"""Adapters as PEFT folders: `adapter_config.json` and `adapter_model.safetensors`, as the real peft has them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from lorajax.errors import LorajaxError
from lorajax.files import refuse_pickle, replacing
from lorajax.lora.adapter import Adapter, Lora, LoraConfig, linear_shapes, module_name, size
from lorajax.models.config import ModelConfig
from lorajax.models.safetensors_folder import open_safetensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."

#: Settings of peft that change the update in ways this adapter does not compute: they must be absent or as here.
UNSUPPORTED = {
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "megatron_config": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
}


def save_adapter(
    adapter: Adapter,
    lora: LoraConfig,
    folder: Path,
    *,
    base: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes one adapter to `folder`, replacing an adapter that is there.

    Args:
      adapter: a set of one.
      lora: rank, alpha, targets and dropout it was trained with.
      base: name of the base model, for `base_model_name_or_path`.
      notes: written as they are to `lorajax.json`, beside the adapter (provenance).

    Raises:
      LorajaxError: a set of more than one, or `folder` holds something other than an adapter.
    """
    if size(adapter) != 1:
        raise LorajaxError(f"{folder}: a PEFT folder holds one adapter, found a set of {size(adapter)}")
    foreign = (
        [p.name for p in folder.iterdir() if not p.name.startswith(("adapter_", "lorajax."))] if folder.exists() else []
    )
    if foreign:
        raise LorajaxError(f"{folder}: holds {foreign[0]}, which is no part of an adapter; name another folder")
    tensors = {}
    for path, module in adapter.items():
        a, b, scale = (np.asarray(x[:, 0]) for x in (module.a, module.b, module.scale))
        for layer in np.flatnonzero(scale):
            name = PREFIX + module_name(path, int(layer))
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a[layer].T[: lora.rank])
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b[layer].T[:, : lora.rank])
    keys = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": _targets(adapter),
        "bias": "none",
        "inference_mode": True,
    }
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, str(temporary / WEIGHTS), metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(keys, indent=2) + "\n", "utf-8")
        if notes is not None:
            (temporary / "lorajax.json").write_text(json.dumps(dict(notes), indent=2) + "\n", "utf-8")


def _targets(adapter: Adapter) -> list[str] | str:
    """The targets in peft's words: module names when all layers are adapted, else a regular expression."""
    adapted = {path: np.flatnonzero(np.asarray(module.scale[:, 0])) for path, module in adapter.items()}
    if all(len(layers) == adapter[path].scale.shape[0] for path, layers in adapted.items()):
        return sorted(path.split(".")[-1] for path in adapted)
    named = [module_name(path, int(layer)) for path, layers in adapted.items() for layer in layers]
    return "|".join(re.escape(name) for name in named)


def load_adapter(folder: Path, config: ModelConfig) -> tuple[Adapter, LoraConfig]:
    """The adapter in a PEFT folder, as a set of one for a model of `config`.

    `rank_pattern` and `alpha_pattern` are honoured. The returned LoraConfig names the targets as peft does.

    Raises:
      LorajaxError: files missing or broken, pickled weights, a kind of adapter other than LoRA, a module that the model
        does not have, or shapes that match neither the model nor the rank.
    """
    keys = _read_config(folder)
    source = folder / CONFIG
    lora = LoraConfig(
        rank=keys["r"],
        alpha=float(keys.get("lora_alpha", 8)),
        dropout=float(keys.get("lora_dropout") or 0.0),
        targets=tuple(t) if isinstance(t := keys.get("target_modules") or "all-linear", list) else (t,),
        rslora=bool(keys.get("use_rslora")),
    )
    file = folder / WEIGHTS
    if not file.exists():
        refuse_pickle(next(folder.glob("adapter_model.bin"), file))
        raise LorajaxError(f"{file}: no such file; expected the adapter's weights beside {CONFIG}")
    factors = _read_factors(file, config)
    ranks, alphas = keys.get("rank_pattern") or {}, keys.get("alpha_pattern") or {}
    adapter = {}
    for path, (in_features, out_features) in linear_shapes(config).items():
        layers = {layer: pair for (p, layer), pair in factors.items() if p == path}
        if not layers:
            continue
        widest = max(a.shape[0] for a, _ in layers.values())
        a = np.zeros((config.num_layers, 1, in_features, widest), np.float32)
        b = np.zeros((config.num_layers, 1, widest, out_features), np.float32)
        scale = np.zeros((config.num_layers, 1), np.float32)
        for layer, (down, up) in layers.items():
            name = module_name(path, layer)
            rank = _pattern(ranks, name, lora.rank)
            if down.shape != (rank, in_features) or up.shape != (out_features, rank):
                raise LorajaxError(
                    f"{file}: {name} has lora_A {list(down.shape)} and lora_B {list(up.shape)}; expected "
                    f"{[rank, in_features]} and {[out_features, rank]} (rank from {source.name}, sizes from the model)"
                )
            a[layer, 0, :, :rank], b[layer, 0, :rank] = down.T, up.T
            alpha = _pattern(alphas, name, lora.alpha)
            scale[layer, 0] = alpha / (math.sqrt(rank) if lora.rslora else rank)
        adapter[path] = Lora(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))
    return adapter, dataclasses.replace(lora, rank=max(x.a.shape[-1] for x in adapter.values()))


def _read_config(folder: Path) -> dict[str, Any]:
    source = folder / CONFIG
    try:
        keys = json.loads(source.read_text("utf-8"))
    except FileNotFoundError:
        raise LorajaxError(f"{source}: no such file; expected a PEFT adapter folder") from None
    except ValueError as error:
        raise LorajaxError(f"{source}: not JSON: {error}") from None
    if not isinstance(keys, dict) or keys.get("peft_type") != "LORA":
        found = keys.get("peft_type") if isinstance(keys, dict) else type(keys).__name__
        raise LorajaxError(f"{source}: peft_type {found!r} is not supported; expected 'LORA'")
    if not isinstance(keys.get("r"), int) or keys["r"] < 1:
        raise LorajaxError(f"{source}: r must be a positive whole number, found {keys.get('r')!r}")
    for key, neutral in UNSUPPORTED.items():
        if keys.get(key) not in (neutral, None, False, [], {}):
            raise LorajaxError(f"{source}: {key} = {keys[key]!r} is not supported; expected {neutral!r}")
    return keys


def _read_factors(file: Path, config: ModelConfig) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    handle = open_safetensors(file)
    found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    paths = linear_shapes(config)
    for name in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
        match = re.fullmatch(r"(?:.*\.)?layers\.(\d+)\.(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if not match or match[2] not in paths or int(match[1]) >= config.num_layers:
            raise LorajaxError(
                f"{file}: tensor {name} belongs to no linear module of the model ({config.num_layers} layers of "
                f"{', '.join(paths)})"
            )
        found.setdefault((match[2], int(match[1])), {})[match[3]] = handle.get_tensor(name).astype(np.float32)
    if not found:
        raise LorajaxError(f"{file}: holds no LoRA tensors")
    for (path, layer), pair in found.items():
        if set(pair) != {"A", "B"}:
            raise LorajaxError(
                f"{file}: {module_name(path, layer)} has lora_{min(pair)} alone; expected lora_A and lora_B"
            )
    return {key: (pair["A"], pair["B"]) for key, pair in found.items()}


def _pattern(patterns: Mapping[str, float], name: str, default: Any) -> Any:
    """peft's rule: the first pattern that matches the whole name or its end, else the default."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default
