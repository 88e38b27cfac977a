"""What training minimises: functions of logits ``(B, K, *S)`` and integer labels ``(B, *S)``."""

from .deep_supervision import deep_supervision_loss, downsample_label
from .dice import DiceCrossEntropy, L2Dice

__all__ = ["DiceCrossEntropy", "L2Dice", "deep_supervision_loss", "downsample_label"]
