"""Put asymmetric convolution blocks (ACNet) into a network that is already built, and take them out again."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch.fx
from torch import nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expanded, ExpandedConv
from lightning_pocket.layers.asymmetric import AsymmetricBlock

_CONVS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


class _Tracer(torch.fx.Tracer):
    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Expanded) or super().is_leaf_module(m, module_qualified_name)


def to_asymmetric(network: nn.Module, pattern: str = "*") -> list[str]:
    """Replace convolutions, with the batch norms behind them, by asymmetric blocks.

    As in ACNet (Ding et al., ICCV 2019), which is the baseline of ExpandNets (Guo et al., NeurIPS 2020, Tables 1 and
    3). A norm that became part of a block leaves an identity behind, so names of other layers stay.

    Args:
        network: Changed in place; ``torch.fx`` must be able to follow its forward.
        pattern: Names of the convolutions, with ``*`` for any letters. Pointwise ones have no lines, and stay.

    Returns:
        Names of the blocks.

    Raises:
        PocketError: If no convolution is replaced, a replaced one has no batch norm of its own behind it, or
            convolutions are expanded.
    """
    for name, module in network.named_modules():
        if isinstance(module, ExpandedConv):
            raise PocketError(
                f"network.asymmetric: true, but layers.expansion has taken the place of {name}. Asymmetric blocks and "
                "expansion train the same convolutions in two ways: set asymmetric to false, or expansion.conv to none."
            )
    norms = dict(_pairs(network))
    chosen = [
        name
        for name, module in network.named_modules()
        if isinstance(module, _CONVS) and max(module.kernel_size) > 1 and fnmatchcase(name, pattern)
    ]
    if not chosen:
        raise PocketError(f"asymmetric: no convolution with a kernel above 1 is called {pattern!r}.")
    bare = [name for name in chosen if name not in norms]
    if bare:
        raise PocketError(
            f"asymmetric: no batch norm follows the convolution {bare[0]}, which has to become part of a block. Take "
            "layers.norm BatchNorm, or leave the convolution out."
        )
    for name in chosen:
        block = AsymmetricBlock(network.get_submodule(name), network.get_submodule(norms[name]))
        network.set_submodule(name, block)
        network.set_submodule(norms[name], nn.Identity())
    return chosen


def fuse_asymmetric(network: nn.Module) -> nn.Module:
    """Replace every asymmetric block by the one convolution that does the same in evaluation.

    Args:
        network: Changed in place.

    Returns:
        The same network.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, AsymmetricBlock):
            network.set_submodule(name, module.fused())
    return network


def _pairs(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of convolutions and of the batch norms that alone read what they return."""
    modules = dict(network.named_modules())
    for node in _Tracer().trace(network).nodes:
        users = list(node.users)
        if node.op != "call_module" or not isinstance(modules[node.target], _CONVS) or len(users) != 1:
            continue
        if users[0].op == "call_module" and isinstance(modules[users[0].target], _NORMS):
            yield node.target, users[0].target
