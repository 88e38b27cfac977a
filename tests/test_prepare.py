"""`pocket prepare`: what it writes, that it can be killed, and what it refuses."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import SHAPE, SPACING, make_case, write_decathlon, write_image, write_nnunet, write_table

from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.folds import Assignment
from lightning_pocket.data.images import read_volume
from lightning_pocket.errors import PocketError

Capture = pytest.CaptureFixture[str]


def prepare(data: Path, cache: Path, *options: str, workers: int = 1) -> None:
    main(["prepare", str(data), "--output", str(cache), "--num_folds", "3", "--workers", str(workers), *options])


def refused(capsys: Capture, data: Path, cache: Path, *options: str) -> str:
    """Return everything printed by a run that must end with status 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        prepare(data, cache, *options)
    assert stop.value.code == 1
    captured = capsys.readouterr()
    return captured.out + captured.err


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_decathlon(tmp_path / "raw")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_cache_holds_what_was_prepared(data: Path, cache: Path, capsys: Capture) -> None:
    prepare(data, cache)
    assert capsys.readouterr().out.startswith(f"prepared 3 cases in {cache}\n")
    opened = Cache.open(cache)
    assert opened.channels == ["MRI"]
    assert opened.classes == ["background", "organ", "lesion"]
    assert opened.spacing == pytest.approx(SPACING)
    assert opened.subjects == ["case_0", "case_1", "case_2"]
    assert sorted(place.fold for place in opened.folds.values()) == [0, 1, 2]  # type: ignore[type-var]
    assert len(opened.hash) == 64
    assert pickle.loads(pickle.dumps(opened)) == opened

    case = pickle.loads(pickle.dumps(opened.case("case_1")))
    raw, label = make_case(1)
    image = case.image()
    assert (image.dtype, image.shape) == (np.float32, (1, *SHAPE))
    assert isinstance(image, np.memmap)
    np.testing.assert_allclose(image[0], (raw - raw.mean()) / raw.std(), atol=1e-4)
    assert case.label().dtype == np.uint8
    np.testing.assert_array_equal(case.label(), label)
    assert case.shape == SHAPE
    assert case.class_voxels == np.bincount(label.reshape(-1)).tolist()
    np.testing.assert_allclose(case.affine, read_volume(data / "imagesTr" / "case_1.nii.gz").affine)
    rows = case.foreground()
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows[:, 0], label[tuple(rows[:, 1:].T)])
    assert (np.diff(rows[:, 0]) >= 0).all()
    assert len(rows) == (label > 0).sum()


def test_raw_values_become_class_indices(tmp_path: Path, cache: Path) -> None:
    table = write_table(tmp_path)
    label = make_case(0)[1]
    for index in range(3):
        write_image(tmp_path / f"mask_{index}.nii.gz", np.choose(label, [0, 4, 2]).astype(np.uint8))
    prepare(table, cache, "--classes", "background,liver=4,tumour=2")
    opened = Cache.open(cache)
    assert opened.classes == ["background", "tumour", "liver"]
    assert opened.preprocessing["label_values"] == [0, 2, 4]
    np.testing.assert_array_equal(opened.case("case_0").label(), np.choose(label, [0, 2, 1]))


def test_foreground_sample_is_limited_and_repeatable(tmp_path: Path, cache: Path) -> None:
    root = write_decathlon(tmp_path / "raw", cases=3)
    image, label = make_case(0, shape=(40, 50, 60))
    write_image(root / "imagesTr" / "case_0.nii.gz", image)
    write_image(root / "labelsTr" / "case_0.nii.gz", label)
    prepare(root, cache, "--spacing", "native")
    rows = Cache.open(cache).case("case_0").foreground()
    counts = np.bincount(label.reshape(-1))
    assert counts[1] > 10_000 > 1_000 < counts[2] < 10_000
    assert np.bincount(rows[:, 0]).tolist() == [0, 10_000, counts[2]]
    assert len(np.unique(rows, axis=0)) == len(rows)
    # Drawn from the whole class, not from its beginning.
    assert abs(rows[rows[:, 0] == 1, 1:].mean(0) - np.argwhere(label == 1).mean(0)).max() < 0.3


def test_channels_of_files_and_of_4d_files_are_the_same(tmp_path: Path) -> None:
    prepare(write_nnunet(tmp_path / "a"), tmp_path / "cache_a")
    prepare(write_decathlon(tmp_path / "b", modalities=("T1", "T2")), tmp_path / "cache_b")
    first, second = Cache.open(tmp_path / "cache_a"), Cache.open(tmp_path / "cache_b")
    assert first.channels == second.channels == ["T1", "T2"]
    np.testing.assert_array_equal(first.case("case_1").image(), second.case("case_1").image())
    assert first.case("case_1").image().shape == (2, *SHAPE)


