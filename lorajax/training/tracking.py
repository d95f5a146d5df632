"""What training reports, shown elsewhere too: TensorBoard and Weights & Biases.

The record of a training is its `metrics.jsonl`. A tracker repeats it for people who watch, so it must not cost them the
training: one that fails is given up, and one line is said. Its package is imported when it is asked for, not before.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from lorajax.errors import LorajaxError
from lorajax.files import write_text

Kind = Literal["tensorboard", "wandb"]
Values = Mapping[str, Mapping[str, float]]
Say = Callable[[str], None]

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}

#: Seconds that the end of a training waits for wandb's upload. The rest stays on disk, for `wandb sync`.
UPLOAD_SECONDS = 60.0


class Tracker(Protocol):
    """Takes the numbers of a training, step by step."""

    def write(self, step: int, values: Values) -> None:
        """Adds `values` of `step`: `{"loss": {adapter: nats}, "grad_norm": {adapter: norm}, ...}`; NaN is a value."""

    def close(self) -> None:
        """Puts away what was written. Nothing is written afterwards."""


def open_trackers(
    kinds: Sequence[Kind],
    folder: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    resume_from: int,
    say: Say = print,
) -> list[Tracker]:
    """Trackers of one fleet, to be closed by the caller: `stack.enter_context(contextlib.closing(tracker))`.

    `tensorboard` writes to `folder/tensorboard`. `wandb` writes to `folder/wandb`, or where WANDB_DIR says, and follows
    wandb's other variables, WANDB_MODE=offline among them. A fleet has one run, however often it is resumed.

    Args:
      folder: the fleet's own, the same when it is resumed.
      name: what the run is called.
      config: settings, to be shown beside the curves.
      resume_from: steps that are done; what an earlier process wrote of later ones no longer counts. 0 for a new fleet.
      say: is told, once for each tracker, that it failed and is given up.

    Raises:
      LorajaxError: a kind is unknown, its package is not installed, or wandb needs a login.
    """
    kinds = tuple(dict.fromkeys(kinds))
    for kind in kinds:
        _require(kind)
    settings = json.loads(json.dumps(dict(config), default=str))
    make: dict[Kind, Callable[[], Tracker]] = {
        "tensorboard": functools.partial(_TensorBoard, folder, settings, resume_from),
        "wandb": functools.partial(_Wandb, folder, name, settings, resume_from),
    }
    trackers: list[Tracker] = []
    with contextlib.ExitStack() as opened:
        for kind in kinds:
            trackers.append(_GivenUpOnFailure(kind, make[kind], say))
            opened.callback(trackers[-1].close)
        opened.pop_all()
    return trackers


def _require(kind: str) -> None:
    if kind not in get_args(Kind):
        raise LorajaxError(f"tracker {kind!r}: not known; expected one of {', '.join(get_args(Kind))}")
    try:
        module = importlib.import_module(PACKAGES[kind])
        # A folder `wandb` in the working directory imports as an empty package, which has no file.
        if module.__file__ is None:
            raise ImportError(f"no module in {list(module.__path__)}")
    except ImportError as error:
        raise LorajaxError(
            f"tracker {kind!r}: cannot import {PACKAGES[kind]} ({error}); pip install 'lorajax[{kind}]'"
        ) from error


def _flat(values: Values) -> dict[str, float]:
    return {f"{key}/{name}": float(value) for key, row in values.items() for name, value in row.items()}


class _GivenUpOnFailure:
    """A tracker that is dropped when it fails, so that training goes on."""

    def __init__(self, kind: Kind, make: Callable[[], Tracker], say: Say):
        self._kind, self._say = kind, say
        self._tracker: Tracker | None = None
        with self._guard():
            self._tracker = make()

    def write(self, step: int, values: Values) -> None:
        if self._tracker is not None:
            with self._guard():
                self._tracker.write(step, values)

    def close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with self._guard():
                tracker.close()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except LorajaxError:
            raise
        except Exception as error:  # whatever a library, a disk or a network comes up with
            reason = " ".join(str(error).split()) or type(error).__name__
            self._say(f"tracker {self._kind!r} failed and is given up, training goes on: {reason}")
            tracker, self._tracker = self._tracker, None
            if tracker is not None:
                with contextlib.suppress(Exception):
                    tracker.close()


class _TensorBoard:
    """An event file of this process in `folder/tensorboard`, with tags like `loss/E`.

    tensorboardX's own SummaryWriter hands events to a thread; when that dies of a full disk, the next steps wait for it
    for ever. Its record writer is used directly instead: a failure is seen where it happens, and a killed process loses
    nothing it wrote.
    """

    def __init__(self, folder: Path, config: dict[str, Any], resume_from: int):
        from tensorboardX import RecordWriter
        from tensorboardX.proto import event_pb2, summary_pb2, tensor_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        path = folder.absolute() / "tensorboard"
        path.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names: by time, to the nanosecond, for processes of the same second.
        seconds, nano = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{nano:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(path / name))
        self._write(file_version="brain.Event:2")
        # Readers forget what other files hold from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=resume_from + 1 if resume_from else 0, session_log=start)
        if not resume_from:
            text = "    " + json.dumps(config, indent=2).replace("\n", "\n    ")  # indented: code, in Markdown
            plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
            value = self._summary.Value(
                tag="config/text_summary",
                metadata=summary_pb2.SummaryMetadata(plugin_data=plugin),
                tensor=tensor_pb2.TensorProto(dtype="DT_STRING", string_val=[text.encode()]),
            )
            self._write(step=0, summary=self._summary(value=[value]))
        self._file.flush()

    def write(self, step: int, values: Values) -> None:
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in _flat(values).items()]
        self._write(step=step, summary=self._summary(value=scalars))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **fields).SerializeToString())


class _Wandb:
    """A run of the project `lorajax`, with keys like `loss/E`.

    Its id is random and kept in `folder/wandb/run-id`, not made from the path: training that starts anew in a folder is
    another run. Offline, wandb knows nothing of earlier processes: each leaves its own folder with that id, and
    `wandb sync --append` joins them.
    """

    def __init__(self, folder: Path, name: str, config: dict[str, Any], resume_from: int):
        import wandb

        file = folder / "wandb" / "run-id"
        if not (resume_from and file.exists()):
            write_text(file, uuid.uuid4().hex[:16] + "\n")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "lorajax"),
                name=name,
                id=file.read_text("utf-8").strip(),
                resume="allow",
                reinit="create_new",  # a run of the caller's own stays as it is
                dir=os.environ.get("WANDB_DIR", str(folder)),
                config=config,
                # The console belongs to the command: wandb's copy of it would hold the progress bar, frame by frame.
                settings=wandb.Settings(console="off", finish_timeout=UPLOAD_SECONDS),
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise LorajaxError(f"tracker 'wandb': {error} Or set WANDB_MODE=offline to upload later") from error
        self._first = self._run.starting_step

    def write(self, step: int, values: Values) -> None:
        # A resumed run holds the steps that the crash undid here. They come out the same again, and wandb takes a step
        # only once.
        if step >= self._first:
            self._run.log(_flat(values), step=step)

    def close(self) -> None:
        # Called while an exception passes, it marks the run as failed.
        self._run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)
