"""The kernels of trained networks: how strong their taps are, and how alike they are."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lightning_pocket.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from lightning_pocket.reports.kernel_chart import Taps

_ALIVE, _ALIKE = "sparsity/alive/", "sparsity/correlation/"


def penalized_layers(run: Path) -> set[str]:
    """Return the names of the layers that a penalty was on; none without one."""
    rows = _rows(run)
    return {name.removeprefix(_ALIVE) for name in (rows[0] if rows else {}) if name.startswith(_ALIVE)}


def correlation_curve(run: Path) -> list[tuple[float, float]]:
    """Return the mean correlation of kernels over the layers with at least two living ones, by epoch from 1.

    Args:
        run: A run with a penalty, which logs it.
    """
    found: dict[float, float] = {}
    for row in _rows(run):
        layers = [name.removeprefix(_ALIKE) for name in row if name.startswith(_ALIKE) and row[name]]
        values = [float(row[_ALIKE + name]) for name in layers if float(row[_ALIVE + name]) > 1]
        if values:
            found[float(row["epoch"]) + 1] = fmean(values)
    return sorted(found.items())


def network_of(run: Path) -> nn.Module:
    """Return the trained network of a run, contracted, before anything was removed from it."""
    from lightning_pocket.layers import contract_for_use
    from lightning_pocket.tasks import load_task

    network = load_task(RunFolder(run).last).network
    contract_for_use(network)
    return network


def correlation(network: nn.Module, layers: Sequence[str]) -> float | None:
    """Return the mean correlation of kernels over layers; None where none of them has two living ones.

    Args:
        network: A network.
        layers: Names of convolutions in it.
    """
    from lightning_pocket.regularizers import kernel_correlation
    from lightning_pocket.regularizers.kernels import to_kernels

    convolutions = [network.get_submodule(name) for name in layers]
    found = [kernel_correlation(to_kernels(conv, conv.weight)) for conv in convolutions]  # type: ignore[arg-type]
    values = [value for value in found if value is not None]
    return fmean(values) if values else None


def taps_of(network: nn.Module, layers: Sequence[str], most: int) -> Mapping[str, list[Taps]]:
    """Return the norm of each tap of the first kernels of layers.

    Args:
        network: A network.
        layers: Names of convolutions in it.
        most: How many kernels of each.

    Returns:
        By layer and kernel, rows of columns: norms over the input channels, and in volumes over the slices.
    """
    from lightning_pocket.regularizers.kernels import to_kernels

    found: dict[str, list[Taps]] = {}
    for name in layers:
        conv = network.get_submodule(name)
        kernels = to_kernels(conv, conv.weight).detach()[:most]  # type: ignore[arg-type]
        energy = kernels.double().square().sum(1)
        planes = energy.reshape(len(energy), -1, *energy.shape[-2:]).sum(1).sqrt()
        found[name] = planes.tolist()
    return found


def _rows(run: Path) -> list[dict[str, str]]:
    table = run / "metrics.csv"
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
