"""Lighter U-Net, FCN and DeepLab v3+ against published counts, explicit torch functions and their strided selves."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from shipped_networks import build, parameters
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    BatchNorm,
    ConvKind,
    DenseBlock,
    GroupedConv,
    InstanceNorm,
    LayerFactory,
    NoNorm,
    PlainBlock,
    ResidualBlock,
    SeparableConv,
    StandardConv,
    WidthSchedule,
)
from lightning_pocket.networks import FCN, BilinearUNet, DeepLabV3Plus, EncoderClassifier, HRNet, Network, UNet
from lightning_pocket.profiling.macs import count_macs
from lightning_pocket.speed.fold import folded
from lightning_pocket.tasks.start import head_layers

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lighter_networks.json").read_text(encoding="utf-8"))
BACKBONES = ("mobilenet_v2", "xception", "resnet101")
SEGMENTERS = [UNet, HRNet, BilinearUNet, FCN, DeepLabV3Plus]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def small(cls: type[Network], **settings: Any) -> Network:
    """Return a network of a few channels; settings that the class lacks are left out."""
    torch.manual_seed(0)
    given = {"in_channels": 3, "out_channels": 2, "spatial_dims": 2, "depth": 2, "widths": WidthSchedule(base=6)}
    given |= {"width": 1 / 16, "backbone_norm": BatchNorm(), **settings}
    return cls(**{key: value for key, value in given.items() if key in inspect.signature(cls).parameters})


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("row", GOLDEN["lighter_unet"], ids=lambda row: row["preset"])
def test_lighter_unet_table_2(row: dict[str, Any]) -> None:
    network = build("lighter_unet", row["preset"], in_channels=3)
    assert parameters(network) == row["parameters"]
    assert count_macs(network, (1, 3, 256, 256)) == row["macs"]


@pytest.mark.parametrize("row", GOLDEN["baselines"], ids=lambda row: row["preset"])
@pytest.mark.parametrize("base", ["lighter_unet", "fcn", "deeplab"])
def test_baselines_of_table_1(row: dict[str, Any], base: str) -> None:
    """Whatever network was chosen before, the preset makes the published one."""
    for channels, expected in row["parameters"].items():
        network = build(base, row["preset"], in_channels=3, binary_head=channels == "1")
        assert parameters(network) == expected


def test_the_shipped_networks_are_what_their_comments_say() -> None:
    names = {"lighter_unet": 17267393, "fcn": 18643713, "deeplab": 59339169}
    assert {name: parameters(build(name, in_channels=3)) for name in names} == names


@pytest.mark.parametrize("presets", [("lighter_8", "light"), ("light", "lighter_8"), ("fcn_8s", "lighter_8")])
def test_the_last_preset_wins(presets: tuple[str, ...]) -> None:
    counts = {row["preset"]: row["parameters"] for row in GOLDEN["lighter_unet"]}
    assert parameters(build("lighter_unet", *presets, in_channels=3)) == counts[presets[-1]]


def test_grouping_is_the_lighter_preset_by_another_name() -> None:
    assert parameters(build("lighter_unet", "grouped_8", in_channels=3)) == 2318293


def test_widths_scale_with_the_base() -> None:
    network = build("lighter_unet", in_channels=3, **{"widths.base": 8})
    assert [block[1][0].out_channels for block in network.encoder] == [8, 16, 32, 64, 64]
    assert [block[0][0].out_channels for block in network.decoder] == [8, 16, 32, 64]
    assert [block[1][0].out_channels for block in network.decoder] == [8, 8, 16, 32]
    # @16 of 8 channels is @128 of 64: the same groups, an eighth of the channels in each.
    for preset, scaled in (("lighter_128", 16), ("lighter_32", 4), ("lighter_8", 1)):
        wide = build("lighter_unet", preset, in_channels=1)
        thin = build("lighter_unet", "grouped_8", in_channels=1, **{"widths.base": 8, "layers.conv.group_size": scaled})
        groups = [[m.groups for m in net.modules() if getattr(m, "kernel_size", 0) == (3, 3)] for net in (wide, thin)]
        assert groups[0] == groups[1]
    assert [block[1][0].out_channels for block in build("lighter_unet", "pocket").encoder] == [64] * 5


def test_light_separates_the_second_convolutions_only() -> None:
    network = build("lighter_unet", "light", in_channels=3)
    for block in (*network.encoder, *network.decoder):
        assert isinstance(block[0][0], nn.Conv2d)
        assert block[1][0][0].groups == block[1][0][0].in_channels


@pytest.mark.parametrize("cls", SEGMENTERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_binary_head_is_a_sigmoid(cls: type[Network], spatial_dims: int) -> None:
    network = small(cls, spatial_dims=spatial_dims, binary_head=True).eval()
    x = noise(2, 3, *(2 * step for step in network.divisor))
    logits, label = network(x), torch.randint(2, (2, *x.shape[2:]))
    assert logits.shape == (2, 2, *x.shape[2:])
    z = logits[:, 1]
    torch.testing.assert_close(logits.softmax(1)[:, 1], z.sigmoid())
    expected = F.binary_cross_entropy_with_logits(z, label.float())
    torch.testing.assert_close(F.cross_entropy(logits, label), expected)
    assert z.std() > 0
    heads = head_layers(network)
    weights = [value for name, value in network.named_parameters() if name.rpartition(".")[0] in heads]
    assert [len(value) for value in weights] == [1, 1]
    # One logit less per head: its kernels and its bias.
    assert parameters(small(cls, spatial_dims=spatial_dims)) - parameters(network) == weights[0].numel() + 1
    with pytest.raises(PocketError, match=r"network\.binary_head: is true, but there are 3 classes; expected 2"):
        small(cls, binary_head=True, out_channels=3)


def test_every_supervised_head_is_binary() -> None:
    network = small(BilinearUNet, depth=3, binary_head=True, deep_supervision=2)
    outputs = network.outputs(noise(2, 3, 8, 8))
    assert [tuple(output.shape) for output in outputs] == [(2, 2, 8, 8), (2, 2, 4, 4), (2, 2, 2, 2)]
    assert not any(output[:, 0].any() for output in outputs)


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (128, 64), (224, 32)])
@pytest.mark.parametrize("cls", SEGMENTERS, ids=lambda cls: cls.__name__)
def test_any_size_that_the_divisor_allows(cls: type[Network], size: tuple[int, int]) -> None:
    network = small(cls).eval()
    assert network(noise(1, 3, *size)).shape == (1, 2, *size)


def unit(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    """Grouped and pointwise convolution, batch norm, ReLU, from a state dict."""
    kernel = state[f"{prefix}.0.0.weight"]
    h = F.conv2d(x, kernel, state[f"{prefix}.0.0.bias"], padding=1, groups=x.shape[1] // kernel.shape[1])
    h = F.conv2d(h, state[f"{prefix}.0.1.weight"], state[f"{prefix}.0.1.bias"])
    norm = (state[f"{prefix}.1.running_mean"], state[f"{prefix}.1.running_var"])
    return F.relu(F.batch_norm(h, *norm, state[f"{prefix}.1.weight"], state[f"{prefix}.1.bias"]))


def double(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    return unit(unit(x, state, f"{prefix}.0"), state, f"{prefix}.1")


def test_bilinear_unet_step_by_step() -> None:
    network = small(BilinearUNet, depth=2, layers=LayerFactory(conv=GroupedConv(2)))
    network(noise(4, 3, 16, 16))  # running statistics
    network.eval()
    state, x = network.state_dict(), noise(2, 3, 8, 12)
    first = double(x, state, "encoder.0")
    second = double(F.max_pool2d(first, 2), state, "encoder.1")
    bottom = double(F.max_pool2d(second, 2), state, "encoder.2")
    up = F.interpolate(bottom, (4, 6), mode="bilinear", align_corners=True)
    h = double(torch.cat([second, up], 1), state, "decoder.1")
    up = F.interpolate(h, (8, 12), mode="bilinear", align_corners=True)
    h = double(torch.cat([first, up], 1), state, "decoder.0")
    expected = F.conv2d(h, state["heads.0.weight"], state["heads.0.bias"])
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("cls", [BilinearUNet, UNet], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("level", range(4))
def test_each_skip_arrives(cls: type[Network], level: int) -> None:
    """With nothing coming up from below a decoder level, its skip is the only way."""
    network = small(cls, depth=4).eval()
    network.upsample[level].register_forward_hook(lambda *call: torch.zeros_like(call[-1]))
    x = noise(1, 3, 32, 32)
    before = network(x)

    def changed(index: int) -> float:
        hook = network.encoder[index].register_forward_hook(lambda *call: call[-1] + 100)
        difference = (network(x) - before).abs().max().item()
        hook.remove()
        return difference

    assert changed(level) > 1e-4
    assert changed(level + 1) == 0


def test_dropout_is_on_the_bottleneck_in_training() -> None:
    network = small(BilinearUNet, bottleneck_dropout=0.5)
    seen: list[Tensor] = []
    network.bottleneck_dropout.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    network(noise(2, 3, 64, 64))
    before, after = seen
    assert after.shape[2:] == (16, 16)
    kept = after[before > 0] / before[before > 0]
    assert set(kept.round(decimals=4).tolist()) == {0.0, 2.0}
    assert 0.4 < (kept > 0).float().mean() < 0.6
    x = noise(1, 3, 8, 8)
    plain = small(BilinearUNet)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval()(x), plain.eval()(x))
    with pytest.raises(PocketError, match="bottleneck_dropout: found 1"):
        small(BilinearUNet, bottleneck_dropout=1.0)


def fcn_reference(x: Tensor, state: dict[str, Tensor], skips: int) -> Tensor:
    """FCN from a state dict: 13 convolutions without norm, then five transposed ones."""
    pooled, index = [], 0
    for units in (2, 2, 3, 3, 3):
        for _ in range(units):
            name = f"backbone.features.{index}"
            x = F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
            index += 2
        x = F.max_pool2d(x, 2)
        index += 1
        pooled.append(x)
    for step in range(5):
        weight, bias = state[f"upsample.{step}.0.weight"], state[f"upsample.{step}.0.bias"]
        x = F.relu(F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1))
        if step < skips:
            x = x + pooled[3 - step]
        x = F.batch_norm(x, None, None, state[f"norms.{step}.weight"], state[f"norms.{step}.bias"], training=True)
    return F.conv2d(x, state["head.weight"], state["head.bias"])


def test_fcn_step_by_step_and_its_three_variants() -> None:
    x, outputs = noise(2, 3, 64, 96), {}
    for stride, skips in ((32, 0), (16, 1), (8, 2)):
        network = small(FCN, stride=stride, out_channels=3, layers=LayerFactory(), backbone_norm=NoNorm())
        for value in network.parameters():
            nn.init.kaiming_normal_(value) if value.ndim > 1 else nn.init.normal_(value, std=0.3)
        state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        torch.manual_seed(0)
        outputs[stride] = network(x)
        torch.testing.assert_close(outputs[stride], fcn_reference(x, state, skips), rtol=1e-4, atol=1e-4)
    assert (outputs[32] - outputs[16]).abs().max() > 0.01
    assert (outputs[16] - outputs[8]).abs().max() > 0.01


def dilations(network: nn.Module) -> list[int]:
    return [m.dilation[0] for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [(16, [1] * 3 + [1] * 4 + [1] * 23 + [2, 4, 8]), (8, [1] * 3 + [1] * 4 + [2] * 23 + [4, 8, 16])],
)
def test_dilations_of_resnet_101(output_stride: int, expected: list[int]) -> None:
    assert dilations(small(DeepLabV3Plus, output_stride=output_stride).backbone) == expected


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_resolutions_and_rates(backbone: str, output_stride: int, rates: list[int]) -> None:
    network = small(DeepLabV3Plus, backbone=backbone, output_stride=output_stride).eval()
    assert dilations(network.pyramid) == rates
    assert network.divisor == (output_stride,) * 2
    low, high = network.backbone(noise(1, 3, 64, 96))
    assert (low.shape[2:], high.shape[2:]) == ((16, 24), (64 // output_stride, 96 // output_stride))
    assert (low.shape[1], high.shape[1]) == network.backbone.channels
    assert network.features(noise(1, 3, 64, 96)).shape[2:] == (16, 24)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "xception"])
def test_dilation_sees_what_strides_saw(backbone: str) -> None:
    """At every other position a dilated backbone has the very features of the strided one."""
    coarse, fine = (small(DeepLabV3Plus, backbone=backbone, output_stride=stride).backbone for stride in (16, 8))
    x = noise(2, 3, 64, 96)
    coarse(x)  # running statistics
    fine.load_state_dict(coarse.state_dict())
    (low, high), (fine_low, fine_high) = coarse.eval()(x), fine.eval()(x)
    torch.testing.assert_close(fine_low, low)
    assert high.std() > 1e-3
    torch.testing.assert_close(fine_high[..., ::2, ::2], high, rtol=1e-4, atol=1e-5)


def test_channels_of_mobilenet_are_multiples_of_eight() -> None:
    # The published networks of 0.35, 0.5, 1 and 1.4 times the width.
    for width, expected in (
        (0.35, [16, 8, 8, 16, 24, 32, 56, 112]),
        (0.5, [16, 8, 16, 16, 32, 48, 80, 160]),
        (1.0, [32, 16, 24, 32, 64, 96, 160, 320]),
        (1.4, [48, 24, 32, 48, 88, 136, 224, 448]),
    ):
        features = small(DeepLabV3Plus, backbone="mobilenet_v2", width=width).backbone.features
        widths = [entry.conv[-1].num_features for entry in features[1:]]
        ends = [0, 2, 5, 9, 12, 15, 16]
        assert [features[0][0].out_channels, *(widths[end] for end in ends)] == expected


def test_deeplab_s_two_inputs_of_the_decoder_both_arrive() -> None:
    network = small(DeepLabV3Plus, backbone="mobilenet_v2").eval()
    x = noise(1, 3, 32, 32)
    before = network(x)
    for module in (network.beside, network.pyramid, *network.pyramid[0].views):
        hook = module.register_forward_hook(lambda *call: call[-1] + 1)
        assert (network(x) - before).abs().max() > 1e-4
        hook.remove()


def test_the_image_s_mean_is_the_same_everywhere() -> None:
    network = small(DeepLabV3Plus, backbone="mobilenet_v2").eval()
    view = network.pyramid[0].views[-1]
    h = noise(2, view.project.in_channels, 4, 6)
    output = view(h)
    expected = view.activation(view.norm(view.project(F.adaptive_avg_pool2d(h, 1))))
    torch.testing.assert_close(output, expected.expand_as(output))


def test_deeplab_trains_on_a_batch_of_one_image() -> None:
    network = small(DeepLabV3Plus, backbone="mobilenet_v2", dropout=(0.0, 0.0, 0.0))
    view, x = network.pyramid[0].views[-1], noise(1, 3, 64, 64)
    network(x).square().mean().backward()
    assert not view.norm.num_batches_tracked
    assert view.norm.weight.grad.any()
    network(torch.cat([x, 2 * x]))
    assert view.norm.num_batches_tracked == 1
    h = noise(1, view.project.in_channels, 4, 4)
    torch.testing.assert_close(view.train()(h), view.eval()(h))
    small(DeepLabV3Plus, layers=LayerFactory(norm=InstanceNorm()))(x).mean().backward()


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (DeepLabV3Plus, {"backbone": "resnet18"}, "backbone: found 'resnet18', expected one of resnet101"),
        (DeepLabV3Plus, {"output_stride": 32}, "output_stride: found 32, expected 8 or 16"),
        (DeepLabV3Plus, {"width": 0.0}, r"width: found 0\.0"),
        (DeepLabV3Plus, {"dropout": (0.5, 1.0, 0.1)}, r"dropout: found \[0\.5, 1\.0, 0\.1\]"),
        (FCN, {"stride": 4}, "stride: found 4, expected 32, 16 or 8"),
        (FCN, {"checkpoint_levels": 7}, "checkpoint_levels: found 7, expected 0 to 6"),
    ],
)
def test_bad_settings(cls: type[Network], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PocketError, match=f"network.{message}"):
        small(cls, **settings)


FAMILIES = {
    "unet": (UNet, {"block": PlainBlock()}),
    "resnet": (UNet, {"block": ResidualBlock()}),
    "densenet": (UNet, {"block": DenseBlock()}),
    "hrnet": (HRNet, {}),
    "encoder_classifier": (EncoderClassifier, {}),
    "bilinear_unet": (BilinearUNet, {}),
    "fcn": (FCN, {}),
    **{backbone: (DeepLabV3Plus, {"backbone": backbone}) for backbone in BACKBONES},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("conv", [GroupedConv(4), GroupedConv(1), SeparableConv()], ids=["@4", "@1", "separable"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_every_family_is_made_lighter(family: str, conv: ConvKind, spatial_dims: int) -> None:
    cls, settings = FAMILIES[family]
    network = small(cls, spatial_dims=spatial_dims, layers=LayerFactory(conv=conv), **settings)
    x = noise(2, 3, *(2 * step for step in network.divisor))
    logits = network(x)
    F.cross_entropy(logits, torch.randint(2, (2, *logits.shape[2:]))).backward()
    assert all(p.grad is not None for p in network.parameters())
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and max(m.kernel_size) > 1]
    per_group = {m.in_channels // m.groups for m in convs}
    assert max(per_group) == (4 if conv == GroupedConv(4) else 1)
    assert parameters(network) < parameters(
        small(cls, spatial_dims=spatial_dims, layers=LayerFactory(conv=StandardConv()), **settings)
    )


@pytest.mark.parametrize("family", ["bilinear_unet", "fcn", *BACKBONES])
def test_folded_norms_change_nothing(family: str) -> None:
    cls, settings = FAMILIES[family]
    network = small(cls, **settings)
    x = noise(2, 3, 64, 64)
    network(x)  # running statistics
    network.eval()
    copied = folded(network)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in copied.modules()) < sum(
        isinstance(m, nn.BatchNorm2d) for m in network.modules()
    )
    torch.testing.assert_close(copied(x), network(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("cls", [BilinearUNet, FCN], ids=lambda cls: cls.__name__)
def test_checkpointed_levels_give_the_same_gradients(cls: type[Network]) -> None:
    plain, again = small(cls), small(cls, checkpoint_levels=3)
    x = noise(2, 3, 64, 64)
    for network in (plain, again):
        network(x).square().mean().backward()
    pairs = zip(plain.named_parameters(), again.parameters(), strict=True)
    assert all(torch.equal(first.grad, second.grad) for (_, first), second in pairs)
