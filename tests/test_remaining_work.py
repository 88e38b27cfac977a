"""What is left of a training, against what Lightning then does."""

from datetime import timedelta

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_pocket.callbacks.remaining_work import may_end_early, remaining_work, time_limit_s


class Line(LightningModule):
    """Fits one weight."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch).mean()

    def validation_step(self, *_):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Witness(Callback):
    """Notes before each batch and at the end of each epoch what should be left, and everything that happens."""

    def __init__(self):
        self.expected = []
        self.happened = []

    @override
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch:
            self.happened.append("save")  # as LastCheckpoint does

    @override
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.expected.append((len(self.happened), remaining_work(trainer, batch_idx, None)))
        self.happened.append("batch")

    @override
    def on_validation_start(self, trainer, pl_module):
        self.happened.append("validation")

    @override
    def on_train_epoch_end(self, trainer, pl_module):
        self.expected.append((len(self.happened), remaining_work(trainer, trainer.num_training_batches, None)))

    @override
    def on_train_end(self, trainer, pl_module):
        self.happened.append("save")


def trainer_of(callbacks, **options):
    return Trainer(
        accelerator="cpu",
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 5, "check_val_every_n_epoch": 2},
        {"max_epochs": 2, "val_check_interval": 0.25},
        {"max_epochs": 2, "val_check_interval": 3},
        {"max_epochs": 4, "check_val_every_n_epoch": 3, "val_check_interval": 0.5},
        {"max_epochs": 3, "check_val_every_n_epoch": None, "val_check_interval": 13},
        {"max_epochs": -1, "max_steps": 20},
        {"max_epochs": 5, "max_steps": 16, "accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 17, "accumulate_grad_batches": 3},
        {"max_epochs": -1, "max_steps": 19, "val_check_interval": 3},
        {"max_epochs": 3, "limit_train_batches": 4},
        {"max_epochs": 2, "limit_val_batches": 0},
    ],
    ids=str,
)
def test_the_rest_is_what_lightning_does(options):
    witness = Witness()
    trainer_of([witness], **options).fit(Line(), DataLoader(torch.ones(8, 1)), DataLoader(torch.ones(2, 1)))
    assert len(witness.expected) > 5
    for place, work in witness.expected:
        rest = witness.happened[place:]
        assert work.is_exact
        assert work.batches == rest.count("batch"), (place, work)
        assert work.validations == rest.count("validation"), (place, work)
        assert work.epochs == rest.count("save"), (place, work)


def test_without_validation_data_no_validation_is_expected():
    witness = Witness()
    trainer_of([witness], max_epochs=2).fit(Line(), DataLoader(torch.ones(4, 1)))
    assert {work.validations for _, work in witness.expected} == {0}


def test_a_run_without_an_end_has_no_rest_but_a_limit():
    witness = Witness()

    class Limit(Callback):
        @override
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.left = time_limit_s(trainer)
            trainer.should_stop = trainer.global_step >= 5

    limit = Limit()
    trainer = trainer_of([witness, limit], max_epochs=-1, min_epochs=0, max_time=timedelta(seconds=100))
    trainer.fit(Line(), DataLoader(torch.ones(4, 1)))
    assert {work for _, work in witness.expected} == {None}
    assert 0 < limit.left < 100
    assert time_limit_s(trainer_of([], max_epochs=1)) == float("inf")


def test_validations_by_the_clock_cannot_be_counted():
    witness = Witness()
    trainer = trainer_of([witness], max_epochs=2, val_check_interval="00:00:10:00")
    trainer.fit(Line(), DataLoader(torch.ones(4, 1)), DataLoader(torch.ones(2, 1)))
    assert {work.is_exact for _, work in witness.expected} == {False}


def test_early_stopping_is_known():
    assert may_end_early(trainer_of([EarlyStopping("val/loss")], max_epochs=1))
    assert not may_end_early(trainer_of([], max_epochs=1))
