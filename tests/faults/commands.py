"""`python -m run.finetune` in processes of its own, to be killed."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

TASKS = ("arithmetic", "capital_city", "number_words")

#: Four adapters in two groups, with everything that is written while training.
FLAGS = [
    "--tasks", *TASKS, "--steps", "12", "--batch-size", "4", "--train-examples", "24", "--test-examples", "8",
    "--max-length", "256", "--rank", "2", "--targets", "q_proj", "v_proj", "--learning-rate", "5e-3", "--fleet-size", "2",
    "--checkpoint-every", "3", "--evaluate-every", "4", "--validation-examples", "4",
]  # fmt: skip

#: The first two of them.
ONE_GROUP = ["--only", "E", "arithmetic"]

#: How long anything may take on a machine that has other things to do.
PATIENCE = 240


@dataclasses.dataclass(frozen=True)
class Bench:
    """A checkpoint, and where compiled programs are kept from one process to the next."""

    model: Path
    cache: Path

    def start(self, study: Path, *flags: str, devices: int = 1, command: list[str] | None = None) -> subprocess.Popen:
        """The command on `study` with `devices` virtual devices; its output is in pipes."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
            "PYTHONUNBUFFERED": "1",
        }
        command = command or [sys.executable, "-m", "run.finetune"]
        arguments = [*command, str(study), "--model", str(self.model), *FLAGS, *flags]
        return subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, errors="replace"
        )

    def start_two(self, study: Path, *flags: str, second: Path | None = None) -> list[subprocess.Popen]:
        """The command as two processes of two devices each; the second one on `second`, if given."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mesh = ["--mesh", "data=2,fsdp=2", "--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
        folders = (study, second or study)
        return [self.start(folders[i], *mesh, "--process-id", str(i), *flags, devices=2) for i in (0, 1)]

    def run(self, study: Path, *flags: str, devices: int = 1) -> str:
        """What the command says when it runs to its end."""
        return finish(self.start(study, *flags, devices=devices))


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """The output of a process that has to end with `code`; of an error, the message."""
    out, err = communicate([process])[0]
    assert process.returncode == code, f"exit code {process.returncode}, expected {code}\n{out[-2000:]}\n{err[-4000:]}"
    return err if code == 2 else out


def communicate(processes: list[subprocess.Popen], timeout: float = PATIENCE) -> list[tuple[str, str]]:
    """Output and errors of processes that end by themselves, in time."""
    try:
        return [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def wait_for(process: subprocess.Popen, text: str) -> None:
    """Reads what the process says until a line holds `text`."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended with {process.wait()} before it said {text!r}: {process.stderr.read()[-4000:]}")


def results(study: Path) -> dict[str, bytes]:
    """The files that a study comes to, by name."""
    files = [study / "metrics.jsonl", study / "results" / "losses.csv", *study.glob("adapters/*/adapter_*")]
    return {str(file.relative_to(study)): file.read_bytes() for file in sorted(files)}


def leftovers(study: Path) -> list[str]:
    """Names of files and folders that a finished study should not have."""
    found = [p for p in study.rglob("*") if p.name.startswith(".") or p.name.endswith(".tmp")]
    return [str(p.relative_to(study)) for p in (*found, *study.glob("training/*/checkpoints"))]
