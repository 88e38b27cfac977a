"""Whether a compact network computes what the expanded one does."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expanded, ExpandedConv, contract
from lightning_pocket.networks.base import Network

#: Largest relative differences: where both are computed in float64 throughout, and where the weights are rounded.
EXACT, ROUNDED = 1e-10, 1e-3
_BATCH = 2


@torch.no_grad()
def check_layers(network: nn.Module) -> float:
    """Apply each expanded layer one factor after another, and compare with the one layer; two sizes, borders included.

    Args:
        network: Has expanded layers; it is not changed.

    Returns:
        Largest difference of any layer in float64, relative to its largest output.

    Raises:
        PocketError: If it is above 1e-10.
    """
    worst = 0.0
    for name, layer in network.named_modules():
        if not isinstance(layer, Expanded):
            continue
        one_by_one = copy.deepcopy(layer).double()
        at_once = one_by_one.contracted()
        one_by_one.mode = "layers"
        for x in _inputs(layer):
            found = relative_difference(at_once(x), one_by_one(x))
            if not found <= EXACT:
                raise PocketError(
                    f"{name}: the contracted layer differs from the expanded one by {found:.1e} of its largest output, "
                    f"expected at most {EXACT:g}. Nothing was written; are its weights finite?"
                )
            worst = max(worst, found)
    return worst


@torch.no_grad()
def check_networks(expanded: Network, compact: Network) -> tuple[float, float]:
    """Compare two networks on random images of two sizes, borders included.

    Args:
        expanded: It is not changed.
        compact: What it was contracted to.

    Returns:
        Largest differences relative to the largest logit, computed in float64: with weights contracted in float64, and
        with those of ``compact``, which may be rounded.

    Raises:
        PocketError: If they are above 1e-10 and 1e-3, or the two have other layers.
    """
    reference = copy.deepcopy(expanded).double().eval()
    rounded = copy.deepcopy(compact).double().eval()
    exact = copy.deepcopy(reference)
    contract(exact)
    if {name: value.shape for name, value in exact.state_dict().items()} != {
        name: value.shape for name, value in rounded.state_dict().items()
    }:
        raise PocketError(
            f"{type(compact).__name__}: without its expansion the network has other layers than its contraction. "
            "Nothing was written."
        )
    worst = [0.0, 0.0]
    for image in _images(expanded):
        logits = reference(image)
        for place, (network, limit) in enumerate(((exact, EXACT), (rounded, ROUNDED))):
            found = relative_difference(network(image), logits)
            if not found <= limit:
                raise PocketError(
                    f"{type(compact).__name__}: the contracted network differs from the expanded one by {found:.1e} of "
                    f"its largest output, expected at most {limit:g}. Nothing was written."
                )
            worst[place] = max(worst[place], found)
    return worst[0], worst[1]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected number; NaN where one is not finite."""
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / scale)


def _inputs(layer: Expanded) -> list[Tensor]:
    """Return noise of two sizes that a layer takes."""
    if not isinstance(layer, ExpandedConv):
        return [_noise(rows, layer.shapes()[0][1]) for rows in (_BATCH, _BATCH + 1)]
    given: dict[str, Any] = layer.geometry
    # Larger than the kernel and than twice the padding, which reflection and cropping need.
    least = [
        max(step * (size - 1) + 1, 2 * pad + 1) + stride
        for step, size, pad, stride in zip(
            given["dilation"], given["kernel_size"], given["padding"], given["stride"], strict=True
        )
    ]
    return [_noise(_BATCH, layer.in_channels, *(size + more for size in least)) for more in (0, 3)]


def _images(network: Network) -> list[Tensor]:
    """Return noise of two sizes that a network takes."""
    small = [2 * step for step in network.divisor]
    return [_noise(1, network.in_channels, *size) for size in (small, [small[0] + network.divisor[0], *small[1:]])]


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
