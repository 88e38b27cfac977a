"""What the modules and functions of torch do to channels, and which of them can be reduced exactly.

Operations, with C the channels of the result:

========================================== =============================================================
``conv``, ``conv_transpose``, ``linear``   each kernel reads the channels of its group
``batch_norm``, ``instance_norm``          each channel by itself, with numbers of its own
``prelu``                                  the same
``activation``, ``scale``, ``dropout``     each number by itself
``max_pool``, ``average_pool``             each channel by itself, voxels of a window
``adaptive_pool``, ``reduce``              each channel by itself, all voxels
``upsample``, ``resize_like``              each channel by itself, interpolated
``expand_like``                            one value per channel, at all voxels of another result
``flatten``                                spatial axes joined, with or without the channels
``zeros``                                  0, in the size of another result
``extend``                                 channels of zeros behind those of a result
``take``                                   some channels of a result, or all in another order
``add``, ``concat``                        several results
========================================== =============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .activations import NAMES, settings_of
from .graph import Node

#: Operations whose result has the shape of their input.
SAME_SHAPE = ("batch_norm", "instance_norm", "prelu", "activation", "scale", "dropout")

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = {
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), "max"),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), "mean"),
}
_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_CONVOLUTION_MODES = ("zeros", "reflect", "replicate", "circular")


class CannotReduceError(Exception):
    """An operation of which nobody knows what it does to channels; the message says what it is."""


@dataclass
class Reading:
    """An operation without its name and shape; see :class:`.graph.Node`."""

    op: str
    inputs: tuple[Node, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def read_module(module: nn.Module, source: Node) -> Reading | Node:
    """Return what a layer of torch does.

    Args:
        module: The layer.
        source: Its input.

    Returns:
        The operation, or ``source`` where nothing is done in evaluation or in training.

    Raises:
        CannotReduceError: If it cannot be reduced exactly.
    """
    if isinstance(module, nn.Identity):
        return source
    for kinds, reader in _READERS:
        if isinstance(module, kinds):
            return reader(module, source)
    raise CannotReduceError(f"{type(module).__name__} (it mixes channels, or is not known)")


def pairs(padding: Any, dims: int) -> list[list[int]]:
    """Return ``[before, after]`` for each axis."""
    return [[side, side] for side in per_axis(padding, dims)]


def per_axis(value: Any, dims: int) -> list[int]:
    """Return one number for each axis."""
    return [int(value)] * dims if isinstance(value, int) else [int(entry) for entry in value]


def _named(module: nn.Module, *names: str) -> dict[str, Tensor]:
    found = {name: getattr(module, name, None) for name in names}
    return {name: tensor.detach() for name, tensor in found.items() if tensor is not None}


def _conv(module: Any, source: Node) -> Reading:
    dims = len(module.kernel_size)
    if module.padding == "valid":
        padding = pairs(0, dims)
    elif module.padding == "same":
        around = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
        padding = [[total // 2, total - total // 2] for total in around]
    else:
        padding = pairs(module.padding, dims)
    if module.padding_mode not in _CONVOLUTION_MODES:
        raise CannotReduceError(f"{type(module).__name__} with padding_mode {module.padding_mode!r}")
    settings = {
        "stride": list(module.stride),
        "dilation": list(module.dilation),
        "padding": padding,
        "mode": module.padding_mode,
        "groups": module.groups,
    }
    return Reading("conv", (source,), settings, _named(module, "weight", "bias"))


def _transposed(module: Any, source: Node) -> Reading:
    settings = {
        "stride": list(module.stride),
        "dilation": list(module.dilation),
        "padding": pairs(module.padding, len(module.kernel_size)),
        "output_padding": list(module.output_padding),
        "groups": module.groups,
    }
    return Reading("conv_transpose", (source,), settings, _named(module, "weight", "bias"))


def _linear(module: Any, source: Node) -> Reading:
    if len(source.shape) != 2:
        raise CannotReduceError(f"Linear on a tensor of {len(source.shape)} axes; expected (B, C)")
    return Reading("linear", (source,), {}, _named(module, "weight", "bias"))


def _batch_norm(module: Any, source: Node) -> Reading:
    if not module.track_running_stats:
        raise CannotReduceError(f"{type(module).__name__} without running statistics")
    settings = {"eps": module.eps, "momentum": module.momentum}
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return Reading("batch_norm", (source,), settings, _named(module, *names))


def _instance_norm(module: Any, source: Node) -> Reading:
    if module.track_running_stats:
        raise CannotReduceError(f"{type(module).__name__} with running statistics")
    return Reading("instance_norm", (source,), {"eps": module.eps}, _named(module, "weight", "bias"))


def _prelu(module: Any, source: Node) -> Reading:
    return Reading("prelu", (source,), {}, _named(module, "weight"))


def _activation(module: Any, source: Node) -> Reading:
    return Reading("activation", (source,), {"kind": NAMES[type(module)], "arguments": settings_of(module)})


def _dropout(module: Any, source: Node) -> Reading:
    return Reading("dropout", (source,), {"p": module.p, "channels": isinstance(module, _DROPOUTS)})


def max_pool(source: Node, *, size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Reading:
    """Return max pooling; the arguments are torch's, each a number or one per axis."""
    dims = len(source.shape) - 2
    settings = {
        "kernel": per_axis(size, dims),
        "stride": per_axis(size if stride is None else stride, dims),
        "padding": per_axis(padding, dims),
        "dilation": per_axis(dilation, dims),
        "ceil_mode": bool(ceil_mode),
    }
    return Reading("max_pool", (source,), settings)


