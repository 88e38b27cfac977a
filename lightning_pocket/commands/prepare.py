"""Check, resample and normalise a raw data set into a memory-mapped cache for training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning_pocket.commands.check import (
    check_images,
    check_volumes,
    count,
    declare_classes,
    mask_coding,
    select_images,
    stop_on_errors,
)
from lightning_pocket.data.checks import Fault, group_faults, name_faults, parse_classes
from lightning_pocket.data.division import Division
from lightning_pocket.data.images2d import prepare as images
from lightning_pocket.data.images2d.checks import copy_faults
from lightning_pocket.data.images2d.coding import MaskCoding
from lightning_pocket.data.images2d.mask_checks import summary_faults
from lightning_pocket.data.images2d.preprocess import DEFAULT_SIZE, ImagePreprocessing
from lightning_pocket.data.layouts import Layout, find_layout
from lightning_pocket.data.layouts.images import ImageLayout
from lightning_pocket.data.prepare import (
    LOCK,
    Preparation,
    clear,
    inspect_cases,
    is_up_to_date,
    refuse_foreign,
    write_cache,
)
from lightning_pocket.data.preprocess import Preprocessing
from lightning_pocket.errors import PocketError
from lightning_pocket.locks import FileLock
from lightning_pocket.reports.progress import show_progress
from lightning_pocket.reports.tables import print_table

_KINDS = {"volumes": "volumes", "images": "2D images"}
#: Options that mean something for one kind of data set alone, with their defaults.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "volumes": {"spacing": "median", "window": None, "crop": "none", "image_interpolation": "bspline"},
    "images": {
        "size": None,
        "color": None,
        "mean": None,
        "std": None,
        "skip_missing": False,
        "unlabelled_as_background": False,
    },
}
_NORMALIZATIONS = {"volumes": {"nonzero_zscore", "foreground_zscore", "window"}, "images": {"unit"}}


def prepare(  # noqa: PLR0913 (one parameter per option of the command line)
    data: str,
    output: str | None = None,
    layout: str = "auto",
    classes: str | None = None,
    folds: str | None = None,
    num_folds: int | None = None,
    split: str | list[float] | None = None,
    seed: int = 0,
    spacing: Literal["median", "median_coarse_90", "median_anisotropic_90", "native"] | list[float] = "median",
    normalization: Literal["auto", "zscore", "nonzero_zscore", "foreground_zscore", "window", "unit", "none"] = "auto",
    window: list[float] | None = None,
    crop: Literal["none", "nonzero"] = "none",
    image_interpolation: Literal["bspline", "linear"] = "bspline",
    size: int | list[int] | None = None,
    color: Literal["grey", "rgb"] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    skip_missing: bool = False,
    unlabelled_as_background: bool = False,
    workers: int | None = None,
    fresh: bool = False,
) -> None:
    """Check, resample and normalise a raw data set into a memory-mapped cache for training.

    A run that was stopped, even by kill -9, is continued by the same command.

    Args:
        data: Folder of the data set, or its CSV or .npz file, or digits for the images that scikit-learn brings along.
        output: Folder of the cache, always needed; new, empty, or one that an earlier run began.
        layout: decathlon, nnunet, table, lits, nfbs, brats2020 for volumes; image_masks, mask_table, hc18, busi for 2D
            images with masks; covidx, image_table, image_folders, medmnist, mnist, cifar, digits for 2D images of
            known class; or auto to find the one that matches.
        classes: Names of the classes in the order of the label values 0, 1, 2 and so on, separated by commas and
            with background first; NAME=VALUE sets another value, NAME=1+4 merges values into one class, which
            predictions are written with the lowest of. By default those of the layout. For masks of 2D images the
            first class is the background whatever its value; two names are those of background and the rest, whichever
            their values; and NAME=#RRGGBB gives classes colours. For 2D images of known class, the order of the
            classes.
        folds: CSV file with the columns subject or file, and fold or split or both. By default the columns of the
            table layout, else folds are made.
        num_folds: Number of folds to make instead of those of the data set; by default five where it has none. Cases
            with a split of their own keep it.
        split: Make no folds but draw who trains, validates and tests, such as 208,70,70 groups or 0.6,0.2,0.2 of them;
            a case without a group is one of its own. Folds and splits of the data set are ignored, its groups kept.
        seed: Seed of the folds or the split to make.
        spacing: Voxel size in mm along D, H and W, such as [5,1,1]; median of the data set; median_coarse_90, the
            median with the 90th percentile along the axis whose median is the coarsest; median_anisotropic_90, that
            only where the coarsest median is more than three times the finest; or native to resample nothing.
        normalization: auto is foreground_zscore for a channel named CT and zscore otherwise. zscore uses mean and
            std of the image; nonzero_zscore those of its voxels that are not 0; foreground_zscore clips to the 0.5
            and 99.5 percentiles of the labelled foreground of the data set and uses its mean and std; window clips
            to --window and maps it to [0, 1]. For 2D images auto is zscore, and unit divides by the largest value of
            the file's type.
        window: Lowest and highest intensity of --normalization window, such as [-160,240].
        crop: nonzero cuts away the border where every channel is 0.
        image_interpolation: How images are resampled; labels are interpolated linearly, class by class.
        size: Rows and columns of 2D images, to which they are stretched, or one number for both; 256 by default, the
            size of the images where the layout knows one (medmnist, mnist, cifar, digits).
        color: Channels of 2D images, grey by default.
        mean: Subtracted from each channel of 2D images after --normalization unit, such as [0.5,0.5,0.5].
        std: What each channel is divided by after that; given with --mean.
        skip_missing: Go on without 2D images, or masks, that are listed but not there.
        unlabelled_as_background: Take 2D images without a mask as images in which there is nothing to mark.
        workers: Number of processes; one per CPU core by default. Each holds one case in memory.
        fresh: Prepare again what is already in the cache.

    Raises:
        PocketError: If the data set cannot be read, a setting is wrong, the cache was prepared otherwise, or another
            process prepares it.
        SystemExit: With status 1 if a case has an error; then nothing is written.
    """
    if not output:
        raise PocketError("output: is missing; name the folder of the cache, such as --output cache.")
    cache = Path(output)
    found = find_layout(data, layout, keep_faulty=True)
    choices: dict[str, Any] = {"spacing": spacing, "window": window, "crop": crop}
    choices |= {"image_interpolation": image_interpolation, "normalization": normalization}
    choices |= {"size": [size, size] if isinstance(size, int) else size, "color": color, "skip_missing": skip_missing}
    choices |= {"mean": mean, "std": std}
    choices |= {"unlabelled_as_background": unlabelled_as_background}
    _refuse_options(found, choices)
    divide = Division.parse(folds, num_folds, split, seed)
    if isinstance(found, ImageLayout):
        _prepare_images(found, cache, choices | {"classes": classes}, divide, workers, fresh)
        return
    cases = found.cases()
    labels = parse_classes(classes) if classes else found.classes
    # No folds before these are mended.
    if found.line_faults or name_faults(cases) or group_faults(divide.trusted(cases)):
        stop_on_errors(check_volumes(found, cases, labels, workers)[1], len(cases), found.root)
    given = {case.subject: case.assignment for case in cases}
    preparation = Preparation(
        layout=found,
        cases=cases,
        labels=labels,
        folds=divide(given),
        preprocessing=Preprocessing(spacing, choices["normalization"], window, crop, image_interpolation),
    )
    refuse_foreign(cache)
    with _claimed(cache, fresh, functools.partial(is_up_to_date, preparation, cache)) as needed:
        if not needed:
            print(f"{cache} is up to date ({count(len(cases), 'case')})")
            return
        if fresh:
            clear(cache)
        dataset = _write(preparation, cache, workers)
    print(f"prepared {count(len(cases), 'case')} in {cache}")
    print(*divide.remarks(given, preparation.folds, "case"), sep="\n")
    print_fingerprint(dataset)


def _refuse_options(layout: Layout, choices: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing for this kind of data set."""
    other = "images" if layout.kind == "volumes" else "volumes"
    unfit = [name for name, default in _DEFAULTS[other].items() if choices[name] != default]
    if choices["normalization"] in _NORMALIZATIONS[other]:
        unfit.append("normalization")
    if unfit:
        raise PocketError(
            f"{unfit[0]}: {choices[unfit[0]]} is for {_KINDS[other]}; {layout.root} is a data set of "
            f"{_KINDS[layout.kind]} ({layout.name}). Leave the option out."
        )


