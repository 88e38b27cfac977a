"""`pocket prepare` for 2D images: what it writes, that it can be killed, what has changed, wrong options."""

from __future__ import annotations

import os
import shutil
import tracemalloc

import numpy as np
import pytest
from image_datasets import picture, write_classes, write_covidx, write_image_table, write_medmnist
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.data.images2d import chunks
from lightning_pocket.data.images2d import prepare as images
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.images2d.preprocess import ImagePreprocessing
from lightning_pocket.data.images2d.read import read_file, read_picture, unpack
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.prepare import LOCK
from lightning_pocket.errors import PocketError
from lightning_pocket.locks import FileLock


def prepare(data, cache, *options: str) -> ImageCache:
    main(["prepare", str(data), f"--output={cache}", "--workers=1", *options])
    return ImageCache.open(cache)


def test_a_cache_holds_every_image_in_its_row(tmp_path):
    root = write_covidx(tmp_path / "raw", train=40, test=10)
    cache = prepare(root, tmp_path / "cache", "--size=[16,16]", "--normalization=none")
    images = cache.images()
    assert images.shape == (50, 1, 16, 16)
    assert images.dtype == np.float32
    assert cache.channels == ["grey"]
    assert cache.classes == ["negative", "positive"]
    for row, subject in enumerate(cache.subjects):
        split = "test" if subject.startswith("test") else "train"
        np.testing.assert_array_equal(
            images[row], ImagePreprocessing((16, 16), "grey", "none").apply(read_file(root / split / subject))
        )
        assert cache.folds[subject].split == split
        number = int("".join(filter(str.isdigit, subject)))
        assert cache.class_of[subject] == ("negative" if number % 3 else "positive")
        assert cache.folds[subject].group == f"P {split} {number // 2} (sirm)"
    assert not list((tmp_path / "cache").glob(".*"))
    assert not (tmp_path / "cache" / "chunks").exists()
    two = tmp_path / "two"
    main(["prepare", str(root), f"--output={two}", "--workers=2", "--size=16", "--normalization=none"])
    assert (two / "images.npy").read_bytes() == (tmp_path / "cache" / "images.npy").read_bytes()
    assert ImageCache.open(two).hash == cache.hash


def test_medmnist_keeps_its_size_and_takes_names(tmp_path):
    arrays = write_medmnist(tmp_path / "set.npz", {"train": 6, "test": 2}, channels=3)
    cache = prepare(
        tmp_path / "set.npz", tmp_path / "cache", "--classes=well,ill", "--color=rgb", "--normalization=unit"
    )
    expected = np.moveaxis(np.concatenate([arrays["train_images"], arrays["test_images"]]), -1, 1) / 255
    np.testing.assert_allclose(cache.images(), expected, atol=1e-7)
    assert cache.channels == ["red", "green", "blue"]
    assert [cache.classes[index] for index in cache.targets] == ["well", "ill"] * 4


def test_medmnist_is_unpacked_once_and_nothing_of_it_stays(tmp_path, monkeypatch):
    write_medmnist(tmp_path / "set.npz", {"train": 40, "test": 30})
    prepared, seen = chunks.prepare_chunk, []

    def look(task):
        seen.append({path.name: path.stat().st_ino for path in task.records.glob("*.npy")})
        return prepared(task)

    monkeypatch.setattr(images, "prepare_chunk", look)
    prepare(tmp_path / "set.npz", tmp_path / "cache")
    assert len(seen) == 3
    assert set(seen[0]) == {"0.npy", "1.npy"}
    assert seen[0] == seen[1] == seen[2]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {*images._FILES}


def test_rows_of_a_large_array_are_read_without_the_array(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 64, 64), dtype=np.uint8)  # 8 MB
    np.savez(tmp_path / "set.npz", train_images=pixels, train_labels=np.arange(2000) % 2)
    cases = find_layout(tmp_path / "set.npz").image_cases()
    tracemalloc.start()
    found = [read_picture(case).pixels for case in unpack(cases, tmp_path / "arrays")[::500]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, pixels[::500])
    assert peak < 5e6


