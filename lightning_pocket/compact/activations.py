"""Functions of one number that are applied to each number of a tensor."""

from __future__ import annotations

from torch import nn

#: Name of the function in torch -> its module, and the settings of both, in the order of the function's arguments.
ACTIVATIONS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "celu": (nn.CELU, ("alpha",)),
    "elu": (nn.ELU, ("alpha",)),
    "gelu": (nn.GELU, ("approximate",)),
    "hardsigmoid": (nn.Hardsigmoid, ()),
    "hardswish": (nn.Hardswish, ()),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "logsigmoid": (nn.LogSigmoid, ()),
    "mish": (nn.Mish, ()),
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "selu": (nn.SELU, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "silu": (nn.SiLU, ()),
    "softplus": (nn.Softplus, ("beta", "threshold")),
    "softsign": (nn.Softsign, ()),
    "tanh": (nn.Tanh, ()),
    "tanhshrink": (nn.Tanhshrink, ()),
}
NAMES: dict[type[nn.Module], str] = {kind: name for name, (kind, _) in ACTIVATIONS.items()}


def make_activation(name: str, settings: dict[str, float | str]) -> nn.Module:
    """Return the module of an activation.

    Args:
        name: A key of ``ACTIVATIONS``.
        settings: Arguments; those that are left out have torch's defaults.
    """
    return ACTIVATIONS[name][0](**settings)


def settings_of(module: nn.Module) -> dict[str, float | str]:
    """Return the arguments that an activation was made with."""
    return {key: getattr(module, key) for key in ACTIVATIONS[NAMES[type(module)]][1]}
