"""Rebuild a task from its checkpoint alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import DAMAGED

from .base import BaseTask


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, tensors on the CPU.

    Raises:
        PocketError: If the file is absent or not a checkpoint of this program.
    """
    file = Path(path)
    if not file.is_file():
        raise PocketError(f"{file}: no such checkpoint. A run keeps its own in RUN_DIR/checkpoints.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise PocketError(
            f"{file}: not a checkpoint, or a damaged one ({type(error).__name__}). Expected a .ckpt file that "
            "`pocket fit` wrote, such as RUN_DIR/checkpoints/last.ckpt."
        ) from error
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= set(content):
        raise PocketError(
            f"{file}: not a checkpoint of lightning_pocket (it holds no hyper_parameters and state_dict). Expected a "
            ".ckpt file that `pocket fit` wrote."
        )
    return content


def load_task(path: str | Path) -> BaseTask:
    """Rebuild task, network and weights from a checkpoint, on the CPU and in evaluation mode.

    Args:
        path: Checkpoint that ``pocket fit`` wrote. Only tensors and plain values are read from it, never code.

    Raises:
        PocketError: If the file is absent or not a checkpoint of this program.
    """
    import lightning_pocket.compact
    import lightning_pocket.losses
    import lightning_pocket.networks  # noqa: F401 (only classes that are imported may be rebuilt)

    class_path = read_checkpoint(path)["hyper_parameters"].get("_class_path", "")
    if not class_path:
        raise PocketError(f"{path}: the checkpoint does not say how to rebuild its network. Train with `pocket fit`.")
    # Called on a subclass, Lightning would silently build that class instead of the saved one.
    with warnings.catch_warnings():
        # Lightning advises against hyper-parameters that are modules; here they are what makes this work.
        warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module`.*")
        task = LightningModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    if not isinstance(task, BaseTask):
        raise PocketError(f"{path}: expected a task of lightning_pocket, found {class_path}.")
    return task.eval()
