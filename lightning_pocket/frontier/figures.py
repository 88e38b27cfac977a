"""The figures of a frontier, drawn by the charts of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_pocket.reports.axes import Axis
from lightning_pocket.reports.charts import line_chart
from lightning_pocket.reports.frontier_chart import Networks, frontier_chart
from lightning_pocket.reports.kernel_chart import kernel_chart
from lightning_pocket.reports.layer_charts import Cell, size_chart, width_chart
from lightning_pocket.reports.shrinking import LayerShape
from lightning_pocket.reports.statistics_tables import metric_name

from .kernels import correlation, correlation_curve, network_of, taps_of
from .study import COSTS, Frontier
from .trained import BASE

_WIDE = 4  # tells an axis of costs from a few to many by powers of ten
_MOST_KERNELS, _MOST_LAYERS = 24, 4
_FAR = 2.0  # times as far from the best as three quarters of the networks: out of a close-up


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Args:
        name: Of its file.
        svg: The ``<svg>`` element.
        caption: The line below it.
    """

    name: str
    svg: str
    caption: str


def frontiers(study: Frontier) -> list[Figure]:
    """Return the score against each cost: figures 4 and 5 of the draft."""
    found = []
    score = metric_name(study.metric)
    aim = "more is better" if study.more_is_better else "less is better"
    for cost, name in COSTS.items():
        kinds = study.networks(cost)
        values = [pair.x for kind in kinds.values() for pair in kind.pairs]
        if not values:
            continue
        is_wide = min(values) > 0 and max(values) >= _WIDE * min(values)
        title = f"{score[:1].upper()}{score[1:]} against {name}"
        axes = Axis(f"{name} (less is better)", log=is_wide), Axis(f"{score} ({aim})")
        bases = study.bases(cost)
        chart = frontier_chart(kinds, *axes, study.more_is_better, title, study.kinds, bases)
        caption = f"{title}. On the thick steps: those for which no other one is as good in both and better in one."
        if any(not kind.competes for kind in kinds.values()):
            caption += " Published networks come from other trainings, and are not on it."
        found.append(Figure(f"frontier_{cost}", chart, caption))
        close = close_up(kinds, study.more_is_better)
        if close:
            left = [pair for pair in bases if any(pair in kind.pairs for kind in close.values())]
            chart = frontier_chart(close, *axes, study.more_is_better, f"{title}, the best", study.kinds, left)
            missing = len(values) - sum(len(kind.pairs) for kind in close.values())
            said = f"{missing} network{'s that are' if missing > 1 else ' that is'} far worse"
            found.append(Figure(f"frontier_{cost}_close", chart, f"The same without {said}."))
    return found


