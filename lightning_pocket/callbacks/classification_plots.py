"""Charts of a tested classification, beside its table."""

from __future__ import annotations

from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_pocket.reports.classification_charts import confusion_chart, reliability_chart, roc_chart
from lightning_pocket.reports.classified import read_classified
from lightning_pocket.reports.svg_file import write_svg

from .logged_results import log_classification


class ClassificationPlots(Callback):
    """Writes ``test/roc.svg``, ``test/confusion.svg`` and ``test/reliability.svg`` in the run folder.

    They are drawn from ``test/cases.csv``, which :class:`CaseTable` writes; tests of other tasks are left alone. Where
    the tested images are all of one class there is no ROC curve. TensorBoard and W&B get the first two.
    """

    @override
    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / "test"
        cases = read_classified(folder / "cases.csv")
        if cases is None:
            return
        curves = {cases.classes[k]: (cases.probability[:, k], cases.target == k) for k in cases.drawn}
        if curves:
            write_svg(folder / "roc.svg", roc_chart(curves, "ROC of the test images"))
        else:
            (folder / "roc.svg").unlink(missing_ok=True)
        write_svg(folder / "confusion.svg", confusion_chart(cases.confusion, cases.classes, "Confusion matrix"))
        write_svg(folder / "reliability.svg", reliability_chart({"test": cases.calibration}, "Reliability of the test"))
        log_classification(trainer, cases)
