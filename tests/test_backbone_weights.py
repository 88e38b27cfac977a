"""ImageNet weights of backbones: files in torchvision's layout, and what does not fit."""

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import kill_after
from shipped_networks import build
from torch import Tensor

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import BatchNorm, InstanceNorm, WidthSchedule
from lightning_pocket.networks import FCN, DeepLabV3Plus, Network, UNet
from lightning_pocket.tasks import load_task

LAYOUTS = json.loads((Path(__file__).parent / "golden" / "torchvision_layouts.json").read_text(encoding="utf-8"))
#: Parameters of torchvision's classifiers, which the lists of shapes must add up to.
PUBLISHED = {"vgg16": 138_357_544, "resnet101": 44_549_160, "mobilenet_v2": 3_504_872}
CLASSIFIERS = {"vgg16": ("classifier",), "resnet101": ("fc",), "mobilenet_v2": ("classifier", "features.18")}


def numbered(layout: str) -> dict[str, Tensor]:
    """Return a state dict whose tensors each repeat one number of their own, so that its file is small."""
    shapes = LAYOUTS[layout]
    return {
        name: torch.tensor(index) if not shape else torch.full((1,), index / 1000).expand(shape)
        for index, (name, shape) in enumerate(shapes.items(), start=1)
    }


def make(layout: str, path: Path | str, in_channels: int = 3) -> Network:
    if layout == "vgg16":
        return FCN(in_channels, 2, 2, backbone_weights=str(path))
    return DeepLabV3Plus(in_channels, 2, 2, backbone=layout, backbone_weights=str(path))


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        torch.save(content, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return write


def tiny(path: Path | None = None, in_channels: int = 3, **settings: Any) -> FCN:
    torch.manual_seed(0)
    widths = WidthSchedule(base=2)
    return FCN(in_channels, 2, 2, widths=widths, backbone_weights=None if path is None else str(path), **settings)


def tiny_weights(**settings: Any) -> dict[str, Tensor]:
    """Return weights of the right shapes for :func:`tiny`, other than those it begins with."""
    torch.manual_seed(1)
    state = FCN(3, 2, 2, widths=WidthSchedule(base=2), **settings).backbone.state_dict()
    return {name: torch.randn(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("layout", PUBLISHED)
def test_every_tensor_goes_to_its_own_layer(layout: str, save: Callable[[Any], Path]) -> None:
    saved = numbered(layout)
    learned = [name for name in saved if name.endswith((".weight", ".bias"))]
    assert sum(prod(LAYOUTS[layout][name]) for name in learned) == PUBLISHED[layout]
    network = make(layout, save(saved))
    before = {name: value.clone() for name, value in network.state_dict().items() if not name.startswith("backbone.")}
    message = network.load_pretrained()
    state = network.backbone.state_dict()
    assert set(state) == {name for name in saved if not name.startswith(CLASSIFIERS[layout])}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in state.items())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    read = len([name for name in state if not name.endswith("num_batches_tracked")])
    assert re.fullmatch(rf"backbone \w+: {read} tensors from .*weights\.pth", message)


def test_the_names_do_not_depend_on_the_layers_order_alone() -> None:
    """The first and last convolutions of each stage are where the papers have them."""
    backbone = build("deeplab", in_channels=3).backbone
    assert backbone.layer3[22].conv2.in_channels == 256
    assert backbone.layer4[0].downsample[0].in_channels == 1024
    assert backbone.conv1.kernel_size == (7, 7)


def test_files_of_old_versions_have_no_counters(save: Callable[[Any], Path]) -> None:
    saved = {n: t for n, t in numbered("mobilenet_v2").items() if not n.endswith("num_batches_tracked")}
    network = make("mobilenet_v2", save(saved))
    network.load_pretrained()
    assert torch.equal(network.backbone.features[17].conv[3].weight, saved["features.17.conv.3.weight"])


@pytest.mark.parametrize("norm", [BatchNorm(), InstanceNorm()], ids=lambda norm: type(norm).__name__)
def test_vgg_with_norms_has_the_names_of_torchvision_s(norm: Any, save: Callable[[Any], Path]) -> None:
    # vgg16_bn: convolution, norm, ReLU; so the second convolution is entry 3, and the third, behind a pool, 7.
    network = tiny(save(tiny_weights(backbone_norm=norm)), backbone_norm=norm)
    names = [name for name in network.backbone.state_dict() if name.endswith(".weight")]
    assert [int(name.split(".")[1]) for name in names[:6]] == [0, 1, 3, 4, 7, 8]
    network.load_pretrained()


def test_a_grey_image_is_answered_like_three_equal_channels(save: Callable[[Any], Path]) -> None:
    path = save({name: tensor.abs() for name, tensor in tiny_weights().items()})  # so that no feature dies
    colour, grey = tiny(path).double(), tiny(path, in_channels=1).double()
    assert "summed" not in colour.load_pretrained()
    assert grey.load_pretrained().endswith("its first kernels summed over RGB for one channel")
    x = torch.rand(2, 1, 64, 64, dtype=torch.float64)
    for one, three in zip(grey.backbone(x), colour.backbone(x.expand(-1, 3, -1, -1)), strict=True):
        assert one.any()
        torch.testing.assert_close(one, three)


def test_own_layout_of_xception(tmp_path: Path) -> None:
    def xception(seed: int, path: str | None = None) -> DeepLabV3Plus:
        torch.manual_seed(seed)
        return DeepLabV3Plus(3, 2, 2, backbone="xception", width=1 / 16, backbone_weights=path)

    first, file = xception(0), tmp_path / "xception.pth"
    torch.save(first.backbone.state_dict(), file)
    second = xception(1, str(file))
    second.load_pretrained()
    assert all(map(torch.equal, first.backbone.state_dict().values(), second.backbone.state_dict().values()))
    torch.save({name: t for name, t in first.backbone.state_dict().items() if "stem" not in name}, file)
    with pytest.raises(PocketError, match=r"lacks stem\.0\.0\.weight.*Expected this program's Xception's names"):
        second.load_pretrained()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("features.28.bias"),
            r"does not fit VGG16: it lacks features\.28\.bias\. Expected torchvision",
        ),
        (lambda w: w.update(extra=torch.ones(1)), r"it has an unknown extra\. "),
        (
            lambda w: w.update({"features.2.weight": torch.ones(4, 2, 3, 3)}),
            r"wrong shape in features\.2\.weight 4x2x3x3 instead of 2x2x3x3",
        ),
        (lambda w: w["features.2.weight"].fill_(float("nan")), r"has NaN, infinity or integers in features\.2\.weight"),
        (lambda w: w.update({"features.0.bias": torch.ones(2, dtype=torch.int8)}), r"integers in features\.0\.bias"),
        (lambda w: [w.pop(name) for name in list(w)[:5]], r"lacks features\.0\.weight, .* and 2 more"),
        (lambda w: w.update({"features.0.weight": torch.ones(2, 4, 3, 3)}), r"2x4x3x3 instead of 2x3x3x3"),
        (
            lambda w: (w.pop("features.0.bias"), w.update(fc=torch.ones(1))),
            r"it lacks features\.0\.bias; it has an unknown fc\. ",
        ),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Tensor]], Any], message: str, save: Callable[[Any], Path]
) -> None:
    weights = tiny_weights()
    change(weights)
    network = tiny(save(weights))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(PocketError, match=message) as caught:
        network.load_pretrained()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("network.backbone_weights: ")
    assert "weights.pth" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_four_channels_do_not_fit(save: Callable[[Any], Path]) -> None:
    with pytest.raises(PocketError, match=r"features\.0\.weight 2x3x3x3 instead of 2x4x3x3"):
        tiny(save(tiny_weights()), in_channels=4).load_pretrained()


