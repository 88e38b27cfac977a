"""Sliding windows against one window over everything and a plain weighted average in float64."""

import gc
import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from lightning_pocket.errors import PocketError
from lightning_pocket.inference import SlidingWindow, gaussian_importance, window_starts
from lightning_pocket.inference.slab import Slab
from lightning_pocket.inference.sliding_window import _in_memory
from lightning_pocket.inference.window_predictor import WindowPredictor

AWKWARD = [  # image, patch
    ((13, 17, 11), (8, 8, 8)),
    ((5, 19, 7), (8, 8, 8)),  # shorter than the patch on two axes
    ((1, 23, 16), (1, 8, 8)),  # one slice
    ((31, 3, 3), (8, 2, 3)),  # thin
    ((29, 37), (16, 12)),
    ((6, 40), (16, 16)),
]


def random_image(size, channels=2, batch=1) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patch", [(16,), (9, 8), (12, 7, 5), (1, 8, 8)])
@pytest.mark.parametrize("sigma_scale", [0.125, 0.2])
def test_gaussian_is_a_blurred_impulse(patch, sigma_scale):
    impulse = np.zeros(patch)
    impulse[tuple(n // 2 for n in patch)] = 1
    blurred = ndimage.gaussian_filter(impulse, [sigma_scale * n for n in patch], mode="constant", truncate=10)
    found = gaussian_importance(patch, sigma_scale)
    np.testing.assert_allclose(found, blurred / blurred.max(), rtol=1e-5)
    assert found.dtype == torch.float32


def test_gaussian_never_reaches_zero():
    default = gaussian_importance((64, 64, 64))
    assert default.max() == 1
    assert default.min().item() == pytest.approx(np.exp(-24), rel=1e-4)
    assert gaussian_importance((64,), sigma_scale=0.001).min().item() == pytest.approx(1e-12)


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "starts"),
    [
        (10, 4, 0.5, [0, 2, 4, 6]),
        (11, 4, 0.5, [0, 2, 4, 6, 7]),
        (9, 4, 0, [0, 4, 5]),
        (8, 4, 0, [0, 4]),
        (4, 4, 0.5, [0]),
        (12, 10, 0.9, [0, 1, 2]),
        (5, 2, 0.99, [0, 1, 2, 3]),
    ],
)
def test_window_starts(size, patch, overlap, starts):
    assert window_starts(size, patch, overlap) == starts


@pytest.mark.parametrize(("size", "patch"), AWKWARD)
@pytest.mark.parametrize("importance", ["gaussian", "uniform"])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_identity_and_constant_networks_come_back_exactly(size, patch, importance, overlap):
    image = random_image(size, batch=2)
    window = SlidingWindow(overlap, importance, window_batch=3)
    assert torch.equal(window(lambda x: x, image, patch), image)

    def constant(x: Tensor) -> Tensor:
        return torch.tensor([0.1, -3e4, 7.3]).view(1, 3, *[1] * len(size)).expand(len(x), 3, *x.shape[2:])

    assert torch.equal(window(constant, image, patch), constant(image))


def position(x: Tensor) -> Tensor:
    """Depends on the place in the window, so that overlapping windows disagree."""
    ramp = torch.arange(x[0, 0].numel(), dtype=x.dtype).view(x.shape[2:]).sin()
    return torch.cat([x * ramp, x + 10 * ramp, x.square()], dim=1)


