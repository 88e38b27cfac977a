"""How strong a penalty must be to kill every kernel: the upper end of every useful range of alpha."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layer import LayerPenalty
from .prox import dual_norm, prox_nested, ring_energies

_HALVINGS = 60


class AlphaMax:
    """Gradients of the loss at the weights that a run begins with, averaged over batches.

    A layer whose kernels are all zero stays so if the prox of its negative gradient there is zero. The gradient is
    taken where training begins instead: at zero there is none behind a norm and a ReLU. So the figure is exact for
    kernels that begin at zero, and the scale on which alpha is chosen for all others.

    Args:
        network: Its weights as they are now are those that the run begins with.
        layers: What is penalized.
        batches: Number of batches.
    """

    def __init__(self, network: nn.Module, layers: Sequence[LayerPenalty], batches: int) -> None:
        self.layers = layers
        self._parameters = list(network.parameters())
        self._begin = [parameter.detach().clone() for parameter in self._parameters]
        self._penalized = [parameter for layer in layers for parameter in layer.parameters]
        self._sums = [torch.zeros_like(parameter) for parameter in self._penalized]
        self._left = max(batches, 1)
        self._seen = 0

    @property
    def complete(self) -> bool:
        """Whether all batches have been seen."""
        return self._left == 0

    @torch.no_grad()
    def rewind(self) -> None:
        """Give the network the weights that the run began with; the caller keeps the present ones."""
        for parameter, value in zip(self._parameters, self._begin, strict=True):
            parameter.copy_(value)

    def add(self, loss: Tensor) -> None:
        """Add the gradients of one batch.

        Args:
            loss: Computed with the weights of :meth:`rewind`.
        """
        found = torch.autograd.grad(loss, self._penalized, allow_unused=True)
        for total, gradient in zip(self._sums, found, strict=True):
            if gradient is not None:
                total.add_(gradient)
        self._seen += 1
        self._left -= 1

    @property
    def gradients(self) -> list[Tensor]:
        """Mean gradient of each penalized parameter, in the order of ``layer.parameters``; of this process alone."""
        return [total / self._seen for total in self._sums]

    def strengths(self, gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> dict[str, float]:
        """Return the strength that kills all kernels of each layer, at the weights of :meth:`rewind`.

        Args:
            gradients: As :attr:`gradients`, averaged over processes.
            weights: ``(O, N)`` of each layer: the groups' weights, without alpha.

        Returns:
            Strength by the layer's name.
        """
        rest = iter(gradients)
        found = {}
        for layer, weight in zip(self.layers, weights, strict=True):
            own = [next(rest) for _ in layer.parameters]
            kernels = layer.arrange(own[0])
            if layer.mode == "unit":  # as if the kernel had the norm 1
                length = torch.linalg.vector_norm(layer.kernels.detach().flatten(1), dim=1)
                kernels = kernels * length.view(-1, *[1] * (kernels.ndim - 1))
            found[layer.name] = killing_strength(layer, kernels, own[1:], weight)
        return found


@torch.no_grad()
def killing_strength(layer: LayerPenalty, kernels: Tensor, partners: Sequence[Tensor], weights: Tensor) -> float:
    """Return the smallest strength whose prox makes all groups of all kernels zero.

    Args:
        layer: Groups and norm.
        kernels: ``(O, I, *K)`` values, the gradients of the kernels.
        partners: ``(O,)`` each, those of scale and shift.
        weights: ``(O, N)`` weights of the groups.

    Returns:
        Found by bisection where groups are nested; 0 where nothing is left to kill.
    """
    levels = layer.levels
    if layer.norm != "l_infinity":  # one number per ring is enough
        kernels = ring_energies(kernels, levels, layer.groups).sqrt().unsqueeze(1)
        levels = torch.arange(layer.groups, device=kernels.device)
    extra = torch.stack(list(partners), 1) if partners else kernels[:, :0].flatten(1)[:, :0]
    root = extra if layer.mode == "unit" else torch.cat([kernels.flatten(1), extra], 1)
    high = _ratio(dual_norm(root, layer.norm), weights[:, -1])
    if layer.groups == 1:
        return float(high.max())
    inner = weights[:, :-1]
    one = kernels.new_ones(1, 1)
    if layer.mode == "unit":
        largest = kernels[:, :, levels < layer.groups - 1].flatten(1)
        low, high_inner = torch.zeros_like(high), _ratio(dual_norm(largest, layer.norm), inner[:, -1])
        for _ in range(_HALVINGS):
            middle = (low + high_inner) / 2
            shrunk = prox_nested(kernels, levels, inner * middle[:, None], one, layer.norm)
            dead = (shrunk[:, :, levels < layer.groups - 1] == 0).flatten(1).all(1)
            low, high_inner = torch.where(dead, low, middle), torch.where(dead, middle, high_inner)
        return float(torch.maximum(high, high_inner).max())
    low = torch.zeros_like(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        shrunk = prox_nested(kernels, levels, inner * middle[:, None], one, layer.norm)
        dead = dual_norm(torch.cat([shrunk.flatten(1), extra], 1), layer.norm) <= middle * weights[:, -1]
        low, high = torch.where(dead, low, middle), torch.where(dead, middle, high)
    return float(high.max())


def _ratio(norms: Tensor, weights: Tensor) -> Tensor:
    """Return norms divided by weights; 0 where a weight is 0, since no strength would do."""
    return torch.where(weights > 0, norms / weights.clamp_min(torch.finfo(weights.dtype).tiny), 0.0)