def test_other_kinds_of_convolution_do_not_fit(save: Callable[[Any], Path]) -> None:
    network = build("fcn", "grouped_8", in_channels=3)
    network.backbone_weights = str(save(numbered("vgg16")))
    with pytest.raises(PocketError, match=r"lacks features\.0\.0\.weight"):
        network.load_pretrained()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {"a": torch.ones(1)}, "epoch": 3},
            "holds a mapping of state_dict, epoch, expected a state dict",
        ),
        ({}, "holds a mapping of nothing"),
        ([torch.ones(1)], "holds a list"),
    ],
)
def test_files_that_hold_something_else(content: Any, message: str, save: Callable[[Any], Path]) -> None:
    with pytest.raises(PocketError, match=message):
        tiny(save(content)).load_pretrained()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PocketError, match=r"absent\.pth: no such file"):
        tiny(tmp_path / "absent.pth").load_pretrained()
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(PocketError, match=r"text\.pth: not a file of weights, or a damaged one"):
        tiny(tmp_path / "text.pth").load_pretrained()

    class Code:
        def __reduce__(self) -> Any:
            return print, ("ran",)

    torch.save({"a": Code()}, tmp_path / "code.pth")
    with pytest.raises(PocketError, match=r"code\.pth: not a file of weights"):
        tiny(tmp_path / "code.pth").load_pretrained()


def test_networks_without_a_file_read_none() -> None:
    assert tiny().load_pretrained() == ""
    assert UNet(1, 2, 2, depth=1).load_pretrained() == ""


@pytest.mark.e2e
def test_a_run_needs_the_file_only_when_it_begins(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[[list[str]], str]
) -> None:
    torch.manual_seed(3)
    backbone = FCN(
        3, 2, 3, widths=WidthSchedule(base=2, doublings=0)
    ).backbone  # kernels for volumes, in the same layout
    file, network = tmp_path / "vgg16.pth", "--model.init_args.network.init_args"
    torch.save(backbone.state_dict(), file)
    options = [option for option in options if not option.startswith((f"{network}.depth", "--data.init_args.patch"))]
    options = [*options, "--config=fcn_8s", f"{network}.widths.base=2", f"{network}.backbone_weights={file}"]
    options = [*options, f"{network}.spatial_dims=3", "--data.init_args.patch_size=[32,32,32]"]
    options = [*options, "--model.init_args.optimizer.init_args.lr=0.0"]
    kill_after(["fit", *options])
    assert f"backbone VGG16: 26 tensors from {file}, its first kernels summed" in capsys.readouterr().out
    file.unlink()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    learned = load_task(last).network.backbone.state_dict()
    for name, tensor in backbone.state_dict().items():
        expected = tensor.sum(1, keepdim=True) if name == "features.0.weight" else tensor
        assert torch.equal(learned[name], expected), name
    main(["fit", *options])
    assert "continuing from" in capsys.readouterr().out
    main(["test", f"--run_dir={tmp_path / 'run'}"])
    message = fails(["fit", *options, f"--run_dir={tmp_path / 'other'}"])
    assert re.search(r"network\.backbone_weights: .*vgg16\.pth: no such file", message)
    assert not (tmp_path / "other" / "checkpoints").exists()
