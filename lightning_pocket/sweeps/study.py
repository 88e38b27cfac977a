"""A study in its storage: made once, its trials taken by one worker each, and nothing of it lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_pocket.errors import PocketError
from lightning_pocket.locks import FileLock
from lightning_pocket.run_folder import show_differences

from .definition import Sweep
from .leases import GRACE_S, Leases
from .parameters import Point

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: How often a trial is begun again whose worker was lost.
MOST_LOST = 3
_PAUSE_S = 0.1
_LOCK = ".study.lock"


class SweepStudy:
    """A study that several processes work on.

    Trials wait in the storage, one for each slot: of a grid with its point, else with nothing, and the sampler of the
    process that takes it draws the rest. So there are never more trials than asked for, and a trial is taken by whoever
    the storage lets set it running. A slot whose worker was lost gets another trial with the same point.

    Args:
        sweep: What the file says.
        name: Name of the study in the storage.
        folder: Its folder.
        storage: Where it is kept.
        grace_s: Seconds without a sign of life after which a worker is taken for dead.
    """

    def __init__(self, sweep: Sweep, name: str, folder: Path, storage: BaseStorage, grace_s: float = GRACE_S) -> None:
        self.sweep = sweep
        self.name = name
        self.folder = folder
        self.storage = storage
        self.leases = Leases(grace_s)
        self._opened: Study | None = None

    @property
    def study(self) -> Study:
        """Optuna's study.

        Raises:
            PocketError: If it was not begun.
        """
        if self._opened is None:
            import optuna

            pruner = self.sweep.pruner.make() if self.sweep.pruner else optuna.pruners.NopPruner()
            try:
                self._opened = optuna.load_study(study_name=self.name, storage=self.storage, pruner=pruner)
            except KeyError:
                raise PocketError(f"{self.folder}: the storage holds no study {self.name!r}.") from None
        return self._opened

    @property
    def exists(self) -> bool:
        """Whether the study was begun and is complete in its storage."""
        try:
            return "slots" in self.study.user_attrs
        except PocketError:
            return False

    @cached_property
    def points(self) -> list[Point]:
        """The point of each slot of a grid; none where a sampler draws them."""
        found: list[Point] = self.study.user_attrs["points"]
        return found

    @cached_property
    def identities(self) -> list[str]:
        """Hash of what each slot of a grid comes to; none where a sampler draws the points."""
        found: list[str] = self.study.user_attrs["identities"]
        return found

    def begin(
        self,
        identity: Mapping[str, Any],
        settings: Mapping[str, Any],
        identities: Sequence[str],
        origin: Mapping[str, str] | None = None,
    ) -> None:
        """Make the study, unless another process has, and let one trial wait for each slot.

        Args:
            identity: What makes trials comparable.
            settings: Every setting that the trials share.
            identities: Hash of what each point of a grid comes to, in their order.
            origin: What else to store where it is made here, such as its folder.

        Raises:
            PocketError: If the study is there with another identity or other settings.
        """
        import optuna

        with self.exclusive():
            if not self.exists:
                directions = [objective.direction for objective in self.sweep.objectives]
                study = optuna.create_study(
                    study_name=self.name, storage=self.storage, directions=directions, load_if_exists=True
                )
                study.set_metric_names([objective.metric for objective in self.sweep.objectives])
                points = self.sweep.points()
                attributes = {"identity": dict(identity), "settings": dict(settings), "points": points}
                attributes |= origin or {}
                for key, value in (attributes | {"identities": list(identities), "title": self.sweep.title}).items():
                    study.set_user_attr(key, value)
                study.set_user_attr("slots", self.sweep.count)  # last: now it is complete
                self._opened = None
        self.check(identity, settings)
        self.refill()

    def check(self, identity: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Refuse to go on with a study that began with another file, other options or other configs.

        Args:
            identity: See :meth:`begin`.
            settings: See :meth:`begin`.

        Raises:
            PocketError: If they differ; the differences are in the message.
        """
        saved = self.study.user_attrs
        shown = show_differences(saved["identity"], dict(identity)) or show_differences(
            saved["settings"], dict(settings)
        )
        if shown:
            raise PocketError(
                f"{self.folder} holds a study that began otherwise ({shown}). Restore it, or name another folder with "
                "--output."
            )

    def extend(self, trials: int) -> None:
        """Ask for more trials; a grid has no more than points, and fewer than there are change nothing."""
        wanted = min(trials, len(self.points)) if self.points else trials
        with self.exclusive():
            if wanted > self.slots:
                self.study.set_user_attr("slots", wanted)
        self.refill()

    @property
    def slots(self) -> int:
        """How many trials there will be."""
        return int(self.study.user_attrs["slots"])

    def trials(self) -> list[FrozenTrial]:
        """Return all trials of the storage, those that were begun again too."""
        return self.study.get_trials(deepcopy=False)

    def latest(self) -> dict[int, FrozenTrial]:
        """Return the trial of each slot that has one; of those begun again the last."""
        found: dict[int, FrozenTrial] = {}
        for trial in self.trials():
            if "slot" in trial.user_attrs and trial.user_attrs.get("ended") != "double":
                found[int(trial.user_attrs["slot"])] = trial
        return dict(sorted(found.items()))

    def refill(self, retry_failed: bool = False) -> None:
        """Let a trial wait for every slot that has none, or whose worker was lost.

        Args:
            retry_failed: For those that failed, too.
        """
        with self.exclusive():
            self._end_lost()
            latest, points = self.latest(), self.points
            for slot in range(self.slots):
                trial = latest.get(slot)
                if trial is None:
                    self._enqueue(slot, points[slot] if points else {})
                elif is_open(trial, retry_failed):
                    self._enqueue(slot, points[slot] if points else _point_of(trial), trial)

    def identifier(self, number: int) -> int:
        """Return how the storage calls the trial of a number."""
        study = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)

    def _enqueue(self, slot: int, point: Mapping[str, Any], before: FrozenTrial | None = None) -> None:
        attributes: dict[str, Any] = {"slot": slot}
        if before is not None:
            known = before.user_attrs
            was_lost = known.get("ended") != "interrupted" and "error" not in known
            attributes["lost"] = int(known.get("lost", 0)) + was_lost
        self.study.enqueue_trial(dict(point), user_attrs=attributes)

    def _end_lost(self) -> None:
        """End the trials whose process is gone."""
        import optuna
        from optuna.storages import RDBStorage
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lease = trial.user_attrs.get("lease", {})
            if self.leases.has_ended(lease, trial.datetime_start):
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self.storage.set_trial_user_attr(self.identifier(trial.number), "ended", "lost")
                    self.storage.set_trial_state_values(self.identifier(trial.number), TrialState.FAIL)
        if isinstance(self.storage, RDBStorage):
            optuna.storages.fail_stale_trials(self.study)  # by the clock of the server

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one process at a time make and refill the study; trials that two of them make are told apart later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK)
        while not lock.acquire():
            time.sleep(_PAUSE_S)
        try:
            yield
        finally:
            lock.release()


def is_open(trial: FrozenTrial, retry_failed: bool = False) -> bool:
    """Whether a trial has ended without a result, so that its slot must be worked on again.

    Args:
        trial: The last trial of the slot.
        retry_failed: Whether those count that failed by themselves.
    """
    from optuna.trial import TrialState

    if trial.state != TrialState.FAIL:
        return False
    if "error" in trial.user_attrs:
        return retry_failed
    if trial.user_attrs.get("ended") == "interrupted":  # given back: nothing speaks against it
        return True
    return int(trial.user_attrs.get("lost", 0)) < MOST_LOST or retry_failed


def _point_of(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.params or trial.system_attrs.get("fixed_params", {}))
