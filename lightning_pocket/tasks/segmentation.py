"""Label every voxel."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_pocket.inference import SlidingWindow
from lightning_pocket.losses import L2Dice, deep_supervision_loss
from lightning_pocket.metrics import CaseDice, dice_per_class
from lightning_pocket.networks.base import Network
from lightning_pocket.types import Batch

from .base import BaseTask, OptimizerCallable, SchedulerCallable


class SegmentationTask(BaseTask):
    """Semantic segmentation of patches, validated and tested on whole images with a sliding window.

    Args:
        network: Maps images ``(B, C, *S)`` to logits ``(B, K, *S)``.
        dataset: See :class:`BaseTask`.
        loss: Maps logits ``(B, K, *S)`` and labels ``(B, *S)`` to a scalar.
        optimizer: See :class:`BaseTask`.
        lr_scheduler: See :class:`BaseTask`.
        lr_interval: See :class:`BaseTask`.
        monitor: See :class:`BaseTask`.
        inference: How whole images are covered with windows.
    """

    def __init__(
        self,
        network: Network,
        dataset: dict[str, Any],
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/dice",
        inference: SlidingWindow = SlidingWindow(),
    ) -> None:
        super().__init__(network, dataset, optimizer, lr_scheduler, lr_interval, monitor)
        self.save_hyperparameters()
        self.loss = L2Dice() if loss is None else loss
        self.inference = inference
        self.val_dice = CaseDice(len(self.info.classes))
        self.val_loss = MeanMetric()

    @property
    @override
    def metric_names(self) -> list[str]:
        return ["train/loss", "val/loss", "val/dice", *(f"val/dice_{name}" for name in self._foreground())]

    def logits(self, image: Tensor) -> Tensor:
        """Return the logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        return self.inference(self.network, image, self.info.patch_size)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = deep_supervision_loss(self.network.outputs(batch["image"]), batch["label"], self.loss)
        self.log(
            "train/loss",
            loss,
            prog_bar=True,
            on_epoch=True,
            on_step=False,
            batch_size=len(batch["image"]),
            sync_dist=True,
        )
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``predicted``: the class of each voxel ``(B, *S)``."""
        logits = self.logits(batch["image"])
        counted = sum(map(bool, batch["subject"]))
        self.val_loss.update(self.loss(logits, batch["label"]), weight=float(counted))
        predicted = logits.argmax(1)
        self.val_dice.update(predicted, batch["label"], batch["subject"])
        return {"predicted": predicted}

    @override
    def on_validation_epoch_end(self) -> None:
        scores = self.val_dice.compute().reshape(-1)  # torchmetrics squeezes the score of a single class
        self.log("val/loss", self.val_loss.compute())
        self.log("val/dice", scores.mean(), prog_bar=True)
        self.log_dict({f"val/dice_{name}": score for name, score in zip(self._foreground(), scores, strict=True)})
        if self.val_dice.predicted_foreground == 0:
            rank_zero_warn(
                f"epoch {self.current_epoch}: every voxel of the validation images was predicted as background. If "
                "this goes on, lower the learning rate, raise data.init_args.sampler.init_args.probability, or try "
                "--config dice_ce."
            )
        self.val_dice.reset()
        self.val_loss.reset()

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``predicted``, the class of each voxel ``(B, *S)``, and ``rows``, the scores of each case."""
        predicted = self.logits(batch["image"]).argmax(1)
        result = dice_per_class(predicted, batch["label"], len(self.info.classes))
        rows = [
            {
                "subject": subject,
                "dice": scores[1:].mean().item(),
                **{f"dice_{name}": score.item() for name, score in zip(self._foreground(), scores[1:], strict=True)},
                **{f"voxels_{name}": int(n) for name, n in zip(self._foreground(), truth[1:], strict=True)},
                **{f"predicted_{name}": int(n) for name, n in zip(self._foreground(), found[1:], strict=True)},
            }
            for subject, scores, truth, found in zip(
                batch["subject"], result.scores, result.label_voxels, result.predicted_voxels, strict=True
            )
            if subject
        ]
        return {"predicted": predicted, "rows": rows}

    def _foreground(self) -> list[str]:
        return [name.replace(" ", "_").replace("/", "_") for name in self.info.classes[1:]]
