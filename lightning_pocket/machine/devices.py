"""GPUs: those in the machine, and those that torch can use."""

from __future__ import annotations

import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

from .facts import Gpu, TorchBuild

_MIB = 2**20
_NVIDIA = "0x10de"
_DISPLAY = ("0x0300", "0x0302")  # classes of PCI devices that compute
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Devices:
    """What there is to compute on; the fields are those of ``Facts``."""

    torch: TorchBuild
    gpus: tuple[Gpu, ...]
    nvidia_gpus: int
    driver: str | None


def read_devices() -> Devices:
    """Look at the GPUs; ``nvidia-smi`` runs while torch is imported."""
    query = _start_smi()
    torch, gpus = _read_torch()
    drivers = _finish_smi(query)
    count = max(len(drivers), _count_hardware(), len(gpus))
    return Devices(torch, gpus, count, drivers[0] if drivers else None)


def _start_smi() -> subprocess.Popen[str] | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None


def _finish_smi(query: subprocess.Popen[str] | None) -> list[str]:
    """Return the driver's version once for each GPU that the driver knows."""
    if query is None:
        return []
    try:
        said, _ = query.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        query.kill()
        query.communicate()
        return []
    return [line.strip() for line in said.splitlines() if line.strip()] if query.returncode == 0 else []


def _count_hardware() -> int:
    """Return how many NVIDIA GPUs the kernel sees, with or without a driver."""
    nodes = len([node for node in Path("/dev").glob("nvidia[0-9]*") if node.name.removeprefix("nvidia").isdecimal()])
    found = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text(encoding="utf-8").strip()
            kind = (device / "class").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        found += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return max(nodes, found)


def _read_torch() -> tuple[TorchBuild, tuple[Gpu, ...]]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that does not load
        return TorchBuild(problem=_first_line(error)), ()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    problem = _first_line(said[0].message) if said and not available else ""
    gpus: list[Gpu] = []
    try:
        for index in range(torch.cuda.device_count() if available else 0):
            properties = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            gpus.append(Gpu(properties.name, total / _MIB, free / _MIB, (properties.major, properties.minor)))
    except RuntimeError as error:
        problem = _first_line(error)
    build = TorchBuild(
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if torch.version.cuda else None,  # type: ignore[no-untyped-call]
        architectures=tuple(torch.cuda.get_arch_list()) if available else (),
        threads=torch.get_num_threads(),
        problem=problem,
    )
    return build, tuple(gpus)


def _first_line(said: object) -> str:
    return next(iter(str(said).strip().splitlines()), "")
