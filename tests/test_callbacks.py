"""Callbacks and the metrics file, each on its own."""

import csv

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_pocket.callbacks import EpochSeed, FiniteLoss, LastCheckpoint, MetricsFile, StepTime
from lightning_pocket.errors import PocketError


class Line(LightningModule):
    """Fits one weight; turns its loss into NaN at a given step, and may be slow."""

    def __init__(self, nan_at: int = -1, sleep_s: float = 0.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.nan_at, self.sleep_s = nan_at, sleep_s
        self.drawn: list[float] = []

    def training_step(self, batch):
        import time

        self.drawn.append(torch.rand(1).item())
        time.sleep(self.sleep_s)
        loss = self.layer(batch["image"]).square().mean()
        self.log("train/loss", loss)
        return loss * float("nan") if self.global_step == self.nan_at else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(tmp_path, module, callbacks, epochs=1, delay_s=0.0, logger=False):
    import time

    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            time.sleep(delay_s)
            return {"image": torch.ones(1), "subject": f"case_{index}"}

    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(Slow(), batch_size=2))
    return trainer


@pytest.mark.parametrize("step", [0, 2])
def test_a_loss_that_is_not_finite_names_the_cases(tmp_path, step):
    with pytest.raises(PocketError, match=f"held case_{2 * step}, case_{2 * step + 1}"):
        train(tmp_path, Line(nan_at=step), [FiniteLoss()])


def test_finite_losses_pass(tmp_path):
    assert train(tmp_path, Line(), [FiniteLoss()]).global_step == 3


def test_step_time_and_data_wait_are_what_they_are(tmp_path):
    timing = StepTime(warmup=1)
    train(tmp_path, Line(sleep_s=0.03), [timing], epochs=3, delay_s=0.03)
    summary = timing.summary()
    assert 30 <= summary["profile/step_ms"] < 60
    assert summary["profile/step_p95_ms"] >= summary["profile/step_ms"]
    assert 0.4 < summary["profile/data_wait_share"] < 0.75  # two items of 30 ms per step of 30 ms: two thirds
    assert len(timing.step_ms) == 8


def test_random_numbers_of_an_epoch_do_not_depend_on_what_came_before(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    first, second = Line(), Line()
    train(tmp_path, first, [EpochSeed()], epochs=2)
    torch.rand(100)
    train(tmp_path, second, [EpochSeed()], epochs=2)
    assert first.drawn == second.drawn
    assert first.drawn[:3] != first.drawn[3:]
    third = Line()
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    train(tmp_path, third, [EpochSeed()], epochs=1)
    assert third.drawn != first.drawn[:3]


def test_last_checkpoint_is_replaced_in_one_step(tmp_path):
    train(tmp_path, Line(), [LastCheckpoint()], epochs=3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 3


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_one_step_share_a_row_and_survive_a_restart(tmp_path):
    logger = MetricsFile(str(tmp_path))
    logger.log_metrics({"train/loss": 1.0, "epoch": 0}, step=2)
    logger.log_metrics({"val/dice": 0.5, "epoch": 0}, step=2)
    logger.log_metrics({"train/loss": 0.9, "epoch": 1}, step=5)
    logger.finalize("success")
    again = MetricsFile(str(tmp_path))
    again.log_metrics({"train/loss": 0.8, "epoch": 1}, step=5)
    again.log_metrics({"train/new": 7.0, "epoch": 2}, step=8)
    again.finalize("success")
    rows = read(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == ["2", "5", "8"]
    assert rows[0] == {"epoch": "0", "step": "2", "train/loss": "1.0", "train/new": "", "val/dice": "0.5"}
    assert rows[1]["train/loss"] == "0.8"
    assert rows[2]["train/new"] == "7.0"
