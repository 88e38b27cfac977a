"""The shipped networks and presets against the papers' tables of parameters."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped_networks import ROOT, arguments, build, network_overlay, parameters, parser
from torch import nn

from lightning_pocket.layers import PReLU
from lightning_pocket.storage import load_yaml

GOLDEN = json.loads((ROOT / "tests" / "golden" / "networks.json").read_text(encoding="utf-8"))
NETWORKS = sorted(path.stem for path in (ROOT / "configs" / "networks").glob("*.yaml"))


def shipped(name: str) -> dict[str, Any]:
    return load_yaml((ROOT / "configs" / "networks" / f"{name}.yaml").read_text(encoding="utf-8"))


def adjusts_the_network(path: Path) -> bool:
    """Tell presets that change settings of any network from those that choose one, or leave it alone."""
    network = load_yaml(path.read_text(encoding="utf-8")).get("model", {}).get("init_args", {}).get("network")
    return isinstance(network, dict)


PRESETS = [p.stem for p in sorted((ROOT / "configs" / "presets").glob("*.yaml")) if adjusts_the_network(p)]


@pytest.mark.parametrize("row", GOLDEN["pocketnet_table_1"], ids=lambda row: "-".join(map(str, row.values())))
def test_pocketnet_table_1(row: dict[str, Any]) -> None:
    assert parameters(build(row["network"], row["preset"], in_channels=row["in_channels"])) == row["parameters"]


@pytest.mark.parametrize("row", GOLDEN["pocketnet_depth_4"], ids=lambda row: "-".join(map(str, row.values())))
def test_four_downsamplings(row: dict[str, Any]) -> None:
    assert parameters(build(row["network"], row["preset"], depth=4)) == row["parameters"]


@pytest.mark.parametrize("row", GOLDEN["pocketnet_table_4"], ids=lambda row: row["preset"])
def test_pocketnet_table_4(row: dict[str, Any]) -> None:
    assert parameters(build("unet", row["preset"])) == row["parameters"]
    no_norm = {"class_path": "lightning_pocket.layers.NoNorm"}
    assert parameters(build("unet", row["preset"], **{"layers.norm": no_norm})) == row["no_norm"]


@pytest.mark.parametrize("row", GOLDEN["pocketnet_table_2"], ids=lambda row: "-".join(map(str, row.values())))
def test_pocketnet_table_2(row: dict[str, Any]) -> None:
    assert parameters(build("encoder_classifier", *row["presets"])) == row["parameters"]


def test_a_ceiling_of_256() -> None:
    assert parameters(build("unet", **{"widths.ceiling": 256})) == 24352514
    assert parameters(build("unet", depth=4, **{"widths.ceiling": 256})) == 14977538


@pytest.mark.parametrize(("classes", "expected"), GOLDEN["pocket_resnet_separable"].items())
def test_separable_pocket_resnet(classes: str, expected: int) -> None:
    assert parameters(build("resnet", "pocket", "separable", out_channels=int(classes))) == expected


def test_grouped_pocket_unet() -> None:
    convs = [(1, 32), (32, 32)] + [(32, 32)] * 10 + [(64, 32), (32, 32)] * 5
    grouped = sum(i * min(8, i) * 27 + i + i * o + o + 2 * o for i, o in convs)
    assert parameters(build("unet", "pocket", "grouped_8")) == grouped + 5 * (8 * 32 * 32 + 32) + (32 * 2 + 2)


def test_full_undoes_pocket() -> None:
    assert parameters(build("unet", "pocket", "full")) == parameters(build("unet")) == 90486274


def test_deep_supervision_adds_two_heads() -> None:
    assert parameters(build("unet", "deep_supervision")) == 90486274 + (64 * 2 + 2) + (128 * 2 + 2)


@pytest.mark.parametrize(("name", "preset"), [("unet", "tensorflow"), ("resnet", "tensorflow_prelu")])
def test_keras_defaults(name: str, preset: str) -> None:
    network = build(name, preset, device="cpu", depth=1, **{"widths.base": 2})
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.01)}
    convs = [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    assert not any(conv.bias.any() for conv in convs)
    slopes = [module.weight for module in network.modules() if isinstance(module, nn.PReLU)]
    assert len(slopes) == (9 if name == "resnet" else 0)  # three per block
    assert not any(slope.any() for slope in slopes)


def test_tensorflow_presets_agree() -> None:
    plain, prelu = (network_overlay(preset)["init_args"]["layers"] for preset in ("tensorflow", "tensorflow_prelu"))
    assert prelu.pop("activation")["class_path"] == f"lightning_pocket.layers.{PReLU.__name__}"
    assert plain == prelu


def test_instance_norm_replaces_every_norm() -> None:
    network = build("unet", "instance_norm")
    assert parameters(network) == 90486274
    assert sum(isinstance(module, nn.InstanceNorm3d) for module in network.modules()) == 22
    assert not any(isinstance(module, nn.BatchNorm3d) for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_network_in_2d(name: str) -> None:
    network = build(name, "network_2d")
    assert {value.ndim for value in network.parameters() if value.ndim > 2} == {4}
    assert len(network.divisor) == 2


def test_grouped_pocket_densenet() -> None:
    # Eight does not divide the 1 + 32 and 1 + 64 channels that the first block concatenates: 3 and 5 do.
    sizes = {1: 1, 32: 8, 33: 3, 64: 8, 96: 8}
    convs = [(1, 32), (33, 32)] + [(32, 32), (64, 32)] * 5 + [(64, 32), (96, 32)] * 5
    grouped = sum(27 * i * sizes[i] + i + i * o + o + 2 * o + o for i, o in convs)
    ends = sum(i * 32 + 32 + 32 for i in [65] + [96] * 5 + [128] * 5)
    steps = 2 * 5 * (8 * 32 * 32 + 32)
    assert parameters(build("densenet", "pocket", "grouped_8")) == grouped + ends + steps + (32 * 2 + 2)


#: Settings that a network lacks: no decoder to supervise, widths by a factor, a depth of its own, an encoder.
WIDTHS = ["pocket", "full", *(f"doublings_{n}" for n in range(1, 5)), "table2_16", "text_32", "demo", "laptop"]
RESNETS = [name for name in NETWORKS if name.startswith(("resnet_", "square_"))]
#: Classifiers with asymmetric blocks at will, and the others that are built without levels of a depth of their own.
ASYMMETRIC = ["small_net", "small_net_4", "mobilenet", "mobilenet_v2", "shufflenet_v2"]
FLAT = [*ASYMMETRIC, "resnet18", "resnet152", "resnet18_cifar", "alexnet", "lenet5", "all_cnn"]
LEVELS = ["deep_supervision", "binary_head", "lits_early", "checkpoint_activations"]
LAYERS = ["batch_norm", "separable", "grouped_8", "instance_norm", "tensorflow", "tensorflow_prelu"]
LAYERS += [f"expanded_{name}" for name in ("cl", "ck", "encoder", "layers", "start", "code", "mobilenet_v2")]
MISFITS = {
    *product(RESNETS, ("deep_supervision", "binary_head")),
    *product(FLAT, (*LEVELS, *WIDTHS)),
    *product(["vgg16"], LEVELS),
    *product(["alexnet", "lenet5"], LAYERS),
    *product(set(NETWORKS) - set(ASYMMETRIC), ["acnet"]),
    *(("encoder_classifier", preset) for preset in ("deep_supervision", "binary_head")),
    *(("fcn", preset) for preset in ("deep_supervision", "lits_early")),
    *(
        (name, "expanded_fc") for name in NETWORKS if name not in {"small_net", "small_net_4", "vgg16"}
    ),  # others have one
    ("hrnet", "expanded_encoder"),
    *(("deeplab", preset) for preset in ("deep_supervision", "lits_early", "checkpoint_activations", *WIDTHS)),
}
#: To take another network instead of a classifier is nothing that a preset is for.
CHOOSING = [preset for preset in PRESETS if "class_path" in network_overlay(preset)]


def set_by(overlay: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the settings of a network that a preset gives values to, and the classes that it chooses."""
    found = set()
    for key, value in overlay.items():
        if isinstance(value, dict) and value:
            found |= set_by(value, f"{prefix}{key}.")
        else:
            found.add(f"{prefix}{key} {value if key == 'class_path' else ''}")
    return found


