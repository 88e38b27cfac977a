"""The loss around the weights of a network."""

import json
import math
import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_pocket.analyses.directions import Slice, filter_directions, filter_norms
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expansion, expand
from lightning_pocket.reports.landscape_page import write_landscapes
from lightning_pocket.reports.surface_chart import surface_chart
from lightning_pocket.studies.landscape import Grid, Landscape, mean_loss
from lightning_pocket.studies.run_data import load_data
from lightning_pocket.tasks import load_task


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2, 2), nn.Flatten(), nn.LazyLinear(3)
    )


def made(expanded: bool = False) -> nn.Sequential:
    layers = network()
    layers(torch.zeros(1, 2, 6, 6))
    if expanded:
        expand(layers, Expansion("cl", rate=2))
    return layers


def test_each_filter_of_a_direction_has_the_norm_of_the_network_s() -> None:
    layers = made()
    one, other = filter_directions(layers, 2, seed=3)
    for name, value in layers.named_parameters():
        if value.ndim < 2:
            assert not one[name].any()
            continue
        axis = 1 if name.startswith("2.") else 0
        torch.testing.assert_close(filter_norms(one[name], axis), filter_norms(value, axis))
        assert not torch.allclose(one[name], other[name])
    filters = layers[2].weight.transpose(0, 1)  # by hand: what makes each output channel of a transposed convolution
    lengths = [float(one["2.weight"][:, channel].norm()) for channel in range(6)]
    assert lengths == pytest.approx([float(kernel.detach().norm()) for kernel in filters])


