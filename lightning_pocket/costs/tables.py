"""The rows of a profile as tables for readers, and as records for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_pocket.reports.page import NOT_KNOWN
from lightning_pocket.reports.table_files import Table
from lightning_pocket.reports.tables import print_table

from .plan import Plan, Size
from .run import Row

#: Columns of what was predicted, in MiB but for the first four.
PREDICTED = (
    "parameters", "deployed_parameters", "macs", "macs_ptflops", "weights_mib", "gradients_mib", "optimizer_mib",
    "activations_mib", "inputs_mib", "workspace_mib", "train_mib", "infer_mib",
)  # fmt: skip
#: Columns of what was measured.
MEASURED = (
    "measured_train_mib", "measured_reserved_mib", "train_step_ms", "train_images_per_s", "measured_infer_mib",
    "infer_ms", "infer_images_per_s", "expected_train_mib", "expected_infer_mib", "data_wait_share",
)  # fmt: skip
#: Columns of which less is better, and which are compared with the first variant.
COMPARED = ("parameters", "macs", "train_mib", "infer_mib", "measured_train_mib", "train_step_ms",
            "measured_infer_mib", "infer_ms")  # fmt: skip
COLUMNS = (
    "group", "network", "variant", "batch", "patch", "precision", *PREDICTED, *MEASURED,
    *(f"{column}_saved_percent" for column in COMPARED), "published_images_per_s", "published_time_saved_percent",
    "problem",
)  # fmt: skip
PUBLISHED = "infer_images_per_s"
#: Columns of complexity that may have been published.
COUNTED = {"parameters", "macs_ptflops", "epoch_s"}
_CAUSES = ("weights", "gradients", "optimizer", "activations", "inputs", "workspace")


@dataclass(frozen=True)
class CostTables:
    """Rows of a profile, compared with the first variant of each network.

    Args:
        plan: What was compared.
        rows: What it came to.
    """

    plan: Plan
    rows: Sequence[Row]

    def saved(self, row: Row, column: str) -> float | None:
        """Return which share less a row needs than the first variant of its network with the same batch and patch.

        Args:
            row: The row.
            column: One of ``COMPARED``.

        Returns:
            1 where it needs nothing; None for the first variant itself, and where one of the two is not known.
        """
        first = self._first(row)
        if first is None or first is row:
            return None
        reference, value = first.value(column), row.value(column)
        return None if not reference or value is None else 1 - value / reference

    def published_saving(self, row: Row) -> float | None:
        """Return the published share of time that a row saves: the table's "speed up" is 1 - first / this."""
        first = self._first(row)
        ours = self.published(row)
        reference = None if first is None or first is row else self.published(first)
        return 1 - reference / ours if ours and reference else None

    def published(self, row: Row) -> float | None:
        """Return the published throughput of a row in images per second."""
        grid = self.plan.grids[row.grid]
        return row.candidate.published.get(PUBLISHED) if row.patch in grid.patches else None

    def tables(self) -> list[Table]:
        """Return all tables, in the order in which they are to be read."""
        found: list[Table] = []
        for index, grid in enumerate(self.plan.grids):
            here = [row for row in self.rows if row.grid == index]
            for patch in dict.fromkeys(row.patch for row in here):
                rows = [row for row in here if row.patch == patch]
                where = ", ".join(part for part in (grid.title, f"patch {rows[0].size}") if part)
                found += [table for make in _MAKERS if (table := make(self, rows, where)).rows]
        return found

    def records(self) -> list[dict[str, Any]]:
        """Return every row with every column."""
        return [self._record(row) for row in self.rows]

    def ranges(self, column: str) -> list[tuple[str, float, float]]:
        """Return the title of each grid, and the smallest and largest saving in percent of any network and batch."""
        found = []
        for index, grid in enumerate(self.plan.grids):
            shares = [self.saved(row, column) for row in self.rows if row.grid == index]
            known = [100 * share for share in shares if share is not None]
            if known:
                found.append((grid.title, min(known), max(known)))
        return found

    def _first(self, row: Row) -> Row | None:
        variants = [c.variant for c in self.plan.grids[row.grid].candidates if c.name == row.candidate.name]
        same = (row.grid, row.candidate.name, variants[0], row.batch, row.patch)
        for other in self.rows:
            if (other.grid, other.candidate.name, other.candidate.variant, other.batch, other.patch) == same:
                return other
        return None

    def _record(self, row: Row) -> dict[str, Any]:
        record: dict[str, Any] = {
            "group": self.plan.grids[row.grid].title,
            "network": row.candidate.name,
            "variant": row.candidate.variant,
            "batch": row.batch,
            "patch": row.size,
            "precision": row.precision,
            **row.predicted,
            **row.measured,
        }
        for column in COMPARED:
            share = self.saved(row, column)
            record[f"{column}_saved_percent"] = None if share is None else round(100 * share, 2)
        share = self.published_saving(row)
        record["published_images_per_s"] = self.published(row)
        record["published_time_saved_percent"] = None if share is None else round(100 * share, 2)
        return record | {"problem": row.problem}


def _networks(costs: CostTables, rows: Sequence[Row], where: str) -> Table:
    """Sizes, once for each network."""
    once = list({row.candidate: row for row in reversed(rows) if row.predicted}.values())[::-1]
    deployed = {row.candidate: row.value("deployed_parameters") for row in once}
    expanded = any(deployed[row.candidate] not in (None, row.value("parameters")) for row in once)
    lines = [
        [
            row.candidate.label,
            f"{row.predicted['parameters']:,}",
            percent(costs.saved(row, "parameters")),
            *([f"{deployed[row.candidate]:,.0f}"] if expanded else []),
            giga(row.predicted["macs"]),
            percent(costs.saved(row, "macs")),
        ]
        for row in once
    ]
    sizes = ["parameters", "saved", *(["deployed"] if expanded else [])]
    return Table(f"Size: {where}", ["network", *sizes, "GMAC per image", "saved"], lines)


