"""`pocket doctor`: what it finds wrong with machines that are described to it, and how it looks at this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from lightning_pocket.cli import main
from lightning_pocket.commands import doctor as command
from lightning_pocket.machine import devices, facts, limits
from lightning_pocket.machine.facts import Disk, Facts, Gpu, Requirement, TorchBuild
from lightning_pocket.machine.findings import find_faults

GOOD = Facts(
    python="3.11.7",
    system="Linux",
    requirements=(Requirement("torch", ">=2.7,!=2.9.*", "2.13.0", True),),
    extras={"triton": "3.5"},
    torch=TorchBuild(cuda="12.8", cudnn=91002, architectures=("sm_80", "sm_90", "compute_90"), threads=8),
    gpus=(Gpu("NVIDIA A100", 40_960, 40_000, (8, 0)),),
    nvidia_gpus=1,
    driver="570.86.10",
    cores=8,
    cpu_flags=("avx512_bf16",),
    ram_mib=65_536,
    ram_available_mib=60_000,
    shared_memory_mib=8192,
    open_files=(65_536, 65_536),
    disks=(Disk("caches and runs", "/data", 100.0), Disk("temporary files", "/tmp", 50.0)),
    compiler="/usr/bin/g++",
)
NO_GPU: dict = {"gpus": (), "extras": {}}


def test_there_is_nothing_to_mend_on_a_good_machine():
    assert find_faults(GOOD) == []


def broken(version: str, name: str = "torch") -> dict:
    return {"requirements": (Requirement(name, "!=2.9.*", version, False),)}


def old_gpu(capability: tuple[int, int], **torch) -> dict:
    return {"gpus": (Gpu("old", 8192, 8192, capability),), "torch": replace(GOOD.torch, **torch)}


@pytest.mark.parametrize(
    ("changes", "level", "subject", "found", "remedy"),
    [
        (broken("2.9.1"), "error", "torch", "four times slower", "pip install 'torch!=2.9.*'"),
        (broken("2.6.3", "pytorch-lightning"), "error", "pytorch-lightning", "malicious", "pip install"),
        (broken("1.0"), "error", "torch", "1.0; expected !=2.9.*", "pip install"),
        ({"requirements": (Requirement("torchio", "<2", None, False),)}, "error", "torchio", "not installed", "pip"),
        (
            {"extras": {"lightning": "2.6", "triton": "3"}},
            "note",
            "lightning",
            "beside pytorch-lightning",
            "Import only",
        ),
        (NO_GPU | {"torch": TorchBuild(problem="libgomp.so.1: gone")}, "error", "torch", "libgomp", "again"),
        (NO_GPU | {"torch": TorchBuild(threads=8)}, "error", "torch", "CPU build, beside 1 NVIDIA", "CUDA build"),
        (NO_GPU | {"nvidia_gpus": 0, "driver": None}, "note", "GPU", "none", "laptop"),
        (NO_GPU | {"driver": "470.57.02"}, "error", "driver", "470.57.02 is too old for CUDA 12.8", "525.60"),
        (NO_GPU | {"driver": None}, "error", "driver", "nvidia-smi does not answer", "--gpus all"),
        (NO_GPU | {"torch": replace(GOOD.torch, problem="no device")}, "error", "GPU", "no device", "nvidia-smi"),
        (NO_GPU | {"variables": {"CUDA_VISIBLE_DEVICES": ""}}, "warning", "GPU", "hides every GPU", "Unset"),
        (old_gpu((6, 1)), "error", "GPU 0", "compute capability 6.1", "build of torch"),
        (old_gpu((7, 5), architectures=("sm_75",)), "note", "GPU 0", "no bfloat16", "mixed_precision"),
        ({"gpus": (Gpu("A100", 40_960, 1000, (8, 0)),)}, "warning", "GPU 0", "use 39.0 of 40.0 GiB", "nvidia-smi"),
        ({"torch": replace(GOOD.torch, cudnn=None)}, "error", "cuDNN", "missing", "Install"),
        ({"memory_limit_mib": 8192.0}, "note", "memory", "8.0 of 64.0 GiB", "limit"),
        ({"ram_available_mib": 1024.0}, "warning", "memory", "1.0 GiB available", "Close"),
        ({"shared_memory_mib": 64.0}, "warning", "shared memory", "64 MiB", "--shm-size"),
        ({"open_files": (256, 4096)}, "warning", "open files", "256", "ulimit -n 4096"),
        ({"disks": (Disk("caches and runs", "/x", 0.5),)}, "error", "disk for caches and runs", "0.5 GiB", "Free"),
        ({"disks": (Disk("temporary files", "/t", 5),)}, "warning", "disk for temporary files", "5.0 GiB", "TMPDIR"),
        ({"variables": {"OMP_NUM_THREADS": "64"}}, "warning", "threads", "there are 8 cores", "OMP_NUM_THREADS=8"),
        ({"cpu_quota": 2.0}, "warning", "threads", "grants 2 cores", "OMP_NUM_THREADS=2"),
        ({"compiler": None}, "note", "compiler", "torch.compile", "g++"),
        ({"extras": {}}, "note", "triton", "torch.compile", "pip install triton"),
        ({"extras": {"wandb": "0.31", "triton": "3"}}, "note", "W&B", "not logged in", "WANDB_MODE=offline"),
        ({"variables": {"CUDA_LAUNCH_BLOCKING": "1"}}, "warning", "CUDA_LAUNCH_BLOCKING", "slow", "unset"),
    ],
)
def test_each_fault_is_found_alone_and_with_a_remedy(changes, level, subject, found, remedy):
    findings = find_faults(replace(GOOD, **changes))
    assert len(findings) == 1, findings
    assert (findings[0].level, findings[0].subject) == (level, subject)
    assert found in findings[0].found
    assert remedy in findings[0].remedy


def test_a_processor_without_bfloat16_matters_only_where_it_computes():
    slow = replace(GOOD, cpu_flags=("avx2",))
    assert find_faults(slow) == []
    alone = replace(slow, gpus=(), extras={}, nvidia_gpus=0, driver=None)
    assert [finding.subject for finding in find_faults(alone)] == ["GPU", "half precision"]


def test_wrong_gradients_in_bfloat16_are_named_where_the_processor_computes():
    wide = replace(GOOD, cpu_flags=("avx512f", "avx512_bf16"))
    assert find_faults(wide) == []
    alone = replace(wide, gpus=(), extras={}, nvidia_gpus=0, driver=None)
    assert [finding.subject for finding in find_faults(alone)] == ["GPU", "bfloat16"]


def test_a_driver_of_the_same_version_as_the_oldest_will_do():
    oldest = find_faults(replace(GOOD, **NO_GPU, driver="525.60.13"))
    assert "torch cannot use it" in oldest[0].found  # for another reason than the driver's age
    thirteen = replace(GOOD, **NO_GPU, driver="570.86.10", torch=replace(GOOD.torch, cuda="13.0"))
    assert "too old for CUDA 13.0" in find_faults(thirteen)[0].found


def test_portable_code_runs_on_newer_gpus():
    newer = {"gpus": (Gpu("new", 8192, 8192, (12, 0)),)}
    assert find_faults(replace(GOOD, **newer)) == []  # by compute_90
    machine_code = replace(GOOD.torch, architectures=("sm_80", "sm_90"))
    assert "12.0" in find_faults(replace(GOOD, **newer, torch=machine_code))[0].found


def test_the_worst_comes_first():
    machine = replace(GOOD, compiler=None, shared_memory_mib=64, disks=(Disk("caches and runs", "/x", 0.1),))
    assert [finding.level for finding in find_faults(machine)] == ["error", "warning", "note"]


def test_offline_and_logged_in_need_no_word_about_wandb():
    machine = replace(GOOD, extras={"wandb": "0.31", "triton": "3"})
    assert find_faults(replace(machine, wandb_key=True)) == []
    assert find_faults(replace(machine, variables={"WANDB_MODE": "offline"})) == []


def test_an_unknown_machine_does_not_break_the_rules():
    assert {finding.level for finding in find_faults(Facts())} <= {"note"}


@pytest.mark.parametrize(
    ("files", "memory", "cores"),
    [
        ({"memory.max": "8589934592\n", "cpu.max": "150000 100000\n"}, 8192.0, 1.5),
        ({"memory.max": "max\n", "cpu.max": "max 100000\n"}, None, None),
        (
            {
                "memory/memory.limit_in_bytes": "1073741824",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            1024.0,
            None,
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_control_groups_of_both_versions(tmp_path, files, memory, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert limits.memory_limit_mib(tmp_path) == memory
    assert limits.cpu_quota(tmp_path) == cores


def test_this_machine_is_seen_as_it_is(tmp_path):
    seen = facts.read_facts(tmp_path)
    assert seen.cores == len(os.sched_getaffinity(0))
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    assert seen.ram_mib == pytest.approx(pages, rel=0.01)
    assert {"torch", "pytorch-lightning", "torchio"} <= {entry.name for entry in seen.requirements}
    assert all(entry.fits for entry in seen.requirements)
    assert {disk.use for disk in seen.disks} == {"caches and runs", "temporary files"}


def test_a_wrong_version_does_not_fit(monkeypatch):
    monkeypatch.setattr(facts.metadata, "requires", lambda _: ["torch!=2.9.*", "nibabel>=5", 'wandb; extra == "wandb"'])
    monkeypatch.setattr(facts, "_version", {"torch": "2.9.1+cu128"}.get)
    assert [(r.name, r.installed, r.fits) for r in facts._requirements()] == [
        ("torch", "2.9.1+cu128", False),
        ("nibabel", None, False),
    ]


def test_gpus_are_asked_of_the_driver(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '535.104.05\\n535.104.05\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = devices.read_devices()
    assert (found.driver, found.nvidia_gpus) == ("535.104.05", 2)


def test_a_driver_that_fails_is_no_driver(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert devices.read_devices().driver is None


def test_keys_of_wandb_are_found_where_it_looks(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not facts._has_wandb_key()
    (tmp_path / "netrc").write_text("machine example.org login a password b\n")
    assert not facts._has_wandb_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert facts._has_wandb_key()


def test_the_command_shows_and_exits_by_the_worst(monkeypatch, capsys):
    monkeypatch.setattr(command, "read_facts", lambda _: GOOD)
    main(["doctor"])
    shown = capsys.readouterr().out
    assert "Nothing to mend." in shown
    assert "NVIDIA A100, 40.0 GiB, 39.1 GiB free, compute capability 8.0" in shown
    bad = replace(GOOD, shared_memory_mib=64, torch=replace(GOOD.torch, cudnn=None))
    monkeypatch.setattr(command, "read_facts", lambda _: bad)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--json"])
    assert stopped.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert [finding["level"] for finding in told["findings"]] == ["error", "warning"]
    assert told["facts"]["torch"]["cuda"] == "12.8"


def test_a_warning_is_no_failure(monkeypatch, capsys):
    monkeypatch.setattr(command, "read_facts", lambda _: replace(GOOD, shared_memory_mib=64))
    main(["doctor"])
    assert "--shm-size" in capsys.readouterr().out


def test_a_folder_that_is_not_there(fails):
    assert "no such folder" in fails(["doctor", "--folder=nowhere"])


def test_it_imports_torch_and_nothing_slower():
    code = (
        "import sys; from lightning_pocket.cli import main\n"
        "try: main(['doctor'])\n"
        "except SystemExit: pass\n"
        "print('slow:', {'torchio', 'pytorch_lightning', 'SimpleITK', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "slow: set()" in result.stdout
