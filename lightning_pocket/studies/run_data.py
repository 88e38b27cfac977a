"""The data of a run, rebuilt from what the run wrote down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule

from lightning_pocket.errors import PocketError
from lightning_pocket.run_folder import RunFolder


def load_data(run: Path) -> LightningDataModule:
    """Return the data module of a run, with the run's settings.

    Args:
        run: Folder that ``pocket fit`` wrote.

    Raises:
        PocketError: If the folder holds no run, its data cannot be opened, or the data changed since the training.
    """
    folder = RunFolder(run)
    if (run / "crossval.json").is_file():
        raise PocketError(f"{run}: is a cross-validation. Name one of its folds, such as {run / 'fold_0'}.")
    if not folder.config.is_file():
        raise PocketError(
            f"{run}: no run here (no {folder.config.name}). Train first with `pocket fit --run_dir {run}`."
        )
    settings = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    data = make_data(settings, str(folder.config))
    folder.check_data(getattr(data, "record", {}))
    return data


def make_data(settings: Mapping[str, Any], source: str) -> LightningDataModule:
    """Make the data module that the settings of a run describe.

    Args:
        settings: All settings; those below ``data`` are used.
        source: Where they come from, for errors.

    Raises:
        PocketError: If they describe no data, or it cannot be opened.
    """
    if not isinstance(settings.get("data"), Mapping):
        raise PocketError(f"{source}: key data: found {settings.get('data')!r}, expected a class_path and init_args.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    data: LightningDataModule = parser.instantiate(parser.parse_object({"data": settings["data"]})).data
    return data