def test_a_damaged_array_leaves_nothing_behind(tmp_path, fails):
    file = tmp_path / "set.npz"
    write_medmnist(file, {"train": 400})
    content = bytearray(file.read_bytes())
    content[2000] ^= 255  # among the pixels
    file.write_bytes(content)
    for command in (["check", str(file)], ["prepare", str(file), f"--output={tmp_path / 'cache'}"]):
        assert f"{file}: truncated or damaged" in fails(command)
    assert not (tmp_path / "cache").exists()


def test_another_preparation_is_kept_out(tmp_path, blobs, fails):
    root = write_classes(tmp_path / "raw", {"a": 4, "b": 4})
    for data, name in ((root, "images"), (blobs, "volumes")):
        output = tmp_path / name
        output.mkdir()
        lock = FileLock(output / LOCK)
        assert lock.acquire()
        for options in ([], ["--fresh"]):
            message = fails(["prepare", str(data), f"--output={output}", "--workers=1", *options])
            assert f"process {os.getpid()} on " in message
            assert "is preparing here" in message
            assert [path.name for path in output.iterdir()] == [LOCK]
        lock.release()
        (output / LOCK).touch()  # left by a process that was killed
        main(["prepare", str(data), f"--output={output}", "--workers=1"])
        assert (output / "dataset.json").is_file()
        assert not (output / LOCK).exists()


def test_what_another_process_has_just_finished_is_not_done_again(tmp_path, monkeypatch, capsys):
    root = write_classes(tmp_path / "raw", {"a": 4, "b": 4})
    acquire = FileLock.acquire

    def finish_first(lock):
        monkeypatch.setattr(FileLock, "acquire", acquire)
        main(["prepare", str(root), f"--output={tmp_path / 'cache'}", "--workers=1", "--size=[8,8]"])
        return acquire(lock)

    monkeypatch.setattr(FileLock, "acquire", finish_first)
    prepare(root, tmp_path / "cache", "--size=[8,8]")
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["prepared", "no", str(tmp_path / "cache")]  # "no groups"


