"""Settings and figures by which a table of runs tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule

from lightning_pocket.reports.redaction import redact
from lightning_pocket.storage import load_yaml

from .run_labels import read_labels

#: Number of trainable parameters, beside the figures that callbacks log.
PARAMETERS = "profile/parameters"
#: What studies usually change.
HYPERPARAMETERS = (
    "data.init_args.batch_size",
    "data.init_args.patch_size",
    "model.init_args.loss.class_path",
    "model.init_args.network.init_args.depth",
    "model.init_args.network.init_args.layers.conv.class_path",
    "model.init_args.network.init_args.layers.conv.init_args.group_size",
    "model.init_args.network.init_args.widths.base",
    "model.init_args.network.init_args.widths.doublings",
    "model.init_args.optimizer.class_path",
    "model.init_args.optimizer.init_args.lr",
    "model.init_args.optimizer.init_args.weight_decay",
    "trainer.max_epochs",
    "trainer.precision",
)


def read_hyperparameters(folder: Path, patterns: Sequence[str]) -> dict[str, bool | int | float | str]:
    """Return settings of a run that fit a table.

    Args:
        folder: The run folder, with ``config.yaml``.
        patterns: Dotted names of settings, in which a star stands for anything.

    Returns:
        The labels of the run, and the settings by their names without ``init_args`` and ``class_path``, classes by
        their own names; empty where there is no config.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return {}
    settings = load_yaml(file.read_text(encoding="utf-8"))
    found = {
        name.replace(".init_args", "").removesuffix(".class_path"): _shown(name, value)
        for name, value in _flatten(redact(settings))
        if value is not None and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return read_labels(folder) | found


def table_metrics(task: LightningModule) -> list[str]:
    """Return the metrics of a table of runs: validation and test score, parameters, peak memory, step time.

    Args:
        task: The task, on the device that trains.
    """
    score = str(getattr(task, "score", ""))
    scores = [score, score.replace("val/", "test/")] if score else []
    memory = "profile/peak_cuda_mib" if task.device.type == "cuda" else "profile/peak_rss_mib"
    return [*scores, "val/loss", PARAMETERS, memory, "profile/step_ms"]


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flatten(entry, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _shown(name: str, value: Any) -> bool | int | float | str:
    if name.endswith("class_path"):
        return str(value).rpartition(".")[2]
    return value if isinstance(value, bool | int | float | str) else str(value)
