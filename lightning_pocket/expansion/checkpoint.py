"""A checkpoint with expanded layers as one of the compact network."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expanded, Expansion, contract, is_expanded
from lightning_pocket.storage import partial_path, sha256
from lightning_pocket.tasks.loading import load_task, read_checkpoint

from .verify import check_layers, check_networks

#: Parts of a checkpoint that belong to the training of the factors.
_OF_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", "MixedPrecision")


@dataclass(frozen=True)
class Contraction:
    """What was written.

    Args:
        layers: Number of expanded layers.
        before: Trained parameters of the expanded network.
        after: Parameters of the compact one.
        exact: Largest relative difference in float64.
        rounded: The same with the weights that were written.
    """

    layers: int
    before: int
    after: int
    exact: float
    rounded: float


def contract_checkpoint(source: Path, output: Path) -> Contraction:
    """Write the checkpoint of the compact network, after it was compared with the expanded one.

    Everything that describes the task stays: classes, spacing, preprocessing, settings. The states of optimizer,
    schedule and callbacks belong to the factors and are left out.

    Args:
        source: Checkpoint of a run with ``layers.expansion``.
        output: File to write.

    Raises:
        PocketError: If there is nothing to contract, it cannot be contracted, or the two networks differ.
    """
    content = read_checkpoint(source)
    task = load_task(source)
    expanded = task.network
    if not is_expanded(expanded):
        raise PocketError(
            f"{source}: has no expanded layers, so there is nothing to contract. It can be used as it is."
        )
    layers = sum(isinstance(layer, Expanded) for layer in expanded.modules())
    before = _count(expanded)
    worst = check_layers(expanded)
    task.network = copy.deepcopy(expanded)
    contract(task.network)
    content["state_dict"] = task.state_dict()
    content["hyper_parameters"] = without_expansion(content["hyper_parameters"])
    for name in _OF_TRAINING:
        content.pop(name, None)
    content["contracted_from"] = {"checkpoint": str(source), "sha256": sha256(source)}
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(output)
    try:
        torch.save(content, partial)
        compact = load_task(partial).network  # as anyone will read it
        exact, rounded = check_networks(expanded, compact)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return Contraction(layers, before, _count(compact), max(worst, exact), rounded)


def without_expansion(settings: Any) -> Any:
    """Return settings with every expansion set to none, a copy.

    Args:
        settings: Plain values, as in a config or among the hyper-parameters of a checkpoint.
    """
    if isinstance(settings, dict):
        plain = {key: without_expansion(value) for key, value in settings.items()}
        if isinstance(plain.get("expansion"), dict):
            plain["expansion"] = asdict(Expansion())
        return type(settings)(plain)
    return [without_expansion(value) for value in settings] if isinstance(settings, list) else settings


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
