"""Count parameters by the formulas of PocketNet, and beside them those of real U-Nets."""

from __future__ import annotations

from lightning_pocket.errors import PocketError
from lightning_pocket.profiling.formulas import SimplifiedNetwork
from lightning_pocket.reports.tables import print_table

_COLUMNS = (
    "depth", "formula full", "formula pocket", "ratio", "4^D/D", "U-Net full", "U-Net pocket", "ratio of U-Nets",
)  # fmt: skip
#: More halvings than any image has.
_DEEPEST = 12


def formulas(
    depths: list[int] = [3, 4, 5, 6],  # noqa: B006 (never changed)
    base: int = 32,
    spatial_dims: int = 3,
    in_channels: int = 1,
    classes: int = 2,
) -> None:
    """Print equations (1) to (3) of PocketNet for several depths, and the exact counts of the U-Nets they stand for.

    The formulas leave out the decoder, biases and norms, so their ratio is too large.

    Args:
        depths: Numbers of downsamplings.
        base: Channels at the finest resolution.
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: Channels of the image that the U-Nets take.
        classes: Classes that the U-Nets tell apart, background included.

    Raises:
        PocketError: If a number is too small, or a depth too large.
    """
    if any(depth > _DEEPEST for depth in depths):
        raise PocketError(f"--depths: {max(depths)} downsamplings, expected at most {_DEEPEST}.")
    networks = [SimplifiedNetwork(depth, base, spatial_dims=spatial_dims) for depth in depths]
    rows = []
    for network in networks:
        full, pocket = (unet_parameters(network, doublings, in_channels, classes) for doublings in ("all", 0))
        rows.append(
            [
                str(network.depth),
                *(f"{count:,}" for count in (network.full, network.pocket)),
                *(f"{ratio:.2f}" for ratio in (network.ratio, network.printed_ratio)),
                *(f"{count:,}" for count in (full, pocket)),
                f"{full / pocket:.2f}",
            ]
        )
    print_table(_COLUMNS, rows)


def unet_parameters(network: SimplifiedNetwork, doublings: int | str, in_channels: int, classes: int) -> int:
    """Return the trainable parameters of the U-Net that a formula stands for.

    Args:
        network: Its depth, channels and axes.
        doublings: How often the channels double, or ``"all"``.
        in_channels: Channels of the image.
        classes: Channels of the output.
    """
    import torch  # only now: `pocket --help` must not wait for it

    from lightning_pocket.layers import WidthSchedule
    from lightning_pocket.networks import UNet

    widths = WidthSchedule(network.base, doublings)  # type: ignore[arg-type]
    with torch.device("meta"):
        unet = UNet(in_channels, classes, network.spatial_dims, network.depth, widths)
    return sum(parameter.numel() for parameter in unet.parameters())
