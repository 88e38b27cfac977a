"""Results of a test, one row per class."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_pocket.metrics import column_name, overlap_scores
from lightning_pocket.reports.tables import print_table
from lightning_pocket.storage import write_csv
from lightning_pocket.types import DatasetInfo

_SHARES = ("iou", "recall", "precision")


class ClassTable(Callback):
    """Writes ``test/classes.csv`` and ``test/confusion.csv`` in the run folder, and prints the former.

    For tasks with ``mean_iou``: scores are those of all images together. Rows of the second table are true classes,
    its columns predicted ones, in pixels (voxels). Other tasks write nothing.
    """

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        confusion = getattr(pl_module, "class_confusion", None)
        info = getattr(pl_module, "info", None)
        if confusion is None or not isinstance(info, DatasetInfo) or not trainer.is_global_zero:
            return
        scores, folder = overlap_scores(confusion), Path(trainer.default_root_dir) / "test"
        rows = scores.rows(info.classes)
        write_csv(folder / "classes.csv", list(rows[0]), rows)
        columns = [column_name(name) for name in info.classes]
        counts = [
            {"class": name} | dict(zip(columns, row.tolist(), strict=True))
            for name, row in zip(info.classes, confusion, strict=True)
        ]
        write_csv(folder / "confusion.csv", ["class", *columns], counts)
        means = scores.means()
        shown = [(str(row["class"]), *(_percent(row[name]) for name in _SHARES)) for row in rows]
        shown.append(("mean", *(_percent(means[name]) for name in ("miou", "mean_recall", "mean_precision"))))
        print_table(("class, %", "IoU", "recall", "precision"), shown)
        trainer.print(f"all images together; {_percent(means['pixel_accuracy'])} % of the pixels have their class")


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.2f}"
