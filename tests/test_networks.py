"""What every network promises, and what each one computes."""

import inspect
import io
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pocket import networks
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    BatchNorm,
    BlockKind,
    DenseBlock,
    LayerFactory,
    LeakyReLU,
    NoNorm,
    PReLU,
    ResidualBlock,
    SeparableConv,
    WidthSchedule,
)
from lightning_pocket.networks import BilinearUNet, Classifier, EncoderClassifier, HRNet, Network, UNet

CLASSES = [cls for cls in map(networks.__dict__.get, networks.__all__) if cls and not inspect.isabstract(cls)]
SUPERVISED = [cls for cls in CLASSES if "deep_supervision" in inspect.signature(cls).parameters]
PYRAMIDS = [cls for cls in CLASSES if "strides" in inspect.signature(cls).parameters]

every_network = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
every_pyramid = pytest.mark.parametrize("cls", PYRAMIDS, ids=lambda cls: cls.__name__)
both_dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def make(cls: type[Network], seed: int = 0, **settings: Any) -> Network:
    """Return a small network with odd numbers of channels; settings that the class lacks are left out."""
    torch.manual_seed(seed)
    small = {"in_channels": 3, "out_channels": 5, "depth": 2, "widths": WidthSchedule(base=3), "width": 0.05}
    small |= {"backbone_norm": BatchNorm(), **settings}  # thirteen units of three channels die without
    return cls(**{key: value for key, value in small.items() if key in inspect.signature(cls).parameters})


def image(network: Network, batch: int = 2, times: int = 2) -> Tensor:
    """Return noise, ``times`` as large as the smallest input."""
    size = [times * divisor for divisor in network.divisor]
    return torch.randn(batch, network.in_channels, *size, generator=torch.Generator().manual_seed(0))


def shape_of_logits(network: Network, x: Tensor) -> tuple[int, ...]:
    """Return the promised shape: a row per image, or a label per voxel."""
    return (len(x), network.out_channels, *(() if isinstance(network, Classifier) else x.shape[2:]))


@every_network
@both_dims
@pytest.mark.parametrize("doublings", [0, 1, "all"])
def test_shapes_and_gradients(cls: type[Network], spatial_dims: int, doublings: Any) -> None:
    network = make(cls, spatial_dims=spatial_dims, widths=WidthSchedule(base=3, doublings=doublings))
    x = image(network)
    logits = network(x)
    assert logits.shape == shape_of_logits(network, x)
    F.cross_entropy(logits, torch.randint(5, (2, *logits.shape[2:]))).backward()
    missing = [name for name, value in network.named_parameters() if value.grad is None]
    assert not missing
    dead = [name for name, value in network.named_parameters() if value.ndim > 2 and not value.grad.any()]
    assert not dead


@every_network
def test_forward_is_a_tensor_in_training_and_in_evaluation(cls: type[Network]) -> None:
    for deep_supervision in (0, 1) if cls in SUPERVISED else (0,):
        network = make(cls, spatial_dims=2, deep_supervision=deep_supervision)
        x = image(network)
        for training in (True, False):
            network.train(training)
            assert isinstance(network(x), Tensor)
            outputs = network.outputs(x)
            assert [type(output) for output in outputs] == [Tensor] * (deep_supervision + 1)
        torch.testing.assert_close(network(x), outputs[0])  # in evaluation


@every_network
@both_dims
def test_refused_size_names_a_size_that_works(cls: type[Network], spatial_dims: int) -> None:
    network = make(cls, spatial_dims=spatial_dims).eval()
    size = [divisor + 1 + axis for axis, divisor in enumerate(network.divisor)]
    x = torch.zeros(1, network.in_channels, *size)
    with pytest.raises(PocketError, match=re.escape(str(tuple(size)))) as caught:
        network(x)
    found = re.search(r"Pad it to \(([\d, ]+)\)", str(caught.value))
    assert found is not None
    padded = [int(number) for number in found[1].split(",")]
    assert all(0 <= new - old < divisor for new, old, divisor in zip(padded, size, network.divisor, strict=True))
    # torch pads the last axis first.
    padding = [amount for new, old in zip(padded[::-1], size[::-1], strict=True) for amount in (0, new - old)]
    fitting = F.pad(x, padding)
    assert fitting.shape[2:] == tuple(padded)
    assert network(fitting).shape == shape_of_logits(network, fitting)


@every_network
def test_refused_axes_and_channels(cls: type[Network]) -> None:
    network = make(cls, spatial_dims=2)
    x = image(network)
    with pytest.raises(PocketError, match=r"has 4 channels, expected 3"):
        network(torch.cat([x, x[:, :1]], dim=1))
    with pytest.raises(PocketError, match=r"expected \(B, C, H, W\)"):
        network(x[0])
    with pytest.raises(PocketError, match=r"Pad it to \(\d+, \d+\)"):
        network(x[..., :0])
    for key in ("in_channels", "out_channels"):
        with pytest.raises(PocketError, match=f"network.{key}: found 0"):
            make(cls, **{key: 0})


