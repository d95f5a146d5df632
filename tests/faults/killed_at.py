"""`python -m tests.faults.killed_at K STUDY ...` is `python -m run.finetune STUDY ...` that kills itself with SIGKILL just
before its K-th change to a file of the study: a file opened to be written, renamed or deleted, a folder made or deleted.
With K = 0 it lives, and says at last how many changes there were.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def main() -> None:
    moment, study = int(sys.argv.pop(1)), str(Path(sys.argv[1]).absolute())
    numbers, lock = itertools.count(1), threading.Lock()
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event not in CHANGES and not writes) or not str(arguments[0]).startswith(study):
            return
        with lock:
            seen = next(numbers)
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    from run import finetune
    from run.terminal import command

    command(finetune.main)
    print(f"changes: {seen}")


if __name__ == "__main__":
    main()
