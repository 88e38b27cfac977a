"""What a comparison page shows of classifications: scores, ROC curves, confusion matrices and the worst errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_pocket.metrics import CLASS_METRICS

from .classification_charts import confusion_chart, reliability_chart, roc_chart
from .classified import Classified
from .collect import RunResult
from .page import NOT_KNOWN, Page

#: Metric of a classification -> its name for readers.
CLASS_METRIC_NAMES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "ece": "calibration error",
}
_MOST_ERRORS = 10


def classification_rows(results: Sequence[RunResult]) -> list[list[str]]:
    """Return the scores of each run, one row per metric; none where no run classifies.

    Args:
        results: The runs, one column each.
    """
    found = [result.classified.scores if result.classified else {} for result in results]
    if not any(found):
        return []
    names = list(dict.fromkeys([*CLASS_METRICS, *(name for scores in found for name in scores)]))
    return [[_name(name), *(_show(scores.get(name)) for scores in found)] for name in names]


def add_classification(page: Page, results: Sequence[RunResult]) -> None:
    """Add ROC curves and reliability of all runs, and the confusion matrix and the worst errors of each.

    Args:
        page: Where they are added; nothing is, where no run classifies.
        results: The runs.
    """
    tested = {result.name: result.classified for result in results if result.classified}
    order = [result.name for result in results]
    if not tested:
        return
    page.section("Accuracy")
    charts = [
        (roc_chart(series, title, order), f"{title}; dashes are chance.") for title, series in _curves(tested).items()
    ]
    calibrations = {name: cases.calibration for name, cases in tested.items()}
    caption = "How often predictions are right against how sure they are; below the diagonal they are too sure."
    page.charts([*charts, (reliability_chart(calibrations, "Reliability of the test", order), caption)])
    page.section("Confusion")
    said = "images by their true and their predicted class; percentages are of the true class"
    matrices = {name: confusion_chart(c.confusion, c.classes, f"Confusion of {name}") for name, c in tested.items()}
    page.charts([(chart, f"{name}: {said}.") for name, chart in matrices.items()])
    page.section("Worst errors")
    for name, cases in tested.items():
        rows, wrong = _errors(cases), int((cases.predicted != cases.target).sum())
        if rows:
            caption = f"{name}: the surest of {wrong} wrong predictions for {len(cases.subjects)} images."
            page.table(["image", "true class", "predicted class", "probability"], rows, caption)
        else:
            page.paragraph(f"{name}: every image is classified correctly.")


def _curves(tested: dict[str, Classified]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return score and truth of each run by the title of the chart: one chart, or one for each of several classes."""
    charts: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name, cases in tested.items():
        for k in cases.drawn:
            two = len(cases.classes) == 2
            title = "ROC of the test images" if two else f"ROC of {cases.classes[k]} against the rest"
            charts.setdefault(title, {})[name] = cases.probability[:, k], cases.target == k
    return charts


def _errors(cases: Classified) -> list[list[str]]:
    """Return the images that were classified wrongly with the highest probability."""
    wrong = np.flatnonzero(cases.predicted != cases.target)
    surest = wrong[np.argsort(-cases.probability.max(axis=1)[wrong], kind="stable")][:_MOST_ERRORS]
    return [
        [
            cases.subjects[index],
            cases.classes[cases.target[index]],
            cases.classes[cases.predicted[index]],
            f"{cases.probability[index].max():.3f}",
        ]
        for index in surest
    ]


def _name(metric: str) -> str:
    """Return a metric's name for readers, with that of its class."""
    kind = next(name for name in CLASS_METRICS if metric == name or metric.startswith(f"{name}_"))
    group = metric.removeprefix(kind).removeprefix("_")
    return f"{CLASS_METRIC_NAMES[kind]}, {group}" if group else CLASS_METRIC_NAMES[kind]


def _show(value: float | None) -> str:
    return NOT_KNOWN if value is None or np.isnan(value) else f"{value:.3f}"
