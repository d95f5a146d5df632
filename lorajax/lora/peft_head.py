"""The classification head in PEFT folders: whole tensors beside the low-rank ones, and what its classes are called.

PEFT keeps the head's weights but not its labels, and a model's `num_labels` is its user's to give. Both are in
`lorajax.json`: `id2label`, as transformers takes it, and `classes`, a task and a label for each.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError

from lorajax.data.classes import Classes
from lorajax.errors import LorajaxError
from lorajax.lora.head import HEAD, Head
from lorajax.models.safetensors_folder import open_safetensors

NOTES = "lorajax.json"

#: Our leaves, by the names of the tensors in the module `HEAD`. Weights are `[out, in]` there.
PARTS = {
    "dense.weight": "dense",
    "dense.bias": "dense_bias",
    "out_proj.weight": "out",
    "out_proj.bias": "out_bias",
}


def head_tensors(head: Head) -> dict[str, np.ndarray]:
    """The tensors of one head, by name."""
    values = {name: np.asarray(getattr(head, part)[0, 0]) for name, part in PARTS.items()}
    return {
        f"{HEAD}.{name}": np.ascontiguousarray(value.T) if name.endswith("weight") else value[0]
        for name, value in values.items()
    }


def head_notes(head: Head) -> dict[str, Any]:
    """What `lorajax.json` says of it; nothing where the labels are not known."""
    if "" in head.classes.tasks:
        return {}
    labels = {str(i): label for i, label in enumerate(head.classes.labels())}
    return {"id2label": labels, "classes": [list(name) for name in head.classes.names]}


def is_head_tensor(tensor: str) -> bool:
    """Whether a tensor of an adapter file is the head's."""
    return _part(tensor) is not None


def _part(tensor: str) -> str | None:
    match = re.fullmatch(rf"(?:base_model\.model\.)?{HEAD}\.(?:modules_to_save\.(?:default\.)?)?(.+)", tensor)
    return match[1] if match and match[1] in PARTS else None


def read_head(file: Path, size: int) -> Head | None:
    """The head in an adapter's weights for hidden states of `size` numbers; None where there is none.

    Its classes are those that the `lorajax.json` beside the file names; else they have numbers, and no task.

    Raises:
      LorajaxError: a part is missing or has another shape, or `lorajax.json` names another number of classes.
    """
    handle = open_safetensors(file)
    names = {part: tensor for tensor in handle.keys() if (part := _part(tensor)) is not None}  # noqa: SIM118
    if not names:
        return None
    if missing := sorted(PARTS.keys() - names.keys()):
        raise LorajaxError(f"{file}: the classification head has no {missing[0]}; expected {', '.join(PARTS)}")
    try:
        found = {part: handle.get_tensor(tensor).astype(np.float32) for part, tensor in names.items()}
    except (AttributeError, TypeError, SafetensorError) as error:
        raise LorajaxError(f"{file}: {error}; expected tensors in float32, float16 or bfloat16") from error
    classes = _classes(file.parent / NOTES) or Classes(tuple(("", str(i)) for i in range(len(found["out_proj.bias"]))))
    count = len(classes)
    expected = dict(zip(PARTS, ((size, size), (size,), (count, size), (count,)), strict=True))
    for part, shape in expected.items():
        if found[part].shape != shape:
            raise LorajaxError(
                f"{file}: {names[part]} has shape {list(found[part].shape)}; expected {list(shape)} (hidden size of "
                f"the model, and {count} classes)"
            )
    leaves = {PARTS[part]: jnp.asarray(np.atleast_2d(value.T))[None, None] for part, value in found.items()}
    return Head(**leaves, classes=classes)


def _classes(notes: Path) -> Classes | None:
    """The classes that `lorajax.json` names, if it does."""
    try:
        names = json.loads(notes.read_text("utf-8")).get("classes")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise LorajaxError(f"{notes}: expected a JSON object: {error}") from None
    if names is None:
        return None
    try:
        found = Classes(tuple((str(task), str(label)) for task, label in names))
    except (TypeError, ValueError):
        raise LorajaxError(f"{notes}: classes must be a list of [task, label], found {names!r:.60}") from None
    if len(set(found.names)) != len(found) or not len(found):
        raise LorajaxError(f"{notes}: classes must be different from each other, and at least one")
    return found
