"""What commands print at their end: what came out, what it took, and what to do next."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning_pocket.storage import load_yaml, read_json
from lightning_pocket.types import CASE_METRICS

from .collect import RunResult, read_run
from .durations import show_duration
from .tested import read_tested

#: Last part of the names of the metrics of ``PeakMemory`` -> what is measured.
_MEASURED = {"peak_cuda_mib": "on the GPU", "peak_rss_mib": "resident in the process"}
_KINDS = {"GPU": "peak_cuda_mib", "process": "peak_rss_mib"}


@dataclass(frozen=True)
class Summary:
    """A few rows and the commands that come next.

    Args:
        rows: Name and value; rows without a value are left out.
        commands: Arguments of ``pocket`` that can be run as they are.
        note: Said instead of a command.
    """

    rows: Mapping[str, str]
    commands: Sequence[Sequence[str]] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        shown = {name: value for name, value in self.rows.items() if value}
        width = max(map(len, shown), default=0)
        lines = [f"  {name:<{width}}  {value}" for name, value in shown.items()]
        if self.commands or self.note:
            lines += ["next:", *([f"  {self.note}"] if self.note else [])]
        lines += [f"  {shlex.join(['pocket', *command])}" for command in self.commands]
        return "\n".join(lines)


def summarize_training(run: Path) -> Summary:
    """Return what a training left in its folder.

    Args:
        run: The run folder.

    Raises:
        PocketError: If it holds no run.
    """
    result = read_run(run)
    manifest = result.manifest
    epochs = int(manifest.get("epochs", 0))
    rows = {
        "run folder": str(run),
        "network": _network(run, result.parameters),
        "best score": _best(manifest, epochs),
        "last score": _last(result),
        "peak memory": _training_memory(result),
        "wall time": "" if result.train_s is None else f"{show_duration(result.train_s)} for {_count(epochs, 'epoch')}",
    }
    held_out = manifest.get("data", {}).get("split", {}).get("test", True)
    test = [["test", f"--run_dir={run}"]] if held_out else []
    sparse = [["shrink", str(run), f"--output={run}.shrunk"]] if _is_sparse(run) else []
    note = "" if held_out else "No case is held out for a test."
    return Summary(rows, [*test, *sparse, ["report", str(run)]], note)


def _is_sparse(run: Path) -> bool:
    """Whether a run has learned which kernels it can do without."""
    log = run / "metrics.csv"
    if not log.is_file():
        return False
    with log.open(encoding="utf-8", newline="") as file:
        return "sparsity/alive" in next(csv.reader(file), [])


def summarize_test(run: Path) -> Summary:
    """Return what a test left in the folder of its run.

    Args:
        run: The run folder.

    Raises:
        PocketError: If it holds no run.
    """
    result, tested = read_run(run), read_tested(run)
    manifest, checkpoint = result.manifest, str(tested.get("checkpoint", ""))
    epochs, best = int(manifest.get("epochs", 0)), manifest.get("best_epoch")
    epoch = {"last": epochs, "best": best}.get(checkpoint)
    measured = {name: result.costs.get(f"profile/test_{name}", []) for name in _MEASURED}
    peaks = {name: curve[-1][1] for name, curve in measured.items() if curve}
    seconds = tested.get("seconds")
    rows = {
        "run folder": str(run),
        "tested": checkpoint + (f", epoch {epoch} of {epochs}" if epoch else ""),
        "scores": _scores(result),
        "best score": _best(manifest, epochs),
        "network": _network(run, result.parameters),
        "peak memory": show_memory(peaks),
        "wall time": "" if seconds is None else f"{show_duration(seconds)} for {_cases(result)}",
    }
    other = {"last": "best", "best": "last"}.get(checkpoint)
    differs = other is not None and best is not None and best != epochs
    again = [["test", f"--run_dir={run}", f"--ckpt_path={other}"]] if differs else []
    return Summary(rows, [["report", str(run)], *again])


def summarize_folds(folder: Path, seconds: float, following: Sequence[Sequence[str]]) -> Summary:
    """Return what a cross-validation left in its folder.

    Args:
        folder: Folder of a cross-validation.
        seconds: How long the command took.
        following: What to do next, as arguments of ``pocket``.

    Raises:
        PocketError: If it holds none with a fold that is done.
    """
    record, result = read_json(folder / "crossval.json"), read_run(folder)
    done = [read_json(folder / run["run"] / "manifest.json") for run in record["runs"].values()]
    trained = "" if result.train_s is None else f"; training took {show_duration(result.train_s)} in all"
    rows = {
        "run folder": str(folder),
        "folds": f"{len(done)} of {len(record['folds'])} done, {record['checkpoint']} checkpoints tested",
        "scores": _scores(result),
        "best scores": _best_of_folds(done),
        "network": _network(folder / next(iter(record["runs"].values()))["run"], result.parameters),
        "peak memory": _training_memory(result),
        "wall time": f"{show_duration(seconds)}{trained}",
    }
    return Summary(rows, following)


def show_memory(peaks: Mapping[str, float]) -> str:
    """Return peaks of memory in words, and of what they are.

    Args:
        peaks: Peaks in MiB: ``peak_cuda_mib`` or ``peak_rss_mib``; others are left out.
    """
    return ", ".join(f"{mib:,.0f} MiB {_MEASURED[name]}" for name, mib in peaks.items() if name in _MEASURED)


def _training_memory(result: RunResult) -> str:
    return show_memory({_KINDS[kind]: mib for kind, mib in result.peak_mib.items()})


def _network(run: Path, parameters: int) -> str:
    """Return the name of the network's class, where the folder tells it, and its size."""
    config = run / "config.yaml"
    settings = load_yaml(config.read_text(encoding="utf-8")) if config.is_file() else {}
    network = ((settings.get("model") or {}).get("init_args") or {}).get("network") or {}
    name = str(network.get("class_path", "")).rpartition(".")[2]
    return f"{name}, {parameters:,} parameters".removeprefix(", ")


