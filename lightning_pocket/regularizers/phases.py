"""The phases of a run that makes a network sparse: warm-up, sparsify, freeze, fine-tune."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lightning_pocket.errors import PocketError

PhaseName = Literal["warmup", "sparsify", "finetune"]


@dataclass(frozen=True)
class Phases:
    """How much of a run is trained before, and after, the penalty is at work.

    Between the two the network is made sparse. What is zero then is frozen: it stays zero while the rest is fine-tuned
    without a penalty.

    Args:
        warmup: Length of the first phase, without a penalty.
        finetune: Length of the last phase; 0 freezes at the very end.
        unit: Whether both are a ``fraction`` of the run or a number of ``epochs``.

    Raises:
        PocketError: If they are out of range.
    """

    warmup: float = 0.1
    finetune: float = 0.25
    unit: Literal["fraction", "epochs"] = "fraction"

    def __post_init__(self) -> None:
        for name, value in (("warmup", self.warmup), ("finetune", self.finetune)):
            if not value >= 0 or math.isinf(value):
                raise PocketError(f"StructuredSparsity.phases.{name}: found {value}; give 0 or more {self.unit}.")
        if self.unit == "fraction" and self.warmup + self.finetune >= 1:
            raise PocketError(
                f"StructuredSparsity.phases: warmup {self.warmup} and finetune {self.finetune} leave no time to become "
                "sparse; give fractions that add up to less than 1."
            )

    def plan(self, steps: float, steps_per_epoch: float) -> PhasePlan:
        """Return the phases of a run in steps.

        Args:
            steps: Optimizer steps of the whole run; infinite where no end is set.
            steps_per_epoch: Optimizer steps of an epoch.

        Raises:
            PocketError: If the run has no end, or no step is left to become sparse.
        """
        if self.unit == "epochs" and math.isinf(steps_per_epoch):
            raise PocketError(
                "StructuredSparsity.phases.unit: is epochs, but an epoch of this data has no known number of steps; "
                "expected fraction. Set unit to fraction, with warmup and finetune as shares of the run."
            )
        if math.isinf(steps) or steps < 1:
            raise PocketError(
                f"trainer.max_epochs: the run has {'no end' if math.isinf(steps) else 'no steps'}, but phases are laid "
                "out over it. Set trainer.max_epochs or trainer.max_steps."
            )
        length = steps if self.unit == "fraction" else steps_per_epoch
        begin, end = round(self.warmup * length), int(steps) - round(self.finetune * length)
        if begin >= end:
            raise PocketError(
                f"StructuredSparsity.phases: warmup {self.warmup} and finetune {self.finetune} {self.unit} leave no "
                f"step of {int(steps)} to become sparse; shorten them or train longer."
            )
        return PhasePlan(begin, end, int(steps))


@dataclass(frozen=True)
class PhasePlan:
    """Phases in optimizer steps.

    Args:
        begin: Steps before the penalty is at work.
        end: Steps after which zeros are frozen.
        steps: Steps of the run.
    """

    begin: int
    end: int
    steps: int

    def phase(self, step: int) -> PhaseName:
        """Return the phase of the step that follows ``step`` others."""
        if step < self.begin:
            return "warmup"
        return "sparsify" if step < self.end else "finetune"

    def __str__(self) -> str:
        parts = [f"warm-up to step {self.begin}"] if self.begin else []
        parts.append(f"sparsify to step {self.end}")
        parts.append(f"freeze, fine-tune to step {self.steps}" if self.end < self.steps else "freeze")
        return ", ".join(parts)
