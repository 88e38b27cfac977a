"""What fits in some memory, and what to say when memory runs out."""

import math
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from started import TRAINING, Started

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.profiling import out_of_memory
from lightning_pocket.profiling.memory import largest_batch, largest_patch
from lightning_pocket.profiling.out_of_memory import Settings, explain, recognise

MIB = 2**20


@dataclass
class Fixed:
    peak_mib: float


@pytest.mark.parametrize("budget", [0, 99, 100, 101, 350, 1099, 10**6])
def test_largest_batch_against_trying_all(budget):
    tried = []

    def predict(batch):
        tried.append(batch)
        return Fixed(60 + 40 * batch)

    expected = max([b for b in range(1, 1025) if 60 + 40 * b <= budget], default=0)
    assert largest_batch(predict, budget) == expected
    assert len(tried) <= 2 * math.log2(1024) + 2
    assert largest_batch(predict, budget, limit=7) == min(7, expected)


@pytest.mark.parametrize("budget", [100, 10**3, 10**4, 10**5, 10**6])
@pytest.mark.parametrize("start", [(32, 32, 32), (16, 64, 64), (64, 96, 100)])
def test_largest_patch_cannot_grow(start, budget):
    divisor = (8, 16, 16)

    def peak(size):
        return Fixed(50 + math.prod(size) / 64)

    found = largest_patch(peak, start, divisor, budget)
    smallest_fits = peak(divisor).peak_mib <= budget
    assert (found is not None) == smallest_fits
    if found is None:
        return
    assert peak(found).peak_mib <= budget
    assert all(size % step == 0 for size, step in zip(found, divisor, strict=True))
    for axis in range(3):
        larger = tuple(size + step * (axis == i) for i, (size, step) in enumerate(zip(found, divisor, strict=True)))
        assert peak(larger).peak_mib > budget or larger[axis] > 512


def test_a_cube_stays_close_to_a_cube():
    found = largest_patch(lambda size: Fixed(math.prod(size)), (32, 32, 32), (16, 16, 16), 100**3)
    assert sorted(found) == [96, 96, 96]
    assert sorted(largest_patch(lambda size: Fixed(math.prod(size)), (96, 96), (32, 32), 64 * 96)) == [64, 96]
    assert largest_patch(lambda size: Fixed(math.prod(size)), (8, 16, 16), (2, 2, 2), 2000, (8, 16, 16)) == (8, 16, 14)


def test_patches_of_two_lengths_are_refused():
    with pytest.raises(PocketError, match="start, divisor"):
        largest_patch(lambda _: Fixed(1), (32, 32), (16, 16, 16), 10)


# --- out of memory


