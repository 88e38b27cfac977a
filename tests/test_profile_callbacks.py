"""Step time, waiting for data, and peak memory."""

import csv
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchio as tio
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_pocket.callbacks import PeakMemory, StepTime, peak_memory, step_time
from lightning_pocket.cli import main

MIB = 2**20


class Sleep(tio.Transform):
    """An augmentation that takes a while."""

    def apply_transform(self, subject):
        time.sleep(0.1)
        return subject


class Clocked:
    """A task for which time passes only where a test says so."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch):
        self.now = 100.0
        self.logged = {}
        monkeypatch.setattr(step_time, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def log(self, name, value, **_):
        self.logged[name] = value

    def run(self, callback, *steps):
        """Take steps that wait and work for so many seconds; a third number is a validation after the step."""
        callback.on_train_epoch_start(None, self)
        for index, (waits, works, *validates) in enumerate(steps):
            self.now += waits
            callback.on_train_batch_start(None, self, None, index)
            self.now += works
            callback.on_train_batch_end(None, self, None, None, index)
            for seconds in validates:
                callback.on_validation_start(None, self)
                self.now += seconds
        callback.on_train_epoch_end(None, self)


def test_step_time_in_closed_form(monkeypatch):
    task, callback = Clocked(monkeypatch), StepTime(warmup=1)
    task.run(callback, (50, 9), (1, 2), (3, 4), (5, 6))  # the first is warm-up
    assert task.logged == pytest.approx(
        {
            "profile/step_ms": 4000,
            "profile/step_p95_ms": 5800,  # between 4 and 6 s, at 0.95 * 2 = 1.9 of the way through 2, 4, 6
            "profile/data_wait_share": (1 + 3 + 5) / (1 + 2 + 3 + 4 + 5 + 6),
        }
    )
    task.run(callback, (70, 8), (7, 8))  # workers start again: their 70 s are not a step's
    assert task.logged["profile/step_ms"] == pytest.approx(6000)
    assert task.logged["profile/data_wait_share"] == pytest.approx((1 + 3 + 5 + 7) / (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8))


def test_a_validation_between_steps_is_not_waiting(monkeypatch):
    task, callback = Clocked(monkeypatch), StepTime(warmup=0)
    task.run(callback, (1, 1), (1, 1, 1000), (1, 1), (1, 1))
    assert task.logged["profile/data_wait_share"] == pytest.approx(0.5)
    assert task.logged["profile/step_ms"] == pytest.approx(1000)


def test_nothing_is_logged_before_a_step_was_measured(monkeypatch):
    task = Clocked(monkeypatch)
    task.run(StepTime(warmup=5), (1, 1), (1, 1))
    assert task.logged == {}


@pytest.mark.e2e
def test_a_slow_loader_shows_in_the_share_of_waiting(options, tmp_path):
    shares = {}
    for name, augmentation in (("quick", "[]"), ("slow", "[{class_path: test_profile_callbacks.Sleep}]")):
        run = tmp_path / name
        extra = ["--data.init_args.patches_per_epoch=24", "--trainer.max_epochs=1", f"--run_dir={run}"]
        main(["fit", *options, *extra, f"--data.init_args.augmentation={augmentation}"])
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            shares[name] = float(list(csv.DictReader(file))[-1]["profile/data_wait_share"])
    # 200 ms per step of some 10 ms: far above one half even on a machine that is ten times slower
    assert shares["slow"] > 0.5
    assert shares["slow"] > shares["quick"] + 0.1


class Memory(LightningModule):
    """Calls back in each step of each stage, and keeps what is logged."""

    def __init__(self, train, validate=lambda: None, test=lambda: None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.train_call, self.validate_call, self.test_call = train, validate, test
        self.logged = []

    def log(self, name, value, **_):
        self.logged.append((name, value))

    def training_step(self, batch, _):
        self.train_call()
        return self.layer(batch).mean()

    def validation_step(self, *_):
        self.validate_call()

    def test_step(self, *_):
        self.test_call()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, tmp_path, **settings):
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        callbacks=[PeakMemory()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=2,
        **{"max_epochs": 1} | settings,
    )
    loader = DataLoader(torch.ones(4, 1))
    trainer.fit(module, loader, loader)
    trainer.test(module, loader, verbose=False)
    return module.logged


@pytest.mark.parametrize("train", [[10.0, 40.0, 30.0, 20.0], [10.0, 30.0, 40.0, 20.0]], ids=["before", "after"])
def test_each_stage_has_its_own_peak(tmp_path, monkeypatch, train):
    """Validation runs after the second and fourth step, so that it cuts the training in two."""
    device = SimpleNamespace(peak=0.0)

    def take(amounts):
        def step():
            device.peak = max(device.peak, amounts.pop(0))

        return step

    monkeypatch.setattr(peak_memory, "_reset", lambda _: setattr(device, "peak", 1.0))
    monkeypatch.setattr(peak_memory, "read_peaks", lambda _: {"peak_mib": device.peak})
    validations = [900.0] * 2 + [70.0] * 4 + [50.0, 60.0, 20.0, 10.0]  # two sanity steps come first
    module = Memory(take([*train]), take(validations), take([5.0, 2.0, 8.0, 4.0]))
    assert fit(module, tmp_path, val_check_interval=2) == [
        ("profile/val_peak_mib", 900.0),  # the sanity check, which Lightning does not log
        ("profile/val_peak_mib", 70.0),
        ("profile/val_peak_mib", 60.0),
        ("profile/peak_mib", 40.0),
        ("profile/test_peak_mib", 8.0),
    ]


def fill():
    torch.ones(64 * MIB).sum()  # 256 MiB


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere peaks cannot be reset")
@pytest.mark.parametrize("big", ["train", "validate", "test"])
def test_resident_memory_of_a_stage_is_that_of_its_allocation(tmp_path, big):
    calls = {"train": lambda: None, "validate": lambda: None, "test": lambda: None}
    found = dict(fit(Memory(**calls | {big: fill}), tmp_path))
    prefix = {"train": "", "validate": "val_", "test": "test_"}
    assert set(found) == {f"profile/{part}peak_rss_mib" for part in prefix.values()}
    peak = found.pop(f"profile/{prefix[big]}peak_rss_mib")
    for other in found.values():
        assert 220 < peak - other < 320


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere peaks cannot be reset")
def test_after_a_reset_the_peak_is_what_the_process_holds():
    device = torch.device("cpu")
    fill()
    peak_memory._reset(device)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    found = peak_memory.read_peaks(device)["peak_rss_mib"]
    assert found == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE") / MIB, rel=0.005)


def test_without_proc_the_peak_of_the_process_is_logged(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(peak_memory, "_PROCESS", tmp_path / "nowhere")
    found = dict(fit(Memory(fill), tmp_path))
    unit = 1 if sys.platform == "darwin" else 1024
    expected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
    assert found["profile/test_peak_rss_mib"] == pytest.approx(expected, rel=0.01)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert fit(Memory(fill), tmp_path) == []
