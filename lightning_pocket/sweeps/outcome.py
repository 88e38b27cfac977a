"""What the trials of a study have come to until now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning_pocket.reports.fronts import undominated

from .definition import Sweep
from .leases import describe
from .measures import Measured, from_plain
from .parameters import Point
from .samplers import INFEASIBLE

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from .study import SweepStudy


#: States without a result that are not tried again by themselves.
_FAILED = ("failed", "lost")


@dataclass(frozen=True)
class Tally:
    """How many trials there are of each kind.

    Args:
        total: All that there will be.
        ended: Whose result is there, failures too.
        running: Trials that somebody works on.
        failed: Of those that have ended, the failed.
    """

    total: int
    ended: int
    running: int
    failed: int

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.ended >= self.total


@dataclass(frozen=True)
class Outcome:
    """What a trial has come to.

    Args:
        slot: Its number.
        trial: Optuna's trial, the last one of the slot.
        before_s: Seconds that earlier trials of the slot took, which were lost, interrupted or failed.
        is_gone: Whether it runs by its state, but nobody works on it any more.
    """

    slot: int
    trial: FrozenTrial
    before_s: float = 0.0
    is_gone: bool = False

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``done``, ``pruned``, ``infeasible``, ``failed`` or ``interrupted``."""
        known = self.trial.user_attrs
        if self.trial.state.name in ("COMPLETE", "PRUNED") and INFEASIBLE in known:
            return "infeasible"
        if self.trial.state.name == "FAIL":
            return "failed" if "error" in known else str(known.get("ended", "lost"))
        if self.is_gone:
            return "interrupted"
        name = self.trial.state.name.lower()
        return "done" if name == "complete" else name

    @property
    def point(self) -> Point:
        """Its parameters, as far as they are known."""
        return dict(self.trial.params or self.trial.system_attrs.get("fixed_params", {}))

    @property
    def values(self) -> list[float] | None:
        """Its objectives; None where it has none."""
        return list(self.trial.values) if self.state == "done" else None

    @cached_property
    def results(self) -> dict[str, Measured]:
        """Every metric that was recorded."""
        return from_plain(self.trial.user_attrs.get("results", {}))

    @property
    def same_as(self) -> int | None:
        """Number of the trial whose result this one took, because both come to the same."""
        found = self.trial.user_attrs.get("same_as")
        return None if found is None else int(found)

    @property
    def seconds(self) -> float | None:
        """How long it took in all attempts; None where it has not ended."""
        return None if self.trial.duration is None else self.before_s + _took_s(self.trial)

    @property
    def remark(self) -> str:
        """Why it failed, who works on it, or which other one it is."""
        known = self.trial.user_attrs
        if self.same_as is not None:
            return f"same network and settings as trial {self.same_as}"
        if self.state == "running":
            return describe(known.get("lease", {}))
        if self.is_gone:
            return f"{describe(known.get('lease', {}))} is gone"
        return str(known.get("error") or known.get(INFEASIBLE) or "")

    def record(self) -> dict[str, Any]:
        """Return where it began and ended, and its run, as plain values."""
        began, ended = self.trial.datetime_start, self.trial.datetime_complete
        return {
            "began": began.isoformat(timespec="seconds") if began else "",
            "ended": ended.isoformat(timespec="seconds") if ended else "",
            "seconds": "" if self.seconds is None else round(self.seconds, 1),
            "run": self.trial.user_attrs.get("run", ""),
        }


def outcomes(study: SweepStudy) -> list[Outcome]:
    """Return what the trial of each slot has come to, in their order."""
    last = study.latest()
    before = dict.fromkeys(last, 0.0)
    for trial in study.trials():
        slot = trial.user_attrs.get("slot")
        if slot in last and trial.number < last[slot].number:
            before[slot] += _took_s(trial)
    return [Outcome(slot, trial, before[slot], _is_gone(study, trial)) for slot, trial in last.items()]


def _is_gone(study: SweepStudy, trial: FrozenTrial) -> bool:
    lease = trial.user_attrs.get("lease", {})
    return trial.state.name == "RUNNING" and study.leases.has_ended(lease, trial.datetime_start)


def _took_s(trial: FrozenTrial) -> float:
    """Return how long somebody worked on a trial, in seconds: on one that was lost until its last sign of life."""
    if trial.duration is None or trial.datetime_start is None:
        return 0.0
    sign = trial.user_attrs.get("lease", {}).get("time")
    if trial.user_attrs.get("ended") != "lost" or sign is None:
        return trial.duration.total_seconds()
    worked = datetime.fromisoformat(sign) - trial.datetime_start.astimezone()
    return min(max(0.0, worked.total_seconds()), trial.duration.total_seconds())


def tally(study: SweepStudy) -> Tally:
    """Count the trials of a study."""
    from .study import is_open

    found = outcomes(study)
    over = [o for o in found if o.state not in ("waiting", "running") and not o.is_gone]
    ended = [outcome.state for outcome in over if not is_open(outcome.trial)]
    running = sum(outcome.state == "running" for outcome in found)
    return Tally(study.slots, len(ended), running, sum(state in _FAILED for state in ended))


def best(sweep: Sweep, done: Sequence[Outcome]) -> list[Outcome]:
    """Return the best trial, or of several objectives the front: no other is as good in all of them and better in one.

    Args:
        sweep: The study.
        done: Trials.
    """
    known = [outcome for outcome in done if outcome.values is not None and outcome.same_as is None]
    signs = [1.0 if objective.direction == "maximize" else -1.0 for objective in sweep.objectives]
    scores = [[s * v for s, v in zip(signs, o.values or [], strict=True)] for o in known]
    front = [known[index] for index in undominated(scores)]
    return front[:1] if len(sweep.objectives) == 1 else front


def trained(found: Sequence[Outcome]) -> list[Outcome]:
    """Return the trials that show how long one takes: trained for themselves, to the end or until they were pruned."""
    return [o for o in found if o.state in ("done", "pruned") and o.same_as is None and o.seconds]


def remaining_s(study: SweepStudy, at_once: int) -> float | None:
    """Return about how long the trials that have not ended will take, in seconds; None where none has ended yet.

    Args:
        study: The study.
        at_once: How many trials run at a time, in all processes.
    """
    took = [outcome.seconds or 0.0 for outcome in trained(outcomes(study))]
    count = tally(study)
    if not took or count.is_over:
        return None
    return fmean(took) * (count.total - count.ended) / at_once
