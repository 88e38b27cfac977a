"""What a cross-validation is: its folder, its folds, and the runs that it consists of."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_pocket.data.cache import read_dataset
from lightning_pocket.data.folds import Assignment, read_folds
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import program
from lightning_pocket.locks import FileLock
from lightning_pocket.run_folder import RunFolder, show_differences
from lightning_pocket.storage import read_json, write_json

RECORD = "crossval.json"
CASES = "cases.csv"
#: What decides the fold of a run; the command sets it.
FOLD_KEY = "data.init_args.split.fold"
_OWN = re.compile(rf"\.?fold_\d+(\.log|\.json|\.lock)?|{re.escape(RECORD)}|{re.escape(CASES)}|postprocessing\.json")


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation on disk.

    Args:
        folder: Folder of the cross-validation.
        number: Number of the fold.
    """

    folder: Path
    number: int

    @property
    def run(self) -> RunFolder:
        """The run that holds the fold out."""
        return RunFolder(self.folder / f"fold_{self.number}")

    @property
    def log(self) -> Path:
        """What the commands of the fold print."""
        return self.folder / f"fold_{self.number}.log"

    @property
    def lock(self) -> FileLock:
        """Held by the process that works on the fold."""
        return FileLock(self.folder / f".fold_{self.number}.lock")

    @property
    def cases(self) -> Path:
        """Scores of the cases of the fold."""
        return self.run.path / "test" / "cases.csv"

    def manifest(self) -> dict[str, Any]:
        """Return what the run recorded of itself, nothing where it has not begun."""
        content: dict[str, Any] = read_json(self.run.manifest) if self.run.manifest.is_file() else {}
        return content

    def record(self) -> dict[str, Any]:
        """Return what :meth:`finish` recorded, nothing where the fold is not done."""
        file = self._record_file
        content: dict[str, Any] = read_json(file) if file.is_file() else {}
        return content

    def finish(self, checkpoint: str, test_seconds: float) -> None:
        """Record that the fold is trained and tested.

        Args:
            checkpoint: ``last`` or ``best``, which was tested.
            test_seconds: How long the test took.
        """
        trained = self.manifest().get("finished_at")
        write_json(
            self._record_file,
            {"checkpoint": checkpoint, "trained": trained, "test_seconds": round(test_seconds, 3)},
        )

    def is_done(self, checkpoint: str) -> bool:
        """Whether the fold is trained, and tested with the weights of that training."""
        if not (self.run.finished and self.cases.is_file()):
            return False
        record = self.record()
        return record.get("checkpoint") == checkpoint and record.get("trained") == self.manifest().get("finished_at")

    @property
    def _record_file(self) -> Path:
        return self.folder / f"fold_{self.number}.json"


@dataclass(frozen=True)
class Plan:
    """A cross-validation as it was asked for.

    Args:
        folder: Its folder.
        options: Options of ``pocket fit``.
        checkpoint: ``last`` or ``best``, which is tested.
        settings: Every setting that follows from the options.
        folds: Numbers of all folds of the data.
        wanted: Those to work on.
        expected: Fold of each case that is held out once; None where the data do not say.
        fresh: Start over.
    """

    folder: Path
    options: tuple[str, ...]
    checkpoint: str
    settings: dict[str, Any]
    folds: tuple[int, ...]
    wanted: tuple[int, ...]
    expected: dict[str, int] | None
    fresh: bool = False

    def fold(self, number: int) -> Fold:
        """Return one fold."""
        return Fold(self.folder, number)

    def commands(self, number: int) -> list[list[str]]:
        """Return the arguments of ``pocket`` that train a fold, unless it is trained, and test it."""
        trained = self.fold(number).run.finished and not self.fresh
        run = f"--run_dir={self.fold(number).run.path}"
        quiet = "--trainer.enable_progress_bar=false"
        fresh = ["--fresh"] if self.fresh else []
        fit = ["fit", *self.options, quiet, run, f"--{FOLD_KEY}={number}", *fresh]
        test = ["test", run, f"--ckpt_path={self.checkpoint}", "--config=prediction_files", quiet]
        return [test] if trained else [fit, test]


def resolve_settings(options: Sequence[str]) -> dict[str, Any]:
    """Return every setting of ``pocket fit`` with these options, without training.

    Args:
        options: Options of ``pocket fit``.

    Raises:
        PocketError: If an option is wrong.
    """
    command = [*program(), "fit", *options, "--print_config"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # paths need not be ASCII
    result = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if "error: " in line] or result.stderr.splitlines()[-1:]
        raise PocketError(said[-1].partition("error: ")[2] or said[-1] if said else "pocket fit refuses the options.")
    settings: dict[str, Any] = yaml.safe_load(result.stdout)
    return settings


