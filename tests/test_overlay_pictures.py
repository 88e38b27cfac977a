"""Contours on 2D images: the picture below them is that of the file, where it still exists."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from mask_datasets import disc, save, write_busi, write_hc18, write_pairs
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.data.images2d import sources
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.images2d.sources import SourcePictures
from lightning_pocket.reports.collect import read_run
from lightning_pocket.studies.overlays import predict_overlays

SIZES = ((40, 56), (61, 33))


def prepare(data: Path, cache: Path, *options: str) -> ImageCache:
    main(["prepare", str(data), f"--output={cache}", "--workers=1", "--size=32", *options])
    return ImageCache.open(cache)


def write_table(root: Path) -> dict[str, Path]:
    """Write a table whose names say nothing of the files, with masks and images in one folder; return the images."""
    files, lines = {}, ["subject,image,mask"]
    for index in range(6):
        image, mask = disc(index, SIZES[index % 2])
        files[f"case {index}"] = save(np.stack([image, image // 2, 255 - image], -1), root / f"{9 - index}b.png")
        save(mask, root / f"{9 - index}a.png")
        lines.append(f"case {index},{9 - index}b.png,{9 - index}a.png")
    (root / "data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def grey(file: Path) -> np.ndarray:
    return np.array(Image.open(file).convert("L"))


@pytest.mark.parametrize("options", [[], ["--color=rgb", "--normalization=unit"]])
def test_each_image_is_found_among_images_and_masks(tmp_path, monkeypatch, options):
    monkeypatch.setattr(sources, "_MOST", 2)  # by its name or place, not by trying all
    files = write_table(tmp_path / "table")
    busi = write_busi(tmp_path / "busi") / "Dataset_BUSI_with_GT"
    write_hc18(tmp_path / "hc18")
    data = {
        tmp_path / "table" / "data.csv": files,
        tmp_path / "busi": {file.stem: file for file in busi.rglob("*).png")},
        tmp_path / "hc18": {file.stem: file for file in (tmp_path / "hc18" / "training_set").glob("*HC.png")},
    }
    for number, (root, expected) in enumerate(data.items()):
        cache = prepare(root, tmp_path / f"cache{number}", "--num_folds=2", *options)
        found = SourcePictures(cache)
        assert set(cache.subjects) == set(expected)
        for subject in cache.subjects:
            np.testing.assert_array_equal(found.grey(subject), grey(expected[subject]))


def test_another_file_is_never_taken_for_a_lost_one(tmp_path):
    files = write_table(tmp_path / "table")
    cache = prepare(tmp_path / "table" / "data.csv", tmp_path / "cache")
    files["case 2"].unlink()
    found = SourcePictures(cache)
    assert found.grey("case 2") is None
    np.testing.assert_array_equal(found.grey("case 3"), grey(files["case 3"]))


@pytest.fixture(scope="module")
def tested(tmp_path_factory) -> tuple[Path, Path]:
    """A data set of images and a tested run on it."""
    root = tmp_path_factory.mktemp("overlays")
    raw = write_pairs(root / "raw", 10, sizes=SIZES)
    prepare(raw, root / "cache", "--split=0.4,0.2,0.4")
    network = "--model.init_args.network.init_args"
    tiny = [f"{network}.depth=2", f"{network}.widths.base=4", "--trainer.max_epochs=1"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    run = f"--run_dir={root / 'run'}"
    main(["fit", "--config=segment_images", f"--data.init_args.cache={root / 'cache'}", run, *tiny, *quiet])
    main(["test", run, *quiet])
    return raw, root / "run"


def first_picture(page: Path) -> np.ndarray:
    html = page.read_text(encoding="utf-8")
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert found
    return np.array(Image.open(io.BytesIO(base64.b64decode(found[1]))))


@pytest.mark.e2e
def test_the_page_shows_the_files_and_says_where_it_cannot(tested, tmp_path, capsys):
    raw, run = tested
    result = read_run(run)
    first, second = result.subjects[:2]
    found = predict_overlays([result], [first, second], None)
    assert found.enlarged == []
    for subject, cases in found.cases.items():
        np.testing.assert_array_equal(cases["run"].shown.slices[0].image, grey(raw / "images" / f"{subject}.png"))

    command = ["overlays", str(run), f"--cases={first},{second}"]
    main([*command, f"--output={tmp_path / 'sharp.html'}"])
    assert "predicting 2 cases with 1 network ..." in capsys.readouterr().out
    lost = raw / "images" / f"{first}.png"
    lost.rename(tmp_path / "moved.png")
    try:
        main([*command, f"--output={tmp_path / 'blurred.html'}"])
    finally:
        (tmp_path / "moved.png").rename(lost)
    note = f"prepared ones, enlarged, of {first}: the files are no longer where"
    assert note in (tmp_path / "blurred.html").read_text(encoding="utf-8")
    assert "enlarged" not in (tmp_path / "sharp.html").read_text(encoding="utf-8")
    sharp, blurred = (first_picture(tmp_path / f"{name}.html") for name in ("sharp", "blurred"))
    assert sharp.shape == blurred.shape
    assert (sharp != blurred).any()
