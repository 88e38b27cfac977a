"""The trained networks of studies and runs, with the penalty that each was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_run
from lightning_pocket.reports.shrinking import RECORD, Shrinking, read_shrinking
from lightning_pocket.reports.statistics_tables import scores_of
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import read_json
from lightning_pocket.sweeps.read import read_sweep
from lightning_pocket.sweeps.record import COPY
from lightning_pocket.sweeps.shrunk import score_of, shrunk_run

_CALLBACK = "StructuredSparsity"
_KINDS = {"KernelNumber": "learned widths", "KernelSize": "learned sizes"}
_WEIGHED = {"none": "", "squared_width": " (32)", "squared_size": " (33)", "multiply_adds": " by MACs"}
#: Kind of the networks that no penalty has changed, where nothing but the penalty is varied.
BASE = "no penalty"


@dataclass(frozen=True)
class Penalty:
    """How a network was made sparse.

    Args:
        regularizer: ``KernelNumber`` or ``KernelSize``.
        solver: ``proximal`` or ``subgradient``.
        strength: Alpha, as a share of ``alpha_max`` unless ``is_absolute``.
        is_absolute: Whether it is alpha itself.
        tau: Threshold of the subgradient, None where it is the default or there is none.
        complexity: What the penalty is weighed by, such as ``multiply_adds``; ``none`` where by nothing.
    """

    regularizer: str
    solver: str
    strength: float
    is_absolute: bool
    tau: float | None
    complexity: str = "none"

    @property
    def kind(self) -> str:
        """What networks with such a penalty are called."""
        weighed = _WEIGHED.get(self.complexity, f" by {self.complexity}")
        solver = "" if self.solver == "proximal" else f", {self.solver}"
        return f"{_KINDS.get(self.regularizer, self.regularizer)}{weighed}{solver}"

    @property
    def label(self) -> str:
        """Its strength, for people."""
        return f"{self.strength:g}" + (f", tau {self.tau:g}" if self.tau is not None else "")


@dataclass(frozen=True)
class Trained:
    """A network, as several runs may have trained it.

    Args:
        kind: What it has in common with others, such as ``learned widths``.
        label: What tells it from them.
        runs: The trainings.
        penalty: How it was made sparse; None where it was not.
        shrinkings: What is left of each run's network; empty without a penalty.
        made: Folders of what is left, where they are not those beside the runs.
    """

    kind: str
    label: str
    runs: tuple[Path, ...]
    penalty: Penalty | None
    shrinkings: tuple[Shrinking, ...] = ()
    made: tuple[Path, ...] = ()

    @property
    def networks(self) -> list[Path]:
        """The runs whose networks count: those that were shrunk, where there was a penalty."""
        if self.made:
            return list(self.made)
        return [shrunk_run(run) for run in self.runs] if self.penalty else list(self.runs)

    @property
    def name(self) -> str:
        """What people are told of it as."""
        return f"{self.kind} {self.label}" if self.label else self.kind

    def scores(self, metric: str) -> list[float]:
        """Return a test metric of each run.

        Raises:
            PocketError: If one was not tested, or has none of this name.
        """
        return [_score(run, metric) for run in self.networks]

    def score(self, metric: str) -> float:
        """Return the mean of a test metric over the runs."""
        return fmean(self.scores(metric))


def find_trained(folders: Sequence[Path]) -> tuple[list[Trained], list[str]]:
    """Return the networks of studies and runs.

    Args:
        folders: Of studies (``pocket sweep``), or of runs.

    Returns:
        The networks, and why others are left out.

    Raises:
        PocketError: If a folder holds neither.
    """
    found: list[Trained] = []
    left_out: list[str] = []
    for folder in folders:
        if (folder / COPY).is_file():
            own, more = _of_study(folder)
            found, left_out = [*found, *own], [*left_out, *more]
        elif (folder / RECORD).is_file():
            own, more = _of_shrunk(folder)
            found, left_out = [*found, *own], [*left_out, *more]
        elif (folder / "manifest.json").is_file():
            settings = _settings(folder)
            own, more = _shrunk([_trained([folder], settings, BASE, folder.name)], [])
            found, left_out = [*found, *own], [*left_out, *more]
        else:
            raise PocketError(f"{folder}: holds neither a study nor a run. Name what `pocket sweep` or `fit` wrote.")
    return found, left_out


def _of_shrunk(folder: Path) -> tuple[list[Trained], list[str]]:
    """Return what `pocket shrink` wrote, whatever its name; the run before tells the penalty and the kernels."""
    origin = Path(read_json(folder / RECORD).get("shrunk_from", {}).get("checkpoint", ""))
    run = origin.parent.parent
    if not (origin.is_file() and RunFolder(run).config.is_file()):
        return [], [f"{folder}: was made of {origin}, which is not there; the kernels before are drawn too"]
    settings = _settings(run)
    if _penalty(settings) is None:
        return [], [f"{folder}: was made of {run}, which was trained without a penalty"]
    return _shrunk([replace(_trained([run], settings, BASE, run.name), made=(folder,))], [])


def _of_study(folder: Path) -> tuple[list[Trained], list[str]]:
    sweep = read_sweep(folder / COPY, is_record=True)
    parts = [part for part, _ in sweep.places()]
    named = {
        entry.option or key: sweep.space.short[key]
        for key, entry in sweep.space.parameters.items()
        if entry.type != "config"
    }
    trials: dict[tuple[Path, ...], Mapping[str, Any]] = {}
    left_out: list[str] = []
    for trial in sorted((folder / "trials").glob("[0-9]*")):
        if not trial.suffix:  # that of a shrunk network
            runs = tuple(trial / part for part in parts)
            if all(RunFolder(run).finished for run in runs):
                trials[runs] = _settings(runs[0])
            else:
                left_out.append(f"{trial}: was not trained to its end")
    free = [settings for settings in trials.values() if _penalty(settings) is None]
    varied = [key for key in named if len({str(_value(settings, key)) for settings in free}) > 1]
    kind = f"chosen {', '.join(named[key] for key in varied)}" if varied else BASE
    found = []
    for runs, settings in trials.items():
        label = ", ".join(str(_value(settings, key)) for key in varied)
        found.append(_trained(runs, settings, kind, label))
    return _shrunk(found, left_out)


def _trained(runs: Sequence[Path], settings: Mapping[str, Any], kind: str, label: str) -> Trained:
    penalty = _penalty(settings)
    if penalty is None:
        return Trained(kind, label, tuple(runs), None)
    return Trained(penalty.kind, penalty.label, tuple(runs), penalty)


def _shrunk(found: Sequence[Trained], left_out: Sequence[str]) -> tuple[list[Trained], list[str]]:
    """Add what is left of networks that were made sparse; leave out those that were not shrunk."""
    kept, others = [], list(left_out)
    for entry in found:
        missing = [made for made in entry.networks if entry.penalty and not (made / RECORD).is_file()]
        if missing:
            run = entry.runs[entry.networks.index(missing[0])]
            others.append(f"{run}: has zeros that were not removed; `pocket shrink {run} --output {missing[0]}` does")
            continue
        kept.append(replace(entry, shrinkings=tuple(map(read_shrinking, entry.networks))) if entry.penalty else entry)
    return kept, others


def _settings(run: Path) -> dict[str, Any]:
    file = RunFolder(run).config
    try:
        found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise PocketError(f"{file}: cannot be read ({' '.join(str(error).split())}).") from error
    return found


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted option; None where the settings have none."""
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _penalty(settings: Mapping[str, Any]) -> Penalty | None:
    callbacks = (settings.get("trainer") or {}).get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if str(callback.get("class_path", "")).rpartition(".")[2] == _CALLBACK:
            own = callback.get("init_args") or {}
            absolute, relative = own.get("alpha"), own.get("alpha_relative")
            return Penalty(
                str(own["regularizer"]["class_path"]).rpartition(".")[2],
                str(own.get("solver", "proximal")),
                float((relative or 0.0) if absolute is None else absolute),
                absolute is not None,
                own.get("tau"),
                str((own["regularizer"].get("init_args") or {}).get("complexity", "none")),
            )
    return None


def _score(run: Path, metric: str) -> float:
    result = read_run(run)
    value = score_of(result, metric)
    if value is None:
        known = ", ".join([*result.scores, *scores_of(result)])
        said = f"expected one of {known}" if known else f"it was not tested; `pocket test --run_dir {run}` scores it"
        raise PocketError(f"{run}: has no score {metric!r}, {said}.")
    return value
