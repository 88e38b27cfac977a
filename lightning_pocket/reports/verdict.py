"""What a comparison of runs comes to, in words."""

from __future__ import annotations

from collections.abc import Sequence

from .collect import RunResult

#: Below this many cases a difference may well be chance.
_FEW_CASES = 20
_SAME = 0.0005  # differences that three digits do not show


def sentences(results: Sequence[RunResult]) -> list[str]:
    """Return one sentence for each run: its Dice and size, and how it differs from the first.

    Args:
        results: The runs; the first is what the others are compared with.
    """
    first = results[0]
    return [_sentence(first), *(_sentence(result, first) for result in results[1:])]


def caveats(results: Sequence[RunResult]) -> list[str]:
    """Return what a reader must know before believing the comparison; empty where nothing stands against it.

    Args:
        results: The runs.
    """
    first, *others = results
    found = [f"{r.name}: training has not finished." for r in results if r.manifest.get("finished") is False]
    found += [f"{r.name}: not tested yet; run `pocket test --run_dir {r.path}`." for r in results if not r.scores]
    tested = [result for result in results if result.scores]
    if len({frozenset(result.subjects) for result in tested}) > 1:
        found.append("The runs were not tested on the same cases: their means cannot be compared directly.")
    if len({r.manifest.get("data", {}).get("hash") for r in results}) > 1:
        found.append("The runs were trained on differently prepared data.")
    if any(not same_hardware(first, result) for result in others):
        found.append("The runs were trained on different machines: times and memory cannot be compared directly.")
    few = min((len(result.subjects) for result in tested), default=_FEW_CASES)
    if others and few < _FEW_CASES:
        found.append(f"With {few} test {_plural(few, 'case')}, small differences in accuracy may be chance.")
    return found


def same_hardware(first: RunResult, second: RunResult) -> bool:
    """Whether both runs were trained on the same kind of processor, as many cores and the same GPUs."""
    found = [result.manifest.get("hardware", {}) for result in (first, second)]
    return all(found[0].get(key) == found[1].get(key) for key in ("cpu", "cores", "gpus"))


def _sentence(result: RunResult, first: RunResult | None = None) -> str:
    dice = f"Dice {result.mean('dice'):.3f}" if "dice" in result.scores else "not tested"
    size = f"{dice} with {result.parameters:,} parameters"
    if first is None:
        return f"{result.name}: {size}."
    clauses = [f"{size}, {_percent(result.parameters / first.parameters)} of {first.name}'s", _accuracy(result, first)]
    if same_hardware(first, result):
        clauses += [_time(result, first), _memory(result, first)]
    return f"{result.name}: {'; '.join(clause for clause in clauses if clause)}."


def _accuracy(result: RunResult, first: RunResult) -> str:
    mine, other = result.by_case("dice"), first.by_case("dice")
    if not mine or mine.keys() != other.keys():
        return ""
    difference = result.mean("dice") - first.mean("dice")
    lower = sum(mine[subject] < other[subject] for subject in mine)
    higher = sum(mine[subject] > other[subject] for subject in mine)
    if abs(difference) < _SAME:
        return f"the same Dice to three digits, lower in {lower} and higher in {higher} of {len(mine)} test cases"
    word, count = ("lower", lower) if difference < 0 else ("higher", higher)
    return f"Dice {abs(difference):.3f} {word}, and {word} in {count} of {len(mine)} test {_plural(len(mine), 'case')}"


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


def _percent(fraction: float) -> str:
    percent = 100 * fraction
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.2g} %"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
