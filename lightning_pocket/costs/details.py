"""More about single networks: each layer, what fits a memory, and how fast their data come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_pocket.errors import PocketError
from lightning_pocket.profiling.macs import count_layers
from lightning_pocket.profiling.memory import Device, largest_batch, largest_patch, predict_training
from lightning_pocket.reports.table_files import Table

from .plan import Size
from .recipe import Recipe
from .run import Row, Say
from .tables import amount, format_size

#: Columns of the table of layers, as records.
LAYER_COLUMNS = ("network", "layer", "kind", "parameters", "macs", "output_shape", "activation_mib")


def layer_records(label: str, recipe: Recipe, batch: int, patch: Size) -> list[dict[str, Any]]:
    """Return one record for each layer of a network.

    Args:
        label: What the network is called.
        recipe: The network.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.

    Raises:
        PocketError: If the network cannot process such images.
    """
    with torch.device("meta"):
        network = recipe.make_network()
    return [
        {
            "network": label,
            "layer": layer.name,
            "kind": layer.kind,
            "parameters": layer.parameters,
            "macs": layer.macs,
            "output_shape": format_size(tuple(layer.output_shape)),
            "activation_mib": layer.activation_mib,
        }
        for layer in count_layers(network, (batch, recipe.in_channels, *patch))
    ]


@dataclass(frozen=True)
class Layers:
    """The layers of a network.

    Args:
        label: What the network is called.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.
        records: What :func:`layer_records` returned.
    """

    label: str
    batch: int
    patch: Size
    records: list[dict[str, Any]]

    def table(self) -> Table:
        """Return them as a table, with the share that each has of all MACs."""
        total = sum(record["macs"] for record in self.records) or 1
        lines = [
            [
                record["layer"],
                record["kind"],
                f"{record['parameters']:,}",
                f"{record['macs'] / 1e9:,.3f}",
                f"{record['macs'] / total:.1%}",
                record["output_shape"],
                amount(record["activation_mib"]),
            ]
            for record in self.records
        ]
        header = ["layer", "kind", "parameters", "GMAC", "of all", "output", "MiB"]
        return Table(f"Layers: {self.label}, batch {self.batch}, {format_size(self.patch)}", header, lines)


@dataclass(frozen=True)
class _Tried:
    peak_mib: float


def fit_line(row: Row, recipe: Recipe, device: Device, budget_mib: float, say: Say) -> list[str]:
    """Return what trains within a memory: the largest batch of a patch, and the largest patch of a batch.

    Args:
        row: A network with the batch and patch that stay while the other grows.
        recipe: The network.
        device: Where it would be trained.
        budget_mib: Memory that there is.
        say: Told what is tried.

    Returns:
        The cells of a line of :func:`fit_table`.
    """
    refused: set[tuple[int, Size]] = set()

    def predict(count: int, size: Sequence[int]) -> _Tried:
        shape = (count, recipe.in_channels, *size)
        what = f"{row.candidate.label}, batch {count}, {format_size(tuple(size))}"
        try:
            peak = predict_training(
                lambda: network, recipe.loss, recipe.make_optimizer, shape, recipe.num_classes, row.precision, device
            ).peak_mib
        except (PocketError, ValueError, RuntimeError) as error:  # too few values for a norm: larger ones may do
            say(f"{what}: {error}")
            refused.add((count, tuple(size)))
            peak = 0.0
        else:
            say(f"{what}: {peak / 1024:.2f} GiB")
        return _Tried(peak)

    with torch.device("meta"):
        network = recipe.make_network()
    most = largest_batch(lambda count: predict(count, row.patch), budget_mib)
    size = largest_patch(lambda size: predict(row.batch, size), row.patch, network.divisor, budget_mib)
    found = "none" if size is None or (row.batch, size) in refused else format_size(size)
    count = "none" if not most or (most, row.patch) in refused else str(most)
    return [row.candidate.label, row.size, count, str(row.batch), found]


def fit_table(lines: list[list[str]], budget_gib: float) -> Table:
    """Return the table of what fits.

    Args:
        lines: What :func:`fit_line` returned.
        budget_gib: Memory that there is.
    """
    header = ["network", "with patch", "largest batch", "with batch", "largest patch"]
    return Table(f"What trains in {budget_gib:g} GiB, as predicted", header, lines)
