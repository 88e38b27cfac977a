"""Who works on a trial, and whether that process is still there."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Seconds without a sign of life after which another process takes a trial over.
GRACE_S = 300.0


def machine() -> str:
    """Return what tells the processes that this one can see from all others: host, start of the system, container."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(str(Path(path).readlink()) if path.endswith("pid") else Path(path).read_text("utf-8").strip())
        except OSError:  # not Linux
            continue
    return " ".join(parts)


class Leases:
    """The leases that this process takes, and its judgement of those of others.

    A lease is written when a trial begins, and renewed again and again. It has ended when its process is gone, which
    processes of the same machine see at once, or when it was not renewed for a while, by the clock of the reader.

    Args:
        grace_s: Seconds after which a lease that is not renewed has ended.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.grace_s = grace_s
        self.worker = uuid.uuid4().hex[:12]
        self._machine = machine()

    @property
    def interval_s(self) -> float:
        """Seconds between two renewals."""
        return self.grace_s / 10

    def new(self) -> dict[str, Any]:
        """Return a lease of this process, from now on."""
        return {
            "worker": self.worker,
            "host": socket.gethostname(),
            "machine": self._machine,
            "pid": os.getpid(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def is_mine(self, lease: Mapping[str, Any]) -> bool:
        """Whether a lease is one of this object."""
        return lease.get("worker") == self.worker

    def has_ended(self, lease: Mapping[str, Any], began: datetime | None) -> bool:
        """Whether nobody works on a trial any more.

        Args:
            lease: Its lease; empty where the process has not written it yet.
            began: When the trial began, in local time as Optuna gives it.
        """
        if self.is_mine(lease):
            return False
        if lease.get("machine") == self._machine and not _is_alive(int(lease["pid"])):
            return True
        if lease.get("time"):
            last = datetime.fromisoformat(str(lease["time"]))
        else:
            last = (began or datetime.now()).astimezone()
        return (datetime.now(UTC) - last).total_seconds() > self.grace_s


def describe(lease: Mapping[str, Any]) -> str:
    """Return who holds a lease, for people."""
    return f"process {lease['pid']} on {lease['host']}" if lease else "another process"


def _is_alive(process: int) -> bool:
    if process == os.getpid():  # not ours, so an earlier one of the same number
        return False
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
