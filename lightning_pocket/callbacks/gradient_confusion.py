"""How much the gradients of different batches agree, along a training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_pocket.analyses.gradients import Gradients, pair_cosines
from lightning_pocket.errors import PocketError
from lightning_pocket.speed import untouched
from lightning_pocket.storage import write_csv, write_json

COLUMNS = ("epoch", "space", "pair", "cosine")


class GradientConfusion(Callback):
    """Writes ``gradient_confusion.csv`` in the run folder: cosines of the gradients of pairs of batches, every epoch.

    The less the smallest of them lies below zero, the less batches work against each other (Sankararaman et al., ICML
    2020; ExpandNets, Guo et al., NeurIPS 2020, figure 3). Gradients of expanded networks live in two spaces: those of
    the ``factors`` that are trained, and of the ``contracted`` kernels, in which networks can be compared. Nothing of
    the training changes: weights, statistics of norms and random states are put back. `pocket confusion` draws it.

    Args:
        pairs: Pairs of batches at each epoch.
        batches: Different batches that they are drawn from; 0 for two of each pair's own.
        norms: Whether batch norms use their running statistics (``eval``), or those of the batch (``train``).
        every: Epochs from one measurement to the next; the last one is always measured.
        seed: Where the pairs come from.

    Raises:
        PocketError: If a number is out of range.
    """

    def __init__(
        self,
        pairs: int = 100,
        batches: int = 0,
        norms: Literal["eval", "train"] = "train",
        every: int = 1,
        seed: int = 0,
    ) -> None:
        if pairs < 1 or every < 1:
            raise PocketError(f"GradientConfusion.pairs and every: found {pairs} and {every}, expected at least 1.")
        if batches < 0 or (batches > 0 and batches * (batches - 1) // 2 < pairs):
            raise PocketError(
                f"GradientConfusion.batches: found {batches}, of which there are no {pairs} different pairs. Take 0 "
                "for two batches of each pair's own, or more."
            )
        self.pairs, self.norms, self.every, self.seed = pairs, norms, every, seed
        self.batches = batches or 2 * pairs
        self._rows: list[dict[str, Any]] = []

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        last = trainer.max_epochs is not None and epoch + 1 == trainer.max_epochs
        if (epoch + 1) % self.every and not last:
            return
        count = int(min(self.batches, trainer.num_training_batches))
        if count < 2:
            raise PocketError("GradientConfusion: an epoch has one batch alone; expected at least two to compare.")
        with untouched(pl_module), torch.enable_grad():
            found = self._cosines(trainer, pl_module, count)
        for space, values in found.items():
            self._rows += [
                {"epoch": epoch, "space": space, "pair": pair, "cosine": value} for pair, value in enumerate(values)
            ]
            pl_module.log(f"confusion/min_cosine_{space}", min(values), rank_zero_only=True)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            write_csv(folder / "gradient_confusion.csv", COLUMNS, self._rows)
            how = {"pairs": self.pairs, "batches": count, "norms": self.norms, "seed": self.seed}
            write_json(folder / "gradient_confusion.json", how | {"every": self.every})

    def _cosines(self, trainer: Trainer, pl_module: LightningModule, count: int) -> dict[str, list[float]]:
        """Return the cosines in each space, on the contracted network in the place of the trained one."""
        task: Any = pl_module
        trained, runner = task.network, task.runner
        gradients = Gradients(trained)
        task.network, task._runner = gradients.compact, None
        gradients.compact.train(self.norms == "train")
        try:
            generator = torch.Generator().manual_seed(self.seed + trainer.current_epoch)
            return pair_cosines(_vectors(trainer, task, gradients, count), count, self.pairs, generator)
        finally:
            task.network, task._runner = trained, runner

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = list(state_dict["rows"])


def _vectors(trainer: Trainer, task: Any, gradients: Gradients, count: int) -> Iterator[dict[str, Tensor]]:
    """Yield the gradients of training batches in each space."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    for batch in islice(data.train_dataloader(), count):
        moved = data.on_after_batch_transfer(task.transfer_batch_to_device(batch, task.device, 0), 0)
        with trainer.precision_plugin.train_step_context():
            yield gradients.of(partial(task.training_loss, moved))
