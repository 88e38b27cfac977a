"""What would be trained: network, loss and optimizer of configs, of a run or of a checkpoint, made without any data."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import contract_for_use
from lightning_pocket.losses import ClassCrossEntropy, L2Dice, deep_supervision_loss
from lightning_pocket.networks.base import Classifier, Network
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.speed.layout import lay_out
from lightning_pocket.storage import read_json
from lightning_pocket.tasks.base import OptimizerCallable
from lightning_pocket.tasks.loading import read_checkpoint

#: Channels of the images and classes, where neither data nor the user tell.
DEFAULT_CHANNELS, DEFAULT_CLASSES = 1, 2


@dataclass(frozen=True)
class Recipe:
    """Settings of `pocket fit`, and how many channels and classes the data have.

    Args:
        settings: Every setting, as `pocket fit --print_config` shows them.
        in_channels: Channels of the images.
        num_classes: Classes, background included.
        patch_size: Voxels of a patch along each spatial axis; None where the settings do not tell.
    """

    settings: Mapping[str, Any]
    in_channels: int
    num_classes: int
    patch_size: tuple[int, ...] | None

    @classmethod
    def from_options(cls, options: Sequence[str], in_channels: int | None, num_classes: int | None) -> Recipe:
        """Resolve options of `pocket fit`.

        Args:
            options: ``--config`` and others.
            in_channels: Channels of the images; None for those of the prepared data, or 1.
            num_classes: Classes, background included; None for those of the prepared data, or 2.

        Raises:
            PocketError: If an option is wrong.
        """
        from lightning_pocket.commands.train import train  # slow: it imports everything a config may name

        printed = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
            train(["fit", *options, "--print_config"])
        settings = yaml.safe_load(printed.getvalue())
        if not isinstance(settings, dict):  # the parser has said on standard error what is wrong
            raise SystemExit(2)
        return cls.from_settings(settings, in_channels, num_classes)

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], in_channels: int | None = None, num_classes: int | None = None
    ) -> Recipe:
        """Make a recipe of settings, sized after their data where those are there.

        Args:
            settings: Every setting of `pocket fit`.
            in_channels: See :meth:`from_options`.
            num_classes: See :meth:`from_options`.

        Raises:
            PocketError: If the settings name no network, or data that cannot be read.
        """
        if not (settings.get("model") or {}).get("init_args", {}).get("network"):
            raise PocketError("--config: names no network. Add an experiment, such as segment_volumes.")
        data = (settings.get("data") or {}).get("init_args", {})
        described = _read_dataset(data.get("cache"))
        size = data.get("patch_size") or described.get("size")
        return cls(
            settings,
            in_channels or len(described.get("channels") or []) or DEFAULT_CHANNELS,
            num_classes or len(described.get("classes") or []) or DEFAULT_CLASSES,
            None if size is None else tuple(size),
        )

    @classmethod
    def from_run(cls, path: Path) -> Recipe:
        """Read the folder of a run, or a checkpoint.

        Args:
            path: What `pocket fit` wrote.

        Raises:
            PocketError: If it holds neither.
        """
        run = RunFolder(path if path.is_dir() else path.parent.parent)
        checkpoint = read_checkpoint(run.last if path.is_dir() else path)
        model = checkpoint["hyper_parameters"]
        settings: dict[str, Any] = {"model": {"class_path": model.get("_class_path"), "init_args": model}}
        if run.config.is_file():
            settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
            if not path.is_dir():  # a contracted one is not what the run trained
                settings["model"]["init_args"]["network"] = model["network"]
        dataset = model["dataset"]
        recipe = cls.from_settings(settings, len(dataset["channels"]), len(dataset["classes"]))
        return replace(recipe, patch_size=tuple(dataset["patch_size"]))

    @property
    def batch_size(self) -> int:
        """Patches or images per step."""
        return int((self.settings.get("data") or {}).get("init_args", {}).get("batch_size") or 1)

    @property
    def precision(self) -> str:
        """Precision of the training, as Lightning names it."""
        return str((self.settings.get("trainer") or {}).get("precision") or "32-true")

    @property
    def class_path(self) -> str:
        """Class of the network."""
        return str(self._model["network"]["class_path"])

    @property
    def identity(self) -> dict[str, Any]:
        """What the costs depend on, as plain values."""
        names = ("network", "loss", "optimizer", "channels_last")
        model = {name: self._model.get(name) for name in names}
        return model | {"in_channels": self.in_channels, "num_classes": self.num_classes}

    @cached_property
    def classifies(self) -> bool:
        """Whether the network judges images as a whole."""
        return issubclass(resolve_name(self.class_path), Classifier)

    def make_network(self) -> Network:
        """Return a new network, its weights drawn at random.

        Raises:
            PocketError: If the settings contradict each other.
        """
        sized = {"in_channels": self.in_channels, "out_channels": self.num_classes}
        given = self._model["network"]
        entry = given | {"init_args": (given.get("init_args") or {}) | sized}
        network: Network = _instantiate("network", Network, entry)
        return self._laid_out(network)

    def make_deployed(self) -> Network:
        """Return a new network as it is used: without expanded layers."""
        network = self.make_network()
        contract_for_use(network)
        return self._laid_out(network)

    def _laid_out(self, network: Network) -> Network:
        if self._model.get("channels_last"):
            lay_out(network, channels_last=True)
        return network

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Return the loss of what a network returned.

        Args:
            output: Logits; with deep supervision a list of those of every head.
            target: ``(B, *S)`` class of each voxel, or ``(B,)`` of each image.
        """
        return (
            deep_supervision_loss(output, target, self._loss)
            if isinstance(output, list)
            else self._loss(output, target)
        )

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return a new optimizer.

        Args:
            parameters: What it is to change.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--optimizer", type=OptimizerCallable, default=None)
        parsed = parser.parse_object({"optimizer": self._model.get("optimizer") or "torch.optim.Adam"})
        optimizer: Optimizer = parser.instantiate(parsed).optimizer(parameters)
        return optimizer

    @cached_property
    def _loss(self) -> nn.Module:
        entry = self._model.get("loss")
        if entry is None:
            return ClassCrossEntropy() if self.classifies else L2Dice()
        loss: nn.Module = _instantiate("loss", nn.Module, entry)
        return loss

    @property
    def _model(self) -> Mapping[str, Any]:
        init_args: Mapping[str, Any] = self.settings["model"]["init_args"]
        return init_args


def has_data(recipe: Recipe) -> bool:
    """Return whether a network's settings name prepared data."""
    return bool((recipe.settings.get("data") or {}).get("init_args", {}).get("cache"))


def _instantiate(key: str, kind: type, entry: Mapping[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, key)
    return parser.instantiate(parser.parse_object({key: dict(entry)}))[key]


def _read_dataset(cache: str | None) -> dict[str, Any]:
    """Return what the prepared data say of themselves, nothing where none are named."""
    if not cache:
        return {}
    file = Path(cache) / "dataset.json"
    if not file.is_file():
        raise PocketError(
            f"--data.init_args.cache {cache}: no prepared data here (no dataset.json). Leave it out, or run "
            "`pocket prepare` first."
        )
    content: dict[str, Any] = read_json(file)
    return content
