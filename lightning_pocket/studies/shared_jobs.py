"""The jobs of a study, shared with other processes that work on the same study."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_pocket.locks import FileLock
from lightning_pocket.reports.job_progress import JobProgress

from .jobs import PAUSE_S, Job, RunningJob, free_slot


@dataclass(frozen=True)
class _Work:
    """A job at work, with the lock that is held until it ends."""

    job: Job
    lock: FileLock
    running: RunningJob


class SharedJobs:
    """Works on jobs until all are done or have failed.

    A job is taken under a lock, so several of these, on one machine or on several that share a folder, never work on
    the same job; each takes the next free one, and waits for the others at the end. Where this process is interrupted
    or killed its jobs end too.

    Args:
        jobs: What to do, in this order.
        environments: Variables of the processes of each job that runs at a time; as many jobs run as there are.
        progress: Where to show how far each job is.
    """

    def __init__(self, jobs: Sequence[Job], environments: Sequence[Mapping[str, str]], progress: JobProgress) -> None:
        self.environments = environments
        self.progress = progress
        self.failures: dict[str, str] = {}
        self._open = list(jobs)
        self._active: list[_Work] = []
        self._announced: set[str] = set()

    def run(self) -> dict[str, str]:
        """Do the work.

        Returns:
            Why each job that failed did so, by its name.
        """
        try:
            while self._open or self._active:
                self._fill()
                for work in list(self._active):
                    self._look_after(work)
                if self._open or self._active:
                    time.sleep(PAUSE_S)
        except BaseException:
            RunningJob.stop([work.running for work in self._active])
            for work in list(self._active):
                self._end(work, "interrupted")
            raise
        return self.failures

    def _fill(self) -> None:
        """Take free jobs while there are places for them."""
        for job in list(self._open):
            if len(self._active) >= len(self.environments):
                return
            lock = job.lock
            if not lock.acquire():
                self._announce(job, lock)
                continue
            self._open.remove(job)
            if job.is_done():
                lock.release()
                self.progress.say(job.name, "is trained and tested")
                self.progress.show(job.name, "done", None)
                continue
            self._active.append(self._begin(job, lock))

    def _announce(self, job: Job, lock: FileLock) -> None:
        if job.name not in self._announced:
            self._announced.add(job.name)
            self.progress.say(job.name, f"{lock.holder()} works on it; its result will be used")

    def _begin(self, job: Job, lock: FileLock) -> _Work:
        slot = free_slot([work.running for work in self._active])

        def say(line: str) -> None:
            self.progress.say(job.name, line)

        return _Work(job, lock, RunningJob(job, slot, self.environments[slot], say))

    def _look_after(self, work: _Work) -> None:
        """Show how far a job is, and let it go when its last command has ended."""
        job, running = work.job, work.running
        if running.poll():
            if self.progress.live:
                self.progress.show(job.name, running.command, job.epochs)
            return
        reason = running.failure
        if not (reason or job.is_done()):
            reason = f"its commands left no result that belongs together; log: {job.log}"
        if reason:
            self.failures[job.name] = reason
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in running.seconds.items())
        self.progress.say(job.name, reason or f"done ({spent})")
        self._end(work, "failed" if reason else "done")

    def _end(self, work: _Work, state: str) -> None:
        self._active.remove(work)
        self.progress.show(work.job.name, state, None)
        work.lock.release()
