"""Labels that are drawn at random on purpose."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from image_datasets import write_classes
from mask_datasets import write_pairs

from lightning_pocket.cli import main
from lightning_pocket.data import ImageDataModule
from lightning_pocket.data.label_noise import LabelNoise, NoisyLabels, draw_labels
from lightning_pocket.errors import PocketError

CLASSES = [f"class_{index}" for index in range(10)]
SUBJECTS = [f"image_{index:04d}" for index in range(4000)]
CLASS_OF = {subject: CLASSES[index % 10] for index, subject in enumerate(SUBJECTS)}


def draw(fraction: float, seed: int = 0, subjects: list[str] = SUBJECTS) -> NoisyLabels:
    return draw_labels(CLASS_OF, subjects, CLASSES, LabelNoise(fraction, seed))


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_exactly_the_share_is_drawn_and_a_tenth_of_it_keeps_its_class(fraction: float) -> None:
    labels = draw(fraction)
    assert len(labels.given) == round(4000 * fraction)
    assert labels.true == {subject: CLASS_OF[subject] for subject in labels.given}
    expected = 0.9 * len(labels.given)
    assert abs(len(labels.changed) - expected) <= 4 * (0.09 * len(labels.given)) ** 0.5  # four standard deviations


def test_every_class_is_drawn_equally_often_and_from_every_class() -> None:
    labels = draw(1.0)
    pairs = Counter((labels.true[subject], labels.given[subject]) for subject in SUBJECTS)
    assert len(pairs) == 100
    chi_square = sum((pairs[true, given] - 40) ** 2 / 40 for true in CLASSES for given in CLASSES)
    assert chi_square < 149.4  # 99.9 % of 99 degrees of freedom
    chosen = Counter(CLASS_OF[subject] for subject in draw(0.5).given)
    assert all(abs(count - 200) < 60 for count in chosen.values())


def test_the_seed_and_the_names_decide() -> None:
    assert draw(0.2) == draw(0.2, subjects=SUBJECTS[::-1])
    assert draw(0.2).given.keys() != draw(0.2, seed=1).given.keys()
    less, more = draw(0.2).given, draw(0.5).given
    assert less.items() <= more.items()  # of a larger share the images and classes of a smaller one


def test_shares_out_of_range_are_refused() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(PocketError, match=rf"label_noise\.fraction: found {wrong}, expected a share in \[0, 1\]"):
            LabelNoise(wrong)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of three classes, prepared."""
    root = tmp_path_factory.mktemp("noise")
    write_classes(root / "raw", {"cat": 20, "dog": 20, "owl": 20})
    main(["prepare", str(root / "raw"), f"--output={root / 'cache'}", "--size=16", "--workers=1"])
    return root / "cache"


def served(data: ImageDataModule, split: str) -> list[tuple[str, str]]:
    """Return the images of an epoch, each with the class that it is served with."""
    loader = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}[split]()
    return [
        (subject, data.cache.classes[target])
        for batch in loader
        for subject, target in zip(batch["subject"], batch["target"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("balance", [False, True])
def test_training_sees_the_drawn_classes_and_nothing_else_does(cache: Path, balance: bool) -> None:
    settings = {"batch_size": 8, "num_workers": 0, "class_balance": balance}
    clean = ImageDataModule(str(cache), **settings)
    noisy = ImageDataModule(str(cache), **settings, label_noise=LabelNoise(0.5, seed=3))
    assert noisy.split == clean.split
    assert noisy.noisy_labels is not None
    for split in ("val", "test"):
        assert served(noisy, split) == served(clean, split)
    truth, given = clean.cache.class_of, noisy.noisy_labels.given
    seen = served(noisy, "train")
    assert all(name == given.get(subject, truth[subject]) for subject, name in seen)
    assert any(name != truth[subject] for subject, name in seen)
    assert len(given) == int(0.5 * len(noisy.split.train) + 0.5)
    assert given.keys() <= set(noisy.split.train)
    if balance:  # of the classes that are served, not of the true ones
        counts = Counter(name for _, name in seen)
        assert max(counts.values()) - min(counts.values()) <= 1
    else:
        assert {subject for subject, _ in seen} == set(noisy.split.train)


def test_masks_have_no_class_to_draw(tmp_path: Path) -> None:
    write_pairs(tmp_path / "raw", 6)
    main(["prepare", str(tmp_path / "raw"), f"--output={tmp_path / 'cache'}", "--size=16", "--workers=1"])
    with pytest.raises(PocketError, match=r"data\.init_args\.label_noise: is set, but images .* have masks"):
        ImageDataModule(str(tmp_path / "cache"), label_noise=LabelNoise(0.2))


@pytest.mark.e2e
def test_a_run_records_what_was_drawn(cache: Path, tmp_path: Path, fails: Callable[[list[str]], str]) -> None:
    options = {
        "data.init_args.cache": cache,
        "run_dir": tmp_path / "run",
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "model.init_args.network.init_args.image_size": 16,
        "model.init_args.network.init_args.kernel_size": 3,
    }
    line = ["fit", "--config=classify_images", "--config=small_net", "--config=label_noise_80"]
    line += [f"--{name}={value}" for name, value in options.items()]
    torch.manual_seed(0)
    main(line)
    with (tmp_path / "run" / "label_noise.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    data = ImageDataModule(str(cache), label_noise=LabelNoise(0.8))
    assert data.noisy_labels is not None
    assert {row["subject"]: row["given"] for row in rows} == data.noisy_labels.given
    assert {row["subject"]: row["true"] for row in rows} == {
        row["subject"]: data.cache.class_of[row["subject"]] for row in rows
    }
    assert all((row["changed"] == "True") == (row["true"] != row["given"]) for row in rows)
    message = fails([*line, "--data.init_args.label_noise.fraction=0.2"])
    assert "label_noise.fraction: 0.8 -> 0.2" in message
    main([*line, "--data.init_args.label_noise=null", "--fresh"])
    assert not (tmp_path / "run" / "label_noise.csv").exists()
