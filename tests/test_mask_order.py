"""The order of the classes of masks, from the raw files to predictions: colours, and a background that is not 0."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from mask_datasets import disc, save
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.data import ImageDataModule
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.images2d.coding import parse_coding
from lightning_pocket.data.splits import SplitSettings
from lightning_pocket.errors import PocketError
from lightning_pocket.mask_scores import with_ignored
from lightning_pocket.readers import make_reader
from lightning_pocket.storage import to_json
from lightning_pocket.types import DatasetInfo

#: What `--classes` says, and the value or colour of each of three classes in the order of their indices.
GREEN_AND_RED = ("background=#000000,green=#00ff00,red=#ff0000", [(0, 0, 0), (0, 255, 0), (255, 0, 0)])
WHITE = ("background=#ffffff,lesion=#ff0000,duct=#00ff00", [(255, 255, 255), (255, 0, 0), (0, 255, 0)])
NUMBERS = ("background=10,a=2,b=0", [10, 2, 0])  # ten sorts before two as text
CODINGS = pytest.mark.parametrize(("classes", "values"), [GREEN_AND_RED, WHITE, NUMBERS], ids=["black", "white", "10"])


def label_of(index: int) -> np.ndarray:
    label = (disc(index)[1] > 0).astype(np.uint8)
    label[2:7, 2:9] = 2
    return label


def write_raw(root: Path, values: list[tuple[int, ...]] | list[int], count: int = 6) -> Path:
    table = np.array(values, np.uint8)
    for index in range(count):
        save(100 * label_of(index), root / "images" / f"{index}.png")
        save(table[label_of(index)], root / "masks" / f"{index}.png")
    return root


def dice_of(file: Path) -> list[float]:
    with file.open(encoding="utf-8", newline="") as text:
        return [float(row["dice"]) for row in csv.DictReader(text)]


def same_pixels(one: Path, other: Path) -> bool:
    with Image.open(one) as a, Image.open(other) as b:
        return np.array_equal(np.array(a.convert("RGB")), np.array(b.convert("RGB")))


def info_of(cache: Path) -> DatasetInfo:
    data = ImageDataModule(str(cache), num_workers=0, split=SplitSettings(fold=None))
    return DatasetInfo(**json.loads(to_json(data.info)))  # the worst that can happen to the order


@CODINGS
def test_perfect_predictions_are_written_as_the_masks_of_the_training(tmp_path, classes, values):
    raw = write_raw(tmp_path / "raw", values)
    cache = tmp_path / "cache"
    main(["prepare", str(raw), f"--output={cache}", "--size=[40,56]", f"--classes={classes}", "--workers=1"])
    opened = ImageCache.open(cache)
    assert opened.classes == [part.partition("=")[0] for part in classes.split(",")]
    reader = make_reader(info_of(cache), 2)
    for index in range(6):
        mask = raw / "masks" / f"{index}.png"
        np.testing.assert_array_equal(opened.labels()[index], label_of(index))
        opened.original(index).write(label_of(index), tmp_path / "tested" / mask.name)
        _, loaded = reader.load([raw / "images" / mask.name])
        loaded.finish(label_of(index), None).write(tmp_path / "inferred" / mask.name)
        assert same_pixels(tmp_path / "tested" / mask.name, mask)
        assert same_pixels(tmp_path / "inferred" / mask.name, mask)
    for folder in ("tested", "inferred"):
        main(["evaluate", str(tmp_path / folder), str(raw), f"--classes={classes}", "--workers=1"])
        assert dice_of(tmp_path / folder / "scores.csv") == [1.0] * 6


def test_a_value_that_does_not_count_leaves_the_order():
    for classes, _ in (GREEN_AND_RED, WHITE, NUMBERS):
        coding = parse_coding(classes).coding
        ignored = with_ignored(coding, 1)
        assert (ignored.classes, ignored.label_values) == (coding.classes, coding.label_values)


def test_a_cache_of_another_order_is_not_up_to_date(tmp_path, fails):
    raw = write_raw(tmp_path / "raw", NUMBERS[1])
    command = ["prepare", str(raw), f"--output={tmp_path / 'cache'}", "--size=16", "--workers=1"]
    main([*command, f"--classes={NUMBERS[0]}"])
    file = tmp_path / "cache" / "dataset.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(to_json(stored | {"classes": ["b", "a", "background"]}), encoding="utf-8")
    said = fails([*command, f"--classes={NUMBERS[0]}"])
    assert "order of the classes: b, a, background -> background, a, b" in said
    file.write_text(to_json(stored | {"classes": ["background", "a"]}), encoding="utf-8")
    with pytest.raises(PocketError, match=r"cache: the classes are background, a, but its masks have .*--fresh"):
        ImageCache.open(tmp_path / "cache")


@pytest.mark.e2e
def test_trained_colours_are_those_of_the_masks(tmp_path):
    classes, values = WHITE
    raw, run = write_raw(tmp_path / "raw", values, 10), tmp_path / "run"
    cache = tmp_path / "cache"
    main(["prepare", str(raw), f"--output={cache}", "--size=[40,56]", f"--classes={classes}", "--workers=1"])
    network = "--model.init_args.network.init_args"
    options = ["depth=1", "widths.base=8"]
    main(
        ["fit", "--config=segment_images", f"--data.init_args.cache={cache}", "--data.init_args.batch_size=2"]
        + ["--model.init_args.optimizer.init_args.lr=0.005", f"--run_dir={run}", "--trainer.max_epochs=25"]
        + ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
        + [f"{network}.{option}" for option in options]
    )
    main(["infer", str(run), str(raw / "images"), f"--output={tmp_path / 'out'}", "--device=cpu"])
    main(["evaluate", str(tmp_path / "out"), str(raw), f"--classes={classes}", "--workers=1"])
    assert min(dice_of(tmp_path / "out" / "scores.csv")) > 0.95
