"""Adapters as PEFT folders: `adapter_config.json` and `adapter_model.safetensors`, as the real peft has them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from lorajax.errors import LorajaxError
from lorajax.files import refuse_pickle, replacing
from lorajax.lora.adapter import Adapter, Lora, LoraConfig, head_of, loras, size
from lorajax.lora.head import HEAD, Head
from lorajax.lora.peft_head import head_notes, head_tensors, is_head_tensor, read_head
from lorajax.lora.targets import linear_shapes, module_name
from lorajax.models.roberta_config import RobertaConfig
from lorajax.models.safetensors_folder import open_safetensors
from lorajax.models.tables import Config

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0  # a bool is no int here


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and 1e-30 < abs(value) < 1e30


def _is_pattern(value: Any, valid: Callable[[Any], bool]) -> bool:
    try:
        return all(valid(v) and re.compile(_expression(k)) for k, v in ({} if value is None else value.items()))
    except (AttributeError, re.error, OverflowError, RecursionError):
        return False


def _is_targets(value: Any) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, list) and all(type(v) is str for v in value))


#: The keys that are read: peft's default, what is allowed, and how to say that.
READ: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "peft_type": (None, lambda v: v == "LORA", "'LORA'"),
    "r": (8, _is_rank, "a positive whole number"),
    "lora_alpha": (8, _is_alpha, "a finite number other than 0"),
    "lora_dropout": (0.0, lambda v: type(v) in (int, float) and 0 <= v < 1, "a number in [0, 1)"),
    "use_rslora": (False, lambda v: v is None or isinstance(v, bool), "true or false"),
    "rank_pattern": ({}, lambda v: _is_pattern(v, _is_rank), "{regular expression: positive whole number}"),
    "alpha_pattern": ({}, lambda v: _is_pattern(v, _is_alpha), "{regular expression: finite number other than 0}"),
    "target_modules": (None, _is_targets, "a list of names, or one regular expression"),
    "bias": ("none", lambda v: v == "none", "'none'"),
    "init_lora_weights": (
        True,
        lambda v: v is None or isinstance(v, bool) or v in ("gaussian", "orthogonal"),
        "true, false, 'gaussian' or 'orthogonal', which leave the base model's weights as they are",
    ),
}

#: Keys that may hold anything: they describe, or choose the modules, and those are known by their tensors. What is in
#: neither table changes the update or the base model, now or in a later peft, and must be unset.
HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "task_type",
})  # fmt: skip


def save_adapter(
    adapter: Mapping[str, Lora | Head],
    lora: LoraConfig,
    folder: Path,
    *,
    base: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes one adapter to `folder`, replacing an adapter that is there.

    A folder states one rank and one scale. Factors of a lower rank are padded with zeros; where a layer's scale differs
    from the one stated, B is multiplied by their ratio. A classification head is saved whole (`modules_to_save`), and
    `lorajax.json` names its classes: an adapter for `AutoModelForSequenceClassification` with that many labels.

    Args:
      adapter: a set of one.
      lora: rank, alpha and dropout to state; a rank that is too small for the factors is raised.
      base: name of the base model, for `base_model_name_or_path`.
      notes: written as they are to `lorajax.json`, beside the adapter (provenance).

    Raises:
      LorajaxError: a set of more than one, an update that is zero, or `folder` holds something other than an adapter.
    """
    if size(adapter) != 1:
        raise LorajaxError(f"{folder}: a PEFT folder holds one adapter, found a set of {size(adapter)}")
    foreign = (
        [p.name for p in folder.iterdir() if not p.name.startswith(("adapter_", "lorajax."))] if folder.is_dir() else []
    )
    if foreign:
        raise LorajaxError(f"{folder}: holds {foreign[0]}, which is no part of an adapter; name another folder")
    updates, head = loras(adapter), head_of(adapter)
    layers = _adapted_layers(updates)
    if not layers:
        raise LorajaxError(f"{folder}: the scale of every layer is 0; expected an adapter that adapts something")
    # Both as [layers, r, n], so that they are cut and padded alike.
    factors = {p: (np.asarray(updates[p].a[:, 0]).swapaxes(1, 2), np.asarray(updates[p].b[:, 0])) for p in layers}
    used = [np.flatnonzero(f[layers[path]].any((0, 2))) for path, pair in factors.items() for f in pair]
    rank = max([lora.rank, *(1 + int(rows[-1]) for rows in used if len(rows))])
    lora = dataclasses.replace(lora, rank=rank)
    tensors = {}
    for path, (a, b) in factors.items():
        ratio = np.asarray(updates[path].scale[:, 0]) / np.float32(lora.scale)
        pad = ((0, max(0, rank - b.shape[1])), (0, 0))
        for layer in layers[path]:
            name = PREFIX + module_name(path, layer)
            down, up = np.pad(a[layer, :rank], pad), np.pad(b[layer, :rank] * ratio[layer], pad)
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up.T)
    keys = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if head else "CAUSAL_LM" if _is_decoders(updates) else None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": _targets(updates),
        "bias": "none",
        "inference_mode": True,
    }
    if head is not None:
        tensors |= {PREFIX + name: value for name, value in head_tensors(head).items()}
        keys["modules_to_save"] = [HEAD]
        notes = {**(notes or {}), **head_notes(head)} or None
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, str(temporary / WEIGHTS), metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(keys, indent=2) + "\n", "utf-8")
        if notes is not None:
            (temporary / "lorajax.json").write_text(json.dumps(dict(notes), indent=2) + "\n", "utf-8")


