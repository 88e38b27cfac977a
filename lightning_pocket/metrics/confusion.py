"""The confusion matrix of all voxels of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .dice import voxel_confusion


class SetConfusion(Metric):
    """Counts the voxels of each true and predicted class over all images and processes.

    Args:
        num_classes: Number of classes ``K``.
        ignore_index: Label of the voxels that do not count.

    Raises:
        PocketError: If ``num_classes`` is below 2.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise PocketError(f"num_classes: found {num_classes}; give at least 2.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, predicted_BS: Tensor, label_BS: Tensor, subjects: Sequence[str] | None = None) -> None:
        """Add a batch.

        Args:
            predicted_BS: ``(B, *S)`` integers, predicted class of each voxel.
            label_BS: ``(B, *S)`` integers, true class of each voxel.
            subjects: Case identifier of each item; an item with an empty one is not counted. ``None`` counts all.

        Raises:
            PocketError: If the shapes differ, a value is not a class, or the number of subjects is not ``B``.
        """
        if predicted_BS.shape != label_BS.shape or (subjects is not None and len(subjects) != len(label_BS)):
            raise PocketError(
                f"predicted: found shape {tuple(predicted_BS.shape)} and {subjects and len(subjects)} subjects; "
                f"expected {tuple(label_BS.shape)} as in the label, and one subject per item."
            )
        for item in range(len(label_BS)):
            if subjects is None or subjects[item]:
                found = voxel_confusion(predicted_BS[item], label_BS[item], self.num_classes, self.ignore_index)
                self.counts += found.to(self.counts.device)

    @override
    def compute(self) -> Tensor:
        """Return ``(K, K)`` int64 counts, rows are true classes and columns predicted ones."""
        return self.counts
