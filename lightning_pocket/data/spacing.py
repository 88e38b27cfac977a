"""The voxel size that the images of a data set are brought to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Literal

SpacingName = Literal["median", "median_coarse_90", "median_anisotropic_90", "native"]
#: Ratio of the coarsest to the finest median above which the coarsest axis takes the 90th percentile.
_LEAST_RATIO = {"median": inf, "median_coarse_90": 1.0, "median_anisotropic_90": 3.0}


def common_spacing(chosen: SpacingName | Sequence[float], fingerprint: Mapping[str, Any]) -> Sequence[float] | None:
    """Return the voxel size of prepared images.

    PocketNet (Celaya et al., IEEE TMI 2023, section II-B) resampled LiTS to the median along x and y and the 90th
    percentile along z, the coarsest axis: "median_coarse_90". Its published code does so only where the coarsest median
    is more than three times the finest, and takes medians elsewhere: "median_anisotropic_90".

    Args:
        chosen: Name of a rule, or mm along (D, H, W).
        fingerprint: From ``fingerprint.summarize``.

    Returns:
        Millimetres along (D, H, W); None where each image keeps its own.
    """
    if not isinstance(chosen, str):
        return chosen
    if chosen == "native":
        return None
    found = fingerprint["spacing"]
    spacing = list(found["median"])
    if max(spacing) > _LEAST_RATIO[chosen] * min(spacing):
        coarsest = spacing.index(max(spacing))
        spacing[coarsest] = found["percentile_90"][coarsest]
    return spacing
