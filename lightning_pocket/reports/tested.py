"""What a run was tested with: ``test/test.json``, the only sign by which anything knows that it was tested, and how."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_pocket.storage import read_json, sha256, write_json


def forget_test(run: Path) -> None:
    """Delete the record of a test whose scores are about to be replaced.

    Args:
        run: The run folder.
    """
    _record(run).unlink(missing_ok=True)


def record_test(run: Path, tested: Mapping[str, Any]) -> None:
    """Record how the scores in ``test/cases.csv`` came about; nothing where the test has written none.

    Args:
        run: The run folder.
        tested: ``checkpoint`` (``last``, ``best`` or a path), ``largest_component``, ``changed`` (settings of the task
            that are not those of the run, in words), ``label_maps`` (whether they were written), ``seconds``, and
            what :func:`state_of` returned before the test.
    """
    if _cases(run).is_file():
        write_json(_record(run), {**tested, "cases_sha256": sha256(_cases(run))})


def state_of(run: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a test of a run depends on: when its training ended, how long it was, and the tested data.

    Args:
        run: The run folder.
        data: Hash and split of the data at hand.
    """
    manifest = _manifest(run)
    return {
        "trained": manifest.get("finished_at"),
        "epochs": manifest.get("epochs"),
        "data": data.get("hash"),
        "split": data.get("split", {}).get("test"),
    }


def read_tested(run: Path) -> dict[str, Any]:
    """Return the record of the test of a run.

    Args:
        run: The run folder.

    Returns:
        What :func:`record_test` wrote; nothing where there is no such record, the run has been trained or given other
        data since, or ``test/cases.csv`` is not what that test wrote.
    """
    if not (_record(run).is_file() and _cases(run).is_file()):
        return {}
    found: dict[str, Any] = read_json(_record(run))
    now = state_of(run, _manifest(run).get("data", {})) | {"cases_sha256": sha256(_cases(run))}
    return found if all(found.get(key) == value for key, value in now.items()) else {}


def what_was_changed(folder: Path) -> str:
    """Return that the scores in a folder are not those that its test wrote; empty where they are, or may be.

    Args:
        folder: A run, or a cross-validation, whose table of cases must hold what the tests of its folds wrote.
    """
    crossval = folder / "crossval.json"
    if crossval.is_file():
        runs = {str(fold): folder / run["run"] for fold, run in read_json(crossval).get("runs", {}).items()}
        kept = not any(map(what_was_changed, runs.values())) and _is_of_folds(folder / "cases.csv", runs)
        remedy = "cases.csv is not what the tests of its folds wrote; run `pocket crossval` again"
        return "" if kept else f"{folder}: {remedy}."
    if not (_record(folder).is_file() and _cases(folder).is_file()):
        return ""
    written = read_json(_record(folder)).get("cases_sha256")
    if written in (None, sha256(_cases(folder))):
        return ""
    return f"{folder}: test/cases.csv was changed after the test; run `pocket test --run_dir {folder}` again."


def _is_of_folds(table: Path, runs: Mapping[str, Path]) -> bool:
    """Whether each row of a cross-validation is in the table of its fold, where that is there."""
    known = {fold: {row["subject"]: row for row in _rows(_cases(run))} for fold, run in runs.items()}
    rows = [(row.pop("fold", ""), row) for row in _rows(table)]
    return all(row == known[fold].get(row["subject"]) for fold, row in rows if known.get(fold))


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def is_tested(run: Path, checkpoint: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether the scores of a run are those of its trained weights, with its own settings.

    Args:
        run: The run folder.
        checkpoint: ``last`` or ``best``, which must have been tested.
        settings: Settings of the run; None for those in its ``config.yaml``.
    """
    found = read_tested(run)
    if settings is None and (run / "config.yaml").is_file():
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    task = ((settings or {}).get("model") or {}).get("init_args") or {}
    wanted = {
        "checkpoint": checkpoint,
        "changed": "",
        "largest_component": task.get("largest_component", False),
    }
    return bool(found.get("trained")) and all(found.get(key) == value for key, value in wanted.items())


def _record(run: Path) -> Path:
    return run / "test" / "test.json"


def _cases(run: Path) -> Path:
    return run / "test" / "cases.csv"


def _manifest(run: Path) -> dict[str, Any]:
    file = run / "manifest.json"
    content: dict[str, Any] = read_json(file) if file.is_file() else {}
    return content
