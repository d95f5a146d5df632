"""Which modules of a model are adapted, by the names they have in the checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lorajax.errors import LorajaxError
from lorajax.models.roberta_config import RobertaConfig
from lorajax.models.tables import Config

#: What the names of a decoder's modules mean where there is none of that name: an encoder's.
COUNTERPARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "attention.output.dense"}


def linear_shapes(config: Config) -> dict[str, tuple[int, int]]:
    """(in, out) of every linear module inside a block, by its path."""
    size, inner = config.hidden_size, config.intermediate_size
    if isinstance(config, RobertaConfig):
        return {
            "attention.self.query": (size, size),
            "attention.self.key": (size, size),
            "attention.self.value": (size, size),
            "attention.output.dense": (size, size),
            "intermediate.dense": (size, inner),
            "output.dense": (inner, size),
        }
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "self_attn.q_proj": (size, q),
        "self_attn.k_proj": (size, kv),
        "self_attn.v_proj": (size, kv),
        "self_attn.o_proj": (q, size),
        "mlp.gate_proj": (size, inner),
        "mlp.up_proj": (size, inner),
        "mlp.down_proj": (inner, size),
    }


def module_name(path: str, layer: int) -> str:
    """The full name of a block's module, as in the checkpoint and in PEFT files; its path tells a decoder's."""
    decoder = path.startswith(("self_attn.", "mlp."))
    return f"model.layers.{layer}.{path}" if decoder else f"roberta.encoder.layer.{layer}.{path}"


def target_layers(targets: Sequence[str], config: Config) -> dict[str, np.ndarray]:
    """Which layers of which modules `targets` names: path to a boolean `[layers]`, as PEFT resolves them.

    A list names modules by the end of their full name; a single string that is no such end is a regular expression
    that must match a full name; `all-linear` is every linear module of the blocks. For an encoder, a decoder's q_proj,
    k_proj, v_proj and o_proj are its counterparts.

    Raises:
      LorajaxError: a target that matches nothing, with the modules there are.
    """
    paths = list(linear_shapes(config))
    layers = range(config.num_layers)
    if tuple(targets) == ("all-linear",):
        return {path: np.ones(config.num_layers, bool) for path in paths}
    if isinstance(config, RobertaConfig):
        targets = [COUNTERPARTS.get(target, target) for target in targets]

    def matched(target: str) -> dict[str, np.ndarray]:
        names = {path: [module_name(path, layer) for layer in layers] for path in paths}
        hit = {p: np.array([n == target or n.endswith("." + target) for n in ns]) for p, ns in names.items()}
        if not any(h.any() for h in hit.values()) and len(targets) == 1:
            try:
                pattern = re.compile(target)
            except re.error as error:
                raise LorajaxError(f"target {target!r} is neither a module nor a regular expression: {error}") from None
            hit = {p: np.array([pattern.fullmatch(n) is not None for n in ns]) for p, ns in names.items()}
        if not any(h.any() for h in hit.values()):
            raise LorajaxError(f"target {target!r} matches no linear module; there are: {', '.join(paths)}")
        return hit

    found: dict[str, np.ndarray] = {}
    for target in targets:
        for path, hit in matched(target).items():
            if hit.any():
                found[path] = found.get(path, np.zeros(config.num_layers, bool)) | hit
    if not found:
        raise LorajaxError("no targets: name at least one module to adapt, e.g. q_proj v_proj")
    return {path: found[path] for path in paths if path in found}