def _prepare_images(
    layout: ImageLayout,
    cache: Path,
    choices: Mapping[str, Any],
    divide: Division,
    workers: int | None,
    fresh: bool,
) -> None:
    """Check and prepare 2D images."""
    method: Any = "zscore" if choices["normalization"] == "auto" else choices["normalization"]
    size = tuple(choices["size"] or layout.size or DEFAULT_SIZE)
    statistics: dict[str, Any] = {name: choices[name] and tuple(choices[name]) for name in ("mean", "std")}
    preprocessing = ImagePreprocessing(size, choices["color"] or "grey", method, **statistics)
    declared = declare_classes(layout, choices["classes"])
    cases, faults = select_images(layout, choices["skip_missing"], choices["unlabelled_as_background"])
    number = len(layout.image_cases())

    def show_all(coding: MaskCoding | None, unclear: list[Fault]) -> None:
        stop_on_errors(faults + unclear + check_images(cases, workers, coding)[1], number, layout.root)

    if images.has_errors(faults) or group_faults(divide.trusted(cases)):
        show_all(*mask_coding(layout, declared, cases, workers))
    given = {case.subject: case.assignment for case in cases}
    folds = divide(given, {case.subject: case.class_name for case in cases})
    preparation = images.ImagePreparation(layout, cases, folds, preprocessing, choices["classes"])
    images.refuse_foreign(cache)
    with _claimed(cache, fresh, functools.partial(images.is_up_to_date, preparation, cache)) as needed:
        if not needed:
            print(f"{cache} is up to date ({count(len(cases), 'image')})")
            return
        if fresh:
            images.clear(cache)
        coding, unclear = mask_coding(layout, declared, cases, workers)
        if unclear:
            show_all(coding, unclear)
        preparation = replace(preparation, coding=coding)
        progress = functools.partial(show_progress, lines=True)
        inspections = images.write_images(preparation, cache, workers, progress)
        faults += [fault for found in inspections for fault in found.faults]
        faults += summary_faults(cases, inspections)
        faults += copy_faults(cases, inspections, (preparation.folds[case.subject] for case in cases))
        if images.has_errors(faults):
            images.discard(cache)
        stop_on_errors(faults, number, layout.root)
        images.finish(preparation, cache, inspections)
    channels, (height, width) = ", ".join(preprocessing.channels), preprocessing.size
    print(f"prepared {count(len(cases), 'image')} of {height} x {width} pixels ({channels}) in {cache}")
    print(*divide.remarks(given, folds, "image"), sep="\n")


@contextlib.contextmanager
def _claimed(cache: Path, fresh: bool, is_ready: Callable[[], bool]) -> Iterator[bool]:
    """Keep other preparations out of a cache and say clearly what the disk refuses; give whether there is work."""
    if not fresh and is_ready():  # needs no lock, which a cache that may only be read could not have
        yield False
        return
    lock = FileLock(cache / LOCK)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not lock.acquire():
            raise PocketError(
                f"--output {cache}: {lock.holder()} is preparing here. Wait until it has ended, or name another folder."
            )
        yield fresh or not is_ready()  # the other may have ended just now
    except OSError as error:
        where = error.filename or cache
        raise PocketError(f"{where}: {error.strerror or error}; mend space or permissions and try again.") from error
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # a start that failed leaves nothing
            cache.rmdir()


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
