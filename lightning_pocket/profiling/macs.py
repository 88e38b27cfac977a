"""Multiply-accumulate operations (MACs), layer by layer.

One MAC is one multiplication and one addition: half of what others call floating-point operations. Only convolutions,
transposed convolutions and linear layers count, without their biases: norms, activations and pooling take time, but no
products with learned kernels. :func:`count_macs_ptflops` counts those too, as some papers do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .fake_network import fake_tensors, without_memory

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)

#: MACs of one call: layer, input, output -> number.
Rule = Callable[[nn.Module, Tensor, Tensor], int]


@dataclass(frozen=True)
class LayerCost:
    """One call of a layer that has no layers in it.

    Args:
        name: Path of the layer in the network, as in its ``state_dict``.
        kind: Class of the layer.
        parameters: Parameters of the layer; 0 where an earlier call has already counted them.
        macs: Multiply-accumulate operations for the whole batch.
        output_shape: ``(B, C, *S)``.
        activation_mib: Output in float32, in MiB.
        nesting: How many modules the layer lies in, the network not counted.
    """

    name: str
    kind: str
    parameters: int
    macs: int
    output_shape: tuple[int, ...]
    activation_mib: float
    nesting: int


def count_layers(network: nn.Module, shape: Sequence[int]) -> list[LayerCost]:
    """Return what each layer costs, in the order in which the layers run in evaluation.

    Args:
        network: Any module that takes one tensor; it is not changed, and nothing is computed.
        shape: ``(B, C, *S)`` of its input.

    Raises:
        PocketError: If the network refuses such an input.
    """
    return _run(network, shape, layer_macs)


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Return the MACs of convolutions, transposed convolutions and linear layers; see :func:`count_layers`."""
    return sum(layer.macs for layer in count_layers(network, shape))


def count_macs_by_torch(network: nn.Module, shape: Sequence[int]) -> int:
    """Return the same from torch's own counter, which looks at operations rather than layers.

    Args:
        network: As for :func:`count_layers`.
        shape: ``(B, C, *S)`` of its input.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with fake_tensors(), torch.no_grad():
        copied = without_memory(network).eval()
        image = torch.empty(tuple(shape))
        with FlopCounterMode(display=False) as counter:
            copied(image)
    return counter.get_total_flops() // 2


def count_macs_ptflops(network: nn.Module, shape: Sequence[int]) -> int:
    """Return MACs as old versions of the tool ptflops counted them, for papers that used it.

    Beyond :func:`count_macs` it counts one operation for each output of a convolution with bias, of an activation and
    of upsampling, one for each *input* of a pooling layer, and two for each element that a norm with scale and shift
    sees, one without. The bias of a linear layer is free. So were counted the values of ExpandNets (Guo et al.,
    NeurIPS 2020), Table 6.

    Args:
        network: As for :func:`count_layers`.
        shape: ``(B, C, *S)`` of its input.
    """
    return sum(layer.macs for layer in _run(network, shape, _ptflops))


def layer_macs(layer: nn.Module, source: Tensor, result: Tensor) -> int:
    """Return the MACs of one call of a layer, 0 unless it is a convolution or a linear layer.

    A fused expanded layer counts as the one layer that it computes, and the products that make its kernel: these are as
    many for one image as for a batch.

    Args:
        layer: A layer.
        source: Its input.
        result: Its output.
    """
    if _counts_itself(layer):
        return layer.executed_macs(source, result)  # type: ignore[operator]
    if isinstance(layer, _CONVOLUTIONS):  # each output sees a kernel over the input channels of its group
        return result.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)
    if isinstance(layer, _TRANSPOSED):  # each input is spread by a kernel over the output channels of its group
        return source.numel() * layer.out_channels // layer.groups * prod(layer.kernel_size)
    if isinstance(layer, nn.Linear):
        return result.numel() * layer.in_features
    return 0


def _ptflops(layer: nn.Module, source: Tensor, result: Tensor) -> int:
    if isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED)):
        return layer_macs(layer, source, result) + (0 if layer.bias is None else result.numel())
    if isinstance(layer, _NORMS):
        return source.numel() * (2 if layer.affine else 1)
    if isinstance(layer, _POOLS):
        return source.numel()
    if isinstance(layer, (*_ACTIVATIONS, nn.Upsample)):
        return result.numel()
    return layer_macs(layer, source, result)


def _counts_itself(layer: nn.Module) -> bool:
    """Whether a layer tells its own operations, and does not call the layers in it: an expanded one, fused."""
    return bool(getattr(layer, "counts_itself", False))


def _run(network: nn.Module, shape: Sequence[int], rule: Rule) -> list[LayerCost]:
    layers: list[LayerCost] = []
    counted: set[nn.Module] = set()

    def follow(name: str, layer: nn.Module) -> None:
        def after(_: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
            if not isinstance(result, Tensor):
                return
            own = 0 if layer in counted else sum(parameter.numel() for parameter in layer.parameters())
            counted.add(layer)
            layers.append(
                LayerCost(
                    name=name,
                    kind=type(layer).__name__,
                    parameters=own,
                    macs=rule(layer, arguments[0], result),
                    output_shape=tuple(result.shape),
                    activation_mib=4 * result.numel() / 2**20,
                    nesting=name.count("."),
                )
            )

        layer.register_forward_hook(after)

    with fake_tensors(), torch.no_grad():
        copied = without_memory(network).eval()
        for name, layer in copied.named_modules():
            runs = _counts_itself(layer) or not any(layer.children())
            if runs and not isinstance(layer, nn.Identity):
                follow(name, layer)
        copied(torch.empty(tuple(shape)))
    return layers
