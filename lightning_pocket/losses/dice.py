"""Overlap losses for segmentation.

Both losses compute in float32 whatever the precision of the logits, wait for nothing on the device, and keep the
labels as one byte per class and voxel. A label that is not a class adds to no class: the data checks find it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError


class _RegionLoss(nn.Module):
    """What the losses share: which classes count, with which weight, and which voxels.

    Args:
        include_background: Whether class 0 counts.
        class_weights: Weight of each of the ``K`` classes, background first; ``None`` for equal weights.
        ignore_index: Label of the voxels that contribute nothing.
    """

    class_weights: Tensor | None

    def __init__(self, include_background: bool, class_weights: list[float] | None, ignore_index: int | None) -> None:
        super().__init__()
        if class_weights is not None and (min(class_weights, default=0) < 0 or sum(class_weights) <= 0):
            raise PocketError(f"class_weights: found {class_weights}; give one number >= 0 per class, not all 0.")
        self.include_background = include_background
        self.ignore_index = ignore_index
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def _weights(self, logits_BKS: Tensor, include_background: bool) -> Tensor:
        """Return the weight of each class, ``(K,)`` float32."""
        classes = logits_BKS.shape[1]
        if self.class_weights is None:
            weights_K = torch.ones(classes, device=logits_BKS.device)
        elif len(self.class_weights) == classes:
            weights_K = self.class_weights.to(logits_BKS.device, copy=True)
        else:
            raise PocketError(
                f"class_weights: found {len(self.class_weights)} weights for {classes} classes; "
                "give one per class, background first."
            )
        if not include_background:
            weights_K[0] = 0
        return weights_K

    def _membership(self, logits_BKS: Tensor, label_BS: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return which class each voxel has, ``(B, K, *S)`` bool, and which voxels count, ``(B, 1, *S)`` bool."""
        expected = (logits_BKS.shape[0], *logits_BKS.shape[2:])
        if label_BS.shape != expected:
            raise PocketError(
                f"label: found shape {tuple(label_BS.shape)} for logits of shape {tuple(logits_BKS.shape)}; "
                f"expected {expected}. Resample the label to the size of the logits."
            )
        label_B1S = label_BS.unsqueeze(1)
        classes = torch.arange(logits_BKS.shape[1], device=label_BS.device)
        member_BKS = label_B1S == classes.view(1, -1, *[1] * (label_BS.ndim - 1)).to(label_BS.dtype)
        if self.ignore_index is None:
            return member_BKS, None
        valid_B1S = label_B1S != self.ignore_index
        return member_BKS & valid_B1S, valid_B1S


