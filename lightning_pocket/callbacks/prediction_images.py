"""Pictures of predictions, beside the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.pictures import draw_slices, picture_name, write_png
from lightning_pocket.reports.slices import CaseSlices, slice_case
from lightning_pocket.types import Batch, DatasetInfo

from .logged_results import log_pictures


class PredictionImages(Callback):
    """Draws image, ground truth and prediction of a few cases.

    While training, ``pictures/epoch_0010_<case>.png`` in the run folder shows the first validation cases after epoch
    10, and a test writes ``test/pictures/<case>.png``. TensorBoard gets the same as ``pictures/<case>`` and
    ``test_pictures/<case>``; W&B gets the slices with masks and the classes' names, as ``pictures/val`` and
    ``pictures/test``. Only the slices that are shown are kept; drawing waits for the end of the epoch. Of images with
    several channels the first is shown. Tasks whose steps return no label map ``predicted``, such as classification,
    are not drawn.

    Args:
        every_n_epochs: Epochs between two rounds of validation pictures; the last epoch that ``max_epochs`` or
            ``max_steps`` allows is drawn too. 0 draws none.
        max_cases: Cases to draw in validation.
        max_test_cases: Cases to draw in a test.

    Raises:
        PocketError: If a number is negative.
    """

    def __init__(self, every_n_epochs: int = 10, max_cases: int = 2, max_test_cases: int = 20) -> None:
        for key, value in (
            ("every_n_epochs", every_n_epochs),
            ("max_cases", max_cases),
            ("max_test_cases", max_test_cases),
        ):
            if value < 0:
                raise PocketError(f"PredictionImages.{key}: found {value}; expected 0 or more.")
        self.every_n_epochs = every_n_epochs
        self.max_cases = max_cases
        self.max_test_cases = max_test_cases
        self._cases: dict[str, CaseSlices] = {}

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cases = {}

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._is_due(trainer):
            self._keep(trainer, pl_module, outputs, batch, self.max_cases)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / "pictures"
        for subject, case in self._cases.items():
            picture = draw_slices(case, _info(pl_module).classes)
            write_png(folder / f"epoch_{trainer.current_epoch + 1:04d}_{picture_name(subject)}", picture)
        if self._cases:
            log_pictures(trainer, "val", self._cases, _info(pl_module).classes)
        self._cases = {}

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cases = {}

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._keep(trainer, pl_module, outputs, batch, self.max_test_cases)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / "test" / "pictures"
        for subject, case in self._cases.items():
            write_png(folder / picture_name(subject), draw_slices(case, _info(pl_module).classes))
        if self._cases:
            log_pictures(trainer, "test", self._cases, _info(pl_module).classes)
        self._cases = {}

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether this validation is part of a training, in an epoch that is drawn."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self.every_n_epochs:
            return False
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step
        return last or epoch % self.every_n_epochs == 0

    def _keep(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, limit: int) -> None:
        """Copy the slices of a batch's cases, while there is room and in the first process only."""
        if not trainer.is_global_zero or "predicted" not in (outputs or ()):
            return
        for index, subject in enumerate(batch["subject"]):
            if len(self._cases) >= limit:
                return
            if subject:
                image = _array(batch["image"][index, 0].float())
                truth, predicted = _array(batch["label"][index]), _array(outputs["predicted"][index])
                info = _info(pl_module)
                spacing = batch["spacing"][index] if "spacing" in batch else info.spacing
                self._cases[subject] = slice_case(image, truth, predicted, spacing, len(info.classes))


def _info(pl_module: LightningModule) -> DatasetInfo:
    info = getattr(pl_module, "info", None)
    if isinstance(info, DatasetInfo):
        return info
    raise PocketError(
        f"PredictionImages: {type(pl_module).__name__} does not say what its data are (no `info`). Remove this "
        "callback from trainer.callbacks, or use a task of lightning_pocket."
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
