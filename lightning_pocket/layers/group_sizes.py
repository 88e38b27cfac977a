"""Which layers of a network have smaller groups of channels than their settings ask for."""

from torch import nn

from .conv import ConvSet

_MOST = 8  # numbers of channels that are listed for one size


def smaller_groups(network: nn.Module) -> list[str]:
    """Tell where ``group_size`` does not divide the input channels of a layer, so that a divisor was taken instead.

    A layer with fewer channels than a group, which is one dense group, is not worth a word, nor is an RGB image.

    Args:
        network: A network made of ``LayerFactory`` units.

    Returns:
        One sentence for each ``group_size`` that was asked for; none where all of them divide.
    """
    replaced: dict[int, dict[int, list[int]]] = {}
    for layer in network.modules():
        if isinstance(layer, ConvSet) and layer.used < min(layer.asked, layer.channels):
            replaced.setdefault(layer.asked, {}).setdefault(layer.used, []).append(layer.channels)
    return [_sentence(asked, channels_of) for asked, channels_of in replaced.items()]


def _sentence(asked: int, channels_of: dict[int, list[int]]) -> str:
    count = sum(len(channels) for channels in channels_of.values())
    layers = "1 layer" if count == 1 else f"{count} layers"
    sizes = [f"of {used} in those with {_listed(channels)}" for used, channels in sorted(channels_of.items())]
    return f"group_size {asked} does not divide the input channels of {layers}: groups {', '.join(sizes)} channels."


def _listed(channels: list[int]) -> str:
    distinct = sorted(set(channels))
    more = len(distinct) - _MOST
    return ", ".join(map(str, distinct[:_MOST])) + (f" and {more} more" if more > 0 else "")
