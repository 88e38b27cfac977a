"""Find out, before the first step, how this machine trains the network fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.speed import Choice, Levers, Runner, choose_for_training, training_candidates

from .peak_memory import PeakMemory


class Trainable(Protocol):
    """What is used of a task."""

    network: nn.Module
    runner: Runner
    make_optimizer: Callable[[Any], Optimizer]

    def training_loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch, logging nothing."""


class ChooseSpeed(Callback):
    """Measures a few training steps with each combination of levers and trains with the fastest.

    The steps are those of the first batch. They leave no trace: weights, statistics and random numbers are put back,
    and their optimizer is not the run's. All combinations give the same results within the rounding of float32, unless
    ``bfloat16`` is set; plain computation is kept unless another is at least 3 % faster. What the task's own settings
    switch on stays on. The choice is printed, stands in ``manifest.json``, and travels in the checkpoints: a run that
    continues takes it over without measuring again.

    Args:
        bfloat16: Try bfloat16 too, where the hardware computes it: faster and smaller, but with less precise numbers.
        rounds: Measured steps of each combination.
        max_share: Share of the run's steps that measuring may take; in shorter runs nothing is measured.
        compile_after_minutes: Try ``torch.compile`` too where the rest of the run is expected to take longer than this:
            compiling takes minutes itself.

    Attributes:
        record: The choice and its figures as plain values; None before it is made.

    Raises:
        PocketError: If a setting is out of range.
    """

    def __init__(
        self,
        bfloat16: bool = False,
        rounds: int = 5,
        max_share: float = 0.03,
        compile_after_minutes: float = 60.0,
    ) -> None:
        if rounds < 1:
            raise PocketError(f"ChooseSpeed.rounds: found {rounds}; give at least 1 step.")
        if not 0 < max_share <= 1:
            raise PocketError(f"ChooseSpeed.max_share: found {max_share}; give a share above 0 and up to 1.")
        self.bfloat16 = bfloat16
        self.rounds = rounds
        self.max_share = max_share
        self.compile_after_minutes = compile_after_minutes
        self.record: dict[str, Any] | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"record": self.record}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record = state_dict["record"]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.record is not None:  # continued
            task, levers = cast("Trainable", pl_module), Levers.from_record(self.record)
            task.runner = Runner(task.network, levers)
            trainer.print(f"speed: {levers}, as chosen when the run began")

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.record is not None:
            return
        task = cast("Trainable", pl_module)
        choice = trainer.strategy.broadcast(self._choose(trainer, task, batch))  # one for all processes
        self.record = choice.record
        task.runner = Runner(task.network, choice.levers)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PeakMemory):
                callback.restart(pl_module)  # what was only tried does not count
        trainer.print(choice)

    def _choose(self, trainer: Trainer, task: Trainable, batch: Any) -> Choice:
        own = task.runner.levers
        tried = [own | levers for levers in training_candidates(trainer.strategy.root_device, self.bfloat16)]
        candidates = list(dict.fromkeys(tried))
        steps = _most_steps(trainer)
        needed = (self.rounds + 1) * len(candidates)
        if needed > self.max_share * steps:
            return Choice(
                own, f"as the settings say; not measured: it would take {needed} steps, the run has {steps:.0f}"
            )
        choice = self._measure(trainer, task, batch, candidates)
        seconds = steps * _milliseconds(choice) / 1000
        if own.compiled or seconds < 60 * self.compile_after_minutes:
            return choice
        compiled = self._measure(trainer, task, batch, [choice.levers, choice.levers | Levers(compiled=True)])
        if not compiled.levers.compiled:
            return Choice(choice.levers, choice.reason, choice.timings + compiled.timings[1:], choice.what, self.rounds)
        return compiled

    def _measure(self, trainer: Trainer, task: Trainable, batch: Any, candidates: Sequence[Levers]) -> Choice:
        def loss(runner: Runner) -> Tensor:
            task.runner = runner
            with trainer.precision_plugin.train_step_context():
                return task.training_loss(batch)

        before = task.runner
        try:
            return choose_for_training(task.network, loss, task.make_optimizer, candidates, self.rounds)
        finally:
            task.runner = before
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.empty_cache()


def _most_steps(trainer: Trainer) -> float:
    """Return how many batches the run trains on at most."""
    epochs = math.inf if trainer.max_epochs in (-1, None) else trainer.max_epochs
    batches = trainer.num_training_batches * epochs
    return batches if trainer.max_steps < 0 else min(batches, trainer.max_steps * trainer.accumulate_grad_batches)


def _milliseconds(choice: Choice) -> float:
    return next((t.milliseconds or 0.0 for t in choice.timings if t.levers == choice.levers), 0.0)
