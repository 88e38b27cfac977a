"""Parameter formulas of the paper, and what its page prints of them."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory, PReLU, ResidualBlock, SeparableConv, StandardConv, WidthSchedule
from lightning_pocket.networks import UNet
from lightning_pocket.profiling.formulas import SimplifiedNetwork

DOCS = Path(__file__).parents[1] / "docs" / "pocketnet-studies.md"
#: Depth -> ratio of the simplified networks, and parameters of the U-Nets with 32 channels, full and pocket.
GOLDEN = {
    3: (21.25, 5_602_562, 469_314),
    4: (68.2, 22_581_250, 616_162),
    5: (227.5, 90_486_274, 763_010),
    6: (780.14, 362_086_914, 909_858),
}


def test_formulas_give_the_numbers_of_the_paper() -> None:
    network = SimplifiedNetwork(depth=5)
    assert (network.full, network.pocket) == (75_479_040, 331_776)
    assert network.ratio == 227.5
    assert network.printed_ratio == 204.8


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_formulas_count_real_convolutions(depth: int, spatial_dims: int) -> None:
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]

    def count(doubling: bool) -> int:
        widths = [3 * 2 ** (level if doubling else 0) for level in range(depth + 1)]
        layers = [conv(width, width, 5, bias=False, device="meta") for width in widths for _ in range(3)]
        return sum(layer.weight.numel() for layer in layers)

    network = SimplifiedNetwork(depth, base=3, convolutions=3, kernel_size=5, spatial_dims=spatial_dims)
    assert (network.full, network.pocket) == (count(True), count(False))


def test_formulas_are_printed_beside_real_networks(capsys: pytest.CaptureFixture[str]) -> None:
    main(["formulas"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == len(GOLDEN)
    for row, (depth, (ratio, full, pocket)) in zip(rows, GOLDEN.items(), strict=True):
        assert row[0] == str(depth)
        assert float(row[3]) == pytest.approx(ratio, abs=0.005)
        assert [int(cell.replace(",", "")) for cell in row[5:7]] == [full, pocket]
        assert float(row[7]) == pytest.approx(full / pocket, abs=0.005)


def table_of_docs(first: str) -> list[list[str]]:
    """Return the cells of the table of the docs whose head begins so, without commas in numbers."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip().replace(",", "") for cell in row.strip("|").split("|")] for row in rows]


def test_the_docs_print_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["formulas"])
    printed = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert table_of_docs("depth") == printed


def test_the_docs_count_separable_networks_right() -> None:
    rows = table_of_docs("convolutions")
    assert len(rows) == 9
    for kind, doublings, base, axes, depth, classes, count in rows:
        conv = {"standard": StandardConv(), "separable": SeparableConv()}[kind]
        widths = WidthSchedule(int(base), "all" if doublings == "all" else int(doublings))
        layers = LayerFactory(conv=conv, activation=PReLU())
        with torch.device("meta"):
            network = UNet(1, int(classes), int(axes), int(depth), widths, layers, ResidualBlock())
        assert sum(parameter.numel() for parameter in network.parameters()) == int(count), (kind, base, axes)
    assert ["separable", "0", "32", "3", "5", "1", "109212"] in rows
    assert ["separable", "0", "32", "3", "5", "2", "109245"] in rows
    with torch.device("meta"):
        pocket = UNet(1, 2, depth=5, widths=WidthSchedule(32, 0))
    assert f"{sum(p.numel() for p in pocket.upsample.parameters()):,}" in DOCS.read_text(encoding="utf-8")


def test_formulas_refuse_no_depth() -> None:
    with pytest.raises(PocketError, match="depth: found 0, expected at least 1"):
        SimplifiedNetwork(depth=0)


def test_formulas_refuse_a_depth_that_no_image_has(fails) -> None:
    assert "--depths: 40 downsamplings, expected at most 12" in fails(["formulas", "--depths=[3,40]"])
