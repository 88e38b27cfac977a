"""How the weights of a network start."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from .nd import KERNEL_LAYERS

InitializerName = Literal["torch", "glorot_uniform", "he_normal"]


def keep_torch_defaults(module: nn.Module) -> None:
    """Leave torch's own start: kernels and biases uniform in ``+-1 / sqrt(fan_in)``."""


def glorot_uniform(module: nn.Module) -> None:
    """Start as Keras does: Glorot-uniform kernels and zero biases.

    Kernels are uniform in ``+-sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio, 2010). A fan is the kernel's number of
    taps times its input or output channels, the input channels of a grouped convolution being those of one group.
    Norms and PReLU slopes are left as they are.

    Args:
        module: Its weights are changed in place, those of its children too.
    """
    for layer in module.modules():
        if isinstance(layer, KERNEL_LAYERS):
            # torch and Keras swap the two fans of transposed and depthwise kernels; only their sum matters here.
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def he_normal(module: nn.Module) -> None:
    """Start such that layers with ReLU keep the variance: normal kernels with std ``sqrt(2 / fan_in)``, zero biases.

    A network of many layers without norms needs it (He et al., Delving Deep into Rectifiers, ICCV 2015, equation 10).
    Norms and PReLU slopes are left as they are.

    Args:
        module: Its weights are changed in place, those of its children too.
    """
    for layer in module.modules():
        if isinstance(layer, KERNEL_LAYERS):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


INITIALIZERS: dict[InitializerName, Callable[[nn.Module], None]] = {
    "torch": keep_torch_defaults,
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal,
}