def _complexity(costs: CostTables, rows: Sequence[Row], where: str) -> Table:
    """Sizes as ExpandNets prints them, beside what was published; nothing where nothing was."""
    header = [
        "network", "parameters", "published", "MMAC (ptflops)", "published", "MMAC (ours)", "epoch s", "published s",
    ]  # fmt: skip
    lines = []
    for row in rows if any(COUNTED & row.candidate.published.keys() for row in rows) else ():
        published = row.candidate.published
        speed = row.value("train_images_per_s")
        epoch = costs.plan.images_per_epoch / speed if speed else None
        lines.append(
            [
                row.candidate.label,
                f"{row.predicted['parameters']:,}",
                f"{published['parameters']:,}" if "parameters" in published else "",
                f"{row.predicted['macs_ptflops'] / 1e6:,.2f}",
                f"{published['macs_ptflops'] / 1e6:,.2f}" if "macs_ptflops" in published else "",
                f"{row.predicted['macs'] / 1e6:,.2f}",
                amount(epoch) if epoch else "",
                f"{published['epoch_s']:g}" if "epoch_s" in published else "",
            ]
        )
    return Table(f"Complexity in training: {where}", header, lines).filled()


def _memory(costs: CostTables, rows: Sequence[Row], where: str) -> Table:
    header = ["network", "batch", "weights", "grads", "optim", "activ", "inputs", "work", "peak", "saved", "infer"]
    lines = []
    for row in (row for row in rows if row.predicted):
        values = [amount(row.value(f"{cause}_mib")) for cause in _CAUSES]
        saving = percent(costs.saved(row, "train_mib"))
        peaks = [amount(row.value("train_mib")), saving, amount(row.value("infer_mib"))]
        lines.append([row.candidate.label, str(row.batch), *values, *peaks])
    return Table(f"Predicted memory in MiB: {where}, {_precisions(rows)}", header, lines)


def _training(costs: CostTables, rows: Sequence[Row], where: str) -> Table:
    header = ["network", "batch", "peak MiB", "saved", "predicted", "off", "step ms", "saved", "images/s", "waits"]
    lines = []
    for row in rows:
        if row.measured:
            peak, expected = row.value("measured_train_mib"), row.value("expected_train_mib")
            off = "" if not peak or expected is None else f"{expected / peak - 1:+.1%}"
            lines.append(
                [
                    row.candidate.label,
                    str(row.batch),
                    amount(peak),
                    percent(costs.saved(row, "measured_train_mib")),
                    amount(expected),
                    off,
                    amount(row.value("train_step_ms")),
                    percent(costs.saved(row, "train_step_ms")),
                    rate(row.value("train_images_per_s")),
                    percent(row.value("data_wait_share")),
                ]
            )
    return Table(f"Measured training: {where}, {_precisions(rows)}", header, lines).filled()


def _inference(costs: CostTables, rows: Sequence[Row], where: str) -> Table:
    header = ["network", "batch", "peak MiB", "batch ms", "images/s", "saved", "published", "published saved"]
    lines = []
    for row in rows:
        published = costs.published(row)
        if row.measured or published:
            lines.append(
                [
                    row.candidate.label,
                    str(row.batch),
                    amount(row.value("measured_infer_mib")),
                    amount(row.value("infer_ms")),
                    rate(row.value("infer_images_per_s")),
                    percent(costs.saved(row, "infer_ms")),
                    "" if published is None else rate(published),
                    percent(costs.published_saving(row)),
                ]
            )
    return Table(f"Measured inference: {where}, {_precisions(rows)}", header, lines).filled()


def _precisions(rows: Sequence[Row]) -> str:
    """Return the precision of all rows; where there are several, the networks of each."""
    networks: dict[str, list[str]] = {}
    for row in rows:
        networks.setdefault(row.precision, [])
        if row.candidate.label not in networks[row.precision]:
            networks[row.precision].append(row.candidate.label)
    if len(networks) == 1:
        return rows[0].precision
    return "; ".join(f"{precision}: {', '.join(labels)}" for precision, labels in networks.items())


_MAKERS: tuple[Callable[[CostTables, Sequence[Row], str], Table], ...] = (
    _networks,
    _complexity,
    _memory,
    _training,
    _inference,
)


def print_aligned(table: Table) -> None:
    """Print a table with its numbers aligned to the right."""
    widths = [max(len(line[c]) for line in (table.header, *table.rows)) for c in range(len(table.header))]
    header, *rows = [
        [line[0], *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (table.header, *table.rows)
    ]
    print_table(header, rows, title=table.title)


def amount(value: float | None) -> str:
    """Return MiB or ms, below 100 to a tenth."""
    if value is None:
        return NOT_KNOWN
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}"


def giga(value: float) -> str:
    """Return a number in billions, of small ones three digits: those of small networks would all be 0.00."""
    return f"{value / 1e9:,.2f}" if value >= 1e8 else f"{value / 1e9:.3g}"


def rate(value: float | None) -> str:
    """Return images per second."""
    return NOT_KNOWN if value is None else f"{value:.4g}"


def percent(share: float | None) -> str:
    """Return a share in percent, nothing where there is none."""
    return "" if share is None else f"{share:.1%}"


def format_size(size: Size) -> str:
    """Return ``32x32x32``."""
    return "x".join(map(str, size))