def test_copies_in_different_folds_are_told(tmp_path, capsys):
    rows = [
        {"subject": f"s{i}", "image": f"{i}.png", "class": "a" if i % 2 else "b", "fold": str(i // 3)} for i in range(6)
    ]
    table = write_image_table(tmp_path / "raw", rows)
    shutil.copy(tmp_path / "raw" / "0.png", tmp_path / "raw" / "4.png")
    prepare(table, tmp_path / "cache", "--size=[8,8]")
    assert "warning: copies of 1 image are in several folds or splits, such as s0 and s4" in capsys.readouterr().out
    (tmp_path / "folds.csv").write_text("subject,fold\n" + "".join(f"s{i},{i % 2}\n" for i in range(6)))
    prepare(table, tmp_path / "other", "--size=[8,8]", f"--folds={tmp_path / 'folds.csv'}")
    assert "copies of" not in capsys.readouterr().out


def test_a_damaged_data_set_is_told_as_check_tells_it(tmp_path, capsys):
    root = write_covidx(tmp_path / "raw")
    for source, copy in (("train/train-1.png", "test/copy.png"), ("train/train-3.png", "train/train-5.png")):
        shutil.copy(root / source, root / copy)
    (root / "train" / "train-7.png").unlink()
    (root / "train" / "train(8).jpg").write_bytes(b"damaged")
    with (root / "test_COVIDx8B.txt").open("a", encoding="utf-8") as file:
        file.write("P train 0 copy.png positive sirm\n")
    said = []
    for command in (["check", str(root)], ["prepare", str(root), f"--output={tmp_path / 'cache'}"]):
        with pytest.raises(SystemExit):
            main([*command, "--workers=1"])
        said.append(capsys.readouterr().out)
    expected = ["are missing: train-7.png", "group 'P train 0 (sirm)' is in train", "train(8).jpg"]
    expected += ["copies of 1 image are in several folds or splits", "are of several classes"]
    assert all(text in said[0] for text in expected), said[0]
    assert said[1] == said[0]
    assert not (tmp_path / "cache").exists()


def test_folds_are_made_with_their_share_of_each_class(tmp_path):
    cache = prepare(write_classes(tmp_path / "raw", {"a": 20, "b": 5}), tmp_path / "cache", "--size=[8,8]")
    for fold in range(5):
        held_out = [cache.class_of[s] for s, place in cache.folds.items() if place.fold == fold]
        assert sorted(held_out) == ["a"] * 4 + ["b"]


def test_missing_images_are_left_out_only_when_told(tmp_path, capsys):
    root = write_covidx(tmp_path / "raw")
    (root / "train" / "train-1.png").unlink()
    with pytest.raises(SystemExit):
        prepare(root, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    cache = prepare(root, tmp_path / "cache", "--skip_missing", "--size=[8,8]")
    assert len(cache.subjects) == 17
    assert "train-1.png" not in cache.subjects
    shutil.copy(root / "train" / "train-3.png", root / "train" / "train-1.png")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        prepare(root, tmp_path / "cache", "--skip_missing", "--size=[8,8]")
    assert "1 images not in the cache, such as train-1.png" in capsys.readouterr().err


def test_an_unreadable_image_leaves_nothing_behind(tmp_path, capsys):
    root = write_classes(tmp_path / "raw", {"a": 40, "b": 40})
    (root / "b" / "003.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        prepare(root, tmp_path / "cache")
    assert "b_003.png" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_floats_are_refused_where_their_range_is_needed(tmp_path, capsys):
    rows = [{"subject": f"s{i}", "image": f"{i}.tif", "class": "ab"[i % 2]} for i in range(6)]
    table = write_image_table(tmp_path / "raw", rows)
    for row in rows:
        Image.fromarray(np.random.default_rng(0).random((4, 4), np.float32)).save(tmp_path / "raw" / row["image"])
    with pytest.raises(SystemExit):
        prepare(table, tmp_path / "cache", "--normalization=unit")
    assert "pixels of type float32 have no largest value" in capsys.readouterr().out
    assert prepare(table, tmp_path / "cache", "--size=[4,4]").images().shape == (6, 1, 4, 4)


class KilledError(Exception):
    """Ends a preparation without any cleaning up."""


def test_a_killed_preparation_continues(tmp_path, monkeypatch):
    root = write_classes(tmp_path / "raw", {"a": 80, "b": 80})
    whole = prepare(root, tmp_path / "whole", "--size=[8,8]")
    examine, read = chunks.examine, []

    def examine_and_die(case, *settings):
        read.append(case.subject)
        if len(read) == 100:
            raise KilledError
        return examine(case, *settings)

    monkeypatch.setattr(chunks, "examine", examine_and_die)
    with pytest.raises(KilledError):
        prepare(root, tmp_path / "cache", "--size=[8,8]")
    with pytest.raises(PocketError, match="not a complete cache"):
        ImageCache.open(tmp_path / "cache")
    first_chunk = set(read[:32])
    os.utime(root / "b" / "000.png", ns=(1, 1))  # in the third chunk, which was finished: it is prepared again
    read[:] = [""] * 1000
    again = prepare(root, tmp_path / "cache", "--size=[8,8]")
    assert len(read) - 1000 == 160 - 64
    assert not first_chunk & set(read)
    np.testing.assert_array_equal(again.images(), whole.images())
    assert again.hash == whole.hash


def test_the_same_command_finds_a_cache_up_to_date_and_others_are_told_what_differs(tmp_path, capsys):
    root = write_covidx(tmp_path / "raw")
    prepare(root, tmp_path / "cache", "--size=[8,8]")
    capsys.readouterr()
    prepare(root, tmp_path / "cache", "--size=[8,8]")
    assert "is up to date (18 images)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        prepare(root, tmp_path / "cache", "--size=[8,9]", "--color=rgb")
    said = capsys.readouterr().err
    assert "size: [8, 8] -> [8, 9]" in said
    assert "color: grey -> rgb" in said
    moved = shutil.move(root, tmp_path / "moved")
    prepare(moved, tmp_path / "cache", "--size=[8,8]")
    assert "is up to date" in capsys.readouterr().out
    Image.fromarray(picture(5, (21, 24))).save(tmp_path / "moved" / "train" / "train-1.png")
    with pytest.raises(SystemExit):
        prepare(moved, tmp_path / "cache", "--size=[8,8]")
    assert "1 files with other content, such as" in capsys.readouterr().err
    prepare(moved, tmp_path / "cache", "--size=[8,8]", "--fresh")


def test_a_stale_cache_is_refused(tmp_path):
    root = write_covidx(tmp_path / "raw")
    prepare(root, tmp_path / "cache", "--size=[8,8]")
    file = root / "train" / "train-1.png"
    os.utime(file, ns=(1, 1))  # another date, the same content
    ImageCache.open(tmp_path / "cache")
    Image.fromarray(picture(5)).save(file)
    with pytest.raises(PocketError, match=r"stale, since .*train-1.png has changed"):
        ImageCache.open(tmp_path / "cache")
    file.unlink()
    ImageCache.open(tmp_path / "cache")


def test_a_damaged_cache_is_refused_and_mended(tmp_path):
    root = write_covidx(tmp_path / "raw")
    cache = tmp_path / "cache"
    prepare(root, cache, "--size=[8,8]")
    whole = (cache / "images.npy").read_bytes()
    (cache / "images.npy").write_bytes(whole[:-50])
    with pytest.raises(PocketError, match=r"images.npy: missing or damaged"):
        ImageCache.open(cache)
    prepare(root, cache, "--size=[8,8]")
    assert (cache / "images.npy").read_bytes() == whole
    (cache / "targets.csv").unlink()
    with pytest.raises(PocketError, match=r"targets.csv: is missing"):
        ImageCache.open(cache)
    prepare(root, cache, "--size=[8,8]")
    assert (cache / "images.npy").read_bytes() == whole


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--spacing=native", "spacing: native is for volumes"),
        ("--crop=nonzero", "crop: nonzero is for volumes"),
        ("--normalization=foreground_zscore", "normalization: foreground_zscore is for volumes"),
        ("--size=[8]", "size: is [8], expected two positive numbers"),
        ("--size=[8,0]", "size: is [8, 0], expected two positive numbers"),
        ("--classes=negative,bad", "lacks 'positive'"),
        ("--classes=negative", "expected two or more different names"),
    ],
)
def test_wrong_options_are_refused(tmp_path, fails, option, message):
    root = write_covidx(tmp_path / "raw")
    assert message in fails(["prepare", str(root), f"--output={tmp_path / 'cache'}", option])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("option", ["--size=[8,8]", "--color=rgb", "--skip_missing", "--normalization=unit"])
def test_options_of_images_are_refused_for_volumes(blobs, tmp_path, fails, option):
    said = fails(["prepare", str(blobs), f"--output={tmp_path / 'cache'}", option])
    assert "is for 2D images; " in said
    assert "is a data set of volumes (decathlon)" in said


def test_foreign_folders_are_not_touched(tmp_path, blobs_cache, fails):
    root = write_covidx(tmp_path / "raw")
    for output in (root, blobs_cache):
        assert "exists and is not a cache of images" in fails(["prepare", str(root), f"--output={output}"])
    with pytest.raises(PocketError, match="a cache of volumes, not of 2D images"):
        ImageCache.open(blobs_cache)


@pytest.mark.data
def test_real_images_are_prepared(real_data, tmp_path):
    root = real_data / "covidx8b_mini"
    cache = prepare(root, tmp_path / "cache", "--size=[64,64]")
    images = cache.images()
    assert images.shape == (210, 1, 64, 64)
    np.testing.assert_allclose(images.mean((1, 2, 3), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((1, 2, 3), dtype=np.float64), 1, atol=1e-5)
    subject = cache.subjects[17]
    expected = Image.open(root / "train" / subject).convert("F").resize((64, 64), Image.Resampling.BILINEAR)
    z = np.asarray(expected, np.float64)
    np.testing.assert_allclose(images[17, 0], (z - z.mean()) / z.std(), atol=1e-4)
