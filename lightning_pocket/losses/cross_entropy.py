"""Cross-entropy for images of one class each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError


class ClassCrossEntropy(nn.Module):
    r"""Categorical cross-entropy of whole images, computed in float32 whatever the precision of the logits.

    With the softmax probability :math:`p` of the true class and its weight :math:`w`, the loss of a batch is
    :math:`-\sum w \log p / \sum w`. So a class of weight 3 counts like three times as many images of it.

    Args:
        class_weights: Weight of each of the ``K`` classes; ``None`` for equal weights.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1) (Szegedy et al., CVPR
            2016). Each class then keeps its own weight, as in ``torch.nn.CrossEntropyLoss``.

    Raises:
        PocketError: If a setting is out of range.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if class_weights is not None and not (_usable(class_weights) and sum(class_weights) > 0):
            raise PocketError(f"class_weights: found {class_weights}; give one number >= 0 per class, not all 0.")
        if not 0 <= label_smoothing < 1:
            raise PocketError(f"label_smoothing: found {label_smoothing}; give a share in [0, 1).")
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    @override
    def forward(self, logits_BK: Tensor, target_B: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits_BK: ``(B, K)`` scores before softmax.
            target_B: ``(B,)`` integer class of each image.

        Returns:
            Scalar, float32, at least 0; NaN where the weights of all images are 0.

        Raises:
            PocketError: If the shapes, or the number of weights and classes, do not fit.
        """
        if logits_BK.ndim != 2 or target_B.shape != logits_BK.shape[:1]:
            raise PocketError(
                f"target: found shape {tuple(target_B.shape)} for logits of shape {tuple(logits_BK.shape)}; expected "
                "(B,) and (B, K). Use a network that classifies whole images."
            )
        classes = logits_BK.shape[1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise PocketError(
                f"class_weights: found {len(self.class_weights)} weights for {classes} classes; give one per class."
            )
        weights_K = None if self.class_weights is None else self.class_weights.to(logits_BK.device)
        return F.cross_entropy(logits_BK.float(), target_B.long(), weights_K, label_smoothing=self.label_smoothing)


def _usable(weights: list[float]) -> bool:
    return all(math.isfinite(weight) and weight >= 0 for weight in weights)
