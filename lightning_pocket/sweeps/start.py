"""From a file and options to a study that trials can be taken from; what is wrong is found before the first one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import find_config, read_config
from lightning_pocket.storage import write_json, write_text

from .definition import Sweep
from .leases import GRACE_S
from .measures import check_for_task
from .parameters import Point
from .read import read_sweep
from .record import COPY, RECORD, check_key, check_storage, make_key, read_record
from .resolve import Resolved, resolve
from .runs import TrialRuns
from .study import SweepStudy
from .study_storage import JOURNAL, open_storage, redact


@dataclass(frozen=True)
class Request:
    """A study as it was asked for.

    Args:
        file: Its YAML file.
        sweep: What the file says.
        folder: Its folder.
        more: Options of ``pocket fit`` from the command line.
        url: Storage; None for the journal file.
        grace_s: Seconds without a sign of life after which a worker is taken for dead.
    """

    file: Path
    sweep: Sweep
    folder: Path
    more: tuple[str, ...]
    url: str | None = None
    grace_s: float = GRACE_S

    def runs(self, slot: int, point: Point, settings: Mapping[str, Any] | None = None) -> TrialRuns:
        """Return the runs of a trial; with every setting that trials share, a W&B logger is told of it."""
        return TrialRuns(self.sweep, self.folder, slot, point, self.more, settings or {})

    def identify(self, runs: TrialRuns) -> tuple[str, str]:
        """Return the hash of what a trial comes to, and why ``pocket fit`` would refuse it."""
        (found,) = resolve([runs.options()])
        return found.identity, found.problem

    def check(self, needs_data: bool = True) -> tuple[Resolved, list[Resolved]]:
        """Resolve points in which every parameter has each of its choices, and all points of a grid.

        Args:
            needs_data: Whether the settings must name prepared data.

        Returns:
            What the first of them comes to, which shows what all trials share; and what each point of a grid does.

        Raises:
            PocketError: If ``pocket fit`` would refuse one of them, or there is no such metric.
        """
        samples, points = self.sweep.space.samples(), self.sweep.points()
        tried = [*samples, *(point for point in points if point not in samples)]
        found = resolve([self.runs(0, point).options() for point in tried])
        for point, resolved in zip(tried, found, strict=True):
            if resolved.problem:
                shared = all(entry.problem == resolved.problem for entry in found)
                blame = self._blame(point, resolved.problem, shared)
                raise PocketError(f"{self.file}: {blame}{resolved.problem}")
        metrics = [*(objective.metric for objective in self.sweep.objectives), *self.sweep.metrics]
        metrics += [self.sweep.pruner.metric] if self.sweep.pruner else []
        for metric in metrics:
            check_for_task(metric, found[0].metrics, found[0].classifies, str(self.file))
        if needs_data:
            _check_data(found[0].settings)
        return found[0], [found[tried.index(point)] for point in points]

    def begin(self) -> SweepStudy:
        """Make the study, or join it where it is there.

        Raises:
            PocketError: If something is wrong with the file, the options, the folder or the storage, or the study began
                otherwise.
        """
        self._check_folder()
        check_storage(self.folder, self.url)
        # Of a study that cannot be trained nothing is left behind, not even a file.
        checked = self.check() if self.url is None and not (self.folder / JOURNAL).is_file() else None
        study = self.open()
        check_key(study, self.url)
        identity = self._identity()
        if study.exists:
            study.check(identity, study.study.user_attrs["settings"])  # at once, where the file was changed
            (base,) = resolve([self.runs(0, self.sweep.space.samples()[0]).options()])
            if base.problem:
                raise PocketError(f"{self.file}: {base.problem}")
            study.check(identity, base.settings)
        else:
            base, resolved = checked or self.check()
            with study.exclusive():
                origin = {"key": make_key(self.folder), "folder": str(self.folder.resolve())}
            study.begin(identity, base.settings, [entry.identity for entry in resolved], origin)
            check_key(study, self.url)  # another folder's command may have been faster
        self._record(study.name)
        return study

    def _identity(self) -> dict[str, Any]:
        """Return what makes trials comparable; of configs that only some of them take, what the files hold."""
        chosen = {name: _content(find_config(name)) for name in self.sweep.space.chosen_configs()}
        known: dict[str, Any] = {"config": json.loads(json.dumps(chosen, default=str))} if chosen else {}
        return self.sweep.identity(list(self.more)) | known

    def open(self) -> SweepStudy:
        """Return the study, which need not be there yet.

        Raises:
            PocketError: If the storage cannot be reached.
        """
        storage = open_storage(self.url, self.folder, self.grace_s)
        return SweepStudy(self.sweep, self.folder.resolve().name, self.folder, storage, self.grace_s)

    def _blame(self, point: Point, problem: str, shared: bool) -> str:
        """Return which part of the file a problem is of: the key that it names, in full or by its end, or a point.

        A problem that all points share and that names no key, such as that of a wrong ``--cache``, is of none.
        """
        named = [("space", key) for key in reversed(point)] + [("options", key) for key in self.sweep.options]
        for is_whole in (True, False):
            for part, key in named:
                wanted = key if is_whole else key.rpartition(".")[2]
                if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", problem):
                    return f"{part}: {key}: "
        return "" if shared else f"space: {self.sweep.space.show(point)}: "

    def _check_folder(self) -> None:
        """Refuse a folder that holds something else."""
        if self.folder.is_file():
            raise PocketError(f"--output {self.folder}: is a file. Name a folder.")
        own = (COPY, RECORD, JOURNAL)
        held = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        foreign = [name for name in held if not name.startswith((".", *own))]
        if foreign and not (self.folder / RECORD).is_file():
            raise PocketError(f"--output {self.folder}: does not look like a study, it holds {foreign[0]}.")

    def _record(self, name: str) -> None:
        storage = read_record(self.folder).get("storage", redact(self.url) if self.url else "")
        record = {"name": name, "file": str(self.file), "more": list(self.more), "grace_s": self.grace_s}
        write_json(self.folder / RECORD, record | {"storage": storage})
        if self.file.resolve() != (self.folder / COPY).resolve():
            write_text(self.folder / COPY, self.file.read_text(encoding="utf-8"))


def _content(config: Path) -> Any:
    """Return what a config says, with what the files say that it names in their place."""

    def filled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): filled(entry) for key, entry in value.items()}
        named = config.parent / value if isinstance(value, str) and value.endswith(".yaml") else config
        return _content(named) if named != config and named.is_file() else value

    return filled(read_config(config))


def _check_data(settings: dict[str, Any]) -> None:
    """Refuse to start without data."""
    data = (settings.get("data") or {}).get("init_args", {})
    if "cache" in data and data["cache"] is None:
        raise PocketError("--cache: is missing; name the folder of the data that `pocket prepare` wrote.")


def open_study(folder: Path, url: str | None) -> tuple[SweepStudy, tuple[str, ...]]:
    """Open the study of a folder, to look at it.

    Args:
        folder: Its folder.
        url: Storage, where it is not the journal file.

    Returns:
        The study, and the options of ``pocket fit`` that it was given.

    Raises:
        PocketError: If there is none, or it is in another storage.
    """
    if not (folder / RECORD).is_file():
        raise PocketError(
            f"{folder}: no study here (no {RECORD}). Make one with `pocket sweep FILE --output {folder}`."
        )
    check_storage(folder, url)
    record = read_record(folder)
    sweep = read_sweep(folder / COPY, is_record=True)
    storage = open_storage(url, folder, record["grace_s"])
    study = SweepStudy(sweep, record["name"], folder, storage, record["grace_s"])
    check_key(study, url)
    return study, tuple(record["more"])


def cache_option(cache: str | None) -> Sequence[str]:
    """Return the option of ``pocket fit`` that names the data."""
    return [] if cache is None else [f"--data.init_args.cache={cache}"]
