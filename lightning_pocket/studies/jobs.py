"""Many runs, one after the other or several at once, each in processes of its own."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning_pocket.launch import start_tied

_POLL_S = 0.2
#: How long a process may take to end once it is told to.
_GRACE_S = 5.0


@dataclass(frozen=True)
class Job:
    """Commands that are run one after the other.

    Args:
        name: Told to the user.
        commands: Arguments after ``pocket``; the next one starts when the one before succeeded.
        log: File that everything they print is appended to.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path


class _Running:
    """A job whose commands are being run, with variables of the place that it takes."""

    def __init__(self, job: Job, slot: int, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.job = job
        self.slot = slot
        self._environment = environment
        self._say = say
        self._waiting = deque(job.commands)
        self._log: IO[bytes] = job.log.open("ab")
        self._started = time.monotonic()
        self._process = self._start()

    def poll(self) -> bool | None:
        """Return whether the job succeeded; None while it goes on."""
        status = self._process.poll()
        if status is None:
            return None
        if status == 0 and self._waiting:
            self._process = self._start()
            return None
        self.stop()
        result = "done" if status == 0 else f"failed with status {status}: {_last_line(self.job.log)}"
        self._say(f"{self.job.name}: {result} ({time.monotonic() - self._started:.0f} s, {self.job.log})")
        return status == 0

    def stop(self) -> None:
        """End what still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = self._waiting.popleft()
        shown = shlex.join(["pocket", *command])
        self._say(f"$ {shown}")
        self._log.write(f"$ {shown}\n".encode())
        self._log.flush()
        return start_tied(command, self._log, self._environment)


def run_jobs(jobs: Sequence[Job], environments: Sequence[Mapping[str, str]], say: Callable[[str], None]) -> list[Job]:
    """Run jobs; where this process is interrupted or killed they end too.

    Args:
        jobs: What to do.
        environments: Variables of the processes of each job that runs at a time; as many jobs run as there are.
        say: Called with each command that starts, and how each job ended.

    Returns:
        Those that failed; the others are done.
    """
    waiting = deque(jobs)
    running: list[_Running] = []
    failed: list[Job] = []
    try:
        while waiting or running:
            free = sorted(set(range(len(environments))) - {job.slot for job in running})
            for slot in free[: len(waiting)]:
                waiting[0].log.parent.mkdir(parents=True, exist_ok=True)
                running.append(_Running(waiting.popleft(), slot, environments[slot], say))
            time.sleep(_POLL_S)
            results = [(job, job.poll()) for job in running]
            failed += [job.job for job, success in results if success is False]
            running = [job for job, success in results if success is None]
    finally:
        for job in running:
            job.stop()
    return failed


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("pocket: error: ") if lines else "it printed nothing"
