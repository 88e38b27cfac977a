"""Why a training ended before its time: ``error.json`` in the run folder, and what else the folder tells."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, write_json

from .activity import is_active
from .collect import RunResult, read_run

#: Name of the file; it is there only while the last attempt at a run has failed.
ERROR = "error.json"
_FRAMES = 8  # the last ones tell where
_LINES = 15  # of the end of a log
_NOT_OURS = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Failure:
    """Where and why a training ended.

    Args:
        where: Epoch and step, in words.
        why: One line.
        frames: The last calls before the error, the innermost last; empty where they are not known.
        log: End of the log of the process, where there is one.
    """

    where: str
    why: str
    frames: Sequence[str] = field(default_factory=list)
    log: str = ""


def record_failure(run: Path, error: BaseException, advice: BaseException | None, epoch: int, step: int) -> None:
    """Write ``error.json`` into a run folder that holds a run.

    Args:
        run: The run folder; without a manifest nothing is written, as there is no run.
        error: What ended the training.
        advice: How users can mend it; None where we do not know.
        epoch: Epoch in which it happened, counted from 0.
        step: Optimizer steps that were done.
    """
    if not (run / "manifest.json").is_file():
        return
    content = {
        "type": type(error).__name__,
        "message": str(error),
        "advice": None if advice is None else str(advice),
        "epoch": epoch,
        "step": step,
        "frames": [_frame(entry) for entry in traceback.extract_tb(error.__traceback__)[-_FRAMES:]],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(run / ERROR, content)


def read_failure(result: RunResult) -> Failure | None:
    """Return why a run ended before its time.

    Args:
        result: The run, or a cross-validation.

    Returns:
        The failure; None where the training goes on or has finished, or the folder does not say whether it has.

    Raises:
        PocketError: If ``error.json`` is damaged.
    """
    if result.manifest.get("finished") is not False or is_active(result.path):
        return None
    file = result.path / ERROR
    if not file.is_file():
        where = (
            f"after {_count(result.manifest.get('epochs'), 'epoch')} and {_count(result.manifest.get('steps'), 'step')}"
        )
        why = "It was interrupted or killed: the folder holds no error. The same command continues it."
        return Failure(where, why, [], _log(result.path))
    found = read_json(file)
    try:
        return Failure(_where(found), _why(found), [str(frame) for frame in found["frames"]], _log(result.path))
    except (LookupError, TypeError, ValueError) as error:
        raise PocketError(
            f"{file}: is not what a training that failed writes ({type(error).__name__}: {error}). Delete it."
        ) from error


def _where(found: Mapping[str, Any]) -> str:
    return f"in epoch {int(found['epoch']) + 1}, after step {int(found['step']):,}, on {_when(found['at'])}"


def _why(found: Mapping[str, Any]) -> str:
    """Return the message of an error, beginning with the advice where there is one."""
    message = " ".join(str(found["message"]).split())
    why = message if found["type"] == "PocketError" else f"{found['type']}: {message}"
    why = f"{found['advice']} ({why})" if found.get("advice") else why
    return why[:1].upper() + why[1:]


def failures_of(result: RunResult) -> dict[str, Failure]:
    """Return what ended before its time, by the name of the run: the run itself, or folds of a cross-validation.

    Args:
        result: The run, or a cross-validation.

    Raises:
        PocketError: If a record is damaged.
    """
    record = result.path / "crossval.json"
    if not record.is_file():
        failure = read_failure(result)
        return {} if failure is None else {result.name: failure}
    content, found = read_json(record), {}
    for fold in content["folds"]:
        folder = result.path / f"fold_{fold}"
        if str(fold) in content["runs"]:
            continue
        begun = (folder / "manifest.json").is_file()
        unknown = None if is_active(folder) else Failure("before its first step", "See its log.", [], _log(folder))
        failure = read_failure(read_run(folder)) if begun else unknown
        if failure is not None:
            found[f"{result.name}, fold {fold}"] = failure
    return found


def _count(number: object, noun: str) -> str:
    return f"an unknown number of {noun}s" if number is None else f"{number:,} {noun}{'' if number == 1 else 's'}"


def _when(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _log(run: Path) -> str:
    """Return the end of the log that a cross-validation or a study keeps of a run."""
    for log in (run.with_name(f"{run.name}.log"), run.parent.parent / "logs" / f"{run.name}.log"):
        if log.is_file():
            return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:])
    return ""


def _frame(entry: traceback.FrameSummary) -> str:
    """Return a call as ``file:line in function: code``, without the folder in which the packages are."""
    parts = Path(entry.filename).parts
    starts = [parts.index(name) + 1 for name in _NOT_OURS if name in parts]
    starts += [parts.index("lightning_pocket", 1)] if "lightning_pocket" in parts[1:] else []
    shown = Path(*parts[max(starts) :]) if starts else Path(*parts[-2:])
    return f"{shown.as_posix()}:{entry.lineno} in {entry.name}: {entry.line or ''}".rstrip(": ")
