"""What ``pocket shrink`` recorded of a network: widths, sizes of kernels, and costs before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json

#: Beside the files of a shrunk network.
RECORD = "shrink.json"


@dataclass(frozen=True)
class LayerShape:
    """The kernels of a layer.

    Args:
        name: Of the layer in the network.
        kernels: How many there were, and how many are left.
        sizes: How many are left of each size in voxels, such as ``(3, 3)``; a size may have a 0 for none.
        macs_formula: Products of the layer by equation (10), before and after.
    """

    name: str
    kernels: tuple[int, int]
    sizes: Mapping[tuple[int, ...], int]
    macs_formula: tuple[int, int]

    def by_extent(self) -> dict[int, int]:
        """Return how many kernels have each largest extent; 0 for those that are gone."""
        found: dict[int, int] = {0: self.kernels[0] - self.kernels[1]} if self.kernels[1] < self.kernels[0] else {}
        for size, count in self.sizes.items():
            found[max(size, default=1)] = found.get(max(size, default=1), 0) + count
        return found


@dataclass(frozen=True)
class Shrinking:
    """A network before and after.

    Args:
        layers: In the order of the network.
        parameters: Weights, before and after.
        macs: Multiply-accumulates of one image as they are executed.
        macs_formula: The same by equation (10) of the structured sparsity draft: each kernel counts with its own size.
        milliseconds: Time of one image, measured side by side, each in its faster way.
    """

    layers: tuple[LayerShape, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    macs_formula: tuple[int, int]
    milliseconds: tuple[float, float]

    @property
    def costs(self) -> dict[str, float]:
        """What the network costs afterwards; ``time_ratio`` is the share of the time before."""
        return {
            "parameters": self.parameters[1],
            "macs_formula": self.macs_formula[1],
            "macs": self.macs[1],
            "time_ratio": self.milliseconds[1] / self.milliseconds[0],
        }


def read_shrinking(folder: Path) -> Shrinking:
    """Read the record of a shrunk network.

    Args:
        folder: What ``pocket shrink`` wrote.

    Raises:
        PocketError: If there is no record, or it is not as expected.
    """
    file = folder / RECORD
    content = read_json(file)
    try:
        return Shrinking(
            tuple(_layer(entry) for entry in content["layers"]),
            parameters=_pair(content["parameters"]),
            macs=_pair(content["macs"]),
            macs_formula=_pair(content["macs_formula"]),
            milliseconds=_fastest(content["milliseconds"].values()),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise PocketError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); run `pocket shrink` again with --fresh."
        ) from error


def _layer(entry: Mapping[str, Any]) -> LayerShape:
    sizes = {tuple(int(side) for side in size.split("x")): int(count) for size, count in entry["sizes"].items()}
    return LayerShape(str(entry["name"]), _pair(entry["kernels"]), sizes, _pair(entry["macs_formula"]))


def _fastest(ways: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Return the least time before and after, over the ways to run a network."""
    before, after = (min(times) for times in zip(*ways, strict=True))
    return float(before), float(after)


def _pair(values: Any) -> tuple[int, int]:
    before, after = values
    return int(before), int(after)