def _best(manifest: Mapping[str, Any], epochs: int) -> str:
    """Return the score of ``best.ckpt``, which runs of earlier versions have not recorded."""
    epoch, score = manifest.get("best_epoch"), manifest.get("best_score")
    if epoch is None:
        return ""
    value = f"{manifest['best_monitor']} {score:.4f}, " if score is not None else ""
    return f"{value}epoch {epoch} of {epochs}"


def _best_of_folds(manifests: Sequence[Mapping[str, Any]]) -> str:
    scored = [m for m in manifests if m.get("best_score") is not None]
    if not scored:
        return ""
    scores, epochs = ([m[key] for m in scored] for key in ("best_score", "best_epoch"))
    when = f"epochs {min(epochs)} to {max(epochs)}" if min(epochs) < max(epochs) else f"epoch {epochs[0]}"
    return f"{scored[0]['best_monitor']} {min(scores):.4f} to {max(scores):.4f}, {when}"


def _last(result: RunResult) -> str:
    name = result.manifest.get("best_monitor")
    curve = result.curves.get(str(name))
    return f"{name} {curve[-1][1]:.4f}, epoch {curve[-1][0]:.0f}" if curve else ""


def _scores(result: RunResult) -> str:
    """Return the main score over all tested cases."""
    if result.classified is not None:
        scores = result.classified.scores
        return f"AUC {scores['auc']:.4f}, accuracy {scores['accuracy']:.4f}, {_cases(result)}"
    main = next(iter(CASE_METRICS))
    values = result.finite(main) if main in result.scores else []
    return f"Dice {fmean(values):.4f} ± {result.spread(main):.4f}, {_cases(result)}" if values else ""


def _cases(result: RunResult) -> str:
    return _count(len(result.subjects), "case" if result.classified is None else "image")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
