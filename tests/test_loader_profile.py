"""How fast data come, by stage, and how many processes prepare them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torchio as tio
from image_datasets import write_covidx

from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data import ImageDataModule, VolumeDataModule, loader_workers
from lightning_pocket.data.augment import RandomAxisFlip
from lightning_pocket.data.loader_workers import worker_options
from lightning_pocket.data.splits import SplitSettings
from lightning_pocket.errors import PocketError
from lightning_pocket.profiling import loader
from lightning_pocket.profiling.loader import loader_speed, measure_loader, what_limits


@dataclass
class Fake:
    """A stage that takes so many seconds of a clock that it moves itself."""

    name: str
    place: str
    seconds: float
    items: int = 1
    mib: float = 1.0
    probability: float = 1.0
    remedy: str = "Buy a faster one."
    first: float = 0.0
    inputs: list[int] = field(default_factory=list)
    now: ClassVar[list[float]] = [0.0]

    def prepare(self, index: int) -> int:
        self.now[0] += 5.0  # must not count
        return index

    def work(self, index: int) -> None:
        self.inputs.append(index)
        self.now[0] += self.seconds + (self.first if len(self.inputs) == 1 else 0)


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(loader, "time", SimpleNamespace(perf_counter=lambda: Fake.now[0]))

    def run(*stages: Fake, seconds: float = 100.0):
        return measure_loader(SimpleNamespace(loader_stages=lambda: stages), seconds)

    return run


def test_stages_in_closed_form(measured):
    cut = Fake("cut", "loader", 2.0, items=4, mib=8.0, first=50.0)
    noise = Fake("noise", "loader", 6.0, mib=2.0, probability=0.25)
    stages = measured(cut, noise)
    assert [stage.items_per_s for stage in stages] == pytest.approx([2.0, 1 / 1.5])
    assert [stage.mib_per_s for stage in stages] == pytest.approx([4.0, 2 / 1.5])
    assert [stage.share for stage in stages] == pytest.approx([0.25, 0.75])
    assert cut.inputs == list(range(len(cut.inputs)))  # each call another item, the first one not counted


def test_a_slow_stage_is_called_three_times(measured):
    slow = Fake("slow", "loader", 1000.0)
    measured(slow, seconds=0.1)
    assert len(slow.inputs) == 4
    with pytest.raises(PocketError, match="expected more than 0, got 0"):
        measured(slow, seconds=0)


def test_the_speed_is_that_of_the_slowest_who_work_side_by_side(measured):
    stages = measured(Fake("cut", "loader", 1.0), Fake("noise", "loader", 5.0), Fake("send", "transfer", 2.0))
    assert loader_speed(stages, 0) == (pytest.approx(1 / 8), "loader")
    assert loader_speed(stages, 2) == (pytest.approx(1 / 3), "loader")
    assert loader_speed(stages, 4) == (pytest.approx(1 / 2), "transfer")


def test_one_sentence_says_what_limits_and_what_helps(measured):
    noise, send = Fake("noise", "loader", 5.0), Fake("send", "transfer", 2.0, remedy="Send less.")
    stages = measured(Fake("cut", "loader", 1.0), noise, send)
    text = what_limits(stages, 1)
    assert text.startswith("0.2 items/s with 1 worker, limited by 'noise', which takes 62% of the time of an item.")
    assert text.endswith("Buy a faster one.")
    assert what_limits(stages, 6).startswith("0.5 items/s with 6 workers, limited by 'send'")
    assert what_limits(stages, 6).endswith("Send less.")
    assert "with the training process itself, limited by 'noise'" in what_limits(stages, 0)


class RandomSleep(tio.Transform):
    """Takes a while, half of the time."""

    def apply_transform(self, subject):
        time.sleep(0.03)
        return subject


def volumes(cache, augmentation, **settings):
    return VolumeDataModule(str(cache), [8, 16, 16], 2, augmentation=augmentation, **settings)


def test_stages_of_patches_that_the_loader_augments(blobs_cache):
    data = volumes(blobs_cache, [RandomAxisFlip(p=0.15), RandomSleep(p=0.5)], num_workers=1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    stages = measure_loader(data, 0.05)
    assert torch.equal(torch.get_rng_state(), state)
    names = ["read the memory map", "cut patches", "RandomAxisFlip", "RandomSleep", "hand over to training"]
    assert [stage.name for stage in stages] == names
    assert sum(stage.share for stage in stages) == pytest.approx(1)
    assert 1 / stages[3].items_per_s == pytest.approx(0.5 * 0.03, rel=0.5)  # applied half of the time
    patch_mib = 8 * 16 * 16 * 5 / 2**20
    assert all(s.mib_per_s == pytest.approx(s.items_per_s * patch_mib) for s in stages)
    assert stages[3].share > 0.5
    text = what_limits(stages, data.loader_workers())
    assert "with 1 worker, limited by 'RandomSleep'" in text
    assert "augment_on_device" not in text  # the device does not know it
    assert "--config augment_on_device" in stages[2].remedy


def test_stages_of_patches_that_the_device_augments(blobs_cache):
    data = volumes(blobs_cache, [RandomAxisFlip(), tio.RandomAffine()], augment_on="device", num_workers=0)
    stages = measure_loader(data, 0.02)
    names = ["read the memory map", "cut patches", "draw augmentation", "augment on the device"]
    assert [stage.name for stage in stages] == names
    assert [stage.place for stage in stages] == ["loader"] * 3 + ["device"]
    with pytest.raises(PocketError, match="a queue cannot be timed by stage"):
        volumes(blobs_cache, [], patch_source="queue").loader_stages()


@pytest.mark.parametrize("augment_on", ["loader", "device"])
def test_stages_of_images(tmp_path, augment_on):
    prepare(str(write_covidx(tmp_path / "raw", 24, 7)), output=str(tmp_path / "cache"), size=[16, 20], workers=1)
    flip = [tio.RandomFlip(axes=[2])]
    data = ImageDataModule(str(tmp_path / "cache"), 4, SplitSettings(max_val="all"), flip, augment_on, num_workers=0)
    stages = measure_loader(data, 0.02)
    middle = {"loader": ["RandomFlip"], "device": ["draw augmentation"]}[augment_on]
    end = {"loader": [], "device": ["augment on the device"]}[augment_on]
    assert [stage.name for stage in stages] == ["read the memory map", *middle, "stack", *end]


#: A machine with a GPU and plenty of everything.
GENEROUS = {"cores": 64, "quota": None, "free": 1e6, "granted": None, "shared": 1e6}


@pytest.fixture
def machine(monkeypatch):
    def build(device: str = "cuda", processes: int = 1, **changes):
        found = GENEROUS | changes
        monkeypatch.setattr(loader_workers, "count_workers", lambda *_, **__: found["cores"])
        monkeypatch.setattr(loader_workers, "cpu_quota", lambda: found["quota"])
        monkeypatch.setattr(loader_workers, "ram_mib", lambda: (1e7, found["free"]))
        monkeypatch.setattr(loader_workers, "memory_limit_mib", lambda: found["granted"])
        monkeypatch.setattr(loader_workers, "shared_memory_mib", lambda: found["shared"])
        return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), num_devices=processes)

    return build


@pytest.mark.parametrize(
    ("changes", "workers"),
    [
        ({}, 12),
        ({"device": "cpu"}, 0),
        ({"cores": 8}, 7),  # one for the training process
        ({"cores": 16, "processes": 4}, 3),
        ({"quota": 2.5}, 1),
        ({"free": 6000}, 5),  # half of it, 600 MiB each: 400 and two batches
        ({"granted": 3600}, 3),
        ({"shared": 2000}, 5),  # half of it, two batches each
        ({"shared": 64}, 0),  # a container's default
        ({"free": None, "shared": None, "cores": 5}, 4),
    ],
)
def test_auto_chooses_by_device_cores_and_memory(machine, changes, workers):
    options = worker_options("auto", 2, 100.0, machine(**changes))
    assert options == {"num_workers": workers, "prefetch_factor": 2 if workers else None}


def test_what_is_asked_for_is_done_and_too_little_shared_memory_is_said(machine, caplog):
    assert worker_options(3, 4, 100.0, machine(shared=2000)) == {"num_workers": 3, "prefetch_factor": 4}
    assert not caplog.records
    worker_options(6, 4, 100.0, machine(shared=2000))
    assert "/dev/shm has 2000 MiB, but 6 workers hold up to 2400 MiB" in caplog.text
    assert worker_options("auto", 2, 100.0, machine(), most=2)["num_workers"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": -1}, "num_workers: expected 0 or more, got -1"),
        ({"prefetch_factor": 0}, "prefetch_factor: expected at least 1, got 0"),
    ],
)
def test_senseless_settings_are_refused(blobs_cache, settings, message):
    with pytest.raises(PocketError, match=message):
        volumes(blobs_cache, [], **settings)
