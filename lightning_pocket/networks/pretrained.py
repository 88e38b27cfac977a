"""Classifiers that can begin with the weights of a file."""

from __future__ import annotations

from typing import ClassVar

from torch import nn
from typing_extensions import override

from .backbones.weights import WeightsLayout, load_weights
from .base import Classifier


class PretrainedClassifier(Classifier):
    """A classifier whose state dict has the names of torchvision's, so that its ImageNet weights fit.

    A file for another number of classes gives all weights but those of the last layer. A network for grey images takes
    the sum of the first convolution's RGB kernels.

    Attributes:
        first_weight: Name of the first convolution's weights in the state dict.
        last_layer: Name of the last layer.
        weights: The file, read when a training begins anew; None reads nothing.
    """

    first_weight: ClassVar[str]
    last_layer: ClassVar[str]
    weights: str | None = None

    @override
    def load_pretrained(self) -> str:
        if not self.weights:
            return ""
        layout = WeightsLayout("network.weights", self.first_weight, head=f"{self.last_layer}.")
        return load_weights(self, self.weights, layout)


def make_head(channels: int, classes: int, dropout: float) -> nn.Sequential:
    """Return dropout and a linear layer, from ``(B, channels)`` to ``(B, classes)``."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, classes))
