"""What a run is called and belongs to, as dashboards show it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.storage import load_yaml

#: In the folder around the runs of one experiment with several seeds.
SEEDS = "seeds.json"
#: In the folder of a cross-validation.
FOLDS = "crossval.json"


@dataclass(frozen=True)
class RunPlace:
    """Where a run belongs.

    Args:
        name: Name of the run, with that of its group.
        group: Group of runs that it is part of, None for a run of its own.
        job_type: What it is in the group: ``fold`` or ``seed``; None for a run of its own.
    """

    name: str
    group: str | None = None
    job_type: str | None = None


def find_place(folder: Path) -> RunPlace:
    """Return where a run belongs: the folds of a cross-validation and the seeds of a row of a table form groups.

    What ``WANDB_RUN_GROUP`` and ``WANDB_JOB_TYPE`` say has precedence.

    Args:
        folder: The run folder.
    """
    group, job_type = _group_of(folder)
    given, kind = os.environ.get("WANDB_RUN_GROUP"), os.environ.get("WANDB_JOB_TYPE")
    return RunPlace(f"{group}/{folder.name}" if group else folder.name, given or group, kind or job_type)


def _group_of(folder: Path) -> tuple[str | None, str | None]:
    around = folder.parent
    if (around / FOLDS).is_file():
        outer, _ = _group_of(around)
        return (f"{outer}/{around.name}" if outer else around.name), "fold"
    return (around.name, "seed") if (around / SEEDS).is_file() else (None, None)


def read_labels(folder: Path) -> dict[str, Any]:
    """Return the few words and numbers by which people tell runs apart.

    Args:
        folder: The run folder, with ``config.yaml``.

    Returns:
        ``data`` (name of the prepared data), ``task`` (such as segmentation), ``network``, ``dims`` (2D or 3D),
        ``size`` (full, pocket, or doublings_N), ``fold`` and ``seed``; what the settings do not say is left out.
    """
    file = folder / "config.yaml"
    settings = load_yaml(file.read_text(encoding="utf-8")) if file.is_file() else {}
    data = _arguments(settings.get("data"))
    model = settings.get("model") or {}
    network = _arguments(model).get("network") or {}
    dims = _arguments(network).get("spatial_dims")
    found = {
        "data": Path(str(data["cache"])).name if data.get("cache") else None,
        "task": _short(model).removesuffix("Task").lower(),
        "network": _short(network),
        "dims": f"{dims}D" if dims else None,
        "size": _size((_arguments(network).get("widths") or {}).get("doublings")),
        "fold": (data.get("split") or {}).get("fold"),
        "seed": settings.get("seed_everything"),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def as_tags(labels: Mapping[str, Any]) -> list[str]:
    """Return labels as W&B tags: words alone, at most 64 letters each."""
    return list(dict.fromkeys(value[:64] for value in labels.values() if isinstance(value, str)))


def _arguments(node: Any) -> dict[str, Any]:
    return (node or {}).get("init_args") or {}


def _short(node: Mapping[str, Any]) -> str:
    return str(node.get("class_path") or "").rpartition(".")[2]


def _size(doublings: Any) -> str | None:
    if doublings is None:
        return None
    return {"all": "full", 0: "pocket"}.get(doublings, f"doublings_{doublings}")