@every_network
@both_dims
def test_state_dict_round_trip(cls: type[Network], spatial_dims: int) -> None:
    first, second = (make(cls, seed=seed, spatial_dims=spatial_dims) for seed in (1, 2))
    x = image(first)
    first(x)  # running statistics
    assert not torch.allclose(first.eval()(x), second.eval()(x))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(first(x), second(x))


@every_pyramid
@both_dims
def test_deep_supervision(cls: type[Network], spatial_dims: int) -> None:
    settings = {"depth": 3, "spatial_dims": spatial_dims}
    plain, deep = make(cls, **settings), make(cls, **settings, deep_supervision=2)
    x = image(deep, times=1)
    shapes = [tuple(output.shape) for output in deep.outputs(x)]
    assert shapes == [(2, 5, *(size // 2**level for size in x.shape[2:])) for level in range(3)]
    assert len(plain.outputs(x)) == 1
    # One pointwise head per level, to 5 classes. A bilinear U-Net changes to the width of the level above.
    widths = (3, 6) if cls is BilinearUNet else (6, 12)
    added = [sum(p.numel() for p in net.parameters()) for net in (deep, plain)]
    assert added[0] - added[1] == sum(width * 5 + 5 for width in widths)
    used: list[nn.Module] = []
    for head in deep.heads:
        head.register_forward_hook(lambda module, *_: used.append(module))
    deep(x)
    assert used == [deep.heads[0]]
    sum(output.square().mean() for output in deep.outputs(x)).backward()
    assert all(parameter.grad is not None for parameter in deep.parameters())
    for wrong in (-1, 3):
        with pytest.raises(PocketError, match=f"deep_supervision: found {wrong}, expected 0 to 2"):
            make(cls, **settings, deep_supervision=wrong)


@every_pyramid
@pytest.mark.parametrize("downsample", ["max_pool", "strided_conv"])
def test_strides_and_kernels_of_thin_volumes(cls: type[Network], downsample: str) -> None:
    strides, kernels = [[1, 2, 2], [2, 2, 3]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    network = make(cls, strides=strides, kernel_sizes=kernels, deep_supervision=1, downsample=downsample)
    assert network.divisor == (2, 4, 6)
    outputs = network.outputs(torch.zeros(2, 3, 4, 8, 12))
    assert [tuple(output.shape[2:]) for output in outputs] == [(4, 8, 12), (4, 4, 6)]


@every_pyramid
def test_flat_kernels_and_strides_keep_slices_apart(cls: type[Network]) -> None:
    network = make(cls, strides=[[1, 2, 2]] * 2, kernel_sizes=[[1, 3, 3]] * 3).eval()
    x = torch.randn(1, 3, 3, 8, 8)
    changed = x.clone()
    changed[:, :, 1] += 1
    difference = (network(changed) - network(x)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[1] > 1e-3
    assert difference[0] == difference[2] == 0


def test_kernel_sizes_belong_to_their_level() -> None:
    network = UNet(1, 1, spatial_dims=2, depth=2, kernel_sizes=[[1, 3], [3, 3], [5, 3]])
    kernels = [
        [m.kernel_size for m in block.modules() if isinstance(m, nn.Conv2d)]
        for block in (*network.encoder, *network.decoder)
    ]
    assert kernels == [[kernel] * 2 for kernel in [(1, 3), (3, 3), (5, 3), (1, 3), (3, 3)]]


def test_a_network_has_one_output_unless_it_says_more() -> None:
    class Double(Network):
        def forward(self, x: Tensor) -> Tensor:
            self.check_input(x)
            return 2 * x

    network = Double(1, 1, 2, divisor=(2, 4))
    x = torch.randn(3, 1, 4, 4)
    (output,) = network.outputs(x)
    assert torch.equal(output, 2 * x)
    with pytest.raises(PocketError, match=r"network\.divisor: found \(2, 4\), expected 3"):
        Double(1, 1, 3, divisor=(2, 4))


@every_pyramid
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, r"network\.depth: found 0"),
        ({"strides": [[2, 2, 2]]}, r"network\.strides: found 1 entries, expected 2"),
        ({"kernel_sizes": [[3, 3, 3]] * 2}, r"network\.kernel_sizes: found 2 entries, expected 3"),
        ({"strides": [[2, 2], [2, 2]]}, r"network\.strides: found \[2, 2\], expected 3 integers"),
        ({"strides": [[2, 2, 0]] * 2}, r"network\.strides: found \[2, 2, 0\]"),
        ({"kernel_sizes": [[2, 3, 3]] * 3}, r"kernel_size: found .* expected odd"),
        ({"spatial_dims": 4}, r"spatial_dims: found 4"),
    ],
)
def test_contradictory_settings(cls: type[Network], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PocketError, match=message):
        make(cls, **settings)


def test_hand_derived_count_in_2d() -> None:
    # Level 0: conv 1-2 and 2-2 with norms; level 1: conv 2-4 and 4-4; up 4-2; decoder: conv 4-2 and 2-2; head 2-2.
    encoder = (9 * 1 * 2 + 2 + 4) + (9 * 2 * 2 + 2 + 4) + (9 * 2 * 4 + 4 + 8) + (9 * 4 * 4 + 4 + 8)
    decoder = (4 * 4 * 2 + 2) + (9 * 4 * 2 + 2 + 4) + (9 * 2 * 2 + 2 + 4)
    network = UNet(1, 2, spatial_dims=2, depth=1, widths=WidthSchedule(base=2))
    assert sum(p.numel() for p in network.parameters()) == encoder + decoder + (2 * 2 + 2) == 466


def fill_with_means(network: Network) -> None:
    """Make every convolution return the mean of its input channels."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(module.weight, 1 / module.in_channels)
            nn.init.zeros_(module.bias)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("cls", [UNet, HRNet])
def test_number_of_paths(cls: type[UNet] | type[HRNet], depth: int) -> None:
    """With mean-taking convolutions and no nonlinearity the output counts paths, which has a closed form."""
    network = cls(
        1,
        1,
        spatial_dims=2,
        depth=depth,
        widths=WidthSchedule(base=2),
        layers=LayerFactory(norm=NoNorm(), activation=LeakyReLU(negative_slope=1.0)),
        block=ResidualBlock(),
        kernel_sizes=[[1, 1]] * (depth + 1),
    )
    fill_with_means(network)
    # A residual block doubles. U-Net: level i holds 2^(i+1), and decoder level i is the sum of the skip and the level
    # below. HRNet: stage t sums t branches, then doubles; the end doubles once more.
    expected = {UNet: 2 ** (depth + 2) - 2, HRNet: 2 ** (depth + 2) * math.factorial(depth)}[cls]
    logits = network(torch.ones(1, 1, *network.divisor))
    torch.testing.assert_close(logits, torch.full_like(logits, expected))


def test_downsampling_is_pooling_or_a_convolution_without_norm() -> None:
    for downsample, expected in (("max_pool", 0), ("strided_conv", (8 * 3 * 3 + 3) + (8 * 6 * 6 + 6))):
        network = UNet(1, 1, depth=2, widths=WidthSchedule(base=3), downsample=downsample)
        assert sum(p.numel() for p in network.downsample.parameters()) == expected


@pytest.mark.parametrize("block", [ResidualBlock(), DenseBlock()], ids=lambda block: type(block).__name__)
@every_pyramid
def test_layers_and_blocks_reach_every_unit(cls: type[Network], block: BlockKind) -> None:
    layers = LayerFactory(conv=SeparableConv(), norm=NoNorm(), activation=PReLU(0.0), initializer="glorot_uniform")
    network = make(cls, block=block, layers=layers)
    assert network(image(network, batch=1)).shape[1] == 5
    types = {type(module) for module in network.modules()}
    assert not types & {nn.ReLU, nn.BatchNorm3d}
    cubes = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)]
    assert cubes
    assert all(module.groups == module.in_channels for module in cubes)
    assert not any(p.any() for name, p in network.named_parameters() if p.ndim == 1)  # biases and slopes


@both_dims
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_the_classifier_pools_every_channel_of_the_coarsest_level(spatial_dims: int, pool: Any) -> None:
    """With mean-taking convolutions and no nonlinearity the encoder only pools, which has a closed form."""
    network = EncoderClassifier(
        1,
        2,
        spatial_dims,
        depth=2,
        widths=WidthSchedule(base=2),
        layers=LayerFactory(norm=NoNorm(), activation=LeakyReLU(negative_slope=1.0)),
        pool=pool,
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            module.weight.data[(slice(None), slice(None), *[1] * spatial_dims)] = 1 / module.in_channels
    x = image(network, times=3)
    pooled = {2: F.max_pool2d, 3: F.max_pool3d}[spatial_dims](x, 4).flatten(1)
    expected = pooled.amax(1) if pool == "max" else pooled.mean(1)
    torch.testing.assert_close(network.features(x), expected[:, None].expand(-1, 8))
    torch.testing.assert_close(network(x), network.head(network.features(x)))


def test_a_moved_object_has_the_same_class() -> None:
    network = make(EncoderClassifier, spatial_dims=2, in_channels=1, widths=WidthSchedule(base=8)).eval()
    x = torch.zeros(1, 1, 64, 64)
    x[..., 24:30, 24:30] = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    logits = network(x)
    torch.testing.assert_close(network(x.roll((8, -4), (2, 3))), logits)  # by multiples of the divisor
    assert not torch.allclose(network(2 * x), logits)
