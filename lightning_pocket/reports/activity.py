"""Whether a run is being trained now."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.processes import is_alive
from lightning_pocket.storage import read_json

#: What a run writes while it trains and is tested; whose change makes a page of it old.
WRITTEN = ("manifest.json", "metrics.csv", "crossval.json", "cases.csv", "test/cases.csv", "error.json")
#: A run of another machine is taken to train where it has written something in the last so many seconds.
_SILENT_S = 900.0


def is_active(run: Path) -> bool:
    """Whether a run is being trained, or a fold of a cross-validation.

    Args:
        run: Folder of a run, or of a cross-validation.
    """
    folds = sorted(run.glob("fold_*")) if (run / "crossval.json").is_file() else []
    return any(map(_is_held, (run, *folds)))


def stamps(run: Path) -> list[tuple[float, int] | None]:
    """Return when each of the files of a run was written last, and its size; None for those that are not there.

    Args:
        run: Folder of a run, or of a cross-validation.
    """
    found: list[tuple[float, int] | None] = []
    for name in WRITTEN:
        try:
            status = (run / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime, status.st_size))
    return found


def _is_held(run: Path) -> bool:
    """Whether a process trains in a folder.

    The lock is only read: to try it could make a training fail that begins in this moment.
    """
    try:
        holder = read_json(run / ".lock")
        if holder["host"] == socket.gethostname():
            return is_alive(int(holder["pid"]))
    except (PocketError, LookupError, TypeError, ValueError):
        return False
    return any(time.time() - seconds < _SILENT_S for seconds, _ in filter(None, stamps(run)))
