"""Score label files of any tool against the truth, one row per case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.commands.check import stop_on_errors
from lightning_pocket.data.checks import Fault, name_faults, parse_classes
from lightning_pocket.data.folds import IMAGE_SUFFIXES, stem
from lightning_pocket.data.images import Volume, read_label
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts import Layout, find_layout, layouts
from lightning_pocket.data.layouts.base import class_values, counted_labels, ignored_value, image_files, region_classes
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.data.layouts.masks import MaskLayout
from lightning_pocket.errors import PocketError
from lightning_pocket.mask_scores import Choices, MaskPair, is_flat, run, score_images
from lightning_pocket.metrics.case_scores import score_case
from lightning_pocket.reports.case_table import print_cases
from lightning_pocket.storage import write_csv

_UNKNOWN = -1  # class index of a value that is no class


_MATCH = {
    "truth": "add it, name it after the case, or take out this file",
    "prediction": "add it, or leave such cases out with --predicted_only",
}


@dataclass(frozen=True)
class Pair:
    """Two label files of one case."""

    subject: str
    predicted: Path
    truth: Path


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Args:
        labels: Name of the class of each label value, 0 is background.
        regions: Class indices of each region.
        ignored: Label value of the voxels that do not count.
        tolerance_mm: Tolerance of the surface Dice in mm.
        volume_hd95: Whether to compute the volume-based HD95 too.
    """

    labels: Mapping[int, str]
    regions: Mapping[str, Sequence[int]]
    ignored: int | None
    tolerance_mm: float
    volume_hd95: bool


def evaluate(  # noqa: PLR0913 (one parameter per option of the command line)
    predictions: str,
    truth: str,
    output: str | None = None,
    classes: str | None = None,
    tolerance_mm: float = 1.0,
    ignore_label: int | None = None,
    workers: int | None = None,
    volume_hd95: bool = False,
    predicted_only: bool = False,
) -> None:
    """Score label files of any tool against the truth, one row per case.

    Dice, 95th percentile Hausdorff distance (HD95), average symmetric surface distance (ASD) and surface Dice of each
    class. A case that cannot be scored is reported, and the others are scored. Masks of 2D images are scored in pixels,
    or in mm where the data set of the truth tells the size of the pixels of all.

    Args:
        predictions: Label file, or folder of label files named after the cases.
        truth: Label file, or folder of label files of the same names (suffixes may differ), or a raw data set that
            `pocket check` knows.
        output: CSV file to write; by default scores.csv in the folder of predictions, or for a single file its name
            with .scores.csv added.
        classes: Names of the classes in the order of the label values 0, 1, 2 and so on, separated by commas and
            with background first; NAME=VALUE sets another value, NAME=1+4 merges values into one class. By default
            those of the data set, else the values that occur in the truth.
        tolerance_mm: Distance in mm up to which surfaces agree, for the surface Dice.
        ignore_label: Label value in the truth of voxels that do not count; by default that of a class called ignore.
        workers: Number of processes; one per CPU core by default. Each holds one case in memory.
        volume_hd95: Also compute HD95 over volumes instead of surfaces, as the PocketNet paper's code did.
        predicted_only: Leave out cases of the truth without a prediction, such as those of other folds; without it
            they are errors.

    Raises:
        PocketError: If nothing can be scored, or an option is wrong.
        SystemExit: With status 1 if a case could not be scored.
    """
    pairs, truths, layout, faults = _find_pairs(Path(predictions), Path(truth), predicted_only)
    file = _output(Path(predictions), output)
    if tolerance_mm < 0:
        raise PocketError(f"tolerance_mm: is {tolerance_mm}, expected a distance in mm, 0 or more.")
    choices = (classes, ignore_label, tolerance_mm, volume_hd95)
    if isinstance(layout, MaskLayout) or all(is_flat(file) for pair in pairs for file in (pair.truth, pair.predicted)):
        results, unit = score_images(_mask_pairs(pairs, layout), truths, layout, choices, workers)
    else:
        results, unit = _score_volumes(pairs, layout, choices, workers), "mm"
    rows = [result for result in results if isinstance(result, dict)]
    faults += [result for result in results if isinstance(result, Fault)]
    if rows:
        _write(file, rows)
        print_cases(rows, f"{predictions} against {truth}, surface Dice at {tolerance_mm:g} {unit}")
        print(f"written: {file}")
    stop_on_errors(faults, len(rows) + len({fault.subject for fault in faults}), Path(predictions))


