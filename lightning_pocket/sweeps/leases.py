"""Who works on a trial, and whether that process is still there."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lightning_pocket.processes import is_alive, machine

#: Seconds without a sign of life after which another process takes a trial over.
GRACE_S = 300.0


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
        if lease.get("machine") == self._machine:
            process = int(lease["pid"])
            if process == os.getpid() or not is_alive(process):  # not ours, so an earlier one of the same number
                return True
        if lease.get("time"):
            last = datetime.fromisoformat(str(lease["time"]))
        else:
            last = (began or datetime.now()).astimezone()
        return (datetime.now(UTC) - last).total_seconds() > self.grace_s


def describe(lease: Mapping[str, Any]) -> str:
    """Return who holds a lease, for people."""
    return f"process {lease['pid']} on {lease['host']}" if lease else "another process"
