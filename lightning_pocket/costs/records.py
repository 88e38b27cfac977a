"""What was computed before, so that a profile that was killed continues."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_pocket.storage import read_json, to_json, write_json

Values = dict[str, Any]


class Records:
    """Results in a folder, one file each, named after a hash of everything that they depend on.

    Args:
        folder: Where they are kept; None keeps nothing.
        fresh: Compute everything again.
    """

    def __init__(self, folder: Path | None, fresh: bool = False) -> None:
        self.folder = folder
        self.fresh = fresh

    def get(self, key: Mapping[str, Any], compute: Callable[[], Values]) -> Values:
        """Return the result of a key, computed only where it is not there.

        Args:
            key: Everything that the result depends on, as plain values.
            compute: Makes the result; one with a ``problem`` is not kept.
        """
        name = hashlib.sha256(to_json(key).encode()).hexdigest()[:16]
        file = None if self.folder is None else self.folder / f"{name}.json"
        if file is not None and file.is_file() and not self.fresh:
            values: Values = read_json(file)["values"]
            return values
        values = compute()
        if file is not None and "problem" not in values:  # a problem may be mended
            write_json(file, {"key": dict(key), "values": values})
        return values
