"""Show in the terminal how far a training or a test is, and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from torch import Tensor
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.status_display import StatusDisplay, open_display

from .run_clock import RunClock
from .training_status import Progress, count_items


class TerminalProgress(ProgressBar):
    """Shows epoch, loss, score, items per second, step time, peak memory, and the time that the whole run still takes.

    On a terminal these are bars at its bottom. Elsewhere a line is printed after each epoch, and every so often in
    between. Both go to standard error, of the first process alone.

    Items per second are those of the latest 10 s, over all processes, with waiting for data; the step time is that of
    ``StepTime``, without it, and the memory that of ``PeakMemory``. The time that is left counts batches, validations
    and the ends of epochs as this process has measured them: ``over`` says that no validation was measured yet,
    ``up to`` that the run may stop early, ``about`` both.

    Args:
        refresh_hz: How often bars are drawn, per second.
        line_every_s: Seconds after which a log gets a line, where no epoch has ended before.

    Raises:
        PocketError: If a setting is out of range.
    """

    def __init__(self, refresh_hz: float = 4.0, line_every_s: float = 60.0) -> None:
        super().__init__()
        if not 0 < refresh_hz <= 30:
            raise PocketError(f"progress.refresh_hz: found {refresh_hz}; give more than 0 and at most 30 per second.")
        if not line_every_s > 0:
            raise PocketError(f"progress.line_every_s: found {line_every_s}; give more than 0 seconds.")
        self.refresh_hz = refresh_hz
        self.line_every_s = line_every_s
        self._enabled = True
        self._display: StatusDisplay | None = None
        self._progress = Progress()

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._enabled and self._display is None:  # now: loaders inherit where their output goes when they start
            self._display = open_display(self.refresh_hz, self.line_every_s)

    def close(self, keep: bool = False) -> None:
        """Leave the terminal as it was; ``keep`` what was shown last."""
        if self._display is not None:
            self._display.close(keep)
            self._display = None

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.done, self._progress.loss = 0, None
        self._progress.clock.begin_epoch()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._progress.clock.begin_batch()
        # FiniteLoss has just looked at the loss: on a GPU too nothing is left to wait for.
        self._show_if_due(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        progress = self._progress
        progress.clock.end_batch(count_items(batch) * trainer.world_size)
        progress.done = batch_idx + 1
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        progress.loss = loss.detach() if isinstance(loss, Tensor) and loss.numel() == 1 else None

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._display is not None:
            self._display.show(self._progress.status(trainer, pl_module), milestone=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._progress.clock.begin_validation()
        self._begin_evaluation()

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin_evaluated(trainer, pl_module)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_evaluated(trainer, batch)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.evaluated = None
        if trainer.state.fn != "fit":
            self.close()
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._progress.clock.end_validation()
        name = str(getattr(pl_module, "score", ""))
        score = trainer.callback_metrics.get(name)
        self._progress.score = "" if score is None else f"{name} {float(score):.4f}"

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation()

    @override
    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin_evaluated(trainer, pl_module)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_evaluated(trainer, batch)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation()

    @override
    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin_evaluated(trainer, pl_module)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_evaluated(trainer, batch)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close(keep=True)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.close()

    def _show_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._display is not None and self._display.is_due():
            self._display.show(self._progress.status(trainer, pl_module))

    def _begin_evaluation(self) -> None:
        self._progress.evaluated, self._progress.evaluation = 0, RunClock()

    def _begin_evaluated(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.evaluation.begin_batch()
        self._show_if_due(trainer, pl_module)

    def _end_evaluated(self, trainer: Trainer, batch: Any) -> None:
        self._progress.evaluation.end_batch(count_items(batch) * trainer.world_size)
        self._progress.evaluated = (self._progress.evaluated or 0) + 1
