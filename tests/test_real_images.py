"""Classification and segmentation of real images, from the raw files on; skipped where they are absent."""

import csv
from collections import Counter

import numpy as np
import pytest

from lightning_pocket.cli import main
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.layouts import find_layout

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


def test_the_release_of_busi_is_read(real_data, capsys):
    root = real_data / "busi_raw_sample"
    main(["check", str(root), "--workers=1"])
    said = capsys.readouterr().out
    assert "classes: background (0), lesion (255); images of benign (5), malignant (3), normal (2)" in said
    assert "warning: 2 of 10 masks are empty: normal (1)_mask.png, normal (2)_mask.png" in said
    cases = {case.subject: case for case in find_layout(root).image_cases()}
    assert {name: len(case.masks) for name, case in cases.items() if len(case.masks) > 1} == {
        "benign (4)": 2,
        "benign (100)": 2,
        "benign (195)": 3,
        "malignant (53)": 2,
    }


def test_near_duplicates_of_busi_stay_together(real_data, tmp_path):
    main(
        [
            "prepare",
            str(real_data / "busi_256"),
            f"--output={tmp_path}",
            "--size=32",
            "--split=0.6,0.2,0.2",
            "--workers=1",
        ]
    )
    folds = ImageCache.open(tmp_path).folds
    places = {}
    for place in folds.values():
        places.setdefault(place.group, set()).add(place.split)
    assert len(folds) > len(places)  # there are such groups
    assert all(len(splits) == 1 for splits in places.values())
    counts = Counter(place.split for place in folds.values())
    assert counts["train"] / len(folds) == pytest.approx(0.6, abs=0.05)


def test_heads_have_the_size_that_hc18_says(real_data, tmp_path):
    root = real_data / "hc18_256"
    main(["prepare", str(root), f"--output={tmp_path}", "--size=32", "--workers=1"])
    cache = ImageCache.open(tmp_path)
    with (root / "index.csv").open(encoding="utf-8", newline="") as file:
        table = {row["file"].removesuffix(".png"): row for row in csv.DictReader(file)}
    assert len(cache.subjects) == len(table)
    for row, subject in enumerate(cache.subjects[:50]):
        original = cache.original(row)
        label, known = original.label(), table[subject]
        assert cache.folds[subject].fold == int(known["fold"])
        assert label.mean() == pytest.approx(float(known["mask_fraction"]), abs=1e-4)
        if known["mask_touches_border"] == "0":
            height, width = original.spacing
            points = np.argwhere(label) * [height, width]
            long, short = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(points.T))[::-1])  # half axes of a filled ellipse
            h = ((long - short) / (long + short)) ** 2
            perimeter = np.pi * (long + short) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))  # Ramanujan
            assert perimeter == pytest.approx(float(known["head_circumference_mm"]), rel=0.03)


def test_heads_are_learned_in_three_epochs(real_data, tmp_path):
    cache, run = tmp_path / "cache", tmp_path / "run"
    main(["prepare", str(real_data / "hc18_256"), f"--output={cache}", "--size=64", "--workers=1"])
    options = {
        "data.init_args.cache": cache,
        "data.init_args.images_per_epoch": 200,
        "model.init_args.network.init_args.widths.base": 4,
        "model.init_args.optimizer.init_args.lr": 0.01,
        "trainer.max_epochs": 3,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "run_dir": run,
    }
    main(["fit", "--config=segment_images", *(f"--{name}={value}" for name, value in options.items())])
    main(["test", f"--run_dir={run}"])
    with (run / "test" / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 100
    assert np.mean([float(row["dice"]) for row in rows]) > 0.8
    assert "hd95_mm" in rows[0]
