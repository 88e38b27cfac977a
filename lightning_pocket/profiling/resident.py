"""Resident memory of this process, and how to start one whose resident memory means something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_pocket.errors import PocketError

_PROCESS = Path("/proc/self")
#: Settings of glibc's allocator, see mallopt(3): larger blocks than this are given back at once, and so is the top.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}


def start_peak() -> int:
    """Let the peak begin anew, and return the resident bytes at this moment.

    Raises:
        PocketError: If the system cannot do that.
    """
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="utf-8")  # see proc(5)
    except OSError as error:
        raise PocketError(
            f"{_PROCESS}/clear_refs: cannot be written ({error.strerror}), so the peak memory of a CPU cannot be "
            "measured on this system. It can be predicted."
        ) from error
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most resident bytes since :func:`start_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    """Return a line of ``/proc/self/status`` in bytes."""
    for line in (_PROCESS / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise PocketError(f"{_PROCESS}/status: has no {key}, so memory cannot be measured on this system.")


@contextmanager
def giving_memory_back() -> Iterator[None]:
    """Let processes that are started meanwhile give memory back to the system as soon as it is free."""
    before = {name: os.environ.get(name) for name in _MALLOC}
    os.environ.update(_MALLOC)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
