"""The most memory that training, validation and testing take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

Stage = Literal["train", "val", "test"]
Peaks = dict[str, float]

_MIB = 2**20
_PREFIX: dict[Stage, str] = {"train": "profile/", "val": "profile/val_", "test": "profile/test_"}
_PROCESS = Path("/proc/self")


class PeakMemory(Callback):
    """Logs the peak memory of each epoch in MiB, apart for training, validation and testing.

    On CUDA these are ``profile/peak_cuda_mib``, what tensors took, and ``profile/peak_cuda_reserved_mib``, what the
    allocator held for them; it keeps what an earlier stage needed. Neither counts the CUDA context. Elsewhere
    ``profile/peak_rss_mib`` is the resident memory of the process with everything that it has loaded; on Linux it is
    the peak of the stage, on other systems that of the process so far, and where the system does not tell it nothing
    is logged. Validation and testing log ``profile/val_...`` and ``profile/test_...``. Processes that load data are
    not counted, and of several training processes only the first is.

    The validation inside an epoch of training interrupts the training's measurement: neither counts for the other.
    """

    def __init__(self) -> None:
        self._peaks: dict[Stage, Peaks] = {}
        self._latest: Peaks = {}
        self._stage: Stage | None = None

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("train", pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("train", pl_module)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(pl_module)
        self._begin("val", pl_module)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("val", pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "train" in self._peaks:
            self._continue("train", pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("test", pl_module)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("test", pl_module)

    def so_far(self, pl_module: LightningModule) -> Peaks:
        """Return the peaks so far of the stage that is running, else those of the one before.

        Returns:
            Peaks in MiB by the last part of their names.
        """
        if self._stage is None:
            return self._latest
        kept = self._peaks[self._stage]
        return {name: max(peak, kept.get(name, 0.0)) for name, peak in read_peaks(pl_module.device).items()}

    def restart(self, pl_module: LightningModule) -> None:
        """Forget the peak so far of the stage that is running: what came before was no part of it."""
        if self._stage is not None:
            self._begin(self._stage, pl_module)

    def _begin(self, stage: Stage, pl_module: LightningModule) -> None:
        self._peaks[stage] = {}
        self._continue(stage, pl_module)

    def _continue(self, stage: Stage, pl_module: LightningModule) -> None:
        self._stage = stage
        _reset(pl_module.device)

    def _pause(self, pl_module: LightningModule) -> None:
        """Keep the peak of the stage that another one interrupts."""
        if self._stage is None:
            return
        kept = self._peaks[self._stage]
        for name, peak in read_peaks(pl_module.device).items():
            kept[name] = max(peak, kept.get(name, 0.0))
        self._stage = None

    def _log(self, stage: Stage, pl_module: LightningModule) -> None:
        self._pause(pl_module)
        self._latest = self._peaks.pop(stage)
        for name, peak in self._latest.items():
            pl_module.log(_PREFIX[stage] + name, peak, rank_zero_only=True)


def _reset(device: torch.device) -> None:
    """Let the peak begin anew at what is taken now, where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="utf-8")  # see proc(5)
    except OSError:
        return


def read_peaks(device: torch.device) -> Peaks:
    """Return the peaks since the last reset in MiB: ``peak_cuda_mib`` and more on CUDA, else ``peak_rss_mib``.

    Args:
        device: What computes.
    """
    if device.type == "cuda":
        return {
            "peak_cuda_mib": torch.cuda.max_memory_allocated(device) / _MIB,
            "peak_cuda_reserved_mib": torch.cuda.max_memory_reserved(device) / _MIB,
        }
    resident = _resident_bytes()
    return {} if resident is None else {"peak_rss_mib": resident / _MIB}


def _resident_bytes() -> int | None:
    """Return the peak resident memory of this process; None where the system does not tell."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