def _score_volumes(
    pairs: Sequence[Pair], layout: Layout | None, choices: Choices, workers: int | None
) -> list[dict[str, Any] | Fault]:
    classes, ignore_label, tolerance_mm, volume_hd95 = choices
    labels = parse_classes(classes) if classes else layout.classes if layout else None
    ignored = ignored_value(labels) if ignore_label is None else ignore_label
    if labels is None:
        labels = _labels_of_truth(pairs, ignored, workers)
    counted = _without(labels, ignored)
    regions = region_classes(layout.regions if layout else {}, counted)
    scoring = Scoring(counted, regions, ignored, tolerance_mm, volume_hd95)
    return run(partial(_score, scoring=scoring), pairs, workers, "scoring")


def _mask_pairs(pairs: Sequence[Pair], layout: Layout | None) -> list[MaskPair]:
    cases = {case.subject: case for case in layout.image_cases()} if isinstance(layout, MaskLayout) else {}
    alone = {pair.subject: ImageCase(pair.subject, (pair.truth,), None, masks=(pair.truth,)) for pair in pairs}
    return [MaskPair(pair.subject, pair.predicted, (alone | cases)[pair.subject]) for pair in pairs]


def _find_pairs(
    predictions: Path, truth: Path, predicted_only: bool
) -> tuple[list[Pair], list[Path], Layout | None, list[Fault]]:
    """Match files by the names of their cases; return pairs, all truths, their data set, and what is unmatched."""
    for path in (predictions, truth):
        if not path.exists():
            raise PocketError(f"{path}: no such file or folder; give a label file or a folder of label files.")
    single = truth.is_file() and truth.suffix.lower() != ".csv"
    if predictions.is_file() and single:
        return [Pair(stem(predictions.name), predictions, truth)], [truth], None, []
    if predictions.is_file() or single:
        raise PocketError(f"{predictions} and {truth}: are a file and many cases; give two files or two folders.")
    found, faults = _by_name(image_files(predictions, IMAGE_SUFFIXES))
    expected, layout, repeated = _find_truth(truth, found)
    faults += repeated
    truths = list(expected.values())
    pairs = [Pair(name, found[name], expected[name]) for name in sorted(found.keys() & expected.keys())]
    if not pairs:
        example = min(expected, default="CASE") + (".png" if truths and is_flat(truths[0]) else ".nii.gz")
        raise PocketError(
            f"{predictions}: holds no label file named after a case of {truth} (first names: "
            f"{min(found, default='none')}; {min(expected, default='none')}); expected names such as {example}."
        )
    if predicted_only:
        expected = {pair.subject: pair.truth for pair in pairs}
    faults += _unmatched(found, expected, {fault.subject for fault in faults})
    return pairs, truths, layout, faults


def _find_truth(truth: Path, found: Mapping[str, Path]) -> tuple[dict[str, Path], Layout | None, list[Fault]]:
    """Return the true label files by case, the data set that they are from, and names given twice."""
    files = image_files(truth, IMAGE_SUFFIXES)
    named, faults = _by_name(files)
    masked = any(issubclass(kind, MaskLayout) and kind.matches(truth) for kind in layouts().values())
    # A data set may have a picture beside its dataset.json: names decide. Images have the names of their masks.
    if (
        not masked
        and files
        and (named.keys() & found.keys() or not any(kind.matches(truth) for kind in layouts().values()))
    ):
        return named, None, faults
    layout = find_layout(truth)
    cases = layout.cases()
    faults = name_faults(cases)
    unfit = {fault.subject for fault in faults}
    labels = {case.subject: case.images[0] if masked else case.label for case in cases if case.subject not in unfit}
    return {subject: label for subject, label in labels.items() if label is not None}, layout, faults


def _unmatched(found: Mapping[str, Path], expected: Mapping[str, Path], reported: Collection[str]) -> list[Fault]:
    faults = []
    for name in sorted((found.keys() ^ expected.keys()) - set(reported)):
        missing, file = ("truth", found[name]) if name in found else ("prediction", expected[name])
        finding = f"there is no {missing} of this name"
        faults.append(Fault(name, str(file), finding, _MATCH[missing]))
    return faults


def _by_name(files: Sequence[Path]) -> tuple[dict[str, Path], list[Fault]]:
    """Return files by case; those of which several have one name are faults."""
    names: dict[str, list[Path]] = {}
    for file in files:
        names.setdefault(stem(file.name), []).append(file)
    faults = [
        Fault(name, str(same[1]), f"has the name of {same[0].name}", "keep one of them")
        for name, same in names.items()
        if len(same) > 1
    ]
    return {name: same[0] for name, same in names.items() if len(same) == 1}, faults


