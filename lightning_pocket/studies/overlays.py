"""What several runs predict for the same test cases."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.images2d.sources import SourcePictures
from lightning_pocket.data.splits import Split
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import RunResult
from lightning_pocket.reports.overlay_page import Contours
from lightning_pocket.reports.slices import slice_case
from lightning_pocket.reports.tested import read_tested
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.tasks import SegmentationTask, load_task

from .run_data import load_data


@dataclass(frozen=True)
class _Predicted:
    """One case of one run: arrays on one grid, ``(C, *S)`` and ``(*S)``; and whether the image was enlarged."""

    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    spacing: Sequence[float] | None
    dice: float
    enlarged: bool = False


@dataclass(frozen=True)
class OverlayCases:
    """The cases of a page.

    Args:
        cases: What each run made of each case: case -> name of the run -> contours.
        num_classes: Number of classes, background included.
        enlarged: The 2D images of which the picture is the prepared one, since their files are gone.
    """

    cases: dict[str, dict[str, Contours]]
    num_classes: int
    enlarged: list[str]


def choose_cases(results: Sequence[RunResult], named: Sequence[str], most: int) -> list[str]:
    """Return the cases to show.

    Args:
        results: The runs.
        named: Cases that are asked for; none for cases from the worst to the best, by their mean Dice over the runs,
            evenly spaced in rank.
        most: Number of cases where none are named.

    Raises:
        PocketError: If a run was not tested, or no case is common to all.
    """
    if named:
        return list(dict.fromkeys(named))
    for result in results:
        if "dice" not in result.scores:
            raise PocketError(
                f"{result.path}: has no test scores by which to choose cases. Run `pocket test --run_dir "
                f"{result.path}`, or name cases with --cases."
            )
    dice = [result.by_case("dice") for result in results]
    common = sorted(set.intersection(*(set(scores) for scores in dice)))
    if not common:
        raise PocketError("runs: no case was tested by all of them. Give runs that were tested on the same cases.")
    ranked = sorted(common, key=lambda subject: fmean(scores[subject] for scores in dice))
    places = np.linspace(0, len(ranked) - 1, min(most, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def predict_overlays(results: Sequence[RunResult], subjects: Sequence[str], checkpoint: str | None) -> OverlayCases:
    """Predict cases with the networks of several runs.

    A 2D image is shown as it is in its own file, or where that is gone the prepared one on the grid of the file; of a
    volume the axial slice with most foreground of the prepared grid. Each run predicts as its test did: with the tested
    weights, and islands removed where they were.

    Args:
        results: The runs.
        subjects: The cases.
        checkpoint: ``last`` or ``best``; None for what was tested, or the last.

    Raises:
        PocketError: If a run has no such case or checkpoint, is no segmentation, or was made on other data.
    """
    found: dict[str, dict[str, _Predicted]] = {subject: {} for subject in subjects}
    classes: dict[str, list[str]] = {}
    for result in results:
        task = _load(result.path, checkpoint)
        classes[result.name] = task.info.classes
        for subject, case in _predict(task, result.path, subjects).items():
            found[subject][result.name] = case
    first, *others = classes
    for name in others:
        if classes[name] != classes[first]:
            raise PocketError(
                f"{name}: has the classes {', '.join(classes[name])}, {first} {', '.join(classes[first])}. Compare "
                "runs of the same classes."
            )
    count = len(classes[first])
    enlarged = [subject for subject, cases in found.items() if all(case.enlarged for case in cases.values())]
    return OverlayCases({subject: _cut(subject, cases, count) for subject, cases in found.items()}, count, enlarged)


def _load(run: Path, checkpoint: str | None) -> SegmentationTask:
    """Return the task with the weights, and the removal of islands, of the test."""
    tested = read_tested(run) if checkpoint is None else {}
    task = load_task(str(RunFolder(run).checkpoint("test", checkpoint or tested.get("checkpoint"))))
    if not isinstance(task, SegmentationTask):
        raise PocketError(f"{run}: {type(task).__name__} has no contours. Give runs that segment.")
    task.largest_component = tested.get("largest_component", task.largest_component)
    task.network.to("cuda" if torch.cuda.is_available() else "cpu")
    return task


def _predict(task: SegmentationTask, run: Path, subjects: Sequence[str]) -> dict[str, _Predicted]:
    data: Any = load_data(run)  # only data modules of images and volumes have a split
    if isinstance(getattr(data, "split", None), Split):
        for subject in subjects:
            if subject not in data.split.test:
                near = difflib.get_close_matches(subject, data.split.test, n=1) or data.split.test[:1]
                raise PocketError(f"--cases {subject}: is no test case of {run}. One is {''.join(near)}.")
        data.split = replace(data.split, test=tuple(subjects))  # nothing else need be read
    data.setup("test")
    device = next(task.network.parameters()).device
    cache = getattr(data, "cache", None)
    sources = SourcePictures(cache) if isinstance(cache, ImageCache) else None
    found = {}
    for batch in data.test_dataloader():
        made = task.test_step(batch | {"image": batch["image"].to(device)}, 0)
        dice = {row["subject"]: row["dice"] for row in made["rows"]}
        for index, subject in enumerate(batch["subject"]):
            if subject in subjects:
                grey = None if sources is None else sources.grey(subject)
                found[subject] = _on_one_grid(batch, index, made["predicted"][index], dice[subject], grey)
    return found


def _on_one_grid(batch: Any, index: int, predicted: torch.Tensor, dice: float, grey: np.ndarray | None) -> _Predicted:
    """Return image, truth and prediction of an item: 2D ones at the size of their own file, of which ``grey`` is."""
    image, original = batch["image"][index].float().numpy(), batch["original"][index]
    label = predicted.cpu().numpy()
    if label.ndim == 3:
        spacing = batch["spacing"][index] if "spacing" in batch else None
        return _Predicted(image, batch["label"][index].numpy(), label, spacing, dice)
    truth = original.label()
    shown = _resized(image, truth.shape) if grey is None else grey[None]
    return _Predicted(shown, truth, original.restore(label), original.spacing, dice, enlarged=grey is None)


def _resized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return channel 0 of an image ``(C, h, w)`` as ``(1, H, W)``, stretched to a shape."""
    from PIL import Image

    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(image[0]).resize(size, Image.Resampling.BICUBIC))[None]


def _cut(subject: str, cases: Mapping[str, _Predicted], num_classes: int) -> dict[str, Contours]:
    """Return the same slice of a case for each run: where the truth is largest, or else all predictions together."""
    first = next(iter(cases.values()))
    for name, case in cases.items():
        if case.truth.shape != first.truth.shape or (case.truth != first.truth).any():
            raise PocketError(f"{name}: its data hold another mask of {subject} than those of the first run.")
    empty = not ((first.truth > 0) & (first.truth < num_classes)).any()
    where = np.max([case.predicted for case in cases.values()], axis=0) if empty else first.truth
    image = next((case.image for case in cases.values() if not case.enlarged), first.image)
    contours = {}
    for name, case in cases.items():
        cut = slice_case(image, where, case.predicted, first.spacing, num_classes)
        shown = replace(cut.slices[0], truth=np.zeros_like(cut.slices[0].truth)) if empty else cut.slices[0]
        contours[name] = Contours(replace(cut, slices=[shown]), case.dice)
    return contours
