"""How good networks are with few training cases: figure 5 of PocketNet."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Option, Run, find_config
from lightning_pocket.reports.saturation_page import read_point, write_saturation
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import read_json, write_json

from .crossval import resolve_settings
from .jobs import Job, environments, run_jobs, visible_devices

#: Shares of the training cases in PocketNet's figure 5, in percent.
FRACTIONS = (1.5, 3.0, 5.0, 10.0, 25.0, 50.0, 100.0)
_SPLIT = "data.init_args.split.train_fraction"
#: Settings of data modules that fix how many items an epoch has, whatever the number of cases.
_LENGTHS = ("patches_per_epoch", "images_per_epoch")
#: Options that the study sets itself.
_OURS = ("--run_dir", "--fresh", f"--{_SPLIT}")


@dataclass(frozen=True)
class Saturation:
    """A study in which networks are trained on growing shares of the training cases.

    Every run is ``pocket fit`` with the given options, without augmentation, followed by ``pocket test``. The shares
    are nested, and validation and test cases are the same in all runs. An epoch has as many steps as with all training
    cases, so that every run trains equally long.

    Args:
        folder: Holds the runs, their logs and the results.
        options: Options of ``pocket fit`` that all runs share.
        percents: Shares of the training cases.
        presets: Config on top of the options, one per network.
        at_once: Most runs at a time.
        metric: What is drawn; None takes the Dice, or the AUC of classifiers.

    Raises:
        PocketError: If a share, a preset or an option cannot be used.
    """

    folder: Path
    options: tuple[str, ...]
    percents: tuple[float, ...] = FRACTIONS
    presets: tuple[str, ...] = ("full", "pocket")
    at_once: int = 1
    metric: str | None = None

    def __post_init__(self) -> None:
        for percent in self.percents:
            if not 0 < percent <= 100:
                raise PocketError(f"--fractions: {percent:g} is not a percentage above 0 and up to 100.")
        if not self.percents or not self.presets:
            raise PocketError("--fractions and --presets: name at least one of each.")
        _check_presets(self.presets)
        if self.at_once < 1:
            raise PocketError(f"--jobs: is {self.at_once}, expected at least 1.")
        taken = [option for option in self.options if option.partition("=")[0] in _OURS]
        if taken:
            raise PocketError(f"{taken[0]}: is set by the study for each run; leave it out.")
        if self.folder.is_file():
            raise PocketError(f"--output {self.folder}: is a file. Name a folder.")

    def run(self) -> Path:
        """Do what is missing, and write the results of all runs.

        Returns:
            The page with the results.

        Raises:
            PocketError: If the folder holds a study with other options, a run failed, or the results cannot be drawn.
        """
        runs = {(preset, percent): self.path(preset, percent) for preset in self.presets for percent in self.percents}
        missing = {key: run for key, run in runs.items() if not _is_done(run)}
        for key in sorted(runs.keys() - missing.keys()):
            _say(f"{runs[key].name}: already trained and tested")
        saved = self._saved()
        settings = self._settings() if missing else {}
        length = epoch_length(settings) if saved is None else saved
        if saved is None:
            write_json(self._record, {"options": list(self.options), "length": length})
        jobs = [
            Job(run.name, self.commands(preset, percent, length), self.folder / "logs" / f"{run.name}.log")
            for (preset, percent), run in missing.items()
        ]
        places = environments(self.at_once, visible_devices(settings), os.cpu_count() or 1)
        run_jobs(jobs, places, _say)
        done = [(preset, percent, run) for (preset, percent), run in runs.items() if _is_done(run)]
        page = self._report(done, length) if done else None
        if page is None or len(done) < len(runs):
            failed = [run.name for run in runs.values() if not _is_done(run)]
            raise PocketError(
                f"{len(failed)} of {len(runs)} runs failed ({', '.join(failed)}); the reasons are above and in the "
                "logs. The same command does what is missing."
            )
        return page

    def path(self, preset: str, percent: float) -> Path:
        """Return the folder of a run."""
        whole, _, rest = f"{percent:.6f}".rstrip("0").partition(".")
        return self.folder / f"{Path(preset).stem}_{int(whole):03d}.{rest or '0'}"

    def commands(self, preset: str, percent: float, length: dict[str, int]) -> list[list[str]]:
        """Return the arguments of the commands that make a run.

        Args:
            preset: Config of the network.
            percent: Share of the training cases.
            length: Setting of the data that fixes the length of an epoch, if there is one.
        """
        run = self.path(preset, percent)
        options: dict[str, Option] = {f"data.init_args.{key}": value for key, value in length.items()}
        options |= {_SPLIT: round(percent / 100, 10), "run_dir": str(run)}
        fit = Run(("no_augmentation", preset), options).argv()
        return [["fit", *self.options, *fit[1:]], ["test", f"--run_dir={run}"]]

    @property
    def _record(self) -> Path:
        return self.folder / "saturation.json"

    def _saved(self) -> dict[str, int] | None:
        """Return the length of an epoch with which the study in the folder began; None where there is none."""
        if self._record.is_file():
            saved = read_json(self._record)
            if saved["options"] != list(self.options):
                raise PocketError(
                    f"--output {self.folder}: holds a study with other options ({shlex.join(saved['options'])}). Give "
                    "the same ones, or name another folder."
                )
            length: dict[str, int] = saved["length"]
            return length
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise PocketError(f"--output {self.folder}: is not empty and holds no study. Name a new folder.")
        return None

    def _settings(self) -> dict[str, Any]:
        """Return all settings of a run on all training cases, as ``pocket fit`` understands them."""
        return resolve_settings(self.commands(self.presets[0], 100.0, {})[0][1:])

    def _report(self, done: Sequence[tuple[str, float, Path]], length: dict[str, int]) -> Path:
        points = [read_point(Path(preset).stem, percent, run) for preset, percent, run in done]
        return write_saturation(self.folder, points, self.metric, _notes(length), [self.shown])

    @property
    def shown(self) -> str:
        """The command that makes the study."""
        fractions = ",".join(f"{percent:g}" for percent in self.percents)
        own = [f"--output={self.folder}", f"--fractions={fractions}", f"--presets={','.join(self.presets)}"]
        own += [f"--jobs={self.at_once}"] if self.at_once > 1 else []
        own += [f"--metric={self.metric}"] if self.metric else []
        return shlex.join(["pocket", "saturation", *own, *self.options])


def epoch_length(settings: dict[str, Any]) -> dict[str, int]:
    """Return the setting that keeps an epoch as long as with all training cases, and its value.

    Args:
        settings: All settings of a run on all training cases.

    Returns:
        Nothing where a data module of your own has no such setting: then epochs grow with the cases.

    Raises:
        PocketError: If the data cannot be opened, or its queue makes epochs of its own length.
    """
    data = settings.get("data", {}).get("init_args", {})
    if data.get("patch_source") == "queue":
        raise PocketError(
            "data.init_args.patch_source: with queue an epoch is as long as there are cases, so that small shares "
            "would be trained less. Leave `--config queue` out."
        )
    key = next((name for name in _LENGTHS if name in data), None)
    if key is None:
        return {}
    if data[key] is not None:
        return {key: int(data[key])}
    from .run_data import make_data  # torch only now

    split: dict[str, list[str]] = getattr(make_data(settings, "the options"), "record", {})["split"]
    return {key: len(split["train"])}


def _check_presets(presets: Sequence[str]) -> None:
    for preset in presets:
        find_config(preset)
    if len({Path(preset).stem for preset in presets}) < len(presets):
        raise PocketError(f"--presets {','.join(presets)}: two have the same name. Rename one of the files.")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 (a study talks to people)


def _is_done(run: Path) -> bool:
    return RunFolder(run).finished and (run / "test" / "cases.csv").is_file()


def _notes(length: dict[str, int]) -> list[str]:
    sizes = " and ".join(f"{key} {value}" for key, value in length.items())
    steps = (
        f"Every run has epochs of the same length ({sizes}), however few cases it trains on."
        if length
        else "An epoch is as long as there are training cases: runs on few cases take fewer steps."
    )
    return [f"Trained without augmentation. {steps} Validation and test cases are the same in all runs."]
