"""The trials that one process has taken: it keeps them alive, and tells the storage how they ended."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .parameters import Point
from .samplers import INFEASIBLE
from .study import SweepStudy

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler


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
        self._astray: list[int] = []

    def claim(self) -> Claimed | None:
        """Take the next trial that waits; None where none does.

        A trial that is taken, but cannot be begun because the storage or the sampler fails, is given back.
        """
        import optuna
        from optuna.trial import TrialState

        self.give_back_astray()
        for waiting in self.study.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            identifier = self.study.identifier(waiting.number)
            try:
                if not self.study.storage.set_trial_state_values(identifier, TrialState.RUNNING):
                    continue
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            self._astray.append(waiting.number)
            claimed = self._begin(waiting.number, int(waiting.user_attrs["slot"]))
            self._astray.remove(waiting.number)
            if claimed is not None:
                return claimed
        return None

    def _begin(self, number: int, slot: int) -> Claimed | None:
        """Write the lease of a trial and draw its point; None where another trial of the slot is there."""
        import optuna
        from optuna.trial import TrialState

        identifier = self.study.identifier(number)
        if self._is_double(number, slot):
            self.study.storage.set_trial_user_attr(identifier, "ended", "double")
            self.study.study.tell(number, state=TrialState.FAIL)
            return None
        self._write_lease(identifier)
        self.study.study.sampler = self._sampler(number)
        trial = optuna.Trial(self.study.study, identifier)
        return Claimed(slot, number, trial, self.study.sweep.space.suggest(trial))

    def give_back_astray(self) -> None:
        """Let the trials wait again that this process has taken, but could not begin."""
        from optuna.trial import TrialState

        for number in list(self._astray):
            identifier = self.study.identifier(number)
            if self.study.storage.get_trial(identifier).state == TrialState.RUNNING:
                self.study.storage.set_trial_user_attr(identifier, "ended", "interrupted")
                self.study.storage.set_trial_state_values(identifier, TrialState.FAIL)
            self._astray.remove(number)

    def renew(self, claimed: Claimed) -> bool:
        """Say that this process still works on a trial.

        Returns:
            Whether it is still this process's: after a long silence another one has taken it over.
        """
        identifier = self.study.identifier(claimed.number)
        found = self.study.storage.get_trial(identifier)
        if found.state.is_finished() or not self.study.leases.is_mine(found.user_attrs.get("lease", {})):
            return False
        self._write_lease(identifier)
        return True

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

    def exclude(self, claimed: Claimed, reason: str) -> bool:
        """End a trial that cannot be, such as one that ran out of memory; see :meth:`complete`.

        Samplers that avoid such points look only at trials with values, so it gets the worst until now, which show and
        count nowhere.
        """
        self.note(claimed, **{INFEASIBLE: reason})
        if not self.study.sweep.sampler.knows_constraints:
            return self.prune(claimed)
        return self.complete(claimed, self._worst())

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

    def _sampler(self, number: int) -> BaseSampler:
        return self.study.sweep.sampler.make(number, self.study.sweep.infeasible_on_out_of_memory)

    def _worst(self) -> list[float]:
        """Return the worst value of each objective until now, 0 where there is none."""
        known = [trial.values for trial in self.study.trials() if trial.state.name == "COMPLETE"] or [
            [0.0] * len(self.study.sweep.objectives)
        ]
        worst = [min if objective.direction == "maximize" else max for objective in self.study.sweep.objectives]
        return [choose(values) for choose, values in zip(worst, zip(*known, strict=True), strict=True)]

    def _tell(self, claimed: Claimed, **outcome: Any) -> bool:
        import optuna

        try:
            self.study.study.tell(claimed.number, **outcome)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            # Told already, before the connection was lost; or taken over by another process, which ended it as failed.
            found = self.study.storage.get_trial(self.study.identifier(claimed.number))
            is_mine = self.study.leases.is_mine(found.user_attrs.get("lease", {}))
            return is_mine and (found.state != optuna.trial.TrialState.FAIL or "error" in found.user_attrs)
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
