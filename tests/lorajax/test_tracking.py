"""What trackers leave on disk, read back by readers that are not ours where they are installed."""

import contextlib
import json
import math
import resource
import socket
import struct
import subprocess
import sys
import threading

import pytest

from lorajax.errors import LorajaxError
from lorajax.training.tracking import open_trackers


def values(step: int, *, run: int = 1) -> dict[str, dict[str, float]]:
    """Numbers that tell the step and the process that wrote them; exact in float32."""
    return {"loss": {"E": step + run / 4, "rte": float(step)}, "learning_rate": {"E": 0.5}}


def write_steps(kind, folder, steps, *, resume_from=0, run=1, say=print):
    (tracker,) = open_trackers(
        [kind], folder, name="fleet", config={"rank": 2, "folder": folder}, resume_from=resume_from, say=say
    )
    with contextlib.closing(tracker):
        for step in steps:
            tracker.write(step, values(step, run=run))


def event_files(folder):
    return sorted((folder / "tensorboard").iterdir())


def read_with_tensorboard(folder):
    """Scalars `{tag: [(step, value)]}` as TensorBoard shows them."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_records(folder):
    """The same, from the TFRecord framing (length, its CRC, data, its CRC) and the rule about session starts."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[str, list] = {}
    for file in event_files(folder):
        data = file.read_bytes()
        while len(data) >= 12 and len(data) >= 16 + (length := struct.unpack("<Q", data[:8])[0]):
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START:
                found = {tag: [row for row in rows if row[0] < event.step] for tag, rows in found.items()}
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.mark.parametrize("read", [read_with_tensorboard, read_records])
def test_tensorboard_shows_each_step_once_after_a_crash(tmp_path, read):
    pytest.importorskip("tensorboardX")
    write_steps("tensorboard", tmp_path, range(1, 8), run=1)
    (file,) = event_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])  # killed while it wrote step 7
    assert read(tmp_path)["loss/E"] == [(step, step + 0.25) for step in range(1, 7)]
    write_steps("tensorboard", tmp_path, range(5, 10), resume_from=4, run=2)
    scalars = read(tmp_path)
    assert set(scalars) == {"loss/E", "loss/rte", "learning_rate/E"}
    assert scalars["loss/E"] == [(s, s + 0.25) for s in range(1, 5)] + [(s, s + 0.5) for s in range(5, 10)]
    assert scalars["loss/rte"] == [(step, float(step)) for step in range(1, 10)]
    write_steps("tensorboard", tmp_path, [1, 2], run=3)  # there was no checkpoint: from the start
    assert read(tmp_path)["loss/E"] == [(1, 1.75), (2, 2.75)]


def test_tensorboard_shows_the_settings(tmp_path):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_steps("tensorboard", tmp_path, [1])
    write_steps("tensorboard", tmp_path, [2], resume_from=1)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = events.Tensors("config/text_summary")
    assert json.loads(event.tensor_proto.string_val[0]) == {"rank": 2, "folder": str(tmp_path)}
    assert event.step == 0


def test_what_was_written_outlives_a_kill_and_nan_is_a_value(tmp_path):
    """The process ends without closing anything."""
    pytest.importorskip("tensorboardX")
    code = (
        "import os, pathlib, sys; from lorajax.training.tracking import open_trackers\n"
        "(t,) = open_trackers(['tensorboard'], pathlib.Path(sys.argv[1]), name='', config={}, resume_from=0)\n"
        "t.write(1, {'loss': {'E': float('nan'), 'rte': 2.0}}); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    scalars = read_records(tmp_path)
    assert scalars["loss/rte"] == [(1, 2.0)]
    assert math.isnan(scalars["loss/E"][0][1])


@contextlib.contextmanager
def files_no_larger_than(size):
    """The operating system refuses longer files: a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path):
    pytest.importorskip("tensorboardX")
    said = []
    with files_no_larger_than(1000):
        write_steps("tensorboard", tmp_path, range(1, 50), say=said.append)
    assert len(said) == 1
    assert "'tensorboard' failed" in said[0]
    assert "File too large" in said[0]
    assert 1 <= len(read_records(tmp_path)["loss/E"]) < 49  # it failed on the way, not at once


def test_a_tracker_that_cannot_be_opened_stops_nothing(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "tensorboard").write_text("a file where the folder would be")
    said = []
    write_steps("tensorboard", tmp_path, range(1, 4), say=said.append)
    assert len(said) == 1
    assert "tensorboard" in said[0]


@pytest.mark.parametrize(("kind", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_missing_package_names_the_extra(tmp_path, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LorajaxError, match=rf"{package}.*pip install 'lorajax\[{kind}\]'"):
        write_steps(kind, tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_folder_named_like_the_package_is_not_the_package(tmp_path):
    (tmp_path / "wandb").mkdir()
    code = (
        "import pathlib, sys; from lorajax.training.tracking import _require\n"
        "sys.path = ['.', *(p for p in sys.path if 'site-packages' not in p)]; _require('wandb')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "LorajaxError: tracker 'wandb': cannot import wandb (no module in" in ended.stderr


def test_unknown_tracker_names_the_known_ones(tmp_path):
    with pytest.raises(LorajaxError, match="'mlflow'.*tensorboard, wandb"):
        write_steps("mlflow", tmp_path, [])


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        "import sys, pathlib; from lorajax.training.tracking import open_trackers\n"
        "assert open_trackers([], pathlib.Path('.'), name='', config={}, resume_from=0) == []\n"
        "assert not {'tensorboardX', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """wandb offline, with every way to a network ending at a local socket; gives the connections it got."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    connections: list = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connections.append(server.accept()[1])

    threading.Thread(target=accept, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, address)
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of the machine's user
    (tmp_path / "runs").mkdir()
    yield connections
    import wandb

    wandb.teardown()
    server.close()


def wandb_records(file):
    """Records of a `.wandb` file: LevelDB's log format (blocks of 32 KiB, records cut at their ends) after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, part = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def wandb_history(file):
    """The run's id, project, name and settings, and its rows `{key: value}`."""
    records = list(wandb_records(file))
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            rows.append({key: row[key] for key in row if key == "_step" or not key.startswith("_")})
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    return (run.run_id, run.project, run.display_name, config), rows


def test_wandb_offline_is_one_run_and_asks_no_network(tmp_path, offline):
    folder = tmp_path / "fleet"
    write_steps("wandb", folder, [1, 2, 3])
    write_steps("wandb", folder, [3, 4], resume_from=2, run=2)
    first, second = (wandb_history(f) for f in sorted((tmp_path / "runs").glob("wandb/offline-run-*/*.wandb")))
    identity = (folder / "wandb" / "run-id").read_text().strip()
    assert first[0] == (identity, "lorajax", "fleet", {"rank": 2, "folder": str(folder)})
    assert second[0] == first[0]
    expected = {"_step": "1", "loss/E": "1.25", "loss/rte": "1", "learning_rate/E": "0.5"}
    assert first[1][0] == expected
    assert [row["loss/E"] for row in first[1]] == ["1.25", "2.25", "3.25"]
    assert [(row["_step"], row["loss/E"]) for row in second[1]] == [("3", "3.5"), ("4", "4.5")]
    write_steps("wandb", folder, [1])  # trained anew in the same folder: another run
    assert (folder / "wandb" / "run-id").read_text().strip() != identity
    assert not offline


def test_wandb_without_a_login_says_what_to_do(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(LorajaxError, match="'wandb'.*login.*WANDB_MODE=offline"):
        write_steps("wandb", tmp_path / "fleet", [1])
