"""The pruner's side of a training: what its callback reports goes to Optuna, and a verdict back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.storage import write_text

if TYPE_CHECKING:
    from optuna import Trial

#: Files that a training and its pruner leave for each other; ``callbacks.SweepPruning`` writes and reads the same.
REPORTS, STOP = "reports.jsonl", "stop"


class PruningWatch:
    """Reads what the training of a trial reports, and tells it to end where the pruner says so.

    Args:
        folder: Where the training leaves its reports.
        trial: The trial.
    """

    def __init__(self, folder: Path, trial: Trial) -> None:
        self.folder = folder
        self.trial = trial
        self.pruned = (folder / STOP).is_file()  # a worker that was killed had already decided
        self._seen: set[int] = set()

    def look(self) -> bool:
        """Report what is new.

        Returns:
            Whether the trial has been pruned.
        """
        import optuna

        for epoch, value in self._reports():
            if epoch in self._seen:
                continue
            try:
                self.trial.report(value, step=epoch)
            except optuna.exceptions.UpdateFinishedTrialError:  # taken over by another worker
                break
            verdict = not self.pruned and self.trial.should_prune()
            if verdict:
                write_text(self.folder / STOP, f"pruned after epoch {epoch}\n")
                self.pruned = True
            self._seen.add(epoch)  # last: where the storage is away, it is reported again
            if verdict:
                break
        return self.pruned

    def _reports(self) -> list[tuple[int, float]]:
        file = self.folder / REPORTS
        if not file.is_file():
            return []
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # the last one may be half written
        found = [json.loads(line) for line in lines if line]
        return [(int(entry["epoch"]), float(entry["value"])) for entry in found]
