"""What every task shares: a network, its optimizer, and checkpoints that describe themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.networks.base import Network
from lightning_pocket.types import DatasetInfo

OptimizerCallable = Callable[[Any], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]


class BaseTask(LightningModule):
    """Trains a network.

    Args:
        network: Maps images ``(B, C, *S)`` to logits.
        dataset: The fields of ``DatasetInfo``: channels, classes, patch size, spacing, preprocessing. It travels in
            the checkpoint, so that a checkpoint is all that prediction needs.
        optimizer: Makes the optimizer of the network's parameters.
        lr_scheduler: Makes the schedule of the learning rate; null keeps it constant.
        lr_interval: Whether the schedule advances every epoch or every step.
        monitor: Metric that a schedule of the plateau kind watches.

    Attributes:
        score: Validation metric by which networks are judged; more is better.
        size_key: What a user changes so that the images fit the network.
    """

    score: ClassVar[str] = ""
    size_key: ClassVar[str] = "data.init_args.patch_size"

    def __init__(
        self,
        network: Network,
        dataset: dict[str, Any],
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/loss",
    ) -> None:
        super().__init__()
        self.network = network
        self.info = DatasetInfo(**dataset)
        _check_patch(self.size_key, self.info.patch_size, network.divisor)
        self.make_optimizer = optimizer
        self.make_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.monitor = monitor

    @property
    @abstractmethod
    def metric_names(self) -> list[str]:
        """Names of every metric that the task logs, so that monitors can be checked before the first batch."""

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer(self.network.parameters())
        if self.make_scheduler is None:
            return optimizer
        schedule = LRSchedulerConfigType(scheduler=self.make_scheduler(optimizer), interval=self.lr_interval)
        if isinstance(schedule["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule["monitor"] = self.monitor
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def _check_patch(key: str, patch_size: Sequence[int], divisor: Sequence[int]) -> None:
    if len(patch_size) != len(divisor):
        raise PocketError(
            f"{key}: {list(patch_size)} has {len(patch_size)} axes, but the network has "
            f"spatial_dims {len(divisor)}. Give one size per axis."
        )
    fitting = [-(-size // step) * step for size, step in zip(patch_size, divisor, strict=True)]
    if list(patch_size) != fitting:
        raise PocketError(
            f"{key}: {list(patch_size)} does not fit the network, which takes multiples of "
            f"{list(divisor)}. The next that fits is {fitting}."
        )
