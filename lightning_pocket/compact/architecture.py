"""Architecture files: a network as a list of operations, in JSON. Numbers and names only, never code."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, write_text

from .fields import Misfit, check_keys, flag, integer, list_of, shown
from .graph import IMAGE
from .vocabulary import OPERATIONS

FORMAT, VERSION = "lightning_pocket.compact", 1
_NAME = re.compile(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*")
_RESERVED = set(dir(nn.Module())) | set(dir(nn.Sequential()))
_MOST_NODES = 100_000
_MOST_BYTES = 2**26
_MOST_PARAMETERS = 2**32


def step_name(path: str) -> str:
    """Return the path of a module as the name of a step: what names must not hold becomes an underscore."""
    parts = [re.sub(r"\W", "_", part, flags=re.ASCII) for part in path.split(".")]
    return ".".join(f"{part}_" if part in _RESERVED else part for part in parts)


@dataclass(frozen=True)
class Step:
    """One operation.

    Args:
        name: Unique; the path of its module below the network's ``body``.
        op: A key of ``OPERATIONS``.
        inputs: Names of earlier steps, or ``image``.
        settings: What ``op`` needs.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A network without its weights.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the output, one per class.
        spatial_dims: Number of spatial axes.
        divisor: Each spatial size of the image must be a multiple of it, axis by axis.
        classifies: Whether the image is judged as a whole.
        steps: What is computed, in order.
        outputs: Names of the steps that are returned; the first is the prediction.
    """

    in_channels: int
    out_channels: int
    spatial_dims: int
    divisor: tuple[int, ...]
    classifies: bool
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in a file."""
        content = asdict(self)
        steps = [{"name": s.name, "op": s.op, "inputs": list(s.inputs), "settings": s.settings} for s in self.steps]
        plain = {"divisor": list(self.divisor), "outputs": list(self.outputs), "steps": steps}
        return {"format": FORMAT, "version": VERSION, **content, **plain}

    @classmethod
    def from_dict(cls, content: Any, source: str = "architecture") -> Architecture:
        """Check plain values, down to the number of channels between any two operations.

        Args:
            content: What :meth:`to_dict` returned.
            source: Where it is from, for messages.

        Raises:
            PocketError: If something is wrong; the message names the operation.
        """
        try:
            return _parse(content)
        except Misfit as misfit:
            raise PocketError(
                f"{source}: {misfit}. It must be an architecture file that `pocket shrink` wrote, unchanged."
            ) from misfit

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; one line for each step."""
        content = self.to_dict()
        steps = ",\n  ".join(json.dumps(step, allow_nan=False) for step in content.pop("steps"))
        head = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}")
        write_text(path, f'{head},\n "steps": [\n  {steps}\n ]\n}}\n')

    @classmethod
    def read(cls, path: Path) -> Architecture:
        """Read a file.

        Raises:
            PocketError: If it cannot be read, or holds anything else.
        """
        if not path.is_file():
            raise PocketError(f"{path}: no such architecture file. `pocket shrink` writes them.")
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise PocketError(f"{path}: has {size / 2**20:.0f} MiB, too many for an architecture file.")
        try:
            content = read_json(path)
        except RecursionError as error:
            raise PocketError(f"{path}: is nested too deeply for an architecture file.") from error
        return cls.from_dict(content, str(path))


def _parse(content: Any) -> Architecture:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Misfit(f"is no architecture: format is not {FORMAT!r}")
    if content.get("version") != VERSION:
        raise Misfit(f"version: found {shown(content.get('version'))}, this program reads {VERSION}")
    keys = ("in_channels", "out_channels", "spatial_dims", "divisor", "classifies", "steps", "outputs")
    check_keys(content, ("format", "version", *keys))
    dims = content["spatial_dims"]
    _named("in_channels", integer(1), content["in_channels"])
    _named("out_channels", integer(1), content["out_channels"])
    _named("spatial_dims", integer(1, 3), dims)
    _named("divisor", list_of(integer(1), dims, dims), content["divisor"])
    _named("classifies", flag, content["classifies"])
    if not isinstance(content["steps"], list) or not 0 < len(content["steps"]) <= _MOST_NODES:
        raise Misfit(f"steps: expected a list of 1 to {_MOST_NODES} operations")
    channels = {IMAGE: content["in_channels"]}
    steps = tuple(_parse_step(entry, channels, dims) for entry in content["steps"])
    outputs = content["outputs"]
    if not isinstance(outputs, list) or not outputs or not set(map(str, outputs)) <= set(channels):
        raise Misfit(f"outputs: found {shown(outputs)}, expected names of steps")
    if channels[outputs[0]] != content["out_channels"]:
        raise Misfit(f"out_channels: found {content['out_channels']}, but the output has {channels[outputs[0]]}")
    _check_parameters(steps)
    return Architecture(
        content["in_channels"],
        content["out_channels"],
        dims,
        tuple(content["divisor"]),
        content["classifies"],
        steps,
        tuple(outputs),
    )


def _parse_step(entry: Any, channels: dict[str, int], dims: int) -> Step:
    """Check a step, and add the number of its channels to those of the steps before it."""
    check_keys(entry, ("name", "op", "inputs", "settings"))
    name, op, inputs = entry["name"], entry["op"], entry["inputs"]
    if not isinstance(name, str) or len(name) > 500 or not _NAME.fullmatch(name) or set(name.split(".")) & _RESERVED:
        raise Misfit(f"steps: found the name {shown(name)}, expected letters, digits, _ and dots")
    if name in channels:
        raise Misfit(f"{name}: is there twice")
    if not isinstance(op, str) or op not in OPERATIONS:
        raise Misfit(f"{name}: op: found {shown(op)}, expected one of {', '.join(OPERATIONS)}")
    if not isinstance(inputs, list) or not all(isinstance(source, str) and source in channels for source in inputs):
        raise Misfit(f"{name}: inputs: found {shown(inputs)}, expected names of steps before it")
    try:
        channels[name] = OPERATIONS[op].check(entry["settings"], [channels[source] for source in inputs], dims)
    except Misfit as misfit:
        raise Misfit(f"{name} ({op}): {misfit}") from misfit
    return Step(name, op, tuple(inputs), entry["settings"])


def _check_parameters(steps: Sequence[Step]) -> None:
    """Refuse names of which one is a folder of another, and more numbers than any machine can hold."""
    names = sorted(step.name.split(".") for step in steps)
    for name, following in pairwise(names):
        if following[: len(name)] == name:
            raise Misfit(f"{'.'.join(following)}: lies inside {'.'.join(name)}, which is an operation itself")
    total = sum(_size(step) for step in steps)
    if total > _MOST_PARAMETERS:
        raise Misfit(f"describes {total:.3g} parameters, more than {_MOST_PARAMETERS:.3g}")


def _size(step: Step) -> int:
    """Return about how many numbers the weights of a step are."""
    settings = step.settings
    if step.op == "linear":
        return int(settings["in"] * settings["out"])
    total = 0
    for part in settings.get("parts", ()):
        taps = 1
        for side in part["kernel"]:
            taps *= side
        total += part["in"] * part["out"] // part["groups"] * taps
    return int(total)


def _named(key: str, check: Any, value: Any) -> None:
    try:
        check(value)
    except Misfit as misfit:
        raise Misfit(f"{key}: {misfit}") from misfit