def _output(predictions: Path, output: str | None) -> Path:
    if output is None:
        return predictions / "scores.csv" if predictions.is_dir() else Path(f"{predictions}.scores.csv")
    if Path(output).is_dir():
        raise PocketError(
            f"output: {output} is a folder; name the file to write, such as {Path(output, 'scores.csv')}."
        )
    return Path(output)


def _labels_of_truth(pairs: Sequence[Pair], ignored: int | None, workers: int | None) -> dict[int, str]:
    """Return names for the label values that occur in the truth: the values themselves."""
    results = run(_values, pairs, workers, "reading classes")
    values = {value for result in results if not isinstance(result, Fault) for value in result} - {0, ignored}
    if not values:
        stop_on_errors([result for result in results if isinstance(result, Fault)], len(pairs), pairs[0].truth.parent)
        raise PocketError(f"{pairs[0].truth.parent}: the truth holds nothing but background; name the --classes.")
    return {0: "background"} | {value: str(value) for value in sorted(values)}


def _values(pair: Pair) -> list[int] | Fault:
    """Return the whole numbers in the truth of a case; other values are found when it is scored."""
    try:
        found = np.unique(read_label(pair.truth).array)
    except ImageError as error:
        return _fault(pair, error)
    return [int(value) for value in found if np.isfinite(value) and value == int(value)]


def _fault(pair: Pair, error: ImageError) -> Fault:
    return Fault(pair.subject, str(error.path), error.finding, error.remedy)


def _without(labels: Mapping[int, str], ignored: int | None) -> dict[int, str]:
    counted = {value: name for value, name in counted_labels(labels).items() if value != ignored}
    if 0 not in counted or len(set(counted.values())) < 2:
        left = ", ".join(class_values(counted)) or "nothing"
        raise PocketError(
            f"classes: {left} counts{'' if ignored is None else f' (label {ignored} does not)'}; expected background "
            "(value 0) and at least one more class. Mend --classes or --ignore_label."
        )
    return counted


def _score(pair: Pair, scoring: Scoring) -> dict[str, Any] | Fault:
    try:
        predicted, truth = read_label(pair.predicted), read_label(pair.truth)
        _require_one_grid(pair, predicted, truth)
        ignored = np.zeros(truth.array.shape, bool) if scoring.ignored is None else truth.array == scoring.ignored
        values = class_values(scoring.labels)
        scores = score_case(
            _class_indices(predicted.array, list(values.values()), ignored, pair.predicted),
            _class_indices(truth.array, list(values.values()), ignored, pair.truth),
            classes=list(values),
            spacing=truth.spacing,
            tolerance_mm=scoring.tolerance_mm,
            volume=scoring.volume_hd95,
            regions=scoring.regions,
        )
    except ImageError as error:
        return _fault(pair, error)
    return {"subject": pair.subject, **scores}


def _require_one_grid(pair: Pair, predicted: Volume, truth: Volume) -> None:
    if truth.grid.matches(predicted.grid):
        return
    finding = f"lies on another grid: {_show_grid(predicted)}, the truth {_show_grid(truth)}"
    if predicted.grid.shape == truth.grid.shape:
        finding += f", corners up to {truth.grid.distance(predicted.grid):.2f} mm apart"
    raise ImageError(pair.predicted, finding, "resample the prediction to the grid of the truth")


def _show_grid(volume: Volume) -> str:
    shape = " x ".join(map(str, volume.grid.shape))
    return f"{shape} voxels of {' x '.join(f'{mm:.4g}' for mm in volume.spacing)} mm"


def _class_indices(array: np.ndarray, classes: Sequence[Sequence[int]], ignored: np.ndarray, file: Path) -> np.ndarray:
    """Return the class index of each voxel; those that do not count become background."""
    indices = np.full(array.shape, _UNKNOWN, np.int16)
    for index, values in enumerate(classes):
        for value in values:
            indices[array == value] = index
    indices[ignored] = 0
    unknown = np.unique(array[indices == _UNKNOWN])
    if unknown.size:
        listed = ", ".join(f"{value:g}" for value in unknown[:5].tolist()) + (", ..." if unknown.size > 5 else "")
        if (unknown != np.round(unknown)).any():
            raise ImageError(file, f"label values are not whole numbers ({listed})", "store the class of each voxel")
        known = ", ".join(str(value) for values in classes for value in values)
        raise ImageError(
            file, f"label values that are no class ({listed})", f"classes are {known}: mend it or --classes"
        )
    return indices


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        write_csv(file, list(rows[0]), rows)
    except OSError as error:
        raise PocketError(f"{file}: {error.strerror or error}; name another --output.") from error
