"""The work on the folds of a cross-validation, shared with other processes that do the same."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_pocket.locks import FileLock
from lightning_pocket.reports.fold_progress import FoldProgress

from .crossval import Fold, Plan
from .jobs import PAUSE_S, Job, RunningJob, free_slot


@dataclass(frozen=True)
class _Work:
    """A fold at work, with the lock that is held until it ends."""

    fold: Fold
    lock: FileLock
    job: RunningJob


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
        self._active: list[_Work] = []
        self._announced: set[int] = set()

    def run(self) -> dict[int, str]:
        """Do the work.

        Returns:
            Why each fold that failed did so.
        """
        try:
            while self._open or self._active:
                self._fill()
                for work in list(self._active):
                    self._look_after(work)
                if self._open or self._active:
                    time.sleep(PAUSE_S)
        except BaseException:
            RunningJob.stop([work.job for work in self._active])
            for work in list(self._active):
                self._end(work)
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
            self._active.append(self._begin(fold, lock))

    def _announce(self, number: int, lock: FileLock) -> None:
        if number not in self._announced:
            self._announced.add(number)
            self.progress.say(number, f"{lock.holder()} works on it; its result will be used")

    def _begin(self, fold: Fold, lock: FileLock) -> _Work:
        slot = free_slot([work.job for work in self._active])
        job = Job(f"fold {fold.number}", self.plan.commands(fold.number), fold.log)

        def say(line: str) -> None:
            self.progress.say(fold.number, line)

        return _Work(fold, lock, RunningJob(job, slot, self.environments[slot], say))

    def _look_after(self, work: _Work) -> None:
        """Show how far a fold is, and let it go when its last command has ended."""
        job, number = work.job, work.fold.number
        if job.poll():
            if self.progress.live:
                self.progress.show(number, job.command, work.fold.manifest().get("epochs", 0))
            return
        if job.failure:
            self.failures[number] = job.failure
            self.progress.say(number, job.failure)
        else:
            work.fold.finish(self.plan.checkpoint, job.seconds["test"])
            spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in job.seconds.items())
            self.progress.say(number, f"done ({spent})")
        self._end(work)

    def _end(self, work: _Work) -> None:
        self._active.remove(work)
        self.progress.show(work.fold.number, "failed" if work.fold.number in self.failures else "done", None)
        work.lock.release()
