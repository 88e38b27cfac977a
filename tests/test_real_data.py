"""The whole path on real images; skipped where they are absent."""

import csv

import numpy as np
import pytest
import SimpleITK as sitk

from lightning_pocket.cli import main

pytestmark = [pytest.mark.data, pytest.mark.e2e]

QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--model.init_args.network.init_args.widths.base=4",
    "--data.init_args.batch_size=2",
]


def losses(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def train(tmp_path, table, *options, prepare=()):
    cache, plan, run = tmp_path / "cache", tmp_path / "plan.yaml", tmp_path / "run"
    main(["check", str(table), "--workers=1", *[o for o in prepare if o.startswith("--classes")]])
    main(["prepare", str(table), f"--output={cache}", "--workers=1", *prepare])
    main(["plan", str(cache), f"--output={plan}"])
    configs = ["--config=segment_volumes", f"--config={plan}", "--config=pocket"]
    main(["fit", *configs, f"--run_dir={run}", *QUICK, *options])
    return run


@pytest.fixture(scope="module")
def names(real_data):
    return sorted(path.name for path in (real_data / "hippocampus_msd" / "labelsTr").iterdir())[:25]


@pytest.fixture(scope="module")
def hippocampus(real_data, names, tmp_path_factory):
    """A run of three epochs on some cases of the left and right hippocampus."""
    folder, root = real_data / "hippocampus_msd", tmp_path_factory.mktemp("hippocampus")
    table = root / "cases.csv"
    rows = [f"{n},{folder / 'imagesTr' / n},{folder / 'labelsTr' / n},{i % 5}" for i, n in enumerate(names)]
    table.write_text("\n".join(["subject,t1,label,fold", *rows]) + "\n")
    options = [
        "--config=no_augmentation",
        "--data.init_args.patch_size=[24,32,24]",
        "--data.init_args.patches_per_epoch=60",
        "--model.init_args.optimizer.init_args.lr=0.01",
        "--model.init_args.network.init_args.widths.base=8",
        "--trainer.max_epochs=3",
    ]
    return train(root, table, *options)


def test_hippocampus_learns_from_the_first_epochs(hippocampus, names):
    assert losses(hippocampus)[-1] < 0.9 * losses(hippocampus)[0]
    main(["test", f"--run_dir={hippocampus}"])
    with (hippocampus / "test" / "cases.csv").open(newline="") as file:
        tested = [row["subject"] for row in csv.DictReader(file)]
    assert tested == [name for i, name in enumerate(names) if i % 5 == 0]


def rotated(image, degrees, spacing):
    """Return the grid that is turned about the centre of an image and has another spacing."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    direction = turn @ np.reshape(image.GetDirection(), (3, 3))
    size = [int(np.ceil(n * s / spacing)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    origin = np.array(centre) - direction @ ((np.array(size) - 1) / 2 * spacing)
    return size, (spacing,) * 3, origin.tolist(), direction.ravel().tolist()


def resample(image, grid, interpolator):
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid[0])
    resampler.SetOutputSpacing(grid[1])
    resampler.SetOutputOrigin(grid[2])
    resampler.SetOutputDirection(grid[3])
    resampler.SetInterpolator(interpolator)
    resampler.SetUseNearestNeighborExtrapolator(True)  # black corners would change mean and std
    return resampler.Execute(image)


def test_hippocampus_is_found_in_any_orientation_and_spacing(hippocampus, names, real_data, tmp_path):
    folder = real_data / "hippocampus_msd"
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    image = sitk.Cast(sitk.ReadImage(folder / "imagesTr" / names[0]), sitk.sitkInt16)
    turned = rotated(image, 15, 1.5)
    variants = {
        "straight": image,
        "permuted": sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True), False),
        "rotated": resample(sitk.Cast(image, sitk.sitkFloat32), turned, sitk.sitkLinear),
    }
    for name, variant in variants.items():
        sitk.WriteImage(variant, inputs / f"{name}.nii.gz")
    main(["infer", str(hippocampus), str(inputs), f"--output={outputs}", "--device=cpu"])
    found = {name: sitk.ReadImage(outputs / f"{name}.nii.gz") for name in variants}
    for name in variants:
        source = sitk.ReadImage(inputs / f"{name}.nii.gz")
        for quantity in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(found[name], quantity)() == getattr(source, quantity)(), (name, quantity)
    straight = sitk.GetArrayFromImage(found["straight"])
    undone = sitk.PermuteAxes(sitk.Flip(found["permuted"], (True, False, True), False), (1, 2, 0))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(undone), straight)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(folder / "labelsTr" / names[0]))
    assert dice(straight > 0, truth > 0) > 0.75
    expected = sitk.GetArrayFromImage(resample(found["straight"], turned, sitk.sitkNearestNeighbor))
    assert dice(sitk.GetArrayFromImage(found["rotated"]) > 0, expected > 0) >= 0.8


def dice(a, b):
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


def test_an_abdominal_ct_of_26_slices_trains(real_data, tmp_path):
    folder = real_data / "abdomen_ct" / "msd_spleen2_crop"
    table = tmp_path / "cases.csv"
    rows = [
        f"scan_{i},{folder / 'ct.nii.gz'},{folder / 'spleen.nii.gz'},{split}"
        for i, split in enumerate(["train", "val"])
    ]
    table.write_text("\n".join(["subject,CT,label,split", *rows]) + "\n")
    run = train(
        tmp_path,
        table,
        "--trainer.max_epochs=1",
        "--data.init_args.patches_per_epoch=2",
        "--model.init_args.network.init_args.widths.base=2",
        "--data.init_args.validation=patches",
        prepare=["--classes=background,spleen"],
    )
    assert 0 < losses(run)[0] < 1
