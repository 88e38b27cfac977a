"""Processes of this machine: which of them run, and what tells them from those of other machines."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def machine() -> str:
    """Return what tells the processes that this one can see from all others: host, start of the system, container."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(str(Path(path).readlink()) if path.endswith("pid") else Path(path).read_text("utf-8").strip())
        except OSError:  # not Linux
            continue
    return " ".join(parts)


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs.

    Args:
        process: Its number.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without such signals
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Whether a process has ended and its parent has not noticed, as parents of containers often do not."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