class L2Dice(_RegionLoss):
    r"""L2-Dice loss of PocketNet.

    With the softmax probability :math:`p` and the one-hot label :math:`t`, over the voxels of one sample and class,

    .. math:: \frac{\sum (t - p)^2}{\sum t^2 + \sum p^2 + \epsilon}

    ``reduction="mean"`` averages this ratio over samples and classes, background included: it is what the authors'
    published code ran. ``reduction="joint"`` reads equation (4) of the paper literally: both sums run over all classes
    and voxels of a sample, which gives one ratio per sample, averaged over samples. The two agree where the classes
    have equal volumes and differ where they do not: for probabilities of 1/4 and classes that fill 97, 2, 1 and 0 % of
    the voxels they are 0.84 and 0.60. So state which one a number used.

    A class that is absent from a sample costs :math:`\sum p^2 / (\sum p^2 + \epsilon)` under ``"mean"``, which is
    close to 1 however small :math:`p` is, unless the sum falls to the order of ``epsilon``. Small patches without
    foreground therefore lift the loss; ``"joint"`` does not have this property.

    Args:
        reduction: ``"mean"`` of the ratios of all classes, or one ratio ``"joint"`` over them.
        epsilon: Keeps the denominator above 0.
        include_background: Whether class 0 counts.
        class_weights: Weight of each of the ``K`` classes, background first. ``"mean"`` takes the weighted mean,
            ``"joint"`` multiplies the terms of both sums. ``None`` for equal weights.
        ignore_index: Label of the voxels that contribute nothing.

    Raises:
        PocketError: If a setting is out of range.

    References:
        Celaya et al., PocketNet, IEEE Transactions on Medical Imaging 2022, equation (4).
    """

    def __init__(
        self,
        reduction: Literal["mean", "joint"] = "mean",
        epsilon: float = 1e-7,
        include_background: bool = True,
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(include_background, class_weights, ignore_index)
        if str(reduction) not in ("mean", "joint"):
            raise PocketError(f"reduction: found {reduction!r}; choose 'mean' or 'joint'.")
        self.reduction = reduction
        self.epsilon = _positive("epsilon", epsilon)

    @override
    def forward(self, logits_BKS: Tensor, label_BS: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits_BKS: ``(B, K, *S)`` scores before softmax.
            label_BS: ``(B, *S)`` integer class of each voxel.

        Returns:
            Scalar, float32, between 0 and 1.

        Raises:
            PocketError: If the shapes, or the number of weights and classes, do not fit.
        """
        member_BKS, valid_B1S = self._membership(logits_BKS, label_BS)
        weights_K = self._weights(logits_BKS, self.include_background)
        probability_BKS = _masked(logits_BKS.float().softmax(dim=1), valid_B1S)
        overlap_BK = _sum_voxels(_masked(probability_BKS, member_BKS))
        total_BK = _sum_voxels(member_BKS) + _sum_voxels(probability_BKS.square())
        # (t - p)^2 = t^2 + p^2 - 2tp: three small sums instead of a float copy of the one-hot label.
        error_BK = total_BK - 2 * overlap_BK
        if self.reduction == "joint":
            error_B, total_B = (error_BK * weights_K).sum(dim=1), (total_BK * weights_K).sum(dim=1)
            return (error_B / (total_B + self.epsilon)).mean()
        return _weighted_mean(error_BK / (total_BK + self.epsilon), weights_K)


class DiceCrossEntropy(_RegionLoss):
    r"""Soft Dice plus cross-entropy.

    The Dice part is :math:`1 - (2 \sum t p + s) / (\sum t + \sum p + s)` per sample and class, then the mean. The
    cross-entropy is the mean over the voxels that count, weighted by ``class_weights``.

    Args:
        dice_weight: Weight of the Dice part.
        cross_entropy_weight: Weight of the cross-entropy.
        smooth: ``s`` above. The Dice part of an absent class is near 1 until the sum of its probabilities is as
            small as ``smooth``.
        include_background: Whether class 0 counts in the Dice part; the cross-entropy always counts it.
        class_weights: Weight of each of the ``K`` classes in both parts, background first.
        ignore_index: Label of the voxels that contribute nothing.

    Raises:
        PocketError: If a setting is out of range.

    References:
        Drozdzal et al. 2016 (soft Dice); Isensee et al., nnU-Net, Nature Methods 2021 (the sum).
    """

    def __init__(
        self,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        smooth: float = 1e-5,
        include_background: bool = True,
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(include_background, class_weights, ignore_index)
        if min(dice_weight, cross_entropy_weight) < 0 or dice_weight + cross_entropy_weight <= 0:
            raise PocketError(
                f"dice_weight, cross_entropy_weight: found {dice_weight}, {cross_entropy_weight}; "
                "give numbers >= 0, at least one of them above 0."
            )
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.smooth = _positive("smooth", smooth)

    @override
    def forward(self, logits_BKS: Tensor, label_BS: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits_BKS: ``(B, K, *S)`` scores before softmax.
            label_BS: ``(B, *S)`` integer class of each voxel.

        Returns:
            Scalar, float32, at least 0.

        Raises:
            PocketError: If the shapes, or the number of weights and classes, do not fit.
        """
        member_BKS, valid_B1S = self._membership(logits_BKS, label_BS)
        log_probability_BKS = logits_BKS.float().log_softmax(dim=1)
        voxels_BK = _sum_voxels(member_BKS)
        weights_K = self._weights(logits_BKS, include_background=True)
        surprise_BK = -_sum_voxels(_masked(log_probability_BKS, member_BKS))
        # Where every voxel is ignored, 0 / tiny gives 0 rather than NaN.
        tiny = torch.finfo(torch.float32).tiny
        cross_entropy = (surprise_BK * weights_K).sum() / (voxels_BK * weights_K).sum().clamp(min=tiny)

        probability_BKS = _masked(log_probability_BKS.exp(), valid_B1S)
        overlap_BK = _sum_voxels(_masked(probability_BKS, member_BKS))
        total_BK = voxels_BK + _sum_voxels(probability_BKS)
        dice_BK = (2 * overlap_BK + self.smooth) / (total_BK + self.smooth)
        dice = _weighted_mean(1 - dice_BK, self._weights(logits_BKS, self.include_background))
        return self.dice_weight * dice + self.cross_entropy_weight * cross_entropy


def _masked(x_BKS: Tensor, mask_BKS: Tensor | None) -> Tensor:
    return x_BKS if mask_BKS is None else torch.where(mask_BKS, x_BKS, 0)


def _sum_voxels(x_BKS: Tensor) -> Tensor:
    return x_BKS.flatten(2).sum(dim=2, dtype=torch.float32)


def _weighted_mean(x_BK: Tensor, weights_K: Tensor) -> Tensor:
    # Not a matrix product: autocast would round it to half precision.
    return (x_BK * (weights_K / weights_K.sum())).sum(dim=1).mean()


def _positive(name: str, value: float) -> float:
    if value <= 0:
        raise PocketError(f"{name}: found {value}; give a number above 0.")
    return value