def _adapted_layers(updates: Mapping[str, Lora]) -> dict[str, list[int]]:
    """The layers of each module that an adapter, a set of one, adapts."""
    layers = {path: np.flatnonzero(np.asarray(module.scale[:, 0])).tolist() for path, module in updates.items()}
    return {path: numbers for path, numbers in layers.items() if numbers}


def _is_decoders(updates: Mapping[str, Lora]) -> bool:
    return all(module_name(path, 0).startswith("model.") for path in updates)


def _targets(updates: Mapping[str, Lora]) -> list[str] | str:
    """The targets in peft's words: module names when all layers are adapted, else a regular expression.

    An encoder has several modules named `dense`: these are told apart by their full names.
    """
    adapted = _adapted_layers(updates)
    names = sorted(path.split(".")[-1] for path in adapted)
    if all(len(layers) == updates[path].scale.shape[0] for path, layers in adapted.items()) and "dense" not in names:
        return names
    return "|".join(re.escape(module_name(path, layer)) for path, layers in adapted.items() for layer in layers)


def load_adapter(folder: Path, config: Config) -> tuple[Adapter, LoraConfig]:
    """The adapter in a PEFT folder, as a set of one for a model of `config`, with its head if it has one.

    `rank_pattern` and `alpha_pattern` are honoured. The returned LoraConfig has the largest rank, and names as targets
    the modules whose tensors are there.

    Raises:
      LorajaxError: files missing or broken, pickled weights, a kind of adapter other than LoRA, a setting that is not
        valid or not computed here, a module that the model does not have, or shapes that match neither the model nor
        the rank.
    """
    encoder = isinstance(config, RobertaConfig)
    keys = read_config(folder, HARMLESS | {"modules_to_save"} if encoder else HARMLESS)
    lora = LoraConfig(
        rank=keys["r"],
        alpha=float(keys["lora_alpha"]),
        dropout=float(keys["lora_dropout"]),
        rslora=bool(keys["use_rslora"]),
    )
    file = folder / WEIGHTS
    if not file.exists():
        refuse_pickle(next(folder.glob("adapter_model.bin"), file))
        raise LorajaxError(f"{file}: no such file; expected the adapter's weights beside {CONFIG}")
    factors = _read_factors(file, config)
    shapes = linear_shapes(config)
    for (path, _), (name, down, up) in factors.items():
        rank, (in_features, out_features) = resolve(keys["rank_pattern"], name, lora.rank), shapes[path]
        if down.shape != (rank, in_features) or up.shape != (out_features, rank):
            raise LorajaxError(
                f"{file}: {name} has lora_A {list(down.shape)} and lora_B {list(up.shape)}; expected "
                f"{[rank, in_features]} and {[out_features, rank]} (rank from {CONFIG}, sizes from the model)"
            )
    adapter: Adapter = {}
    for path, (in_features, out_features) in shapes.items():
        layers = {layer: found for (p, layer), found in factors.items() if p == path}
        if not layers:
            continue
        widest = max(len(down) for _, down, _ in layers.values())
        a = np.zeros((config.num_layers, 1, in_features, widest), np.float32)
        b = np.zeros((config.num_layers, 1, widest, out_features), np.float32)
        scale = np.zeros((config.num_layers, 1), np.float32)
        for layer, (name, down, up) in layers.items():
            rank, alpha = len(down), float(resolve(keys["alpha_pattern"], name, lora.alpha))
            a[layer, 0, :, :rank], b[layer, 0, :rank] = down.T, up.T
            scale[layer, 0] = dataclasses.replace(lora, rank=rank, alpha=alpha).scale
        adapter[path] = Lora(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))
    updates = loras(adapter)
    targets = _targets(updates)
    if encoder and (head := read_head(file, config.hidden_size)) is not None:
        adapter[HEAD] = head
    return adapter, dataclasses.replace(
        lora,
        rank=max(x.a.shape[-1] for x in updates.values()),
        targets=(targets,) if isinstance(targets, str) else tuple(targets),
    )


