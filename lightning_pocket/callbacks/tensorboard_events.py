"""Metrics of a run for TensorBoard."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from .hyperparameters import HYPERPARAMETERS, PARAMETERS, read_hyperparameters, table_metrics


class TensorBoardEvents(TensorBoardLogger):
    """Logger that keeps the curves of a run in ``tensorboard/`` in the run folder.

    See them with ``tensorboard --logdir`` and the run folder, or the folder of several runs. A run that continues
    continues its curves: what an earlier attempt logged for steps that are run again is superseded. Lightning's own
    logger shows both, and writes a second copy of the settings that ``config.yaml`` holds.

    The tab HPARAMS has a row for each run: the settings by which runs are told apart, the last score of the validation
    and of the test, parameters, peak memory and step time.

    Args:
        save_dir: Parent of the folder; the command line sets it to the run folder.
        hyperparameters: Settings that the table of runs shows, by their dotted name, in which a star stands for
            anything; null takes those that studies usually change.
    """

    def __init__(self, save_dir: str = ".", hyperparameters: list[str] | None = None) -> None:
        super().__init__(save_dir, name="", version="tensorboard", default_hp_metric=False)
        self._hyperparameters = HYPERPARAMETERS if hyperparameters is None else tuple(hyperparameters)
        self._beginning: Trainer | None = None

    @property
    @rank_zero_experiment
    @override
    def experiment(self) -> Any:
        """The writer of the events; made when a command begins."""
        writer = super().experiment
        if self._beginning is not None:
            # Only now, when something is logged, has Lightning restored the step at which the run continues.
            trainer, self._beginning = self._beginning, None
            writer._get_file_writer().add_event(_restart(trainer.fit_loop.epoch_loop._batches_that_stepped))
            self._begin_table(writer, trainer)
        return writer

    def _begin_table(self, writer: Any, trainer: Trainer) -> None:
        """Write the settings of the table of runs; its metrics are read from the series of the same names."""
        from torch.utils.tensorboard.summary import hparams

        settings = read_hyperparameters(Path(self.save_dir), self._hyperparameters)
        if not settings:
            return
        metrics = dict.fromkeys(table_metrics(trainer.lightning_module), 0.0)
        for part in hparams(settings, metrics)[:2]:  # type: ignore[no-untyped-call]
            writer._get_file_writer().add_summary(part)
        network = getattr(trainer.lightning_module, "network", trainer.lightning_module)
        writer.add_scalar(PARAMETERS, sum(p.numel() for p in network.parameters() if p.requires_grad), 0)

    @override
    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Nothing: ``config.yaml`` in the run folder holds them."""

    @override
    @rank_zero_only
    def log_graph(self, model: LightningModule, input_array: Tensor | None = None) -> None:  # type: ignore[override]
        """Note that a command begins. Only a training supersedes what is there, a test adds to it."""
        self._beginning = model.trainer if model.trainer.state.fn == TrainerFn.FITTING else None

    @override
    @rank_zero_only
    def save(self) -> None:
        if self._experiment is not None:
            self._experiment.flush()


def _restart(step: int) -> Any:
    """Return the event by which TensorBoard drops what was logged before for this step and later ones."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

    return Event(step=step, session_log=SessionLog(status=SessionLog.START))
