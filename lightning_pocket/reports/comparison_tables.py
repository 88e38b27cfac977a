"""The tables of a comparison: one column for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning_pocket.types import CASE_METRICS

from .classification_page import classification_rows
from .collect import RunResult, metric_of
from .page import NOT_KNOWN

#: Metric -> its name for readers, and its format.
METRICS = {
    "dice": ("Dice", ".3f"),
    "hd95_mm": ("HD95 (mm)", ".2f"),
    "asd_mm": ("ASD (mm)", ".2f"),
    "hd95_px": ("HD95 (pixels)", ".2f"),
    "asd_px": ("ASD (pixels)", ".2f"),
    "surface_dice": ("surface Dice", ".3f"),
    "auc": ("AUC", ".3f"),
    "accuracy": ("accuracy", ".4f"),
    "miou": ("mean IoU", ".4f"),
    "mean_recall": ("mean recall", ".4f"),
    "mean_precision": ("mean precision", ".4f"),
    "best_error": ("test error, best epoch of the validation", ".4f"),
    "last_error": ("test error, last epoch", ".4f"),
    "train_error": ("training error", ".4f"),
}
_WORDS = ((True, "more"), (False, "less"))
Cells = list[list[str]]


def result_rows(results: Sequence[RunResult]) -> Cells:
    """Return the figures of each run: size, accuracy, time and memory.

    Args:
        results: The runs, one column each.

    Returns:
        Rows of cells; the first cell is the name of the figure. What no run has is left out.
    """
    columns = list(dict.fromkeys(column for result in results for column in result.scores))
    shown = [column for column in columns if column in CASE_METRICS or metric_of(column) == "dice"]
    shown.sort(key=lambda column: metric_of(column) != "dice")  # Dice and its classes first
    single = sum(metric_of(column) == "dice" for column in shown) == 2  # the mean over one class is that class
    rows = [_row("parameters", results, lambda r: f"{r.parameters:,}")]
    rows += [_score_row(column, results) for column in shown if column in CASE_METRICS or not single]
    rows += classification_rows(results)
    rows.append(_row("training step (ms)", results, lambda r: None if r.step_ms is None else f"{r.step_ms:.1f}"))
    rows.append(_row("training (min)", results, lambda r: None if r.train_s is None else minutes(r.train_s)))
    for kind in dict.fromkeys(kind for result in results for kind in result.peak_mib):
        rows.append(_row(f"peak {kind} memory (MiB)", results, lambda r, k=kind: _megabytes(r, k)))
    return [row for row in rows if any(cell != NOT_KNOWN for cell in row[1:])]


def direction(results: Sequence[RunResult]) -> str:
    """Return which of the metrics at hand are better when larger and which when smaller, as a sentence for captions.

    Args:
        results: The runs.
    """
    classified = any(result.classified for result in results)
    found = [metric for metric in CASE_METRICS if any(metric in result.scores for result in results)]
    if classified and not found:
        return "more is better, but of the calibration error less."
    names = {
        better: [METRICS.get(m, (m, ""))[0] for m in found if CASE_METRICS[m] is better] for better in (True, False)
    }
    clauses = [f"{word} is better for {' and '.join(names[better])}" for better, word in _WORDS if names[better]]
    clauses += ["of classifications more is better, but of the calibration error less"] if classified else []
    return f"{'; '.join(clauses)}." if clauses else ""


def scores_caption(results: Sequence[RunResult]) -> str:
    """Return what the rows of test scores are, as the caption of their table.

    Args:
        results: The runs.
    """
    counts = sorted({len(result.subjects) for result in results if result.subjects})
    if not counts:
        return "No run has been tested."
    means = "are means ± standard deviations " if any(result.scores for result in results) else ""
    cases = f"{' or '.join(map(str, counts))} {'case' if counts == [1] else 'cases'}"
    return f"Test scores {means}over {cases}; {direction(results)}".rstrip("; ")


def minutes(seconds: float) -> str:
    """Return seconds as minutes, of which short runs keep a digit."""
    found = seconds / 60
    return f"{found:.1f}" if found >= 0.05 or not found else f"{found:.1g}"


def origin_rows(results: Sequence[RunResult]) -> Cells:
    """Return what each run was made of: seed, data, schedule, machine and versions.

    Args:
        results: The runs, one column each.
    """
    rows: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        ("seed", lambda m: m.get("seed")),
        ("data (SHA-256)", lambda m: str(m.get("data", {}).get("hash") or "")[:12]),
        ("cases to train, validate, test", _split),
        ("epochs", lambda m: m.get("epochs")),
        ("steps", lambda m: m.get("steps")),
        ("processor", lambda m: m.get("hardware", {}).get("cpu")),
        ("cores", lambda m: m.get("hardware", {}).get("cores")),
        ("GPUs", lambda m: (", ".join(m["hardware"].get("gpus", [])) or "none") if m.get("hardware") else ""),
        ("git commit", _commit),
    ]
    packages = dict.fromkeys(name for result in results for name in result.manifest.get("versions", {}))
    rows += [(name, lambda m, name=name: m.get("versions", {}).get(name)) for name in packages]
    shown = [
        [name, *(NOT_KNOWN if (cell := get(result.manifest)) in (None, "") else str(cell) for result in results)]
        for name, get in rows
    ]
    return [row for row in shown if any(cell != NOT_KNOWN for cell in row[1:])]


def _row(name: str, results: Sequence[RunResult], cell: Callable[[RunResult], str | None]) -> list[str]:
    return [name, *(cell(result) or NOT_KNOWN for result in results)]


def _score_row(column: str, results: Sequence[RunResult]) -> list[str]:
    metric = metric_of(column) or column
    name, form = METRICS.get(metric, (metric, ".3g"))
    group = column.removeprefix(metric).lstrip("_")

    def cell(result: RunResult) -> str | None:
        if column not in result.scores or not result.finite(column):
            return None
        return result.show(column, form)

    return _row(f"{name}, {group}" if group else name, results, cell)


def _megabytes(result: RunResult, kind: str) -> str | None:
    return f"{result.peak_mib[kind]:,.0f}" if kind in result.peak_mib else None


def _commit(manifest: dict[str, Any]) -> str:
    """Return the commit, shortened, and whether files had been changed."""
    commit, _, changed = str(manifest.get("git_commit", {}).get("lightning_pocket") or "").partition("-")
    return f"{commit[:12]}-{changed}" if changed else commit[:12]


def _split(manifest: dict[str, Any]) -> str:
    split = manifest.get("data", {}).get("split", {})
    return ", ".join(str(len(split.get(part, []))) for part in ("train", "val", "test")) if split else ""
