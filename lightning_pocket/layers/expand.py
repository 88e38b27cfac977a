"""Replace layers of a network by expanded ones, and expanded ones by what they stand for."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError

from .exact_factors import make_exact
from .expanded import CONVS, TRANSPOSED, Expanded, ExpandedConv, ExpandedLinear
from .expansion import Expansion

#: Words in ``Expansion.select``; everything else is the name of a module.
WORDS = ("all", "encoder", "depthwise", "strided_depthwise", "first")
#: Where torch keeps what is called with a module, before and after it.
_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)


def expand(
    network: nn.Module, expansion: Expansion, initializer: Callable[[nn.Module], None] | None = None
) -> list[Expanded]:
    """Replace the layers of a network that an expansion selects, in place; its architecture and names stay.

    Args:
        network: Any module made of torch's convolutions and linear layers. What is expanded already stays as it is.
            For ``select: encoder`` it names the modules of its encoder in an attribute ``encoder_names``.
        expansion: What to expand, and how.
        initializer: Starts the weights of factors, in place; None leaves them as torch's classes make them.

    Returns:
        The layers that took the places of plain ones; none in mode ``start``, which has plain ones again.

    Raises:
        PocketError: If ``select`` names what the network does not have, or a layer cannot be expanded exactly.
    """
    chosen = _chosen(network, expansion) if expansion else {}
    first = _first(_plain_layers(network))
    made: dict[nn.Module, Expanded] = {}
    for name, layer in chosen.items():
        try:
            made[layer] = _expanded(layer, expansion, first=layer is first)
        except PocketError as error:
            raise PocketError(f"{error} (The layer is {name}.)") from error
        except (RuntimeError, TypeError) as error:  # torch has no memory for it, or no number
            raise PocketError(
                f"layers.expansion.rate: found {expansion.rate:g}, with which {name} is too large for the memory. "
                "Choose a smaller one, such as 4."
            ) from error
        if initializer is not None and expansion.init == "factors":
            initializer(made[layer])
    _replace(network, lambda module: made.get(module))
    if expansion.mode == "start":
        contract(network)
        return []
    return list(made.values())


def contract(network: nn.Module) -> int:
    """Replace every expanded layer of a network by the plain one, in place: the compact network with its own names.

    Args:
        network: Computed in float64, its weights keep their precision. It is not to be trained on with an optimizer
            that was made before.

    Returns:
        How many layers were replaced.

    Raises:
        PocketError: If a layer has nonlinearities in between.
    """
    made = {layer: layer.contracted() for layer in network.modules() if isinstance(layer, Expanded)}
    for layer, plain in made.items():
        for hooks in _HOOKS:  # whoever reads features goes on
            getattr(plain, hooks).update(getattr(layer, hooks))
    _replace(network, lambda module: made.get(module))  # type: ignore[call-overload]
    return len(made)


@contextlib.contextmanager
def as_plain(network: nn.Module) -> Iterator[None]:
    """Let a network be its compact one for a while, to be given weights; then its expanded layers hold these.

    Layers whose weights stay as they were get their factors back untouched; the others get factors whose product is
    the new weight, as with ``init: exact``.

    Args:
        network: Changed in place.

    Raises:
        PocketError: If a layer has nonlinearities in between, or is too narrow to hold every kernel.
    """
    plain = {layer: layer.contracted() for layer in network.modules() if isinstance(layer, Expanded)}
    before = {layer: copy.deepcopy(layer.state_dict()) for layer in plain.values()}
    _replace(network, lambda module: plain.get(module))  # type: ignore[call-overload]
    try:
        yield
    finally:
        back: dict[nn.Module, Expanded] = {made: layer for layer, made in plain.items()}
        _replace(network, lambda module: back.get(module))
    for layer, made in plain.items():
        if any(not torch.equal(value, before[made][name]) for name, value in made.state_dict().items()):
            make_exact(layer, made)


def is_expanded(network: nn.Module) -> bool:
    """Return whether a network has expanded layers."""
    return any(isinstance(layer, Expanded) for layer in network.modules())


def contract_for_use(network: nn.Module) -> int:
    """Do as :func:`contract` does before a network is used, where it can be: nonlinear layers stay as they are.

    Args:
        network: Changed in place.

    Returns:
        How many layers were replaced.
    """
    nonlinear = any(isinstance(layer, Expanded) and layer.mode == "nonlinear" for layer in network.modules())
    return 0 if nonlinear else contract(network)


def deployed_parameters(network: nn.Module) -> int:
    """Return how many trained parameters a network has when it is used, after :func:`contract_for_use`."""
    total = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    for layer in (layer for layer in network.modules() if isinstance(layer, Expanded) and layer.mode != "nonlinear"):
        total += sum(p.numel() for p in layer.plain().parameters()) - sum(p.numel() for p in layer.parameters())
    return total


def contracted_weight(layer: nn.Module) -> Tensor:
    """Return the weight of a layer, of an expanded one that of what it stands for; gradients flow through it.

    For penalties on kernels: their subgradient may be taken here, but a proximal step may not, since it cannot be
    pushed through a product. Contract first for those.

    Args:
        layer: A convolution, a linear layer, or either expanded.
    """
    weight: Tensor = layer.plain_weights()[0] if isinstance(layer, Expanded) else layer.weight  # type: ignore[assignment]
    return weight


def last_factor(layer: nn.Module) -> nn.Module:
    """Return the layer whose weight holds one slice for each output channel, which ends that channel where it is zero.

    Args:
        layer: A convolution or linear layer, which is returned, or an expanded one, whose last layer it is: rows of it
            may be made zero by proximal steps while the layer is expanded.
    """
    return layer.factors[-1] if isinstance(layer, Expanded) else layer


def _plain_layers(network: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Return the convolutions and linear layers by name, in the order of registration, without those of factors."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_children():
        path = f"{prefix}{name}"
        if type(module) in (*CONVS, *TRANSPOSED, nn.Linear):
            found[path] = module
        elif not isinstance(module, Expanded):
            found |= _plain_layers(module, f"{path}.")
    return found


def _chosen(network: nn.Module, expansion: Expansion) -> dict[str, nn.Module]:
    """Return the layers that are selected, by name."""
    layers = _plain_layers(network)
    first = _first(layers)
    encoder = _encoder(network) if "encoder" in expansion.names else []
    named = _named(network, expansion)
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    chosen = {}
    for name, layer in layers.items():
        wanted = expansion.linear if isinstance(layer, nn.Linear) else expansion.conv != "none"
        spared = name == linear[-1] if isinstance(layer, nn.Linear) else max(layer.kernel_size) == 1  # type: ignore[arg-type]
        words = (
            _meaning(layer)
            | ({"encoder"} if _below(name, encoder) else set())
            | ({"first"} if layer is first else set())
        )
        meant = _below(name, named) or (not spared and bool(words & set(expansion.names)))
        if wanted and meant and not (expansion.without_ck == "plain" and _lacks_ck(layer, expansion)):
            chosen[name] = layer
    if not chosen:
        kinds = " and ".join(["convolutions"] * (expansion.conv != "none") + ["linear layers"] * expansion.linear)
        raise PocketError(
            f"layers.expansion.select: found {expansion.select}, which leaves none of the network's {kinds} to expand: "
            "kernels of 1 and the last linear layer are expanded by name alone. Name modules, or expand nothing."
        )
    return chosen


def _first(layers: Mapping[str, nn.Module]) -> nn.Module | None:
    """Return the first convolution, None where there is none."""
    return next((layer for layer in layers.values() if _is_conv(layer)), None)


def _meaning(layer: Any) -> set[str]:
    """Return the words of ``select`` that mean a layer by what it is."""
    if not (_is_conv(layer) and layer.groups == layer.in_channels > 1):
        return {"all"}
    return {"all", "depthwise"} | ({"strided_depthwise"} if max(layer.stride) > 1 else set())


def _encoder(network: nn.Module) -> list[str]:
    names = list(getattr(network, "encoder_names", ()))
    if not names:
        raise PocketError(
            f"layers.expansion.select: encoder, but {type(network).__name__} has none of its own. Choose all, or names "
            "of its modules."
        )
    return names


def _named(network: nn.Module, expansion: Expansion) -> list[str]:
    """Return the names of modules in ``select``."""
    known = dict(network.named_modules())
    names = [name for name in expansion.names if name not in WORDS]
    for name in names:
        if name not in known:
            raise PocketError(
                f"layers.expansion.select: found {name!r}, expected {', '.join(WORDS)} or the name of a module of "
                f"{type(network).__name__}, such as {next(iter(_plain_layers(network)), '')}."
            )
    return names


def _below(name: str, others: list[str]) -> bool:
    return any(not other or f"{name}.".startswith(f"{other}.") for other in others)


def _is_conv(layer: nn.Module) -> bool:
    return isinstance(layer, (*CONVS, *TRANSPOSED))


def _lacks_ck(layer: Any, expansion: Expansion) -> bool:
    """Whether ck cannot divide the kernel of a convolution."""
    if expansion.conv != "ck" or not _is_conv(layer):
        return False
    return any(size % 2 == 0 for size in layer.kernel_size) or max(layer.kernel_size) <= 3


def _expanded(layer: nn.Module, expansion: Expansion, *, first: bool) -> Expanded:
    if isinstance(layer, nn.Linear):
        made: Expanded = ExpandedLinear(layer, expansion)
    else:
        how = replace(expansion, conv="cl") if _lacks_ck(layer, expansion) else expansion
        made = ExpandedConv(layer, how, widen_first=not (first and expansion.first_layer == "code"))
    if expansion.init == "exact":
        make_exact(made, layer)
    return made.train(layer.training)


def _replace(network: nn.Module, other: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put other modules in the places of some, wherever they are used."""
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):
            new = None if child is None else other(child)
            if new is not None:
                setattr(module, name, new)
