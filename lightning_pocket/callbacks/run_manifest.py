"""Everything needed to repeat a run, written beside its results."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_pocket.layers import deployed_parameters
from lightning_pocket.storage import read_json, write_json

from .best_checkpoint import BestCheckpoint
from .choose_speed import ChooseSpeed
from .start_from import StartFrom

PACKAGES = (
    "lightning-pocket",
    "torch",
    "pytorch-lightning",
    "torchio",
    "SimpleITK",
    "numpy",
    "scipy",
    "nibabel",
    "torchmetrics",
    "jsonargparse",
)
#: Named only where they are installed.
OPTIONAL_PACKAGES = ("wandb",)

_GIB = 2**30


class RunManifest(Callback):
    """Writes ``manifest.json`` in the run folder: what, with ``config.yaml`` beside it, tells one run from another.

    It holds the command, the seed, versions, git commit, hardware, the data's hash and split, the number of parameters
    in training and once expanded layers are contracted, the speed that ``ChooseSpeed`` chose, epoch (counted from 1),
    metric and score of ``best.ckpt``, when training began and ended (UTC), and ``train_seconds``, the time that
    training took over all attempts. It is written as training begins, before every epoch, and when training ends or
    fails; only time after the last of these is missing when a run is killed.
    """

    def __init__(self) -> None:
        self._content: dict[str, Any] = {}
        self._seconds_before = 0.0
        self._began = 0.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        earlier = _read(trainer) if trainer.ckpt_path else {}
        self._began = time.monotonic()
        self._seconds_before = float(earlier.get("train_seconds", 0.0))
        network = getattr(pl_module, "network", pl_module)
        self._content = {
            "command": shlex.join(["pocket", *sys.argv[1:]]),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "versions": versions(),
            "git_commit": {"lightning_pocket": _git_commit(Path(__file__).parent), "folder": _git_commit(Path.cwd())},
            "hardware": hardware(),
            "data": getattr(getattr(trainer, "datamodule", None), "record", {}),
            "start_from": next((c.record for c in trainer.callbacks if isinstance(c, StartFrom)), None),  # type: ignore[attr-defined]
            "distillation": getattr(getattr(pl_module, "distillation", None), "record", None),
            "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
            "deployed_parameters": deployed_parameters(network),
            "started_at": earlier.get("started_at") or _now(),
        }
        self._write(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, finished=True)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._content:
            self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: Trainer, finished: bool = False) -> None:
        state = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "train_seconds": round(self._seconds_before + time.monotonic() - self._began, 3),
            "finished": finished,
            "finished_at": _now() if finished else None,
        }
        chosen = [c.record for c in trainer.callbacks if isinstance(c, ChooseSpeed)]  # type: ignore[attr-defined]
        speed = {"speed": chosen[0]} if chosen else {}
        best = [c.record for c in trainer.callbacks if isinstance(c, BestCheckpoint)]  # type: ignore[attr-defined]
        write_json(_path(trainer), self._content | speed | state | (best[0] if best else {}))


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that a result may depend on."""
    found = {name: _version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    named = {name: version for name, version in found.items() if version or name in PACKAGES}
    return named | {"python": platform.python_version()}


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "manifest.json"


def _read(trainer: Trainer) -> dict[str, Any]:
    """Return what the attempt that continues has left, nothing for a run in a new folder."""
    content: dict[str, Any] = read_json(_path(trainer)) if _path(trainer).is_file() else {}
    return content


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder, with ``-dirty`` where files were changed; null outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def hardware() -> dict[str, Any]:
    """Return the processor, its cores, the memory in GiB, and the GPUs with the versions of CUDA and its driver."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "ram_gib": _memory_gib(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "cuda_driver": _cuda_driver() if gpus else None,
    }


def _memory_gib() -> float | None:
    """Return the memory of the machine; null where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _cuda_driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.split("\n")[0].strip() or None if result.returncode == 0 else None


def _processor() -> str:
    linux = Path("/proc/cpuinfo")
    lines = linux.read_text(encoding="utf-8").splitlines() if linux.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
