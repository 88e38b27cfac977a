"""Data sets of many images in one file: CIFAR's pickles, MNIST's idx files, scikit-learn's digits."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from image_datasets import checked
from packed_datasets import python_2, write_cifar, write_digits, write_idx, write_mnist
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data import ImageDataModule
from lightning_pocket.data.idx import read_idx
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.safe_pickle import read_plain_pickle
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder


def prepared(data: Path | str, output: Path, **settings) -> ImageCache:
    prepare(str(data), output=str(output), workers=1, **settings)
    return ImageCache.open(output)


class Opens:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_something_is_refused_before_it_does(tmp_path, protocol):
    file, trace = tmp_path / "data_batch_1", tmp_path / "ran"
    file.write_bytes(pickle.dumps({b"labels": [1], b"data": Opens(trace)}, protocol=protocol))
    with pytest.raises(PocketError, match=rf"data_batch_1: not read, since it asks for {os.mkdir.__module__}\.mkdir"):
        read_plain_pickle(file)
    assert not trace.exists()
    with file.open("rb") as stream:
        pickle.load(stream)
    assert trace.exists()  # it would have


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(Vaa\nVhex\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
    ],
    ids=["eval", "numpy.load", "codec", "array class"],
)
def test_nothing_but_plain_values_is_let_in(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PocketError, match="not read, since it asks for") as caught:
        read_plain_pickle(tmp_path / "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(5))
def test_plain_values_are_read_as_pickle_reads_them(tmp_path, protocol):
    values = {"a": [1, 2.5, None, True], b"b": (b"\xff", {"c": "d"}), "e": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    (tmp_path / "file").write_bytes(pickle.dumps(values, protocol=protocol))
    found = read_plain_pickle(tmp_path / "file")
    np.testing.assert_array_equal(found.pop("e"), values.pop("e"))
    assert found == values


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no pickle", pickle.dumps(list(range(1000)))[:-200]])
def test_a_damaged_pickle_is_named(tmp_path, content):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(PocketError, match="test_batch: truncated, damaged or no pickle") as caught:
        read_plain_pickle(tmp_path / "test_batch")
    assert "\n" not in str(caught.value)


def test_cifar_10_becomes_a_cache_with_the_official_split(tmp_path):
    images = write_cifar(tmp_path / "raw")
    cache = prepared(tmp_path / "raw", tmp_path / "cache", color="rgb", normalization="none")
    assert cache.classes == [f"class {n}" for n in range(10)]
    assert (cache.size, cache.channels) == ([32, 32], ["red", "green", "blue"])
    assert cache.subjects[5] == "data_batch_2_00001"
    assert Counter(place.split for place in cache.folds.values()) == {"train": 20, "test": 4}
    expected = np.concatenate(list(images.values())).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(cache.images(), expected)
    assert cache.targets[:4] == [0, 3, 6, 9]
    data = ImageDataModule(str(cache.path))
    assert set(data.split.test) == {f"test_batch_0000{n}" for n in range(4)}
    assert not {*data.split.test} & {*data.split.train, *data.split.val}
    assert len(data.split.val) == 2


def test_cifar_100_has_its_fine_classes(tmp_path, capsys):
    images = write_cifar(tmp_path / "raw", per_batch=5, hundred=True)
    layout = find_layout(tmp_path / "raw")
    assert (layout.name, len(layout.class_names)) == ("cifar", 100)
    assert [case.class_name for case in layout.image_cases()[5:]] == [f"class {n}" for n in (0, 3, 6, 9, 12)]
    assert "10" in checked(tmp_path / "raw", capsys)
    cache = prepared(tmp_path / "raw", tmp_path / "cache", color="rgb", normalization="unit")
    np.testing.assert_allclose(cache.images()[7], images["test"][2].transpose(2, 0, 1) / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "data_batch_3").unlink(), "data_batch_3 is missing"),
        (lambda root: (root / "batches.meta").unlink(), r"batches\.meta is missing"),
        (lambda root: (root / "test_batch").write_bytes(python_2({"data": 1})), "test_batch: its data are int"),
        (
            lambda root: (root / "test_batch").write_bytes(python_2({"data": np.zeros((2, 5), np.uint8)})),
            r"test_batch: its data are uint8 \(2, 5\), expected uint8 \(N, 3072\)",
        ),
        (
            lambda root: (root / "test_batch").write_bytes(python_2({"data": np.zeros((2, 3072), np.uint8)})),
            "test_batch: has no entry 'labels'",
        ),
        (
            lambda root: (root / "data_batch_1").write_bytes(
                python_2({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]})
            ),
            "data_batch_1: holds 2 labels for 2 images, or one that is not from 0 to 9",
        ),
        (lambda root: (root / "data_batch_2").write_bytes(b"\x80\x02}q"), "data_batch_2: truncated, damaged"),
    ],
)
def test_what_is_wrong_with_cifar_is_said_in_one_line(tmp_path, fails, damage, message):
    write_cifar(tmp_path / "raw")
    damage(tmp_path / "raw")
    with pytest.raises(PocketError, match=message):
        find_layout(tmp_path / "raw")
    said = fails(["prepare", str(tmp_path / "raw"), f"--output={tmp_path / 'cache'}"])
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_becomes_a_cache_with_the_official_split(tmp_path, suffix):
    arrays = write_mnist(tmp_path / "raw", {"train": 30, "t10k": 12}, suffix)
    cache = prepared(tmp_path / "raw", tmp_path / "cache", normalization="unit", mean=[0.2], std=[0.5])
    assert Counter(place.split for place in cache.folds.values()) == {"train": 30, "test": 12}
    expected = np.concatenate([images for images, _ in arrays.values()]) / 255
    np.testing.assert_allclose(cache.images()[:, 0], (expected - 0.2) / 0.5, rtol=1e-5, atol=1e-6)
    assert cache.targets == [*range(10)] * 3 + [*range(10), 0, 1]
    assert (cache.size, cache.classes) == ([9, 7], [str(n) for n in range(10)])
    assert (cache.preprocessing["mean"], cache.preprocessing["std"]) == ([0.2], [0.5])


def test_one_part_of_mnist_alone_is_divided_into_folds(tmp_path):
    write_mnist(tmp_path / "raw", {"t10k": 50})
    cache = prepared(tmp_path / "raw", tmp_path / "cache", classes=",".join("abcdefghij"))
    assert Counter((place.fold, place.split) for place in cache.folds.values()) == {(n, None): 10 for n in range(5)}
    assert cache.classes == list("abcdefghij")
    assert Counter(cache.class_of[s] for s, place in cache.folds.items() if place.fold == 0) == dict.fromkeys(
        "abcdefghij", 1
    )


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


HEAD = struct.pack(">HBB3I", 0, 8, 3, 2, 2, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + bytes(7), r"has 23 bytes, expected 24 for 2 x 2 x 2 values"),
        (HEAD + bytes(9), r"has 25 bytes, expected 24"),
        (HEAD[:9], r"has 9 bytes, expected"),
        (struct.pack(">HBB", 0, 8, 1) + bytes(9), r"begins with 0x00000801, expected the magic number 0x00000803"),
        (b"\x89PNG" + bytes(20), r"begins with 0x89504e47, expected the magic number"),
        (b"", r"begins with nothing, expected the magic number"),
        (zipped(HEAD + bytes(8))[:-9], r"truncated or damaged"),
        (zipped(HEAD + bytes(3)), r"has 19 bytes, expected 24"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PocketError, match=f"file: {message}") as caught:
        read_idx(tmp_path / "file", 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">i4", ">f4", ">f8"])
def test_idx_files_hold_big_endian_numbers_of_several_types(tmp_path, dtype):
    values = np.arange(6).astype(dtype).reshape(2, 3)
    code = {"u1": 8, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}[dtype]
    (tmp_path / "file").write_bytes(struct.pack(">HBB2I", 0, code, 2, 2, 3) + values.tobytes())
    np.testing.assert_array_equal(read_idx(tmp_path / "file", 2), values)


def test_what_is_wrong_with_mnist_is_said_in_one_line(tmp_path, fails):
    write_mnist(tmp_path, {"train": 10, "t10k": 10})
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(9, np.uint8))
    assert "holds 9 labels of uint8 for 10 images" in fails(["check", str(tmp_path)])
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels-idx1-ubyte is missing" in fails(["check", str(tmp_path)])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(10, np.uint8))
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((10, 8, 8), np.uint8))
    assert "images of 8 x 8 and 9 x 7 pixels" in fails(["check", str(tmp_path)])


@pytest.fixture
def bundled(tmp_path, monkeypatch) -> np.ndarray:
    """Pixels of the digits of a stand-in for scikit-learn."""
    pixels = write_digits(tmp_path / "sklearn" / "datasets" / "data" / "digits.csv.gz")
    origin = SimpleNamespace(origin=str(tmp_path / "sklearn" / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: origin if name == "sklearn" else None)
    return pixels


def test_digits_are_found_by_their_name(bundled, tmp_path, capsys):
    cache = prepared("digits", tmp_path / "cache", normalization="unit")
    assert len(cache.subjects) == 40
    np.testing.assert_allclose(cache.images()[:, 0], bundled / 16, atol=0.5 / 255)
    assert cache.targets == [*range(10)] * 4
    assert {place.fold for place in cache.folds.values()} == set(range(5))
    assert "sklearn" not in sys.modules  # the file is enough
    assert "40" in checked(Path("digits"), capsys)


@pytest.mark.usefixtures("bundled")
def test_a_folder_called_digits_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "digits", {"t10k": 10})
    assert find_layout("digits").name == "mnist"


def test_digits_without_scikit_learn(monkeypatch, fails):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    said = fails(["check", "digits"])
    assert "scikit-learn, which is not installed" in said
    assert "lightning-pocket[digits]" in said
    assert len(said.splitlines()) == 1


def test_damaged_digits_are_named(tmp_path):
    file = tmp_path / "digits.csv.gz"
    file.write_bytes(gzip.compress(b"1,2,3\n", mtime=0))
    with pytest.raises(PocketError, match=r"holds lines of 3 numbers up to 3, expected 65 from 0 to 16"):
        find_layout(file)
    file.write_bytes(gzip.compress(b"x" * 999, mtime=0)[:-9])
    with pytest.raises(PocketError, match="truncated or damaged"):
        find_layout(tmp_path / "digits.csv.gz")


def test_the_digits_are_those_that_scikit_learn_loads(tmp_path):
    expected = pytest.importorskip("sklearn.datasets").load_digits()
    cache = prepared("digits", tmp_path / "cache", normalization="none")
    np.testing.assert_array_equal(np.round(cache.images()[:, 0] * 16 / 255), expected.images)
    assert cache.targets == expected.target.tolist()


def config_of_prepare(name: str) -> dict:
    return yaml.safe_load((configs_folder() / "prepare" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.data
def test_mean_and_std_of_the_configs_are_those_of_real_images(real_data):
    digits = read_idx(real_data / "mnist_t10k" / "t10k-images-idx3-ubyte.gz", 3) / 255
    files = [f for folder in sorted((real_data / "cifar10_jpeg" / "train").iterdir()) for f in sorted(folder.iterdir())]
    photographs = np.stack([np.asarray(Image.open(file)) for file in files[::5]]) / 255
    assert len(photographs) == 2000
    for name, pixels in (("mnist", digits[..., None]), ("cifar10", photographs)):
        config = config_of_prepare(name)
        assert pixels.mean((0, 1, 2)) == pytest.approx(config["mean"], abs=0.01), name
        assert pixels.std((0, 1, 2)) == pytest.approx(config["std"], abs=0.01), name


def test_a_config_of_prepare_gives_images_of_mean_0_and_std_1(tmp_path):
    write_cifar(tmp_path / "raw", per_batch=8)
    main(["prepare", str(tmp_path / "raw"), "--config", "cifar10", f"--output={tmp_path / 'cache'}", "--workers=1"])
    config, cache = config_of_prepare("cifar10"), ImageCache.open(tmp_path / "cache")
    images = cache.images()
    noise = 255 * np.array(config["std"])  # of even noise from 0 to 255
    np.testing.assert_allclose(images.std((0, 2, 3)), np.sqrt((256**2 - 1) / 12) / noise, rtol=0.02)
    np.testing.assert_allclose(images.mean((0, 2, 3)), (0.5 - np.array(config["mean"])) / config["std"], atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalization": "unit", "mean": [0.5]}, r"std: is None, expected 1 number above 0"),
        ({"normalization": "unit", "mean": [0.5, 0.5], "std": [1.0, 1.0]}, r"mean: is \[0\.5, 0\.5\], expected 1 numb"),
        ({"normalization": "unit", "mean": [0.5], "std": [0.0]}, r"std: is \[0\.0\], expected 1 number above 0"),
        ({"normalization": "zscore", "mean": [0.5], "std": [1.0]}, "mean: is given with normalization zscore"),
    ],
)
def test_statistics_that_make_no_sense(tmp_path, settings, message):
    write_mnist(tmp_path / "raw", {"t10k": 10})
    with pytest.raises(PocketError, match=message):
        prepare(str(tmp_path / "raw"), output=str(tmp_path / "cache"), **settings)
