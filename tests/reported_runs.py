"""Folders of runs with everything that a report shows, without any training."""

import csv
import json
import math

import numpy as np

from lightning_pocket.reports.pictures import write_png

CLASSES = ("liver", "tumour")


def write_reported(path, scores, parameters=1000, finished=True, pictures=3, epochs=4, **manifest):
    """Write a run; ``scores`` are the Dice of its classes by case, or nothing where it was not tested."""
    path.mkdir(parents=True)
    content = {
        "command": f"pocket fit --run_dir={path.name}",
        "data": {"hash": "ab" * 32, "split": {"train": ["x"] * 5, "val": ["y"], "test": sorted(scores)}},
        "epochs": epochs,
        "finished": finished,
        "finished_at": "2026-01-02T03:04:05+00:00" if finished else None,
        "git_commit": {"lightning_pocket": "0123456789abcdef"},
        "hardware": {"cpu": "x86", "cores": 2, "gpus": []},
        "parameters": parameters,
        "seed": 7,
        "steps": 10 * epochs,
        "train_seconds": 90.0,
        "versions": {"torch": "2.13.0"},
    }
    (path / "manifest.json").write_text(json.dumps(content | manifest), encoding="utf-8")
    (path / "config.yaml").write_text("model:\n  class_path: a.Task\n  init_args: {network: {class_path: b.UNet}}\n")
    rows = [
        f"{epoch},{10 * epoch + 9},{200 + epoch},0.1,{500 + epoch},{1 / (epoch + 1)},{0.5 + 0.1 * epoch}"
        for epoch in range(epochs)
    ]
    head = "epoch,step,profile/step_ms,profile/data_wait_share,profile/peak_rss_mib,train/loss,val/dice"
    (path / "metrics.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    if scores:
        _write_cases(path / "test" / "cases.csv", scores)
    for subject in list(scores)[:pictures]:
        pixels = np.full((30, 40, 3), parameters % 250, np.uint8)
        write_png(path / "test" / "pictures" / f"{subject}.png", pixels)
    return path


def _write_cases(path, scores):
    columns = ["subject", "dice", "hd95_mm", *(f"{m}_{name}" for name in CLASSES for m in ("dice", "hd95_mm"))]
    path.parent.mkdir()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for subject, values in scores.items():
            mean = math.fsum(values) / len(values)
            distances = [10 * (1 - value) for value in values]
            cells = [cell for pair in zip(values, distances, strict=True) for cell in pair]
            writer.writerow([subject, mean, math.fsum(distances) / 2, *cells])


def scores_of(count, seed, offset=0.0):
    """Return the Dice of two classes in each of ``count`` cases."""
    random = np.random.default_rng(seed)
    drawn = (0.7 + 0.2 * random.random((count, 2)) + offset).round(6)
    return {f"case_{index:03d}": list(map(float, row)) for index, row in enumerate(drawn)}
