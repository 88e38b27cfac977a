"""Dice coefficient of each case and class.

Policy for empty masks: both empty gives 1, only one of them empty gives 0. The voxel counts are returned beside the
scores, so that such cases can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .subject_keys import counted_keys, distinct_keys


class Dice(NamedTuple):
    """Dice of each case and class, with the counts it was made of.

    Attributes:
        scores: ``(B, K)`` float32 in [0, 1].
        predicted_voxels: ``(B, K)`` int64.
        label_voxels: ``(B, K)`` int64.
        overlap: ``(B, K)`` int64, voxels that both masks share.
    """

    scores: Tensor
    predicted_voxels: Tensor
    label_voxels: Tensor
    overlap: Tensor


def dice_per_class(predicted_BS: Tensor, label_BS: Tensor, num_classes: int, ignore_index: int | None = None) -> Dice:
    """Return the Dice coefficient of each case and class.

    Args:
        predicted_BS: ``(B, *S)`` integers, predicted class of each voxel.
        label_BS: ``(B, *S)`` integers, true class of each voxel.
        num_classes: Number of classes ``K``, background included.
        ignore_index: Label of the voxels that do not count.

    Returns:
        Scores and voxel counts, each ``(B, K)``.

    Raises:
        PocketError: If the shapes differ or a value is not a class.
    """
    if predicted_BS.shape != label_BS.shape:
        raise PocketError(
            f"predicted: found shape {tuple(predicted_BS.shape)}; expected {tuple(label_BS.shape)} as in the label."
        )
    confusion = [voxel_confusion(p, t, num_classes, ignore_index) for p, t in zip(predicted_BS, label_BS, strict=True)]
    confusion_BKK = torch.stack(confusion)
    overlap_BK = confusion_BKK.diagonal(dim1=1, dim2=2)
    return _dice(confusion_BKK.sum(dim=1), confusion_BKK.sum(dim=2), overlap_BK)


class CaseDice(Metric):
    """Dice coefficient of each foreground class, averaged over cases.

    Counts of items with the same subject are added before the Dice is taken. So patches of one case make one case,
    and a case that a distributed sampler repeats to even out the processes is not counted twice.

    Args:
        num_classes: Number of classes ``K``, background included.
        ignore_index: Label of the voxels that do not count.

    Attributes:
        predicted_foreground: Predicted foreground voxels of all cases and processes, a scalar set by
            :meth:`compute`; 0 tells that the predictions collapsed to background.

    Raises:
        PocketError: If ``num_classes`` is below 2.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    subject: list[Tensor]
    predicted_voxels: list[Tensor]
    label_voxels: list[Tensor]
    overlap: list[Tensor]
    predicted_foreground: Tensor | None

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise PocketError(f"num_classes: found {num_classes}; give at least 2, background included.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.predicted_foreground = None
        for state in ("subject", "predicted_voxels", "label_voxels", "overlap"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @override
    def update(self, predicted_BS: Tensor, label_BS: Tensor, subjects: Sequence[str] | None = None) -> None:
        """Add a batch.

        Args:
            predicted_BS: ``(B, *S)`` integers, predicted class of each voxel.
            label_BS: ``(B, *S)`` integers, true class of each voxel.
            subjects: Case identifier of each item; an item with an empty one is not counted. ``None`` makes each
                item a case of its own.

        Raises:
            PocketError: If the shapes differ, a value is not a class, or the number of subjects is not ``B``.
        """
        counted, key_N = counted_keys(subjects, len(label_BS))
        dice = dice_per_class(predicted_BS, label_BS, self.num_classes, self.ignore_index)
        self.subject.append(key_N.to(label_BS.device))
        self.predicted_voxels.append(dice.predicted_voxels[counted])
        self.label_voxels.append(dice.label_voxels[counted])
        self.overlap.append(dice.overlap[counted])

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Join the processes; one that has seen no case joins with empty states of the right shape."""
        if len(self.subject) == 0:
            counts = torch.zeros(0, self.num_classes, dtype=torch.int64, device=self.device)
            self.subject.append(counts.new_zeros(0))
            for state in (self.predicted_voxels, self.label_voxels, self.overlap):
                state.append(counts)
        super().sync(*args, **kwargs)

    @override
    def compute(self) -> Tensor:
        """Return the mean over cases of each foreground class.

        Returns:
            ``(K - 1,)`` float32, which torchmetrics squeezes to a scalar for two classes; NaN where there was no case.
        """
        cases, case_N = torch.unique(distinct_keys(dim_zero_cat(self.subject)), return_inverse=True)

        def add(counts: list[Tensor]) -> Tensor:
            counts_NK = dim_zero_cat(counts)
            return counts_NK.new_zeros(len(cases), self.num_classes).index_add(0, case_N, counts_NK)

        predicted_NK = add(self.predicted_voxels)
        self.predicted_foreground = predicted_NK[:, 1:].sum()
        return _dice(predicted_NK, add(self.label_voxels), add(self.overlap)).scores[:, 1:].mean(dim=0)


def voxel_confusion(predicted_S: Tensor, label_S: Tensor, num_classes: int, ignore_index: int | None = None) -> Tensor:
    """Return ``(K, K)`` voxel counts, int64; rows are true classes and columns predicted ones.

    Args:
        predicted_S: ``(*S)`` integers, predicted class of each voxel.
        label_S: ``(*S)`` integers, true class of each voxel.
        num_classes: Number of classes ``K``, background included.
        ignore_index: Label of the voxels that do not count.

    Raises:
        PocketError: If a value is not a class.
    """
    if ignore_index is not None:
        counted_S = label_S != ignore_index
        predicted_S, label_S = predicted_S[counted_S], label_S[counted_S]
    for name, values in (("predicted", predicted_S), ("label", label_S)):
        low, high = (int(x) for x in torch.aminmax(values)) if values.numel() else (0, 0)
        if low < 0 or high >= num_classes:
            raise PocketError(f"{name}: found values from {low} to {high}; expected classes 0 to {num_classes - 1}.")
    # int32 halves the memory of the largest temporary and cannot overflow: K * K is small.
    pair_V = label_S.flatten().to(torch.int32) * num_classes + predicted_S.flatten()
    return pair_V.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def _dice(predicted_NK: Tensor, label_NK: Tensor, overlap_NK: Tensor) -> Dice:
    total_NK = predicted_NK + label_NK
    scores_NK = torch.where(total_NK == 0, 1.0, 2 * overlap_NK / total_NK.clamp(min=1))
    return Dice(scores_NK.float(), predicted_NK, label_NK, overlap_NK)