#: Presets that set the same to other values suit the same networks: one of each kind is tried on every network, or on
#: every class of networks where it chooses another; the others on the first, the second, ... of those that it suits.
KINDS: dict[frozenset[str], list[str]] = {}
for preset in PRESETS:
    KINDS.setdefault(frozenset(set_by(network_overlay(preset))), []).append(preset)
CLASSES = {shipped(name)["class_path"]: name for name in reversed(NETWORKS)}
UNSUITED = MISFITS | {*product([*FLAT, "vgg16"], CHOOSING)}
PAIRS = []
for first, *others in KINDS.values():
    suited = [name for name in NETWORKS if (name, first) not in UNSUITED]
    PAIRS += [(name, first) for name in suited if first not in CHOOSING or name in CLASSES.values()]
    for position, preset in enumerate(others):
        suited = [name for name in NETWORKS if (name, preset) not in UNSUITED]
        PAIRS += sorted((name, preset) for name in {suited[position % len(suited)], "unet"})


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_every_preset_suits_every_network_and_survives_a_dump(name: str, preset: str) -> None:
    config = parser().parse_args(arguments(name, preset))
    again = parser().parse_string(parser().dump(config))
    assert again.clone(with_meta=False) == config.clone(with_meta=False)
    with torch.device("meta"):
        assert parameters(parser().instantiate(config).holder.network) > 0
