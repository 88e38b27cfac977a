"""Kinds of activation, interchangeable in every network."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn
from typing_extensions import override


class ActivationKind(ABC):
    """The nonlinearity after a convolution and its normalization."""

    @abstractmethod
    def __call__(self, channels: int) -> nn.Module:
        """Return a module that keeps the shape ``(B, channels, *S)``."""


@dataclass(frozen=True)
class ReLU(ActivationKind):
    """``max(x, 0)``."""

    @override
    def __call__(self, channels: int) -> nn.Module:
        return nn.ReLU()


@dataclass(frozen=True)
class LeakyReLU(ActivationKind):
    """``x`` where positive, ``negative_slope * x`` elsewhere.

    Args:
        negative_slope: Slope below zero.
    """

    negative_slope: float = 0.01

    @override
    def __call__(self, channels: int) -> nn.Module:
        return nn.LeakyReLU(self.negative_slope)


@dataclass(frozen=True)
class PReLU(ActivationKind):
    """``x`` where positive, a learned slope times ``x`` elsewhere; one slope per channel.

    Args:
        init: Slope at the start of training. 0.25 is torch's default, 0 is Keras'.
    """

    init: float = 0.25

    @override
    def __call__(self, channels: int) -> nn.Module:
        return nn.PReLU(channels, self.init)
