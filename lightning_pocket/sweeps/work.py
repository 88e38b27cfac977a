"""A trial that a process has taken, until it has ended."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_pocket.locks import FileLock
from lightning_pocket.run_folder import LOCK
from lightning_pocket.studies.jobs import RunningJob

from .claims import Claimed
from .pruning import PruningWatch
from .runs import TrialRuns


@dataclass
class Work:
    """A trial that this process has taken.

    Args:
        claimed: The trial.
        runs: Its runs.
        identity: Hash of what it comes to; None until that is known.
        running: Its commands; None until they are begun.
        watch: Looks after pruning, where the study has a pruner.
        waits: Whether it waits for a trial that is the same, or for a process that still trains in its folder; then
            another one may be begun in its place.
        look_at: Of ``time.monotonic()``, when to look again whether it must wait.
        said: What people were told that it waits for.
    """

    claimed: Claimed
    runs: TrialRuns
    identity: str | None = None
    running: RunningJob | None = None
    watch: PruningWatch | None = None
    waits: bool = False
    look_at: float = 0.0
    said: str = ""

    def holder(self) -> str:
        """Return which process trains in its folders; nothing where none does."""
        for run in self.runs.runs:
            lock = FileLock(run / LOCK)
            if run.is_dir():
                if not lock.acquire():
                    return lock.holder()
                lock.release()
        return ""
