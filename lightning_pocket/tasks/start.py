"""Begin with the weights of another run, as far as they fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import FACTORS, as_plain, contract
from lightning_pocket.networks.base import Network
from lightning_pocket.storage import sha256

from .base import BaseTask
from .head import head_layers, layer_of
from .loading import load_task, read_checkpoint

_MOST_LINES = 12


@dataclass(frozen=True)
class Start:
    """What was taken from a checkpoint.

    Args:
        checkpoint: The file.
        sha256: SHA-256 of its content.
        kept: Names of the tensors that were taken.
        new: Why each of the other tensors starts new, by name.
        parameters: Parameters of the network that were taken, and all of them.
        notes: What else differs between the data of both runs.
    """

    checkpoint: Path
    sha256: str
    kept: list[str]
    new: dict[str, str]
    parameters: tuple[int, int]
    notes: list[str]

    @property
    def record(self) -> dict[str, Any]:
        """What the run's manifest says of it, as plain types."""
        kept, total = self.parameters
        return {
            "start_from": str(self.checkpoint),
            "sha256": self.sha256,
            "kept_parameters": kept,
            "parameters": total,
            "new": list(self.new),
        }

    def __str__(self) -> str:
        kept, total = self.parameters
        tensors = len(self.kept) + len(self.new)
        lines = [
            f"start from {self.checkpoint}: kept {len(self.kept)} of {tensors} tensors, "
            f"{kept:,} of {total:,} parameters"
        ]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  new: {name}: {reason}" for name, reason in list(self.new.items())[:_MOST_LINES]]
        more = len(self.new) - _MOST_LINES
        return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)


def start_from(task: BaseTask, source: str | Path) -> Start:
    """Copy the weights of a checkpoint into the network of a task, as far as they fit.

    A layer is taken whole, or starts new: it is taken where all of its tensors have the same names and shapes in both.
    The head is taken only where both runs have the same classes in the same order. Of a run with ``WeightAverage``
    the checkpoint gives the averages. Layers that are expanded alike in both are taken factor by factor, those of the
    nonlinear counterpart of an expanded network too; otherwise what they contract to is taken.

    Args:
        task: Its network is changed in place.
        source: Checkpoint that ``pocket fit`` wrote, or a run folder, which stands for its last checkpoint.

    Returns:
        What was taken and what was not.

    Raises:
        PocketError: If there is no such checkpoint, or no layer of it fits.
    """
    path = Path(source) / "checkpoints" / "last.ckpt" if Path(source).is_dir() else Path(source)
    content = read_checkpoint(path)
    saved = _network_state(content["state_dict"])
    with _comparable(task.network, saved, path) as saved:
        return _start(task, path, content, saved)


def _start(task: BaseTask, path: Path, content: dict[str, Any], saved: dict[str, Tensor]) -> Start:
    """Copy what fits of a state dict of the network."""
    current = task.network.state_dict()
    data = content["hyper_parameters"].get("dataset", {})
    same_classes = data.get("classes") == task.info.classes
    head = head_layers(task.network)
    new = _reasons(current, saved, set() if same_classes else head)
    kept = [name for name in current if name not in new]
    # Norms and heads of the same width fit any network.
    if not any(current[name].ndim > 1 and layer_of(name) not in head for name in kept):
        raise PocketError(
            f"--start_from {path}: holds the weights of a {_class_name(content)} of other settings, none of which fit "
            f"this {type(task.network).__name__}. Give the same network settings, or leave the option out."
        )
    task.network.load_state_dict({name: saved[name] for name in kept}, strict=False)
    sizes = {name: parameter.numel() for name, parameter in task.network.named_parameters()}
    parameters = (sum(sizes.get(name, 0) for name in kept), sum(sizes.values()))
    return Start(path, sha256(path), kept, new, parameters, _notes(task, data))


def _network_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "network."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _comparable(network: Network, saved: dict[str, Tensor], path: Path) -> Iterator[dict[str, Tensor]]:
    """Yield the saved tensors by the names that the network has meanwhile.

    It is contracted, and they are, unless both have equal factors.
    """
    own = {name: tensor.shape for name, tensor in network.state_dict().items() if FACTORS in name}
    other = {name: tensor.shape for name, tensor in saved.items() if FACTORS in name}
    if own == other:
        yield saved
        return
    if other:
        source = load_task(path).network
        contract(source)
        saved = source.state_dict()
    with as_plain(network):
        yield saved


def _reasons(current: dict[str, Tensor], saved: dict[str, Tensor], head: set[str]) -> dict[str, str]:
    """Return why each tensor that is not taken starts new."""
    misfits = {name: _misfit(tensor, saved.get(name)) for name, tensor in current.items()}
    broken = {layer_of(name) for name, reason in misfits.items() if reason}
    reasons = {}
    for name, tensor in current.items():
        if layer_of(name) in head:
            old = _shape(saved[name]) if name in saved else "absent"
            reasons[name] = f"{old} -> {_shape(tensor)}, other classes"
        elif layer_of(name) in broken:
            reasons[name] = misfits[name] or f"{_shape(tensor)}, its layer is new"
    return reasons


def _misfit(tensor: Tensor, saved: Tensor | None) -> str:
    if saved is None:
        return f"absent -> {_shape(tensor)}"
    return "" if saved.shape == tensor.shape else f"{_shape(saved)} -> {_shape(tensor)}"


def _notes(task: BaseTask, data: dict[str, Any]) -> list[str]:
    notes = []
    if data.get("classes") != task.info.classes:
        notes.append(f"classes: {_listed(data.get('classes', []))} -> {_listed(task.info.classes)}; the head is new")
    if data.get("channels") != task.info.channels:
        channels = f"{_listed(data.get('channels', []))} -> {_listed(task.info.channels)}"
        notes.append(f"channels: {channels}; weights are kept by position where their number is the same")
    return notes


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "unknown"


def _class_name(content: dict[str, Any]) -> str:
    network = content["hyper_parameters"].get("network", {})
    path = network.get("class_path", "") if isinstance(network, dict) else type(network).__name__
    return str(path).rpartition(".")[2] or "network"
