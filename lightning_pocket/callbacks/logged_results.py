"""Pictures, charts and tables for the loggers that show them: TensorBoard and W&B."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from lightning_pocket.metrics import roc_curve
from lightning_pocket.reports.classified import Classified
from lightning_pocket.reports.overlay import resize
from lightning_pocket.reports.pictures import draw_slices
from lightning_pocket.reports.slices import CaseSlices

from .chart_pictures import draw_confusion, draw_roc

#: Names under which W&B has pictures, tables and charts; dashboards name them too.
PICTURES = {"val": "pictures/val", "test": "pictures/test"}
CASES = "test/cases"
ROC, CONFUSION = "test/roc", "test/confusion_matrix"
#: W&B shows no more images of one step.
MAX_IMAGES = 108
#: Sides of the pictures with masks in pixels: W&B wants all of one step alike.
_SIDE = 320
#: Corners of a ROC curve that are kept: thousands of images make thousands of them.
_CORNERS = 500


def log_pictures(trainer: Trainer, split: str, cases: Mapping[str, CaseSlices], classes: Sequence[str]) -> None:
    """Show image, ground truth and prediction of cases.

    TensorBoard gets the pictures that are in the run folder, W&B every slice with both masks and the classes' names.

    Args:
        trainer: Its loggers get them, at the step under which Lightning logs the metrics of this epoch.
        split: ``val`` or ``test``.
        cases: Slices by the name of the case.
        classes: Names of the classes, background first.
    """
    if not cases:
        return
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            tag = "pictures" if split == "val" else "test_pictures"
            for subject, case in cases.items():
                picture = draw_slices(case, classes)
                logger.experiment.add_image(f"{tag}/{subject}", picture, _step(trainer), dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            _log_masks(logger, PICTURES[split], cases, classes, _step(trainer))


def log_cases(trainer: Trainer, rows: Sequence[Mapping[str, Any]]) -> None:
    """Give W&B the table of tested cases, with the columns of ``test/cases.csv``.

    Args:
        trainer: Its loggers get it.
        rows: One per case, all with the same columns.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and rows:
            columns = list(rows[0])
            logger.log_table(
                CASES, columns, [[_plain(row[name]) for name in columns] for row in rows], None, _step(trainer)
            )


def log_classification(trainer: Trainer, cases: Classified) -> None:
    """Show ROC curves, where there are any, and the confusion matrix of a test.

    Args:
        trainer: Its loggers get them: TensorBoard as pictures, W&B as charts.
        cases: The predictions.
    """
    curves = {cases.classes[k]: roc_curve(cases.probability[:, k], cases.target == k) for k in cases.drawn}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pictures = {ROC: draw_roc(curves)} if curves else {}
            pictures[CONFUSION] = draw_confusion(cases.confusion, cases.classes)
            for tag, picture in pictures.items():
                logger.experiment.add_image(tag, picture, _step(trainer), dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            _log_charts(logger, cases, curves, _step(trainer))


def _log_charts(
    logger: WandbLogger, cases: Classified, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], step: int
) -> None:
    import wandb

    charts: dict[str, Any] = {
        CONFUSION: wandb.plot.confusion_matrix(
            y_true=cases.target.tolist(),
            preds=cases.predicted.tolist(),
            class_names=cases.classes,
            title="Confusion matrix of the test images",
        )
    }
    if curves:
        points = [[name, x, y] for name, curve in curves.items() for x, y in _thin(*curve)]
        charts[ROC] = wandb.plot_table(
            "wandb/area-under-curve/v0",
            wandb.Table(columns=["class", "fpr", "tpr"], data=points),
            {"x": "fpr", "y": "tpr", "class": "class"},
            {"title": "ROC of the test images", "x-axis-title": "False positive rate"}
            | {"y-axis-title": "True positive rate"},
        )
    logger.log_metrics(charts, step)


def _log_masks(
    logger: WandbLogger, key: str, cases: Mapping[str, CaseSlices], classes: Sequence[str], step: int
) -> None:
    labels = dict(enumerate(classes))
    images: list[np.ndarray] = []
    masks, captions = [], []
    for subject, index in _slices(cases):
        case = cases[subject]
        grey, truth, predicted = square_panels(case, index, len(classes))
        images.append(grey)
        shown = {"prediction": predicted, "ground_truth": truth}
        masks.append({name: {"mask_data": label, "class_labels": labels} for name, label in shown.items()})
        captions.append(f"{subject}, {case.slices[index].plane}")
    logger.log_image(key, images, step=step, masks=masks, caption=captions)


def _slices(cases: Mapping[str, CaseSlices]) -> Iterable[tuple[str, int]]:
    """Return the slices that are shown: all, or as many as there is room for, those of each plane first."""
    found = [(index, subject) for subject, case in cases.items() for index in range(len(case.slices))]
    if len(found) > MAX_IMAGES:
        found = sorted(found, key=lambda pair: pair[0])[:MAX_IMAGES]
    return [(subject, index) for index, subject in found]


def square_panels(
    case: CaseSlices, index: int, num_classes: int, side: int = _SIDE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a slice with square pixels, its longest side as long as the picture, in the middle of black.

    Args:
        case: Slices of a case.
        index: Which of them.
        num_classes: Number of classes; voxels of none become background.
        side: Sides of the result in pixels.

    Returns:
        Image, ground truth and prediction, ``(side, side)`` uint8.
    """
    shown = case.slices[index]
    scale = side / max(shown.size_mm)
    height, width = (min(side, max(1, round(length * scale))) for length in shown.size_mm)
    top, left = (side - height) // 2, (side - width) // 2

    def place(pixels: np.ndarray, smooth: bool) -> np.ndarray:
        canvas = np.zeros((side, side), dtype=np.uint8)
        canvas[top : top + height, left : left + width] = resize(pixels, height, width, smooth)
        return canvas

    labels = (np.where(label < num_classes, label, 0).astype(np.uint8) for label in (shown.truth, shown.predicted))
    truth, predicted = (place(label, smooth=False) for label in labels)
    return place(case.grey(index), smooth=True), truth, predicted


def _thin(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CORNERS)).round().astype(int))
    return [(float(x[i]), float(y[i])) for i in kept]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _step(trainer: Trainer) -> int:
    """Return the step under which Lightning logs the metrics of this epoch."""
    if trainer.state.fn == "test":
        return trainer.fit_loop.epoch_loop._batches_that_stepped
    return trainer.global_step - 1
