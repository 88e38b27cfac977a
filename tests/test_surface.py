"""Surface distances against loops over all pairs, closed forms, SciPy and SimpleITK; scores of cases."""

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import column_name, score_case, surface_distances, volume_hd95
from lightning_pocket.types import CASE_METRICS

#: Distances of images whose voxel size is known are in mm alone.
MM_METRICS = [metric for metric in CASE_METRICS if not metric.endswith("_px")]

SPACING = (2.5, 0.8, 1.1)
FORMS = [((6, 7, 5), SPACING), ((9, 8), (0.7, 1.6))]


def random_masks(shape, seed, density=0.4):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < density, rng.random(shape) < density


def surface_of(mask):
    """Voxels with a face neighbour outside, found one by one; beyond the border is outside."""
    found = []
    for voxel in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            neighbour = list(voxel)
            neighbour[axis] += step
            if not 0 <= neighbour[axis] < mask.shape[axis] or not mask[tuple(neighbour)]:
                found.append(voxel)
                break
    return found


def nearest(voxels, others, spacing):
    return [
        min(math.sqrt(sum(((a - b) * mm) ** 2 for a, b, mm in zip(v, o, spacing, strict=True))) for o in others)
        for v in voxels
    ]


def percentile95(values):
    """Linear interpolation between order statistics, written out."""
    ordered = sorted(values)
    rank = 0.95 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def brute_force(first, second, spacing, tolerance):
    a, b = surface_of(first), surface_of(second)
    forth, back = nearest(a, b, spacing), nearest(b, a, spacing)
    pooled = forth + back
    return (
        max(percentile95(forth), percentile95(back)),
        sum(pooled) / len(pooled),
        sum(d <= tolerance for d in pooled) / len(pooled),
    )


def as_tuple(distances):
    return distances.hd95_mm, distances.asd_mm, distances.surface_dice


def itk_distances(first, second, spacing):
    """SimpleITK's recipe: pad, contour, absolute Maurer distance of the contour."""
    contours = []
    for mask in (first, second):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing([float(mm) for mm in spacing[::-1]])
        padded = sitk.ConstantPad(image, [1] * mask.ndim, [1] * mask.ndim, 0)
        contours.append(sitk.LabelContour(padded, fullyConnected=False))
    maps = [sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True) for c in contours]
    surfaces = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    forth = np.abs(sitk.GetArrayFromImage(maps[1]))[surfaces[0]]
    back = np.abs(sitk.GetArrayFromImage(maps[0]))[surfaces[1]]
    return max(np.percentile(forth, 95), np.percentile(back, 95)), np.concatenate([forth, back]).mean()


def ball(shape, centre, radius, spacing=(1, 1, 1)):
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum(((g - c) * mm) ** 2 for g, c, mm in zip(grid, centre, spacing, strict=True)) <= radius**2


@pytest.mark.parametrize(("shape", "spacing"), FORMS, ids=["3d", "2d"])
@pytest.mark.parametrize("density", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_all_pairs_of_surface_voxels(shape, spacing, density, seed):
    first, second = random_masks(shape, seed, density)
    first.flat[0] = second.flat[-1] = True  # neither is empty, and both touch the border
    found = surface_distances(first, second, spacing, tolerance_mm=1.3)
    assert as_tuple(found) == pytest.approx(brute_force(first, second, spacing, 1.3), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_simpleitk_and_scipy_agree_on_blobs_that_touch_the_border(seed):
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(size=(20, 30, 25)), 2) for _ in range(2)]
    first, second = noise[0] > 0.02, noise[0] + 0.3 * noise[1] > 0.03
    assert first[0].any()
    assert first[:, -1].any()
    found = surface_distances(first, second, SPACING, tolerance_mm=2)
    assert (found.hd95_mm, found.asd_mm) == pytest.approx(itk_distances(first, second, SPACING), rel=1e-5)
    surfaces = [m & ~ndimage.binary_erosion(m) for m in (first, second)]
    forth, back = (ndimage.distance_transform_edt(~b, sampling=SPACING)[a] for a, b in (surfaces, surfaces[::-1]))
    assert found.asd_mm == pytest.approx((forth.sum() + back.sum()) / (forth.size + back.size), rel=1e-12)
    assert found.surface_dice == pytest.approx(((forth <= 2).sum() + (back <= 2).sum()) / (forth.size + back.size))


