"""What every network promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import pointwise
from lightning_pocket.layers.recompute import recompute


class Network(nn.Module, ABC):
    """A network from ``(B, in_channels, *S)`` images to logits: ``(B, out_channels, *S)``, a label for each voxel.

    Those that judge the image as a whole derive from :class:`Classifier`.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output, one per class.
        spatial_dims: 2 for slices, 3 for volumes.
        divisor: Each spatial size of the input must be a multiple of it, axis by axis.
        checkpoint_levels: Number of levels, from the finest on, whose features are computed again for the gradients
            instead of being kept.
        binary_head: Whether one channel makes the logits of both classes, see :class:`BinaryHead`.

    Raises:
        PocketError: If there are no channels, not one divisor per axis, or a binary head for other than two classes.
    """

    #: Names of the modules that make the encoder, for settings that mean it alone; empty where none does.
    encoder_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int,
        divisor: tuple[int, ...],
        checkpoint_levels: int = 0,
        binary_head: bool = False,
    ) -> None:
        super().__init__()
        for key, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels < 1:
                raise PocketError(f"network.{key}: found {channels}, expected at least 1 channel.")
        if len(divisor) != spatial_dims:
            raise PocketError(f"network.divisor: found {divisor}, expected {spatial_dims} integers, one per axis.")
        if binary_head and out_channels != 2:
            raise PocketError(
                f"network.binary_head: is true, but there are {out_channels} classes; expected 2, background and one "
                "more. Set it to false."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.head_channels = 1 if binary_head else out_channels
        self.spatial_dims = spatial_dims
        self.divisor = divisor
        self.checkpoint_levels = checkpoint_levels

    @override
    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Returns:
            ``(B, out_channels, *S)``, at full resolution, the same in training and in evaluation; ``(B, out_channels)``
            of a :class:`Classifier`.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every head, for deep supervision.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Returns:
            What :meth:`forward` returns, then logits at coarser and coarser resolutions, if the network has such heads.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """
        return [self(x)]

    def load_pretrained(self) -> str:
        """Read the weights that the settings name; called once, before a training that begins anew.

        A checkpoint has weights of its own, so a network that is rebuilt from one never looks for the file.

        Returns:
            One line that says what was read, empty where the settings name nothing.

        Raises:
            PocketError: If the file cannot be read or does not fit.
        """
        return ""

    def recorded(self) -> dict[str, Any]:
        """Return settings that a checkpoint records instead of those given, which may be paths to files.

        Returns:
            By the names of the arguments, plain values; a network that its arguments describe returns none.
        """
        return {}

    def make_head(self, channels: int) -> nn.Module:
        """Return the layer from features ``(B, channels, *S)`` to logits ``(B, out_channels, *S)``."""
        head = pointwise(channels, self.head_channels, self.spatial_dims)
        return head if self.head_channels == self.out_channels else BinaryHead(head)

    def at_level(
        self, level: int, function: Callable[..., Tensor], modules: list[nn.Module], *inputs: Tensor
    ) -> Tensor:
        """Call what belongs to a level; where the level is checkpointed, it is called again for the gradients.

        Args:
            level: 0 is the finest.
            function: What to call.
            modules: The layers that it calls.
            inputs: Its arguments.

        Returns:
            What ``function`` returns.
        """
        if level < self.checkpoint_levels:
            return recompute(function, modules, *inputs)
        return function(*inputs)

    def check_input(self, x: Tensor | Proxy) -> None:
        """Raise an error if the network cannot process these images.

        Args:
            x: Batch of images.

        Raises:
            PocketError: If the number of axes or of channels is wrong, or a spatial size is not a multiple of
                ``divisor``.
        """
        if isinstance(x, Proxy):  # torch.fx follows a stand-in, which has no shape yet
            return
        shape = tuple(x.shape)
        if len(shape) != self.spatial_dims + 2:
            axes = "(B, C, H, W)" if self.spatial_dims == 2 else "(B, C, D, H, W)"
            raise PocketError(
                f"The input has shape {shape}, expected {axes}: network.spatial_dims is {self.spatial_dims}."
            )
        if shape[1] != self.in_channels:
            raise PocketError(
                f"The input has {shape[1]} channels, expected {self.in_channels}: set network.in_channels to "
                f"{shape[1]}, or give the network {self.in_channels} of them."
            )
        size = shape[2:]
        padded = tuple(-(-max(length, 1) // step) * step for length, step in zip(size, self.divisor, strict=True))
        if size != padded:
            raise PocketError(
                f"The input has spatial size {size}, expected multiples of {self.divisor}. Pad it to {padded}."
            )


class Classifier(Network):
    """A network from ``(B, in_channels, *S)`` images to ``(B, out_channels)`` logits, one row for each image."""

    encoder_names: ClassVar[tuple[str, ...]] = ("",)  # all of it


class BinaryHead(nn.Module):
    """Two logits ``(0, z)`` from one channel ``z``, for networks that end in a sigmoid (Lighter U-Net, Tables 1 and 2).

    The softmax of ``(0, z)`` is the sigmoid of ``z``, and the cross-entropy over both classes is the binary one, so
    that losses and predictions need not know of it.

    Args:
        head: Makes ``(B, 1, *S)``.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    @override
    def forward(self, x: Tensor) -> Tensor:
        logit = self.head(x)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)
