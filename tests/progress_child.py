"""A training in a terminal: the first argument tells how it ends, the second how many epochs it has."""

import logging
import sys
import time
import warnings

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_pocket.callbacks import PeakMemory, StepTime, TerminalProgress

LONG_LINE = "pocket a_command " + " ".join(f"--option_{number}=value" for number in range(12))


class Numbers(Dataset):
    """Ten numbers; a process that loads them says so once."""

    said = False

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 4 and not self.said and torch.utils.data.get_worker_info() is not None:
            self.said = True
            sys.stdout.write("<from a worker>\n")
            sys.stdout.flush()
        return torch.ones(1)


class Slow(LightningModule):
    """Fits one weight, slowly, and talks meanwhile."""

    def __init__(self, end):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.end = end

    def training_step(self, batch, index):
        time.sleep(0.03)
        if self.current_epoch == 0 and index == 5:
            sys.stdout.write(f"{LONG_LINE}\n")
            logging.getLogger("pytorch_lightning").warning("<logged>")
            warnings.warn("<warned>", stacklevel=1)
        if self.end == "crash" and self.current_epoch == 1 and index == 5:
            raise RuntimeError("power cut")
        return self.layer(batch).mean()

    def validation_step(self, *_):
        time.sleep(0.03)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train():
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=int(sys.argv[2]),
        num_sanity_val_steps=0,
        callbacks=[StepTime(), PeakMemory(), TerminalProgress(refresh_hz=20)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    workers = {"num_workers": 1, "persistent_workers": True}
    trainer.fit(Slow(sys.argv[1]), DataLoader(Numbers(), **workers), DataLoader(torch.ones(4, 1)))
    sys.stdout.write("the end\n")
