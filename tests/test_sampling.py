"""Where patches are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_pocket.data.sampling import ForegroundSampler, UniformSampler, cut, patch_start
from lightning_pocket.errors import PocketError

SIDES = st.tuples(*[st.integers(1, 12)] * 3)


@given(shape=SIDES, patch=SIDES, seed=st.integers(0, 1000))
def test_patch_is_inside_where_it_fits_and_centred_where_not(shape, patch, seed):
    centre = UniformSampler().centre(shape, np.zeros((0, 4), np.int32), np.random.default_rng(seed))
    for first, voxel, side, size in zip(patch_start(centre, shape, patch), centre, shape, patch, strict=True):
        if side >= size:
            assert 0 <= first <= side - size
            assert first <= voxel < first + size
        else:
            before, after = -first, size - side + first
            assert before >= 0
            assert after - before in {0, 1}


@given(shape=SIDES, patch=SIDES, seed=st.integers(0, 1000))
def test_cutting_equals_padding_then_slicing(shape, patch, seed):
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(2, *shape)).astype(np.float32)
    start = patch_start([int(rng.integers(side)) for side in shape], shape, patch)
    margin = 12
    padded = np.pad(array, [(0, 0), *[(margin, margin)] * 3])
    window = tuple(slice(first + margin, first + margin + size) for first, size in zip(start, patch, strict=True))
    found = np.full((2, *patch), np.nan, np.float32)
    cut(array, start, found)
    np.testing.assert_array_equal(found, padded[(slice(None), *window)])


def test_foreground_sampler_balances_classes_of_very_different_size():
    big = np.array([[1, d, h, w] for d in range(9) for h in range(9) for w in range(9)], np.int32)
    small = np.array([[3, 20, 20, 20]], np.int32)
    rng = np.random.default_rng(0)
    sampler = ForegroundSampler(probability=1.0)
    centres = [tuple(sampler.centre((30, 30, 30), np.concatenate([big, small]), rng)) for _ in range(2000)]
    share = np.mean([centre == (20, 20, 20) for centre in centres])
    assert share == pytest.approx(0.5, abs=0.05)  # 4.5 standard deviations
    assert all(max(centre) < 9 or centre == (20, 20, 20) for centre in centres)


def test_foreground_probability_is_the_share_of_labelled_centres():
    foreground = np.array([[1, 0, 0, 0]], np.int32)
    rng = np.random.default_rng(0)
    sampler = ForegroundSampler(probability=0.85)
    hits = np.mean([tuple(sampler.centre((50, 50, 50), foreground, rng)) == (0, 0, 0) for _ in range(4000)])
    assert hits == pytest.approx(0.85, abs=0.03)


def test_lesion_at_a_face_can_be_centred_on_where_the_patch_fills_the_axis():
    """TorchIO's LabelSampler finds no legal centre here and raises."""
    foreground = np.array([[1, 0, 127, 3]], np.int32)
    centre = ForegroundSampler(1.0).centre((128, 128, 160), foreground, np.random.default_rng(0))
    assert patch_start(centre, (128, 128, 160), (128, 128, 128)) == [0, 0, 0]


def test_a_case_without_foreground_is_sampled_uniformly():
    centre = ForegroundSampler(1.0).centre((5, 6, 7), np.zeros((0, 4), np.int32), np.random.default_rng(0))
    assert all(0 <= voxel < side for voxel, side in zip(centre, (5, 6, 7), strict=True))


def test_a_probability_is_checked():
    with pytest.raises(PocketError, match=r"from 0 to 1, got 1\.5"):
        ForegroundSampler(1.5)
