"""One command at a time writes to a study.

The lock is an flock on a hidden file in the study's folder. The operating system frees it when the process ends, by
whatever end, so there is never a stale lock to clear away; the file's text only tells others who holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorajax.errors import LorajaxError
from run.terminal import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

#: What a file system without locks answers, and one that somebody holds a lock on.
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}


@dataclasses.dataclass
class _Held:
    file: int | None  # None where there are no locks
    new: bool  # whether the folder was made for the lock
    entered: int = 0


# What this process holds. The process is part of the key: a forked child has a copy of this, but not the lock.
_held: dict[tuple[int, Path], _Held] = {}
_changing = threading.Lock()


@contextlib.contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Holds the study in `folder` for this process; other processes are refused at once. The folder is made if need be.

    A process may enter the lock of a folder again while it holds it. Where the file system or the operating system has
    no locks, that is said and work goes on without. Of a computation by several processes, one takes the lock. The
    file is gone afterwards, and so is a folder that was made for it and stayed empty.

    Raises:
      LorajaxError: another process holds it, with what is known of it; or the folder cannot be written to.
    """
    key = (os.getpid(), folder.resolve())
    with _changing:
        held = _held.get(key) or _acquire(folder)
        held.entered += 1
        _held[key] = held
    try:
        yield
    finally:
        # In a child that was forked inside the block, the lock is its parent's.
        if os.getpid() == key[0]:
            with _changing:
                held.entered -= 1
                if not held.entered:
                    del _held[key]
                    _release(key[1], held)


def _acquire(folder: Path) -> _Held:
    path, new = folder / LOCK, False
    # Its holder may delete the file between our opening and our locking it: then it locks nothing, and we try again.
    for _ in range(100):
        new = new or not folder.exists()
        with contextlib.suppress(FileNotFoundError):  # the folder, gone again before we opened the file
            file = _lock(folder, path)
            if file is None or _is_same(file, path):
                return _Held(file, new)
            os.close(file)
    raise LorajaxError(f"{path}: could not be locked: it is deleted again and again")


def _lock(folder: Path, path: Path) -> int | None:
    """The open, locked file; None where there are no locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        if folder.is_dir() or not folder.exists():  # deleted, or made again, while it was looked at
            raise FileNotFoundError(folder) from None
        raise LorajaxError(f"{folder}: is a file; expected a folder for the study") from None
    except OSError as error:
        raise LorajaxError(f"{folder}: could not be made: {error.strerror}") from error
    if fcntl is None:
        say(f"{folder}: this system has no file locks; see to it that one command at a time writes here")
        return None
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LorajaxError(f"{path}: could not be opened for writing: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _read(file)
        os.close(file)
        if error.errno in HELD:
            raise LorajaxError(
                f"{folder}: another command is writing to this study{holder}; wait for it or name another folder"
            ) from None
        if error.errno not in UNSUPPORTED:
            raise LorajaxError(f"{path}: could not be locked: {error.strerror}") from error
        path.unlink(missing_ok=True)
        say(f"{folder}: its file system has no locks; see to it that one command at a time writes here")
        return None
    _write(file, _myself())
    return file


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _release(folder: Path, held: _Held) -> None:
    if held.file is not None:
        # Deleted while it is still locked: whoever has opened it finds out in `_acquire`.
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        os.close(held.file)
    if held.new:
        with contextlib.suppress(OSError):  # it holds a study now
            folder.rmdir()


def _myself() -> dict[str, Any]:
    command = [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]] if sys.orig_argv else []
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": shlex.join(command), "since": since}


def _write(file: int, holder: dict[str, Any]) -> None:
    # A full disk takes the text, not the lock.
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode() + b"\n", 0)


def _read(file: int) -> str:
    """Who holds the lock, in brackets; nothing where the file does not tell."""
    try:
        holder = json.loads(os.pread(file, 1 << 16, 0))
        since = datetime.datetime.fromisoformat(holder["since"]).astimezone()
        today = since.date() == datetime.date.today()
        at = since.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")
        return f" (pid {holder['pid']} on {holder['host']} since {at}: {holder['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