def test_same_bytes_whatever_the_number_of_workers(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "one")
    prepare(data, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 3 * 6 + 2


KILLED = """
import sys
from lightning_pocket.commands.prepare import prepare
if __name__ == "__main__":
    prepare(sys.argv[1], output=sys.argv[2], num_folds=3, workers=2)
"""


def _alive_with(text: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            if text.encode() in environment and (process / "stat").read_text(encoding="utf-8").split(") ")[1][0] != "Z":
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
def test_killed_run_is_continued_with_the_same_bytes(tmp_path: Path) -> None:
    data = write_decathlon(tmp_path / "raw", cases=24)
    prepare(data, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    cache, mark = tmp_path / "killed", f"PREPARE_TEST={tmp_path}"
    environment = os.environ | dict([mark.split("=", 1)])
    # Killed while inspecting, and while writing cases.
    for pattern, least in (("fingerprint/*.json", 3), ("cases/case*", 4)):
        run = subprocess.Popen([sys.executable, script, data, cache], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(cache.glob(pattern))) < least and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert not (cache / "dataset.json").exists()
        with pytest.raises(PocketError, match=r"not a complete cache.* run `pocket prepare"):
            Cache.open(cache)
    while _alive_with(mark) and time.monotonic() < deadline + 20:
        time.sleep(0.05)
    assert _alive_with(mark) == []  # workers end with their parent
    (cache / "cases" / ".case_3.123.partial").mkdir()
    (cache / "cases" / ".case_3.123.partial" / "image.npy").write_bytes(b"half")
    (cache / "fingerprint" / ".case_3.json.123.partial").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("cases/case*/image.npy")}
    assert len(kept) >= 4
    prepare(data, cache)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # not done twice
    assert contents(cache) == expected


def test_finished_cache_is_left_alone(data: Path, cache: Path, capsys: Capture) -> None:
    prepare(data, cache)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    capsys.readouterr()
    os.utime(data / "imagesTr" / "case_0.nii.gz")  # another date, the same content
    prepare(data, cache)
    assert capsys.readouterr().out == f"{cache} is up to date (3 cases)\n"
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    Cache.open(cache)


def test_changed_settings_are_refused_line_by_line(data: Path, cache: Path, capsys: Capture) -> None:
    prepare(data, cache)
    before = contents(cache)
    output = refused(capsys, data, cache, "--spacing", "[1,1,1]", "--crop", "nonzero", "--seed", "7")
    lines = output.splitlines()
    assert "was prepared otherwise; use --fresh to prepare it again or choose another --output" in lines[0]
    assert "  crop: none -> nonzero" in lines
    assert "  spacing: median -> [1.0, 1.0, 1.0]" in lines
    assert any(line.startswith("  folds: case case_") for line in lines)
    assert contents(cache) == before
    prepare(data, cache, "--spacing", "[1,1,1]", "--fresh")
    assert Cache.open(cache).spacing == [1, 1, 1]
    assert Cache.open(cache).case("case_0").shape == (20, 14, 18)


def test_changed_inputs_are_refused(data: Path, cache: Path, capsys: Capture) -> None:
    prepare(data, cache)
    first = Cache.open(cache).hash
    write_image(data / "imagesTr" / "case_1.nii.gz", make_case(9)[0])
    declaration = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    declaration["training"].pop(2)
    (data / "dataset.json").write_text(json.dumps(declaration))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["prepare", str(data), "--output", str(cache), "--num_folds", "2"])
    output = capsys.readouterr().err
    assert "case case_2: in the cache -> not in the data set" in output
    assert f"file of case case_1: {data / 'imagesTr' / 'case_1.nii.gz'}: content changed" in output
    with pytest.raises(PocketError, match=r"stale, since .*case_1.nii.gz \(case case_1\) has changed.*--fresh"):
        Cache.open(cache)
    main(["prepare", str(data), "--output", str(cache), "--num_folds", "2", "--fresh"])
    assert Cache.open(cache).hash != first
    assert sorted(path.name for path in (cache / "cases").iterdir()) == ["case_0", "case_1"]


def test_a_changed_file_is_no_change_of_its_path(
    data: Path, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    prepare(Path("raw"), cache)
    write_image(data / "labelsTr" / "case_1.nii.gz", make_case(9)[1] // 2)
    said = refused(capsys, Path("raw"), cache)
    assert "  file of case case_1: raw/labelsTr/case_1.nii.gz: content changed\n" in said
    data.rename(data.with_name("moved"))
    before = (data / "labelsTr" / "case_1.nii.gz").resolve()
    said = refused(capsys, Path("moved"), cache)
    assert f"  file of case case_1: {before} -> moved/labelsTr/case_1.nii.gz: content changed\n" in said
    assert said.count("->") == 1  # the files that only moved are the same


def test_stale_only_if_the_content_changed(data: Path, cache: Path) -> None:
    prepare(data, cache)
    file = data / "labelsTr" / "case_0.nii.gz"
    whole = file.read_bytes()
    os.utime(file)
    Cache.open(cache)
    changed = bytearray(whole)
    changed[-1] ^= 1
    file.write_bytes(changed)  # same size
    with pytest.raises(PocketError, match=r"labelsTr/case_0.nii.gz"):
        Cache.open(cache)
    shutil.rmtree(data)  # a cache outlives its sources
    Cache.open(cache)


def test_absent_incomplete_and_foreign_folders(data: Path, cache: Path, tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(PocketError, match="no such cache; make it with `pocket prepare"):
        Cache.open(cache)
    with pytest.raises(PocketError, match="not a cache; give the folder"):
        Cache.open(data)
    before = contents(data)
    assert "exists and is not a cache" in refused(capsys, data, data, "--fresh")  # would delete the raw data set
    assert contents(data) == before
    (tmp_path / "other" / "cases").mkdir(parents=True)
    (tmp_path / "other" / "thesis.txt").touch()
    assert "exists and is not a cache" in refused(capsys, data, tmp_path / "other", "--fresh")
    with pytest.raises(SystemExit):
        main(["prepare", str(data)])
    assert "output: is missing" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert "mend space or permissions" in refused(capsys, data, tmp_path / "file" / "cache")
    prepare(data, cache)
    with pytest.raises(PocketError, match="has no case 'x'"):
        Cache.open(cache).case("x")
    (cache / "cases" / "case_0" / "image.npy").unlink()
    with pytest.raises(PocketError, match=r"image.npy: missing or damaged"):
        Cache.open(cache).case("case_0").image()


def test_faults_stop_before_anything_is_written(data: Path, cache: Path, capsys: Capture) -> None:
    write_image(data / "labelsTr" / "case_1.nii.gz", make_case(1)[1][1:])
    output = refused(capsys, data, cache)
    assert "label shape 9 x 14 x 12" in output
    assert "1 error and 0 warnings in 1 of 3 cases" in output
    assert not cache.exists()


def test_fold_file(data: Path, cache: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "folds.csv"
    file.write_text("file,fold,split\ncase_0.nii.gz,0,\ncase_1.nii.gz,1,\ncase_9.nii.gz,0,\n")
    assert f"{file}: 1 subject ('case_9') not in the data set" in refused(capsys, data, cache, "--folds", str(file))
    assert not cache.exists()
    file.write_text("file,fold,split\ncase_0.nii.gz,0,\ncase_1.nii.gz,1,\n")
    assert "('case_2') without fold and split" in refused(capsys, data, cache, "--folds", str(file))
    file.write_text("file,fold,split\ncase_0.nii.gz,0,\ncase_1.nii.gz,1,\ncase_2.nii.gz,,test\n")
    prepare(data, cache, "--folds", str(file))
    places = Cache.open(cache).folds
    assert places == {"case_0": Assignment(0), "case_1": Assignment(1), "case_2": Assignment(None, "test")}


def test_a_group_of_the_table_that_comes_apart_is_refused(tmp_path: Path, cache: Path, capsys: Capture) -> None:
    table = write_table(tmp_path, cases=4, extra={"split": ["test", "", "", ""], "group": ["a", "a", "b", "c"]})
    refusal = refused(capsys, table, cache, "--num_folds", "2")
    assert not cache.exists()
    with pytest.raises(SystemExit):
        main(["check", str(table), "--workers=1"])
    said = capsys.readouterr().out
    assert said == refusal
    assert "group 'a' is in test (case_0) and no fold or split (case_1)" in said
    assert "1 error and 0 warnings in 1 of 4 cases" in said


def test_folds_of_the_table(tmp_path: Path, cache: Path, capsys: Capture) -> None:
    table = write_table(tmp_path, cases=5, extra={"split": ["", "", "", "", "test"], "group": ["a", "a", "b", "b", ""]})
    assert "3 folds of 2 independent cases" in refused(capsys, table, cache)
    prepare(table, cache, "--num_folds", "2")
    folds = Cache.open(cache).folds
    assert folds["case_4"] == Assignment(None, "test")
    assert folds["case_0"] == folds["case_1"] != folds["case_2"] == folds["case_3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--spacing", "[1,1]"], "spacing: is [1.0, 1.0], expected three positive numbers"),
        (["--spacing", "[1,1,0]"], "expected three positive numbers"),
        (["--normalization", "window"], "window: is None with normalization window"),
        (["--normalization", "window", "--window", "[5,5]"], "expected [low, high] with low below high"),
        (["--window", "[0,5]"], "window: is [0.0, 5.0] with normalization auto"),
        (["--workers", "0"], "workers: is 0, expected at least 1"),
    ],
)
def test_settings_that_are_refused(data: Path, cache: Path, capsys: Capture, options: list[str], message: str) -> None:
    assert message in refused(capsys, data, cache, *options)
    assert not cache.exists()


def test_a_damaged_cache_is_mended(blobs, tmp_path, capsys):
    cache = tmp_path / "cache"
    command = ["prepare", str(blobs), f"--output={cache}", "--workers=1"]
    main(command)
    image = cache / "cases" / "case_03" / "image.npy"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    (cache / "cases" / "case_05" / "case.json").unlink()
    capsys.readouterr()
    main(command)
    assert "up to date" not in capsys.readouterr().out
    assert image.read_bytes() == whole
    main(command)
    assert "up to date" in capsys.readouterr().out
