"""A reduced network, rebuilt from its architecture file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.networks.base import Classifier, Network
from lightning_pocket.storage import DAMAGED, partial_path

from .architecture import Architecture
from .body import Unit, build_body, schedule
from .graph import IMAGE
from .shapes import check_shapes

#: Names of the two files of a reduced network, side by side.
ARCHITECTURE, WEIGHTS = "architecture.json", "weights.pt"
_MOST_NAMES = 3


class CompactNetwork(Network):
    """What `pocket shrink` made of a trained network; it can be trained further.

    Args:
        architecture: Architecture file, folder that holds one, or the content of one.
        in_channels: Channels of the images, which must be those of the architecture; null takes these.
        out_channels: Number of classes, which must be that of the architecture; null takes this.
        pretrained: Whether a training that begins anew takes the weights beside the architecture file.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *S)``, each of ``S`` a multiple of ``divisor``.

    Raises:
        PocketError: If the file is damaged, or is that of a network for other images or classes.
    """

    classifies = False

    def __init__(
        self,
        architecture: str | dict[str, Any],
        in_channels: int | None = None,
        out_channels: int | None = None,
        pretrained: bool = True,
    ) -> None:
        self_file = None if isinstance(architecture, dict) else _file(Path(architecture))
        found = (
            Architecture.from_dict(architecture, "network.architecture")
            if self_file is None
            else Architecture.read(self_file)
        )
        super().__init__(found.in_channels, found.out_channels, found.spatial_dims, found.divisor)
        self.architecture = found
        self._file = self_file
        self._pretrained = pretrained
        self._check(in_channels, out_channels)
        check_shapes(found, str(self_file or "network.architecture"))
        self.body, units = build_body(found)
        self._all = schedule(units, found.outputs)
        self._first = schedule(units, found.outputs[:1])

    def _check(self, in_channels: int | None, out_channels: int | None) -> None:
        source = self._file or "network.architecture"
        if self.architecture.classifies != self.classifies:
            kind = "CompactClassifier" if self.architecture.classifies else "CompactNetwork"
            raise PocketError(
                f"{source}: is the architecture of a {kind}, found {type(self).__name__}. Set network.class_path to "
                f"lightning_pocket.compact.{kind}."
            )
        for key, given, own in (
            ("in_channels", in_channels, self.in_channels),
            ("out_channels", out_channels, self.out_channels),
        ):
            if given is not None and given != own:
                raise PocketError(
                    f"network.{key}: found {given}, but {source} is a network of {own}. Train it on data like those of "
                    "the network that was reduced."
                )

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self._run(x, self._first, self.architecture.outputs[:1])[0]

    @override
    def outputs(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        return self._run(x, self._all, self.architecture.outputs)

    @override
    def load_pretrained(self) -> str:
        file = None if self._file is None else self._file.with_name(WEIGHTS)
        if file is None or not self._pretrained or not file.is_file():
            return ""
        load_weights(self, file)
        return f"network: {len(self.state_dict())} tensors from {file}"

    @override
    def recorded(self) -> dict[str, Any]:
        return {"architecture": self.architecture.to_dict()}

    def _run(self, x: Tensor, units: Sequence[Unit], outputs: Sequence[str]) -> list[Tensor]:
        results = {IMAGE: x}
        for unit in units:
            results[unit.name] = unit.module(*[results[name] for name in unit.inputs])
            for name in unit.last:
                del results[name]
        return [results[name] for name in outputs]


class CompactClassifier(CompactNetwork, Classifier):
    """What `pocket shrink` made of a trained classifier; see :class:`CompactNetwork`.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``.
    """

    classifies = True


def make_network(architecture: str | dict[str, Any] | Architecture) -> CompactNetwork:
    """Return a reduced network with new weights, of the class that suits its architecture."""
    content: Any = architecture
    if isinstance(architecture, Architecture):
        content = architecture.to_dict()
    found = architecture if isinstance(architecture, Architecture) else None
    if found is None:
        found = (
            Architecture.from_dict(content) if isinstance(content, dict) else Architecture.read(_file(Path(content)))
        )
    return (CompactClassifier if found.classifies else CompactNetwork)(content)


def load_compact(path: str | Path) -> CompactNetwork:
    """Return a reduced network with its weights, in evaluation mode.

    Args:
        path: Architecture file, or the folder that holds it; the weights lie beside it. Only numbers, names and tensors
            are read from them, never code.

    Raises:
        PocketError: If a file is missing or damaged, or the two do not belong together.
    """
    file = _file(Path(path))
    with torch.device("meta"):  # the shapes are compared before memory is taken: the files may say anything
        blank = make_network(str(file))
    weights = file.with_name(WEIGHTS)
    state = _read_weights(weights)
    _check_fit(blank, state, weights)
    network = make_network(str(file))
    _take(network, state)
    return network.eval()


def save_compact(network: CompactNetwork, folder: Path) -> None:
    """Write architecture and weights.

    Args:
        network: A reduced network.
        folder: Is made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS
    partial = partial_path(weights)
    torch.save(network.state_dict(), partial)
    partial.replace(weights)
    network.architecture.write(folder / ARCHITECTURE)


def load_weights(network: CompactNetwork, file: Path) -> None:
    """Take the weights in a file.

    Args:
        network: Its weights are replaced, all of them or none.
        file: State dict that :func:`save_compact` wrote.

    Raises:
        PocketError: If the file is missing or damaged, or does not fit.
    """
    state = _read_weights(file)
    _check_fit(network, state, file)
    _take(network, state)


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise PocketError(f"{file}: no such file. The weights lie beside the architecture; copy both.")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise PocketError(f"{file}: not a file of weights, or a damaged one ({type(error).__name__}).") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise PocketError(f"{file}: holds something other than tensors by name.")
    return state


def _check_fit(network: CompactNetwork, state: dict[str, Tensor], file: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = {
        "lacks": [name for name in expected if name not in found],
        "has an unknown": [name for name in found if name not in expected],
        "has a wrong shape in": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    told = [f"{what} {_listed(names)}" for what, names in problems.items() if names]
    if told:
        raise PocketError(f"{file}: does not fit the architecture beside it: it {'; it '.join(told)}.")


def _take(network: CompactNetwork, state: dict[str, Tensor]) -> None:
    types = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(types) == 1:
        network.to(types.pop())
    network.load_state_dict(state)


def _file(path: Path) -> Path:
    return path / ARCHITECTURE if path.is_dir() else path


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
