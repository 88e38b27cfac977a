"""Kinds of normalization, interchangeable in every network."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn
from typing_extensions import override

from .nd import batch_norm_class, instance_norm_class


class NormKind(ABC):
    """How features are normalized after a convolution."""

    @abstractmethod
    def __call__(self, channels: int, *, spatial_dims: int) -> nn.Module:
        """Return a module that keeps the shape ``(B, channels, *S)``."""


@dataclass(frozen=True)
class BatchNorm(NormKind):
    """Mean and variance of each channel over the batch; running averages in evaluation.

    The defaults are torch's. Keras uses ``eps=1e-3`` and what torch calls ``momentum=0.01``.

    Args:
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running averages.
    """

    eps: float = 1e-5
    momentum: float = 0.1

    @override
    def __call__(self, channels: int, *, spatial_dims: int) -> nn.Module:
        return batch_norm_class(spatial_dims)(channels, eps=self.eps, momentum=self.momentum)


@dataclass(frozen=True)
class InstanceNorm(NormKind):
    """Mean and variance of each channel of each image, in training and in evaluation.

    Args:
        eps: Added to the variance.
        affine: Whether each channel has a learned scale and shift.
    """

    eps: float = 1e-5
    affine: bool = True

    @override
    def __call__(self, channels: int, *, spatial_dims: int) -> nn.Module:
        return instance_norm_class(spatial_dims)(channels, eps=self.eps, affine=self.affine)


@dataclass(frozen=True)
class NoNorm(NormKind):
    """No normalization."""

    @override
    def __call__(self, channels: int, *, spatial_dims: int) -> nn.Module:
        return nn.Identity()
