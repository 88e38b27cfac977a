"""Every shipped experiment builds with every preset."""

import pytest
import yaml

from lightning_pocket.commands.train import PocketCLI, train
from lightning_pocket.launch import configs_folder

EXPERIMENTS = sorted((configs_folder() / "experiments").glob("*.yaml"))
#: network_2d is for images: volumes are 3D.
PRESETS = [p for p in sorted((configs_folder() / "presets").glob("*.yaml")) if p.stem != "network_2d"]


@pytest.fixture
def build(monkeypatch, blobs_cache):
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
                "--run_dir=never_written",
                *options,
            ]
        )
        return built

    return run


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_builds(build, preset):
    built = build("segment_volumes", preset)
    network = built["model"].network
    assert network.in_channels == 1
    assert network.out_channels == 3
    assert sum(parameter.numel() for parameter in network.parameters()) > 0


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_builds(build, experiment):
    assert build(experiment)["model"].network.out_channels == 3


def test_presets_change_what_they_say(build):
    sizes = {
        preset: sum(p.numel() for p in build("segment_volumes", preset)["model"].network.parameters())
        for preset in ("full", "doublings_2", "pocket", "separable")
    }
    assert sizes["full"] > sizes["doublings_2"] > sizes["pocket"]
    assert sizes["full"] > sizes["separable"]


@pytest.mark.parametrize("path", sorted(configs_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_says_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# "), "begin with a comment that says what the config is for"
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize(
    ("network", "full", "pocket"),
    [("resnet", 91_895_107, 779_843), ("densenet", 135_896_195, 1_259_075), ("hrnet", 6_492_195, 698_275)],
)
def test_the_order_of_network_and_width_does_not_matter(build, network, full, pocket):
    """PocketNet's Table I with a third class: 33 parameters more than for two."""

    def parameters(*presets):
        wide = "--model.init_args.network.init_args.widths.base=32"
        built = build("segment_volumes", *presets, options=[wide])
        return sum(parameter.numel() for parameter in built["model"].network.parameters())

    assert parameters(network) == full
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
