"""A run on Weights & Biases."""

from __future__ import annotations

import importlib.util
import secrets
from argparse import Namespace
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.redaction import redact
from lightning_pocket.storage import read_json, write_text

from .hyperparameters import PARAMETERS
from .run_labels import as_tags, find_place, read_labels
from .wandb_history import SentHistory, read_metrics, read_sent
from .wandb_session import Mode, OnFailure, WandbSession

Summary = Literal["min", "max", "mean", "last"]

#: What the table of runs shows of a series.
SUMMARIES: dict[str, Summary] = {
    "val/dice*": "max",
    "val/auc": "max",
    "val/accuracy": "max",
    "val/loss": "min",
    "train/loss": "min",
    "profile/*peak*": "max",
    "profile/*": "last",
}
#: The x-axis that Lightning's logger logs with every series.
STEP = "trainer/global_step"


class WandbRun(WandbLogger):
    """Logger that shows a run on Weights & Biases, or keeps it in ``wandb/`` in the run folder to be uploaded later.

    The W&B run holds the series of ``metrics.csv``, every setting under the name that its command-line option has,
    ``manifest.json`` without its lists of cases, the labels of :func:`read_labels` as ``labels`` and as tags, pictures
    with masks, and of a test the table of cases; these name cases. Secrets and home folders are taken out, and neither
    what is printed nor the host is recorded. A run that continues, or is tested, stays the same W&B run: steps that are
    run again are not logged again, and what the run logged before it was shown on W&B is added. Folds and seeds form
    groups. The account's team is taken from ``WANDB_ENTITY``, as by every W&B program.

    Args:
        save_dir: Folder in which ``wandb`` is made; the command line sets it to the run folder.
        project: Project on W&B.
        name: Name of the run; null takes the folder's name, with that of its group.
        group: Group of runs that it belongs to; null is that of its folds or seeds.
        job_type: What it is in its group; null is ``fold`` or ``seed``; a trial of `pocket sweep` is a ``trial``.
        config: More to show beside its settings; `pocket sweep` tells the trial and its parameters.
        tags: Labels of the run besides its own.
        mode: ``auto`` does as ``WANDB_MODE`` says, and else uploads if this machine is logged in to W&B and keeps
            the run offline if not; that neither asks nor needs the network.
        on_failure: What to do where a run cannot be shown online, since nobody is logged in, or the service cannot be
            reached or refuses it: keep it ``offline``, ``stop``, or go on with W&B ``disabled``. Where wandb is not
            installed, ``offline`` stops too.
        timeout_s: Longest wait for the service as a command begins, in seconds.
        upload_s: Longest wait in seconds for what is left to upload as a command ends; 0 waits without limit. What is
            not uploaded then stays in the run folder, for ``wandb sync``.
        log_model: Keep the last and the best checkpoint of a finished training as artifacts; offline as copies that
            ``wandb sync`` uploads.
        summaries: Which value of a series stands for it in the table of runs, by its name, in which a star stands
            for anything; null takes the best Dice, the lowest losses, the highest memory, and the last of what
            ``profile/`` tells.

    Raises:
        PocketError: If wandb is not installed, or a run cannot be started.
    """

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        save_dir: str = ".",
        project: str = "lightning-pocket",
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        mode: Mode = "auto",
        on_failure: OnFailure = "offline",
        timeout_s: float = 20.0,
        upload_s: float = 300.0,
        log_model: bool = False,
        summaries: dict[str, Summary] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.check_installed()
        for key, value in (("timeout_s", timeout_s), ("upload_s", upload_s)):
            if value < 0 or (key == "timeout_s" and not value):
                raise PocketError(f"WandbRun.{key}: found {value}; expected a positive number of seconds.")
        folder = Path(save_dir).resolve()
        super().__init__(name, folder, project=project, group=group, tags=tags, job_type=job_type)
        self._wandb_init["config"] = config
        self._wandb_init.pop("anonymous")  # W&B warns that it has no effect
        self._folder = folder / "wandb"
        self._session = WandbSession(self._folder, mode, on_failure, timeout_s, upload_s)
        self._keeps_model = log_model
        self._summaries = SUMMARIES if summaries is None else summaries
        self._known: set[str] = set()
        self._sent = SentHistory()
        self._trainer: Trainer | None = None

    @staticmethod
    def check_installed() -> None:
        """Raise what a run without wandb should end with."""
        if importlib.util.find_spec("wandb") is None:
            raise PocketError(
                'wandb is not installed. Install it with `pip install "lightning-pocket[wandb]"`, or drop '
                "--config wandb."
            )

    @classmethod
    def is_usable(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether a logger with these settings is to be made; called before jsonargparse makes it.

        Args:
            settings: Arguments of the class.

        Raises:
            PocketError: If wandb is not installed, and the settings do not say to go on without it.
        """
        if (
            "disabled" in (settings.get("mode"), settings.get("on_failure"))
            and importlib.util.find_spec("wandb") is None
        ):
            return False
        cls.check_installed()
        return True

    @property
    @rank_zero_experiment
    @override
    def experiment(self) -> Any:
        """The W&B run; started when a command begins."""
        if self._experiment is None:
            self._start()
        return self._experiment

    @override
    @rank_zero_only
    def log_graph(self, model: LightningModule, input_array: Tensor | None = None) -> None:  # type: ignore[override]
        """Give the W&B run its settings as a command begins, and say where it is."""
        self._trainer = model.trainer
        run = self.experiment
        self._describe()
        model.trainer.print(self._session.describe(run))
        if self._is_training and model.trainer.ckpt_path:
            for step, row in read_metrics(self._folder.with_name("metrics.csv")):
                self.log_metrics({name: value for name, value in row.items() if not _is_of_test(name)}, step)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: the settings are read from ``config.yaml`` in the run folder."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        run, found = self.experiment, dict(metrics)
        if step is not None and self._is_training:
            found = self._sent.new(found, step)
        if not found.keys() - {"epoch"}:
            return
        for series in found.keys() - self._known:
            self._define(series)
        self._known |= found.keys()
        position = {} if step is None else {STEP: step}
        # Offline attempts know nothing of each other: rows are numbered on, so that an upload keeps their order.
        number = max(run.step, self._sent.rows) if run.offline else None
        with self._session.guarded(f"log {', '.join(sorted(found))}"):
            run.log(found | position, step=number, commit=True)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is None:
            return
        with self._session.guarded("record the settings"):
            self._describe()
        if status == "success" and self._keeps_model and self._is_training:
            with self._session.guarded("keep the checkpoints"):
                self._log_checkpoints()
        self._session.finish(self._experiment, int(status != "success"))
        self._experiment = None

    @property
    def _is_training(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == "fit"

    def _start(self) -> None:
        """Start the W&B run, or continue that of an earlier attempt."""
        folder = self._folder.parent
        place, labels = find_place(folder), read_labels(folder)
        self._wandb_init["id"] = self._id = self._run_id()
        self._name = self._wandb_init["name"] = self._wandb_init["name"] or place.name
        for key, value in (("group", place.group), ("job_type", place.job_type)):
            self._wandb_init[key] = self._wandb_init[key] or value
        given = self._wandb_init["tags"] or []
        self._wandb_init["tags"] = list(dict.fromkeys([*given, *as_tags(labels)]))
        self._sent = read_sent(self._folder, STEP)
        self._known = set()

        self._experiment = self._session.begin(self._wandb_init)
        self._experiment.define_metric(STEP)
        self._experiment.define_metric("*", step_metric=STEP, step_sync=True)

    def _define(self, series: str) -> None:
        """Tell W&B how to summarise a series.

        Stars are resolved here: W&B takes any of the patterns that fit, and ``*`` has its axis.
        """
        summary = next((value for name, value in self._summaries.items() if fnmatchcase(series, name)), None)
        if summary is not None:
            self.experiment.define_metric(series, summary=summary, step_metric=STEP, step_sync=True)

    def _run_id(self) -> str:
        """Return the id of the W&B run that belongs to the run folder."""
        file = self._folder / "run_id.txt"
        if not file.is_file():
            write_text(file, secrets.token_hex(4) + "\n")
        return file.read_text(encoding="utf-8").strip()

    def _describe(self) -> None:
        """Copy settings, labels and manifest into the W&B run; what the run folder does not hold is left out."""
        folder = self._folder.parent
        config, manifest = folder / "config.yaml", folder / "manifest.json"
        content: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
        content["labels"] = read_labels(folder)
        if manifest.is_file():
            record = read_json(manifest)
            record["data"] = {key: value for key, value in record.get("data", {}).items() if key != "split"}
            content["manifest"] = record
            self._experiment.summary[PARAMETERS] = record.get("parameters")  # type: ignore[union-attr]
        self._experiment.config.update(redact(content), allow_val_change=True)  # type: ignore[union-attr]

    def _log_checkpoints(self) -> None:
        import wandb

        artifact = wandb.Artifact(f"model-{self._id}", type="model")
        for file in sorted((self._folder.parent / "checkpoints").glob("*.ckpt")):
            artifact.add_file(str(file), name=file.name)
        self.experiment.log_artifact(artifact, aliases=["latest"])


def _is_of_test(name: str) -> bool:
    return name.startswith(("test/", "profile/test_"))
