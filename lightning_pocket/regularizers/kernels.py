"""Where the kernels of a convolution are in its weights, and how often they appear."""

from __future__ import annotations

from torch import Tensor, nn

#: Convolutions whose kernels can be regularized.
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def to_kernels(conv: Convolution, values: Tensor) -> Tensor:
    """Arrange what has the shape of a convolution's weights by kernels.

    Kernel ``j`` is all that makes output channel ``j``. The weights of a transposed convolution have the input channels
    first.

    Args:
        conv: The convolution.
        values: ``(O, I / groups, *K)``; ``(I, O / groups, *K)`` of a transposed convolution.

    Returns:
        ``(O, I / groups, *K)``, a view where that is possible.
    """
    if not isinstance(conv, _TRANSPOSED):
        return values
    return values.reshape(conv.groups, -1, *values.shape[1:]).transpose(1, 2).flatten(0, 1)


def from_kernels(conv: Convolution, kernels: Tensor) -> Tensor:
    """Return values arranged by kernels in the arrangement of the weights.

    Args:
        conv: The convolution.
        kernels: ``(O, I / groups, *K)``, or 1 instead of any size but the first.

    Returns:
        What can be broadcast to the weights.
    """
    if not isinstance(conv, _TRANSPOSED):
        return kernels
    grouped = kernels.reshape(conv.groups, -1, *kernels.shape[1:]).transpose(
        1, 2
    )  # (groups, I / groups or 1, O / groups, *K)
    if conv.groups == 1:
        return grouped[0]
    return grouped.expand(-1, conv.in_channels // conv.groups, *grouped.shape[2:]).flatten(0, 1)


def kernel_shape(conv: Convolution) -> tuple[int, ...]:
    """Return ``(O, I / groups, *K)``."""
    return (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
