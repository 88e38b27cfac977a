"""Read features from inside a network while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_pocket.errors import PocketError
from lightning_pocket.networks.base import Network

from .head import head_layers


class FeatureTap:
    """Keeps what modules of a network put out in its latest pass.

    Args:
        network: The network.
        layers: Names of its modules; none for the features from which its last layer makes the logits.
        owner: Key of the config that names them, for errors.

    Raises:
        PocketError: If the network has no such module.
    """

    def __init__(self, network: Network, layers: list[str], owner: str) -> None:
        self.layers = layers
        self._owner = owner
        self._found: dict[int, Tensor] = {}
        known = dict(network.named_modules())
        for name in layers:
            if name not in known:
                raise PocketError(
                    f"{owner}: found {name!r}, which is no module of {type(network).__name__}. It has "
                    f"{', '.join(list(network._modules))}, and modules inside of these."
                )
        modules = [known[name] for name in layers]
        self._handles: list[RemovableHandle]
        if modules:
            self._handles = [module.register_forward_hook(self._keep(place)) for place, module in enumerate(modules)]
        else:
            head = known[_head(network)]
            self._handles = [head.register_forward_pre_hook(lambda _, inputs: self._put(0, inputs[0]))]

    def take(self) -> list[Tensor]:
        """Return the features ``(B, F)`` or ``(B, F, *S)`` of the latest pass, and forget them.

        Raises:
            PocketError: If a module did not run, or gives no tensor.
        """
        found, count = dict(self._found), max(1, len(self.layers))
        self._found.clear()
        for place in range(count):
            if place not in found or found[place].ndim < 2:
                raise PocketError(
                    f"{self._owner}: {self.layers[place] if self.layers else 'the last layer'} gives no features of "
                    "images. Name a module that the network calls, and that returns one tensor."
                )
        return [found[place] for place in range(count)]

    def remove(self) -> None:
        """Stop reading."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, place: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: self._put(place, output)

    def _put(self, place: int, value: object) -> None:
        if isinstance(value, Tensor):
            self._found[place] = value


def _head(network: Network) -> str:
    """Return the name of the last layer that makes logits of the finest resolution."""
    found = sorted(head_layers(network))
    return found[0]


@contextlib.contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation without gradients for a while; each module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def feature_channels(network: Network, tap: FeatureTap, size: list[int]) -> list[tuple[int, int]]:
    """Return channels and number of axes of each feature that a tap reads, found by a pass over zeros.

    Args:
        network: On any device.
        tap: Reads from it.
        size: Spatial size of the images.
    """
    device = next(network.parameters()).device
    with in_evaluation(network):
        network(torch.zeros(1, network.in_channels, *size, device=device))
    return [(feature.shape[1], feature.ndim) for feature in tap.take()]