def find_folds(settings: Mapping[str, Any], asked: int | None) -> tuple[tuple[int, ...], dict[str, int] | None]:
    """Return the folds of the data, and the fold of each case that is held out once.

    Args:
        settings: Every setting of a run.
        asked: How many folds the user expects; None for as many as there are.

    Returns:
        The numbers of the folds; and the fold of the cases without a fixed ``split``, None where the data are not in a
        cache and have no file of folds.

    Raises:
        PocketError: If there are no folds, or not as many as asked for.
    """
    table, source = _assignments(settings)
    if table is None:
        if asked is None:
            raise PocketError("--folds: the data do not say how many folds they have. Give the number.")
        return tuple(range(asked)), None
    folds = tuple(sorted({place.fold for place in table.values() if place.fold is not None}))
    if len(folds) < 2:
        raise PocketError(
            f"{source}: has {len(folds) or 'no'} fold{'' if len(folds) == 1 else 's'}; cross-validation needs two or "
            "more. Prepare the data with --num_folds."
        )
    if asked is not None and asked != len(folds):
        raise PocketError(
            f"--folds {asked}: the data have {len(folds)} folds ({source}). Prepare them with --num_folds {asked}, or "
            "choose some of the folds with --only."
        )
    free = {name: place.fold for name, place in table.items() if place.fold is not None and place.split is None}
    return folds, free


def _assignments(settings: Mapping[str, Any]) -> tuple[dict[str, Assignment] | None, Path]:
    data = settings.get("data", {}).get("init_args", {})
    cache, split = data.get("cache"), data.get("split") or {}
    recorded = Path(cache or "") / "folds.csv"
    if cache and not recorded.is_file():
        read_dataset(Path(cache))  # says what is wrong with it
    known = read_folds(recorded) if cache else {}
    if split.get("file"):
        return read_folds(split["file"], list(known)), Path(split["file"])
    return (known, recorded) if cache else (None, Path())


def read_record(folder: Path) -> dict[str, Any]:
    """Return ``crossval.json`` of a finished cross-validation.

    Raises:
        PocketError: If the folder holds none, or folds are missing.
    """
    if not (folder / RECORD).is_file():
        raise PocketError(f"{folder}: no cross-validation here (no {RECORD}). Make one with `pocket crossval`.")
    record: dict[str, Any] = read_json(folder / RECORD)
    missing = [str(number) for number in record["folds"] if str(number) not in record["runs"]]
    if missing:
        raise PocketError(
            f"{folder}: {len(missing)} of {len(record['folds'])} folds are not done ({', '.join(missing)}). Continue "
            f"with: {record['command']}"
        )
    return record


def fold_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of the networks of all folds that were tested.

    Args:
        folder: Folder of a cross-validation.

    Raises:
        PocketError: If the folder holds none, or folds are missing.
    """
    record = read_record(folder)
    name = f"{record['checkpoint']}.ckpt"
    return [Fold(folder, number).run.last.with_name(name) for number in record["folds"]]


def check_folder(plan: Plan) -> None:
    """Refuse a folder that holds something else, or folds with other settings.

    Raises:
        PocketError: If it does.
    """
    folder = plan.folder
    if folder.exists() and not folder.is_dir():
        raise PocketError(f"--run_dir {folder}: is a file. Name a folder that is new, empty or a cross-validation.")
    foreign = [e.name for e in folder.iterdir() if not _is_own(e.name)] if folder.is_dir() else []
    if foreign and not (folder / RECORD).is_file():
        raise PocketError(
            f"--run_dir {folder}: does not look like a cross-validation, it holds {foreign[0]}. Name a folder of its "
            "own."
        )
    for number in plan.folds:
        config = plan.fold(number).run.config
        if not config.is_file() or (plan.fresh and number in plan.wanted):
            continue
        shown = show_differences(_without_fold(yaml.safe_load(config.read_text(encoding="utf-8"))), plan.settings)
        if shown:
            raise PocketError(
                f"{config.parent} was trained with other settings ({shown}). Give the same settings to continue, "
                "--run_dir for a cross-validation of its own, or --fresh to start every fold over."
            )


def _is_own(name: str) -> bool:
    return bool(_OWN.fullmatch(name)) or name.endswith(".partial")


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without what no run records, and without the fold."""
    kept = {key: value for key, value in settings.items() if key not in {"ckpt_path", "weights_only", "fresh"}}
    return _without_fold(copy.deepcopy(kept))


def _without_fold(settings: dict[str, Any]) -> dict[str, Any]:
    *path, last = FOLD_KEY.split(".")
    inner = settings
    for key in path:
        inner = inner.get(key) or {}
    inner.pop(last, None)
    return settings
