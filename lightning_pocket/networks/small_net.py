"""SmallNet: the compact classifier of ExpandNets."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory, StandardConv
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class, max_pool_class

from .asymmetric import to_asymmetric
from .base import Classifier


class SmallNet(Classifier):
    """A few convolutions, each with norm, activation and max pooling, and two linear layers.

    ExpandNets (Guo et al., NeurIPS 2020) has two forms of it, for RGB images of 32 x 32. Three convolutions of 8, 16
    and 32 channels are those of Tables 1, 8 and 9: 66,186 parameters for 10 classes with kernels of 7, and 15,050 with
    kernels of 3 and ``padded: false``. With a fourth of 64 channels it has the 150,346 of Table 6. Layers are called
    ``units.0.conv``, ``fc1`` and ``fc2``.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        channels: Channels of each convolution.
        kernel_size: Odd size of the kernels in pixels.
        padded: Whether convolutions keep the size; the form with kernels of 3 does not.
        hidden: Features between the two linear layers.
        image_size: Rows (and columns) for which the linear layers are made. Features of images of another size are
            brought to the same number by averaging.
        layers: What the units are made of; not padded ones have standard convolutions.
        asymmetric: Whether convolutions are asymmetric blocks (ACNet), see :func:`.asymmetric.to_asymmetric`.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of ``divisor``.

    Raises:
        PocketError: If the settings contradict each other.
    """

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        channels: list[int] | None = None,
        kernel_size: int = 7,
        padded: bool = True,
        hidden: int = 64,
        image_size: int = 32,
        layers: LayerFactory = LayerFactory(),
        asymmetric: bool = False,
    ) -> None:
        widths = [8, 16, 32] if channels is None else channels
        lost = 0 if padded else kernel_size - 1
        _check(widths, kernel_size, hidden, padded or isinstance(layers.conv, StandardConv))
        # The smallest size that leaves something is a power of two, and so are the sizes of images.
        smallest = next(2**power for power in range(len(widths), 32) if _left(2**power, len(widths), lost) > 0)
        super().__init__(in_channels, out_channels, spatial_dims, (smallest,) * spatial_dims)
        grid = (_left(image_size, len(widths), lost),) * spatial_dims
        if grid[0] < 1:
            raise PocketError(f"network.image_size: found {image_size}, of which nothing is left behind the pooling.")
        units: list[nn.Module] = []
        before = in_channels
        for after in widths:
            if padded:
                conv = layers.conv(before, after, spatial_dims=spatial_dims, kernel_size=kernel_size)
            else:
                conv = conv_class(spatial_dims)(before, after, kernel_size, bias=getattr(layers.conv, "bias", True))
            named = {
                "conv": conv,
                "norm": layers.norm(after, spatial_dims=spatial_dims),
                "activation": layers.activation(after),
                "pool": max_pool_class(spatial_dims)(2),
            }
            units.append(nn.Sequential(OrderedDict(named)))
            before = after
        self.units = nn.Sequential(*units)
        self.resize = global_mean_pool_class(spatial_dims)(grid)
        self.fc1 = nn.Linear(before * prod(grid), hidden)
        self.activation = layers.activation(hidden)
        self.fc2 = nn.Linear(hidden, out_channels)
        layers.initialize(self)
        if asymmetric:
            to_asymmetric(self, "units.*")

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        h = self.resize(self.units(x)).flatten(1)
        return self.fc2(self.activation(self.fc1(h)))


def _left(size: int, units: int, lost: int) -> int:
    """Return how many rows of an image are left behind all units."""
    for _ in range(units):
        size = (size - lost) // 2
    return size


def _check(channels: list[int], kernel_size: int, hidden: int, can_do_without_padding: bool) -> None:
    if not channels or min(channels) < 1:
        raise PocketError(f"network.channels: found {channels}, expected a number of at least 1 per convolution.")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise PocketError(f"network.kernel_size: found {kernel_size}, expected an odd number.")
    if hidden < 1:
        raise PocketError(f"network.hidden: found {hidden}, expected at least 1 feature.")
    if not can_do_without_padding:
        raise PocketError("network.padded: is false, which needs layers.conv StandardConv. Set one of the two.")
