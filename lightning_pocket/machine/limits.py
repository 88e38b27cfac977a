"""What the operating system and the container grant a process: memory, cores, open files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
#: Control groups of version 1 say "no limit" with a number near the largest one.
_NO_LIMIT = 2**60
#: Instruction sets that make half precision fast on a CPU.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")


def ram_mib() -> tuple[float | None, float | None]:
    """Return the memory of the machine, and what of it is free or can be freed, in MiB."""
    found = {}
    for line in _text(Path("/proc/meminfo")).splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        found[name] = int(number[0]) / 1024 if number and number[0].isdecimal() else None
    if found.get("MemTotal"):
        return found["MemTotal"], found.get("MemAvailable")
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MIB, None
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None, None


def memory_limit_mib(root: Path = _CGROUP) -> float | None:
    """Return the memory that the control group grants, in MiB.

    Args:
        root: Where control groups are mounted.
    """
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _text(root / name).strip()
        if text.isdecimal() and int(text) < _NO_LIMIT:
            return int(text) / _MIB
    return None


def cpu_quota(root: Path = _CGROUP) -> float | None:
    """Return the processor cores that the control group grants.

    Args:
        root: Where control groups are mounted.
    """
    words = _text(root / "cpu.max").split() or [
        _text(root / "cpu" / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def cpu_flags() -> tuple[str, ...]:
    """Return the instruction sets of the processor that matter for half precision."""
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    found = set(line.partition(":")[2].split())
    return tuple(flag for flag in _FLAGS if flag in found)


def shared_memory_mib() -> float | None:
    """Return the size of the shared memory, through which workers of a loader hand over batches, in MiB."""
    try:
        return shutil.disk_usage("/dev/shm").total / _MIB
    except OSError:
        return None


def open_files() -> tuple[int, int] | None:
    """Return how many files a process may hold open, and how many after ``ulimit -n``; -1 is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
