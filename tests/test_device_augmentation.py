"""Augmentation on the device against TorchIO: same draws, same results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchio as tio
from image_datasets import write_covidx
from interruption import kill_after
from pytorch_lightning import LightningModule, Trainer
from scipy import stats

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data import ImageDataModule, VolumeDataModule
from lightning_pocket.data.augment import RandomAxisFlip, RandomVoxelBlur, to_subject
from lightning_pocket.data.on_device.apply import augment
from lightning_pocket.data.on_device.draw import RecipeDrawer
from lightning_pocket.data.on_device.steps import Flip, Warp
from lightning_pocket.data.splits import SplitSettings
from lightning_pocket.errors import PocketError

pytestmark = pytest.mark.filterwarnings("ignore:The maximum displacement is larger")  # slices have no room
SHAPE = (11, 20, 16)
SPACING = (3.0, 1.0, 1.5)
AFFINE = {"scales": (0.8, 1.3), "degrees": 25, "translation": 4}
ELASTIC = {"num_control_points": (5, 6, 7), "max_displacement": (1.5, 2.0, 1.0)}

#: Everything at once would hide a wrong order of draws behind a wrong result; so each alone, and whole lists.
SINGLE = {
    "axis flip": RandomAxisFlip(axes=(1,), p=0.7),  # TorchIO cannot flip an axis of one voxel
    "flip": tio.RandomFlip(axes=(0, 2), flip_probability=0.5, p=0.8),
    "noise": tio.RandomNoise(mean=(-0.2, 0.2), std=(0.1, 0.5), p=0.7),
    "voxel blur": RandomVoxelBlur(std=(0.05, 1.6), p=0.7),
    "blur": tio.RandomBlur(std=(0.2, 4.0)),
    "gamma": tio.RandomGamma(log_gamma=0.4, p=0.7),
    "bias field": tio.RandomBiasField(coefficients=0.4, order=3, p=0.7),
    "bias field of order 2": tio.RandomBiasField(coefficients=(0.1, 0.4), order=2),
    "affine": tio.RandomAffine(**AFFINE, p=0.8),
    "isotropic": tio.RandomAffine(scales=0.3, degrees=40, isotropic=True),
    "affine about the origin": tio.RandomAffine(**AFFINE, center="origin", default_pad_value=-7.5),
    "affine between means": tio.RandomAffine(**AFFINE, default_pad_value="mean", default_pad_label=255),
    "elastic": tio.RandomElasticDeformation(**ELASTIC, locked_borders=1, p=0.8),
    "elastic with free borders": tio.RandomElasticDeformation(**ELASTIC, locked_borders=0),
    "elastic without displacement": tio.RandomElasticDeformation(max_displacement=0),
    "affine, then elastic": tio.RandomAffineElasticDeformation(True, AFFINE, ELASTIC),
}


def sample(seed: int, shape=SHAPE, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth channels of different ranges, and a label with a class that does not count (255)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, *(max(1, side // 3) for side in shape), generator=generator)
    image = torch.nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)[0]
    image = image * torch.tensor([1.0, 40.0, 3.0])[:channels, None, None, None] - 0.4
    label = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[torch.randint(4, shape, generator=generator)]
    return image.contiguous(), label


def by_torchio(transforms, image, label, seed, spacing=SPACING):
    torch.manual_seed(seed)
    subject = tio.Compose(transforms, copy=False)(to_subject(image.clone(), label.clone(), spacing, "x"))
    return subject["image"].data.float(), subject["label"].data[0].to(torch.uint8)


def draw(transforms, seed, channels=2, spacing=SPACING):
    torch.manual_seed(seed)
    return RecipeDrawer(transforms).draw(spacing, channels)


def on_device(transforms, images, labels, seeds, spacing=SPACING):
    image, label = torch.stack(images), torch.stack(labels)
    augment(image, label, [draw(transforms, seed, image.shape[1], spacing) for seed in seeds])
    return image, label


def assert_same(found, expected, exact: bool = True) -> None:
    """Compare; where a resampling rounds differently, some voxels at a border between two labels may differ."""
    for place, (image, label) in enumerate(expected):
        span = float(image.max() - image.min())
        off = (found[0][place] - image).abs() > 1e-4 * span
        assert off.float().mean() < (1e-9 if exact else 2e-3)
        assert (found[1][place] != label).float().mean() < (1e-9 if exact else 2e-3)


@pytest.mark.parametrize("shape", [SHAPE, (1, 18, 15), (5, 7, 1)], ids=["volume", "slice", "flat"])
@pytest.mark.parametrize("name", SINGLE)
def test_one_transform_gives_what_torchio_gives_from_the_same_seed(name, shape):
    samples = [sample(seed, shape) for seed in range(6)]
    expected = [by_torchio([SINGLE[name]], *pair, seed) for seed, pair in enumerate(samples)]
    found = on_device([SINGLE[name]], *zip(*samples, strict=True), range(6))
    warps = any(word in name for word in ("affine", "elastic", "isotropic"))
    assert_same(found, expected, exact=not warps)
    if name != "elastic without displacement" and 1 not in shape:
        assert any(not torch.equal(image, pair[0]) for (image, _), pair in zip(expected, samples, strict=True))


def test_elastic_then_affine_interpolates_a_smooth_field():
    elastic = {"num_control_points": 6, "max_displacement": 3}
    transform = tio.RandomAffineElasticDeformation(False, AFFINE, elastic)
    image, label = sample(0, (40, 48, 44))
    expected = by_torchio([transform], image, label, 3, (1, 1, 1))
    found = on_device([transform], [image], [label], [3], (1, 1, 1))
    off = (found[0][0] - expected[0]).abs() / (expected[0].max() - expected[0].min())
    assert (off > 1e-3).float().mean() < 0.005
    assert (found[1][0] != expected[1]).float().mean() < 0.003


#: What the presets have, and more, each drawn or not.
CHAIN = [
    RandomAxisFlip(p=0.5),
    tio.RandomAffine(**AFFINE, p=0.5),
    tio.RandomNoise(std=(0.001, 0.05), p=0.5),
    RandomVoxelBlur(std=(0.25, 0.75), p=0.5),
    tio.RandomBiasField(coefficients=0.3, p=0.5),
    tio.RandomGamma(log_gamma=0.2, p=0.5),
]


def test_a_whole_list_gives_what_torchio_gives_sample_by_sample():
    samples = [sample(seed) for seed in range(12)]
    expected = [by_torchio(CHAIN, *pair, seed) for seed, pair in enumerate(samples)]
    found = on_device(CHAIN, *zip(*samples, strict=True), range(12))
    assert_same(found, expected, exact=False)
    alone = [on_device(CHAIN, [image], [label], [seed]) for seed, (image, label) in enumerate(samples)]
    for place, (image, label) in enumerate(alone):  # the company that a sample keeps makes no difference
        torch.testing.assert_close(found[0][place], image[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(found[1][place], label[0])


def test_adjacent_affine_and_elastic_share_one_resampling():
    affine, elastic = tio.RandomAffine(**AFFINE), tio.RandomElasticDeformation(**ELASTIC)
    recipe = draw([affine, elastic, tio.RandomGamma()], 4)
    assert [type(step).__name__ for step in recipe.steps] == ["Warp", "Gamma"]
    image, label = sample(2)
    torch.manual_seed(4)
    fused = tio.RandomAffineElasticDeformation(True, AFFINE, ELASTIC)
    twice = by_torchio([affine, elastic], image, label, 4)
    found = on_device([affine, elastic], [image], [label], [4])
    # The same parameters, resampled once: TorchIO's transform that does so gives the same from them.
    warp_step = recipe.steps[0]
    assert isinstance(warp_step, Warp)
    fused.get_params = lambda: (
        tuple(torch.tensor(getattr(warp_step.parts[0], name)) for name in ("scales", "degrees", "translation")),
        warp_step.parts[1].control_points,
    )
    assert_same(found, [by_torchio([fused], image, label, 0)], exact=False)
    # Resampling twice gives nearly the same in the interior.
    inner = (slice(None), slice(3, -3), slice(5, -5), slice(4, -4))
    span = float(image.max() - image.min())
    assert (found[0][0][inner] - twice[0][inner]).abs().mean() < 0.01 * span


def test_a_part_that_was_not_drawn_changes_nothing():
    transforms = [tio.RandomAffine(**AFFINE, p=0.5), tio.RandomElasticDeformation(**ELASTIC, locked_borders=1, p=0.5)]
    seeds = range(16)
    samples = [sample(seed) for seed in seeds]
    drawn = [draw(transforms, seed).steps[0] for seed in seeds]
    seen = {None if step is None else tuple(part is not None for part in step.parts) for step in drawn}
    assert seen == {None, (True, False), (False, True), (True, True)}
    found = on_device(transforms, *zip(*samples, strict=True), seeds)
    for seed, step in zip(seeds, drawn, strict=True):
        if step is None or not all(step.parts):
            image, label = by_torchio(transforms, *samples[seed], seed)
            assert_same((found[0][seed : seed + 1], found[1][seed : seed + 1]), [(image, label)], exact=False)


def statistics_of(image, label) -> list[float]:
    """Numbers that a wrong distribution of the parameters would shift."""
    centre = [float((image[0].sum(axes) * torch.arange(side)).sum() / image[0].sum()) for axes, side in AXES]
    return [*centre, float(image.mean()), float(image.std()), float(image.amax()), float((label == 1).float().mean())]


AXES = [((1, 2), SHAPE[0]), ((0, 2), SHAPE[1]), ((0, 1), SHAPE[2])]


def test_outputs_have_the_same_distribution_with_other_seeds():
    """Kolmogorov-Smirnov on statistics of the results, TorchIO with one half of the seeds, the device with others."""
    d, h, w = torch.meshgrid(*(torch.arange(float(side)) for side in SHAPE), indexing="ij")
    ball = torch.exp(-((d - 4) ** 2 / 6 + (h - 12) ** 2 / 20 + (w - 6) ** 2 / 12))
    image, label = (ball + 0.05)[None], (ball > 0.5).to(torch.uint8)
    chain = [*CHAIN, tio.RandomElasticDeformation(**ELASTIC, p=0.5)]
    number = 150
    host = [statistics_of(*by_torchio(chain, image, label, seed)) for seed in range(number)]
    batch = on_device(chain, [image] * number, [label] * number, range(10_000, 10_000 + number))
    device = [statistics_of(*pair) for pair in zip(*batch, strict=True)]
    wider = [tio.RandomAffine(scales=(0.7, 1.6), degrees=60, translation=8), *chain[2:]]
    batch = on_device(wider, [image] * number, [label] * number, range(number))
    other = [statistics_of(*pair) for pair in zip(*batch, strict=True)]
    for place in range(7):
        columns = [[row[place] for row in rows] for rows in (host, device, other)]
        assert stats.ks_2samp(columns[0], columns[1]).pvalue > 0.01, place
    assert stats.ks_2samp([row[6] for row in host], [row[6] for row in other]).pvalue < 1e-3  # the test can tell


def parameters(recipe) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for step in recipe.steps:
        for part in step.parts if isinstance(step, Warp) else [step]:
            for name, value in vars(part).items() if part is not None else []:
                if not isinstance(value, str | bool) and name not in ("seed", "spacing", "order"):
                    found.setdefault(f"{type(part).__name__}.{name}", []).extend(np.ravel(value).tolist())
    return found


def test_parameters_are_drawn_from_the_ranges_that_are_set():
    affine = tio.RandomAffine(scales=(0.8, 1.3), degrees=20, translation=(-6, 2))
    chain = [affine, tio.RandomNoise(std=(0.1, 0.4), p=0.25), tio.RandomGamma(log_gamma=(-0.3, 0.1)), RandomAxisFlip()]
    found: dict[str, list[float]] = {}
    for seed in range(800):
        for name, values in parameters(draw(chain, seed, channels=1)).items():
            found.setdefault(name, []).extend(values)
    uniform = {
        "Affine.scales": (0.8, 1.3),
        "Affine.degrees": (-20, 20),
        "Affine.translation": (-6, 2),
        "Noise.std": (0.1, 0.4),
    }
    for name, (low, high) in uniform.items():
        assert stats.kstest(found[name], stats.uniform(low, high - low).cdf).pvalue > 0.01, name
    assert stats.kstest(np.log(found["Gamma.powers"]), stats.uniform(-0.3, 0.4).cdf).pvalue > 0.01
    assert len(found["Noise.std"]) / 800 == pytest.approx(0.25, abs=0.04)
    counts = np.bincount(np.array(found["Flip.axes"], int), minlength=3)
    assert stats.chisquare(counts).pvalue > 0.01


def test_samples_of_a_batch_have_noise_of_their_own():
    image = torch.zeros(3, 1, *SHAPE)
    augment(image, None, [draw([tio.RandomNoise(std=(1, 1))], seed, 1) for seed in (1, 2, 1)])
    assert torch.equal(image[0], image[2])
    assert not torch.equal(image[0], image[1])
    assert stats.kstest(image[0].flatten().numpy(), "norm").pvalue > 0.01


def test_only_those_samples_change_for_which_something_was_drawn():
    flips = [RandomAxisFlip(p=0.5)]
    recipes = [draw(flips, seed) for seed in range(8)]
    samples = [sample(seed) for seed in range(8)]
    image, label = on_device(flips, *zip(*samples, strict=True), range(8))
    for place, recipe in enumerate(recipes):
        step = recipe.steps[0]
        expected = samples[place]
        if isinstance(step, Flip):
            expected = expected[0].flip(step.axes[0] + 1), expected[1].flip(step.axes[0])
        assert torch.equal(image[place], expected[0])
        assert torch.equal(label[place], expected[1])
    assert {recipe.steps[0] is None for recipe in recipes} == {True, False}


def transferred(data, epoch: int = 0):
    """Return the batches of an epoch as a task gets them."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def volumes(cache, augmentation, augment_on, **settings) -> VolumeDataModule:
    return VolumeDataModule(
        str(cache), [8, 16, 16], 3, augmentation=augmentation, augment_on=augment_on, patches_per_epoch=9, **settings
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_module_gives_the_same_batches_on_the_device_as_in_the_loader(blobs_cache, workers):
    for epoch in (0, 3):
        expected = transferred(volumes(blobs_cache, CHAIN, "loader", num_workers=0), epoch)
        plain = transferred(volumes(blobs_cache, [], "device", num_workers=0), epoch)
        found = transferred(volumes(blobs_cache, CHAIN, "device", num_workers=workers), epoch)
        assert len(found) == len(expected) == 3
        for batch, other, untouched in zip(found, expected, plain, strict=True):
            assert sorted(batch) == ["image", "label", "subject"]
            assert batch["subject"] == other["subject"]
            assert_same((batch["image"], batch["label"]), zip(other["image"], other["label"], strict=True), exact=False)
            assert not torch.equal(batch["image"], untouched["image"])


def test_batches_on_the_device_do_not_depend_on_workers_and_leave_random_numbers_alone(blobs_cache):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    single = transferred(volumes(blobs_cache, CHAIN, "device", num_workers=0), 2)
    assert torch.equal(torch.get_rng_state(), state)
    parallel = transferred(volumes(blobs_cache, CHAIN, "device", num_workers=2, prefetch_factor=1), 2)
    assert all(torch.equal(one["image"], two["image"]) for one, two in zip(single, parallel, strict=True))
    other_epoch = transferred(volumes(blobs_cache, CHAIN, "device", num_workers=0), 3)
    assert not torch.equal(single[0]["image"], other_epoch[0]["image"])


def test_validation_is_not_augmented(blobs_cache):
    data = volumes(blobs_cache, CHAIN, "device", validation="patches")
    batch = next(iter(data.val_dataloader()))
    image = batch["image"].clone()
    assert torch.equal(data.on_after_batch_transfer(batch, 0)["image"], image)


def test_a_queue_augments_in_the_loader_alone(blobs_cache):
    with pytest.raises(PocketError, match="augment_on: device needs patch_source memory_map"):
        volumes(blobs_cache, CHAIN, "device", patch_source="queue")


def test_images_are_augmented_on_the_device_as_in_the_loader(tmp_path):
    prepare(str(write_covidx(tmp_path / "raw", 24, 7)), output=str(tmp_path / "cache"), size=[16, 20], workers=1)
    turn = tio.RandomAffine(scales=[1, 1, 0.9, 1.1, 0.9, 1.1], degrees=[-30, 30, 0, 0, 0, 0], p=0.7)
    chain = [tio.RandomFlip(axes=[2]), turn, tio.RandomNoise(p=0.5), tio.RandomGamma(p=0.5)]

    def batches(augment_on, **settings):
        return transferred(
            ImageDataModule(str(tmp_path / "cache"), 8, SplitSettings(max_val="all"), chain, augment_on, **settings)
        )

    expected, found = batches("loader"), batches("device", num_workers=2)
    for one, two in zip(expected, found, strict=True):
        assert one["subject"] == two["subject"]
        assert torch.equal(one["target"], two["target"])
        assert sorted(two) == ["image", "subject", "target"]
        torch.testing.assert_close(one["image"], two["image"], rtol=1e-4, atol=1e-3)


class Collect(LightningModule):
    """Keeps what it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((sorted(batch), batch["image"].clone()))
        return self.weight.sum()

    def validation_step(self, *_):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_hands_recipes_on(blobs_cache):
    task = Collect()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, use_distributed_sampler=False, **quiet)
    trainer.fit(task, volumes(blobs_cache, CHAIN, "device"))
    expected = transferred(volumes(blobs_cache, CHAIN, "device", num_workers=0))
    assert [names for names, _ in task.seen] == [["image", "label", "subject"]] * 3
    assert all(torch.equal(image, batch["image"]) for (_, image), batch in zip(task.seen, expected, strict=True))


@pytest.mark.e2e
def test_a_killed_run_continues_bit_for_bit(options, tmp_path):
    configs = ["--config=strong_augmentation", "--config=augment_on_device", "--data.init_args.patches_per_epoch=12"]
    arguments = ["fit", *options, *configs]
    main([*arguments, f"--run_dir={tmp_path / 'whole'}"])
    kill_after([*arguments, f"--run_dir={tmp_path / 'killed'}"])
    more = ["--data.init_args.num_workers=2", "--data.init_args.prefetch_factor=1"]
    main([*arguments, f"--run_dir={tmp_path / 'killed'}", *more])
    weights = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "killed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    plain = ["fit", *options, "--config=no_augmentation", "--data.init_args.patches_per_epoch=12"]
    main([*plain, f"--run_dir={tmp_path / 'plain'}"])
    other = torch.load(tmp_path / "plain" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not all(torch.equal(weights[0][name], other[name]) for name in other)


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives():
    chain = [transform for transform in CHAIN if not isinstance(transform, tio.RandomNoise)]
    chain.append(tio.RandomElasticDeformation(**ELASTIC, locked_borders=1))
    samples = [sample(seed) for seed in range(8)]
    recipes = [draw(chain, seed) for seed in range(8)]
    image, label = (torch.stack(list(parts)) for parts in zip(*samples, strict=True))
    found = image.cuda(), label.cuda()
    augment(*found, recipes)
    augment(image, label, recipes)
    assert_same((found[0].cpu(), found[1].cpu()), zip(image, label, strict=True), exact=False)


@pytest.mark.gpu
def test_noise_on_a_gpu_is_normal_and_depends_on_its_seed_alone():
    state = torch.cuda.get_rng_state()
    images = [torch.zeros(2, 1, *SHAPE, device="cuda") for _ in range(2)]
    for image in images:
        augment(image, None, [draw([tio.RandomNoise(std=(1, 1))], seed, 1) for seed in (1, 2)])
    assert torch.equal(*images)
    assert not torch.equal(images[0][0], images[0][1])
    assert stats.kstest(images[0].flatten().cpu().numpy(), "norm").pvalue > 0.01
    assert torch.equal(torch.cuda.get_rng_state(), state)
