"""What a comparison of runs comes to, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_pocket.storage import read_json

from .activity import is_active
from .classified import Classified
from .collect import RunResult, metric_of
from .comparison import Comparison
from .statistics import differences_of
from .statistics_tables import metric_name, show_interval, show_p
from .tested import read_tested, what_was_changed

#: Below this many cases a difference may well be chance.
_FEW_CASES = 20
_EXAMPLES = 3
_SAME = 0.0005  # differences that three digits do not show


def sentences(results: Sequence[RunResult]) -> list[str]:
    """Return one sentence for each run: its Dice and size, and how it differs from the first.

    Args:
        results: The runs; the first is what the others are compared with.
    """
    first = results[0]
    return [_sentence(first), *(_sentence(result, first) for result in results[1:])]


def verdicts(comparisons: Sequence[Comparison], confidence: float = 0.95) -> list[str]:
    """Return one sentence for each run: whether it is no worse than its reference in the main metric.

    Args:
        comparisons: What was compared; of each run the first metric with a margin counts.
        confidence: Share of the resampled means in the intervals.
    """
    main: dict[tuple[str, str], Comparison] = {}
    for comparison in comparisons:
        if comparison.non_inferior is not None or comparison.doubt:
            main.setdefault((comparison.name, comparison.reference), comparison)
    return [_verdict(comparison, confidence) for comparison in main.values()]


def _verdict(comparison: Comparison, confidence: float) -> str:
    name, reference = comparison.name, comparison.reference
    metric, margin = metric_name(comparison.metric), comparison.margin or 0.0
    interval = f"{100 * confidence:g} % interval of the difference {show_interval(comparison)}"
    found = f"({interval}{_tested(comparison)})"
    if comparison.non_inferior:
        return f"{name} is no worse than {reference} within {margin:g} {metric} {found}."
    if comparison.doubt:
        within = f"within {margin:g} {metric}"
        return f"No verdict on whether {name} is no worse than {reference} {within}: {comparison.doubt} {found}."
    if comparison.is_worse:
        return f"{name} is worse than {reference} by {margin:g} {metric} or more {found}."
    return f"{name} is not shown to be no worse than {reference} within {margin:g} {metric} {found}."


def _tested(comparison: Comparison) -> str:
    """Return the p value as part of a sentence, empty where there is none."""
    return "" if math.isnan(comparison.p_holm) else f"; p {show_p(comparison.p_holm)} of a difference, after Holm"


def caveats(results: Sequence[RunResult]) -> list[str]:
    """Return what a reader must know before believing the comparison; empty where nothing stands against it.

    Args:
        results: The runs.
    """
    found = list(filter(None, map(_progress, results)))
    tested = [result for result in results if result.subjects]
    for result in tested:
        found += filter(None, (what_was_changed(result.path), _not_finite(result), _one_class(result)))
    if len({frozenset(result.subjects) for result in tested}) > 1:
        found.append("The runs were not tested on the same cases: their means cannot be compared directly.")
    kinds = {result.name: kind for result in tested if (kind := _checkpoint(result))}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        found.append(f"The runs were tested with different kinds of checkpoints: {listed}.")
    if len({data for r in results if (data := r.manifest.get("data", {}).get("hash"))}) > 1:
        found.append("The runs were trained on differently prepared data.")
    machines = [r for r in results if r.manifest.get("hardware")]
    if any(not same_hardware(machines[0], other) for other in machines[1:]):
        found.append("The runs were trained on different machines: times and memory cannot be compared directly.")
    epochs = {r.name: r.manifest["epochs"] for r in tested if r.manifest.get("epochs") is not None}
    if len(set(epochs.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in epochs.items())
        found.append(f"The runs were trained for different numbers of epochs: {listed}.")
    few = min((len(result.subjects) for result in tested), default=_FEW_CASES)
    if len(tested) > 1 and few < _FEW_CASES:
        scored = metric_name(_first_metric(tested[0]))
        found.append(f"With {few} test {_plural(few, 'case')}, small differences in {scored} may be chance.")
    return found


def _progress(result: RunResult) -> str:
    """Return that a run goes on, was not finished, or is still to be tested; empty where all of it is done."""
    if result.manifest.get("finished") is False:
        goes_on = is_active(result.path)
        said = "goes on; the figures are those of this moment" if goes_on else "has not finished"
        return f"{result.name}: training {said}."
    return "" if result.subjects else f"{result.name}: not tested yet; run `pocket test --run_dir {result.path}`."


def _one_class(result: RunResult) -> str:
    """Return that a classification calls all images alike, which its AUC does not show; empty where it does not."""
    cases = result.classified
    if cases is None or len(set(cases.target.tolist())) < 2 or len(found := set(cases.predicted.tolist())) > 1:
        return ""
    return f"{result.name}: all {len(cases.subjects)} test images are taken for {cases.classes[found.pop()]}."


def _first_metric(result: RunResult) -> str:
    return "auc" if result.classified else next((name for name in result.scores if metric_of(name)), "scores")


def _not_finite(result: RunResult) -> str:
    """Return in which metrics some cases of a run do not count; empty where all do."""
    left_out = {metric: len(result.subjects) - len(result.finite(metric)) for metric in result.scores}
    named = [f"{metric_name(metric)} of {count}" for metric, count in left_out.items() if count]
    if not named:
        return ""
    listed = ", ".join(named[:_EXAMPLES]) + (", ..." if len(named) > _EXAMPLES else "")
    cases = f"{len(result.subjects)} {_plural(len(result.subjects), 'case')}"
    return f"{result.name}: {listed} of {cases} is not a finite number; means and differences leave such cases out."


def _checkpoint(result: RunResult) -> str:
    """Return which checkpoint was tested, of a cross-validation in all folds; empty where that is not recorded."""
    record = result.path / "crossval.json"
    content = read_json(record) if record.is_file() else read_tested(result.path)
    return str(content.get("checkpoint") or "")


def same_hardware(first: RunResult, second: RunResult) -> bool:
    """Whether both runs were trained on the same kind of processor, as many cores and the same GPUs."""
    found = [result.manifest.get("hardware", {}) for result in (first, second)]
    return all(found[0].get(key) == found[1].get(key) for key in ("cpu", "cores", "gpus"))


def _sentence(result: RunResult, first: RunResult | None = None) -> str:
    size, score = f"{result.parameters:,} parameters", _score(result)
    if first is not None and first.parameters:
        size += f", {_share(result.parameters / first.parameters)} {first.name}'s"
    said = f"{score} with {size}" if score else f"a network with {size}; not tested"
    if first is None:
        return f"{result.name}: {said}."
    clauses = [said, _accuracy(result, first)]
    if same_hardware(first, result):
        clauses += [_time(result, first), _memory(result, first)]
    return f"{result.name}: {'; '.join(clause for clause in clauses if clause)}."


def _score(result: RunResult) -> str:
    """Return the main score of a run; empty where it has not been tested."""
    if result.classified:
        auc = result.classified.scores["auc"]
        return f"AUC {auc:.3f}" if math.isfinite(auc) else "AUC not defined"
    dice = result.mean("dice") if "dice" in result.scores else None
    return "" if dice is None else f"Dice {dice:.3f}" if math.isfinite(dice) else "Dice not defined"


def _classified(cases: Classified, other: Classified, name: str) -> str:
    """Return how the AUC differs from that of the run called ``name``, and how many images only one has right."""
    if cases.subjects != other.subjects or cases.classes != other.classes:
        return ""
    difference = cases.scores["auc"] - other.scores["auc"]
    if not math.isfinite(difference):
        return ""
    if abs(difference) < _SAME:
        said = "the same AUC to three digits"
    else:
        said = f"AUC {abs(difference):.3f} {'lower' if difference < 0 else 'higher'}"
    right, wrong = cases.predicted == cases.target, other.predicted != other.target
    gained, lost = int((right & wrong).sum()), int((~right & ~wrong).sum())
    images = f"{gained} test {_plural(gained, 'image')}"
    return f"{said}; right in {images} that {name} gets wrong, and wrong in {lost} that it gets right"


def _accuracy(result: RunResult, first: RunResult) -> str:
    if result.classified and first.classified:
        return _classified(result.classified, first.classified, first.name)
    mine, other = result.by_case("dice"), first.by_case("dice")
    if not mine or mine.keys() != other.keys():
        return ""
    differences = differences_of([other[subject] for subject in mine], list(mine.values()))
    if not len(differences):
        return ""
    difference, cases = float(differences.mean()), len(differences)
    lower, higher = int((differences < 0).sum()), int((differences > 0).sum())
    if abs(difference) < _SAME:
        return f"the same Dice to three digits, lower in {lower} and higher in {higher} of {cases} test cases"
    word, count = ("lower", lower) if difference < 0 else ("higher", higher)
    return f"Dice {abs(difference):.3f} {word}, and {word} in {count} of {cases} test {_plural(cases, 'case')}"


def _time(result: RunResult, first: RunResult) -> str:
    if result.step_ms is None or not first.step_ms:
        return ""
    ratio = result.step_ms / first.step_ms
    if abs(ratio - 1) < 0.005:
        return "steps take the same time"
    if ratio >= 2:
        return f"steps take {ratio:.1f} times as long"
    return f"steps take {_percent(abs(1 - ratio))} {'less' if ratio < 1 else 'more'} time"


def _memory(result: RunResult, first: RunResult) -> str:
    """Return how the peak memory differs, of the GPU where there is one."""
    for kind, peak in result.peak_mib.items():
        if first.peak_mib.get(kind):
            ratio = peak / first.peak_mib[kind]
            if abs(ratio - 1) < 0.005:
                return f"peak {kind} memory the same"
            return f"peak {kind} memory {_percent(abs(1 - ratio))} {'lower' if ratio < 1 else 'higher'}"
    return ""


def _share(fraction: float) -> str:
    """Return ``8.4 % of``, or ``12 times`` of a network that is the larger one."""
    return f"{fraction:.0f} times" if fraction >= 10 else f"{_percent(fraction)} of"


def _percent(fraction: float) -> str:
    percent = 100 * fraction
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.2g} %"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
