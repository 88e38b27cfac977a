"""How many channels each operation of an architecture file gives, and whether its settings suit its inputs.

Each function takes the settings, which have been checked one by one, and the number of channels of each input, and
raises ``Misfit`` where they contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .activations import ACTIVATIONS
from .fields import Misfit, indices, number, one_of

Settings = Mapping[str, Any]


def same(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels of the first input."""
    del settings
    return channels[0]


def given(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels that are named, which must be those of the input."""
    if settings["channels"] != channels[0]:
        raise Misfit(f"channels: found {settings['channels']}, but its input has {channels[0]}")
    return channels[0]


def conv(settings: Settings, channels: Sequence[int]) -> int:
    """Return the outputs of a convolution."""
    for part in settings["parts"]:
        if part["select"] is not None:
            indices(channels[0])(part["select"])
        selected = channels[0] if part["select"] is None else len(part["select"])
        if part["in"] != selected:
            raise Misfit(f"a part reads {part['in']} channels, but is given {selected}")
        if part["in"] % part["groups"] or part["out"] % part["groups"]:
            raise Misfit(f"a part of {part['in']} to {part['out']} channels cannot have {part['groups']} groups")
        sides = [side for axis in part["padding"] for side in axis]
        if settings["output_padding"] is not None and any(before != after for before, after in part["padding"]):
            raise Misfit(f"padding: found {sides}, expected the same before and after")
    _check_sizes(settings)
    if not settings["border"] and (settings["free"] or not settings["parts"]):
        raise Misfit("border: is null, but there are outputs without kernels")
    outputs = settings["free"] + sum(int(part["out"]) for part in settings["parts"])
    if not outputs:
        raise Misfit("has no outputs")
    return int(outputs)


def _check_sizes(settings: Settings) -> None:
    """Refuse parts whose results, which are put side by side, differ in size, and what torch does not pad."""
    border = settings["border"]
    sides = zip(settings["output_padding"] or [], settings["stride"], settings["dilation"], strict=False)
    if any(extra >= max(step, gap) for extra, step, gap in sides):
        raise Misfit(f"output_padding: found {settings['output_padding']}, expected less than stride or dilation")
    if border and settings["mode"] != "zeros":
        raise Misfit(f"border: is given with mode {settings['mode']!r}, expected null")
    grown = [
        [
            before + after - step * (taps - 1)
            for (before, after), step, taps in zip(part["padding"], settings["dilation"], part["kernel"], strict=True)
        ]
        for part in [*settings["parts"], *([border] if border else [])]
    ]
    if any(sides != grown[0] for sides in grown):
        raise Misfit("padding: the parts give results of different sizes")


def pool(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels of the input, after a look at the padding."""
    steps = settings.get("dilation", [1] * len(settings["kernel"]))
    reach = [step * (taps - 1) + 1 for step, taps in zip(steps, settings["kernel"], strict=True)]
    if any(2 * side > taps for side, taps in zip(settings["padding"], reach, strict=True)):
        raise Misfit(f"padding: found {settings['padding']}, expected at most half of the kernel")
    return channels[0]


def linear(settings: Settings, channels: Sequence[int]) -> int:
    """Return the outputs of a linear layer."""
    if settings["in"] != channels[0]:
        raise Misfit(f"in: found {settings['in']}, but its input has {channels[0]} channels")
    return int(settings["out"])


def prelu(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels of the input."""
    return channels[0] if settings["channels"] == 1 else given(settings, channels)


def select(settings: Settings, channels: Sequence[int]) -> int:
    """Return how many channels are selected."""
    indices(channels[0])(settings["channels"])
    return len(settings["channels"])


def fill(settings: Settings, channels: Sequence[int]) -> int:
    """Return how many channels there are with constants."""
    indices(settings["channels"])(settings["positions"])
    if settings["positions"] and len(settings["positions"]) != channels[0]:
        raise Misfit(f"positions: has {len(settings['positions'])} entries, but its input has {channels[0]} channels")
    return int(settings["channels"])


def add(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels of a sum."""
    if len(settings["positions"]) != len(channels):
        raise Misfit(f"positions: has {len(settings['positions'])} entries for {len(channels)} inputs")
    for positions, given in zip(settings["positions"], channels, strict=True):
        if positions is not None:
            indices(settings["channels"])(positions)
        expected = settings["channels"] if positions is None else len(positions)
        if expected != given:
            raise Misfit(f"positions: an input has {given} channels, expected {expected}")
    return int(settings["channels"])


def concat(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels of all inputs."""
    del settings
    return sum(channels)


def flatten(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels, or the voxels of all of them."""
    return channels[0] * (int(settings["voxels"]) if settings["start"] == 1 else 1)


def none(settings: Settings, channels: Sequence[int]) -> int:
    """Return 0: a size has no channels."""
    del settings, channels
    return 0


def activation(settings: Settings, channels: Sequence[int]) -> int:
    """Return the channels of the input, after a look at the arguments."""
    known = ACTIVATIONS[settings["kind"]][1]
    if not set(settings["arguments"]) <= set(known):
        raise Misfit(f"arguments: has an unknown {', '.join(sorted(set(settings['arguments']) - set(known)))}")
    for key, value in settings["arguments"].items():
        (one_of("none", "tanh") if key == "approximate" else number)(value)
    return channels[0]
