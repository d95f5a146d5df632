"""lorajax: where in a language model does each task live, and what do two tasks share?

The model side: weights in, adapters out, hidden states out. What compares them is in `analysis`.

    import lorajax
    from lorajax.lora import load_adapter, stack
    from lorajax.models import load

These names are public, and change as CONTRIBUTING.md says; so are those that the packages `lora`, `models`, `data` and
`training` list. All others may change at any time. Modules are read when they are asked for: importing `lorajax` alone
is free.

    errors          LorajaxError
    activations     HiddenStates, States
    generation      generate, stop_tokens, GenerateConfig, Answer
    scores          exact_match, strict_match, rouge_l
    mesh            make_mesh, choose_mesh
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorajax import data, lora, models, training
    from lorajax.activations import HiddenStates, States
    from lorajax.errors import LorajaxError
    from lorajax.generation import Answer, GenerateConfig, generate, stop_tokens
    from lorajax.mesh import choose_mesh, make_mesh
    from lorajax.scores import exact_match, rouge_l, strict_match

#: The one place that states it: pyproject.toml reads it here.
__version__ = "0.1.0"

__all__ = [
    "Answer", "GenerateConfig", "HiddenStates", "LorajaxError", "States", "__version__", "choose_mesh", "data",
    "exact_match", "generate", "lora", "make_mesh", "models", "rouge_l", "stop_tokens", "strict_match", "training",
]  # fmt: skip


def _reads_when_asked(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` that has the modules of `package` by name, and what the package itself has of each.

    Both are read when they are asked for: importing a package, or one module of it, imports no others.
    """
    home_of = {name: module for module, names in homes.items() for name in names.split()}

    def read(name: str) -> Any:
        if name not in home_of and name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{home_of.get(name, name)}")
        return getattr(module, name) if name in home_of else module

    return read


if not TYPE_CHECKING:  # type checkers see the imports above, and that there are no other names
    __getattr__ = _reads_when_asked(
        __name__,
        {
            "activations": "HiddenStates States",
            "errors": "LorajaxError",
            "generation": "generate stop_tokens GenerateConfig Answer",
            "mesh": "make_mesh choose_mesh",
            "scores": "exact_match strict_match rouge_l",
            "data": "",
            "lora": "",
            "models": "",
            "training": "",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
