"""The shipped configs of PocketNet's experiments on volumes build the networks and the protocol of the paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import write_brats2020, write_lits

from lightning_pocket.commands.prepare import prepare
from lightning_pocket.commands.train import PocketCLI, train
from lightning_pocket.launch import configs_folder, find_config, with_configs

Build = Callable[..., PocketCLI]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One channel and two classes, and four channels and two classes."""
    root = tmp_path_factory.mktemp("paper")
    raw = {"lits": write_lits(root / "raw_lits"), "brats2020": write_brats2020(root / "raw_brats2020")}
    for name, data in raw.items():
        prepare(str(data), output=str(root / name), num_folds=2, workers=1)
    return {name: str(root / name) for name in raw} | {"nfbs": str(root / "lits")}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, caches: dict[str, str], tmp_path: Path) -> Build:
    """Parse and instantiate as ``pocket fit`` does, without training."""
    built = []
    monkeypatch.setattr(PocketCLI, "_run_subcommand", lambda self, _name: built.append(self))

    def run(experiment: str, *presets: str) -> PocketCLI:
        configs = [f"--config={name}" for name in (experiment, *presets)]
        train(["fit", *configs, f"--data.init_args.cache={caches[experiment]}", f"--run_dir={tmp_path / 'run'}"])
        return built[-1]

    return run


def parameters(built: PocketCLI) -> int:
    network: Any = built.model.network
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("experiment", "presets", "expected"),
    [
        ("lits", ["pocket"], 763_010),
        ("nfbs", ["resnet", "pocket"], 779_810),
        ("brats2020", ["pocket"], 765_602),
        ("brats2020", ["densenet", "pocket"], 1_264_322),
        ("lits", ["hrnet"], 6_492_162),
        ("lits", ["lits_early"], 22_581_250),
        ("lits", ["lits_early", "pocket"], 616_162),
        ("lits", ["pocket", "lits_early"], 616_162),
        ("lits", ["lits_early", "hrnet", "pocket"], 698_242),
    ],
)
def test_parameters_are_those_of_table_1(build: Build, experiment: str, presets: list[str], expected: int) -> None:
    with torch.device("meta"):
        assert parameters(build(experiment, *presets)) == expected


@pytest.mark.parametrize("experiment", ["lits", "nfbs", "brats2020"])
def test_the_protocol_is_that_of_the_paper(build: Build, experiment: str) -> None:
    built = build(experiment, "pocket")
    data: Any = built.datamodule
    assert built.trainer.max_epochs == 125
    assert data.patches_per_epoch / data.batch_size == 250
    assert (data.batch_size, data.patch_size, data.validation) == (2, [128, 128, 128], "volumes")
    assert data.sampler.probability == 0.85
    settings = data.split_settings
    assert (settings.fold, settings.val_fraction, settings.max_val) == (0, 0.1, 10)
    optimizers: Any = built.model.configure_optimizers()
    assert optimizers["optimizer"].param_groups[0]["lr"] == 1e-3
    assert optimizers["lr_scheduler"]["monitor"] == "val/dice"


def test_the_early_code_took_thinner_patches(build: Build) -> None:
    built: Any = build("lits", "lits_early", "pocket")
    assert built.datamodule.patch_size == [64, 128, 128]  # D, H, W
    assert built.model.network.divisor == (16, 16, 16)


@pytest.mark.parametrize("path", sorted((configs_folder() / "prepare").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_of_prepare_say_everything_that_shapes_the_images(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    volumes = {"layout", "classes", "spacing", "normalization", "crop", "image_interpolation"}
    assert volumes <= content.keys() or {"size", "color"} <= content.keys()
    assert find_config(path.stem, ["prepare"]) == path


def test_one_name_means_the_config_of_the_command() -> None:
    root = configs_folder()
    assert with_configs(["--config", "lits", "x"], ["prepare"]) == [f"--config={root / 'prepare' / 'lits.yaml'}", "x"]
    assert with_configs(["fit", "--config=lits"]) == ["fit", f"--config={root / 'experiments' / 'lits.yaml'}"]
