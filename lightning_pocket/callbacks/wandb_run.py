"""A run on Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, write_text

Summary = Literal["min", "max", "mean", "last"]

#: What the table of runs shows of a series.
SUMMARIES: dict[str, Summary] = {
    "val/dice*": "max",
    "val/auc": "max",
    "val/accuracy": "max",
    "val/loss": "min",
    "train/loss": "min",
    "profile/*": "last",
}
#: The x-axis that Lightning's logger logs with every series.
STEP = "trainer/global_step"


class WandbRun(WandbLogger):
    """Logger that shows a run on Weights & Biases, or keeps it in ``wandb/`` in the run folder to be uploaded later.

    The W&B run holds the series of ``metrics.csv``, every setting under the name that its command-line option has,
    and ``manifest.json`` without its lists of cases. Pictures and what the run prints go there too, and may name
    cases. A run that continues, or is tested, stays the same W&B run; steps that are run again appear twice there.
    The account's team is taken from ``WANDB_ENTITY``, as by every W&B program.

    Args:
        save_dir: Folder in which ``wandb`` is made; the command line sets it to the run folder.
        project: Project on W&B.
        name: Name of the run; null takes the folder's name.
        group: Group of runs that it belongs to.
        job_type: What it is in its group; the runs of `pocket sweep` are of type ``trial``.
        config: More to show beside its settings; `pocket sweep` tells the trial and its parameters.
        tags: Labels of the run.
        mode: ``auto`` does as ``WANDB_MODE`` says, and else uploads if this machine is logged in to W&B and keeps
            the run offline if not; that neither asks nor needs the network.
        log_model: Upload the best checkpoint too.
        summaries: Which value of a series stands for it in the table of runs, by its name, in which a star stands
            for anything; null takes the best Dice, the lowest losses, and the last of what ``profile/`` tells.

    Raises:
        PocketError: If wandb is not installed, or a run cannot be started.
    """

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        save_dir: str = ".",
        project: str = "lightning-pocket",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        log_model: bool = False,
        summaries: dict[str, Summary] | None = None,
        job_type: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.check_installed()
        folder = Path(save_dir).resolve()
        super().__init__(name or folder.name, folder, project=project, log_model=log_model, group=group, tags=tags)
        self._wandb_init |= {"job_type": job_type, "config": config}
        self._wandb_init.pop("anonymous")  # W&B warns that it has no effect
        self._folder = folder / "wandb"
        self._mode = mode
        self._summaries = SUMMARIES if summaries is None else summaries
        self._known: set[str] = set()

    @staticmethod
    def check_installed() -> None:
        """Raise what a run without wandb should end with."""
        if importlib.util.find_spec("wandb") is None:
            raise PocketError(
                'wandb is not installed. Install it with `pip install "lightning-pocket[wandb]"`, or drop '
                "--config wandb."
            )

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
        run = self.experiment
        self._describe()
        if run.offline:
            model.trainer.print(f"W&B: kept offline; `wandb sync {self._folder}/offline-run-*` uploads it.")
        elif run.url:
            model.trainer.print(f"W&B: {run.url}")

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: the settings are read from ``config.yaml`` in the run folder."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for series in metrics.keys() - self._known:
            self._define(series)
        self._known |= metrics.keys()
        super().log_metrics(metrics, step)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self._describe()
            self._experiment.finish(exit_code=int(status != "success"))
            self._experiment = None

    def _start(self) -> None:
        """Start the W&B run, or continue that of an earlier attempt."""
        import wandb

        self._wandb_init["id"] = self._id = self._run_id()
        self._wandb_init["settings"] = wandb.Settings(quiet=True, show_info=False)
        wandb.setup(wandb.Settings(show_info=False))  # what it prints before the run's own settings hold
        try:
            self._wandb_init["mode"] = self._resolve_mode()
            _ = super().experiment
        except wandb.Error as error:
            raise PocketError(
                f"W&B: {str(error).rstrip('.')}. Mend it, or keep the run on this machine with `mode: offline`."
            ) from error
        self._known = set()

    def _define(self, series: str) -> None:
        """Tell W&B how to summarise a series.

        Stars are resolved here: W&B takes any of the patterns that fit, and Lightning's logger defines ``*``.
        """
        summary = next((value for name, value in self._summaries.items() if fnmatchcase(series, name)), None)
        if summary is not None:
            self.experiment.define_metric(series, summary=summary, step_metric=STEP, step_sync=True)

    def _resolve_mode(self) -> str | None:
        """Return the mode for W&B; null lets it read ``WANDB_MODE``.

        Raises:
            PocketError: If checkpoints should be uploaded by a run that is kept offline.
        """
        mode: str | None = self._mode
        if mode == "auto" and os.environ.get("WANDB_MODE"):
            mode = None
        elif mode == "auto":
            import wandb

            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        if self._log_model and mode == "offline":
            raise PocketError(
                "WandbRun: log_model uploads checkpoints, but the run is kept offline. Log in with `wandb login`, or "
                "drop log_model."
            )
        return mode

    def _run_id(self) -> str:
        """Return the id of the W&B run that belongs to the run folder."""
        file = self._folder / "run_id.txt"
        if not file.is_file():
            write_text(file, secrets.token_hex(4) + "\n")
        return file.read_text(encoding="utf-8").strip()

    def _describe(self) -> None:
        """Copy settings and manifest into the W&B run; what the run folder does not hold is left out."""
        content: dict[str, Any] = {}
        config, manifest = (self._folder.with_name(name) for name in ("config.yaml", "manifest.json"))
        if config.is_file():
            content |= yaml.safe_load(config.read_text(encoding="utf-8"))
        if manifest.is_file():
            record = read_json(manifest)
            record["data"] = {key: value for key, value in record.get("data", {}).items() if key != "split"}
            content["manifest"] = record
        self._experiment.config.update(content, allow_val_change=True)  # type: ignore[union-attr]
