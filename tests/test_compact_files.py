"""Architecture files describe networks and nothing else; what is not one is refused in one line."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compact_families import FAMILIES, draw_statistics, kill
from torch import nn

from lightning_pocket.compact import CompactClassifier, CompactNetwork, load_compact, save_compact
from lightning_pocket.compact.architecture import Architecture
from lightning_pocket.compact.border_bias import BorderBias
from lightning_pocket.compact.convolution import make_convolution
from lightning_pocket.compact.network import make_network
from lightning_pocket.compact.reduce import reduce_network
from lightning_pocket.compact.shapes import check_shapes
from lightning_pocket.errors import PocketError
from lightning_pocket.profiling.macs import count_layers
from lightning_pocket.speed import folded


def reduced(family: str = "unet_concat", dims: int = 2, share: float = 0.4) -> CompactNetwork:
    torch.manual_seed(0)
    network = FAMILIES[family](dims).eval()
    draw_statistics(network)
    kill(network, share, cropped=share)
    return reduce_network(network, (2, *[12] * dims)).network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_compact(reduced(), tmp_path)
    return tmp_path


@pytest.mark.parametrize(("family", "dims"), [("unet_concat", 3), ("residual", 2), ("pyramid", 2), ("heads", 2)])
def test_files_hold_the_network(family: str, dims: int, tmp_path: Path) -> None:
    network = reduced(family, dims)
    save_compact(network, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["architecture.json", "weights.pt"]
    loaded = load_compact(tmp_path)
    assert not loaded.training
    x = torch.randn(1, 2, *[16] * dims)
    with torch.no_grad():
        for one, other in zip(network.outputs(x), loaded.outputs(x), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(loaded(x), loaded.outputs(x)[0])


def test_a_classifier_is_one(tmp_path: Path) -> None:
    save_compact(reduced("classifier_max"), tmp_path)
    assert isinstance(load_compact(tmp_path), CompactClassifier)
    with pytest.raises(PocketError, match=r"is the architecture of a CompactClassifier, found CompactNetwork\. Set"):
        CompactNetwork(str(tmp_path))


def test_double_weights_stay_double(tmp_path: Path) -> None:
    save_compact(reduced().double(), tmp_path)
    assert {p.dtype for p in load_compact(tmp_path).parameters()} == {torch.float64}


def test_other_images_and_classes_are_refused(folder: Path) -> None:
    network = CompactNetwork(str(folder), in_channels=2, out_channels=3)
    with pytest.raises(PocketError, match=r"has 4 channels, expected 2"):
        network(torch.zeros(1, 4, 8, 8))
    for key in ("in_channels", "out_channels"):
        with pytest.raises(PocketError, match=rf"^network\.{key}: found 9, but .*architecture\.json is a network of"):
            CompactNetwork(str(folder), **{key: 9})


def step(content: dict[str, Any], op: str) -> dict[str, Any]:
    return next(entry for entry in content["steps"] if entry["op"] == op)


def bordered(content: dict[str, Any]) -> dict[str, Any]:
    """Return a convolution that has kernels and a border map."""
    return next(e for e in content["steps"] if e["op"] == "conv" and e["settings"]["border"] and e["settings"]["parts"])


MANY = {"out": 65536, "kernel": [1024, 1024], "padding": [[0, 0], [0, 0]]}
TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no architecture": (lambda c: c.clear(), "is no architecture"),
    "version": (lambda c: c.update(version=2), "version: found 2, this program reads 1"),
    "extra key": (lambda c: c.update(weights="/etc/passwd"), "has an unknown weights"),
    "missing key": (lambda c: c.pop("divisor"), "lacks divisor"),
    "unknown op": (lambda c: step(c, "concat").update(op="exec"), "op: found 'exec', expected one of conv, linear"),
    "op of no text": (lambda c: step(c, "concat").update(op=["conv"]), r"op: found \['conv'\]"),
    "extra setting": (lambda c: step(c, "batch_norm")["settings"].update(code="x"), "has an unknown code"),
    "missing setting": (lambda c: step(c, "conv")["settings"].pop("stride"), "lacks stride"),
    "setting of no mapping": (lambda c: step(c, "conv").update(settings=[1]), "expected a mapping"),
    "name of a path": (lambda c: step(c, "concat").update(name="../../x"), "found the name '../../x'"),
    "name of a method": (lambda c: step(c, "concat").update(name="a.forward"), "found the name 'a.forward'"),
    "name in private": (lambda c: step(c, "concat").update(name="_modules"), "found the name '_modules'"),
    "same name": (lambda c: c["steps"][1].update(name=c["steps"][0]["name"]), "is there twice"),
    "name inside another": (
        lambda c: (c["steps"][-1].update(name="fine.0.0.x"), c.update(outputs=["fine.0.0.x"])),
        "lies inside fine.0.0",
    ),
    "input to come": (lambda c: c["steps"][0].update(inputs=["head"]), "expected names of steps before it"),
    "no input": (lambda c: c["steps"][0].update(inputs=[]), "has 0 inputs, expected 1"),
    "too many inputs": (lambda c: step(c, "max_pool").update(inputs=["image"] * 2), "has 2 inputs, expected 1"),
    "wrong channels": (
        lambda c: step(c, "batch_norm")["settings"].update(channels=999),
        "found 999, but its input has",
    ),
    "huge channels": (
        lambda c: step(c, "conv")["settings"]["parts"][0].update(out=10**12),
        "found 1000000000000, expected a whole number from 1 to 4194304",
    ),
    "huge kernel": (
        lambda c: [part.update(MANY) for part in step(c, "conv")["settings"]["parts"]],
        "parameters, more than|channels",
    ),
    "many axes": (lambda c: step(c, "conv")["settings"].update(stride=[1] * 3), "stride: has 3 entries, expected 2"),
    "text for a number": (lambda c: step(c, "batch_norm")["settings"].update(eps="1e-5"), "eps: found '1e-5'"),
    "infinite": (lambda c: step(c, "batch_norm")["settings"].update(eps=float("inf")), "eps: found inf"),
    "true for a number": (lambda c: c.update(in_channels=True), "in_channels: found True"),
    "activation": (lambda c: step(c, "activation")["settings"].update(kind="eval"), "kind: found 'eval'"),
    "argument": (
        lambda c: step(c, "activation")["settings"].update(arguments={"inplace": 1}),
        "has an unknown inplace",
    ),
    "out_channels": (lambda c: c.update(out_channels=5), "out_channels: found 5, but the output has 3"),
    "outputs": (lambda c: c.update(outputs=["nowhere"]), r"outputs: found \['nowhere'\]"),
    "outputs of no text": (lambda c: c.update(outputs=[{}]), "outputs: found"),
    "sizes that differ": (
        lambda c: bordered(c)["settings"]["parts"][0].update(padding=[[9, 9], [0, 0]]),
        "padding: the parts give results of different sizes",
    ),
    "border of another mode": (lambda c: bordered(c)["settings"].update(mode="reflect"), "border: is given with mode"),
    "padded pool": (lambda c: step(c, "max_pool")["settings"].update(padding=[2, 0]), "expected at most half"),
    "negative eps": (lambda c: step(c, "batch_norm")["settings"].update(eps=-1), "eps: found -1, expected 0 or more"),
    "dims": (lambda c: c.update(spatial_dims=3), "divisor: "),
    "steps": (lambda c: c.update(steps={}), "steps: expected a list"),
    "no step": (lambda c: c["steps"].append(7), "expected a mapping"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_file_is_refused_in_one_line(how: str, folder: Path) -> None:
    file = folder / "architecture.json"
    content = json.loads(file.read_text())
    change, said = TAMPERED[how]
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(PocketError, match=said) as caught:
        load_compact(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("unet_linear", {"mode": "trilinear"}, "mode: found 'trilinear', which is not for 2 spatial axes"),
        ("unet_linear", {"mode": "nearest"}, "align_corners: found True, expected null with mode 'nearest'"),
        ("unet_overlapping", {"output_padding": [2, 1]}, "output_padding: found [2, 1], expected less than"),
        ("classifier_parts", {"size": [2]}, "size: has 1 entries, expected 2"),
        ("average_pool_padded", {"padding": [1, 2]}, "expected at most half of the kernel"),
    ],
)
def test_settings_that_cannot_be_computed_are_refused(family: str, settings: dict[str, Any], said: str) -> None:
    content = reduced(family).architecture.to_dict()
    kinds = ("upsample", "adaptive_pool", "average_pool")
    place = next(e for e in content["steps"] if e["op"] in kinds or e["settings"].get("output_padding") is not None)
    place["settings"] |= settings
    with pytest.raises(PocketError, match=re.escape(said)):
        Architecture.from_dict(content)


def drop(content: dict[str, Any], op: str) -> None:
    """Take an operation out; what read it reads what it has read."""
    gone = step(content, op)
    content["steps"].remove(gone)
    for entry in content["steps"]:
        entry["inputs"] = [gone["inputs"][0] if name == gone["name"] else name for name in entry["inputs"]]


TORN: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "no pooling": ("unet_concat", lambda c: drop(c, "max_pool"), r"\(concat\): cannot be computed \(Sizes of tensors"),
    "larger step": ("unet_add", lambda c: step(c, "max_pool")["settings"].update(stride=[4, 4]), r"\(add\): cannot be"),
    "huge scale": (
        "unet_linear",
        lambda c: step(c, "upsample")["settings"].update(scale=[1e9, 1e9]),
        "numbers|computed",
    ),
    "no scale": (
        "unet_linear",
        lambda c: step(c, "upsample")["settings"].update(scale=[-1, 0]),
        r"\(upsample\): cannot",
    ),
}


@pytest.mark.parametrize("how", TORN)
def test_sizes_that_do_not_go_together_are_refused_in_one_line(how: str) -> None:
    family, change, said = TORN[how]
    content = reduced(family).architecture.to_dict()
    make_network(content)
    change(content)
    with pytest.raises(
        PocketError, match=rf"^network\.architecture: .*{said}.*for images of 256x256\. It must"
    ) as caught:
        make_network(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_kernels_that_need_a_large_image_are_taken() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 33), nn.ReLU(), nn.Conv2d(2, 1, 25)).eval()
    found = reduce_network(network, (1, 64, 64)).network
    assert CompactNetwork(found.architecture.to_dict())(torch.zeros(1, 1, 60, 60)).shape == (1, 1, 4, 4)


def test_looking_at_sizes_draws_no_random_numbers() -> None:
    content = reduced().architecture
    before = torch.get_rng_state()
    check_shapes(content, "here")
    assert torch.equal(before, torch.get_rng_state())


def test_files_that_are_no_json_or_not_there(folder: Path) -> None:
    file = folder / "architecture.json"
    file.write_text("[" * 100_000)
    with pytest.raises(PocketError, match=r"nested too deeply|not valid JSON"):
        load_compact(folder)
    file.write_bytes(b"\xff\x00")
    with pytest.raises(PocketError, match="not valid JSON"):
        load_compact(file)
    file.unlink()
    with pytest.raises(PocketError, match="no such architecture file"):
        load_compact(folder)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("this must not run",)


def test_weights_that_do_not_fit_or_are_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "weights.pt"
    good = torch.load(file, weights_only=True)
    for change, said in (
        (lambda s: s.pop("body.head.weight"), "it lacks body.head.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "it has an unknown extra"),
        (
            lambda s: s.update({"body.head.bias": torch.zeros(7)}),
            r"wrong shape in body.head.bias \(7,\) instead of \(3,\)",
        ),
    ):
        state = copy.copy(good)
        change(state)
        torch.save(state, file)
        with pytest.raises(PocketError, match=said):
            load_compact(folder)
    for content, said in (
        (Evil(), "not a file of weights"),
        ([1, 2], "something other than tensors"),
        (b"", "not a f"),
    ):
        file.write_bytes(pickle.dumps(content)) if isinstance(content, Evil) else torch.save(content, file)
        if content == b"":
            file.write_bytes(b"")
        with pytest.raises(PocketError, match=said):
            load_compact(folder)
    assert "this must not run" not in capsys.readouterr().out
    file.unlink()
    with pytest.raises(PocketError, match=r"weights\.pt: no such file"):
        load_compact(folder)


def test_weights_are_compared_before_memory_is_taken(folder: Path) -> None:
    """Four thousand million numbers are claimed; none are allocated."""
    content = json.loads((folder / "architecture.json").read_text())
    content["in_channels"] = 60_000
    for part in content["steps"][0]["settings"]["parts"]:
        part.update({"in": 60_000, "kernel": [99, 99], "padding": [[49, 49], [49, 49]]})
    (folder / "architecture.json").write_text(json.dumps(content))
    with pytest.raises(PocketError, match="does not fit the architecture beside it: it has a wrong shape in"):
        load_compact(folder)


def test_border_maps_are_kept_until_their_kernels_change() -> None:
    conv = nn.Conv2d(1, 3, 3, padding=1)
    border, calls = BorderBias(conv), []
    conv.register_forward_hook(lambda *_: calls.append(1))
    x = torch.zeros(2, 5, 8, 8)
    with torch.no_grad():
        first = border(x)
        assert border(x) is first
        assert border(x[..., :6]).shape == (1, 3, 8, 6)
        assert len(calls) == 2
        conv.weight.mul_(2)
        assert torch.equal(border(x), conv(torch.ones(1, 1, 8, 8)))
        conv.weight.data.mul_(2)  # leaves no trace, but for the change to evaluation that follows a training
        border.train().eval()
        assert torch.equal(border(x), conv(torch.ones(1, 1, 8, 8)))
        conv.bias.add_(1)
        assert torch.equal(border(x), conv(torch.ones(1, 1, 8, 8)))
        for size in range(2, 12):
            border(x[..., :size])
        assert len(border._answers) == 4
    assert border(x).requires_grad
    assert copy.deepcopy(border)._answers == {}


def test_networks_are_copied_sent_folded_and_counted() -> None:
    network = reduced("unet_concat", 3)
    x = torch.randn(1, 2, 8, 8, 8)
    with torch.no_grad():
        expected = network(x)
        assert torch.equal(copy.deepcopy(network)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(network))(x), expected)
        faster = folded(network)
        torch.testing.assert_close(faster(x), expected)
        assert faster.state_dict().keys() != network.state_dict().keys()
    norms = sum(isinstance(module, nn.BatchNorm3d) for module in network.modules())
    left = sum(isinstance(module, nn.BatchNorm3d) for module in faster.modules())
    assert left < norms
    assert {layer.name for layer in count_layers(network, x.shape)} >= {"body.head", "body.pool"}


def test_a_single_voxel_trains() -> None:
    """A batch norm that sees one value per channel uses its running averages, as the networks of the package do."""
    network = reduced("pyramid").train()
    assert network(torch.randn(1, 2, 12, 12)).isfinite().all()


def test_the_file_has_a_line_for_each_step(folder: Path) -> None:
    text = (folder / "architecture.json").read_text()
    architecture = Architecture.read(folder / "architecture.json")
    assert sum(line.startswith('  {"name"') for line in text.splitlines()) == len(architecture.steps)
    assert Architecture.from_dict(architecture.to_dict()) == architecture


def test_what_works_in_place_leaves_a_kept_border_map_alone() -> None:
    border = {"kernel": [3, 3], "padding": [[1, 1], [1, 1]]}
    common = {"stride": [1, 1], "dilation": [1, 1], "output_padding": None, "mode": "zeros", "bias": True}
    layer = make_convolution(common | {"parts": [], "free": 2, "border": border})
    x = torch.zeros(2, 3, 6, 6)
    with torch.no_grad():
        before = layer(x)
        layer(x).add_(1)
        assert torch.equal(layer(x), before)
