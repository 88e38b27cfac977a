"""Frontiers of made-up networks: what is efficient, what saves most, and how it is drawn."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_networks import chosen, learned, study
from torch import nn

from lightning_pocket.errors import PocketError
from lightning_pocket.frontier.figures import frontiers, sizes, widths
from lightning_pocket.frontier.kernels import correlation, correlation_curve, taps_of
from lightning_pocket.frontier.page import verdict, write_frontier
from lightning_pocket.frontier.published import PublishedNetwork, read_published
from lightning_pocket.regularizers import kernel_correlation
from lightning_pocket.reports.kernel_chart import kernel_chart
from lightning_pocket.reports.layer_charts import Cell, size_chart, width_chart
from lightning_pocket.reports.shrinking import LayerShape, read_shrinking

GOLDEN = json.loads((Path(__file__).parent / "golden" / "published.json").read_text(encoding="utf-8"))
FAMOUS = PublishedNetwork("Famous", 1.0, {"dice": 0.99, "hd95_mm": 0.1}, "")
POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=9)


@pytest.mark.parametrize("metric", ["dice", "hd95_mm"])
@given(points=POINTS)
@settings(max_examples=60, deadline=None)
def test_the_frontier_is_that_of_brute_force(metric, points):
    results = [chosen(score / 10, macs, str(n)) for n, (score, macs) in enumerate(points)]
    sign = 1 if metric == "dice" else -1
    expected = [
        not any(
            sign * s >= sign * score and m <= macs and (s, m) != (score, macs) for s, m in points
        )
        for score, macs in points
    ]  # fmt: skip
    found = study(*results, metric=metric, published=[FAMOUS])
    assert found.is_efficient("macs") == expected, "a published network is better than all, and not on it"


def test_the_network_that_saves_most_within_the_margin():
    base = chosen(0.9, 1000, milliseconds=10.0)
    found = study(
        base,
        learned(0.895, 600, 0.01, milliseconds=6.0),
        learned(0.891, 300, 0.03, milliseconds=5.0),
        learned(0.885, 200, 0.06, milliseconds=1.0),
        learned(0.95, 90, 0.2, before=1001),  # made of another network
    )
    result, of = found.cheapest(0.01)
    assert (result.network.label, of) == ("0.03", base)
    assert study(base, learned(0.88, 300, 0.03)).cheapest(0.01) is None
    said = verdict(found, 0.01)
    assert "70% fewer multiply-accumulates and 50% of the time; Dice 0.891, before 0.900" in said
    assert "No learned network that saves anything is within 0.01" in verdict(
        study(base, learned(0.88, 300, 0.03)), 0.01
    )
    records = {record["label"]: record for record in found.records()}
    assert records["0.03"]["macs_ratio"] == 0.3
    assert records["0.03"]["time_ratio"] == 0.5
    assert records["0.2"]["macs_ratio"] == ""


def test_less_is_better_of_errors():
    base = chosen(5.0, 1000)
    found = study(base, learned(4.0, 500, 0.01), learned(9.0, 100, 0.1), metric="hd95_mm")
    assert found.cheapest(0.5)[0].network.label == "0.01"
    assert found.is_efficient("macs") == [False, True, True]


def test_the_shipped_numbers_are_those_of_table_1():
    found = {entry.label: entry for entry in read_published("imagenet")}
    for row in GOLDEN["002.1"]:
        own = found[row["net"]]
        for key, metric in (("top1", "top1_error"), ("top5", "top5_error")):
            printed = re.match(r"[\d.]+", row.get(key, ""))
            assert own.scores.get(metric) == (pytest.approx(float(printed[0]) / 100) if printed else None)
        if "mult_adds" in row:
            assert own.macs == float(row["mult_adds"].removesuffix("B")) * 1e9
        if "top1_error" in own.scores:
            assert own.scores["accuracy"] == pytest.approx(1 - own.scores["top1_error"])
    assert len(found) == len(GOLDEN["002.1"])


def test_published_files_that_are_wrong_are_one_line(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("label,macs,dice\nA,many,0.9\n", encoding="utf-8")
    with pytest.raises(PocketError, match=r"mine.csv: line 2: .*many"):
        read_published(str(file))
    with pytest.raises(PocketError, match="Shipped: imagenet"):
        read_published("imagnet")


def rectangles(svg):
    return [dict(re.findall(r'([\w-]+)="([^"]*)"', tag)) for tag in re.findall(r"<rect [^>]*>", svg)]


def test_widths_are_numbers_on_bars_as_long_as_their_share():
    chart = width_chart(["1 a", "2 b"], {"0": [Cell(8, 8), Cell(4, 4)], "0.1": [Cell(2, 8), Cell(0, 4)]}, "alpha", "t")
    bars = [float(r["width"]) for r in rectangles(chart) if r.get("fill-opacity") == "0.3"]
    assert bars == [bars[0], pytest.approx(bars[0] / 4, abs=0.06), bars[0], 0.0]
    assert re.findall(r">(\d+)</text></g>", chart) == ["8", "2", "4", "0"]
    assert "2 b, 0.1: 0 of 4 kernels" in chart


def test_bars_of_sizes_are_as_high_as_their_numbers():
    panels = {"alpha 1": [{3: 6, 1: 2}, {3: 3, 0: 5}]}
    bars = [r for r in rectangles(size_chart(panels, ["1 a", "2 b"], "t")) if "fill-opacity" in r][3:]
    heights = [float(r["height"]) for r in bars]
    assert [height / heights[1] for height in heights] == pytest.approx([3, 1, 1.5, 2.5], rel=0.02)
    assert [float(r["fill-opacity"]) for r in bars] == [0.85, 0.15, 0.85, 0.0], "told apart without colours"
    assert float(bars[1]["y"]) + heights[1] == pytest.approx(float(bars[0]["y"]), abs=0.11), "on top of each other"


def test_taps_that_are_zero_are_empty():
    chart = kernel_chart({"conv": [[[0.0, 0.5], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]}, "t")
    drawn = [r.get("fill-opacity") for r in rectangles(chart)]
    assert drawn == [None, "0.540", "1.000", None, *[None] * 4]
    assert "conv: 1 of 2 kernels are zero" in chart


def test_figures_say_what_the_networks_are():
    of_sizes = {"first": {(3, 3): 4, (1, 1): 3}, "second": {}}
    found = study(
        chosen(0.9, 1000, milliseconds=2.0),
        learned(0.8, 500, 0.01),
        learned(0.7, 300, 0.1, regularizer="KernelSize", sizes=of_sizes),
        published=[FAMOUS],
    )
    drawn = {figure.name: figure for figure in frontiers(found)}
    assert set(drawn) == {f"frontier_{cost}" for cost in ("macs_formula", "macs", "parameters", "milliseconds")}
    assert "Famous: dice 0.99" in drawn["frontier_macs"].svg
    assert "Famous" not in drawn["frontier_parameters"].svg
    assert "learned widths 0.01: dice 0.8, 500 parameters" in drawn["frontier_parameters"].svg
    (number, size), (by_size,) = widths(found), sizes(found)
    assert "2 first, 0.01: 5 of 8 kernels" in number.svg
    assert "2 first, 0: 8 of 8 kernels" in number.svg
    assert "2 first, 0.1: 7 of 8 kernels" in size.svg
    assert "alpha 0.1, 2 first: 4 of 3, 3 of 1, 1 gone" in by_size.svg


def test_base_networks_have_a_ring_and_their_name():
    base, other = chosen(0.9, 1000, "8", "chosen width"), chosen(0.95, 900, "4", "chosen width")
    found = study(base, other, learned(0.85, 500, 0.01), learned(0.8, 400, 0.1))
    (pair,) = found.bases("macs")
    assert (pair.x, pair.y, pair.name) == (1000, 0.9, "8")
    svg = next(figure.svg for figure in frontiers(found) if figure.name == "frontier_macs")
    assert ">base network</text>" in svg
    rings = re.findall(r'<circle class="base" cx="([\d.]+)"', svg)
    assert len(rings) == 2, "one of the legend"
    assert re.search(r'class="tick name">8<', svg), "it is not on the frontier, and is named nonetheless"
    assert "base network" not in frontiers(study(base, other))[0].svg


def test_a_close_up_leaves_out_what_is_far_worse():
    near = [chosen(0.9 - 0.01 * number, 1000 - number, str(number)) for number in range(5)]
    names = [figure.name for figure in frontiers(study(*near))]
    assert not any(name.endswith("_close") for name in names)
    drawn = {figure.name: figure for figure in frontiers(study(*near, chosen(0.3, 10, "far")))}
    assert "far" in drawn["frontier_macs"].svg
    close = drawn["frontier_macs_close"]
    assert "no penalty far: dice" not in close.svg
    assert "no penalty 4: dice" in close.svg
    assert close.caption == "The same without 1 network that is far worse."
    worse = [chosen(0.1 + 0.01 * number, 1000 - number, str(number)) for number in range(5)]
    errors = study(*worse, chosen(0.9, 10, "far"), metric="top1_error")
    assert "frontier_macs_close" in [figure.name for figure in frontiers(errors)]


def test_heads_that_are_wider_than_their_columns_are_turned_and_whole():
    names = [f"0.0{number}" for number in range(20, 28)]
    chart = width_chart(["1 a"], {name: [Cell(1, 2)] for name in names}, "alpha", "t")
    assert re.findall(r'rotate\([^)]*\)" class="tick">([^<]*)<', chart) == names
    assert "rotate" not in width_chart(["1 a"], {"0.02": [Cell(1, 2)]}, "alpha", "t")


def test_the_margin_holds_for_scores_of_few_digits_and_for_networks_that_save():
    base = chosen(0.6, 1000)
    same, less = learned(0.6, 1000, 0.001), learned(0.59, 900, 0.01)
    assert study(base, same, less).cheapest(0.01) == (less, base)
    assert study(base, same).cheapest(0.01) is None
    assert "No learned network that saves anything is within 0.01" in verdict(study(base, same), 0.01)


def test_extents_of_kernels():
    layer = LayerShape("a", (9, 7), {(3, 1): 4, (1, 1): 2, (2, 3): 1}, (1, 1))
    assert layer.by_extent() == {0: 2, 3: 5, 1: 2}
    assert LayerShape("linear", (9, 9), {}, (1, 1)).by_extent() == {}


def test_a_record_that_is_damaged_is_one_line(tmp_path):
    (tmp_path / "shrink.json").write_text('{"layers": []}', encoding="utf-8")
    with pytest.raises(PocketError, match=r"shrink.json: cannot be read \(KeyError.*--fresh"):
        read_shrinking(tmp_path)


def test_correlation_is_that_of_every_pair():
    torch.manual_seed(0)
    kernels = torch.randn(6, 4, 3, 3)
    kernels[2] = 0
    rows = [kernel.flatten().double().numpy() for kernel in kernels if kernel.any()]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    expected = np.mean([abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])
    assert kernel_correlation(kernels) == pytest.approx(expected, rel=1e-12)
    assert kernel_correlation(kernels[2:3]) is None
    assert kernel_correlation(torch.stack([kernels[0], -2 * kernels[0]])) == pytest.approx(1)
    assert kernel_correlation(torch.eye(4).reshape(4, 1, 2, 2)) == 0


def test_taps_are_norms_over_channels_and_slices():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 5, 3), nn.ConvTranspose2d(4, 3, 2))
    found = taps_of(network, ["0", "1"], 2)
    volume, plane = network[0].weight.detach(), network[1].weight.detach()
    for kernel in range(2):
        assert np.allclose(found["0"][kernel], volume[kernel].square().sum((0, 1)).sqrt(), atol=1e-6)
        assert np.allclose(found["1"][kernel], plane[:, kernel].square().sum(0).sqrt(), atol=1e-6)
    assert [len(kernels) for kernels in found.values()] == [2, 2]
    both = [kernel_correlation(volume), kernel_correlation(plane.transpose(0, 1))]
    assert correlation(network, ["0", "1"]) == pytest.approx(np.mean(both))


def test_the_curve_is_the_mean_over_layers_with_two_living_kernels(tmp_path):
    names = ("sparsity/alive/a", "sparsity/alive/b", "sparsity/correlation/a", "sparsity/correlation/b")
    rows = [["epoch", *names], [0, 4, 4, 0.5, 0.3], [1, 1, 3, 0.0, 0.2], [1, "", "", "", ""], [2, 1, 0, 0.0, 0.0]]
    with (tmp_path / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    assert correlation_curve(tmp_path) == [(1.0, pytest.approx(0.4)), (2.0, pytest.approx(0.2))]


def test_files_hold_every_network(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_pocket.frontier.figures.network_of", lambda _: nn.ModuleDict(
        {name: nn.Conv2d(2, 8, 3) for name in ("stem", "first", "second")}))  # fmt: skip
    found = study(chosen(0.9, 1000, milliseconds=2.0), learned(0.8, 500, 0.01, milliseconds=1.0))
    files = write_frontier(found, tmp_path, 0.01, ["Left out: nothing & all."], "pocket frontier x")
    assert all(file.is_file() for file in files)
    with (tmp_path / "frontier.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["dice"]), float(row["macs"]), row["efficient"]) for row in rows] == [
        (0.9, 1000, "True"),
        (0.8, 500, "True"),
    ]
    with (tmp_path / "layers.csv").open(encoding="utf-8", newline="") as file:
        shapes = [(row["layer"], row["left"], row["size"], row["count"]) for row in csv.DictReader(file)]
    assert shapes == [
        *[("stem", "0", "0", "8")],
        *[("first", "5", "0", "3"), ("first", "5", "3", "5")],
        *[("second", "2", "0", "6"), ("second", "2", "3", "2")],
    ]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Left out: nothing &amp; all." in page
    assert "http" not in re.sub(r"http://www.w3.org/\S+", "", page), "the page loads nothing"
