"""Charts of stacked areas."""

from __future__ import annotations

import pytest

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.area_chart import area_chart


def test_areas_are_stacked_and_the_most_is_marked():
    drawn = area_chart({"kept": [10, 10], "held": [0, 30]}, ["begin", "end"], "step", "MiB", "Memory")
    polygons = [part.split('points="')[1].split('"')[0] for part in drawn.split("<polygon")[1:]]
    assert len(polygons) == 2

    def heights(points):
        return [float(point.split(",")[1]) for point in points.split()]

    low, high = heights(polygons[0]), heights(polygons[1])
    assert len(low) == len(high) == 8  # two moments, each with two ends, above and below
    bottom, unit = low[-1], low[-1] - low[0]  # ten MiB
    assert high[0] == pytest.approx(bottom - unit, abs=0.2)
    assert high[2] == pytest.approx(bottom - 4 * unit, abs=0.2)
    assert "most is 40, at end" in drawn
    with pytest.raises(PocketError, match="expected 2 values"):
        area_chart({"kept": [1]}, ["a", "b"], "", "", "Memory")
    with pytest.raises(PocketError, match="nothing to draw"):
        area_chart({}, [], "", "", "Memory")
