"""Charts of reports."""

import re

import pytest

from lightning_pocket.reports.charts import dot_chart, line_chart


def test_a_crowded_strip_keeps_its_values_in_their_places():
    cases = {f"c{i}": (i * 37 % 100) / 100 for i in range(100)}
    chart = dot_chart({"liver": {"run": cases}}, "Dice", "Cases")
    found = re.findall(r"<title>liver, run, (c\d+): [\d.]+</title><circle cx=\"([\d.]+)\" cy=\"([\d.]+)\"", chart)
    assert len(found) == 100
    for case, x, _ in found:
        assert float(x) == pytest.approx(20 + cases[case] * 400, abs=0.06)
    heights = [float(y) for _, _, y in found]
    assert 10 < max(heights) - min(heights) <= 12


def test_long_curves_tell_their_values_without_marks():
    points = [(epoch, 1 / epoch) for epoch in range(1, 101)]
    chart = line_chart({"a & b": points}, "epoch", "loss", "Loss")
    values = re.search(r'data-name="a &amp; b" data-values="([^"]*)"', chart)[1].split()
    assert values == [f"{x}:{y:.4g}" for x, y in points]


def test_epochs_are_whole_numbers():
    chart = line_chart({"a": [(1, 0.2), (2, 0.3)]}, "epoch", "loss", "Loss")
    ticks = re.search(r'<g class="ticks x">(.*?)</g>', chart)[1]
    assert re.findall(r">([\d.]+)</text>", ticks) == ["1", "2"]
