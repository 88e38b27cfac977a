"""A traced network: operations on channels, in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

#: Name of the node that stands for the image.
IMAGE = "image"


@dataclass(eq=False)
class Node:
    """One operation.

    Args:
        name: Unique; the path of its module where it has one.
        op: What is computed; see ``reading.py``.
        inputs: What it is computed from.
        shape: ``(B, C, *S)`` of the result, for the image that was traced.
        settings: Plain values.
        tensors: Weights and statistics.
        place: Path of the module in which it is computed, for messages.
    """

    name: str
    op: str
    inputs: tuple[Node, ...]
    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    place: str = ""

    @property
    def channels(self) -> int:
        """Number of channels of the result."""
        return self.shape[1]


@dataclass
class Graph:
    """A network.

    Args:
        nodes: Every operation behind those that it needs; the first is the image.
        outputs: What the network returns.
    """

    nodes: list[Node] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)


def is_taken(name: str, names: Iterable[str]) -> bool:
    """Tell whether a name is given already, or one of two would be a folder of the other."""
    return any(name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.") for other in names)
