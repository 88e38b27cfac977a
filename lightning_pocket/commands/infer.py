"""Segment new images with a trained network, and write label maps on the images' own grids."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal

from lightning_pocket.data.layouts import Case
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.durations import show_duration
from lightning_pocket.reports.progress import show_windows
from lightning_pocket.reports.run_summary import Summary, show_memory
from lightning_pocket.results_folder import ResultsFolder
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.studies.crossval import RECORD, fold_checkpoints


def infer(  # noqa: PLR0913 (one parameter per option of the command line)
    checkpoint: str,
    images: list[str],
    output: str | None = None,
    probabilities: bool = False,
    largest_component: bool | None = None,
    flips: bool | None = None,
    overlap: float | None = None,
    window_batch: int | None = None,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    speed: Literal["auto", "plain"] = "auto",
    fresh: bool = False,
) -> None:
    """Segment new images with a trained network, and write label maps on the images' own grids.

    The images are prepared as those of the training were; nothing but the checkpoint is needed. Masks of 2D images are
    PNG files in the size of the images, with the values of the masks of the training. An image that cannot be segmented
    is reported, and the others are done. A command that was stopped goes on where it was.

    Args:
        checkpoint: File that `pocket fit` wrote, folder of a run for its last checkpoint, or folder of a
            cross-validation for the mean of the networks of all folds.
        images: Image files (NIfTI, NRRD, MetaImage), folders of them, folders with a DICOM series, or a CSV table with
            the column subject and one column per channel. Files called CASE_0000, CASE_0001 are channels of one case.
            For a network of 2D images: PNG, JPEG, BMP, TIFF, WebP or DICOM files, folders of them, or a CSV table with
            the columns subject and image.
        output: Folder of the label maps, always needed. Each is called after its case.
        probabilities: Write the probability of each class too, as probabilities/CASE/CLASS.nii.gz, or .png of 16 bits
            for 2D images.
        largest_component: Keep only the largest connected component of each class; by default as in training, or as
            `pocket postprocess` chose.
        flips: Average over all flips of each window, 8 times the work, 4 times for 2D images; as in training by
            default.
        overlap: Fraction of a window that the next one repeats; as in training by default.
        window_batch: Windows predicted at a time; as in training by default.
        device: cpu, cuda, cuda:1, or auto for a GPU where there is one.
        precision: Precision of the network.
        speed: auto predicts the first windows in several ways that agree within rounding, and goes on with the fastest;
            plain predicts as `pocket test` does.
        fresh: Segment again what is already in the folder. Results of another checkpoint or other settings in it are
            deleted.

    Raises:
        PocketError: If the checkpoint or the folder cannot be used, or an image could not be segmented.
    """
    if not output:
        raise PocketError("output: is missing; name a folder for the label maps, such as --output predictions.")
    files = _checkpoints(Path(checkpoint))
    from lightning_pocket.segmenter import Segmenter, Settings  # torch only now: options may be wrong

    settings = Settings(flips, overlap, window_batch, largest_component, precision, speed)
    segmenter = Segmenter(files, device, settings)
    if segmenter.contracted:
        print(f"contracted {segmenter.contracted} expanded layers", flush=True)
    cases = _find(segmenter, images)
    folder = ResultsFolder(Path(output), _identity(files, segmenter, probabilities), fresh)
    folder.claim(path for case in cases for path in case.images)
    chosen = _Speed(segmenter, folder)
    failed, began = 0, time.monotonic()
    for number, case in enumerate(cases, start=1):
        place = f"{number}/{len(cases)} {case.subject}"
        try:
            said = _segment(segmenter, case, folder, place, probabilities)
        except (PocketError, RuntimeError, MemoryError, OSError) as error:
            failed += 1
            print(f"{place}: error: {_first_line(error)}", file=sys.stderr, flush=True)
        else:
            print(f"{place}: {said}", flush=True)
        chosen.record()
    if failed < len(cases):
        print(_summary(segmenter, folder.path, checkpoint, images, time.monotonic() - began, len(cases) - failed))
    if failed:
        raise PocketError(f"{failed} of {len(cases)} images could not be segmented; the reasons are above.")


def _find(segmenter: Any, images: list[str]) -> list[Case]:
    """Return the cases that are meant, and say what is left out."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        cases: list[Case] = segmenter.reader.find(images)
    for note in notes:
        print(f"warning: {note.message}", file=sys.stderr, flush=True)
    return cases


