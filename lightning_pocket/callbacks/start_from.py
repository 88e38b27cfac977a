"""Remember which checkpoint a run took its first weights from."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback
from typing_extensions import override


class StartFrom(Callback):
    """Carries what a fine-tuned run began with in its checkpoints; the command line adds it for ``--start_from``.

    Args:
        record: Plain values: checkpoint, its SHA-256, and what was kept of it. A run that continues restores them.

    Attributes:
        record: The same, for the manifest of the run.
    """

    def __init__(self, record: dict[str, Any] | None = None) -> None:
        self.record = record or {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.record

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record = state_dict