def test_directions_are_drawn_by_their_seed_alone() -> None:
    first, again, other = (filter_directions(made(True), 1, seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert any("factors" in name for name in first)


def test_weights_are_moved_and_put_back() -> None:
    layers = made()
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    directions = filter_directions(layers, 2, seed=0)
    moved = Slice(layers, directions)
    moved.move_to(0.5, -2.0)
    for name, value in layers.named_parameters():
        expected = before[name] + 0.5 * directions[0][name] - 2 * directions[1][name]
        torch.testing.assert_close(value.detach(), expected)
    moved.move_to(0.0, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())
    moved.move_to(1.0, 1.0)
    moved.restore()
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_points_of_a_grid() -> None:
    grid = Grid(dims=2, steps=3, extent=0.5)
    points = list(grid.points())
    assert points[0] == (0.0, 0.0)
    assert sorted(points) == [(x, y) for x in (-0.5, 0.0, 0.5) for y in (-0.5, 0.0, 0.5)]
    assert sorted(Grid(dims=1, steps=5, extent=2.0).points()) == [(x, 0.0) for x in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    for wrong in ({"dims": 3}, {"steps": 4}, {"steps": 1}, {"extent": 0.0}, {"extent": math.inf}, {"batches": 0}):
        with pytest.raises(PocketError, match=f"--{next(iter(wrong))}"):
            Grid(**wrong)


def _numbers(chart: str) -> list[float]:
    return [float(text) for text in re.findall(r'<rect class="paper"[^>]*/><text[^>]*>([\d.]+)', chart)]


def test_charts_of_one_section_can_be_compared(tmp_path) -> None:
    """Twice the loss at each point: with limits of its own a chart would look the same."""
    points = [(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]
    low = {("contracted", x, y): math.exp(x + y) for x, y in points}
    page = write_landscapes(tmp_path, {"low": low, "high": {key: 100 * value for key, value in low.items()}}, "c")
    charts = {name: (tmp_path / f"{name}_contracted.svg").read_text(encoding="utf-8") for name in ("low", "high")}
    shades = {name: [float(x) for x in re.findall(r'fill-opacity="([\d.]+)"', chart)] for name, chart in charts.items()}
    assert min(shades["low"]) == pytest.approx(0.04)
    assert max(shades["high"]) == pytest.approx(0.8)
    assert max(shades["low"]) < 0.5 < 0.3 + min(shades["high"])
    levels = [math.exp(-2 + (4 + math.log(100)) * n / 8) for n in range(1, 8)]
    for chart in charts.values():
        assert _numbers(chart)
        assert all(min(abs(found / level - 1) for level in levels) < 1e-2 for found in _numbers(chart))
    assert "mean the same in all charts" in page.read_text(encoding="utf-8")


def test_contours_lie_where_the_level_is_crossed() -> None:
    """A loss of exp(x): contours are upright lines, evenly spaced."""
    along = [-1.0, 0.0, 1.0]
    chart = surface_chart({(x, y): math.exp(x) for x in along for y in along}, "t")
    lines = [part.split('points="')[1].split('"')[0] for part in chart.split("<polyline")[1:]]
    edges = [[float(pair.split(",")[0]) for pair in line.split()] for line in lines]
    assert all(abs(one - other) < 0.11 for one, other in edges)
    found = sorted({round(one) for one, _ in edges})
    gaps = [b - a for a, b in pairwise(found)]
    assert len(found) == 7
    assert max(gaps) - min(gaps) <= 1
    assert chart.count("<rect ") == 9 + len(_numbers(chart))
    assert _numbers(chart) == pytest.approx([math.exp(n / 4 - 1) for n in (1, 2, 4, 6)], rel=1e-2)  # as room allows
    with pytest.raises(PocketError, match="no result"):
        surface_chart({(0.0, 0.0): math.nan}, "t")


@pytest.fixture(scope="module")
def run(blobs_cache, tmp_path_factory):
    from conftest import quick_options

    folder = tmp_path_factory.mktemp("landscape") / "expanded"
    main(["fit", *quick_options(blobs_cache, folder), "--config=expanded_cl", "--trainer.max_epochs=1"])
    return folder


@pytest.mark.e2e
def test_the_centre_is_the_loss_and_nothing_is_computed_twice(run, tmp_path, monkeypatch):
    grid = Grid(dims=1, steps=3, batches=2)
    surface = Landscape(run, tmp_path / "out", grid)
    losses = surface.compute(lambda _: None)
    assert set(losses) == {(space, x, 0.0) for space in ("contracted", "factors") for x in (-1.0, 0.0, 1.0)}
    data, task = load_data(run), load_task(run / "checkpoints" / "last.ckpt")
    data.setup("fit")
    torch.manual_seed(0)
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(2), strict=False)]
    expected = mean_loss(task, batches)
    assert losses["factors", 0.0, 0.0] == pytest.approx(expected, rel=1e-6)
    assert losses["contracted", 0.0, 0.0] == pytest.approx(expected, rel=1e-5)
    assert losses["factors", 1.0, 0.0] != pytest.approx(losses["contracted", 1.0, 0.0], rel=1e-6)
    lines = (tmp_path / "out" / "landscape.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "out" / "landscape.csv").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    count = []
    monkeypatch.setattr(
        "lightning_pocket.studies.landscape.mean_loss", lambda *given: (count.append(1), mean_loss(*given))[1]
    )
    assert Landscape(run, tmp_path / "out", grid).compute(lambda _: None) == pytest.approx(losses)
    assert len(count) == 4
    with pytest.raises(PocketError, match="holds a landscape with another seed"):
        Landscape(run, tmp_path / "out", Grid(dims=1, steps=3, batches=2, seed=1))


@pytest.mark.e2e
def test_the_command_draws_both_spaces(run, tmp_path, fails):
    main(["landscape", str(run), f"--output={tmp_path / 'out'}", "--steps=3", "--batches=1"])
    assert (tmp_path / "out" / "index.html").is_file()
    for space in ("contracted", "factors"):
        assert (tmp_path / "out" / f"expanded_{space}.svg").is_file()
    settings = json.loads((tmp_path / "out" / "expanded" / "landscape.json").read_text(encoding="utf-8"))
    assert settings["steps"] == 3
    assert "odd number" in fails(["landscape", str(run), f"--output={tmp_path / 'x'}", "--steps=4"])
