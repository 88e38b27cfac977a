"""Training on a CUDA device."""

import csv
import json

import pytest

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
    assert json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["hardware"]["gpus"]
    main(["test", f"--run_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "test" / "cases.csv").is_file()