def average_pool(
    source: Node, *, size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool
) -> Reading:
    """Return average pooling; the arguments are torch's, each a number or one per axis."""
    dims = len(source.shape) - 2
    settings = {
        "kernel": per_axis(size, dims),
        "stride": per_axis(size if stride is None else stride, dims),
        "padding": per_axis(padding, dims),
        "ceil_mode": bool(ceil_mode),
        "count_include_pad": bool(count_include_pad),
    }
    return Reading("average_pool", (source,), settings)


def adaptive_pool(source: Node, how: str, size: Any) -> Reading:
    """Return pooling to a given size, ``how`` being ``max`` or ``mean``."""
    dims = len(source.shape) - 2
    sizes = [size] * dims if size is None or isinstance(size, int) else list(size)
    return Reading("adaptive_pool", (source,), {"how": how, "size": sizes})


def upsample(source: Node, *, scale: Any, mode: str, align_corners: bool | None) -> Reading:
    """Return interpolation by a factor, one number or one per axis."""
    dims = len(source.shape) - 2
    factors = [float(scale)] * dims if isinstance(scale, int | float) else [float(entry) for entry in scale]
    return Reading("upsample", (source,), {"scale": factors, "mode": mode, "align_corners": align_corners})


def flatten(source: Node, start: int, end: int = -1) -> Reading:
    """Return the joining of axes from ``start`` to ``end``."""
    last = len(source.shape) - 1
    if start not in (1, 2) or end % (last + 1) != last:
        raise CannotReduceError(f"flatten from axis {start} to {end}; expected from 1 or 2 to the last")
    return Reading("flatten", (source,), {"start": start})


def shuffle(source: Node, groups: int) -> Reading:
    """Return the interleaving of the channels of some groups."""
    per_group = source.channels // groups
    return take(source, [member + group * per_group for member in range(per_group) for group in range(groups)])


def take(source: Node, channels: Sequence[int]) -> Reading:
    """Return some channels of a result, each at most once."""
    return Reading("take", (source,), {"channels": list(channels)})


def _max_pool(module: Any, source: Node) -> Reading:
    if module.return_indices:
        raise CannotReduceError(f"{type(module).__name__} with return_indices")
    return max_pool(
        source,
        size=module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        ceil_mode=module.ceil_mode,
    )


def _average_pool(module: Any, source: Node) -> Reading:
    if getattr(module, "divisor_override", None) is not None:
        raise CannotReduceError(f"{type(module).__name__} with divisor_override")
    dims = len(source.shape) - 2
    return average_pool(
        source,
        size=per_axis(module.kernel_size, dims),
        stride=module.stride,
        padding=module.padding,
        ceil_mode=module.ceil_mode,
        count_include_pad=module.count_include_pad,
    )


def _adaptive_pool(module: Any, source: Node) -> Reading:
    if getattr(module, "return_indices", False):
        raise CannotReduceError(f"{type(module).__name__} with return_indices")
    return adaptive_pool(source, _ADAPTIVE[type(module)], module.output_size)


def _upsample(module: Any, source: Node) -> Reading:
    if module.scale_factor is None or module.recompute_scale_factor:
        raise CannotReduceError("Upsample to a fixed size; expected a scale_factor")
    return upsample(source, scale=module.scale_factor, mode=module.mode, align_corners=module.align_corners)


def _flatten(module: Any, source: Node) -> Reading:
    return flatten(source, module.start_dim, module.end_dim)


_READERS: list[tuple[Any, Callable[[Any, Node], Reading | Node]]] = [
    (_CONVS, _conv),
    (_TRANSPOSED, _transposed),
    (nn.Linear, _linear),
    (_BatchNorm, _batch_norm),
    (_InstanceNorm, _instance_norm),
    (nn.PReLU, _prelu),
    (tuple(NAMES), _activation),
    ((nn.Dropout, *_DROPOUTS), _dropout),
    (_MAX_POOLS, _max_pool),
    (_AVERAGE_POOLS, _average_pool),
    (tuple(_ADAPTIVE), _adaptive_pool),
    (nn.Upsample, _upsample),
    (nn.Flatten, _flatten),
    (nn.ChannelShuffle, lambda module, source: shuffle(source, module.groups)),
]