def test_recognise_what_torch_says():
    huge = 2**52
    with pytest.raises(RuntimeError) as caught:
        torch.empty(huge, dtype=torch.uint8)
    assert recognise(caught.value) == "memory"
    assert recognise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) == "memory"
    assert recognise(MemoryError()) == "memory"
    bus = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
    assert recognise(RuntimeError(bus + "of shared memory.")) == "shared memory"
    assert recognise(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")) == "worker"
    assert recognise(RuntimeError("shapes cannot be multiplied")) is None
    assert recognise(ValueError("not enough memory")) is None
    wrapped = RuntimeError("failed")
    wrapped.__cause__ = MemoryError()
    assert recognise(wrapped) == "memory"


def linear(batch, patch):
    return Fixed(10 + batch * math.prod(patch) / 1000)


SETTINGS = Settings(batch_size=8, patch_size=(32, 32, 32), divisor=(16, 16, 16))


def test_advice_fits_and_names_the_keys():
    message = str(explain("memory", SETTINGS, linear, 150, "cuda"))
    assert message.startswith("out of memory on the GPU: data.init_args.batch_size 8 and data.init_args.patch_size")
    assert "need about 272 MiB of 150 MiB" in message
    assert "What fits: data.init_args.batch_size 4 or data.init_args.patch_size [32, 32, 16]" in message
    assert "\n" not in message


def test_advice_where_the_prediction_would_fit():
    message = str(explain("memory", SETTINGS, linear, 10**6, "cpu"))
    assert "batch_size 6 or" in message  # 80 % of 272 MiB
    assert "did not get them" in message


def test_advice_where_nothing_fits():
    assert "take a smaller network" in str(explain("memory", SETTINGS, linear, 5, "cpu"))


def test_advice_names_what_keeps_memory_and_what_cannot_help():
    message = str(explain("memory", replace(SETTINGS, batch_size=1, keeps_memory=True), linear, 30, "cpu"))
    assert "model.init_args.keep_memory false takes a third less" in message
    assert "accumulate" not in message  # there is nothing to accumulate
    assert "accumulate" in str(explain("memory", SETTINGS, linear, 150, "cpu"))


def test_a_full_disk_is_no_lack_of_memory():
    assert recognise(OSError(28, "No space left on device", "runs/x/last.ckpt")) is None
    assert recognise(OSError(28, "No space left on device", "/dev/shm/torch_12")) == "shared memory"


@pytest.mark.parametrize("kind", ["shared memory", "worker"])
def test_advice_for_loaders(kind):
    message = str(explain(kind, SETTINGS, linear, 5, "cpu"))
    assert message.startswith(f"{'shared ' if kind == 'shared memory' else ''}memory ran out while")
    assert "data.init_args.num_workers" in message


def test_available_memory_respects_the_limits(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    free = out_of_memory.available_mib("cpu")
    assert free > 0
    (tmp_path / "memory.max").write_text(str(300 * MIB))
    (tmp_path / "memory.current").write_text(str(100 * MIB))
    monkeypatch.setattr(out_of_memory, "_CGROUP", tmp_path)
    assert out_of_memory.available_mib("cpu") <= 200
    (tmp_path / "memory.max").write_text("max")
    taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (taken + 200 * MIB, -1))
    assert out_of_memory.available_mib("cpu") == pytest.approx(200 - 144, abs=8)


def run_within():
    """Run a command that may take so many MiB, the first argument, beyond what its libraries take."""
    import resource

    taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]) * MIB,) * 2)
    main(sys.argv[2:])


def fit_within(mib, arguments):
    process = Started(f"{Path(__file__).stem}:run_within", [mib, "fit", *arguments], imports=TRAINING)
    _, errors = process.communicate()
    return process.returncode, errors


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are those of Linux")
def test_a_training_that_runs_out_of_memory_says_what_would_fit(blobs_cache, tmp_path):
    network = "model.init_args.network.init_args"
    options = {
        "run_dir": tmp_path / "run",
        "data.init_args.cache": blobs_cache,
        "data.init_args.patch_size": [8, 16, 16],
        "data.init_args.patches_per_epoch": 512,
        "data.init_args.num_workers": 0,
        f"{network}.depth": 1,
        f"{network}.widths.base": 32,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
    }
    base = ["--config=segment_volumes", "--config=pocket", "--config=no_augmentation"]
    base += [f"--{name}={value}" for name, value in options.items()]
    status, errors = fit_within(1000, [*base, "--data.init_args.batch_size=512"])
    said = [line for line in errors.splitlines() if line.startswith("pocket: error:")]
    assert status == 1, errors
    assert len(said) == 1, errors
    assert "Traceback" not in errors
    assert "data.init_args.batch_size 512" in said[0]
    fitting = int(re.search(r"What fits: data\.init_args\.batch_size (\d+)", said[0]).group(1))
    assert 0 < fitting < 512
    assert not (tmp_path / "run" / "config.yaml").exists()  # another batch size may begin here
    two_steps = [f"--data.init_args.batch_size={fitting}", f"--data.init_args.patches_per_epoch={2 * fitting}"]
    status, errors = fit_within(1000, [*base, *two_steps])
    assert status == 0, errors
