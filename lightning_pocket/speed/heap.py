"""Keep freed memory instead of giving it back to the system."""

from __future__ import annotations

import ctypes
import functools
import platform
from pathlib import Path

from lightning_pocket.errors import PocketError

#: Names and default values of glibc's ``mallopt``, see mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_TRIM_AT, _MAPPED_BLOCKS = 64 * 2**20, 65536
_CONTAINER = Path("/sys/fs/cgroup")
_changed = False


def keep_memory(on: bool) -> bool:
    """Let the C library keep what tensors free, so that the next ones find memory that is ready.

    By default glibc asks the system for each tensor above 32 MiB and gives it back when it is freed: the system clears
    every page again, at each layer of each step. A process that keeps its memory stays as large as it ever was, and
    grows by the gaps between what it keeps: a training of the Pocket U-Net took up to 1.7 times the memory.

    Args:
        on: Whether memory is kept from now on, or given back as by default.

    Returns:
        Whether this is how it is now; always false where the C library is not glibc and memory was to be kept.
    """
    global _changed
    library = _glibc()
    if library is None:
        return not on
    if not on and not _changed:
        return True  # never changed: glibc's own, dynamic, thresholds are better than any we could set
    done = library.mallopt(_MMAP_MAX, 0 if on else _MAPPED_BLOCKS) and library.mallopt(
        _TRIM_THRESHOLD, -1 if on else _TRIM_AT
    )
    if not on:
        library.malloc_trim(0)  # what was kept until now
    _changed = True
    return bool(done)


def can_keep_memory() -> bool:
    """Tell whether :func:`keep_memory` works on this system."""
    return _glibc() is not None


def check_room() -> None:
    """Refuse to keep memory where the machine could run out of it.

    Raises:
        PocketError: If less memory is free than this process has needed so far.
    """
    needed, free = _peak_mib(), min(_free_mib())
    if needed > free:
        raise PocketError(f"keeping memory could take {needed:,.0f} MiB more, and {free:,.0f} MiB are free")


def _peak_mib() -> float:
    import resource  # not on Windows, where there is no glibc either

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _free_mib() -> list[float]:
    """Return the free memory of the machine, and of the container if it has a limit."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable")]
    try:
        limit, used = (
            int((_CONTAINER / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # no container, or no limit: "max"
        return found
    return [*found, (limit - used) / 2**20]


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") else None
