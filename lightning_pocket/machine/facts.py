"""What `pocket doctor` looks at; nothing here judges, and whatever the system does not tell is None or empty."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import pairwise
from pathlib import Path

#: Distributions that a result may depend on and that are not requirements.
EXTRAS = ("wandb", "lightning", "triton")
#: Variables that change how fast or on what a training runs.
VARIABLES = (
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "CXX",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "WANDB_MODE",
)


@dataclass(frozen=True)
class Requirement:
    """A package that this program needs.

    Args:
        name: Of the distribution.
        wanted: Versions that do, such as ``>=2.7,<2.14``.
        installed: Version that is there; None where it is missing.
        fits: Whether the installed version is a wanted one.
    """

    name: str
    wanted: str
    installed: str | None
    fits: bool


@dataclass(frozen=True)
class Gpu:
    """A CUDA device as torch sees it.

    Args:
        name: Its name.
        memory_mib: All of its memory.
        free_mib: What no process uses.
        capability: Compute capability, major and minor.
    """

    name: str
    memory_mib: float
    free_mib: float
    capability: tuple[int, int]


@dataclass(frozen=True)
class Disk:
    """Room for files.

    Args:
        use: What the folder is for.
        path: The folder.
        free_gib: What is free on its disk.
    """

    use: str
    path: str
    free_gib: float


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch.

    Args:
        cuda: Version of CUDA that it was built for; None for a build without.
        cudnn: Version of cuDNN; None where there is none.
        architectures: GPUs that it has code for, such as ``sm_90``.
        threads: Threads that it computes with.
        problem: What it said when it could not be imported or could not use CUDA.
    """

    cuda: str | None = None
    cudnn: int | None = None
    architectures: tuple[str, ...] = ()
    threads: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """What the machine has.

    Args:
        python: Version of Python.
        system: Operating system and processor type.
        requirements: Packages that are needed.
        extras: Version of each further package that is there.
        torch: The installed torch.
        gpus: CUDA devices as torch sees them.
        nvidia_gpus: Number of NVIDIA GPUs in the machine or container, whatever torch thinks of them.
        driver: Version of the NVIDIA driver.
        cores: Processor cores that this process may use.
        cpu_quota: Cores that its control group grants; None for no limit.
        cpu_flags: Instruction sets of the processor that matter here.
        ram_mib: Memory of the machine.
        ram_available_mib: What of it is free or can be freed.
        memory_limit_mib: What the control group grants; None for no limit.
        shared_memory_mib: Size of ``/dev/shm``, through which workers of a loader hand over batches.
        open_files: How many files a process may hold open now, and at most after ``ulimit -n``.
        disks: Room for files.
        compiler: C++ compiler, for ``torch.compile``.
        variables: Variables of the environment that matter, where they are set.
        wandb_key: Whether W&B finds a key.
    """

    python: str = ""
    system: str = ""
    requirements: tuple[Requirement, ...] = ()
    extras: dict[str, str] = field(default_factory=dict)
    torch: TorchBuild = TorchBuild()
    gpus: tuple[Gpu, ...] = ()
    nvidia_gpus: int = 0
    driver: str | None = None
    cores: int = 1
    cpu_quota: float | None = None
    cpu_flags: tuple[str, ...] = ()
    ram_mib: float | None = None
    ram_available_mib: float | None = None
    memory_limit_mib: float | None = None
    shared_memory_mib: float | None = None
    open_files: tuple[int, int] | None = None
    disks: tuple[Disk, ...] = ()
    compiler: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    wandb_key: bool = False


def read_facts(folder: Path) -> Facts:
    """Look at this machine.

    Args:
        folder: Where caches and runs are to be kept.

    Returns:
        What it has; takes about as long as importing torch.
    """
    from .devices import read_devices
    from .limits import cpu_flags, cpu_quota, memory_limit_mib, open_files, ram_mib, shared_memory_mib

    devices = read_devices()
    total, available = ram_mib()
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        requirements=tuple(_requirements()),
        extras={name: version for name in EXTRAS if (version := _version(name))},
        torch=devices.torch,
        gpus=devices.gpus,
        nvidia_gpus=devices.nvidia_gpus,
        driver=devices.driver,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_quota=cpu_quota(),
        cpu_flags=cpu_flags(),
        ram_mib=total,
        ram_available_mib=available,
        memory_limit_mib=memory_limit_mib(),
        shared_memory_mib=shared_memory_mib(),
        open_files=open_files(),
        disks=tuple(_disks(folder)),
        compiler=_compiler(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        wandb_key=_has_wandb_key(),
    )


def _requirements() -> list[Requirement]:
    """Return what the installed metadata of this program asks for, without its extras."""
    from packaging.requirements import Requirement as Wanted

    try:
        lines: Sequence[str] = metadata.requires("lightning-pocket") or ()
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        wanted = Wanted(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            version = _version(wanted.name)
            fits = version is not None and wanted.specifier.contains(version, prereleases=True)
            found.append(Requirement(wanted.name, str(wanted.specifier), version, fits))
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _disks(folder: Path) -> list[Disk]:
    found = []
    for use, path in (("caches and runs", folder), ("temporary files", Path(tempfile.gettempdir()))):
        try:
            found.append(Disk(use, str(path.resolve()), shutil.disk_usage(path).free / 2**30))
        except OSError:
            continue
    return found


def _compiler() -> str | None:
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    return None


def _has_wandb_key() -> bool:
    """Whether W&B would find a key: in the environment, or for its hosts in the file of passwords."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        text = Path(os.environ.get("NETRC") or Path.home() / ".netrc").read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):
        return False
    words = text.split()
    hosts = [host for word, host in pairwise(words) if word == "machine"]
    return any("wandb" in host or "coreweave" in host for host in hosts)
