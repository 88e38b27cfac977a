"""Make an epoch's random numbers depend on the seed and the epoch alone."""

from __future__ import annotations

import os

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class EpochSeed(Callback):
    """Seeds torch at the start of every epoch, for dropout and whatever else draws while training.

    Without it a run that continues from a checkpoint would draw other numbers than one that was never interrupted.
    """

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        keys = np.random.SeedSequence([seed, trainer.current_epoch, trainer.global_rank])
        torch.manual_seed(int(keys.generate_state(1, np.uint64)[0] >> 1))
