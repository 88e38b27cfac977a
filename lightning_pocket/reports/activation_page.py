"""How strongly each channel before the head responds, per run: a table, charts and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pocket.storage import write_csv

from .charts import line_chart
from .page import Page
from .svg_file import write_svg

_COLUMNS = ("run", "rank", "channel", "mean", "std", "mean_absolute")
_MOST = 0.9  # share of the whole response, to say by how many channels it is carried


@dataclass(frozen=True)
class ChannelMeans:
    """Mean responses of the channels that a network's head is given.

    Args:
        name: Of the run.
        subjects: The cases (N).
        means: Mean over all voxels of a case, ``(N, C)``.
        absolute_means: Mean of the absolute values, ``(N, C)``; the same where the last activation is a ReLU.
    """

    name: str
    subjects: list[str]
    means: np.ndarray
    absolute_means: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Channels ``(C,)`` by their mean over the cases, the strongest first."""
        return np.argsort(-self.means.mean(0), kind="stable")

    @property
    def sorted_mean(self) -> np.ndarray:
        """Means over the cases ``(C,)``, the largest first."""
        return self.means.mean(0)[self.order]

    @property
    def sorted_share(self) -> np.ndarray:
        """Share of each channel ``(C,)`` in the sum of all mean absolute values, the largest first; 0 where all are."""
        strength = np.sort(self.absolute_means.mean(0))[::-1]
        return strength / (strength.sum() or 1.0)

    @property
    def silent(self) -> int:
        """How many channels are 0 in every voxel of every case."""
        return int((self.absolute_means == 0).all(0).sum())

    def carriers(self, share: float = _MOST) -> int:
        """Return how many of the strongest channels make up ``share`` of the sum of mean absolute values."""
        return min(int(np.searchsorted(self.sorted_share.cumsum(), share - 1e-9)) + 1, len(self.order))


def write_activations(folder: Path, results: list[ChannelMeans], command: str) -> Path:
    """Write ``activations.csv``, ``activations.svg`` and ``index.html``.

    Args:
        folder: Where to; made if it is missing.
        results: One per run.
        command: What made them, for the page.

    Returns:
        The page.

    Raises:
        PocketError: If no response is finite.
    """
    write_csv(folder / "activations.csv", _COLUMNS, [row for result in results for row in _rows(result)])
    means = line_chart(
        {r.name: _ranked(r.sorted_mean) for r in results}, "channel, sorted", "mean activation", "Mean of each channel"
    )
    shares = line_chart(
        {r.name: _ranked(100 * r.sorted_share) for r in results},
        "channel, sorted",
        "share in %",
        "Share of each channel",
    )
    write_svg(folder / "activations.svg", means)
    cases = len(results[0].subjects)
    page = Page(f"Features before the head: {' and '.join(r.name for r in results)}")
    page.paragraph(
        f"Each point is one channel of the features that the head is given: its mean over all voxels of a case, then "
        f"over the {cases} test cases, sorted (PocketNet, figure 4)."
    )
    page.paragraph(
        "The scale of features is arbitrary, since the head can undo it: compare the shapes of the curves, or the "
        "shares, rather than the heights.",
        "note",
    )
    page.charts(
        [
            (means, "Mean activation of each channel, the largest first."),
            (shares, "Share of each channel in the sum of all mean absolute activations, the largest first."),
        ]
    )
    page.table(
        ["", "channels", f"carry {_MOST:.0%}", "silent", "largest mean", "smallest mean"],
        [
            [
                r.name,
                str(len(r.order)),
                str(r.carriers()),
                str(r.silent),
                f"{r.sorted_mean[0]:.4g}",
                f"{r.sorted_mean[-1]:.4g}",
            ]
            for r in results
        ],
        f"How many of the strongest channels carry {_MOST:.0%} of the response, and how many are 0 everywhere.",
    )
    page.section("How it was made")
    page.code(command)
    page.write(folder / "index.html")
    return folder / "index.html"


def _ranked(values: np.ndarray) -> list[tuple[float, float]]:
    return [(float(rank), float(value)) for rank, value in enumerate(values, start=1)]


def _rows(result: ChannelMeans) -> list[dict[str, object]]:
    mean, absolute = result.means.mean(0), result.absolute_means.mean(0)
    std = result.means.std(0, ddof=1) if len(result.subjects) > 1 else np.zeros_like(mean)
    return [
        {
            "run": result.name,
            "rank": rank,
            "channel": int(channel),
            "mean": float(mean[channel]),
            "std": float(std[channel]),
            "mean_absolute": float(absolute[channel]),
        }
        for rank, channel in enumerate(result.order, start=1)
    ]