class _Speed:
    """Takes over how an earlier command predicted fastest on the same device, and records what this one finds."""

    def __init__(self, segmenter: Any, folder: ResultsFolder) -> None:
        self._segmenter = segmenter
        self._folder = folder
        self._recorded = False
        self._where = {"device": str(segmenter.device), "precision": segmenter.settings.precision}
        earlier = folder.earlier("speed") or {}
        same = all(earlier.get(key) == value for key, value in self._where.items())
        if segmenter.settings.speed == "auto" and same:
            from lightning_pocket.speed import Choice

            segmenter.choice = Choice.earlier(earlier)
            self._recorded = True

    def record(self) -> None:
        """Print and record the choice, once it is made."""
        choice = self._segmenter.choice
        if choice is not None and not self._recorded:
            self._recorded = True
            print(choice, flush=True)
            self._folder.note("speed", self._where | choice.record)


def _summary(segmenter: Any, folder: Path, checkpoint: str, images: list[str], seconds: float, done: int) -> Summary:
    """Return what was done, and how to score it where the truth lies beside the images."""
    from lightning_pocket.callbacks.peak_memory import read_peaks

    rows = {
        "label maps": f"{folder}, {done} image{'' if done == 1 else 's'}",
        "checkpoint": checkpoint,
        "network": segmenter.description,
        "device": f"{segmenter.device}, {segmenter.settings.precision}",
        "peak memory": show_memory(read_peaks(segmenter.device)),
        "wall time": show_duration(seconds),
    }
    truth = _truth_beside(images)
    return Summary(rows, [["evaluate", str(folder), str(truth), "--predicted_only"]] if truth else [])


def _truth_beside(images: list[str]) -> Path | None:
    """Return the folder of true label maps of a data set, such as ``labelsTr`` beside ``imagesTr``."""
    folder = Path(images[0])
    beside = folder.with_name(folder.name.replace("images", "labels", 1))
    return beside if len(images) == 1 and beside != folder and folder.is_dir() and beside.is_dir() else None


def _checkpoints(path: Path) -> list[Path]:
    """Return the file itself, or what a folder stands for."""
    if (path / RECORD).is_file():
        return fold_checkpoints(path)
    return [RunFolder(path).last if path.is_dir() else path]


def _segment(segmenter: Any, case: Case, folder: ResultsFolder, place: str, probabilities: bool) -> str:
    """Write the results of one case, unless they are there, and say what was found."""
    started = time.monotonic()
    suffix = segmenter.reader.suffix(case.images[0])
    label = folder.path / f"{case.subject}{suffix}"
    maps = [folder.path / "probabilities" / case.subject / f"{_plain(name)}{suffix}" for name in segmenter.classes]
    missing = next((image for image in case.images if not image.exists()), None)
    if missing:
        raise PocketError(f"{missing}: no such file; {segmenter.reader.needs}.")
    if folder.is_done(case.subject, case.images):
        return f"already segmented, {label}"
    folder.begin(case.subject, case.images, [label, *(maps if probabilities else [])])
    with show_windows(place) as progress:
        result = segmenter.segment(case.images, progress, probabilities)
    if probabilities:
        for index, path in enumerate(maps):
            result.write_probability(index, path)
    result.write(label)
    folder.finish(case.subject)
    sizes = [f"{name} {size}" for name, size in zip(segmenter.classes, result.sizes(), strict=True)][1:]
    for note in result.notes:
        print(f"{place}: warning: {note}", file=sys.stderr, flush=True)
    return f"{', '.join(sizes)} ({time.monotonic() - started:.1f} s) -> {label}"


def _plain(name: str) -> str:
    return name.replace(" ", "_").replace("/", "_")


def _identity(checkpoints: list[Path], segmenter: Any, probabilities: bool) -> dict[str, Any]:
    """Return everything that decides what a label map holds."""
    from dataclasses import asdict

    from lightning_pocket.storage import sha256

    paths, hashes = [str(path.resolve()) for path in checkpoints], [sha256(path) for path in checkpoints]
    return {
        "checkpoint": paths[0] if len(paths) == 1 else paths,
        "checkpoint_sha256": hashes[0] if len(hashes) == 1 else hashes,
        "window": asdict(segmenter.window),
        "largest_component": segmenter.keep_largest,
        "precision": segmenter.settings.precision,
        "probabilities": probabilities,
        "classes": dict(zip(segmenter.reader.values, segmenter.classes, strict=True)),
    }


def _first_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or use a machine with more memory."
    return next(iter(str(error).splitlines()), type(error).__name__)
