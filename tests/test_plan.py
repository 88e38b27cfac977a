"""`pocket plan`: sizes that follow from the data, as an overlay that a person can edit."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import make_case, write_decathlon, write_image

from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.plan import Plan, choose_kernels, choose_strides, make_plan

HALVE = [2, 2, 2]
FLAT = [1, 2, 2]


@pytest.mark.parametrize(
    ("sides", "spacing", "expected"),
    [
        ((128, 128, 128), (1, 1, 1), [HALVE] * 5),  # the paper's patch and depth
        ((64, 128, 128), (3, 1.6, 1.6), [HALVE] * 4),  # the depth of the early LiTS runs; ratio below 2
        ((36, 50, 35), (1, 1, 1), [HALVE] * 3),
        ((512, 512, 512), (1, 1, 1), [HALVE] * 5),  # max_depth
        ((5, 6, 7), (1, 1, 1), [HALVE]),  # too small to halve, but a network needs two levels
        # 5 mm slices of 0.79 mm pixels wait until the pixels are 3.2 mm, and keep 26 / 4 = 6 slices.
        ((26, 128, 128), (5, 0.79, 0.79), [FLAT, FLAT, HALVE, HALVE, FLAT]),
        ((128, 10, 128), (1, 1, 1), [HALVE, [2, 1, 2], [2, 1, 2], [2, 1, 2], [2, 1, 2]]),  # a slab
        ((1, 128, 128), (1, 1, 1), [FLAT] * 5),  # a single slice
    ],
)
def test_strides(sides: tuple[int, ...], spacing: tuple[float, ...], expected: list[list[int]]) -> None:
    assert choose_strides(sides, spacing, max_depth=5) == expected


def test_strides_leave_four_voxels_and_never_make_a_coarse_axis_coarser() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        sides = tuple(int(n) for n in rng.integers(8, 200, 3))
        spacing = tuple(float(mm) for mm in rng.choice([0.5, 0.8, 1, 2, 3, 5, 7], 3))
        current = np.array(spacing)
        for step in choose_strides(sides, spacing, max_depth=6):
            assert max(step) == 2
            halved = current[np.array(step) == 2]
            assert halved.max() < 2 * halved.min()
            current = current * step
        factors = current / spacing
        assert (np.array(sides) / factors >= 4).all()


def test_kernels_widen_once_the_axes_are_alike() -> None:
    strides = [FLAT, FLAT, HALVE, HALVE, FLAT]
    flat, cube = [1, 3, 3], [3, 3, 3]
    assert choose_kernels(strides, (5, 0.79, 0.79)) == [flat, flat, cube, cube, cube, cube]
    assert choose_kernels([HALVE] * 3, (1.9, 1, 1)) == [cube] * 4
    assert choose_kernels([HALVE, FLAT, FLAT, FLAT], (1, 1, 1)) == [cube] * 5


def plan_of(tmp_path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float], **limits: int) -> Plan:
    root = write_decathlon(tmp_path / "raw", cases=3)
    for index in range(3):
        image, label = make_case(index, shape)
        write_image(root / "imagesTr" / f"case_{index}.nii.gz", image, spacing=spacing)
        write_image(root / "labelsTr" / f"case_{index}.nii.gz", label, spacing=spacing)
    main(["prepare", str(root), "--output", str(tmp_path / "cache"), "--num_folds", "3", "--workers", "1"])
    return make_plan(
        Cache.open(tmp_path / "cache"), **({"max_depth": 5, "max_patch": 128, "batch_voxels": 2**22} | limits)
    )


@pytest.mark.parametrize(
    ("shape", "spacing", "limits", "patch", "batch", "depth"),
    [
        ((36, 50, 35), (1, 1, 1), {}, (40, 56, 40), 3, 3),  # rounded up to multiples of 8; at most 3 cases
        ((36, 50, 35), (1, 1, 1), {"max_patch": 32}, (32, 32, 32), 3, 3),
        ((36, 50, 35), (1, 1, 1), {"max_patch": 30}, (28, 28, 28), 3, 2),  # a limit is kept
        ((36, 50, 35), (1, 1, 1), {"batch_voxels": 1}, (40, 56, 40), 2, 3),
        ((26, 66, 64), (5, 0.79, 0.79), {}, (28, 80, 64), 3, 4),
    ],
)
def test_patch_and_batch(
    tmp_path: Path,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    limits: dict[str, int],
    patch: tuple[int, ...],
    batch: int,
    depth: int,
) -> None:
    plan = plan_of(tmp_path, shape, spacing, **limits)
    assert (plan.patch_size, plan.batch_size, plan.depth) == (patch, batch, depth)
    for axis, side in enumerate(plan.patch_size):
        assert side % prod(step[axis] for step in plan.strides or [HALVE] * depth) == 0


def test_overlay_can_be_read_and_edits_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(tmp_path, (12, 40, 40), (4, 1, 1))
    cache, file = tmp_path / "cache", tmp_path / "plan.yaml"
    command = ["plan", str(cache), "--output", str(file)]
    main(command)
    text = file.read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    assert read["data"]["init_args"] == {"cache": str(cache), "patch_size": list(plan.patch_size), "batch_size": 3}
    network = {"depth": plan.depth, "strides": plan.strides, "kernel_sizes": plan.kernel_sizes}
    assert read["model"]["init_args"]["network"]["init_args"] == network
    assert plan.strides is not None
    assert len(plan.strides) == plan.depth == len(plan.kernel_sizes or []) - 1
    numbers = [
        line for line in text.splitlines() if line.split(":")[0].strip() in {*network, "patch_size", "batch_size"}
    ]
    before = [text.splitlines()[text.splitlines().index(line) - 1] for line in numbers]
    assert all(line.strip().startswith("# ") for line in before)  # each number is explained

    main(command)  # the same content is no conflict
    file.write_text(text.replace("batch_size: 3", "batch_size: 1"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(command)
    assert f"{file}: exists with another content; use --fresh" in capsys.readouterr().err
    assert "batch_size: 1" in file.read_text(encoding="utf-8")
    main([*command, "--fresh"])
    assert file.read_text(encoding="utf-8") == text


def test_isotropic_overlay_uses_the_defaults_of_the_network(tmp_path: Path) -> None:
    plan_of(tmp_path, (16, 16, 16), (1, 1, 1))
    main(["plan", str(tmp_path / "cache"), "--output", str(tmp_path / "plan.yaml")])
    network = yaml.safe_load((tmp_path / "plan.yaml").read_text(encoding="utf-8"))["model"]["init_args"]["network"][
        "init_args"
    ]
    assert network == {"depth": 2, "strides": None, "kernel_sizes": None}


@pytest.mark.parametrize("option", ["--max_depth=0", "--max_patch=4", "--batch_voxels=0"])
def test_limits_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    plan_of(tmp_path, (8, 8, 8), (1, 1, 1))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "cache"), "--output", str(tmp_path / "plan.yaml"), option])
    assert f"{option.strip('-').split('=')[0]}: is {option.split('=')[1]}, expected at least" in capsys.readouterr().err
    assert not (tmp_path / "plan.yaml").exists()


def test_plan_needs_a_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "none")])
    assert "no such cache" in capsys.readouterr().err
