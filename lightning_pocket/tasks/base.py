"""What every task shares: a network, its optimizer, and checkpoints that describe themselves."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import contract, contract_for_use, is_expanded
from lightning_pocket.networks.base import Network
from lightning_pocket.speed import Levers, Runner, untouched
from lightning_pocket.types import DatasetInfo

from .distillation import Distillation

OptimizerCallable = Callable[[Any], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]
#: Metric of what is learned from a teacher.
DISTILLED = "train/distillation_loss"
#: What a user changes so that whole images fit the network.
IMAGE_SIZE = "the size of the prepared images (`pocket prepare --size`)"


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
        channels_last: Lay weights and images out with the channels of a voxel side by side.
        compile: Compile the network with ``torch.compile``; where that fails, the run goes on without it.
        keep_memory: Keep freed memory with the process, on CPUs under Linux, instead of asking for it at each layer.
        distillation: A teacher that is learned from on top of the labels; null for none.

    Attributes:
        score: Validation metric by which networks are judged; more is better.
        size_key: What a user changes so that the images fit the network.
    """

    score: str = ""
    size_key: str = "data.init_args.patch_size"

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        network: Network,
        dataset: dict[str, Any],
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/loss",
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 (a key of the config)
        keep_memory: bool = False,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.info = DatasetInfo(**dataset)
        if self.info.preprocessing.get("kind") == "images":
            self.size_key = IMAGE_SIZE
        _check_patch(self.size_key, self.info.patch_size, network.divisor)
        self.make_optimizer = optimizer
        self.make_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.monitor = monitor
        self.levers = Levers(channels_last=channels_last, compiled=compile, keep_memory=keep_memory)
        self.distillation = distillation
        self._runner: Runner | None = None
        self._compiles = compile

    @property
    def runner(self) -> Runner:
        """The network with the levers that it is run with; what is computed goes through it."""
        if self._runner is None:
            self._runner = Runner(self.network, self.levers)
        return self._runner

    @runner.setter
    def runner(self, runner: Runner) -> None:
        self._runner, self.levers = runner, runner.levers

    @abstractmethod
    def training_loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch, logging nothing."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        self.log(
            "train/loss",
            loss,
            prog_bar=True,
            on_epoch=True,
            on_step=False,
            batch_size=len(batch["image"]),
            sync_dist=True,
        )
        if self.distillation is not None and self.distillation.latest is not None:
            latest = self.distillation.latest
            self.log(DISTILLED, latest, on_epoch=True, on_step=False, batch_size=len(batch["image"]), sync_dist=True)
        return loss

    def with_teacher(self, loss: Tensor, logits: Tensor, batch: Any, counted: Tensor | None = None) -> Tensor:
        """Return the loss of a batch with what a teacher adds to it; the same loss where there is none.

        Args:
            loss: What the labels make, a scalar.
            logits: Logits of the latest pass, ``(B, K)`` or ``(B, K, *S)``.
            batch: The batch, whose images were given to the network as they are.
            counted: ``(B, *S)`` bool, which voxels count; None for all of them.
        """
        if self.distillation is None or not self.distillation.record:
            return loss
        epoch = 0 if self._trainer is None else self.current_epoch
        combined: Tensor = self.distillation(loss, logits, batch["image"], counted, epoch)
        return combined

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit" and self.distillation is not None:
            levers = self.levers
            self.distillation.start(self.network, self.info, levers.channels_last, levers.compiled)

    @override
    def on_fit_start(self) -> None:
        if self.distillation is not None:
            self.distillation.check_teacher()
            self.distillation.teacher.to(self.device, next(self.network.parameters()).dtype)

    @override
    def teardown(self, stage: str) -> None:
        if self.distillation is not None:
            self.distillation.stop()

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.distillation is not None:
            self.distillation.leave_idle(self.parameters())

    @property
    @abstractmethod
    def metric_names(self) -> list[str]:
        """Names of every metric that the task logs, so that monitors can be checked before the first batch."""

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        recorded = self.network.recorded()
        if recorded:  # in copies: the settings of the run stay as they were given
            settings = dict(checkpoint["hyper_parameters"])
            entry = dict(settings["network"])
            settings["network"] = entry | {"init_args": dict(entry["init_args"]) | recorded}
            checkpoint["hyper_parameters"] = settings
        if self.distillation is not None:
            checkpoint["distillation"] = self.distillation.record

    @override
    def configure_model(self) -> None:
        self.runner.prepare()  # before a strategy wraps the network

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.levers.compiled and self._compiles:
            self._compiles = False  # once
            self._try_to_compile(batch)

    def _try_to_compile(self, batch: Any) -> None:
        """Compile before the first step, forwards and backwards, where a failure can still be mended."""
        try:
            with untouched(self), self.trainer.precision_plugin.train_step_context():
                self.training_loss(batch).backward()  # type: ignore[no-untyped-call]
        except (PocketError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # compilers fail in many ways
            self.runner.give_up_compiling(error)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take a contracted checkpoint as well, where nothing is trained; what only training needs is left out then."""
        if self._trainer is not None and self.trainer.training and self.distillation is not None:
            self.distillation.expected_sha256 = checkpoint.get("distillation", {}).get("sha256", "")
        else:
            for name in [name for name in checkpoint["state_dict"] if name.startswith("distillation.")]:
                del checkpoint["state_dict"][name]
        if "contracted_from" not in checkpoint:
            return
        if self._trainer is not None and self.trainer.training:
            raise PocketError(
                "--ckpt_path: holds a contracted network without the state of its training, which cannot continue. "
                "Begin a new one with its weights by --start_from."
            )
        if not is_expanded(self.network):
            return
        self.network = copy.deepcopy(self.network)
        contract(self.network)
        self._runner = None

    @override
    def on_test_start(self) -> None:
        """Test what is deployed: a network without expanded layers."""
        self._trained = self.network
        network = copy.deepcopy(self.network) if is_expanded(self.network) else self.network
        count = contract_for_use(network)
        if count:
            before, after = (sum(p.numel() for p in made.parameters()) for made in (self.network, network))
            self.network = network
            self._runner = None
            self.trainer.print(f"contracted {count} expanded layers: {before:,} -> {after:,} parameters")

    @override
    def on_test_end(self) -> None:
        if self._trained is not self.network:
            self.network = self._trained
            self._runner = None

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [*self.network.parameters()]
        if self.distillation is not None:
            parameters += [parameter for parameter in self.distillation.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer(parameters)
        if self.make_scheduler is None:
            return optimizer
        schedule = LRSchedulerConfigType(scheduler=self.make_scheduler(optimizer), interval=self.lr_interval)
        if isinstance(schedule["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule["monitor"] = self.monitor
            if self._trainer is not None and self.monitor.startswith("val/") and self.lr_interval == "epoch":
                schedule["frequency"] = self._trainer.check_val_every_n_epoch or 1  # known only then
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
