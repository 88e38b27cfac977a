"""Every shipped experiment builds with every preset."""

from itertools import zip_longest

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.commands.train import PocketCLI, train
from lightning_pocket.launch import configs_folder
from lightning_pocket.storage import load_yaml

EXPERIMENTS = sorted((configs_folder() / "experiments").glob("*.yaml"))
IMAGES = [path for path in EXPERIMENTS if "data/images.yaml" in path.read_text(encoding="utf-8")]
VOLUMES = [path for path in EXPERIMENTS if "volumes.yaml" in path.read_text(encoding="utf-8")]
#: What suits a classifier of images; the others choose a network for voxels, its losses, or patches.
IMAGE_PRESETS = [
    *["full", "pocket", "doublings_1", "doublings_2", "doublings_3", "doublings_4", "table2_16", "text_32"],
    *["separable", "grouped_8", "instance_norm", "tensorflow", "augment_images", "no_augmentation", "ema"],
    *["accumulate", "bfloat16", "clip_gradients", "mixed_precision", "sparsity_kernel_number", "sparsity_kernel_size"],
]
#: Networks for classification, and labels drawn at random: presets that choose one, or that only images have.
CLASSIFIERS = [
    "small_net",
    "small_net_4",
    "mobilenet",
    "mobilenet_v2",
    "shufflenet_v2",
    "resnet18_cifar",
    "resnet152",
    "all_cnn",
]
NOISES = ["label_noise_20", "label_noise_50", "label_noise_80"]
#: network_2d is for images: volumes are 3D. binary_head is for two classes, DeepLab has no schedule of widths, and
#: expanded_fc is for networks with several linear layers.
OTHERS = {"network_2d", "binary_head", "expanded_fc", "deeplab_mobilenet", "deeplab_resnet101", "deeplab_xception"}
OTHERS |= {*CLASSIFIERS, *NOISES, "acnet"}
PRESETS = [p.stem for p in sorted((configs_folder() / "presets").glob("*.yaml")) if p.stem not in OTHERS]


def changes_the_network_alone(preset):
    content = load_yaml((configs_folder() / "presets" / f"{preset}.yaml").read_text(encoding="utf-8"))
    task = content.get("model", {}).get("init_args", {})
    return list(content) == ["model"] and list(content["model"]) == ["init_args"] and list(task) == ["network"]


def in_twos(presets):
    """Put each preset for networks after one for something else, which it leaves alone: one training shows both."""
    networks = [preset for preset in presets if changes_the_network_alone(preset)]
    others = [preset for preset in presets if preset not in networks]
    return [[preset for preset in both if preset] for both in zip_longest(others, networks)]


@pytest.fixture
def build(monkeypatch, blobs_cache, tmp_path):
    """Parse and instantiate as ``pocket fit`` does, without training."""
    built = {}
    monkeypatch.setattr(
        PocketCLI, "_run_subcommand", lambda self, _name: built.update(model=self.model, data=self.datamodule)
    )

    def run(*configs, options=()):
        train(
            [
                "fit",
                *[f"--config={config}" for config in configs],
                f"--data.init_args.cache={blobs_cache}",
                "--data.init_args.patch_size=[64,64,64]",
                "--model.init_args.network.init_args.widths.base=2",
                f"--run_dir={tmp_path / 'never_written'}",
                *options,
            ]
        )
        return built

    return run


@pytest.mark.parametrize("presets", in_twos(PRESETS), ids="+".join)
def test_every_preset_builds(build, presets):
    built = build("segment_volumes", *presets)
    network = built["model"].network
    assert network.in_channels == 1
    assert network.out_channels == 3
    assert sum(parameter.numel() for parameter in network.parameters()) > 0


@pytest.mark.parametrize("experiment", VOLUMES, ids=lambda path: path.stem)
def test_every_experiment_builds(build, experiment):
    assert build(experiment)["model"].network.out_channels == 3


@pytest.fixture(scope="module")
def image_cache(tmp_path_factory):
    """A prepared data set of 12 tiny images in two classes."""
    root = tmp_path_factory.mktemp("images")
    for index in range(12):
        path = root / "raw" / ("ill" if index % 2 else "well") / f"image_{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    main(["prepare", str(root / "raw"), f"--output={root / 'cache'}", "--size=[32,32]", "--workers=1"])
    return root / "cache"


@pytest.fixture
def build_images(monkeypatch, image_cache, tmp_path):
    """Parse and instantiate as ``pocket fit`` does, without training."""
    built = {}
    monkeypatch.setattr(
        PocketCLI, "_run_subcommand", lambda self, _name: built.update(model=self.model, data=self.datamodule)
    )

    def run(*configs):
        arguments = [f"--data.init_args.cache={image_cache}", f"--run_dir={tmp_path / 'never_written'}"]
        train(["fit", *[f"--config={config}" for config in configs], *arguments])
        return built

    return run


@pytest.mark.parametrize("experiment", IMAGES, ids=lambda path: path.stem)
def test_every_experiment_with_images_is_the_paper_s(build_images, experiment):
    built = build_images(experiment)
    assert sum(parameter.numel() for parameter in built["model"].network.parameters()) == 1_178_994
    assert built["data"].batch_size == 32
    assert built["model"].configure_optimizers()["lr_scheduler"]["monitor"] == "val/accuracy"


@pytest.mark.parametrize("presets", in_twos([*IMAGE_PRESETS, *CLASSIFIERS, *NOISES]), ids="+".join)
def test_every_preset_for_images_builds(build_images, presets):
    network = build_images("classify_images", *presets)["model"].network
    assert (network.in_channels, network.out_channels, network.spatial_dims) == (1, 2, 2)


@pytest.mark.parametrize("path", sorted(configs_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_says_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# "), "begin with a comment that says what the config is for"
    assert isinstance(load_yaml(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize(("network", "pocket"), [("resnet", 779_843), ("densenet", 1_259_075), ("hrnet", 698_275)])
def test_the_order_of_network_and_width_does_not_matter(build, network, pocket):
    """PocketNet's Table I with a third class: 33 parameters more than for two."""

    def parameters(*presets):
        wide = "--model.init_args.network.init_args.widths.base=32"
        with torch.device("meta"):  # no weight is looked at
            built = build("segment_volumes", *presets, options=[wide])
        return sum(parameter.numel() for parameter in built["model"].network.parameters())

    assert parameters(network, "pocket") == parameters("pocket", network) == pocket


def test_full_resets_pocket(build):
    network = build("segment_volumes", "pocket", "full")["model"].network
    assert len({parameter.shape[0] for parameter in network.encoder.parameters()}) > 1


def test_the_paper_s_protocol_is_the_default(build):
    built = build("segment_volumes")
    task, data = built["model"], built["data"]
    optimizer = task.configure_optimizers()
    assert optimizer["optimizer"].param_groups[0]["lr"] == 1e-3
    scheduler = optimizer["lr_scheduler"]["scheduler"]
    assert (scheduler.factor, scheduler.patience, scheduler.mode) == (0.9, 10, "max")
    assert [type(t).__name__ for t in data.transform.transforms] == ["RandomAxisFlip", "RandomNoise", "RandomVoxelBlur"]
    assert [t.probability for t in data.transform.transforms] == [0.15, 0.15, 0.15]
    assert type(task.loss).__name__ == "L2Dice"
    assert data.batch_size == 2
