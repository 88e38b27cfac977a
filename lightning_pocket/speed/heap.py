"""Keep freed memory instead of giving it back to the system."""

from __future__ import annotations

import ctypes
import functools
import platform

#: Names and default values of glibc's ``mallopt``, see mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_TRIM_AT, _MAPPED_BLOCKS = 64 * 2**20, 65536
_changed = False


def keep_memory(on: bool) -> bool:
    """Let the C library keep what tensors free, so that the next ones find memory that is ready.

    By default glibc asks the system for each tensor above 32 MiB and gives it back when it is freed: the system clears
    every page again, at each layer of each step. A process that keeps its memory stays as large as it ever was.

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


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") else None
