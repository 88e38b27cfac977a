"""The runs of a trial: their folders, and the commands that make them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_pocket.launch import Option, Run
from lightning_pocket.reports.tested import is_tested
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.studies.jobs import Job

from .definition import Sweep
from .measures import PROFILED, profile_table
from .parameters import Point
from .shrunk import is_shrunk, shrunk_run

_QUIET = "--trainer.enable_progress_bar=false"
_CALLBACK = "lightning_pocket.callbacks.SweepPruning"
_WANDB = "WandbRun"


@dataclass(frozen=True)
class TrialJob(Job):
    """The commands of all runs of a trial, one after the other.

    Args:
        runs: Their folders.
    """

    runs: tuple[Path, ...] = field(default=())

    @property
    def epochs(self) -> int:
        """Epochs that all runs were trained for until now."""
        return sum(Job(self.name, run, self.log, self.commands, self.is_done).epochs for run in self.runs)


@dataclass(frozen=True)
class TrialRuns:
    """The runs of a trial.

    Args:
        sweep: The study.
        folder: Its folder.
        slot: Number of the trial.
        point: Its parameters.
        more: Options of ``pocket fit`` from the command line, each in one piece.
        settings: Every setting that the trials share: where W&B is among the loggers, it is told of the trial.
    """

    sweep: Sweep
    folder: Path
    slot: int
    point: Point
    more: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people are told of it as."""
        return f"trial {self.slot}"

    @property
    def path(self) -> Path:
        """The folder of the trial, a run itself where it has one run."""
        return self.folder / "trials" / f"{self.slot:03d}"

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.folder / "logs" / f"{self.slot:03d}.log"

    @property
    def pruning(self) -> Path:
        """Where the training of its first run and the pruner leave word for each other."""
        return self.folder / "pruning" / f"{self.slot:03d}"

    @property
    def runs(self) -> list[Path]:
        """Folders of its runs."""
        return [self.path / place for place, _ in self.sweep.places()]

    def options(self) -> list[str]:
        """Return the options of ``pocket fit`` that its runs share: configs first, and last what the point says."""
        sweep = self.sweep
        given = [option.partition("=")[2] for option in self.more if option.startswith("--config=")]
        more = [option for option in self.more if not option.startswith("--config=")]
        shared = Run((*sweep.configs, *given, *sweep.space.configs(self.point)), sweep.options).argv()[1:]
        own = Run((), sweep.space.options(self.point)).argv()[1:]
        return [*shared, *more, *own]

    def commands(self, everything: bool = False) -> list[list[str]]:
        """Return the arguments of ``pocket`` that train, test, and predict the costs.

        Args:
            everything: Those that have been run too, as they can be run again: without word of a pruner.
        """
        found = []
        for place, (run, (_, options)) in enumerate(zip(self.runs, self.sweep.places(), strict=True)):
            trained = not everything and RunFolder(run).finished
            if not trained:
                # What is to be repeated has no pruner, whose word that a trial must end would still lie there.
                pruned = self._pruning_options() if place == 0 and not everything else []
                found.append([*self._fit(run, options), *self._wandb_options(run), _QUIET, *pruned])
            if not (trained and is_tested(run, self.sweep.checkpoint)):
                found.append([*self._test(run), _QUIET])
            if self.sweep.shrink:
                found += self._shrink(run, trained and not everything)
            if self._is_profiled and (everything or not profile_table(run).is_file()):
                found.append(["profile", str(run), f"--output={profile_table(run).parent}"])
        return found

    def repeated(self, folder: Path) -> list[str]:
        """Return the lines that train and test the runs of the trial again, elsewhere.

        Args:
            folder: Folder of the new runs.
        """
        found = []
        for place, options in self.sweep.places():
            run = folder / f"{self.slot:03d}" / place
            found += [shlex.join(["pocket", *line]) for line in (self._fit(run, options), self._test(run))]
        return found

    def job(self) -> TrialJob:
        """Return the work on the trial."""
        return TrialJob(self.name, self.runs[0], self.log, self.commands, self.is_done, tuple(self.runs))

    def is_done(self) -> bool:
        """Whether every run is trained, and tested with the weights of that training."""
        return all(
            RunFolder(run).finished and is_tested(run, self.sweep.checkpoint) and not self._shrink(run, True)
            for run in self.runs
        )

    @property
    def _is_profiled(self) -> bool:
        return any(metric in PROFILED for metric in self.sweep.measured)

    def _fit(self, run: Path, options: dict[str, Option]) -> list[str]:
        return ["fit", *self.options(), *Run((), options).argv()[1:], f"--run_dir={run}"]

    def _test(self, run: Path) -> list[str]:
        return ["test", f"--run_dir={run}", f"--ckpt_path={self.sweep.checkpoint}"]

    def _shrink(self, run: Path, trained: bool) -> list[list[str]]:
        """Return the commands that shrink the network of a run and test what is left, as far as they are due.

        Args:
            run: The run folder.
            trained: Whether the network is the one that may have been shrunk already.
        """
        if not self.sweep.shrink:
            return []
        made, checkpoint = shrunk_run(run), run / "checkpoints" / f"{self.sweep.checkpoint}.ckpt"
        is_made = trained and is_shrunk(made, checkpoint)
        found = [] if is_made else [["shrink", str(checkpoint), f"--output={made}", "--fresh=true"]]
        return (
            found
            if is_made and is_tested(made, "last")
            else [*found, ["test", f"--run_dir={made}", "--ckpt_path=last", _QUIET]]
        )

    def _wandb_options(self, run: Path) -> list[str]:
        """Return what a W&B logger is told, apart from what the settings say themselves."""
        point = {self.sweep.space.short[name]: value for name, value in self.point.items()}
        wanted = {
            "group": self.folder.resolve().name,
            "job_type": "trial",
            "name": " ".join([self.name, *run.relative_to(self.path).parts]),
            "config": {"trial": self.slot, "parameters": point},
        }
        return wandb_options((self.settings.get("trainer") or {}).get("logger"), wanted)

    def _pruning_options(self) -> Sequence[str]:
        pruner = self.sweep.pruner
        if pruner is None:
            return []
        own = {"folder": str(self.pruning), "monitor": pruner.metric}
        return [
            f"--trainer.callbacks+={_CALLBACK}",
            *(f"--trainer.callbacks.{key}={value}" for key, value in own.items()),
        ]


def wandb_options(given: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Return options of ``pocket fit`` that give a W&B logger arguments which it does not have yet.

    Args:
        given: The loggers of the settings: a list, one of them, or a switch.
        wanted: The arguments.

    Returns:
        The options; none where W&B is no logger.
    """
    loggers = [logger for logger in (given if isinstance(given, list) else [given]) if isinstance(logger, dict)]
    found = [logger for logger in loggers if logger["class_path"].rpartition(".")[2] == _WANDB]
    if not found:
        return []
    known = found[0].get("init_args") or {}
    missing = {key: value for key, value in wanted.items() if known.get(key) is None}
    if found[0] is loggers[-1]:  # the one that options without a number are of
        return [f"--trainer.logger.{key}={_text(value)}" for key, value in missing.items()]
    others = [logger for logger in loggers if logger is not found[0]]
    return [f"--trainer.logger={json.dumps([*others, {**found[0], 'init_args': {**known, **missing}}])}"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
