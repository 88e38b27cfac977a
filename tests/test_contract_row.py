"""Rows of torch's layers that are one layer, those that are not, and the error that contracting them would make."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers.contract_row import contract_row

C, T = nn.Conv2d, nn.ConvTranspose2d


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def difference(row: list[nn.Module], one: nn.Module) -> float:
    double, one = nn.Sequential(*copy.deepcopy(row)).double(), copy.deepcopy(one).double()
    x = torch.randn(2, 2, 12, 11, dtype=torch.float64)
    with torch.no_grad():
        expected, found = double(x), one(x)
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


EXACT = {
    "padding in the first": [C(2, 6, 1, padding=1), C(6, 8, 3), C(8, 4, 1)],
    "padding in the middle, no bias before": [C(2, 6, 1, bias=False), C(6, 8, 3, padding=1), C(8, 4, 1)],
    "reflection in the middle": [C(2, 6, 1), C(6, 8, 3, padding=2, padding_mode="reflect"), C(8, 4, 1)],
    "same padding": [C(2, 6, 1, bias=False), C(6, 8, 3, padding="same")],
    "stride in the middle": [C(2, 6, 1, padding=1), C(6, 8, 3, stride=2), C(8, 4, 1)],
    "stride in the last": [C(2, 6, 1, padding=1), C(6, 8, 3), C(8, 4, 1, stride=2)],
    "kernels of three": [C(2, 6, 3, padding=3), C(6, 8, 3), C(8, 4, 3, stride=3)],
    "dilated": [C(2, 6, 3, padding=4, dilation=2), C(6, 4, 3, dilation=2)],
    "kernels that differ": [C(2, 6, (3, 1)), C(6, 8, (1, 2)), C(8, 4, 2)],
    "groups": [C(2, 6, 1, groups=2), C(6, 8, 3, groups=2), C(8, 4, 1, groups=2)],
    "biases in some": [C(2, 6, 3), C(6, 8, 3, bias=False), C(8, 4, 3, bias=False)],
    "transposed": [T(2, 6, 3, 2, bias=False, output_padding=1), T(6, 4, 3, padding=1)],
    "transposed between pointwise ones": [C(2, 6, 1, bias=False), T(6, 8, 3, 2, 1, 1), C(8, 4, 1)],
    "one": [C(2, 4, 3, padding=1)],
}


@pytest.mark.parametrize("name", EXACT)
def test_a_row_as_one_layer(name: str) -> None:
    row = [layer.double() for layer in EXACT[name]]
    one = contract_row(row)
    assert difference(row, one) < 1e-13
    assert contract_row(copy.deepcopy(row)[:1]).weight.shape == row[0].weight.shape


def test_linear_layers_in_a_row() -> None:
    row = [nn.Linear(3, 5), nn.Linear(5, 6, bias=False), nn.Linear(6, 2)]
    x = torch.randn(4, 3)
    assert torch.allclose(contract_row(row)(x), nn.Sequential(*row)(x), atol=1e-6)


REFUSED = {
    "behind a bias": [C(2, 6, 1), C(6, 8, 3, padding=1), C(8, 4, 1)],
    "differs at the border from padding": [C(2, 6, 3, padding=1), C(6, 4, 3, padding=1)],
    "have gaps": [C(2, 6, 3, stride=2, padding=2), C(6, 4, 3)],
    "found groups": [C(2, 6, 1, groups=2), C(6, 4, 3)],
    "found dilations": [C(2, 6, 3, dilation=2), C(6, 4, 3)],
    "found Conv2d, BatchNorm2d, Conv2d": [C(2, 6, 1), nn.BatchNorm2d(6), C(6, 4, 3)],
    "found Conv2d, ReLU": [C(2, 6, 1), nn.ReLU()],
    "found Conv2d, ConvTranspose2d": [C(2, 6, 3), T(6, 4, 2, 2)],
    "found Conv2d, Conv1d": [C(2, 6, 3), nn.Conv1d(6, 4, 2)],
    "differs at the border from cropping": [T(2, 6, 3, padding=1, bias=False), T(6, 4, 3)],
    "has a bias before a transposed": [C(2, 6, 1), T(6, 4, 2, 2)],
    "above 1 follows a stride": [T(2, 6, 3, bias=False), T(6, 4, 3, stride=2)],
    "found none": [],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_one_layer_is_refused(reason: str) -> None:
    with pytest.raises(PocketError, match=reason):
        contract_row(REFUSED[reason])


def composed(row: list[nn.Module], **geometry: object) -> nn.Module:
    """The one layer that has the composed kernel, had the row been made as it should."""
    clean = copy.deepcopy(row)
    for layer in clean:
        layer.padding = (0, 0)
    one = contract_row(clean)
    for key, value in geometry.items():
        setattr(one, key, value)
    return one


def test_what_is_refused_would_be_wrong() -> None:
    """The errors that the refusals speak of are there: only at the border, or everywhere."""
    bias_before_padding = [C(2, 6, 1), C(6, 8, 3, padding=1), C(8, 4, 1)]
    assert difference(bias_before_padding, composed(bias_before_padding, padding=(1, 1))) > 0.05
    spread = [C(2, 6, 3, padding=1, bias=False), C(6, 4, 3, padding=1, bias=False)]
    assert difference(spread, composed(spread, padding=(2, 2))) > 0.05
    crop_first = [T(2, 6, 3, padding=1, bias=False), T(6, 4, 3, bias=False)]
    assert difference(crop_first, composed(crop_first, padding=(1, 1))) > 0.05
    phases = [C(2, 6, 1), T(6, 4, 2, 2)]
    no_bias = copy.deepcopy(phases)
    no_bias[0].bias = None
    with torch.no_grad():
        x = torch.zeros(1, 2, 4, 4)
        pattern = nn.Sequential(*phases)(x) - contract_row(no_bias)(x)
    assert pattern.var((2, 3)).max() > 1e-4  # no single bias


def test_a_stride_before_a_kernel_makes_a_larger_one() -> None:
    """Two kernels of 3 with a stride of 2 between see 7 voxels, more than the 5 of those without."""
    row = nn.Sequential(C(1, 1, 3, stride=2, bias=False), C(1, 1, 3, bias=False)).requires_grad_(False)
    for layer in row:
        nn.init.ones_(layer.weight)
    seen = torch.stack(
        [row(torch.eye(9)[place].reshape(1, 1, 1, 9).expand(1, 1, 9, 9))[0, 0, 0, 0] for place in range(9)]
    )
    assert seen.ne(0).tolist() == [True] * 7 + [False] * 2


@pytest.mark.parametrize(("stride", "padding"), [*product((1, 2), (0, 1))])
def test_composed_sizes_are_those_of_the_row(stride: int, padding: int) -> None:
    row = [C(2, 3, 3, padding=padding), C(3, 3, 2, stride=stride)]
    one = contract_row(row)
    assert (one.kernel_size, one.stride, one.padding) == ((4, 4), (stride, stride), (padding, padding))
