"""Classification of real images, from the raw files on; skipped where they are absent."""

import csv

import pytest

from lightning_pocket.cli import main

pytestmark = [pytest.mark.data, pytest.mark.e2e]


def classify(data, tmp_path, *options, prepare=()):
    """Prepare, train the pocket classifier and test it; return the scores of the test."""
    cache, run = tmp_path / "cache", tmp_path / "run"
    main(["prepare", str(data), f"--output={cache}", "--workers=1", *prepare])
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", *options]
    configs = ["--config=classify_images", "--config=pocket", f"--data.init_args.cache={cache}"]
    main(["fit", *configs, *quick, f"--run_dir={run}"])
    main(["test", f"--run_dir={run}"])
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return {name: float(value) for name, value in last.items() if name.startswith("test/")}, run


def test_pneumonia_is_learned_in_an_epoch(real_data, tmp_path):
    scores, run = classify(
        real_data / "pneumoniamnist" / "pneumoniamnist.npz",
        tmp_path,
        "--trainer.max_epochs=1",
        prepare=["--size=[32,32]", "--classes=normal,pneumonia"],
    )
    assert scores["test/auc"] > 0.85
    lines = (run / "test" / "cases.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 624  # the official test set


def test_covidx_runs_from_its_lists(real_data, tmp_path):
    scores, run = classify(real_data / "covidx8b_mini", tmp_path, "--trainer.max_epochs=1", prepare=["--size=[64,64]"])
    assert 0 <= scores["test/auc"] <= 1
    lines = (run / "test" / "cases.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "subject,target,predicted,prob_negative,prob_positive"
    assert len(lines) == 1 + 37
