"""Trials that come to the same: one of them is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from .claims import Claimed
    from .study import SweepStudy


@dataclass(frozen=True)
class Twin:
    """A trial that another one comes to the same as.

    Args:
        slot: Its number.
        has_ended: Whether its result is there.
        values: Its values; None where it was pruned or still runs.
        results: What else to take over from it.
    """

    slot: int
    has_ended: bool
    values: list[float] | None = None
    results: dict[str, Any] = field(default_factory=dict)


def find_twin(study: SweepStudy, claimed: Claimed, identity: str) -> Twin | None:
    """Return a trial whose result, there already or to come, is that of another one.

    Args:
        study: The study.
        claimed: The other one.
        identity: Hash of what it comes to; empty where that is not known.
    """
    if not identity:
        return None
    others = [trial for slot, trial in study.latest().items() if slot != claimed.slot]
    same = [trial for trial in others if trial.user_attrs.get("identity") == identity]
    ended = [trial for trial in same if trial.state.name in ("COMPLETE", "PRUNED")]
    if ended:
        return _twin(ended[0])
    # Of two that began at the same moment the earlier goes on; one that trains already is waited for.
    running = [trial for trial in same if trial.state.name == "RUNNING" and "same_as" not in trial.user_attrs]
    ahead = [t for t in running if t.user_attrs.get("begun") or t.user_attrs["slot"] < claimed.slot]
    return Twin(int(ahead[0].user_attrs["slot"]), False) if ahead else None


def _twin(trial: FrozenTrial) -> Twin:
    kept: dict[str, Any] = {
        key: trial.user_attrs[key] for key in ("results", "infeasible", "run", "commands") if key in trial.user_attrs
    }
    slot = int(trial.user_attrs.get("same_as", trial.user_attrs["slot"]))
    values = list(trial.values) if trial.state.name == "COMPLETE" else None
    return Twin(slot, True, values, kept)
