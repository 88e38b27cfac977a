"""The spacing that the papers' preparation chooses."""

from __future__ import annotations

import pytest

from lightning_pocket.data.spacing import common_spacing

SPACINGS = {"spacing": {"median": [1.0, 0.8, 0.7], "percentile_90": [5.0, 0.9, 0.9]}}
THICK = {"spacing": {"median": [0.8, 2.5, 0.8], "percentile_90": [5.0, 3.0, 0.9]}}


@pytest.mark.parametrize(
    ("name", "fingerprint", "expected"),
    [
        ("median", SPACINGS, [1.0, 0.8, 0.7]),
        ("median_coarse_90", SPACINGS, [5.0, 0.8, 0.7]),
        ("median_anisotropic_90", SPACINGS, [1.0, 0.8, 0.7]),
        ("median_anisotropic_90", THICK, [0.8, 3.0, 0.8]),
        ("median_coarse_90", {"spacing": {"median": [1, 1, 1], "percentile_90": [2, 2, 2]}}, [1, 1, 1]),
        ("native", SPACINGS, None),
        ([3.0, 1.5, 1.5], SPACINGS, [3.0, 1.5, 1.5]),
    ],
)
def test_common_spacing(name: object, fingerprint: dict[str, object], expected: object) -> None:
    assert common_spacing(name, fingerprint) == expected  # type: ignore[arg-type]
