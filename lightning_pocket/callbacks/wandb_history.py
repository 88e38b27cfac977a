"""What earlier attempts at a run have given to W&B, read from the files that it keeps."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Blocks of W&B's transaction log, and the size of the head of each of their parts: LevelDB's log format.
_BLOCK, _PART = 32768, 7
_MAGIC = 7  # bytes before the first part, counted as part of the first block
_WHOLE, _LAST = 1, 4


@dataclass
class SentHistory:
    """What W&B has of a run.

    Attributes:
        last: The last step of each series.
        rows: Rows of its history, over all attempts.
    """

    last: dict[str, int] = field(default_factory=dict)
    rows: int = 0

    def new(self, metrics: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the metrics that W&B does not have of this step or later ones, and note them."""
        found = {name: value for name, value in metrics.items() if step > self.last.get(name, -1)}
        self.last |= dict.fromkeys(found, step)
        return found


def read_sent(folder: Path, axis: str) -> SentHistory:
    """Return what W&B has of a run.

    Args:
        folder: Folder ``wandb`` of the run, with a folder for each attempt.
        axis: Name of the step that is logged with every series.

    Returns:
        What the transaction logs hold; a file that W&B has not written, or in another format, counts as empty.
    """
    sent = SentHistory()
    steps = set()
    for log in sorted(folder.glob("*run-*/run-*.wandb")):
        for items in _history(log):
            sent.rows += 1
            steps.add(items.get("_step", -1))
            if axis in items:
                series = items.keys() - {axis}
                sent.last |= {name: max(int(items[axis]), sent.last.get(name, -1)) for name in series if name[0] != "_"}
    sent.rows = max(sent.rows, int(max(steps, default=-1)) + 1)
    return sent


def read_metrics(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the rows of ``metrics.csv``, each with its step, in order; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(int(row.pop("step")), row) for row in csv.DictReader(file)]
    return sorted((step, {name: float(cell) for name, cell in row.items() if cell}) for step, row in rows)


def _history(log: Path) -> Iterator[dict[str, Any]]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto import wandb_internal_pb2

    make: Any = vars(wandb_internal_pb2)["Record"]  # the module's stubs do not name it
    try:
        for content in _records(log.read_bytes()):
            record = make.FromString(content)
            if record.HasField("history"):
                items = record.history.item
                yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
    except (DecodeError, ValueError):
        return


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a transaction log; what a killed process left half-written at its end is dropped."""
    position, parts = _MAGIC, b""
    while position + _PART <= len(data):
        room = _BLOCK - position % _BLOCK
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        if room < _PART or kind == 0:  # the rest of a block is left empty
            position += room
            continue
        parts += data[position + _PART : position + _PART + length]
        position += _PART + length
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
