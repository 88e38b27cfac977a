"""The panels of a project on W&B: which metrics are shown, and against what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # an extra that only this command needs
    from wandb_workspaces.reports.v2.interface import Panel

Score = Literal["dice", "accuracy", "auc"]
Device = Literal["gpu", "cpu"]

_MEMORY: dict[Device, str] = {"gpu": "profile/peak_cuda_mib", "cpu": "profile/peak_rss_mib"}
_STEP = "trainer/global_step"
_NETWORK = "model.init_args.network.init_args"
#: Settings that sweeps usually change, and whether they are shown on a logarithmic axis.
SWEPT = {
    f"{_NETWORK}.widths.base": False,
    f"{_NETWORK}.depth": False,
    "model.init_args.optimizer.init_args.lr": True,
    "data.init_args.batch_size": False,
}


@dataclass(frozen=True)
class Metrics:
    """Names of what the runs of a project log.

    Args:
        score: What networks are judged by: ``dice`` of segmentations, ``accuracy`` or ``auc`` of classifications.
        device: Where the runs train, which decides what their peak memory is called.
    """

    score: Score = "dice"
    device: Device = "gpu"

    @property
    def validated(self) -> str:
        """Series of the validation score."""
        return f"val/{self.score}"

    @property
    def best(self) -> str:
        """Its best value, in the summary of a run."""
        return f"{self.validated}.max"

    @property
    def tested(self) -> str:
        """Score of the test."""
        return f"test/{self.score}"

    @property
    def memory(self) -> str:
        """Series of the peak memory of training in MiB."""
        return _MEMORY[self.device]


@dataclass(frozen=True)
class Chapter:
    """Panels that answer one question.

    Args:
        title: The question's name.
        text: How to read them.
        panels: The panels.
    """

    title: str
    text: str
    panels: list[Panel] = field(default_factory=list)


def chapters(metrics: Metrics) -> list[Chapter]:
    """Return the panels of the dashboard, in order.

    Args:
        metrics: Names of what the runs log.
    """
    found = [_size(metrics), _full_and_pocket(metrics), _groups(metrics), _sweeps(metrics), _curves(metrics)]
    return [*found, _costs(metrics), _cases(metrics)]


def _size(metrics: Metrics) -> Chapter:
    import wandb_workspaces.reports.v2 as wr

    against = {
        "parameters": "profile/parameters",
        "peak memory (MiB)": f"{metrics.memory}.max",
        "step time (ms)": "profile/step_ms.last",
    }
    panels = [
        wr.ScatterPlot(
            title=f"Test {metrics.score} against {name}",
            x=wr.SummaryMetric(key),
            y=wr.SummaryMetric(metrics.tested),
            log_x=True,
        )
        for name, key in against.items()
    ]
    text = "Each point is a tested run. Further left is smaller or faster, further up is better."
    return Chapter("Accuracy against size", text, panels)


def _full_and_pocket(metrics: Metrics) -> Chapter:
    import wandb_workspaces.reports.v2 as wr

    shown = {
        f"Test {metrics.score}": wr.SummaryMetric(metrics.tested),
        "Parameters": wr.SummaryMetric("profile/parameters"),
        "Peak memory (MiB)": wr.SummaryMetric(f"{metrics.memory}.max"),
        "Step time (ms)": wr.SummaryMetric("profile/step_ms.last"),
    }
    bars = [
        wr.BarPlot(
            title=f"{name} by size",
            metrics=[metric],
            groupby=wr.Config("labels.size"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for name, metric in shown.items()
    ]
    text = "Networks of one width (pocket) against those whose width doubles (full): mean and range over the runs."
    return Chapter("Full and pocket", text, [*bars, wr.RunComparer(diff_only="split")])


def _groups(metrics: Metrics) -> Chapter:
    import wandb_workspaces.reports.v2 as wr

    grouped: dict[str, Any] = {"groupby": "Group", "groupby_aggfunc": "mean"}
    panels = [
        wr.LinePlot(
            title=f"Validation {metrics.score}, mean and deviation over folds or seeds",
            x=_STEP,
            y=[metrics.validated],
            groupby_rangefunc="stddev",
            **grouped,
        ),
        wr.BarPlot(
            title=f"Test {metrics.score}, mean and deviation over folds or seeds",
            metrics=[wr.SummaryMetric(metrics.tested)],
            groupby_rangefunc="stddev",
            **grouped,
        ),
        wr.ScatterPlot(
            title=f"Test {metrics.score} of each fold", x=wr.Config("labels.fold"), y=wr.SummaryMetric(metrics.tested)
        ),
    ]
    text = "The runs of a cross-validation, or of several seeds, form a group."
    return Chapter("Folds and seeds", text, panels)


def _sweeps(metrics: Metrics) -> Chapter:
    import wandb_workspaces.reports.v2 as wr

    column = wr.ParallelCoordinatesPlotColumn
    settings = [column(wr.Config(name), display_name=name.rpartition(".")[2], log=log) for name, log in SWEPT.items()]
    results = [
        column(wr.SummaryMetric("profile/parameters"), display_name="parameters", log=True),
        column(wr.SummaryMetric(metrics.best), display_name=f"best validation {metrics.score}"),
    ]
    panels = [
        wr.ParallelCoordinatesPlot(title="Settings and scores", columns=[*settings, *results]),
        wr.ParameterImportancePlot(with_respect_to=metrics.best),
        wr.ScatterPlot(
            title=f"Best validation {metrics.score} of each run",
            x=wr.Metric("CreatedTimestamp"),
            y=wr.SummaryMetric(metrics.best),
            running_ymax=True,
        ),
    ]
    return Chapter("Sweeps", "Which settings lead to which scores, and how much each matters.", panels)


def _curves(metrics: Metrics) -> Chapter:
    import wandb_workspaces.reports.v2 as wr

    series = {f"Validation {metrics.score}": metrics.validated, "Validation loss": "val/loss"}
    series["Training loss"] = "train/loss"
    panels = [wr.LinePlot(title=name, x=_STEP, y=[key], title_x="step") for name, key in series.items()]
    return Chapter("Learning curves", "How training went.", panels)


def _costs(metrics: Metrics) -> Chapter:
    import wandb_workspaces.reports.v2 as wr

    series = {
        "Peak memory (MiB)": metrics.memory,
        "Step time (ms)": "profile/step_ms",
        "Share of the time that data are awaited": "profile/data_wait_share",
    }
    panels = [wr.LinePlot(title=name, x=_STEP, y=[key], title_x="step") for name, key in series.items()]
    return Chapter("Memory and time", "What training took.", panels)


def _cases(metrics: Metrics) -> Chapter:
    import wandb_workspaces.reports.v2 as wr

    pictures: list[Panel] = []
    if metrics.score == "dice":
        pictures = [
            wr.MediaBrowser(title=f"{name} cases", media_keys=[f"pictures/{key}"], num_columns=3)
            for name, key in (("Test", "test"), ("Validation", "val"))
        ]
    text = "Tested cases, one row each; prediction and ground truth can be shown and hidden over the pictures."
    return Chapter("Cases", text, [*pictures, wr.WeavePanelSummaryTable(table_name="test/cases")])
