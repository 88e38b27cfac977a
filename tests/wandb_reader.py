"""Reads what an offline W&B run wrote: the LevelDB-style log of protobuf records, and the files beside it."""

import json
from pathlib import Path

from wandb.proto import wandb_internal_pb2

VARIABLES = (
    "API_KEY",
    "MODE",
    "IDENTITY_TOKEN_FILE",
    "BASE_URL",
    "SILENT",
    "DATA_DIR",
    "RUN_GROUP",
    "JOB_TYPE",
    "ENTITY",
)


def isolate(monkeypatch, home: Path) -> None:
    """Make this a machine that is not logged in to W&B, and whose home is a folder of the test."""
    for name in VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "WANDB_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    home.mkdir(parents=True, exist_ok=True)


def records(log: Path):
    """Yield the records of a transaction log."""
    data, position, content = log.read_bytes(), 7, b""
    while len(data) - position >= 7:
        block = 32768 - position % 32768
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        if block < 7:
            position += block
            continue
        content += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(content)
            content = b""


def nest(items) -> dict:
    """Return items of a record as a tree, by their keys."""
    found: dict = {}
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        inner = found
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return found


class OfflineRun:
    """Every attempt at one offline W&B run, in order.

    Attributes:
        attempts: Folders of the attempts.
        config, summary: As they were in the end.
        history: Rows of all attempts.
        metrics: Definitions of metrics by name: summary and step.
        runs: The record of the run of each attempt.
        artifacts: Records of artifacts.
        classes: Names of the classes of masks, by what W&B calls the masks.
    """

    def __init__(self, run: Path) -> None:
        self.attempts = sorted((run / "wandb").glob("offline-run-*"))
        self.config, self.summary, self.metrics, self.classes = {}, {}, {}, {}
        self.history, self.runs, self.artifacts = [], [], []
        for folder in self.attempts:
            (log,) = folder.glob("*.wandb")
            for record in records(log):
                self._add(record)

    def _add(self, record) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.runs.append(record.run)
            self.config |= nest(record.run.config.update)
        elif kind == "config":
            self.config |= (update := nest(record.config.update))
            self.classes |= update.get("_wandb", {}).get("mask/class_labels", {})
        elif kind == "summary":
            self.summary |= nest(record.summary.update)
        elif kind == "history":
            self.history.append(nest(record.history.item))
        elif kind == "artifact":
            self.artifacts.append(record.artifact)
        elif kind == "metric":
            self.metrics[record.metric.name or record.metric.glob_name] = record.metric

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return step and value of a metric."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]

    def media(self, path: str) -> Path:
        """Return a file that a record names."""
        (found,) = [file for file in (folder / "files" / path for folder in self.attempts) if file.is_file()]
        return found

    def table(self, name: str) -> dict:
        """Return the last table of this name."""
        (value,) = [row[name] for row in self.history if name in row][-1:]
        return json.loads(self.media(value["path"]).read_text(encoding="utf-8"))
