"""Tell the class of an image."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.losses import ClassCrossEntropy
from lightning_pocket.metrics import GatheredLogits, column_name, score_classes, top_error
from lightning_pocket.networks.base import Classifier
from lightning_pocket.types import ImageBatch

from .base import IMAGE_SIZE, BaseTask, OptimizerCallable, SchedulerCallable

log = logging.getLogger(__name__)

#: Scores of a validation, beside the loss.
_VALIDATED = ("auc", "accuracy")
#: Guesses of the errors that a test counts, where there are more classes than that.
_GUESSES = (1, 5)


class ClassificationTask(BaseTask):
    """Classification of whole images; of two classes the second is the positive one.

    Scores are those of ``metrics.score_classes``, and the validation loss is that of all images at once: none of them
    depends on how the images are divided into batches and processes.

    A test also counts how often the true class is not the most probable one (``test/top1_error``), and of six classes
    or more, not among the five most probable ones (``test/top5_error``). Where the data give ten crops of each image,
    all scores are those of the first crop; ``test/top1_error_10crop`` and ``test/top5_error_10crop`` are those of the
    mean probability of all.

    Args:
        network: Maps images ``(B, C, *S)`` to logits ``(B, K)``.
        dataset: See :class:`BaseTask`.
        loss: Maps logits ``(B, K)`` and classes ``(B,)`` to a scalar; null is :class:`ClassCrossEntropy`.
        optimizer: See :class:`BaseTask`.
        lr_scheduler: See :class:`BaseTask`.
        lr_interval: See :class:`BaseTask`.
        monitor: See :class:`BaseTask`.
        channels_last: See :class:`BaseTask`.
        compile: See :class:`BaseTask`.
        keep_memory: See :class:`BaseTask`.

    Raises:
        PocketError: If the network labels voxels, or there are not two classes whose names tell them apart.
    """

    score: ClassVar[str] = "val/accuracy"
    size_key: str = IMAGE_SIZE

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        network: Classifier,
        dataset: dict[str, Any],
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/auc",
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 (a key of the config)
        keep_memory: bool = False,
    ) -> None:
        if "masks" in (dataset.get("preprocessing") or {}):
            raise PocketError(
                "data.init_args.cache: its images have masks rather than classes. Take --config segment_images, or "
                "prepare a data set of images of known class."
            )
        how = {"channels_last": channels_last, "compile": compile, "keep_memory": keep_memory}
        super().__init__(network, dataset, optimizer, lr_scheduler, lr_interval, monitor, **how)
        self.save_hyperparameters()
        self.columns = [column_name(name) for name in self.info.classes]
        if len(set(self.columns)) < max(2, len(self.columns)):
            raise PocketError(
                f"the classes of the data are {', '.join(self.info.classes) or 'none'}; expected at least two, whose "
                "names differ by more than spaces and slashes."
            )
        self.loss = ClassCrossEntropy() if loss is None else loss
        self.val_logits = GatheredLogits(len(self.columns))
        self.test_logits = GatheredLogits(len(self.columns))
        self.crop_logits = GatheredLogits(len(self.columns))
        self._crops = 1
        self._warned = False

    @property
    @override
    def metric_names(self) -> list[str]:
        return ["train/loss", "val/loss", *(f"val/{name}" for name in _VALIDATED)]

    @override
    def training_loss(self, batch: ImageBatch) -> Tensor:
        loss: Tensor = self.loss(self.runner(batch["image"]), batch["target"])
        return loss

    @override
    def validation_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Any]:
        """Return ``logits`` ``(B, K)``."""
        logits = self.runner(batch["image"])
        self.val_logits.update(logits, batch["target"], batch["subject"])
        return {"logits": logits}

    @override
    def on_validation_epoch_end(self) -> None:
        logits, target = self._gathered(self.val_logits)
        scores = self._score(logits, target, "validation")
        self.log("val/loss", self.loss(logits, target))
        for name in _VALIDATED:
            self.log(f"val/{name}", scores[name], prog_bar=True)

    @override
    def test_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Any]:
        """Return ``rows``: subject, true and predicted class, and the probability of each class, of each image."""
        logits = self._first_crop(batch)
        self.test_logits.update(logits, batch["target"], batch["subject"])
        probabilities = _softmax(logits)
        cases = zip(batch["subject"], batch["target"].tolist(), probabilities.tolist(), strict=True)
        rows = [
            {
                "subject": subject,
                "target": self.columns[target],
                "predicted": self.columns[probability.index(max(probability))],
                **{f"prob_{name}": value for name, value in zip(self.columns, probability, strict=True)},
            }
            for subject, target, probability in cases
            if subject
        ]
        return {"rows": rows}

    @override
    def on_test_epoch_end(self) -> None:
        logits, target = self._gathered(self.test_logits)
        scores = self._score(logits, target, "test") | _top_errors(logits, target, "")
        if self._crops > 1:
            scores |= _top_errors(*self._gathered(self.crop_logits), f"_{self._crops}crop")
        self.log_dict({f"test/{name}": score for name, score in scores.items()})

    def _first_crop(self, batch: ImageBatch) -> Tensor:
        """Return logits ``(B, K)`` of the images or their first crops; keep the mean probability of several crops."""
        images = batch["image"]
        if images.ndim == 2 + self.network.spatial_dims:
            self._crops = 1
            return self.runner(images)
        self._crops = images.shape[1]
        logits = self.runner(images.flatten(0, 1)).reshape(*images.shape[:2], -1)
        mean = logits.detach().double().softmax(dim=2).mean(dim=1)
        # The logarithm of probabilities is a set of logits for them.
        self.crop_logits.update(mean.log(), batch["target"], batch["subject"])
        return logits[:, 0]

    def _gathered(self, metric: GatheredLogits) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, K)`` and classes ``(N,)`` of all images, and forget them."""
        cases = metric.compute()
        metric.reset()
        return cases["logits"], cases["target"].reshape(-1)  # torchmetrics squeezes the class of a single image

    def _score(self, logits: Tensor, target: Tensor, split: str) -> dict[str, float]:
        classes = target.cpu().numpy()
        scores = score_classes(_softmax(logits).numpy(), classes, self.info.classes)
        absent = [name for index, name in enumerate(self.info.classes) if not (classes == index).any()]
        if absent and not self._warned and self.global_rank == 0:
            log.warning(
                "none of the %d %s images is of class %s: %s. Divide the images otherwise, or watch val/loss.",
                len(classes),
                split,
                ", ".join(absent),
                "the AUC is not defined" if scores["auc"] != scores["auc"] else "means leave out what is not defined",
            )
            self._warned = True
        return scores


def _top_errors(logits: Tensor, target: Tensor, ending: str) -> dict[str, float]:
    probability, classes = _softmax(logits).numpy(), target.cpu().numpy()
    return {f"top{k}_error{ending}": top_error(probability, classes, k) for k in _GUESSES if k < probability.shape[1]}


def _softmax(logits: Tensor) -> Tensor:
    """Return probabilities on the CPU, in double precision: sure predictions would be ties in single precision."""
    return logits.detach().cpu().double().softmax(dim=1)
