"""How fast the data of a network come, and which share of a training step waits for them."""

from __future__ import annotations

import copy
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.profiling.loader import Stage, loader_speed, measure_loader
from lightning_pocket.reports.table_files import Table
from lightning_pocket.studies.run_data import make_data

from .plan import Size
from .recipe import Recipe, has_data
from .tables import format_size


def open_data(recipe: Recipe, batch: int, patch: Size) -> Any:
    """Return the data module of a network, with another batch and patch.

    Args:
        recipe: What is trained.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.

    Raises:
        PocketError: If no data are named, or they cannot be opened.
    """
    if not has_data(recipe):
        raise PocketError("--cache: is missing. Name the folder that `pocket prepare` wrote.")
    settings = copy.deepcopy(dict(recipe.settings))
    init_args = settings["data"]["init_args"]
    init_args["batch_size"] = batch
    if "patch_size" in init_args:
        init_args["patch_size"] = list(patch)
    return make_data(settings, "--cache")


def measure_loading(recipe: Recipe, batch: int, patch: Size, seconds: float) -> tuple[list[Stage], int]:
    """Return how fast each stage of loading is by itself, and how many processes prepare batches.

    Args:
        recipe: What is trained.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.
        seconds: How long each stage is measured.

    Raises:
        PocketError: If no data are named, or they cannot be opened.
    """
    data = open_data(recipe, batch, patch)
    return measure_loader(data, seconds), data.loader_workers()


def loading_table(label: str, batch: int, patch: Size, stages: list[Stage]) -> Table:
    """Return the stages as a table.

    Args:
        label: What the network is called.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.
        stages: What :func:`measure_loading` returned.
    """
    lines = [[s.name, s.place, f"{s.items_per_s:,.1f}", f"{s.mib_per_s:,.1f}", f"{s.share:.1%}"] for s in stages]
    title = f"Loading for {label}, batch {batch}, {format_size(patch)}: each stage by itself"
    return Table(title, ["stage", "done by", "items/s", "MiB/s", "of an item's time"], lines)


def wait_share(stages: list[Stage], workers: int, images_per_s: float) -> float:
    """Return which share of its time a training would wait for data.

    Workers prepare the next batch while the network computes; the training process itself does one after the other.

    Args:
        stages: What :func:`measure_loading` returned.
        workers: Processes that prepare batches.
        images_per_s: What the network trains on when data are there.
    """
    loaded, _ = loader_speed(stages, workers)
    if workers:
        return max(0.0, 1 - loaded / images_per_s)
    return images_per_s / (loaded + images_per_s)
