"""What is left of a training, counted as Lightning is going to do it."""

from __future__ import annotations

import math

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer

from .run_clock import Work


def remaining_work(trainer: Trainer, done: int, validated: float | None) -> Work | None:
    """Return what is left of a training.

    Args:
        trainer: It trains.
        done: Batches of the present epoch that are done.
        validated: Share of the validation that is going on; None outside of validations.

    Returns:
        The work of this run, however many processes it was started in; None where it has no end.
    """
    length = trainer.num_training_batches
    batches = min(_by_epochs(trainer, done, length), _by_steps(trainer, done, length))
    if not math.isfinite(batches):
        return None
    later = max(batches - (length - done), 0) / length if math.isfinite(length) and length else 0.0
    validations = _validations(trainer, done, batches, later)
    known = validations is not None
    return Work(batches, validations or 0.0, math.ceil(later) + 1, validated, is_exact=known)


def may_end_early(trainer: Trainer) -> bool:
    """Whether the training may end before its last epoch: its score no longer improves."""
    return any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def time_limit_s(trainer: Trainer) -> float:
    """Return the seconds that ``trainer.max_time`` leaves, infinity without a limit."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    limits = [timer.time_remaining() for timer in timers]
    return min((limit for limit in limits if limit is not None), default=math.inf)


def _by_epochs(trainer: Trainer, done: int, length: float) -> float:
    """Return the batches until the last epoch has ended."""
    if trainer.max_epochs in (None, -1):
        return math.inf
    return max(length - done, 0) + (trainer.max_epochs - trainer.current_epoch - 1) * length


def _by_steps(trainer: Trainer, done: int, length: float) -> float:
    """Return the batches until the last optimizer step; the last batch of an epoch always makes one."""
    if trainer.max_steps < 0:
        return math.inf
    steps, each = trainer.max_steps - trainer.global_step, trainer.accumulate_grad_batches
    present, begun = length - done, done % each if done < length else 0
    until = steps * each - begun
    if until <= present or not length:
        return max(until, 0)
    per_epoch = math.ceil(length / each)
    steps -= math.ceil((present + begun) / each)
    whole, rest = divmod(steps, per_epoch)
    return present + whole * length + min(rest * each, length)


def _validations(trainer: Trainer, done: int, batches: float, later: float) -> float | None:
    """Return how many validations will begin; None where that depends on the time they take.

    Args:
        trainer: It trains.
        done: Batches of the present epoch that are done; a validation that was due after them has begun.
        batches: Batches of the run that are left.
        later: Epochs after the present one; the last may end before its last batch.
    """
    loaded = trainer.val_dataloaders is not None  # before the first validation nobody knows how many batches it has
    if not trainer.enable_validation or (loaded and not sum(trainer.num_val_batches)):
        return 0.0
    interval, length, every = trainer.val_check_batch, trainer.num_training_batches, trainer.check_val_every_n_epoch
    if interval is None:
        return None
    if every is None:
        so_far = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        return (so_far + batches) // interval - so_far // interval

    def until(batch: float) -> float:
        return batch // interval if math.isfinite(interval) else float(batch >= length)

    number, whole = trainer.current_epoch + 1, math.floor(later)
    present = 0.0 if number % every else until(min(done + batches, length)) - until(done)
    following = ((number + whole) // every - number // every) * until(length)
    partly = 0.0 if (number + whole + 1) % every else until(round((later - whole) * length))
    return present + following + partly