def read_config(folder: Path, ignored: Collection[str] = HARMLESS) -> dict[str, Any]:
    """The keys that are read, each valid, with peft's defaults for those that are not there.

    Args:
      ignored: keys that may hold anything. All that are neither read nor ignored must be unset.

    Raises:
      LorajaxError: no such file, not JSON, or a key that is not valid or not supported.
    """
    source = folder / CONFIG
    try:
        keys = json.loads(source.read_text("utf-8"))
    except OSError as error:
        raise LorajaxError(f"{source}: {error.strerror}; expected a PEFT adapter folder") from None
    except (ValueError, RecursionError) as error:
        raise LorajaxError(f"{source}: not JSON: {error}") from None
    if not isinstance(keys, dict):
        raise LorajaxError(f"{source}: holds {keys!r:.60}; expected an object with the keys of a LoRA adapter")
    settings = {key: keys.get(key, default) for key, (default, _, _) in READ.items()}
    for key, (_, valid, expected) in READ.items():
        if key not in ignored and not valid(settings[key]):
            raise LorajaxError(f"{source}: {key} = {settings[key]!r:.60} is not supported; expected {expected}")
    for key in sorted(keys.keys() - READ.keys() - set(ignored)):
        if keys[key] is not False and keys[key] not in (None, [], {}):
            raise LorajaxError(f"{source}: {key} = {keys[key]!r:.60} is not supported; expected null or false")
    return settings | {key: keys.get(key) for key in ignored}


def _read_factors(file: Path, config: Config) -> dict[tuple[str, int], tuple[str, np.ndarray, np.ndarray]]:
    """The module's name in the file, lora_A and lora_B, by path and layer."""
    handle = open_safetensors(file)
    found: dict[tuple[str, int], dict[str, tuple[str, str]]] = {}
    paths, encoder = linear_shapes(config), isinstance(config, RobertaConfig)
    layers = r"(?:roberta\.)?encoder\.layer" if encoder else r"(?:model\.)?layers"
    for tensor in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
        if encoder and is_head_tensor(tensor):
            continue
        match = re.fullmatch(
            rf"(?:base_model\.model\.)?({layers}\.([0-9]{{1,6}})\.(.+))\.lora_([AB])(?:\.default)?\.weight", tensor
        )
        if not match or match[3] not in paths or int(match[2]) >= config.num_layers:
            raise LorajaxError(
                f"{file}: tensor {tensor} belongs to no linear module of the model ({config.num_layers} layers of "
                f"{', '.join(paths)})"
            )
        name, layer, path, factor = match.groups()
        pair = found.setdefault((path, int(layer)), {})
        if factor in pair:
            raise LorajaxError(
                f"{file}: tensors {pair[factor][1]} and {tensor} are the same factor; expected one of them"
            )
        pair[factor] = name, tensor
    if not found:
        raise LorajaxError(f"{file}: holds no LoRA tensors")
    for pair in found.values():
        if len(pair) != 2:
            ((factor, (name, _)),) = pair.items()
            raise LorajaxError(f"{file}: {name} has lora_{factor} alone; expected lora_A and lora_B")
    try:
        values = {key: [handle.get_tensor(pair[f][1]).astype(np.float32) for f in "AB"] for key, pair in found.items()}
    except (AttributeError, TypeError, SafetensorError) as error:
        raise LorajaxError(f"{file}: {error}; expected tensors in float32, float16 or bfloat16") from error
    return {key: (found[key]["A"][0], a, b) for key, (a, b) in values.items()}


def resolve(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """What a module gets by peft's rule: of the first pattern that matches its name or its end, or the default."""
    return next((value for key, value in (patterns or {}).items() if re.match(_expression(key), name)), default)


def _expression(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"
