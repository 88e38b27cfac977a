"""Exclusive use of a folder by one process, on this machine and on others that share it."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import logging
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

#: Where Windows locks a byte: far behind the content, which must stay readable.
_FAR = 2**30
#: How often, and after how many seconds, the name of a holder is looked for that is about to write it.
_TRIES, _PAUSE_S = 5, 0.02
#: What file systems answer that know no locks.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
#: Locks that this process holds; children made by fork must let go of them.
_held: set[int] = set()


class FileLock:
    """A lock that one process holds at a time, and that ends with it even if it is killed.

    It is a lock of the operating system on an open file (``flock``, on Windows ``msvcrt.locking``), so a file that a
    killed process has left locks nothing. While it is held the file says who holds it. It is deleted when the lock is
    released. On a file system that knows no locks a warning is logged and nothing is locked.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free, without waiting.

        Returns:
            Whether this object holds it now.

        Raises:
            OSError: If the file cannot be made.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(descriptor)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    os.close(descriptor)
                    return False
                log.warning("%s: this file system knows no locks: start only one process here.", self.path)
            if _is_at(descriptor, self.path):
                break
            os.close(descriptor)  # whoever held it has deleted the file in the meantime
        self._descriptor = descriptor
        _held.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_me()).encode())
        return True

    def release(self) -> None:
        """Let go of the lock, if it is held, and delete the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):  # Windows deletes no open file
            self.path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)

    def holder(self) -> str:
        """Say who holds the lock: host, process and since when."""
        found = self._read()
        return f"process {found['pid']} on {found['host']} since {found['since']}" if found else "another process"

    def since(self) -> str:
        """Return since when the lock is held (UTC, ISO 8601); now where that is not known."""
        return str((self._read() or _me())["since"])

    def _read(self) -> dict[str, Any]:
        """Return what the holder has written, nothing where it has just released the lock."""
        for _ in range(_TRIES):
            try:
                found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
                return {key: found[key] for key in _me()}
            except (OSError, ValueError, LookupError, TypeError):  # not yet written, or just released
                time.sleep(_PAUSE_S)
        return {}


def _me() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now}


def _lock(descriptor: int) -> None:
    """Lock an open file, or raise OSError at once."""
    if os.name == "nt":
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        windows = importlib.import_module("msvcrt")
        windows.locking(descriptor, windows.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that the path names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _forget_after_fork() -> None:
    """Close the locks in a forked child: it would hold them when the parent is gone."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
