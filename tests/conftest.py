"""Data and runs that several tests share."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests at once: one thread each, or they get in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare

DATA = Path(os.environ.get("POCKET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SIZE = (12, 20, 16)  # D, H, W


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("data") and not DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"needs real data in {DATA}; set POCKET_TEST_DATA"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    return DATA


def write_blobs(root: Path, cases: int = 10) -> Path:
    """Write a small Decathlon data set: a bright ball inside a grey one, with noise."""
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    grid = np.stack(np.meshgrid(*[np.arange(side) for side in SIZE], indexing="ij"))
    for index in range(cases):
        rng = np.random.default_rng(index)
        centre = [rng.integers(5, side - 5) for side in SIZE]
        distance = sum((grid[axis] - centre[axis]) ** 2 for axis in range(3))
        label = np.select([distance < 6, distance < 25], [2, 1], 0).astype(np.uint8)
        image = (label + 0.3 * rng.normal(size=SIZE)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), root / folder / f"case_{index:02d}.nii.gz")
    names = [f"case_{index:02d}.nii.gz" for index in range(cases)]
    content = {
        "name": "blobs",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw data set of ten tiny volumes."""
    return write_blobs(tmp_path_factory.mktemp("raw") / "blobs")


@pytest.fixture
def image(blobs: Path) -> Path:
    """One of the volumes of :func:`blobs`."""
    return blobs / "imagesTr" / "case_01.nii.gz"


@pytest.fixture(scope="session")
def blobs_cache(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, prepared."""
    cache = tmp_path_factory.mktemp("prepared") / "blobs"
    prepare(str(blobs), output=str(cache), workers=1)
    return cache


@pytest.fixture(scope="session")
def trained(blobs_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that segments the tiny volumes well."""
    run = tmp_path_factory.mktemp("trained") / "run"
    network = {"depth": 2, "widths.base": 4}
    arguments = {
        "run_dir": run,
        "data.init_args.cache": blobs_cache,
        "data.init_args.patch_size": [8, 16, 16],
        "data.init_args.patches_per_epoch": 24,
        "model.init_args.optimizer.init_args.lr": 0.02,
        "trainer.max_epochs": 5,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
    } | {f"model.init_args.network.init_args.{name}": value for name, value in network.items()}
    configs = ["--config=segment_volumes", "--config=pocket", "--config=no_augmentation"]
    main(["fit", *configs, *(f"--{name}={value}" for name, value in arguments.items())])
    return run


def quick_options(cache: Path, run: Path) -> list[str]:
    """Options of a training that takes a second or two."""
    return [
        "--config=segment_volumes",
        "--config=pocket",
        f"--run_dir={run}",
        f"--data.init_args.cache={cache}",
        "--data.init_args.patch_size=[8,16,16]",
        "--model.init_args.network.init_args.depth=2",
        "--model.init_args.network.init_args.widths.base=4",
        "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]


@pytest.fixture
def options(blobs_cache: Path, tmp_path: Path) -> list[str]:
    """Those of a run in a folder of its own."""
    return quick_options(blobs_cache, tmp_path / "run")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Run a command that must fail, and return its message: five lines at most, with no traceback."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        output = capsys.readouterr()
        lines = [line for line in (output.out + output.err).splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(("Seed set", "GPU available"))]
        assert caught.value.code not in (0, None)
        assert len(lines) <= 5, "\n".join(lines)
        assert "Traceback" not in output.err
        return "\n".join(lines)

    return run


@pytest.fixture
def wandb_machine(tmp_path, monkeypatch):
    """A machine that is not logged in to W&B, in a folder of the test's own; its home is in that folder."""
    wandb = pytest.importorskip("wandb")
    from wandb_reader import isolate

    isolate(monkeypatch, tmp_path / "home_of_ann")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path / "home_of_ann"
    wandb.teardown()


@pytest.fixture
def wandb_service(wandb_machine, monkeypatch):  # noqa: ARG001 (before the service)
    """A stand-in for W&B's service, to which the machine is logged in."""
    import wandb
    from wandb_stub import KEY, WandbStub

    service = WandbStub()
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield service
    wandb.teardown()
    service.stop()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let a program stand for the trainings of a study, in a folder of the test's own."""
    import sweep_stand_in  # needs optuna
    from started import tied

    monkeypatch.setattr("lightning_pocket.studies.jobs.start_tied", tied("sweep_stand_in:main"))
    monkeypatch.setattr("lightning_pocket.sweeps.start.resolve", sweep_stand_in.resolve)
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.delenv("POCKET_SWEEP_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
