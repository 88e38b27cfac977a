"""Report the validation of each epoch to who prunes trials, and end when told so."""

from __future__ import annotations

import json
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class SweepPruning(Callback):
    """Appends a metric to ``reports.jsonl`` after each validation, and ends training when there is a file ``stop``.

    Whoever decides reads the one file and writes the other; this callback knows nothing of it. Training does not wait
    for the decision: it ends after the epoch in which the file appears.

    Args:
        folder: Where both files are.
        monitor: Validation metric that is reported.
    """

    def __init__(self, folder: str, monitor: str = "val/dice") -> None:
        self.folder = Path(folder)
        self.monitor = monitor

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None or not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"epoch": trainer.current_epoch + 1, "value": float(value)})
        with (self.folder / "reports.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.strategy.broadcast((self.folder / "stop").is_file()):
            trainer.should_stop = True
            trainer.print(f"pruned after {trainer.current_epoch + 1} epochs: {self.folder / 'stop'} tells so")
