"""Metrics of a run for TensorBoard."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override


class TensorBoardEvents(TensorBoardLogger):
    """Logger that keeps the curves of a run in ``tensorboard/`` in the run folder.

    See them with ``tensorboard --logdir`` and the run folder, or the folder of several runs. A run that continues
    continues its curves: what an earlier attempt logged for steps that are run again is superseded. Lightning's own
    logger shows both, and writes a second copy of the settings that ``config.yaml`` holds.

    Args:
        save_dir: Parent of the folder; the command line sets it to the run folder.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__(save_dir, name="", version="tensorboard", default_hp_metric=False)
        self._beginning: Trainer | None = None

    @property
    @rank_zero_experiment
    @override
    def experiment(self) -> Any:
        """The writer of the events; made when a command begins."""
        writer = super().experiment
        if self._beginning is not None:
            # Only now, when something is logged, has Lightning restored the step at which the run continues.
            step = self._beginning.fit_loop.epoch_loop._batches_that_stepped
            self._beginning = None
            writer._get_file_writer().add_event(_restart(step))
        return writer

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
