"""Cropping, resampling and normalising, alone and through the cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import SHAPE, SPACING, make_case, write_decathlon, write_image, write_table

from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.images import read_label, read_volume
from lightning_pocket.data.preprocess import Geometry, Resolved, apply, restore
from lightning_pocket.errors import PocketError


def prepare(data: Path, cache: Path, *options: str) -> None:
    main(["prepare", str(data), "--output", str(cache), "--num_folds", "3", "--workers", "1", *options])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_ct_is_clipped_and_scaled_by_the_labelled_foreground(tmp_path: Path, cache: Path) -> None:
    prepare(write_table(tmp_path), cache)
    pairs = [make_case(index) for index in range(3)]
    pooled = np.concatenate([image[label > 0] for image, label in pairs]).astype(np.float64)
    low, high = np.percentile(pooled, [0.5, 99.5])
    image = pairs[2][0]
    expected = (np.clip(image, low, high) - pooled.mean()) / pooled.std()
    opened = Cache.open(cache)
    np.testing.assert_allclose(opened.case("case_2").image()[0], expected, atol=1e-4)
    foreground = opened.fingerprint["channels"]["CT"]["foreground"]
    assert foreground["percentile_00_5"] == pytest.approx(low)
    ml = opened.fingerprint["classes"]["label_2"]["ml"]["median"]
    assert ml == pytest.approx((pairs[0][1] == 2).sum() * np.prod(SPACING) / 1000)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["none"], lambda x: x),
        (["zscore"], lambda x: (x - x.mean()) / x.std()),
        (["nonzero_zscore"], lambda x: np.where(x != 0, (x - x[x != 0].mean()) / x[x != 0].std(), 0)),
        (["window", "--window", "[50,150]"], lambda x: (np.clip(x, 50, 150) - 50) / 100),
    ],
)
def test_normalizations(tmp_path: Path, cache: Path, options: list[str], expected: object) -> None:
    root = write_decathlon(tmp_path / "raw")
    image = make_case(0)[0]
    image[:3] = 0
    write_image(root / "imagesTr" / "case_0.nii.gz", image)
    prepare(root, cache, "--normalization", *options)
    np.testing.assert_allclose(Cache.open(cache).case("case_0").image()[0], expected(image), atol=1e-4)  # type: ignore[operator]


def test_constant_image_becomes_zero(tmp_path: Path, cache: Path) -> None:
    data = write_decathlon(tmp_path / "raw")
    write_image(data / "imagesTr" / "case_0.nii.gz", np.full(SHAPE, 1234.567, np.float32))
    prepare(data, cache)
    assert (Cache.open(cache).case("case_0").image()[:] == 0).all()


def _resolved(spacing: tuple[float, float, float] | None, crop: str = "none") -> Resolved:
    return Resolved.from_dict(
        {
            "spacing": spacing,
            "normalization": [{"method": "none"}],
            "crop": crop,
            "image_interpolation": "bspline",
            "channels": ["CT"],
            "label_values": [0, 1, 2],
        }
    )


def test_resampling_follows_the_image_in_space(tmp_path: Path) -> None:
    # A plane in space is reproduced exactly by linear and cubic interpolation, away from the mirrored border.
    d, h, w = np.meshgrid(*(np.arange(n) for n in (16, 20, 24)), indexing="ij")
    plane = (3 * d * 3.0 + 2 * h * 1.0 - w * 2.0).astype(np.float32)  # in mm
    path = write_image(tmp_path / "plane.nii.gz", plane, spacing=(3.0, 1.0, 2.0), origin=(7, 8, 9))
    image, _, geometry = apply(read_volume(path), None, _resolved((2.0, 1.0, 1.5)))
    assert image.shape == (1, 24, 20, 32)
    affine = geometry.prepared.affine
    raw = np.linalg.inv(read_volume(path).affine)
    for index in [(12, 10, 16), (9, 6, 11), (14, 12, 20)]:
        at = (raw @ affine @ [*index, 1])[:3]
        assert image[(0, *index)] == pytest.approx(9 * at[0] + 2 * at[1] - 2 * at[2], abs=0.05)
    # The centre of the volume stays where it is.
    centre = affine @ [*((np.array(image.shape[1:]) - 1) / 2), 1]
    np.testing.assert_allclose(raw @ centre, [7.5, 9.5, 11.5, 1], atol=1e-9)


def test_native_round_trip_is_exact(tmp_path: Path) -> None:
    image, label = make_case(3)
    image[:2], image[:, :, -3:] = 0, 0
    paths = [write_image(tmp_path / name, a, origin=(5, 6, 7)) for name, a in (("i.mha", image), ("l.mha", label))]
    volume, raw = read_volume(paths[0]), read_label(paths[1])
    prepared_image, prepared, geometry = apply(volume, raw.array, _resolved(None, crop="nonzero"))
    assert prepared_image.shape == (1, SHAPE[0] - 2, SHAPE[1], SHAPE[2] - 3)
    assert prepared is not None
    restored = restore(prepared, Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))))
    np.testing.assert_array_equal(restored.array, np.where(np.indices(SHAPE)[0] < 2, 0, raw.array))
    assert restored.grid == volume.grid


def test_resampled_round_trip_is_close(tmp_path: Path) -> None:
    shape = (20, 30, 26)
    d, h, w = np.indices(shape) - np.array(shape).reshape(3, 1, 1, 1) / 2
    label = ((2 * d) ** 2 + h**2 + (1.5 * w) ** 2 < 13**2).astype(np.uint8)
    label[(d > 0) & (label > 0)] = 2
    path = write_image(tmp_path / "l.nii.gz", label)
    _, prepared, geometry = apply(read_volume(path), label, _resolved((1.3, 1.3, 1.3)))
    assert prepared is not None
    assert prepared.shape == (31, 23, 30)
    restored = restore(prepared, geometry).array
    assert restored.shape == shape
    for index in (1, 2):
        a, b = restored == index, label == index
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95


def test_axes_within_a_thousandth_are_left_alone(tmp_path: Path) -> None:
    image = make_case(0)[0]
    path = write_image(tmp_path / "i.nii.gz", image, spacing=(2.0, 1.0005, 1.5))
    prepared, _, geometry = apply(read_volume(path), None, _resolved((2.0, 1.0, 1.5)))
    np.testing.assert_array_equal(prepared[0], image)
    assert geometry.prepared == geometry.source


def test_lone_image_is_prepared_like_the_cache(tmp_path: Path, cache: Path) -> None:
    table = write_table(tmp_path)
    prepare(table, cache, "--spacing", "[1.5,1.5,1.5]")
    opened = Cache.open(cache)
    resolved = Resolved.from_dict(json.loads(json.dumps(opened.preprocessing)))
    image, label, geometry = apply(read_volume(tmp_path / "ct_1.nii.gz"), None, resolved)
    assert label is None
    np.testing.assert_array_equal(image, opened.case("case_1").image())
    assert geometry.to_dict() == opened.case("case_1").geometry
    with pytest.raises(PocketError, match=r"image: has 2 channels, expected 1 \(CT\)"):
        apply(
            type(read_volume(tmp_path / "ct_1.nii.gz"))(np.concatenate([image, image]), geometry.prepared),
            None,
            resolved,
        )


REAL = Path(os.environ.get("POCKET_TEST_DATA", "../shared/data"))


@pytest.mark.data
@pytest.mark.skipif(not REAL.exists(), reason="POCKET_TEST_DATA names no folder")
def test_real_ct(tmp_path: Path, cache: Path) -> None:
    folder = (REAL / "abdomen_ct" / "msd_spleen2_crop").resolve()
    table = tmp_path / "ct.csv"
    table.write_text(f"subject,CT,label\nspleen_2,{folder}/ct.nii.gz,{folder}/spleen.nii.gz\n")
    main(["prepare", str(table), "--output", str(cache), "--classes", "background,spleen", "--split", "1,0,0"])
    case = Cache.open(cache).case("spleen_2")
    assert case.shape == (26, 166, 164)
    assert case.spacing == pytest.approx([5, 0.795, 0.795], abs=1e-3)
    image, label = case.image()[0], case.label()
    # A z-score of the labelled foreground: there the mean is near 0 and the std, after clipping, just below 1.
    assert abs(float(image[label == 1].mean())) < 0.05
    assert 0.8 < float(image[label == 1].std()) < 1.02