def test_single_voxels_are_as_far_apart_as_they_lie():
    first, second = np.zeros((2, 9, 9, 9), bool)
    first[1, 2, 3] = second[4, 6, 8] = True
    expected = math.sqrt((3 * 2.5) ** 2 + (4 * 0.8) ** 2 + (5 * 1.1) ** 2)
    found = surface_distances(first, second, SPACING)
    assert as_tuple(found) == pytest.approx((expected, expected, 0))
    assert surface_distances(first, second, SPACING, tolerance_mm=expected).surface_dice == 1


def test_a_shifted_plate():
    """A plate one voxel thick is all surface: every distance is the shift, whatever the crop."""
    first, second = np.zeros((2, 30, 12, 12), bool)
    first[10, 2:9, 2:9] = second[14, 2:9, 2:9] = True
    assert as_tuple(surface_distances(first, second, (1.5, 1, 1), tolerance_mm=6)) == (6, 6, 1)
    assert as_tuple(surface_distances(first, second, (1.5, 1, 1), tolerance_mm=5.9)) == (6, 6, 0)


def test_two_cubes_one_voxel_apart():
    first, second = np.zeros((2, 8, 8, 8), bool)
    first[2:5, 2:5, 2:5] = second[3:6, 2:5, 2:5] = True
    found = surface_distances(first, second, (1, 1, 1), tolerance_mm=0.5)
    # Of 26 surface voxels 10 lie 1 mm off: the 9 of the far face, and the one at the centre of the other cube.
    assert found.hd95_mm == 1
    assert found.asd_mm == pytest.approx(10 / 26)
    assert found.surface_dice == pytest.approx(16 / 26)


def test_concentric_spheres_are_as_far_apart_as_their_radii():
    spacing = (1.0, 0.5, 0.5)
    shape, centre = (45, 90, 90), (22, 45, 45)
    found = surface_distances(ball(shape, centre, 12, spacing), ball(shape, centre, 19, spacing), spacing)
    assert (found.asd_mm, found.hd95_mm) == pytest.approx((7, 7), abs=0.5)  # half a voxel


def test_beyond_the_border_is_background():
    full, hollow = np.ones((2, 5, 5, 5), bool)
    hollow[2, 2, 2] = False
    # The hollow adds 6 surface voxels, one voxel inside the 98 that both have at the border.
    found = surface_distances(full, hollow, (1, 1, 1), tolerance_mm=0)
    assert found.asd_mm == pytest.approx(6 / (98 + 104))
    assert found.surface_dice == pytest.approx(1 - 6 / (98 + 104))


def test_tolerance_survives_the_rounding_of_headers():
    first, second = np.zeros((2, 6, 3, 3), bool)
    first[1, 1, 1] = second[4, 1, 1] = True
    third = float(np.float32(1 / 3))
    assert 3 * third > 1
    assert surface_distances(first, second, (third, 1, 1), tolerance_mm=1).surface_dice == 1


