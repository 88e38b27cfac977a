"""Training on a CUDA device."""

import csv
import json

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_pocket.callbacks import PeakMemory, StepTime
from lightning_pocket.cli import main

pytestmark = [pytest.mark.gpu, pytest.mark.e2e]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_run_trains_and_tests_on_the_gpu(options, tmp_path, precision):
    options = [option for option in options if not option.startswith("--trainer.accelerator")]
    main(["fit", *options, "--trainer.accelerator=gpu", f"--trainer.precision={precision}"])
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert 0 < float(last["train/loss"]) < 1
    assert float(last["profile/step_ms"]) > 0
    assert float(last["profile/peak_cuda_reserved_mib"]) >= float(last["profile/peak_cuda_mib"]) > 0
    hardware = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["hardware"]
    assert hardware["gpus"]
    assert hardware["cuda"] == torch.version.cuda
    main(["test", f"--run_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "test" / "cases.csv").is_file()


class OneWeight(LightningModule):
    """Takes so many MiB in each step of a stage, and keeps the GPU busy for so many of its cycles in training.

    It multiplies no matrices: cuBLAS would take a workspace of its own.
    """

    def __init__(self, mib, cycles=0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.mib, self.cycles = mib, cycles

    def take(self, stage):
        return torch.empty(self.mib.get(stage, 0) * 2**20, dtype=torch.uint8, device=self.device)

    def training_step(self, batch, _):
        taken = self.take("train")
        if self.cycles:
            torch.cuda._sleep(self.cycles)
        return (self.weight * batch).mean() + 0 * taken.numel()

    def validation_step(self, *_):
        self.take("val")

    def test_step(self, *_):
        self.take("test")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run_on_gpu(module, callback, tmp_path, steps=4):
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="gpu",
        devices=1,
        max_epochs=1,
        val_check_interval=2,
        num_sanity_val_steps=0,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(torch.ones(steps, 1))
    trainer.fit(module, loader, loader)
    found = dict(trainer.callback_metrics)
    trainer.test(module, loader, verbose=False)
    return {name: value.item() for name, value in (found | trainer.callback_metrics).items()}


@pytest.mark.parametrize("mib", [{"train": 64, "val": 256, "test": 128}, {"train": 256, "val": 64, "test": 32}])
def test_peak_memory_of_each_stage_is_that_of_its_tensors(tmp_path, mib):
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated() / 2**20
    found = run_on_gpu(OneWeight(mib), PeakMemory(), tmp_path)
    for stage, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
        allocated = found[f"profile/{prefix}peak_cuda_mib"]
        assert allocated - before == pytest.approx(mib[stage], rel=0.03), stage
        assert found[f"profile/{prefix}peak_cuda_reserved_mib"] >= allocated
    assert not any("rss" in name for name in found)


def test_step_time_is_that_of_the_gpu_not_of_the_launches(tmp_path):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(1000)
    cycles = 40_000_000  # some 20 ms
    start.record()
    torch.cuda._sleep(cycles)
    end.record()
    torch.cuda.synchronize()
    expected = start.elapsed_time(end)
    timing = StepTime(warmup=1)
    found = run_on_gpu(OneWeight({}, cycles), timing, tmp_path, steps=8)
    assert len(timing.step_ms) == 7
    assert 0.9 * expected <= found["profile/step_ms"] < 2 * expected + 5
    assert found["profile/step_p95_ms"] >= found["profile/step_ms"]
