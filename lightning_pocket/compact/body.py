"""The modules of a reduced network, in folders named as in the network before, and the order in which they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from .architecture import Architecture, Step
from .vocabulary import OPERATIONS


@dataclass
class Unit:
    """A module that is called.

    Args:
        name: Of the result.
        module: A step, or a sequence of them of which only the last result is used.
        inputs: Names of results.
        last: Names of results that nobody needs after it.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    last: tuple[str, ...] = ()


def build_body(architecture: Architecture) -> tuple[nn.Module, list[Unit]]:
    """Make every step.

    A folder whose steps follow each other, each the only one to use the result before it, becomes a sequence: so a
    convolution and the norm behind it can be folded into one, as in other networks.

    Args:
        architecture: The network.

    Returns:
        A module that holds all of them by their names, and the units in order.
    """
    body = nn.Module()
    chains = _chains(architecture.steps, architecture.outputs)
    units: list[Unit] = []
    for step in architecture.steps:
        module = OPERATIONS[step.op].build(step.settings, architecture.spatial_dims)
        chain = next((chain for chain in _folders(step.name) if chain in chains), None)
        _install(body, step.name, module, chains)
        if chain is None:
            units.append(Unit(step.name, module, step.inputs))
        elif chains[chain][0] is step:
            units.append(Unit(chains[chain][-1].name, body.get_submodule(chain), step.inputs))
    return body, units


def schedule(units: Sequence[Unit], outputs: Sequence[str]) -> list[Unit]:
    """Return the units that some outputs need, each with the results that nobody needs after it."""
    wanted = set(outputs)
    scheduled: list[Unit] = []
    for unit in reversed(units):
        if unit.name in wanted:
            scheduled.append(replace(unit, last=tuple(sorted(set(unit.inputs) - wanted))))
            wanted |= set(unit.inputs)
    return scheduled[::-1]


def _folders(name: str) -> list[str]:
    """Return the folders that a step lies in, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _chains(steps: Sequence[Step], outputs: Sequence[str]) -> dict[str, list[Step]]:
    """Return the folders that are sequences, with their steps."""
    uses = Counter(source for step in steps for source in step.inputs) + Counter(outputs)
    inside: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        for folder in _folders(step.name):
            inside.setdefault(folder, []).append(index)
    found = {}
    for folder, indices in inside.items():
        contiguous = indices == list(range(indices[0], indices[0] + len(indices)))
        own = [steps[index] for index in indices]
        follow = all(after.inputs == (before.name,) and uses[before.name] == 1 for before, after in pairwise(own))
        if contiguous and follow and len(own[0].inputs) == 1:
            found[folder] = own
    return found


def _install(body: nn.Module, name: str, module: nn.Module, chains: dict[str, list[Step]]) -> None:
    """Put a module where its name says, making the folders on the way."""
    *folders, last = name.split(".")
    path = ""
    for folder in folders:
        path = f"{path}.{folder}".lstrip(".")
        if folder not in body._modules:
            body.add_module(folder, nn.Sequential() if path in chains else nn.Module())
        body = body.get_submodule(folder)
    body.add_module(last, module)
