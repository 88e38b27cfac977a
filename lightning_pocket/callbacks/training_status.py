"""How far a trainer is, put together from what it and the callbacks that measure know."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_pocket.reports.status import Status

from .peak_memory import PeakMemory
from .remaining_work import may_end_early, remaining_work, time_limit_s
from .run_clock import Estimate, RunClock, Work
from .step_time import StepTime

_EVALUATIONS = {
    TrainerFn.VALIDATING: "validating",
    TrainerFn.TESTING: "testing",
    TrainerFn.PREDICTING: "predicting",
}
_MEMORY = {"peak_cuda_mib": "CUDA peak", "peak_rss_mib": "peak RSS"}
_SLOW = 0.1  # items per second below which their number per minute is easier to read


@dataclass
class Progress:
    """What only the hooks of a callback tell.

    Attributes:
        clock: Times of the training in this process.
        evaluation: Times of the validation, test or prediction that is going on, or was last.
        done: Training batches of the present epoch that are done.
        evaluated: Batches of the evaluation that are done; None outside of evaluations.
        loss: Loss of the latest training batch, as Lightning hands it to callbacks.
        score: Latest validation score, with its name.
    """

    clock: RunClock = field(default_factory=RunClock)
    evaluation: RunClock = field(default_factory=RunClock)
    done: int = 0
    evaluated: int | None = None
    loss: Tensor | None = None
    score: str = ""

    def status(self, trainer: Trainer, task: LightningModule) -> Status:
        """Return how far the trainer is, in the words that users read."""
        if self.evaluated is None:
            return self._training(trainer, task)
        return self._evaluating(trainer, task, self.evaluated)

    def _training(self, trainer: Trainer, task: LightningModule) -> Status:
        divided = trainer.accumulate_grad_batches if task.automatic_optimization else 1  # by Lightning
        loss = "" if self.loss is None else f"loss {divided * self.loss.item():.4f}"
        steps = [callback.recent_ms() for callback in trainer.callbacks if isinstance(callback, StepTime)]  # type: ignore[attr-defined]
        figures = (
            loss,
            self.score,
            _speed(self.clock.items_per_s, _noun(trainer, "train")),
            f"{_three_digits(steps[0])} ms/step" if steps and steps[0] is not None else "",
            _memory(trainer, task),
        )
        left_s, bound = self._left(trainer, None)
        length = trainer.num_training_batches
        total = int(length) if math.isfinite(length) else None
        return _status(_epoch(trainer), self.done, total, figures, left_s, bound)

    def _evaluating(self, trainer: Trainer, task: LightningModule, done: int) -> Status:
        total = _evaluation_batches(trainer)
        speed = _speed(self.evaluation.items_per_s, _noun(trainer, "test" if trainer.testing else "val"))
        if trainer.state.fn in _EVALUATIONS:
            estimate = None if total is None else self.evaluation.left(Work(total - done))
            left_s = None if estimate is None else estimate.seconds
            return _status(_EVALUATIONS[trainer.state.fn], done, total, (speed, _memory(trainer, task)), left_s)
        if trainer.sanity_checking:
            return _status("trying validation", done, total, (speed,))
        left_s, bound = self._left(trainer, done / total if total else None)
        figures = (self.score, speed, _memory(trainer, task))
        return _status(f"{_epoch(trainer)}, validating", done, total, figures, left_s, bound)

    def _left(self, trainer: Trainer, validated: float | None) -> tuple[float | None, str]:
        """Return the seconds that are left of the training, and what is known of them."""
        work, limit_s = remaining_work(trainer, self.done, validated), time_limit_s(trainer)
        estimate = None if work is None else self.clock.left(work)
        if estimate is None:
            return (limit_s, "up to") if math.isfinite(limit_s) else (None, "")
        if limit_s < estimate.seconds:
            return max(limit_s, 0.0), "up to" if may_end_early(trainer) else ""
        return estimate.seconds, _bound(estimate, may_end_early(trainer))


def count_items(batch: Any) -> int:
    """Return how many items a batch has, without those that only keep processes in step.

    Args:
        batch: What a data loader gave: one of ours, a tensor ``(B, ...)``, or a sequence that begins with one.
    """
    if isinstance(batch, Mapping):
        if "subject" in batch:
            return sum(map(bool, batch["subject"]))
        batch = next(iter(batch.values()), None)
    if isinstance(batch, (list, tuple)):
        batch = batch[0] if batch else None
    return len(batch) if isinstance(batch, Tensor) and batch.ndim else 1


def _status(
    stage: str,
    done: int,
    total: int | None,
    figures: tuple[str, ...],
    left_s: float | None = None,
    bound: str = "",
) -> Status:
    return Status(stage, done, total, tuple(filter(None, figures)), left_s, bound, time.monotonic())


def _bound(estimate: Estimate, early: bool) -> str:
    if not estimate.is_complete:
        return "about" if early else "over"
    return "up to" if early else ""


def _epoch(trainer: Trainer) -> str:
    known = trainer.max_epochs not in (None, -1)
    return f"epoch {trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if known else "")


def _evaluation_batches(trainer: Trainer) -> int | None:
    """Return the batches of the evaluation that is going on; None where a loader does not tell."""
    if trainer.sanity_checking:
        batches = sum(trainer.num_sanity_val_batches)
    elif trainer.testing:
        batches = sum(trainer.num_test_batches)
    elif trainer.predicting:
        batches = sum(trainer.num_predict_batches)
    else:
        batches = sum(trainer.num_val_batches)
    return int(batches) if math.isfinite(batches) else None


def _noun(trainer: Trainer, stage: str) -> str:
    """Return what the items of a stage are called."""
    named = getattr(getattr(trainer, "datamodule", None), "items_of", None)
    return "items" if named is None else str(named(stage))


def _speed(items_per_s: float | None, noun: str) -> str:
    if items_per_s is None:
        return ""
    if items_per_s < _SLOW:
        return f"{_three_digits(60 * items_per_s)} {noun}/min"
    return f"{_three_digits(items_per_s)} {noun}/s"


def _three_digits(value: float) -> str:
    """Return a number with as many decimals as its size leaves room for."""
    decimals = next((places for limit, places in ((9.995, 2), (99.95, 1)) if value < limit), 0)
    return f"{value:,.{decimals}f}"


def _memory(trainer: Trainer, task: LightningModule) -> str:
    """Return the peak memory of the stage so far, and of what it is."""
    measured = [callback.so_far(task) for callback in trainer.callbacks if isinstance(callback, PeakMemory)]  # type: ignore[attr-defined]
    for name, label in _MEMORY.items():
        if measured and name in measured[0]:
            return f"{label} {measured[0][name]:,.0f} MiB"
    return ""
