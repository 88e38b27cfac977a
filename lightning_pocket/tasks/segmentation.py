"""Label every voxel."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.inference import SlidingWindow, check_names, remove_islands, segment
from lightning_pocket.losses import L2Dice, deep_supervision_loss
from lightning_pocket.metrics import CaseDice, OverlapScores, SetConfusion, column_name, overlap_scores, score_case
from lightning_pocket.networks.base import Classifier, Network
from lightning_pocket.types import Batch, CaseBatch, Original

from .base import DISTILLED, BaseTask, OptimizerCallable, SchedulerCallable
from .distillation import Distillation
from .nothing_predicted import NothingPredicted

log = logging.getLogger(__name__)


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
        channels_last: See :class:`BaseTask`.
        compile: See :class:`BaseTask`.
        keep_memory: See :class:`BaseTask`.
        distillation: See :class:`BaseTask`.
        inference: How whole images are covered with windows.
        largest_component: Keep only the largest connected component of each class when testing and predicting, or of
            the classes that are named; ``foreground`` is all of them together. `pocket postprocess` chooses.
        tolerance_mm: Distance in mm up to which surfaces agree, for the surface Dice of a test.
        mean_iou: Score all images together too, the first class included: mean IoU, recall and precision over the
            classes, see ``metrics.overlap_scores``. The mean IoU is then what networks are judged by.
        surface: Measure surfaces in a test; of large images with many classes that takes long.

    Attributes:
        class_confusion: ``(K, K)`` int64, true classes by predicted ones, of the last test with ``mean_iou``.

    Raises:
        PocketError: If the network classifies whole images, or the data has voxels that do not count and the loss would
            count them.
    """

    score: str = "val/dice"

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        network: Network,
        dataset: dict[str, Any],
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/dice",
        inference: SlidingWindow = SlidingWindow(),
        largest_component: bool | list[str] = False,
        tolerance_mm: float = 1.0,
        mean_iou: bool = False,
        surface: bool = True,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 (a key of the config)
        keep_memory: bool = False,
        distillation: Distillation | None = None,
    ) -> None:
        if isinstance(network, Classifier):
            raise PocketError(
                f"model.init_args.network: {type(network).__name__} classifies whole images; expected a network that "
                "labels voxels, such as UNet. To classify, take --config classify_images."
            )
        how: dict[str, Any] = {"channels_last": channels_last, "compile": compile, "keep_memory": keep_memory}
        how["distillation"] = distillation
        _check_masks(dataset)
        super().__init__(network, dataset, optimizer, lr_scheduler, lr_interval, monitor, **how)
        self.save_hyperparameters()
        self.loss = L2Dice(ignore_index=self.info.ignore_index) if loss is None else loss
        _check_ignored(self.loss, self.info.ignore_index)
        self.inference = inference
        check_names(largest_component, self.info.classes)
        self.largest_component = largest_component
        self.tolerance_mm = tolerance_mm
        self.val_dice = CaseDice(len(self.info.classes), self.info.ignore_index)
        self.val_loss = MeanMetric()
        self.surface = surface
        self.mean_iou = mean_iou
        self.class_confusion: np.ndarray | None = None
        if mean_iou:
            self.score = "val/miou"
            self.val_confusion = SetConfusion(len(self.info.classes), self.info.ignore_index)
            self.test_confusion = SetConfusion(len(self.info.classes), self.info.ignore_index)
        self._nothing = NothingPredicted()

    @property
    @override
    def metric_names(self) -> list[str]:
        names = [] if self.distillation is None else [DISTILLED]
        names += ["train/loss", "val/loss", "val/dice", *(f"val/dice_{name}" for name in self._foreground())]
        if self.mean_iou:
            names += [f"val/{name}" for name in ("miou", "mean_recall", "mean_precision", "pixel_accuracy")]
            names += [f"val/iou_{column_name(name)}" for name in self.info.classes]
        return names

    def logits(self, image: Tensor) -> Tensor:
        """Return the logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        return self.inference(self.runner, image, self.info.patch_size)

    @override
    def training_loss(self, batch: Batch) -> Tensor:
        outputs = self.runner.outputs(batch["image"])
        loss = deep_supervision_loss(outputs, batch["label"], self.loss)
        ignored = self.info.ignore_index
        counted = None if ignored is None else batch["label"] != ignored
        return self.with_teacher(loss, outputs[0], batch, counted)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``predicted``: the class of each voxel ``(B, *S)``."""
        logits = self.logits(batch["image"])
        counted = sum(map(bool, batch["subject"]))
        self.val_loss.update(self.loss(logits, batch["label"]), weight=float(counted))
        predicted = logits.argmax(1)
        self.val_dice.update(predicted, batch["label"], batch["subject"])
        if self.mean_iou:
            self.val_confusion.update(predicted, batch["label"], batch["subject"])
        return {"predicted": predicted}

    @override
    def on_validation_epoch_end(self) -> None:
        scores = self.val_dice.compute().reshape(-1)  # torchmetrics squeezes the score of a single class
        self.log("val/loss", self.val_loss.compute())
        self.log("val/dice", scores.mean(), prog_bar=True)
        self.log_dict({f"val/dice_{name}": score for name, score in zip(self._foreground(), scores, strict=True)})
        if self.mean_iou:
            self._log_overlap(self.val_confusion, "val")
        if not self.trainer.sanity_checking:
            self._nothing.add(bool(self.val_dice.predicted_foreground == 0), self.current_epoch)
        if self._nothing.is_lasting:
            self._say_nothing()
        self.val_dice.reset()
        self.val_loss.reset()

    @override
    def on_validation_end(self) -> None:
        if self.trainer.state.fn == TrainerFn.VALIDATING:  # there will be no other
            self._say_nothing()

    @override
    def on_train_end(self) -> None:
        self._say_nothing()

    def _say_nothing(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        advice = self._nothing.advice(self.loss, getattr(data, "sampler", None))
        if advice and self.global_rank == 0:
            log.warning(advice)

    @override
    def test_step(self, batch: CaseBatch, batch_idx: int) -> dict[str, Any]:
        """Return ``predicted``, the class of each voxel ``(B, *S)``, and ``rows``, the scores of each case.

        Scores are those of the original images' own grid: the prediction is brought back to it.
        """
        found = [segment(self.runner, image, self.info.patch_size, self.inference) for image in batch["image"]]
        maps = [remove_islands(label, self.largest_component, self.info.classes) for label in found]
        rows = [
            {"subject": subject, **self._score(label, original)}
            for subject, label, original in zip(batch["subject"], maps, batch["original"], strict=True)
            if subject
        ]
        return {"predicted": torch.from_numpy(np.stack(maps)), "rows": rows}

    @override
    def on_test_epoch_end(self) -> None:
        if self.mean_iou:
            self.class_confusion = self._log_overlap(self.test_confusion, "test")

    def _log_overlap(self, metric: SetConfusion, split: str) -> np.ndarray:
        """Log the scores of all images together, forget them, and return their confusion matrix."""
        confusion: np.ndarray = metric.compute().cpu().numpy()
        metric.reset()
        scores: OverlapScores = overlap_scores(confusion)
        named = scores.means() | scores.of_classes(self.info.classes)
        self.log_dict({f"{split}/{name}": value for name, value in named.items()})
        return confusion

    def _score(self, label: np.ndarray, original: Original) -> dict[str, float | int]:
        predicted, truth = original.restore(label), original.label()
        if self.mean_iou:
            self.test_confusion.update(torch.tensor(predicted)[None], torch.tensor(truth)[None])
        return score_case(
            predicted,
            truth,
            self.info.classes,
            original.spacing,
            self.tolerance_mm,
            self.info.ignore_index,
            self.surface,
            regions=self.info.regions,
        )

    def _foreground(self) -> list[str]:
        return [column_name(name) for name in self.info.classes[1:]]


def _check_masks(dataset: dict[str, Any]) -> None:
    preprocessing = dataset.get("preprocessing") or {}
    if preprocessing.get("kind") == "images" and "masks" not in preprocessing:
        raise PocketError(
            "data.init_args.cache: its images are of known class and have no masks. Prepare a data set with masks, or "
            "classify with --config classify_images."
        )


def _check_ignored(loss: nn.Module, ignore_index: int | None) -> None:
    found = getattr(loss, "ignore_index", None)
    if ignore_index is not None and found != ignore_index:
        raise PocketError(
            f"model.init_args.loss.init_args.ignore_index: is {found}, but the data has voxels with the label "
            f"{ignore_index} that do not count. Set it to {ignore_index}, as --config ignore_label does."
        )
