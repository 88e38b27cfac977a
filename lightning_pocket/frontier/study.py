"""Trained networks with their scores and costs, as one study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_run
from lightning_pocket.reports.front_chart import Pair
from lightning_pocket.reports.frontier_chart import Networks, efficient
from lightning_pocket.reports.shrinking import LayerShape
from lightning_pocket.reports.statistics_tables import scores_of

from .costs import Costs, before
from .kernels import penalized_layers
from .published import PublishedNetwork
from .trained import Trained

#: Costs that networks are drawn against, and what they are called.
COSTS = {
    "macs_formula": "multiply-accumulates (10)",
    "macs": "multiply-accumulates, executed",
    "parameters": "parameters",
    "milliseconds": "time of one image (ms)",
}
PUBLISHED = "published"
_ROUNDING = 1e-9  # 0.60 - 0.59 is a little more than 0.01
_LESS = ("error", "hd95", "asd")
_DEFAULTS = ("dice", "accuracy")


@dataclass(frozen=True)
class Result:
    """A trained network.

    Args:
        network: Which one it is.
        score: Its mean test score over the runs.
        costs: What it costs.
    """

    network: Trained
    score: float
    costs: Costs

    def pair(self, cost: str, metric: str) -> Pair | None:
        """Return the network as a point; None where the cost was not measured."""
        value = getattr(self.costs, cost)
        if value is None:
            return None
        said = f"{self.network.name}: {metric} {self.score:.4g}, {value:,.4g} {COSTS[cost]}"
        return Pair(value, self.score, self.network.label or self.network.kind, said)


@dataclass(frozen=True)
class Frontier:
    """Networks whose scores and costs are compared.

    Args:
        results: The trained ones.
        metric: Their score.
        published: Numbers of papers.
    """

    results: Sequence[Result]
    metric: str
    published: Sequence[PublishedNetwork] = ()

    @property
    def more_is_better(self) -> bool:
        """Whether more is better of the score."""
        return not any(part in self.metric for part in _LESS)

    @property
    def kinds(self) -> list[str]:
        """The kinds of networks, in their order."""
        found = list(dict.fromkeys(result.network.kind for result in self.results))
        return [*found, *([PUBLISHED] if self.published else [])]

    def networks(self, cost: str) -> dict[str, Networks]:
        """Return the networks by kind, as points; learned ones in the order of their strengths.

        Args:
            cost: A key of :data:`COSTS`.
        """
        found = {}
        for kind in dict.fromkeys(result.network.kind for result in self.results):
            own = [result for result in self.results if result.network.kind == kind]
            own.sort(key=lambda result: result.network.penalty.strength if result.network.penalty else 0.0)
            pairs = [pair for result in own if (pair := result.pair(cost, self.metric)) is not None]
            if pairs:
                found[kind] = Networks(pairs, joined=own[0].network.penalty is not None)
        papers = [entry for entry in self.published if self.metric in entry.scores]
        if papers and cost in ("macs", "macs_formula"):
            found[PUBLISHED] = Networks([_paper(entry, self.metric) for entry in papers], competes=False)
        return found

    def bases(self, cost: str) -> list[Pair]:
        """Return the networks that learned ones were made of, as points.

        Args:
            cost: A key of :data:`COSTS`.
        """
        found = [self.base_of(result) for own in self.learned.values() for result in own]
        pairs = [base.pair(cost, self.metric) for base in found if base is not None]
        return list(dict.fromkeys(pair for pair in pairs if pair is not None))

    def is_efficient(self, cost: str) -> list[bool]:
        """Return for each result whether no other one is better than it."""
        good = efficient(self.networks(cost), self.more_is_better)
        return [result.pair(cost, self.metric) in good for result in self.results]

    @cached_property
    def learned(self) -> dict[str, list[Result]]:
        """The networks that a penalty has changed, by kind, in the order of their strengths."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            if result.network.penalty is not None:
                found.setdefault(result.network.kind, []).append(result)
        return {kind: sorted(own, key=_strength) for kind, own in found.items()}

    def layers(self, kind: str) -> list[str]:
        """Return the layers that a penalty was on, in the order of the network.

        Args:
            kind: Of learned networks.
        """
        first = self.learned[kind][0].network
        penalized = penalized_layers(first.runs[0])
        return [layer.name for layer in first.shrinkings[0].layers if not penalized or layer.name in penalized]

    def shapes(self, kind: str) -> list[tuple[str, Mapping[str, LayerShape]]]:
        """Return strength and layers of each learned network of a kind."""
        return [
            (result.network.label, {layer.name: layer for layer in result.network.shrinkings[0].layers})
            for result in self.learned[kind]
        ]

    def base_of(self, result: Result) -> Result | None:
        """Return the network that a learned one was made of, where it was trained without a penalty too."""
        wanted = before(result.network)
        for other in self.results:
            if other.network.penalty is None and (other.costs.parameters, other.costs.macs) == wanted:
                return other
        return None

    def cheapest(self, margin: float) -> tuple[Result, Result] | None:
        """Return the learned network that saves most without losing more than a margin, and what it was made of.

        Args:
            margin: Of the score.

        Returns:
            None where there is none.
        """
        sign = 1.0 if self.more_is_better else -1.0
        found = []
        for result in (entry for own in self.learned.values() for entry in own):
            base = self.base_of(result)
            if base is None or result.costs.macs >= base.costs.macs:
                continue
            if sign * (base.score - result.score) <= margin + _ROUNDING:
                found.append((result.costs.macs / base.costs.macs, result, base))
        if not found:
            return None
        _, result, base = min(found, key=lambda entry: entry[0])
        return result, base

    def records(self) -> list[dict[str, Any]]:
        """Return every trained network as plain values."""
        good = self.is_efficient("macs_formula")
        found = []
        for result, is_good in zip(self.results, good, strict=True):
            penalty, base = result.network.penalty, self.base_of(result)
            time, base_time = result.costs.milliseconds, base.costs.milliseconds if base else None
            found.append(
                {
                    "kind": result.network.kind,
                    "label": result.network.label,
                    "alpha": penalty.strength if penalty else "",
                    "tau": penalty.tau if penalty and penalty.tau is not None else "",
                    self.metric: result.score,
                    **{cost: getattr(result.costs, cost) for cost in COSTS},
                    "macs_ratio": result.costs.macs / base.costs.macs if base else "",
                    "time_ratio": time / base_time if time and base_time else "",
                    "efficient": is_good,
                    "runs": " ".join(map(str, result.network.runs)),
                }
            )
        return found


def choose_metric(found: Sequence[Trained], given: str | None) -> str:
    """Return the metric that networks are compared by: the one given, else Dice or accuracy.

    Raises:
        PocketError: If the first network was not tested.
    """
    if given:
        return given
    result = read_run(found[0].networks[0])
    known = [name for name in _DEFAULTS if name in result.scores or name in scores_of(result)]
    if not known:
        raise PocketError(f"{result.path}: was not tested; `pocket test --run_dir {result.path}` does.")
    return known[0]


def _strength(result: Result) -> float:
    return result.network.penalty.strength if result.network.penalty else 0.0


def _paper(entry: PublishedNetwork, metric: str) -> Pair:
    note = f" ({entry.note})" if entry.note else ""
    said = f"{entry.label}{note}: {metric} {entry.scores[metric]:.4g}, {entry.macs:,.4g} multiply-accumulates"
    return Pair(entry.macs, entry.scores[metric], entry.label, said)
