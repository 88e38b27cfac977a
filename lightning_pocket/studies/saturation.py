"""How good networks are with few training cases: figure 5 of PocketNet."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Option, Run, find_config
from lightning_pocket.reports.job_progress import JobProgress
from lightning_pocket.reports.saturation_page import read_point, write_saturation
from lightning_pocket.reports.tested import is_tested
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import read_json, write_json

from .jobs import Job, places
from .run_settings import check_data, check_settings, resolve_settings, with_options
from .shared_jobs import SharedJobs

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
    cases, so that every run trains equally long. Several processes may work on the same study: each run is made by one
    of them.

    Args:
        folder: Holds the runs, their logs and the results.
        options: Options of ``pocket fit`` that all runs share.
        percents: Shares of the training cases.
        presets: Config on top of the options, one per network.
        at_once: Most runs at a time.
        checkpoint: ``last`` or ``best``, which is tested.
        metric: What is drawn; None takes the Dice, or the AUC of classifiers.

    Raises:
        PocketError: If a share, a preset or an option cannot be used.
    """

    folder: Path
    options: tuple[str, ...]
    percents: tuple[float, ...] = FRACTIONS
    presets: tuple[str, ...] = ("full", "pocket")
    at_once: int = 1
    checkpoint: str = "last"
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
            PocketError: If the folder holds a study with other options or runs with other settings or of other data,
                a run failed, or the results cannot be drawn.
        """
        saved = self._saved()
        resolved = {preset: resolve_settings(self.commands(preset, 100.0, {})[0][1:]) for preset in self.presets}
        first = resolved[self.presets[0]]
        length = epoch_length(first) if saved is None else saved
        jobs = {}
        for preset, percent in product(self.presets, self.percents):
            settings = with_options(resolved[preset], self._options(percent, length))
            jobs[preset, percent] = self._job(preset, percent, length, settings)
        if saved is None:
            write_json(self._record, {"options": list(self.options), "length": length})
        epochs = first["trainer"].get("max_epochs") or 0
        with JobProgress([job.name for job in jobs.values()], epochs if epochs > 0 else None) as progress:
            failures = SharedJobs(list(jobs.values()), places(min(self.at_once, len(jobs)), first), progress).run()
        done = [(preset, percent, job.run) for (preset, percent), job in jobs.items() if job.name not in failures]
        page = self._report(done, length) if done else None
        if page is None or failures:
            raise PocketError(
                f"{len(failures)} of {len(jobs)} runs failed ({', '.join(failures)}); the reasons are above and in the "
                "logs. The same command does what is missing."
            )
        return page

    def _job(self, preset: str, percent: float, length: dict[str, int], settings: dict[str, Any]) -> Job:
        """Return the work on a run, after making sure that what is there of it belongs to the study."""
        run = RunFolder(self.path(preset, percent))
        check_settings(run, settings, f"Give the same settings, name another folder, or delete {run.path}.")
        check_data(run, settings)
        return Job(
            run.path.name,
            run.path,
            self.folder / "logs" / f"{run.path.name}.log",
            lambda: self.commands(preset, percent, length),
            lambda: run.finished and is_tested(run.path, self.checkpoint, settings),
        )

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
        run = f"--run_dir={self.path(preset, percent)}"
        fit = Run(("no_augmentation", preset), self._options(percent, length)).argv()
        return [["fit", *self.options, *fit[1:], run], ["test", run, f"--ckpt_path={self.checkpoint}"]]

    def _options(self, percent: float, length: dict[str, int]) -> dict[str, Option]:
        """Return what tells the settings of a run from those of the network on all training cases."""
        own: dict[str, Option] = {f"data.init_args.{key}": value for key, value in length.items()}
        return own | {_SPLIT: round(percent / 100, 10)}

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

    def _report(self, done: Sequence[tuple[str, float, Path]], length: dict[str, int]) -> Path:
        points = [read_point(Path(preset).stem, percent, run) for preset, percent, run in done]
        return write_saturation(self.folder, points, self.metric, _notes(length, self.checkpoint), [self.shown])

    @property
    def shown(self) -> str:
        """The command that makes the study."""
        fractions = ",".join(f"{percent:g}" for percent in self.percents)
        own = [f"--output={self.folder}", f"--fractions={fractions}", f"--presets={','.join(self.presets)}"]
        own += [f"--jobs={self.at_once}"] if self.at_once > 1 else []
        own += [f"--checkpoint={self.checkpoint}"] if self.checkpoint != "last" else []
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


def _notes(length: dict[str, int], checkpoint: str) -> list[str]:
    sizes = " and ".join(f"{key} {value}" for key, value in length.items())
    steps = (
        f"Every run has epochs of the same length ({sizes}), however few cases it trains on."
        if length
        else "An epoch is as long as there are training cases: runs on few cases take fewer steps."
    )
    tested = f"Validation and test cases are the same in all runs; the {checkpoint} checkpoints were tested."
    return [f"Trained without augmentation. {steps} {tested}"]