@pytest.mark.parametrize(("size", "patch"), [((13, 17, 11), (8, 6, 8)), ((29, 37), (16, 12))])
@pytest.mark.parametrize("importance", ["gaussian", "uniform"])
def test_disagreeing_windows_are_averaged(size, patch, importance):
    image = random_image(size)
    weight = np.ones(patch) if importance == "uniform" else gaussian_importance(patch).double().numpy()
    total, norm = np.zeros((1, 6, *size)), np.zeros(size)
    steps = [sorted({*range(0, n - p, p // 2), n - p}) for n, p in zip(size, patch, strict=True)]
    for corner in itertools.product(*steps):
        where = (..., *(slice(c, c + p) for c, p in zip(corner, patch, strict=True)))
        total[where] += weight * position(image[where].double()).numpy()
        norm[where] += weight
    found = SlidingWindow(importance=importance)(position, image, patch)
    np.testing.assert_allclose(found, total / norm, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(found.argmax(1), (total / norm).argmax(1))


@pytest.mark.parametrize("window_batch", [2, 5, 100])
def test_window_batch_changes_nothing(window_batch):
    image = random_image((13, 17, 11), batch=2)
    expected = SlidingWindow()(position, image, (8, 8, 8))
    seen = []

    def predict(x: Tensor) -> Tensor:
        seen.append(len(x) // 2)
        return position(x)

    found = SlidingWindow(window_batch=window_batch)(predict, image, (8, 8, 8))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert max(seen) == min(window_batch, sum(seen) // len(window_starts(13, 8, 0.5)))  # those of one slab


def test_one_window_is_the_prediction_itself():
    image = random_image((8, 8, 8))
    assert torch.equal(SlidingWindow()(position, image, (8, 8, 8)), position(image))
    small = random_image((8, 5, 8))
    padded = torch.nn.functional.pad(small, (0, 0, 1, 2))
    assert torch.equal(SlidingWindow()(position, small, (8, 8, 8)), position(padded)[:, :, :, 1:6])


def test_output_is_float32_under_autocast():
    network = torch.nn.Conv2d(2, 3, 1)
    for size in ((8, 8), (13, 9)):
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert SlidingWindow()(network, random_image(size), (8, 8)).dtype == torch.float32


def peak_bytes_while_predicting(overlap: float, planes: int = 32, whole: bool = True) -> tuple[int, int]:
    """Return the windows predicted and the most bytes of tensors alive at any of them, beside what was alive before."""
    image = random_image((planes, 32, 32), channels=1)
    windows, peak = 0, 0

    def alive() -> dict[int, int]:
        tensors = [x for x in gc.get_objects() if type(x) is Tensor]
        return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}

    def predict(x: Tensor) -> Tensor:
        nonlocal windows, peak
        new = sum(size for place, size in alive().items() if place not in before)
        windows, peak = windows + 1, max(peak, new)
        return torch.cat([x, x, x], dim=1)

    gc.collect()
    before = alive()
    gc.freeze()  # what is there already need not be looked through at every window
    try:
        if whole:
            SlidingWindow(overlap)(predict, image, (16, 16, 16))
        else:
            for _ in SlidingWindow(overlap).slabs(predict, image, (16, 16, 16)):
                pass
    finally:
        gc.unfreeze()
    return windows, peak


def test_memory_does_not_grow_with_the_number_of_windows():
    volume, window = 4 * 32**3, 4 * 16**3
    few, many = peak_bytes_while_predicting(0.0), peak_bytes_while_predicting(0.5)
    assert (few[0], many[0]) == (8, 27)
    assert few[1] == many[1]
    # The output of three classes, a slab of half the planes for three means and the weights, and room for one window.
    assert 5 * volume <= many[1] <= 5 * volume + 3 * window


def test_memory_of_slabs_does_not_grow_with_the_number_of_planes():
    short, long = (peak_bytes_while_predicting(0.5, planes, whole=False) for planes in (32, 160))
    assert long[0] == 19 * 9
    assert short[1] == long[1]


@pytest.mark.parametrize(("size", "patch"), AWKWARD)
def test_slabs_are_the_whole_prediction_in_order(size, patch):
    image = random_image(size, batch=2)
    expected = SlidingWindow()(position, image, patch)
    end = 0
    for first, slab in SlidingWindow().slabs(position, image, patch):
        assert first == end
        end = first + slab.shape[2]
        torch.testing.assert_close(slab, expected[:, :, first:end], rtol=0, atol=0)
    assert end == size[0]


@pytest.mark.parametrize(("size", "patch"), AWKWARD)
def test_count_is_the_number_of_windows(size, patch):
    windows = 0

    def predict(x: Tensor) -> Tensor:
        nonlocal windows
        windows += 1
        return x

    SlidingWindow()(predict, random_image(size), patch)
    assert SlidingWindow().count(size, patch) == windows


@pytest.mark.parametrize("size", [(8, 8), (11, 13), (8, 8, 8), (9, 8, 11)])
def test_flips_average_every_flipped_prediction(size):
    patch = (8,) * len(size)
    weight = torch.randn(2, 2, *[3] * len(size), generator=torch.Generator().manual_seed(1))
    convolve = torch.nn.functional.conv2d if len(size) == 2 else torch.nn.functional.conv3d

    def predict(x: Tensor) -> Tensor:
        return convolve(x, weight, padding=1)

    def flipped(x: Tensor) -> Tensor:
        axes = [axis + 2 for axis in range(len(size))]
        subsets = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
        return torch.stack([predict(x.flip(c)).flip(c) for c in subsets]).mean(0)

    image = random_image(size)
    found = SlidingWindow(flips=True)(predict, image, patch)
    torch.testing.assert_close(found, SlidingWindow()(flipped, image, patch), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, SlidingWindow()(predict, image, patch), atol=1e-2)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_fewer_windows_at_a_time_where_memory_is_short(error):
    image = random_image((13, 17, 11))
    seen = []

    def predict(x: Tensor) -> Tensor:
        seen.append(len(x))
        if len(x) > 2:
            raise error
        return position(x)

    with pytest.warns(UserWarning, match="8 windows at a time do not fit into memory: going on with 4"):
        found = SlidingWindow(window_batch=12)(predict, image, (8, 8, 8))
    assert torch.equal(found, SlidingWindow()(position, image, (8, 8, 8)))
    assert seen[:3] == [8, 4, 2]
    assert max(seen[3:]) == 2  # it is not tried again


def test_the_mean_moves_to_the_cpu_before_giving_up():
    """Meta tensors stand for a device whose memory runs out once the mean is kept on it."""
    slab = Slab((1, 2, 8, 8), torch.ones(8, 8), torch.device("meta"))
    moved = []
    slab.move_to_cpu = lambda: moved.append(True)  # meta tensors have no values to move

    def predict(x: Tensor) -> Tensor:
        if not moved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    assert torch.equal(_in_memory(WindowPredictor(predict), [torch.ones(1, 2, 8, 8)], slab)[0], torch.ones(1, 2, 8, 8))
    assert moved


@pytest.mark.parametrize("method", ["shift", "add"])
def test_a_slab_that_finds_no_memory_moves_to_the_cpu(monkeypatch, method):
    image = random_image((13, 9, 8))
    expected = SlidingWindow()(position, image, (8, 8, 8))
    whole, failed = getattr(Slab, method), []

    def once(slab, *arguments):
        if not failed:
            failed.append(True)
            slab.mean = Elsewhere(slab.mean)
            raise torch.OutOfMemoryError("CUDA out of memory")
        whole(slab, *arguments)

    monkeypatch.setattr(Slab, method, once)
    assert torch.equal(SlidingWindow()(position, image, (8, 8, 8)), expected)
    assert failed


class Elsewhere:
    """Stands for a tensor on another device until it is moved."""

    device = torch.device("meta")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def cpu(self) -> Tensor:
        return self.tensor


def test_a_window_too_large_for_memory_is_a_clear_error():
    def predict(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(PocketError, match="a single window of 8x8x8 voxels does not fit"):
        SlidingWindow(window_batch=2)(predict, random_image((8, 8, 8)), (8, 8, 8))


def test_other_errors_of_the_network_are_not_hidden():
    def predict(_: Tensor) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        SlidingWindow(window_batch=2)(predict, random_image((9, 8, 8)), (8, 8, 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SlidingWindow(overlap=1), "overlap: found 1"),
        (lambda: SlidingWindow(overlap=-0.1), "overlap: found -0.1"),
        (lambda: SlidingWindow(importance="hann"), "importance: found 'hann'"),
        (lambda: SlidingWindow(sigma_scale=0), "sigma_scale: found 0"),
        (lambda: SlidingWindow(window_batch=0), "window_batch: found 0"),
        (lambda: SlidingWindow()(position, random_image((8, 8)), (4, 4, 4)), r"patch_size: found \[4, 4, 4\]"),
        (lambda: SlidingWindow()(position, random_image((8, 8)), (4, 0)), r"patch_size: found \[4, 0\]"),
        (lambda: SlidingWindow()(lambda x: x[..., ::2], random_image((8, 8)), (4, 4)), "predict: found an output"),
        (lambda: window_starts(4, 5, 0.5), "found 5 voxels on an axis of 4"),
        (lambda: gaussian_importance(()), "patch_size"),
        (lambda: gaussian_importance((4, 4), sigma_scale=-1), "sigma_scale, minimum: found -1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(PocketError, match=message):
        call()
