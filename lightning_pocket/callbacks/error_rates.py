"""Errors on test and training images along a training, for studies of memorisation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.speed import untouched
from lightning_pocket.storage import write_csv

_COLUMNS = ("epoch", "val_error", "test_error", "train_error")
#: Metric from which the validation error follows.
_ACCURACY = "val/accuracy"


class ErrorRates(Callback):
    """Writes ``error_rates.csv`` in the run folder: shares of wrong images, one row per epoch, of a classification.

    ``test_error`` is that of the test images after each epoch. It is looked at, and chooses nothing: neither weights
    nor rates depend on it. ``train_error`` is that of the training images as they are trained on, augmented and with
    the labels that they are given, drawn ones too, in evaluation mode after the last epoch.

    Tables have three numbers from it: ``best_error``, the test error at the epoch of the least validation error;
    ``last_error``; and ``train_error`` (ExpandNets, Guo et al., NeurIPS 2020, Table 7).
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        accuracy = trainer.callback_metrics.get(_ACCURACY)
        if accuracy is None:
            raise PocketError(
                "ErrorRates: there is no val/accuracy. It is for classifications that validate every epoch."
            )
        error = self._error(trainer, pl_module, data.test_dataloader())
        self._rows.append({"epoch": trainer.current_epoch, "val_error": 1 - float(accuracy), "test_error": error})

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self._rows:
            self._rows[-1]["train_error"] = self._error(trainer, pl_module, data.train_dataloader())
        if self._rows and trainer.is_global_zero:
            write_csv(Path(trainer.default_root_dir) / "error_rates.csv", _COLUMNS, self._rows)

    def _error(self, trainer: Trainer, pl_module: LightningModule, batches: Iterable[dict[str, Any]]) -> float:
        """Return the share of wrong images; of distributed processes together."""
        wrong = torch.zeros(2, dtype=torch.float64, device=pl_module.device)
        network: Any = pl_module.network
        with untouched(pl_module), torch.no_grad():
            network.eval()
            for batch in batches:
                moved = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
                moved = trainer.datamodule.on_after_batch_transfer(moved, 0)  # type: ignore[attr-defined]
                wrong += _wrong(pl_module.runner(moved["image"]), moved)  # type: ignore[operator]
        total = trainer.strategy.reduce(wrong, reduce_op="sum")
        return float(total[0] / total[1])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = list(state_dict["rows"])


def _wrong(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    """Return ``(2,)``, wrong and all images of a batch; repeated ones do not count."""
    counted = torch.tensor([bool(subject) for subject in batch["subject"]], device=logits.device)
    wrong = (logits.argmax(1) != batch["target"]) & counted
    return torch.stack([wrong.sum(), counted.sum()]).double()
