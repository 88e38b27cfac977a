"""Post-processing chosen on out-of-fold predictions: where keeping the largest component alone helps."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lightning_pocket.data.cache import Cache, CachedCase
from lightning_pocket.data.images import read_label
from lightning_pocket.data.original import CachedOriginal
from lightning_pocket.data.workers import run_tasks
from lightning_pocket.errors import PocketError
from lightning_pocket.inference.components import FOREGROUND, keep_largest, remove_islands
from lightning_pocket.reports.tested import is_tested, read_tested
from lightning_pocket.storage import partial_path, write_json, write_text

from .crossval import CASES, Fold, fold_checkpoints, read_record

RECORD = "postprocessing.json"


@dataclass(frozen=True)
class Prediction:
    """An out-of-fold prediction and its truth.

    Args:
        case: The prepared case, which knows its truth.
        file: Label map that was predicted for it.
        label_values: Label value of each class.
        ignore_index: Value in the truth of the voxels that do not count.
    """

    case: CachedCase
    file: Path
    label_values: tuple[int, ...]
    ignore_index: int | None


@dataclass(frozen=True)
class Step:
    """One thing that was tried.

    Args:
        name: Of what only the largest component was kept: a class, or ``foreground`` for all of them together.
        before: Mean Dice over the cases with what was chosen until then: of the class, or of the mean of all classes.
        after: The same with this step.
        better: Cases whose Dice rises.
        worse: Cases whose Dice falls.
    """

    name: str
    before: float
    after: float
    better: int
    worse: int

    @property
    def kept(self) -> bool:
        """Whether the step is chosen: the mean Dice over all cases rises."""
        return self.after > self.before


def find_predictions(folder: Path) -> tuple[list[Prediction], list[str]]:
    """Return the out-of-fold predictions of a cross-validation, and the names of its classes.

    Args:
        folder: Folder that ``pocket crossval`` wrote.

    Raises:
        PocketError: If folds or label maps are missing, the data changed, or the label maps are post-processed.
    """
    checkpoint = read_record(folder)["checkpoint"]
    with (folder / CASES).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if "dice" not in (reader.fieldnames or []):
            raise PocketError(f"{folder}: its networks predict no label maps; expected a segmentation.")
        fold_of = {row["subject"]: Fold(folder, int(row["fold"])) for row in reader}
    caches: dict[str, Cache] = {}
    predictions = []
    for fold in {fold.number: fold for fold in fold_of.values()}.values():
        _check_raw(fold, checkpoint)
    for subject, fold in fold_of.items():
        path = fold.manifest()["data"]["cache"]
        if path not in caches:
            caches[path] = Cache.open(path)
            fold.run.check_data({"hash": caches[path].hash, "split": fold.manifest()["data"].get("split")})
        cache = caches[path]
        file_of = fold.cases.parent / "predictions" / f"{subject}.nii.gz"
        if not file_of.is_file():
            raise PocketError(f"{file_of}: no such file. Predict it: {_again(fold, checkpoint)}")
        values = tuple(cache.preprocessing["label_values"])
        predictions.append(Prediction(cache.case(subject), file_of, values, cache.ignore_index))
    return predictions, next(iter(caches.values())).classes


def choose(
    predictions: Sequence[Prediction], classes: Sequence[str], workers: int, advance: Callable[[], None]
) -> list[Step]:
    """Try one step after the other, and keep those that raise the mean Dice over all cases.

    The rule is that of the PocketNet experiments: first all foreground together (where there are several classes),
    then each class in order, each on top of what was kept before. What is cut off becomes background. Dice is that on
    the original grids; two empty masks have a Dice of 1.

    Args:
        predictions: Out-of-fold predictions.
        classes: Names of the classes, background first.
        workers: Number of processes.
        advance: Called after each case.
    """
    tables = run_tasks(partial(_score, classes=len(classes)), predictions, workers, advance)
    dice = np.array(tables)  # (N, 2, 2, K): foreground cleaned or not, class cleaned or not
    steps = []
    together = 0
    if len(classes) > 2 and FOREGROUND not in classes:
        means = dice[:, :, 0].mean(axis=2)
        steps.append(_step(FOREGROUND, means[:, 0], means[:, 1]))
        together = int(steps[0].kept)
    for index, name in enumerate(classes[1:]):
        steps.append(_step(name, dice[:, together, 0, index], dice[:, together, 1, index]))
    return steps


def store(folder: Path, steps: Sequence[Step], cases: int) -> None:
    """Write ``postprocessing.json``, and the choice into the checkpoints and configs of the folds.

    What is there already is left as it is.

    Args:
        folder: Folder of the cross-validation.
        steps: What was tried.
        cases: Number of cases that decided.

    Raises:
        PocketError: If a checkpoint cannot be read.
    """
    chosen = [step.name for step in steps if step.kept]
    setting = chosen or False
    for number, checkpoint in zip(read_record(folder)["folds"], fold_checkpoints(folder), strict=True):
        _store_in_checkpoint(checkpoint, setting)
        _store_in_config(Fold(folder, number).run.config, setting)
    tried = [asdict(step) | {"kept": step.kept} for step in steps]
    write_json(folder / RECORD, {"largest_component": chosen, "cases": cases, "steps": tried})


def _check_raw(fold: Fold, checkpoint: str) -> None:
    """Make sure that the label maps of a fold are what the tested network predicted and nothing else."""
    tested, again = read_tested(fold.run.path), _again(fold, checkpoint)
    done = tested.get("largest_component", False)
    task = {"init_args": {"largest_component": done}}
    if not (tested.get("label_maps") and is_tested(fold.run.path, checkpoint, {"model": task})):
        raise PocketError(
            f"{fold.cases.parent}: no label maps of this fold from its {checkpoint} checkpoint. Post-processing needs "
            f"them: {again}"
        )
    if done:
        raise PocketError(
            f"{fold.cases.parent / 'predictions'}: is post-processed already (largest_component: {done}). Predict "
            f"again without it: {again}"
        )


def _again(fold: Fold, checkpoint: str) -> str:
    return (
        f"pocket test --run_dir={fold.run.path} --ckpt_path={checkpoint} --config=prediction_files "
        "--model.init_args.largest_component=false"
    )


def _score(prediction: Prediction, classes: int) -> np.ndarray:
    """Return the Dice ``(2, 2, K)`` of the K foreground classes: foreground cleaned or not, class cleaned or not."""
    values = read_label(prediction.file).array
    label = np.zeros(values.shape, np.uint8)
    for index, value in enumerate(prediction.label_values):
        label[values == value] = index
    truth = CachedOriginal(prediction.case).label()
    ignored = prediction.ignore_index
    counted = np.ones(truth.shape, bool) if ignored is None else truth != ignored
    names = [str(index) for index in range(classes)]
    table = []
    for start in (label, remove_islands(label, [FOREGROUND], names)):
        cleaned = keep_largest(start)
        rows = [[_dice(found, truth, index, counted) for index in range(1, classes)] for found in (start, cleaned)]
        table.append(rows)
    return np.array(table)


def _dice(found: np.ndarray, truth: np.ndarray, index: int, counted: np.ndarray) -> float:
    first, second = (found == index) & counted, (truth == index) & counted
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _step(name: str, before: np.ndarray, after: np.ndarray) -> Step:
    return Step(
        name, float(before.mean()), float(after.mean()), int((after > before).sum()), int((after < before).sum())
    )


def _store_in_checkpoint(path: Path, setting: list[str] | bool) -> None:
    import torch

    from lightning_pocket.tasks.loading import read_checkpoint

    content: dict[str, Any] = read_checkpoint(path)
    if content["hyper_parameters"].get("largest_component", False) != setting:
        content["hyper_parameters"]["largest_component"] = setting
        partial_file = partial_path(path)
        torch.save(content, partial_file)
        partial_file.replace(path)


def _store_in_config(path: Path, setting: list[str] | bool) -> None:
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if settings["model"]["init_args"].get("largest_component", False) != setting:
        settings["model"]["init_args"]["largest_component"] = setting
        write_text(path, yaml.safe_dump(settings, sort_keys=False))
