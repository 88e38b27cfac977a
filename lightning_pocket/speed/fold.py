"""A copy of a network for evaluation, with batch norms in the convolutions before them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from typing_extensions import override

_CONVS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)


def folded(network: nn.Module) -> nn.Module:
    """Return a copy of a network for evaluation, in which fewer passes over the voxels give the same result.

    In evaluation a batch norm multiplies and shifts each channel by constants, and so can the convolution before it.
    Blocks that can tell one layer that does the same, by a method ``fused``, are replaced by it.
    Activations right behind overwrite what they are given instead of asking for new memory. On CPUs all 3D convolutions
    are oneDNN's, see :class:`OneDnnConv3d`.

    Args:
        network: In evaluation mode; it is not changed.

    Returns:
        A network with the same outputs within rounding.
    """
    copied = copy.deepcopy(network).eval()
    for name, module in list(copied.named_modules()):
        if name and callable(getattr(module, "fused", None)):  # such as asymmetric blocks
            copied.set_submodule(name, module.fused())
    for sequence in [module for module in copied.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            _fold(sequence, index)
    for module in copied.modules():
        if type(module) is nn.Conv3d and module.padding_mode == "zeros":
            module.__class__ = OneDnnConv3d
    return copied


class OneDnnConv3d(nn.Conv3d):
    """A convolution that uses oneDNN on CPUs, whatever the size of its input.

    For a single window and few voxels, torch takes code of its own, which is up to twice as slow.
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        if isinstance(self.padding, str) or not _has_onednn():
            return super().forward(input)
        return torch.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _fold(sequence: nn.Sequential, index: int) -> None:
    """Fold the module that follows ``index`` into it, where the two are a convolution and a batch norm."""
    norm = sequence[index + 1]
    if not isinstance(norm, _NORMS) or norm.running_mean is None:
        return
    holder, key = _last(sequence, index)
    conv: Any = holder[key]
    if isinstance(conv, _CONVS):
        holder[key] = fuse_conv_bn_eval(conv, norm)
    elif hasattr(conv, "with_norm"):  # layers of reduced networks know how
        holder[key] = conv.with_norm(norm)
    else:
        return
    sequence[index + 1] = nn.Identity()
    following = sequence[index + 2] if index + 2 < len(sequence) else None
    if isinstance(following, _ACTIVATIONS):
        following.inplace = True  # nothing else refers to what the convolution returned


def _last(sequence: nn.Sequential, index: int) -> tuple[nn.Sequential, int]:
    """Return where the last layer of an entry is: kinds of convolution may be made of several."""
    entry = sequence[index]
    while isinstance(entry, nn.Sequential) and len(entry):
        sequence, index = entry, len(entry) - 1
        entry = sequence[index]
    return sequence, index
