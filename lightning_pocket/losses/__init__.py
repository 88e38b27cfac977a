"""What training minimises: functions of logits and integer labels.

``(B, K, *S)`` and ``(B, *S)`` where each voxel has a class, ``(B, K)`` and ``(B,)`` where each image has one.
"""

from .cross_entropy import ClassCrossEntropy
from .deep_supervision import deep_supervision_loss, downsample_label
from .dice import DiceCrossEntropy, L2Dice
from .distillation import hint_loss, similarity_loss, soft_target_loss

__all__ = [
    "ClassCrossEntropy",
    "DiceCrossEntropy",
    "L2Dice",
    "deep_supervision_loss",
    "downsample_label",
    "hint_loss",
    "similarity_loss",
    "soft_target_loss",
]
