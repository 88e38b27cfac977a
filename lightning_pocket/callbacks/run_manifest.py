"""Everything needed to repeat a run, written beside its results."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_pocket.storage import write_json

PACKAGES = ("lightning-pocket", "torch", "pytorch-lightning", "torchio", "SimpleITK", "numpy", "torchmetrics")


class RunManifest(Callback):
    """Writes ``manifest.json`` in the run folder: command, seed, versions, git commit, hardware, data, parameters."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, finished=False)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, finished=True)

    @rank_zero_only
    def _write(self, trainer: Trainer, pl_module: LightningModule, finished: bool) -> None:
        network = getattr(pl_module, "network", pl_module)
        content = {
            "command": shlex.join(["pocket", *sys.argv[1:]]),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "git_commit": {"lightning_pocket": _git_commit(Path(__file__).parent), "folder": _git_commit(Path.cwd())},
            "hardware": hardware(),
            "data": getattr(getattr(trainer, "datamodule", None), "record", {}),
            "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "finished": finished,
        }
        write_json(Path(trainer.default_root_dir) / "manifest.json", content)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder, with ``-dirty`` where files were changed; null outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def hardware() -> dict[str, Any]:
    """Return the names of the processor and the GPUs, and the number of cores."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpu": _processor(), "cores": os.cpu_count(), "gpus": gpus}


def _processor() -> str:
    linux = Path("/proc/cpuinfo")
    lines = linux.read_text(encoding="utf-8").splitlines() if linux.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