def close_up(kinds: Mapping[str, Networks], more_is_better: bool) -> dict[str, Networks]:
    """Return the networks without those whose scores leave no room for the differences between the others.

    Args:
        kinds: Networks by the name of their kind.
        more_is_better: Whether more is better of the score.

    Returns:
        The others by kind; none where all of them fit on one axis.
    """
    sign = 1 if more_is_better else -1
    losses = sorted(-sign * pair.y for kind in kinds.values() for pair in kind.pairs)
    usual = losses[(3 * len(losses) - 1) // 4] - losses[0]  # three quarters of the networks are within it
    most = losses[0] + _FAR * usual
    kept = [loss for loss in losses if loss <= most]
    if not usual or losses[-1] - losses[0] < 2 * (kept[-1] - losses[0]):
        return {}
    chosen = {
        name: replace(kind, pairs=[pair for pair in kind.pairs if -sign * pair.y <= most])
        for name, kind in kinds.items()
    }
    return {name: kind for name, kind in chosen.items() if kind.pairs}


def widths(study: Frontier) -> list[Figure]:
    """Return the widths of the layers over the strength of the penalty: figure 1 of the draft."""
    found = []
    for kind in study.learned:
        layers = study.layers(kind)
        columns = {label: [_cell(shapes[layer]) for layer in layers] for label, shapes in study.shapes(kind)}
        first = next(iter(study.shapes(kind)))[1]
        columns = {
            "0": [Cell(shape.kernels[0], shape.kernels[0]) for shape in map(first.get, layers) if shape]
        } | columns
        title = f"Widths of the layers over alpha: {kind}"
        chart = width_chart(_numbered(layers), columns, _alpha_label(study, kind), title)
        found.append(
            Figure(f"widths_{kind}", chart, f"{title}. Kernels that are left, on bars as long as their share.")
        )
    return found


def sizes(study: Frontier) -> list[Figure]:
    """Return how many kernels of each size the layers have over the strength of the penalty: figure 3 of the draft."""
    found = []
    for kind, results in study.learned.items():
        if results[0].network.penalty is None or results[0].network.penalty.regularizer != "KernelSize":
            continue
        layers = study.layers(kind)
        panels = {f"alpha {label}": [shapes[n].by_extent() for n in layers] for label, shapes in study.shapes(kind)}
        title = f"Kernels of each size over alpha: {kind}"
        chart = size_chart(panels, _numbered(layers), title)
        found.append(Figure(f"sizes_{kind}", chart, f"{title}. Size is the longest side of what is left of a kernel."))
    return found


def correlations(study: Frontier) -> list[Figure]:
    """Return how alike the kernels are, over the training and over the strength of the penalty."""
    found = []
    ends: dict[str, list[tuple[float, float]]] = {}
    levels: dict[float, list[float]] = {}
    for kind, results in study.learned.items():
        layers = study.layers(kind)
        curves = {f"alpha {result.network.label}": correlation_curve(result.network.runs[0]) for result in results}
        if any(curves.values()):
            title = f"Correlation of kernels while they are learned: {kind}"
            chart = line_chart(curves, "epoch", "mean absolute correlation", title)
            caption = f"{title}. Mean over the layers and the pairs of living kernels in each; a curve for each alpha."
            found.append(Figure(f"correlation_{kind}", chart, caption))
        last = [
            (result.network.penalty.strength, correlation(network_of(result.network.runs[0]), layers))
            for result in results
            if result.network.penalty
        ]
        ends[kind] = [(alpha, value) for alpha, value in last if value is not None and alpha > 0]
        base = next((other for result in results if (other := study.base_of(result)) is not None), None)
        value = correlation(network_of(base.network.runs[0]), layers) if base else None
        if value is not None and ends[kind]:
            levels.setdefault(value, []).extend(alpha for alpha, _ in ends[kind])
    for number, (value, reach) in enumerate(levels.items(), 1):
        name = BASE if len(levels) == 1 else f"{BASE} ({number})"
        ends[name] = [(min(reach), value), (max(reach), value)]
    drawn = {kind: points for kind, points in ends.items() if points}
    if drawn:
        title = "Correlation of kernels over alpha"
        chart = line_chart(drawn, "alpha, share of alpha_max", "mean absolute correlation", title, log_x=True)
        caption = f"{title}, when training has ended. The level of the network without a penalty is a line."
        found.append(Figure("correlation_alpha", chart, caption))
    return found


def kernels(study: Frontier) -> list[Figure]:
    """Return the kernels of some layers at the strength in the middle."""
    found = []
    for kind, results in study.learned.items():
        chosen = results[len(results) // 2].network
        layers = _spread(study.layers(kind))
        taps = taps_of(network_of(chosen.runs[0]), layers, _MOST_KERNELS)
        title = f"Kernels, {kind}, alpha {chosen.label}"
        caption = (
            f"{title}: the norm of each tap over the input channels. An empty tap is zero. At most "
            f"{_MOST_KERNELS} kernels of a layer are shown."
        )
        found.append(Figure(f"kernels_{kind}", kernel_chart(taps, title), caption))
    return found


def _cell(shape: LayerShape) -> Cell:
    return Cell(shape.kernels[1], shape.kernels[0])


def _numbered(layers: Sequence[str]) -> list[str]:
    return [f"{number} {name}" for number, name in enumerate(layers, 1)]


def _spread(layers: Sequence[str]) -> list[str]:
    """Return some layers from the first to the last."""
    if len(layers) <= _MOST_LAYERS:
        return list(layers)
    step = (len(layers) - 1) / (_MOST_LAYERS - 1)
    return [layers[round(place * step)] for place in range(_MOST_LAYERS)]


def _alpha_label(study: Frontier, kind: str) -> str:
    penalty = study.learned[kind][0].network.penalty
    return "alpha" if penalty is not None and penalty.is_absolute else "alpha, share of alpha_max"
