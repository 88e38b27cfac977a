"""How many processes prepare batches, chosen by cores, memory and shared memory."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer

from lightning_pocket.errors import PocketError
from lightning_pocket.machine.limits import cpu_quota, memory_limit_mib, ram_mib, shared_memory_mib

from .workers import count_workers

log = logging.getLogger(__name__)

#: What ``num_workers`` may be.
Workers = int | Literal["auto"]

#: More seldom help: a patch is cut in milliseconds, and reading shares one disk.
MOST_WORKERS = 12
#: Memory of a worker besides its batches in MiB: the pages of torch and TorchIO that a fork does not share for long.
WORKER_MIB = 400
#: Share of the free memory, and of the shared memory, that workers may take.
_SHARE = 0.5


def check_loader(num_workers: Workers, prefetch_factor: int) -> None:
    """Refuse settings of a loader that make no sense.

    Args:
        num_workers: ``data.init_args.num_workers``.
        prefetch_factor: ``data.init_args.prefetch_factor``.

    Raises:
        PocketError: If one of them is too small.
    """
    if num_workers != "auto" and num_workers < 0:
        raise PocketError(f"data.init_args.num_workers: expected 0 or more, got {num_workers}; or auto.")
    if prefetch_factor < 1:
        raise PocketError(f"data.init_args.prefetch_factor: expected at least 1, got {prefetch_factor}.")


def worker_options(
    num_workers: Workers, prefetch_factor: int, batch_mib: float, trainer: Trainer | None, most: int = MOST_WORKERS
) -> dict[str, Any]:
    """Return ``num_workers`` and ``prefetch_factor`` of a ``DataLoader``.

    Args:
        num_workers: What the user set. ``auto`` prepares batches in the training process where that computes on the
            CPU, which workers would take from it; for a GPU it takes the cores that are left, as far as memory goes.
        prefetch_factor: Batches that each worker prepares ahead.
        batch_mib: Size of a batch in MiB.
        trainer: Says what the training runs on; without one, a GPU is used where there is one.
        most: Upper limit of ``auto``.

    Returns:
        Arguments of the loader.
    """
    workers = _automatic(prefetch_factor * batch_mib, trainer, most) if num_workers == "auto" else num_workers
    shared, needed = shared_memory_mib(), workers * prefetch_factor * batch_mib
    if shared is not None and needed > shared:
        log.warning(
            "/dev/shm has %.0f MiB, but %d workers hold up to %.0f MiB of batches there and may be killed (bus error): "
            "lower data.init_args.num_workers or prefetch_factor, or start the container with more --shm-size.",
            shared,
            workers,
            needed,
        )
    return {"num_workers": workers, "prefetch_factor": prefetch_factor if workers else None}


def training_device(trainer: Trainer | None) -> torch.device:
    """Return what the trainer computes on; without one, a GPU where there is one."""
    if trainer is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return trainer.strategy.root_device


def _automatic(ahead_mib: float, trainer: Trainer | None, most: int) -> int:
    if training_device(trainer).type == "cpu":
        return 0
    processes = max(1, trainer.num_devices) if trainer else 1
    cores = min(count_workers(None, tasks=1024), cpu_quota() or 1024)
    free = min(number for number in (ram_mib()[1], memory_limit_mib(), 1e9) if number is not None)
    limits = [
        most,
        cores / processes - 1,  # one for the training process
        _SHARE * free / processes / (WORKER_MIB + ahead_mib),
        _SHARE * (shared_memory_mib() or 1e9) / processes / ahead_mib,
    ]
    return max(0, int(min(limits)))
