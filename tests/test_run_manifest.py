"""What the manifest tells of the software, the machine and the time."""

import json
import os
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_pocket.callbacks import BestCheckpoint, LastCheckpoint, RunManifest, run_manifest


class Line(LightningModule):
    """Fits one weight, and fails at a given step."""

    def __init__(self, fails_at=-1):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fails_at = fails_at

    def training_step(self, batch, _):
        time.sleep(0.05)
        if self.global_step == self.fails_at:
            raise RuntimeError("power cut")
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, module, checkpoint=None):
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=3,
        callbacks=[RunManifest(), LastCheckpoint()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.ones(2, 1)), ckpt_path=checkpoint)


def read(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_training_time_is_the_sum_over_attempts(tmp_path):
    first = datetime.now(UTC)
    with pytest.raises(RuntimeError):
        fit(tmp_path, Line(fails_at=3))
    failed = read(tmp_path)
    assert (failed["finished"], failed["finished_at"], failed["epochs"], failed["steps"]) == (False, None, 1, 3)
    assert 4 * 0.05 <= failed["train_seconds"] < 30
    time.sleep(1.1)  # between the attempts: not training
    fit(tmp_path, Line(), checkpoint=tmp_path / "checkpoints" / "last.ckpt")
    last = datetime.now(UTC)
    done = read(tmp_path)
    assert (done["finished"], done["epochs"], done["steps"]) == (True, 3, 6)
    assert done["train_seconds"] >= failed["train_seconds"] + 4 * 0.05
    started, ended = (datetime.fromisoformat(done[name]) for name in ("started_at", "finished_at"))
    assert started.utcoffset().total_seconds() == 0
    assert first.replace(microsecond=0) <= started < ended <= last
    assert done["started_at"] == failed["started_at"]
    assert done["train_seconds"] < (last - first).total_seconds() - 1.1

    fit(tmp_path, Line())  # without a checkpoint it is another training
    again = read(tmp_path)
    assert again["started_at"] > done["started_at"]
    assert 6 * 0.05 <= again["train_seconds"] < (datetime.now(UTC) - last).total_seconds()


def test_versions_are_those_installed(monkeypatch):
    found = run_manifest.versions()
    for name in ("torch", "scipy", "nibabel", "jsonargparse", "pytorch-lightning"):
        assert found[name] == metadata.version(name)
    monkeypatch.setattr(run_manifest, "OPTIONAL_PACKAGES", ("a-package-that-nobody-has",))
    monkeypatch.setattr(run_manifest, "PACKAGES", ("another-that-nobody-has",))
    assert set(run_manifest.versions()) == {"another-that-nobody-has", "python"}


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="needs /proc/meminfo")
def test_memory_is_what_the_system_says():
    kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])  # MemTotal
    hardware = run_manifest.hardware()
    assert hardware["ram_gib"] == pytest.approx(kib / 2**20, abs=0.06)
    assert hardware["cores"] == os.cpu_count()
    assert (hardware["cuda"] is None) == (hardware["gpus"] == [])


class Scored(Line):
    """Validates with given scores, one for each epoch."""

    def __init__(self, scores, fails_at=-1):
        super().__init__(fails_at)
        self.scores = scores

    def validation_step(self, *_):
        self.log("val/dice", self.scores[self.current_epoch])


@pytest.mark.parametrize(("scores", "epoch"), [((0.1, 0.5, 0.3), 2), ((0.5, 0.5, 0.4), 1), ((0.1, 0.2, 0.3), 3)])
def test_the_epoch_of_the_best_checkpoint_is_recorded(tmp_path, scores, epoch):
    def train(module, checkpoint=None):
        trainer = Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_epochs=3,
            num_sanity_val_steps=0,
            callbacks=[RunManifest(), LastCheckpoint(), BestCheckpoint("val/dice")],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(torch.ones(2, 1))
        trainer.fit(module, loader, loader, ckpt_path=checkpoint)

    with pytest.raises(RuntimeError):
        train(Scored(scores, fails_at=4))
    train(Scored(scores), tmp_path / "checkpoints" / "last.ckpt")
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert read(tmp_path)["best_epoch"] == best["epoch"] + 1 == epoch