@pytest.mark.parametrize(("shape", "spacing"), FORMS, ids=["3d", "2d"])
def test_empty_masks(shape, spacing):
    none, some = np.zeros((2, *shape), bool)
    some.flat[7] = True
    diagonal = math.sqrt(sum((n * mm) ** 2 for n, mm in zip(shape, spacing, strict=True)))
    assert as_tuple(surface_distances(none, none, spacing)) == (0, 0, 1)
    assert volume_hd95(none, none, spacing) == 0
    for pair in ((none, some), (some, none)):
        assert as_tuple(surface_distances(*pair, spacing)) == pytest.approx((diagonal, diagonal, 0))
        assert volume_hd95(*pair, spacing) == pytest.approx(diagonal)
        assert as_tuple(surface_distances(*pair, spacing, empty_mm=50)) == (50, 50, 0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(FORMS), st.integers(0, 2**20), st.floats(0.02, 0.95), st.floats(0.2, 3), st.permutations([0, 1, 2])
)
def test_order_of_masks_and_axes_and_place_do_not_matter(form, seed, density, scale, order):
    shape, spacing = form
    first, second = random_masks(shape, seed, density)
    expected = as_tuple(surface_distances(first, second, spacing))
    assert as_tuple(surface_distances(second, first, spacing)) == pytest.approx(expected)
    axes = [axis for axis in order if axis < first.ndim]
    turned = [np.flip(mask.transpose(axes), 0) for mask in (first, second)]
    assert as_tuple(surface_distances(*turned, [spacing[axis] for axis in axes])) == pytest.approx(expected)
    larger = as_tuple(surface_distances(first, second, [mm * scale for mm in spacing], tolerance_mm=scale))
    assert larger == pytest.approx((expected[0] * scale, expected[1] * scale, expected[2]))
    if first.any() and second.any():
        padded = [np.pad(mask, ((3, 2), *[(1, 4)] * (first.ndim - 1))) for mask in (first, second)]
        assert as_tuple(surface_distances(*padded, spacing)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_volume_hd95_counts_voxels_inside_as_zero(seed):
    first, second = random_masks((6, 7, 5), seed, 0.2)
    voxels = [list(zip(*np.nonzero(mask), strict=True)) for mask in (first, second)]
    forth, back = nearest(voxels[0], voxels[1], SPACING), nearest(voxels[1], voxels[0], SPACING)
    assert volume_hd95(first, second, SPACING) == pytest.approx(max(percentile95(forth), percentile95(back)))


def test_volume_hd95_forgives_what_surfaces_do_not():
    first, second = ball((40, 40, 40), (20, 20, 20), 16), ball((40, 40, 40), (20, 20, 20), 16)
    second[20:22, 20, 36:39] = True  # a thorn
    second[0:2, 0:2, 0:2] = True  # an island
    assert volume_hd95(first, second, (1, 1, 1)) == 0
    assert surface_distances(first, second, (1, 1, 1)).asd_mm > 0


@pytest.mark.parametrize(
    ("shapes", "spacing", "tolerance", "message"),
    [
        (((3, 4, 5), (3, 4, 6)), (1, 1, 1), 1, r"\(3, 4, 5\) and \(3, 4, 6\)"),
        (((3,), (3,)), (1,), 1, "expected twice the same"),
        (((3, 4, 5), (3, 4, 5)), (1, 1), 1, "expected 3 positive voxel sizes"),
        (((3, 4), (3, 4)), (1, 0), 1, "expected 2 positive voxel sizes"),
        (((3, 4), (3, 4)), (1, float("nan")), 1, "expected 2 positive voxel sizes"),
        (((3, 4), (3, 4)), (1, 1), -1, "tolerance_mm: found -1"),
        (((3, 4), (3, 4)), (1, 1), float("nan"), "tolerance_mm: found nan"),
    ],
)
def test_wrong_arguments(shapes, spacing, tolerance, message):
    masks = [np.ones(shape, bool) for shape in shapes]
    with pytest.raises(PocketError, match=message):
        surface_distances(*masks, spacing, tolerance)
    if "tolerance" not in message:
        with pytest.raises(PocketError, match=message):
            volume_hd95(*masks, spacing)


CLASSES = ["background", "left lung", "heart/vessels", "lesion"]
COLUMNS = ["left_lung", "heart_vessels", "lesion"]


def label_maps(dtype=np.uint8, shape=(10, 12, 11)):
    """Two label maps with the classes 1 and 2 apart from the border, and 3 only predicted."""
    predicted, truth = np.zeros((2, *shape), dtype)
    truth[2:8, 2:9, 2:5], predicted[3:8, 2:9, 2:6] = 1, 1
    truth[2:8, 3:8, 7:9], predicted[2:8, 3:9, 7:9] = 2, 2
    predicted[9, 11, 10] = 3
    return predicted, truth


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_score_case_is_made_of_the_scores_of_each_mask(dtype):
    predicted, truth = label_maps(dtype)
    row = score_case(predicted, truth, CLASSES, SPACING, tolerance_mm=1.2)
    for index, name in enumerate(COLUMNS, start=1):
        a, b = predicted == index, truth == index
        expected = surface_distances(a, b, SPACING, 1.2)
        assert row[f"dice_{name}"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert [row[f"{m}_{name}"] for m in MM_METRICS[1:]] == list(as_tuple(expected))
        assert (row[f"voxels_{name}"], row[f"predicted_{name}"]) == (b.sum(), a.sum())
    for metric in MM_METRICS:
        assert row[metric] == pytest.approx(np.mean([row[f"{metric}_{name}"] for name in COLUMNS]))
    assert row["hd95_mm_lesion"] == pytest.approx(math.hypot(10 * 2.5, 12 * 0.8, 11 * 1.1))  # of the whole image
    assert all(type(value) in (int, float) for value in row.values())


def test_columns_are_in_a_fixed_order():
    row = score_case(*label_maps(), CLASSES, SPACING)
    scores = [f"{metric}_{name}" for name in COLUMNS for metric in MM_METRICS]
    counts = [f"{kind}_{name}" for kind in ("voxels", "predicted") for name in COLUMNS]
    assert list(row) == [*MM_METRICS, *scores, *counts]
    light = score_case(*label_maps(), CLASSES, SPACING, surface=False)
    assert list(light) == ["dice", *(f"dice_{name}" for name in COLUMNS), *counts]
    assert light == {column: row[column] for column in light}


def test_volume_hd95_is_there_on_demand():
    predicted, truth = label_maps()
    row = score_case(predicted, truth, CLASSES, SPACING, volume=True)
    assert row["volume_hd95_mm_left_lung"] == volume_hd95(predicted == 1, truth == 1, SPACING)
    assert "volume_hd95_mm" not in score_case(predicted, truth, CLASSES, SPACING)


def test_two_empty_label_maps_are_perfect():
    empty = np.zeros((4, 5, 6), np.uint8)
    row = score_case(empty, empty, ["background", "a"], (1, 1, 1))
    best = {"dice": 1.0, "hd95_mm": 0.0, "asd_mm": 0.0, "surface_dice": 1.0}
    assert row == best | {f"{metric}_a": value for metric, value in best.items()} | {"voxels_a": 0, "predicted_a": 0}


@pytest.mark.parametrize("ignore", [255, -1])
def test_ignored_voxels_are_background_in_both(ignore):
    predicted, truth = (labels.astype(np.int16) for labels in label_maps())
    ignored = np.zeros(truth.shape, bool)
    ignored[:, :, 4:8] = True
    cut = [np.where(ignored, 0, labels) for labels in (predicted, truth)]
    expected = score_case(*cut, CLASSES, SPACING)
    assert expected != score_case(predicted, truth, CLASSES, SPACING)
    assert score_case(predicted, np.where(ignored, ignore, truth), CLASSES, SPACING, ignore_index=ignore) == expected


def test_plane_images():
    predicted, truth = (labels[5] for labels in label_maps())
    row = score_case(predicted, truth, CLASSES, (0.8, 1.1))
    assert row["asd_mm_left_lung"] == surface_distances(predicted == 1, truth == 1, (0.8, 1.1)).asd_mm


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.full((10, 12, 11), 4, np.uint8)}, "truth: found values from 4 to 4; expected classes 0 to 3"),
        ({"predicted": np.full((10, 12, 11), -1)}, "predicted: found values from -1 to -1"),
        ({"predicted": np.zeros((10, 12, 11), np.float32)}, "predicted: found values of type float32"),
        ({"predicted": np.zeros((10, 12, 10), np.uint8)}, r"predicted: found shape \(10, 12, 10\)"),
        ({"classes": ["background", "a b", "a/b", "c"]}, "names differ by more than spaces"),
        ({"classes": ["background"]}, "at least one more class"),
        ({"spacing": (1, 1)}, "expected 3 positive voxel sizes"),
        ({"tolerance_mm": -1}, "tolerance_mm"),
    ],
)
def test_wrong_cases(change, message):
    predicted, truth = label_maps()
    arguments = {"predicted": predicted, "truth": truth, "classes": CLASSES, "spacing": SPACING} | change
    with pytest.raises(PocketError, match=message):
        score_case(**arguments)


def test_names_fit_columns():
    assert column_name("left lung/upper lobe") == "left_lung_upper_lobe"
