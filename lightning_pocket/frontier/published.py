"""Published networks as points beside trained ones."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder

_FOLDER = "published"


@dataclass(frozen=True)
class PublishedNetwork:
    """A row of a file of published numbers.

    Args:
        label: Name of the network.
        macs: Multiply-accumulates of one image.
        scores: Its scores by metric.
        note: What else a reader must know, such as the number of crops.
    """

    label: str
    macs: float
    scores: dict[str, float]
    note: str


def read_published(name: str) -> list[PublishedNetwork]:
    """Read a file of published networks: a CSV with ``label``, ``macs``, ``note`` and a column for each metric.

    Args:
        name: The file, or the name of a shipped one, such as ``imagenet``.

    Raises:
        PocketError: If there is no such file, or something in it is no number.
    """
    file = Path(name) if Path(name).is_file() else configs_folder() / _FOLDER / f"{name.removesuffix('.csv')}.csv"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in (configs_folder() / _FOLDER).glob("*.csv")))
        raise PocketError(f"--published {name}: no such file, and no shipped one of this name. Shipped: {known}.")
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    found = []
    for number, row in enumerate(rows, 2):
        try:
            given = {key: value for key, value in row.items() if key not in ("label", "macs", "note") and value}
            scores = {key: float(value) for key, value in given.items()}
            found.append(PublishedNetwork(row["label"], float(row["macs"]), scores, row.get("note") or ""))
        except (KeyError, TypeError, ValueError) as error:
            raise PocketError(
                f"{file}: line {number}: {type(error).__name__}: {error}; expected label, macs, and numbers as metrics."
            ) from error
    return found
