"""Random directions in the space of a network's weights, with the norms of its filters (Li et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

#: A tensor for each parameter, by name.
Direction = Mapping[str, Tensor]


def filter_directions(network: nn.Module, count: int, seed: int) -> list[dict[str, Tensor]]:
    r"""Draw directions from a normal distribution, and give each filter the norm of the network's own.

    With a filter :math:`w` and what was drawn for it :math:`d`, the direction is :math:`d |w| / |d|`, so that a step of
    1 is as long as the weights are, whatever their scale. A filter is what makes one output channel of a convolution,
    or one feature of a linear layer. Biases, and scales and shifts of norms, do not move.

    Args:
        network: Its weights are those at the centre.
        count: How many directions.
        seed: The same seed gives the same directions, on any device.
    """
    generator = torch.Generator().manual_seed(seed)
    transposed = {name for name, module in network.named_modules() if isinstance(module, _TRANSPOSED)}
    return [
        {name: _direction(name, value, transposed, generator) for name, value in network.named_parameters()}
        for _ in range(count)
    ]


def _direction(name: str, value: Tensor, transposed: set[str], generator: torch.Generator) -> Tensor:
    if value.ndim < 2:
        return torch.zeros_like(value)
    axis = 1 if name.rpartition(".")[0] in transposed else 0
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    own = filter_norms(value.detach().cpu().double(), axis)
    return (drawn * (own / filter_norms(drawn, axis).clamp_min(1e-300))).to(value)


def filter_norms(weight: Tensor, axis: int = 0) -> Tensor:
    """Return the norm of each filter, with axes of size 1 but for ``axis``, along which the filters are."""
    others = [place for place in range(weight.ndim) if place != axis]
    return torch.linalg.vector_norm(weight, dim=others, keepdim=True)


class Slice:
    """A network whose weights are moved along some directions, and put back.

    Args:
        network: Its weights are changed in place.
        directions: As from :func:`filter_directions`.
    """

    def __init__(self, network: nn.Module, directions: Sequence[Direction]) -> None:
        self._parameters = dict(network.named_parameters())
        self._centre = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._directions = directions

    @torch.no_grad()
    def move_to(self, *coordinates: float) -> None:
        """Set the weights to those of the centre plus each coordinate times its direction."""
        for name, parameter in self._parameters.items():
            moved = self._centre[name].clone()
            for coordinate, direction in zip(coordinates, self._directions, strict=True):
                moved += coordinate * direction[name]
            parameter.copy_(moved)

    def restore(self) -> None:
        """Put the weights of the centre back, bit for bit."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._centre[name])
