"""The folder of a run: its config, its checkpoints, and whether it may continue."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_pocket.errors import PocketError
from lightning_pocket.locks import FileLock
from lightning_pocket.storage import read_json, write_text

#: Settings that do not change what is learned: a run may continue with others.
FREE = (
    "run_dir",
    "data.init_args.num_workers",
    "data.init_args.prefetch_factor",
    "model.init_args.largest_component",
    "model.init_args.network.init_args.checkpoint_levels",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.logger",
)
#: What a run writes into its folder: only these are ever deleted.
OWN = {
    "checkpoints",
    "config.yaml",
    "error.json",
    "error_rates.csv",
    "gradient_confusion.csv",
    "gradient_confusion.json",
    "label_noise.csv",
    "manifest.json",
    "metrics.csv",
    "pictures",
    "report.html",
    "report_files",
    "tensorboard",
    "test",
    "wandb",
}
#: Held while training; it is there only then, or where a process was killed.
LOCK = ".lock"


class RunFolder:
    """One run on disk.

    ::

        config.yaml            every setting
        manifest.json          versions, seed, git commit, data, whether it finished
        error.json             why the last attempt failed, until the next one begins
        label_noise.csv        given and true class of the training images whose label was drawn, if any
        error_rates.csv        test and training errors of each epoch, with --config error_rates
        gradient_confusion.csv cosines of gradients of each epoch, with --config gradient_confusion
        metrics.csv            one row per step that logged something
        tensorboard/           the same for TensorBoard
        wandb/                 the same for W&B, with --config wandb
        checkpoints/last.ckpt  where the run continues
        checkpoints/best.ckpt  the weights with the best monitored metric
        pictures/              validation cases, image, truth and prediction
        test/cases.csv         one row per tested case
        test/classes.csv       one row per class, and confusion.csv, with --config mean_iou
        test/test.json         which weights were tested on which data
        test/pictures/         the same for tested cases
        test/roc.svg           and confusion.svg, reliability.svg, of a classification
        test/predictions/      label maps of tested cases, with --config prediction_files
        report.html            what `pocket report` wrote, and report_files/ where volumes were large
        .lock                  held while training

    Args:
        path: The folder; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.last = path / "checkpoints" / "last.ckpt"
        self.fresh = False

    @property
    def finished(self) -> bool:
        """Whether training ran to its end."""
        return not self.fresh and bool(self._manifest().get("finished")) and self.last.is_file()

    def begin(self, settings: dict[str, Any], fresh: bool = False) -> None:
        """Make sure that the folder is free, or holds an attempt at the same run.

        Args:
            settings: Every setting of the run that is about to start.
            fresh: Start over; what is there is deleted by :meth:`start`, when nothing else can be wrong any more.

        Raises:
            PocketError: If it holds a run with other settings; the differences are in the message.
        """
        self.fresh = fresh
        self._check_folder()
        if fresh or not self.config.is_file():
            return
        saved = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        shown = show_differences(saved, settings)
        if shown:
            raise PocketError(
                f"{self.path} holds a run with other settings ({shown}). Give the same settings to continue it, "
                "--run_dir for a run of its own, or --fresh to delete it and start over."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder.

        Of the processes of one training the first holds the lock; the others need none.

        Raises:
            PocketError: If another process trains here, or the folder cannot be made.
        """
        if not _is_first_process():
            yield
            return
        self._check_folder()
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            free = lock.acquire()
        except OSError as error:
            raise PocketError(
                f"--run_dir {self.path}: cannot be written ({error.strerror}). Name another folder or change its "
                "permissions."
            ) from error
        if not free:
            raise PocketError(
                f"--run_dir {self.path}: {lock.holder()} is training here. Wait until it has ended, or name another "
                "folder."
            )
        try:
            yield
        finally:
            lock.release()
            if self.path.is_dir() and not any(self.path.iterdir()):  # a start that failed leaves nothing
                self.path.rmdir()

    def _check_folder(self) -> None:
        """Refuse what cannot be the folder of a run."""
        if self.path.exists() and not self.path.is_dir():
            raise PocketError(f"--run_dir {self.path}: is a file. Name a folder that is new, empty or a run.")
        entries = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        foreign = [name for name in entries if name not in OWN and name != LOCK]
        if foreign and not self.config.is_file():
            raise PocketError(
                f"--run_dir {self.path}: does not look like a run, it holds {foreign[0]}. Name a folder of its own."
            )

    def find_cache(self, given: str) -> str:
        """Return the folder of the data: as given, or where it was when the run began.

        A path relative to the folder in which the run was started means nothing elsewhere.

        Args:
            given: Path from the settings.
        """
        known = str(self._manifest().get("data", {}).get("cache", ""))
        return known if not Path(given).is_dir() and known and Path(known).is_dir() else given

    def check_data(self, record: dict[str, Any]) -> None:
        """Refuse to continue on other data than the run began with.

        Args:
            record: Hash and split of the data at hand.

        Raises:
            PocketError: If they are not those of the run.
        """
        before = {} if self.fresh else self._manifest().get("data", {})
        for key in ("hash", "split"):
            if key in before and before[key] != record.get(key):
                raise PocketError(
                    f"{self.path}: the {'data' if key == 'hash' else 'split into training and test cases'} changed "
                    "since this run began. Restore it, or start over with --fresh or another --run_dir."
                )

    @rank_zero_only
    def start(self, settings: dict[str, Any]) -> None:
        """Write ``config.yaml``, after deleting the run that was there if it is to start over."""
        if self.fresh:
            self._remove(OWN)
        elif not self.finished:
            self._remove({"test", "error.json"})  # scores of weights that training is about to change
        write_text(self.config, yaml.safe_dump(settings, sort_keys=False))

    @rank_zero_only
    def forget(self) -> None:
        """Remove what a run wrote that failed before it had learned anything."""
        if not self.last.is_file():
            self.config.unlink(missing_ok=True)
            self.manifest.unlink(missing_ok=True)
            self._remove(("tensorboard", "wandb"))
            for folder in (self.last.parent, self.path):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def check_held_out(self, record: dict[str, Any]) -> None:
        """Refuse to test on cases that the run has seen.

        Args:
            record: Split of the data at hand.

        Raises:
            PocketError: If a case to be tested was used for training or validation.
        """
        used = self._manifest().get("data", {}).get("split", {})
        seen = sorted({*used.get("train", []), *used.get("val", [])} & {*record.get("split", {}).get("test", [])})
        if seen:
            raise PocketError(
                f"{self.path}: {len(seen)} of the cases to test were used for training or validation, such as "
                f"{seen[0]!r}. Test with the split of the run, or train a run for this one."
            )

    def checkpoint(self, command: str | None, given: str | None) -> str | None:
        """Return the checkpoint that a command starts from.

        Args:
            command: ``fit`` continues from the last one; the others read the last one unless told.
            given: ``last``, ``best`` or a path; null decides by the command.

        Raises:
            PocketError: If it does not exist or is not a checkpoint.
        """
        if command == "fit" and given is None:
            return str(self.last) if self.last.is_file() and not self.fresh else None
        named = given in {None, "last", "best"}
        path = self.last.with_name(f"{given or 'last'}.ckpt") if named else Path(str(given))
        from lightning_pocket.tasks.loading import read_checkpoint

        read_checkpoint(path)
        return str(path)

    def _remove(self, names: Iterable[str]) -> None:
        """Delete some of what a run writes, and nothing else that the folder may hold."""
        for name in names:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self.manifest) if self.manifest.is_file() else {}
        return content


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= _flatten(entry, f"{prefix}.{key}" if prefix else str(key))
    return flat


def show_differences(saved: dict[str, Any], asked: dict[str, Any]) -> str:
    """Return the first few settings that differ, as ``KEY: SAVED -> ASKED``; empty where a run may continue.

    Args:
        saved: Settings of a run that was begun.
        asked: Settings of the one that is about to begin.
    """
    before, now = _flatten(saved), _flatten(asked)
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key) and not key.startswith(FREE)]
    shown = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys[:3]]
    return "; ".join(shown + ([f"and {len(keys) - 3} more"] if len(keys) > 3 else []))


def _is_first_process() -> bool:
    """Whether this is the process of a distributed training that writes, on the first of its machines."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return getattr(rank_zero_only, "rank", 0) == 0 and node == "0"
