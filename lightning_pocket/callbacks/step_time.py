"""How long a training step takes, and how much of it is spent waiting for data."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

#: Steps over which the step time is taken that is shown while training.
_RECENT = 20


class StepTime(Callback):
    """Logs the median and 95th percentile of the step time in ms, and the share of the time that data was awaited.

    A step is from the moment its batch is ready to the end of the optimizer's step. On CUDA it is measured by events,
    read once per epoch, so that measuring does not slow training down. Data are awaited from the end of a step, as
    the process sees it, until the next batch is on the device; the first step of an epoch, and the first after a
    validation, do not count for the share. The figures are those of the run since it was started or continued.

    Args:
        warmup: Steps left out at the start of the run.
    """

    def __init__(self, warmup: int = 3) -> None:
        self.warmup = warmup
        self.step_ms: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seen = 0
        self._ended: float | None = None
        self._started = 0.0
        self._waited_s = 0.0
        self._total_s = 0.0

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = None

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = None  # a validation inside an epoch is no waiting for data

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._started = time.perf_counter()
        if self._ended is not None and self._seen >= self.warmup:
            self._waited_s += self._started - self._ended
        if pl_module.device.type == "cuda":
            self._events.append((_event(), _event()))
            self._events[-1][0].record()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._seen += 1
        if pl_module.device.type == "cuda":
            self._events[-1][1].record()
        elif self._seen > self.warmup:
            self.step_ms.append(1000 * (now - self._started))
        if self._ended is not None and self._seen > self.warmup:
            self._total_s += now - self._ended
        self._ended = now

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._events:
            torch.cuda.synchronize()
            first = max(self.warmup - (self._seen - len(self._events)), 0)
            self.step_ms.extend(start.elapsed_time(end) for start, end in self._events[first:])
            self._events.clear()
        for name, value in self.summary().items():
            pl_module.log(name, value, rank_zero_only=True)

    def recent_ms(self) -> float | None:
        """Return the median of the latest steps in ms, without waiting for a GPU; None before one was measured."""
        recent = self.step_ms[-_RECENT:]
        if self._events:  # the last pair may be of a step that has only begun
            pairs = self._events[:-1]
            pairs = pairs[max(self.warmup - (self._seen - len(pairs)), len(pairs) - _RECENT, 0) :]
            recent = [start.elapsed_time(end) for start, end in pairs if end.query()] or recent  # type: ignore[no-untyped-call]
        return float(np.median(recent)) if recent else None

    def summary(self) -> dict[str, float]:
        """Return the figures of the run so far; empty before the first measured step."""
        if not self.step_ms:
            return {}
        return {
            "profile/step_ms": float(np.median(self.step_ms)),
            "profile/step_p95_ms": float(np.percentile(self.step_ms, 95)),
            "profile/data_wait_share": self._waited_s / self._total_s if self._total_s else 0.0,
        }


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
