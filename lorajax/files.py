"""Files written whole or not at all, and paths kept inside their folder."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError

from lorajax.errors import LorajaxError

#: Formats that run code when read. Weights are never taken from them.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or folder to; it takes `path`'s place when the block succeeds.

    Raises:
      LorajaxError: no space or no permission; `path` is as it was before.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.????????.*"):
            remove(left)  # of a process that was killed here
        yield temporary
        _open_to_readers(temporary)
        if path.is_dir():
            # A folder cannot be renamed over a full one: move the old one aside first.
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
            os.rename(path, old)
            os.rename(temporary, path)
            remove(old)
        else:
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise LorajaxError(f"{path}: could not be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with contextlib.suppress(OSError):
            remove(temporary)


def _open_to_readers(path: Path) -> None:
    """Gives files the permissions of ordinary new ones: safetensors writes them for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            file.chmod(0o666 & ~umask)


def remove(path: Path) -> None:
    """Deletes a file or a folder; what is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def confined(folder: Path, name: str, *, source: str) -> Path:
    """`folder / name`, where `name` was read from the file `source`.

    Raises:
      LorajaxError: `name` is absolute or leaves the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or Path(name).is_absolute() or not parts.parts:
        raise LorajaxError(f"{source}: the path {name!r} leaves its folder; expected a file inside {folder}")
    return folder / parts


def refuse_pickle(path: Path) -> None:
    """Raises LorajaxError when `path` is named like a pickle."""
    if path.name.endswith(PICKLES):
        raise LorajaxError(
            f"{path}: pickle files can run code when read and are refused; expected safetensors or GGUF "
            "(transformers' save_pretrained writes safetensors)"
        )


def fingerprint(paths: Iterable[Path]) -> str:
    """Sixteen hex digits that tell files apart: SHA-256 of their names, sizes and content.

    Of a file larger than 256 MiB, 256 blocks of 1 MiB at equal distances are read: weights of 100 GB take a second.
    """
    digest, block, most = hashlib.sha256(), 1 << 20, 256
    for path in sorted(paths):
        length = path.stat().st_size
        digest.update(f"{path.name}\0{length}\0".encode())
        distance = max(block, -(-(length - block) // (most - 1)))
        with path.open("rb") as file:
            for offset in range(0, length, distance):
                file.seek(min(offset, max(0, length - block)))
                digest.update(file.read(block))
    return digest.hexdigest()[:16]
