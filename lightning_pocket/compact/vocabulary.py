"""The operations of architecture files: what each one needs, gives and is built of. There is no other way to code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from . import channel_rules as rules
from .activations import ACTIVATIONS, make_activation
from .channel_rules import Settings
from .convolution import make_convolution
from .fields import (
    MOST,
    PADDING,
    Check,
    Misfit,
    axes,
    check_keys,
    flag,
    integer,
    list_of,
    nullable,
    number,
    one_of,
    record,
)
from .wiring import (
    BATCH_NORMS,
    AdaptivePool,
    Add,
    Concat,
    ExpandLike,
    Fill,
    Reduce,
    ResizeLike,
    Scale,
    Select,
    Shift,
    Size,
)


@dataclass(frozen=True)
class Operation:
    """An operation.

    Args:
        fields: Check of every setting.
        channels: Number of channels of the result, of the settings and those of the inputs; raises ``Misfit``.
        build: Makes the module, of the settings and the number of spatial axes.
        inputs: Least and largest number of inputs.
    """

    fields: Mapping[str, Check]
    channels: Callable[[Settings, Sequence[int]], int]
    build: Callable[[Any, int], nn.Module]
    inputs: tuple[int, int] = (1, 1)

    def check(self, settings: Any, channels: Sequence[int], dims: int) -> int:
        """Return the number of channels of the result.

        Args:
            settings: To be checked.
            channels: Of each input.
            dims: Number of spatial axes of the network.

        Raises:
            Misfit: If something is wrong.
        """
        least, most = self.inputs
        if not least <= len(channels) <= most:
            raise Misfit(f"has {len(channels)} inputs, expected {least if least == most else f'{least} to {most}'}")
        record(self.fields)(settings)
        _check_axes(settings, dims)
        _check_interpolation(settings, dims)
        return self.channels(settings, channels)


_TAPS = axes(integer(1, 1024))
_STEPS = axes(integer(1, 4096))
_SIDES = axes(integer(0, 4096))
_EACH = integer(1)
_PART = record(
    {
        "select": nullable(list_of(integer(0))),
        "groups": _EACH,
        "in": _EACH,
        "out": _EACH,
        "kernel": _TAPS,
        "padding": PADDING,
    }
)


def _check_axes(settings: Any, dims: int) -> None:
    """Refuse lists that do not have an entry per spatial axis."""
    for key in ("kernel", "stride", "padding", "dilation", "output_padding", "scale", "size"):
        if isinstance(settings, dict) and isinstance(settings.get(key), list) and len(settings[key]) != dims:
            raise Misfit(f"{key}: has {len(settings[key])} entries, expected {dims}, one per spatial axis")
    if isinstance(settings, dict) and "parts" in settings:
        for part in [*settings["parts"], *([settings["border"]] if settings["border"] else [])]:
            _check_axes(part, dims)


def _check_interpolation(settings: Any, dims: int) -> None:
    """Refuse ways to interpolate that there are not for so many axes."""
    if "align_corners" not in settings:
        return
    mode = settings["mode"]
    if mode in _LINEAR and dims not in _LINEAR[mode]:
        raise Misfit(f"mode: found {mode!r}, which is not for {dims} spatial axes")
    if mode not in _LINEAR and settings["align_corners"] is not None:
        raise Misfit(f"align_corners: found {settings['align_corners']}, expected null with mode {mode!r}")


def _mapping(value: Any) -> None:
    check_keys(value, list(value) if isinstance(value, dict) else [])


def _max_pool(settings: Any, dims: int) -> nn.Module:
    kinds: dict[int, type[Any]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
    pool: nn.Module = kinds[dims](
        tuple(settings["kernel"]),
        tuple(settings["stride"]),
        tuple(settings["padding"]),
        tuple(settings["dilation"]),
        ceil_mode=settings["ceil_mode"],
    )
    return pool


def _average_pool(settings: Any, dims: int) -> nn.Module:
    kinds: dict[int, type[Any]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
    pool: nn.Module = kinds[dims](
        tuple(settings["kernel"]),
        tuple(settings["stride"]),
        tuple(settings["padding"]),
        settings["ceil_mode"],
        settings["count_include_pad"],
    )
    return pool


def _batch_norm(settings: Any, dims: int) -> nn.Module:
    given = {key: settings[key] for key in ("eps", "momentum", "affine")}
    return BATCH_NORMS[dims](settings["channels"], **given)


def _instance_norm(settings: Any, dims: int) -> nn.Module:
    kinds: dict[int, type[Any]] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
    norm: nn.Module = kinds[dims](settings["channels"], eps=settings["eps"], affine=settings["affine"])
    return norm


def _dropout(settings: Any, dims: int) -> nn.Module:
    kinds: dict[int, type[Any]] = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}
    kind = kinds[dims] if settings["channels"] else nn.Dropout
    dropout: nn.Module = kind(settings["p"])
    return dropout


def _upsample(settings: Any, dims: int) -> nn.Module:
    del dims
    return nn.Upsample(
        scale_factor=tuple(settings["scale"]), mode=settings["mode"], align_corners=settings["align_corners"]
    )


def _probability(value: Any) -> None:
    number(value)
    if not 0 <= value <= 1:
        raise Misfit(f"found {value}, expected a probability")


def _not_negative(value: Any) -> None:
    number(value)
    if value < 0:
        raise Misfit(f"found {value}, expected 0 or more")


#: Ways to interpolate between voxels -> for how many axes there are.
_LINEAR = {"linear": (1,), "bilinear": (2,), "bicubic": (2,), "trilinear": (3,)}
_MODE = one_of("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area")
_HOW = one_of("max", "mean")
_SIZES = list_of(nullable(integer(1)), 0, 3)
_SETTINGS_OF_CONV: dict[str, Check] = {
    "parts": list_of(_PART),
    "free": integer(0),
    "bias": flag,
    "border": nullable(record({"kernel": _TAPS, "padding": PADDING})),
    "stride": _STEPS,
    "dilation": _STEPS,
    "output_padding": nullable(_SIDES),
    "mode": one_of("zeros", "reflect", "replicate", "circular"),
}
_WINDOW: dict[str, Check] = {"kernel": _TAPS, "stride": _STEPS, "padding": PADDING, "dilation": _STEPS}

#: Number of settings of each rule of a ``size``.
_SIZE_RULES: dict[str, dict[str, Check]] = {
    "window": _WINDOW | {"ceil_mode": flag},
    "transposed": _WINDOW | {"output_padding": _SIDES},
    "scale": {"scale": axes(number)},
    "fixed": {"size": _SIZES},
    "joined": {},
}


def _check_size(settings: Settings, channels: Sequence[int]) -> int:
    record(_SIZE_RULES[settings["rule"]])(settings["numbers"])
    return rules.none(settings, channels)


OPERATIONS: dict[str, Operation] = {
    "conv": Operation(_SETTINGS_OF_CONV, rules.conv, lambda s, _: make_convolution(s)),
    "linear": Operation(
        {"in": _EACH, "out": _EACH, "bias": flag},
        rules.linear,
        lambda s, _: nn.Linear(s["in"], s["out"], s["bias"]),
    ),
    "batch_norm": Operation(
        {"channels": _EACH, "eps": _not_negative, "momentum": nullable(number), "affine": flag},
        rules.given,
        _batch_norm,
    ),
    "instance_norm": Operation({"channels": _EACH, "eps": _not_negative, "affine": flag}, rules.given, _instance_norm),
    "prelu": Operation({"channels": _EACH}, rules.prelu, lambda s, _: nn.PReLU(s["channels"])),
    "activation": Operation(
        {"kind": one_of(*ACTIVATIONS), "arguments": _mapping},
        rules.activation,
        lambda s, _: make_activation(s["kind"], s["arguments"]),
    ),
    "scale": Operation({"factor": number}, rules.same, lambda s, _: Scale(s["factor"])),
    "dropout": Operation({"p": _probability, "channels": flag}, rules.same, _dropout),
    "max_pool": Operation(
        {"kernel": _TAPS, "stride": _STEPS, "padding": _SIDES, "dilation": _STEPS, "ceil_mode": flag},
        rules.pool,
        _max_pool,
    ),
    "average_pool": Operation(
        {"kernel": _TAPS, "stride": _STEPS, "padding": _SIDES, "ceil_mode": flag, "count_include_pad": flag},
        rules.pool,
        _average_pool,
    ),
    "adaptive_pool": Operation(
        {"how": _HOW, "size": _SIZES}, rules.same, lambda s, _: AdaptivePool(s["how"], s["size"])
    ),
    "reduce": Operation({"how": _HOW, "keep": flag}, rules.same, lambda s, _: Reduce(s["how"], s["keep"])),
    "upsample": Operation(
        {"scale": axes(number), "mode": _MODE, "align_corners": nullable(flag)}, rules.same, _upsample
    ),
    "resize_like": Operation(
        {"mode": _MODE, "align_corners": nullable(flag)},
        rules.same,
        lambda s, _: ResizeLike(s["mode"], s["align_corners"]),
        (2, 2),
    ),
    "expand_like": Operation({}, rules.same, lambda *_: ExpandLike(), (2, 2)),
    "flatten": Operation({"start": integer(1, 2), "voxels": _EACH}, rules.flatten, lambda s, _: nn.Flatten(s["start"])),
    "select": Operation({"channels": list_of(integer(0), 1)}, rules.select, lambda s, _: Select(s["channels"])),
    "fill": Operation(
        {"channels": _EACH, "positions": list_of(integer(0))},
        rules.fill,
        lambda s, _: Fill(s["channels"], s["positions"]),
    ),
    "shift": Operation({"channels": _EACH}, rules.given, lambda s, _: Shift(s["channels"])),
    "add": Operation(
        {"channels": _EACH, "positions": list_of(nullable(list_of(integer(0)))), "shift": flag},
        rules.add,
        lambda s, _: Add(s["channels"], s["positions"], s["shift"]),
        (1, MOST),
    ),
    "concat": Operation({}, rules.concat, lambda *_: Concat(), (1, MOST)),
    "size": Operation(
        {"rule": one_of(*_SIZE_RULES), "numbers": _mapping}, _check_size, lambda s, _: Size(s["rule"], **s["numbers"])
    ),
}
