"""Which layers of a network are penalized, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from torch import nn

from lightning_pocket.errors import PocketError

from .data_flow import DataFlow
from .kernels import CONVOLUTIONS, Convolution, kernel_shape
from .layer import LayerPenalty, NormAware
from .regularizer import Regularizer


@dataclass(frozen=True)
class LayerChoice:
    """Whether a convolution takes part.

    Args:
        name: Its name in the network.
        shape: ``(O, I / groups, *K)``.
        taken: Whether it does.
        reason: Why not; of one that does, how.
    """

    name: str
    shape: tuple[int, ...]
    taken: bool
    reason: str


def choose_layers(
    network: nn.Module, flow: DataFlow, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[str, LayerChoice]:
    """Decide about every convolution of a network.

    Left out are stems, which read the image; heads, which make the outputs; pointwise convolutions, of which most are
    projections whose width is given by what they are added to; and what is not called or does not learn.

    Args:
        network: The network.
        flow: What :func:`.data_flow.trace` found in it.
        include: Patterns of names, with ``*`` and ``?``, of layers that take part although they would be left out.
        exclude: Patterns of layers that do not take part, whatever else says so.

    Returns:
        Choice by name, in the order of the network.

    Raises:
        PocketError: If a pattern fits no convolution, or no layer takes part.
    """
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)}
    for key, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not _fits(convolutions, [pattern]):
                raise PocketError(
                    f"StructuredSparsity.{key}: {pattern!r} fits no convolution; expected names such as "
                    f"{', '.join(list(convolutions)[:3]) or '(the network has none)'}. * stands for anything."
                )
    included, excluded = _fits(convolutions, include), _fits(convolutions, exclude)
    choices = {}
    for name, conv in convolutions.items():
        why_not = "excluded by name" if name in excluded else _why_not(name, conv, flow)
        if name in included and name not in excluded:
            why_not = _impossible(name, conv, flow)
        choices[name] = LayerChoice(name, kernel_shape(conv), not why_not, why_not)
    if not any(choice.taken for choice in choices.values()):
        raise PocketError(
            "StructuredSparsity: no convolution takes part; expected at least one that is not the stem, a head or "
            "pointwise. Name some in include, or take patterns out of exclude."
        )
    return choices


def make_penalties(
    network: nn.Module,
    flow: DataFlow,
    choices: dict[str, LayerChoice],
    regularizer: Regularizer,
    mode: NormAware,
    weights_of: Callable[[nn.Module], nn.Module] = lambda layer: layer,
) -> tuple[list[LayerPenalty], dict[str, LayerChoice]]:
    """Return the penalties of the chosen layers, and the choices with what was found behind each layer.

    Args:
        network: The network.
        flow: What :func:`.data_flow.trace` found in it.
        choices: Those of :func:`choose_layers`.
        regularizer: Groups and norm.
        mode: How norms behind convolutions are taken into account.
        weights_of: Returns the convolution that holds the kernels of a layer; the layer itself unless it is a row of
            several.
    """
    penalties, told = [], {}
    for name, choice in choices.items():
        told[name] = choice
        if not choice.taken:
            continue
        conv = weights_of(network.get_submodule(name))
        partner = network.get_submodule(flow.partners[name]) if name in flow.partners else None
        boxes = regularizer.boxes(kernel_shape(conv)[2:])  # type: ignore[arg-type]
        penalty = LayerPenalty(name, conv, boxes, regularizer.norm, partner, mode)  # type: ignore[arg-type]
        told[name] = LayerChoice(name, choice.shape, True, _how(penalty, flow.partners.get(name)))
        penalties.append(penalty)
    return penalties, told


def is_degenerate(penalty: LayerPenalty) -> bool:
    """Return whether a layer's penalty can shrink without any change of what the network does.

    A norm undoes the size of the kernels before it, so unless its scale is part of the penalty, small kernels cost
    nothing and mean nothing.

    Args:
        penalty: That of the layer.
    """
    return penalty.partner is not None and penalty.mode != "unit" and not penalty.partner_parameters


def table(choices: dict[str, LayerChoice]) -> str:
    """Return the choices as text, one line per layer.

    Args:
        choices: Those of :func:`make_penalties`.
    """
    rows = [["layer", "kernels", "taken", "norm behind it, or why not"]]
    for choice in choices.values():
        shape = "x".join(map(str, choice.shape[:2])) + " of " + "x".join(map(str, choice.shape[2:]))
        rows.append([choice.name, shape, "yes" if choice.taken else "no", choice.reason])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _fits(names: dict[str, Convolution], patterns: Sequence[str]) -> set[str]:
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _impossible(name: str, conv: Convolution, flow: DataFlow) -> str:
    if name not in flow.sources:
        return "not called"
    weight = conv._parameters.get("weight")
    if weight is None:
        return "weights are computed from others"
    return "" if weight.requires_grad else "frozen: does not learn"


def _why_not(name: str, conv: Convolution, flow: DataFlow) -> str:
    impossible = _impossible(name, conv, flow)
    if impossible:
        return impossible
    if name in flow.stems:
        return "stem: reads the image"
    if name in flow.heads:
        return "head: makes an output"
    return "pointwise" if prod(conv.kernel_size) == 1 else ""


def _how(penalty: LayerPenalty, norm: str | None) -> str:
    if norm is None:
        return "none found"
    if penalty.mode == "none":
        return f"{norm}, ignored"
    if not penalty.partner_parameters:
        return f"{norm}, no scale that learns: {'kernels never die' if penalty.mode == 'unit' else 'ignored'}"
    return f"{norm}, {penalty.mode}"
