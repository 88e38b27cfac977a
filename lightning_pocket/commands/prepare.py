"""Check, resample and normalise a raw data set into a memory-mapped cache for training."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning_pocket.commands.check import count, stop_on_errors
from lightning_pocket.data.checks import name_faults, parse_classes
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.prepare import (
    Preparation,
    assign_folds,
    clear,
    inspect_cases,
    is_up_to_date,
    refuse_foreign,
    write_cache,
)
from lightning_pocket.data.preprocess import Preprocessing
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.progress import show_progress
from lightning_pocket.reports.tables import print_table


def prepare(  # noqa: PLR0913 (one parameter per option of the command line)
    data: str,
    output: str | None = None,
    layout: str = "auto",
    classes: str | None = None,
    folds: str | None = None,
    num_folds: int = 5,
    seed: int = 0,
    spacing: Literal["median", "native"] | list[float] = "median",
    normalization: Literal["auto", "zscore", "nonzero_zscore", "foreground_zscore", "window", "none"] = "auto",
    window: list[float] | None = None,
    crop: Literal["none", "nonzero"] = "none",
    image_interpolation: Literal["bspline", "linear"] = "bspline",
    workers: int | None = None,
    fresh: bool = False,
) -> None:
    """Check, resample and normalise a raw data set into a memory-mapped cache for training.

    A run that was stopped, even by kill -9, is continued by the same command.

    Args:
        data: Folder of the data set, or its CSV file.
        output: Folder of the cache, always needed; new, empty, or one that an earlier run began.
        layout: decathlon, nnunet, table, or auto to find the one that matches.
        classes: Names of the classes in the order of the label values 0, 1, 2 and so on, separated by commas and
            with background first; NAME=VALUE sets another value. By default what the data set declares.
        folds: CSV file with the columns subject or file, and fold or split or both. By default the columns of the
            table layout, else folds are made.
        num_folds: Number of folds to make.
        seed: Seed of the folds to make.
        spacing: Voxel size in mm along D, H and W, such as [5,1,1]; median of the data set; or native to resample
            nothing.
        normalization: auto is foreground_zscore for a channel named CT and zscore otherwise. zscore uses mean and
            std of the image; nonzero_zscore those of its voxels that are not 0; foreground_zscore clips to the 0.5
            and 99.5 percentiles of the labelled foreground of the data set and uses its mean and std; window clips
            to --window and maps it to [0, 1].
        window: Lowest and highest intensity of --normalization window, such as [-160,240].
        crop: nonzero cuts away the border where every channel is 0.
        image_interpolation: How images are resampled; labels are interpolated linearly, class by class.
        workers: Number of processes; one per CPU core by default. Each holds one case in memory.
        fresh: Prepare again what is already in the cache.

    Raises:
        PocketError: If the data set cannot be read, a setting is wrong, or the cache was prepared otherwise.
        SystemExit: With status 1 if a case has an error; then nothing is written.
    """
    if not output:
        raise PocketError("output: is missing; name the folder of the cache, such as --output cache.")
    cache = Path(output)
    found = find_layout(data, layout)
    cases = found.cases()
    stop_on_errors(name_faults(cases), len(cases), found.root)
    preparation = Preparation(
        layout=found,
        cases=cases,
        labels=parse_classes(classes) if classes else found.labels,
        folds=assign_folds(cases, Path(folds) if folds else None, num_folds, seed),
        preprocessing=Preprocessing(spacing, normalization, window, crop, image_interpolation),
    )
    refuse_foreign(cache)
    if fresh:
        clear(cache)
    elif is_up_to_date(preparation, cache):
        print(f"{cache} is up to date ({count(len(cases), 'case')})")
        return
    try:
        dataset = _write(preparation, cache, workers)
    except OSError as error:
        where = error.filename or cache
        raise PocketError(f"{where}: {error.strerror or error}; mend space or permissions and try again.") from error
    print(f"prepared {count(len(cases), 'case')} in {cache}")
    print_fingerprint(dataset)


def _write(preparation: Preparation, cache: Path, workers: int | None) -> dict[str, Any]:
    progress = functools.partial(show_progress, lines=True)
    inspections, faults = inspect_cases(preparation, cache, workers, progress)
    stop_on_errors(faults, len(inspections), preparation.layout.root)
    return write_cache(preparation, inspections, cache, workers, progress)


def print_fingerprint(dataset: Mapping[str, Any]) -> None:
    """Print what a data set looks like.

    Args:
        dataset: What ``dataset.json`` of its cache holds.
    """
    fingerprint = dataset["fingerprint"]
    rows: list[tuple[str, ...]] = [
        _row("size D x H x W (voxels)", fingerprint["shape"]),
        _row("spacing D x H x W (mm)", fingerprint["spacing"]),
    ]
    for name, channel in fingerprint["channels"].items():
        rows += [_row(f"{name}: mean intensity", channel["whole"]["mean"])]
        rows += [_row(f"{name}: std of intensity", channel["whole"]["std"])]
    for name, group in fingerprint["classes"].items():
        rows += [_row(f"{name}, in {group['cases']} of {fingerprint['cases']} (mL)", group["ml"])]
    print_table(("raw data set", "min", "median", "max"), rows)


def _row(name: str, distribution: Mapping[str, Any]) -> tuple[str, ...]:
    def show(value: float | list[float]) -> str:
        return " x ".join(f"{v:.4g}" for v in (value if isinstance(value, list) else [value]))

    return name, *(show(distribution[key]) for key in ("min", "median", "max"))
