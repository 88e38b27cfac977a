"""The part of a report that is about runs: verdict first, then what it rests on."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json
from lightning_pocket.types import CASE_METRICS

from .classification_page import add_classification
from .collect import RunResult
from .comparison import Comparison, Criteria, compare_runs, on_same_cases
from .comparison_tables import minutes
from .failures import Failure, failures_of
from .page import Page
from .report_cases import add_cases
from .report_costs import add_costs
from .run_charts import MOST_DRAWN, case_charts, difference_chart, size_chart
from .run_parts import add_curves, add_failures, add_origin, add_results, add_statistics
from .tested import read_tested
from .verdict import caveats, sentences, verdicts

_WAITING = 0.2  # share of the time that data were awaited, above which a reader should know


@dataclass(frozen=True)
class ReportedRuns:
    """Runs of a report.

    Args:
        results: The runs, with the scores of all their cases; the first is what the others are compared with.
        criteria: How the scores are compared.
        output: File of the page.
        volumes: Cases that each run shows in the viewer of volumes.
        command: The command that writes the report again.
        failures: Why runs ended before their time, by their name.
    """

    results: Sequence[RunResult]
    criteria: Criteria = field(default_factory=Criteria)
    output: Path = Path("report.html")
    volumes: int = 2
    command: str = ""
    failures: dict[str, Failure] = field(init=False)

    def __post_init__(self) -> None:
        found = {name: failure for result in self.results for name, failure in failures_of(result).items()}
        object.__setattr__(self, "failures", found)


def add_runs(page: Page, runs: ReportedRuns) -> None:
    """Add verdict, results, statistics, curves, distributions, costs, cases, failures, and how the runs were made.

    Args:
        page: Where they are added.
        runs: The runs; a page has one such part, as it has one viewer of volumes.

    Raises:
        PocketError: If something in a run folder is damaged.
    """
    shared, comparisons, note = _compared(runs.results, runs.criteria)
    _add_verdict(page, runs, comparisons, note)
    page.contents()
    if runs.failures:
        add_failures(page, runs.failures)
    add_results(page, runs.results)
    add_statistics(page, comparisons, runs.criteria)
    if len(runs.results) <= MOST_DRAWN:
        add_curves(page, runs.results)
        _add_accuracy(page, runs.results, shared)
    else:
        page.paragraph(
            f"Curves and cases of {len(runs.results)} runs cannot be told apart: name up to {MOST_DRAWN}.", "note"
        )
    add_classification(page, shared)
    add_costs(page, runs.results)
    add_cases(page, runs.results[:MOST_DRAWN], runs.volumes, runs.output)
    add_origin(page, runs.results, [*commands_of(runs.results), runs.command])


def _compared(results: Sequence[RunResult], criteria: Criteria) -> tuple[Sequence[RunResult], list[Comparison], str]:
    """Return the runs with the scores of the cases that all tested ones share, their comparison, and a note."""
    tested = [set(result.subjects) for result in results if result.subjects]
    if len(tested) > 1 and not set.intersection(*tested):
        return results, [], "The runs share no test case, so their scores are not compared."
    try:
        shared, note = on_same_cases(results, common=True)
        return shared, compare_runs(shared, criteria) if len(tested) > 1 else [], note
    except PocketError as error:  # such as runs of other classes: what each of them is can be told all the same
        return results, [], f"The runs are not compared. {error}"


def _add_verdict(page: Page, runs: ReportedRuns, comparisons: Sequence[Comparison], note: str) -> None:
    results = runs.results
    for name, failure in runs.failures.items():
        page.paragraph(f"{name}: training stopped {failure.where}. {failure.why}", "lead")
    for sentence in (*sentences(results), *verdicts(comparisons, runs.criteria.bootstrap.confidence)):
        page.paragraph(sentence, "lead")
    for result in results if len(results) <= MOST_DRAWN else []:
        page.paragraph(f"{result.name}: {what_it_is(result)}")
    alone = (
        ""
        if len(results) > 1
        else "Nothing is compared here: give the folders of several runs to set them side by side."
    )
    for remark in filter(None, (note, *caveats(results), *_hints(results), alone)):
        page.paragraph(remark, "note")


def what_it_is(result: RunResult) -> str:
    """Return what a run trained, on what and where, and how fast, as sentences.

    Args:
        result: The run.
    """
    manifest, settings = result.manifest, _settings(result.path)
    network = _last(_inner(_inner(settings, "model"), "init_args").get("network"))
    split, folds = manifest.get("data", {}).get("split", {}), _folds(result.path)
    epochs, steps = manifest.get("epochs"), manifest.get("steps")
    trained = [
        f"{network or 'a network'}",
        f"trained for {_counted(epochs, 'epoch')} ({_counted(steps, 'step')})" if epochs is not None else "",
        f"in each of {_counted(folds, 'fold')}" if folds else "",
        f"on {_counted(len(split['train']), 'case')}" if split.get("train") else "",
        f"and tested on {_counted(len(result.subjects), 'case')}" if result.subjects else "and not tested",
    ]
    hardware = manifest.get("hardware", {})
    where = ", ".join([*hardware.get("gpus", [])][:1] or [str(hardware["cpu"])] if hardware.get("cpu") else [])
    fast = [
        "" if result.step_ms is None else f"a step takes {result.step_ms:.0f} ms",
        "" if result.train_s is None else f"training took {_duration(result.train_s)}",
        *(f"peak {kind} memory {peak:,.0f} MiB" for kind, peak in result.peak_mib.items()),
    ]
    costs = ", ".join(filter(None, fast))
    on = f" On {where}: {costs}." if where and costs else f" {costs[:1].upper()}{costs[1:]}." if costs else ""
    return f"{' '.join(filter(None, trained))}.{on}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{minutes(seconds)} min"


def _folds(path: Path) -> int:
    """Return how many folds of a cross-validation are done, 0 for a run."""
    record = path / "crossval.json"
    return len(read_json(record)["runs"]) if record.is_file() else 0


def _add_accuracy(page: Page, results: Sequence[RunResult], shared: Sequence[RunResult]) -> None:
    """Add the scores of every case by class, the differences between runs, and accuracy against size."""
    tested = [result for result in results if any(metric in result.scores for metric in CASE_METRICS)]
    metrics = [metric for metric in CASE_METRICS if any(metric in result.scores for result in tested)]
    order = [result.name for result in results]
    charts = [chart for metric in metrics for chart in case_charts(tested, metric, order)]
    if not charts:
        return
    page.section("Scores of every case")
    page.charts(charts)
    paired = [result for result in shared if "dice" in result.scores and result.subjects]
    sized = [r for r in tested if "dice" in r.scores and r.finite("dice") and r.parameters]
    if len(paired) > 1:
        page.section(f"Against {paired[0].name}")
        pairs = difference_chart(paired[0], paired[1:], "dice", order)
        page.charts([*pairs, *([size_chart(sized, order)] if sized else [])])


def _hints(results: Sequence[RunResult]) -> list[str]:
    """Return what the logs of the runs warn of."""
    found = []
    for result in results:
        waited = result.costs.get("profile/data_wait_share", [])
        if waited and waited[-1][1] > _WAITING:
            found.append(f"{result.name}: {waited[-1][1]:.0%} of the training was spent waiting for data.")
        bad = [name for name, curve in result.curves.items() if not all(math.isfinite(value) for _, value in curve)]
        if bad:
            found.append(f"{result.name}: {', '.join(bad)} was not a number in some epochs.")
    return found


def commands_of(results: Sequence[RunResult]) -> list[str]:
    """Return the commands that trained and tested runs.

    Args:
        results: The runs.
    """
    lines = []
    for result in results:
        lines.append(str(result.manifest.get("command") or ""))
        tested = read_tested(result.path)
        if tested:
            checkpoint = str(tested.get("checkpoint", "last"))
            more = [] if checkpoint == "last" else [f"--ckpt_path={checkpoint}"]
            lines.append(shlex.join(["pocket", "test", f"--run_dir={result.path.as_posix()}", *more]))
    return lines


def _settings(run: Path) -> dict[str, Any]:
    file = next(
        (path for path in (run / "config.yaml", *sorted(run.glob("fold_*/config.yaml"))) if path.is_file()), None
    )
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
    except (yaml.YAMLError, UnicodeDecodeError):  # the text is shown all the same
        return {}
    return found if isinstance(found, dict) else {}


def _inner(settings: dict[str, Any], key: str) -> dict[str, Any]:
    found = settings.get(key)
    return found if isinstance(found, dict) else {}


def _last(entry: Any) -> str:
    """Return the name of the class that an entry of a config names."""
    return str(entry["class_path"]).rpartition(".")[2] if isinstance(entry, dict) and "class_path" in entry else ""


def _counted(count: Any, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
