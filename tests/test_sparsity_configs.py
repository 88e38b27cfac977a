"""Experiments of the structured sparsity draft: they build as they say, and learn from commands alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import yaml
from packed_datasets import write_cifar, write_digits, write_mnist
from test_image_stream import write_photographs

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.commands.train import PocketCLI, train
from lightning_pocket.launch import configs_folder

#: Experiment -> parameters for its own data set, and with batch norm.
EXPERIMENTS = {
    "cifar10_resnet_20": (268_346, 269_722),
    "cifar10_square_20": (1_848_650, 1_851_082),
    "cifar10_small": (268_346, 269_722),
    "mnist_square_8": (154_730, 155_178),
    "digits_small": (154_730, 155_178),
    "imagenet_resnet_8": (1_487_016 - 997 * 257, 1_489_704 - 997 * 257),  # three classes instead of a thousand
    "imagenet_resnet_18": (11_679_912 - 997 * 513, 11_689_512 - 997 * 513),
}


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("data")
    write_cifar(root / "raw" / "cifar10")
    write_mnist(root / "raw" / "mnist", {"train": 20, "t10k": 10})
    write_digits(root / "raw" / "digits.csv.gz", 200)
    for name, raw in (("cifar10", "cifar10"), ("mnist", "mnist"), ("digits", "digits.csv.gz")):
        config = yaml.safe_load((configs_folder() / "prepare" / f"{name}.yaml").read_text(encoding="utf-8"))
        prepare(str(root / "raw" / raw), output=str(root / name), workers=1, **config)
    write_photographs(root / "imagenet")
    return {name: str(root / name) for name in ("cifar10", "mnist", "digits", "imagenet")}


def data_option(experiment: str, caches: dict[str, str]) -> str:
    name = experiment.split("_")[0]
    return f"--data.init_args.{'folder' if name == 'imagenet' else 'cache'}={caches[name]}"


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds(experiment, norm, caches, monkeypatch, tmp_path):
    built = {}
    monkeypatch.setattr(
        PocketCLI, "_run_subcommand", lambda self, _name: built.update(task=self.model, data=self.datamodule)
    )
    configs = [f"--config={name}" for name in (experiment, *(["batch_norm"] if norm else []))]
    train(["fit", *configs, data_option(experiment, caches), f"--run_dir={tmp_path / 'never_written'}"])
    task, data = built["task"], built["data"]
    assert sum(parameter.numel() for parameter in task.network.parameters()) == EXPERIMENTS[experiment][norm]
    optimizer = task.configure_optimizers()
    assert isinstance(optimizer["optimizer"], torch.optim.SGD)
    assert optimizer["optimizer"].defaults["momentum"] == 0.9
    if experiment.startswith("imagenet"):
        assert (data.preprocessing.size, data.preprocessing.shorter_side) == ((224, 224), 256)
    else:
        assert (data.crop_flip.flip > 0) == experiment.startswith("cifar")  # digits have no mirror images
    images = next(iter(data.val_dataloader()))["image"] if data.split.val else torch.zeros(1, *images_of(data))
    assert task.network(images[:1]).shape == (1, data.num_classes)


def images_of(data) -> tuple[int, ...]:
    return (data.in_channels, *data.info["patch_size"])


def test_every_experiment_of_the_draft_is_tested():
    shipped = {path.stem for path in (configs_folder() / "experiments").glob("*.yaml")}
    drafted = {name for name in shipped if name.split("_")[0] in ("cifar10", "mnist", "imagenet", "digits")}
    assert drafted == set(EXPERIMENTS)


def history(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.e2e
@pytest.mark.parametrize("shortcut", ["pad", "none"])
def test_digits_are_learned_without_norms(shortcut, caches, tmp_path):
    run = tmp_path / "run"
    options = [f"--model.init_args.network.init_args.shortcut={shortcut}"]
    options += ["--model.init_args.network.init_args.widths.base=8", "--data.init_args.batch_size=8"]
    options += ["--trainer.enable_progress_bar=false"]
    main(["fit", "--config=digits_small", data_option("digits", caches), f"--run_dir={run}", *options])
    main(["test", f"--run_dir={run}", "--data.init_args.test_crops=10"])
    last = history(run)[-1]
    assert float(last["test/accuracy"]) > 0.7  # of ten classes
    assert float(last["test/top1_error"]) == pytest.approx(1 - float(last["test/accuracy"]), abs=1e-6)
    assert {"test/top5_error", "test/top1_error_10crop", "test/top5_error_10crop"} <= set(last)


@pytest.mark.e2e
def test_streamed_images_are_learned_and_a_run_continues(caches, tmp_path):
    run = tmp_path / "run"
    small = {"size": "[32,32]", "shorter_side": 36, "batch_size": 8, "split.val_fraction": 0.2}
    arguments = [f"--data.init_args.{name}={value}" for name, value in small.items()]
    arguments += ["--model.init_args.network.init_args.widths.base=4", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.accelerator=cpu", data_option("imagenet", caches), f"--run_dir={run}"]
    configs = ["--config=imagenet_resnet_8", "--config=batch_norm"]
    main(["fit", *configs, *arguments, "--trainer.max_epochs=2"])
    main(["test", f"--run_dir={run}", "--data.init_args.test_crops=10"])
    rows = history(run)
    assert [row["train/loss"] != "" for row in rows[:2]] == [True, True]
    assert rows[-1]["test/top1_error_10crop"]
    assert "test/top5_error" not in rows[-1]  # three classes
