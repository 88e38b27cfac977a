"""Work in processes of its own: commands one after the other, each job with a GPU of its own where there are some."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_pocket.launch import start_tied
from lightning_pocket.locks import FileLock
from lightning_pocket.storage import read_json

#: How often to look whether a process has ended, in seconds.
PAUSE_S = 0.2
#: How long processes may take to end by themselves after Ctrl-C, and then after being told.
_GRACE_S = 5.0


@dataclass(frozen=True)
class Job:
    """Commands that are run one after the other and leave a run with its result.

    Args:
        name: Told to the user.
        run: Folder of the run. While a process works on it, it holds the lock ``.NAME.lock`` beside the folder.
        log: File that everything they print is appended to.
        commands: Returns the arguments after ``pocket``; each starts when the one before succeeded.
        is_done: Whether the result is there.
    """

    name: str
    run: Path
    log: Path
    commands: Callable[[], Sequence[Sequence[str]]]
    is_done: Callable[[], bool]

    @property
    def lock(self) -> FileLock:
        """Held by the process that works on the job; the folder around the run must exist."""
        return FileLock(self.run.with_name(f".{self.run.name}.lock"))

    @property
    def epochs(self) -> int:
        """Epochs that the run was trained for until now."""
        manifest = self.run / "manifest.json"
        return int(read_json(manifest).get("epochs", 0)) if manifest.is_file() else 0


class RunningJob:
    """A job whose commands are being run, in processes that end with this one.

    Args:
        job: What to do.
        slot: Number of the place among the jobs that run at a time.
        environment: Variables of its processes.
        say: Called with each command that starts.

    Attributes:
        command: First word of the command that runs, or ran last.
        seconds: How long each command took.
        failure: Why the job failed, empty where it has not.
    """

    def __init__(self, job: Job, slot: int, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.job = job
        self.slot = slot
        self.command = ""
        self.seconds: dict[str, float] = {}
        self.failure = ""
        self._environment = environment
        self._say = say
        self._waiting = deque(job.commands())
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._log = job.log.open("ab", buffering=0)
        self._process = self._start()

    def poll(self) -> bool:
        """Return whether the job goes on, after starting its next command where one has ended."""
        status = self._process.poll()
        if status is None:
            return True
        self._close_process()
        self.seconds[self.command] = time.monotonic() - self._began
        if status == 0 and self._waiting:
            self._process = self._start()
            return True
        if status:
            said = f"failed with status {status}: {_last_line(self.job.log)}; log: {self.job.log}"
            self.failure = f"`pocket {self.command}` {said}"
        self._log.close()
        return False

    def skip_rest(self) -> None:
        """Start no other command when the present one has ended."""
        self._waiting.clear()

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = self._waiting.popleft()
        shown = shlex.join(["pocket", *arguments])
        self._say(shown)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._log.write(f"\n{now} $ {shown}\n".encode())
        self.command, self._began = arguments[0], time.monotonic()
        return start_tied(arguments, self._log, self._environment)

    def _close_process(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _close(self) -> None:
        self._close_process()
        self._log.close()

    @staticmethod
    def stop(running: Sequence[RunningJob]) -> None:
        """End what still runs; after Ctrl-C in a terminal the processes may be about to end by themselves."""
        processes = [job._process for job in running]
        for action in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in processes:
                if action is not None and process.poll() is None:
                    action(process)
            _wait(processes, _GRACE_S)
        for job in running:
            job._close()


def free_slot(running: Sequence[RunningJob]) -> int:
    """Return the lowest number of a place that no job has."""
    taken = {job.slot for job in running}
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)


def places(at_once: int, settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the variables of the processes of each job that runs at a time, on this machine.

    Args:
        at_once: How many jobs run at a time.
        settings: Every setting of a run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return environments(at_once, visible_devices(settings), cores)


def environments(jobs: int, devices: Sequence[str], cores: int) -> list[dict[str, str]]:
    """Return the variables of the processes of each job that runs at a time.

    Each job gets one GPU, in turn where there are several jobs, so that none depends on how many run at a time; and
    several jobs get their share of the processor cores.

    Args:
        jobs: How many run at a time.
        devices: Names of the GPUs that may be used.
        cores: Number of processor cores that may be used.
    """
    shared: dict[str, str] = {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    return [
        shared | ({"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {}) for slot in range(jobs)
    ]


def visible_devices(settings: Mapping[str, Any]) -> list[str]:
    """Return the GPUs that may be used, none where the settings ask for the CPU or for several devices per run.

    Args:
        settings: Every setting of a run.
    """
    trainer = settings.get("trainer", {})
    if trainer.get("accelerator") == "cpu" or trainer.get("devices") not in ("auto", 1, "1"):
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in found.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))] if found.returncode == 0 else []


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(PAUSE_S)


def _last_line(log: Path) -> str:
    """Return what a failed command said at the end, without its own name."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "it said nothing")
    return said.removeprefix("pocket: error: ")[:300]
