"""Width schedules: how many channels a network has at each depth."""

from dataclasses import dataclass
from typing import Literal

from lightning_pocket.errors import PocketError


@dataclass(frozen=True)
class WidthSchedule:
    """Number of channels at each depth of a network.

    The width doubles whenever the resolution halves, at most ``doublings`` times. PocketNet (Celaya et al., IEEE TMI
    2023, Algorithm 1 and Table IV) is the schedule that never doubles.

    ==========  ============================  ======
    doublings   widths for ``base=32``        name
    ==========  ============================  ======
    ``"all"``   32, 64, 128, 256, 512, 1024   full
    ``2``       32, 64, 128, 128, 128, 128
    ``0``       32, 32, 32, 32, 32, 32        pocket
    ==========  ============================  ======

    Args:
        base: Channels at depth 0, the full resolution.
        doublings: How many times the width doubles before it stays constant; ``"all"`` for no limit.
        ceiling: Largest width allowed, in channels; ``None`` for no limit.

    Raises:
        PocketError: If ``base`` is below 1, ``doublings`` is negative, or ``ceiling`` is below ``base``.

    Example:
        >>> [WidthSchedule(base=32, doublings=2)(depth) for depth in range(5)]
        [32, 64, 128, 128, 128]
        >>> [WidthSchedule(base=32, ceiling=320)(depth) for depth in range(5)]
        [32, 64, 128, 256, 320]
    """

    base: int = 32
    doublings: int | Literal["all"] = "all"
    ceiling: int | None = None

    def __post_init__(self) -> None:
        if self.base < 1:
            raise PocketError(f"widths.base: found {self.base}, expected at least 1 channel.")
        if self.doublings != "all" and self.doublings < 0:
            raise PocketError(f"widths.doublings: found {self.doublings}, expected 'all' or an integer of at least 0.")
        if self.ceiling is not None and self.ceiling < self.base:
            raise PocketError(
                f"widths.ceiling: found {self.ceiling}, expected at least widths.base ({self.base}) channels."
            )

    def __call__(self, depth: int) -> int:
        """Return the number of channels at ``depth``, the number of resolutions above it."""
        doublings = depth if self.doublings == "all" else min(depth, self.doublings)
        width = self.base * 2**doublings
        return width if self.ceiling is None else min(width, self.ceiling)
