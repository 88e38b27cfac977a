"""The work on the folds: commands in processes of their own, several at a time, shared with other processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from lightning_pocket.launch import start_tied
from lightning_pocket.locks import FileLock
from lightning_pocket.reports.fold_progress import FoldProgress

from .crossval import Fold, Plan

_PAUSE_S = 0.2
#: How long processes may take to end by themselves after Ctrl-C, and then after being told.
_GRACE_S = 5.0


@dataclass
class Job:
    """A fold at work.

    Args:
        fold: The fold.
        lock: Held until the job ends.
        slot: Number of the place among the jobs that run at a time.
        commands: What is still to be done.
        process: The command that runs.
        output: Log of the fold.
        name: First word of the command that runs.
        began: When it began, on the monotonic clock.
    """

    fold: Fold
    lock: FileLock
    slot: int
    commands: list[list[str]]
    output: IO[bytes]
    process: subprocess.Popen[bytes] | None = None
    name: str = ""
    began: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


class FoldJobs:
    """Works on the folds of a plan until all are done or have failed.

    A fold is taken under a lock, so several of these, on one machine or on several that share a folder, never work on
    the same fold; each takes the next free one, and waits for the others at the end.

    Args:
        plan: What to do.
        environments: Variables of the processes of each job that runs at a time; as many jobs run as there are.
        progress: Where to show how far each fold is.
    """

    def __init__(self, plan: Plan, environments: Sequence[Mapping[str, str]], progress: FoldProgress) -> None:
        self.plan = plan
        self.environments = environments
        self.progress = progress
        self.failures: dict[int, str] = {}
        self._open = list(plan.wanted)
        self._active: list[Job] = []
        self._announced: set[int] = set()

    def run(self) -> dict[int, str]:
        """Do the work.

        Returns:
            Why each fold that failed did so.
        """
        try:
            while self._open or self._active:
                self._fill()
                for job in list(self._active):
                    self._look_after(job)
                if self._open or self._active:
                    time.sleep(_PAUSE_S)
        except BaseException:
            self._stop()
            raise
        return self.failures

    def _fill(self) -> None:
        """Take free folds while there are places for jobs."""
        for number in list(self._open):
            if len(self._active) >= len(self.environments):
                return
            fold = self.plan.fold(number)
            lock = fold.lock
            if not lock.acquire():
                self._announce(number, lock)
                continue
            self._open.remove(number)
            redo = self.plan.fresh and number not in self._announced  # what another process has just done is fresh
            if not redo and fold.is_done(self.plan.checkpoint):
                lock.release()
                self.progress.say(number, "is trained and tested")
                continue
            self._begin(fold, lock)

    def _announce(self, number: int, lock: FileLock) -> None:
        if number not in self._announced:
            self._announced.add(number)
            self.progress.say(number, f"{lock.holder()} works on it; its result will be used")

    def _begin(self, fold: Fold, lock: FileLock) -> None:
        slot = min(set(range(len(self.environments))) - {job.slot for job in self._active})
        output = fold.log.open("ab", buffering=0)
        job = Job(fold, lock, slot, self.plan.commands(fold.number), output)
        self._active.append(job)
        self._next(job)

    def _next(self, job: Job) -> None:
        """Start the next command of a job."""
        arguments = job.commands.pop(0)
        shown = shlex.join(["pocket", *arguments])
        self.progress.say(job.fold.number, shown)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        job.output.write(f"\n{now} $ {shown}\n".encode())
        job.name, job.began = arguments[0], time.monotonic()
        job.process = start_tied(arguments, job.output, self.environments[job.slot])

    def _look_after(self, job: Job) -> None:
        """Show how far a job is, and go on where its command has ended."""
        status = job.process.poll() if job.process else None
        number = job.fold.number
        if status is None:
            if self.progress.live:
                self.progress.show(number, job.name, job.fold.manifest().get("epochs", 0))
            return
        _close(job.process)
        job.seconds[job.name] = time.monotonic() - job.began
        if status:
            reason = f"`pocket {job.name}` failed with status {status}: {_last_line(job.fold)}; log: {job.fold.log}"
            self.failures[number] = reason
            self.progress.say(number, reason)
        elif job.commands:
            self._next(job)
            return
        else:
            job.fold.finish(self.plan.checkpoint, job.seconds["test"])
            spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in job.seconds.items())
            self.progress.say(number, f"done ({spent})")
        self._end(job)

    def _end(self, job: Job) -> None:
        self._active.remove(job)
        self.progress.show(job.fold.number, "failed" if job.fold.number in self.failures else "done", None)
        job.output.close()
        job.lock.release()

    def _stop(self) -> None:
        """End the processes; those of a terminal have got its Ctrl-C too and may be about to end by themselves."""
        processes = [job.process for job in self._active if job.process is not None]
        for action in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in processes:
                if action is not None and process.poll() is None:
                    action(process)
            _wait(processes, _GRACE_S)
        for job in list(self._active):
            _close(job.process)
            self._end(job)


def environments(jobs: int, devices: Sequence[str], cores: int) -> list[dict[str, str]]:
    """Return the variables of the processes of each job that runs at a time.

    Several jobs get a GPU each in turn, where there are any, and their share of the processor cores.

    Args:
        jobs: How many run at a time.
        devices: Names of the GPUs that may be used.
        cores: Number of processor cores.
    """
    if jobs == 1:
        return [{}]
    shared: dict[str, str] = {}
    if "OMP_NUM_THREADS" not in os.environ:
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
        time.sleep(_PAUSE_S)


def _close(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _last_line(fold: Fold) -> str:
    """Return what the failed command said at the end, without its own name."""
    lines = [line.strip() for line in fold.log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "it said nothing")
    return said.removeprefix("pocket: error: ")[:300]
