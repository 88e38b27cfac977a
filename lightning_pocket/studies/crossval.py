"""What a cross-validation is: its folder, its folds, and the runs that it consists of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_pocket.data.cache import read_dataset
from lightning_pocket.data.folds import Assignment, read_folds
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.tested import is_tested
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import read_json

from .jobs import Job
from .run_settings import check_data, check_settings, with_options

RECORD = "crossval.json"
CASES = "cases.csv"
#: What decides the fold of a run; the command sets it.
FOLD_KEY = "data.init_args.split.fold"
#: How to mend folds with other settings.
MEND = (
    "Give the same settings to continue, --run_dir for a cross-validation of its own, or --fresh to start every fold "
    "over."
)
#: Held by a process that starts all over, as long as it works; says since when.
FRESH_LOCK = ".fresh.lock"
_FILES = (RECORD, CASES, "postprocessing.json", FRESH_LOCK)
_OWN = re.compile(rf"\.?fold_\d+(\.log|\.lock)?|{'|'.join(map(re.escape, _FILES))}")


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
    def name(self) -> str:
        """What the user is told of it as."""
        return f"fold {self.number}"

    @property
    def run(self) -> RunFolder:
        """The run that holds the fold out."""
        return RunFolder(self.folder / f"fold_{self.number}")

    @property
    def log(self) -> Path:
        """What the commands of the fold print."""
        return self.folder / f"fold_{self.number}.log"

    @property
    def cases(self) -> Path:
        """Scores of the cases of the fold."""
        return self.run.path / "test" / "cases.csv"

    def manifest(self) -> dict[str, Any]:
        """Return what the run recorded of itself, nothing where it has not begun."""
        content: dict[str, Any] = read_json(self.run.manifest) if self.run.manifest.is_file() else {}
        return content


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
        since: When the start-over began (UTC, ISO 8601): wanted folds that were trained earlier do not count.
    """

    folder: Path
    options: tuple[str, ...]
    checkpoint: str
    settings: dict[str, Any]
    folds: tuple[int, ...]
    wanted: tuple[int, ...]
    expected: dict[str, int] | None
    fresh: bool = False
    since: str = ""

    @property
    def command(self) -> list[str]:
        """The arguments of ``pocket`` that continue all of it, and start nothing over."""
        own = [f"--run_dir={self.folder}", f"--folds={len(self.folds)}", f"--checkpoint={self.checkpoint}"]
        return ["crossval", *own, *self.options]

    def fold(self, number: int) -> Fold:
        """Return one fold."""
        return Fold(self.folder, number)

    def settings_of(self, number: int) -> dict[str, Any]:
        """Return every setting of the run of a fold."""
        return with_options(self.settings, {FOLD_KEY: number})

    def job(self, number: int) -> Job:
        """Return the work on a fold."""
        fold = self.fold(number)
        commands, is_done = partial(self.commands, number), partial(self.is_done, number)
        return Job(fold.name, fold.run.path, fold.log, commands, is_done)

    def commands(self, number: int) -> list[list[str]]:
        """Return the arguments of ``pocket`` that train a fold, unless it is trained, and test it."""
        run = f"--run_dir={self.fold(number).run.path}"
        quiet = "--trainer.enable_progress_bar=false"
        fresh = ["--fresh"] if self.fresh else []
        fit = ["fit", *self.options, quiet, run, f"--{FOLD_KEY}={number}", *fresh]
        test = ["test", run, f"--ckpt_path={self.checkpoint}", "--config=prediction_files", quiet, *self._raw()]
        return [test] if self._is_trained(number) else [fit, test]

    def is_done(self, number: int) -> bool:
        """Whether a fold is trained, and tested with the weights of that training as the plan says."""
        run = self.fold(number).run.path
        return self._is_trained(number) and is_tested(run, self.checkpoint, self.settings)

    def _is_trained(self, number: int) -> bool:
        fold = self.fold(number)
        since = self.since if number in self.wanted else ""
        return fold.run.finished and str(fold.manifest().get("finished_at")) >= since

    def _raw(self) -> list[str]:
        """Return the option that undoes what ``pocket postprocess`` has chosen, where the task knows it."""
        task = (self.settings.get("model") or {}).get("init_args") or {}
        key = "largest_component"
        return [f"--model.init_args.{key}={json.dumps(task[key])}"] if key in task else []


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
    """Refuse a folder that holds something else, or folds with other settings or of other data.

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
        if not (plan.fresh and number in plan.wanted):
            run, settings = plan.fold(number).run, plan.settings_of(number)
            check_settings(run, settings, MEND)
            check_data(run, settings)


def _is_own(name: str) -> bool:
    return bool(_OWN.fullmatch(name)) or name.endswith(".partial")
