"""The trials that one process has taken: it keeps them alive, and tells the storage how they ended."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .parameters import Point
from .study import SweepStudy

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Claimed:
    """A trial that this process works on.

    Args:
        slot: Its number for people: that of its folder, which a trial that is begun again keeps.
        number: Its number in the storage.
        trial: Optuna's trial.
        point: Its parameters.
    """

    slot: int
    number: int
    trial: Trial
    point: Point


class Claims:
    """Takes trials of a study for this process.

    Args:
        study: The study, which has begun.
    """

    def __init__(self, study: SweepStudy) -> None:
        self.study = study

    def claim(self) -> Claimed | None:
        """Take the next trial that waits; None where none does."""
        import optuna
        from optuna.trial import TrialState

        for waiting in self.study.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            identifier = self.study.identifier(waiting.number)
            try:
                if not self.study.storage.set_trial_state_values(identifier, TrialState.RUNNING):
                    continue
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            slot = int(waiting.user_attrs["slot"])
            if self._is_double(waiting.number, slot):
                self.study.storage.set_trial_user_attr(identifier, "ended", "double")
                self.study.study.tell(waiting.number, state=TrialState.FAIL)
                continue
            self._write_lease(identifier)
            self.study.study.sampler = self.study.sweep.sampler.make(waiting.number)
            trial = optuna.Trial(self.study.study, identifier)
            return Claimed(slot, waiting.number, trial, self.study.sweep.space.suggest(trial))
        return None

    def renew(self, claimed: Sequence[Claimed]) -> None:
        """Say that this process still works on its trials."""
        for entry in claimed:
            self._write_lease(self.study.identifier(entry.number))

    def note(self, claimed: Claimed, **attributes: Any) -> None:
        """Store something with a trial that runs; nothing where another process has taken it over."""
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for key, value in attributes.items():
                claimed.trial.set_user_attr(key, value)

    def complete(self, claimed: Claimed, values: Sequence[float]) -> bool:
        """End a trial with its values.

        Returns:
            Whether it was still this process's.
        """
        return self._tell(claimed, values=list(values))

    def prune(self, claimed: Claimed) -> bool:
        """End a trial that promised little, or cannot be; see :meth:`complete`."""
        from optuna.trial import TrialState

        return self._tell(claimed, state=TrialState.PRUNED)

    def fail(self, claimed: Claimed, reason: str) -> bool:
        """End a trial that failed; see :meth:`complete`."""
        from optuna.trial import TrialState

        self.note(claimed, error=reason)
        return self._tell(claimed, state=TrialState.FAIL)

    def give_back(self, claimed: Claimed) -> None:
        """Let a trial wait again that this process was not allowed to finish."""
        from optuna.trial import TrialState

        self.note(claimed, ended="interrupted")
        self._tell(claimed, state=TrialState.FAIL)

    def _tell(self, claimed: Claimed, **outcome: Any) -> bool:
        import optuna

        try:
            self.study.study.tell(claimed.number, **outcome)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # taken over by another process
            return False
        return True

    def _write_lease(self, identifier: int) -> None:
        import optuna
        from optuna.storages import RDBStorage

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.storage.set_trial_user_attr(identifier, "lease", self.study.leases.new())
            if isinstance(self.study.storage, RDBStorage):
                self.study.storage.record_heartbeat(identifier)

    def _is_double(self, number: int, slot: int) -> bool:
        """Whether an earlier trial of a slot waits, runs or has ended well: two processes have let one wait."""
        from optuna.trial import TrialState

        same = [t for t in self.study.trials() if t.user_attrs.get("slot") == slot and t.number < number]
        return any(trial.state != TrialState.FAIL for trial in same)
