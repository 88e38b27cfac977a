"""Gradients of expanded networks in both of their spaces, and how they agree between batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_pocket.layers import Expanded, contract, is_expanded

#: Spaces that gradients live in: the weights of the compact network, and those that are trained.
CONTRACTED, FACTORS = "contracted", "factors"


class Gradients:
    """Gradients of a loss with respect to a network's weights, in its own space and in that of the compact network.

    Those of the compact network are taken on a contracted copy. By the chain rule they give those of the factors, so
    that one backward pass serves both. Without expanded layers there is one space.

    Args:
        network: Its weights as they are now; it is not changed.

    Attributes:
        compact: The contracted copy, on which losses are to be computed.
        spaces: Names of the spaces.

    Raises:
        PocketError: If expanded layers have nonlinearities in between.
    """

    def __init__(self, network: nn.Module) -> None:
        self.compact = copy.deepcopy(network)
        contract(self.compact)
        self.spaces = (CONTRACTED, FACTORS) if is_expanded(network) else (CONTRACTED,)
        self._expanded = {name: layer for name, layer in network.named_modules() if isinstance(layer, Expanded)}

    def of(self, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Return the gradient in each space as a vector, ``(P,)`` float64.

        Args:
            loss: Computes a scalar with :attr:`compact`.
        """
        named = [(name, p) for name, p in self.compact.named_parameters() if p.requires_grad]
        found = torch.autograd.grad(
            loss(), [parameter for _, parameter in named], allow_unused=True, materialize_grads=True
        )
        own = dict(zip((name for name, _ in named), found, strict=True))
        result = {CONTRACTED: _flat(list(own.values()))}
        if self._expanded:
            result[FACTORS] = _flat(self._of_factors(own))
        return result

    def _of_factors(self, own: dict[str, Tensor]) -> list[Tensor]:
        """Return the gradients of the factors, and those of the layers that are none."""
        found: list[Tensor] = []
        for prefix, layer in self._expanded.items():
            with torch.enable_grad():
                weight, bias = layer.plain_weights()
            made = [weight] if bias is None else [weight, bias]
            back = [own.pop(f"{prefix}.{name}") for name in ("weight", "bias")[: len(made)]]
            found += torch.autograd.grad(made, list(layer.parameters()), back)
        return [*found, *own.values()]


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of the angle between two gradients ``(P,)``; 0 where one of them is zero."""
    length = float(one.norm() * other.norm())
    return float(one @ other) / length if length else 0.0


def pair_cosines(
    gradients: Iterable[Mapping[str, Tensor]], count: int, pairs: int, generator: torch.Generator
) -> dict[str, list[float]]:
    """Return the cosines of pairs of gradients in each space.

    Args:
        gradients: ``(P,)`` by space, of batches in random order. With two for each pair, neighbours are paired, and no
            more than two are kept; otherwise all are, and as many different pairs as there are, at random.
        count: How many gradients there are.
        pairs: How many pairs are wanted.
        generator: Where random pairs come from.
    """
    taken = iter(gradients)
    couples: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
    if count >= 2 * pairs:
        couples = ((next(taken), next(taken)) for _ in range(pairs))
    else:
        kept = list(taken)
        everything = [(one, other) for one in range(len(kept)) for other in range(one)]
        order = torch.randperm(len(everything), generator=generator)[:pairs].tolist()
        couples = ((kept[one], kept[other]) for one, other in (everything[place] for place in order))
    found: dict[str, list[float]] = {}
    for one, other in couples:
        for space in one:
            found.setdefault(space, []).append(cosine(one[space], other[space]))
    return found


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])
