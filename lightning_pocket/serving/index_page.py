"""The first page: all runs of a folder, to filter, sort and compare, and what else lies in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape

from lightning_pocket.reports.page import NOT_KNOWN, Page

from .finding import MOST_FOLDERS, Results
from .folder import ServedFolder
from .markup import HEAD, Column, address, form, link, links, sorted_heads
from .runs import ShownRun

STATES = ("training", "finished", "failed", "stopped", "unreadable")
_Value = float | str | None
#: Columns, what they hold, and how it is shown.
_COLUMNS: dict[Column, tuple[Callable[[ShownRun], _Value], str]] = {
    Column("name", "run"): (lambda run: run.name, ""),
    Column("state", "state"): (lambda run: run.state, ""),
    Column("epochs", "epochs", True): (lambda run: _recorded(run, "epochs"), ",.0f"),
    Column("validated", "last validation", True): (lambda run: run.validated, ".4f"),
    Column("tested", "test", True): (lambda run: run.tested, ".4f"),
    Column("parameters", "parameters", True): (lambda run: run.result.parameters if run.result else None, ",.0f"),
    Column("step", "step (ms)", True): (lambda run: run.result.step_ms if run.result else None, ".1f"),
    Column("minutes", "training (min)", True): (lambda run: _minutes(run), ".1f"),
    Column("kind", "kind"): (lambda run: run.kind, ""),
    Column("started", "started (UTC)"): (lambda run: _started(run), ""),
}
_ORDERED = {column.key: value for column, (value, _) in _COLUMNS.items()}
_CAPTION = (
    "Last validation: Dice, AUC or accuracy of the last validation. Test: mean Dice of the test cases, or the AUC. A "
    "head sorts by its column, once more the other way round."
)


def index_page(folder: ServedFolder, results: Results, runs: Sequence[ShownRun], fields: Mapping[str, str]) -> str:
    """Return the first page.

    Args:
        folder: What is shown.
        results: What there is in it.
        runs: Its runs.
        fields: What was asked for: ``filter`` (words that the name holds), ``state``, ``sort`` and ``order``.
    """
    page = Page(folder.path.name or str(folder.path))
    page.markup(HEAD)
    page.markup(f'<p class="lead" data-summary>{escape(_summary(runs))}</p>')
    if not results.is_whole:
        page.paragraph(f"Only the first {MOST_FOLDERS:,} folders were looked through; serve a smaller one.", "note")
    if runs:
        page.markup(form(fields, STATES))
        page.markup(_table(choose(runs, fields), fields, len(runs)))
    _add_links(page, folder, results)
    return page.html()


def choose(runs: Sequence[ShownRun], fields: Mapping[str, str]) -> list[ShownRun]:
    """Return the runs that were asked for, in the order that was asked for.

    Args:
        runs: All of them.
        fields: As those of :func:`index_page`; what is not known changes nothing, missing figures come last.
    """
    words = fields.get("filter", "").lower().split()
    state = fields.get("state", "")
    shown = [run for run in runs if all(word in run.name.lower() for word in words) and state in ("", run.state)]
    value = _ORDERED.get(fields.get("sort", ""), _ORDERED["name"])
    known = [run for run in shown if value(run) is not None]
    known.sort(key=lambda run: value(run), reverse=fields.get("order") == "down")  # type: ignore[arg-type,return-value]
    return known + [run for run in shown if value(run) is None]


def _summary(runs: Sequence[ShownRun]) -> str:
    if not runs:
        return "There are no runs here yet. They appear as soon as a training begins."
    counts = Counter(run.state for run in runs)
    listed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {listed}."


def _table(runs: Sequence[ShownRun], fields: Mapping[str, str], total: int) -> str:
    rows = "".join(_row(run) for run in runs)
    shown = f"{len(runs)} of {total} runs. {_CAPTION}"
    return (
        '<form method="get" action="/compare"><div class="table runs" tabindex="0" role="region" aria-label="Runs">'
        f'<table><caption>{escape(shown)}</caption><thead><tr><th scope="col">compare</th>'
        f"{sorted_heads(list(_COLUMNS), fields)}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="compare"><button type="submit">Compare the chosen runs</button> '
        "The first of them in this list is what the others are compared with.</p></form>"
    )


def _row(run: ShownRun) -> str:
    box = (
        f'<input type="checkbox" name="run" value="{escape(run.name)}" aria-label="Compare {escape(run.name)}"'
        f"{'' if run.result else ' disabled'}>"
    )
    cells = [f"<td>{box}</td>", f'<th scope="row">{link(address("run", run.name), run.name)}</th>']
    for column, (value, shown_as) in _COLUMNS.items():
        if column.key == "name":
            continue
        found = value(run)
        text = NOT_KNOWN if found is None else format(found, shown_as)
        css = "number" if column.number else f"state {run.state}" if column.key == "state" else ""
        cells.append(f'<td class="{css}">{escape(text)}</td>' if css else f"<td>{escape(text)}</td>")
    return f'<tr data-run="{escape(run.name)}">{"".join(cells)}</tr>'


def _add_links(page: Page, folder: ServedFolder, results: Results) -> None:
    if results.sets:
        page.section("Studies and tables")
        entries = []
        for path, kind in results.sets.items():
            name = folder.name(path)
            files = [file for file in ("index.html", "table.csv", "trials.csv") if (path / file).is_file()]
            entries += [
                (address("files", file if name == "." else f"{name}/{file}"), f"{kind} {name}, {file}")
                for file in files
            ]
        page.markup(links(entries))
    pages = [folder.name(path) for path in results.pages]
    if pages:
        page.section("Pages")
        page.markup(links([(address("files", name), name) for name in pages]))


def _recorded(run: ShownRun, key: str) -> float | None:
    value = run.result.manifest.get(key) if run.result else None
    return float(value) if isinstance(value, int | float) else None


def _minutes(run: ShownRun) -> float | None:
    seconds = run.result.train_s if run.result else None
    return None if seconds is None else seconds / 60


def _started(run: ShownRun) -> str | None:
    found = run.result.manifest.get("started_at") if run.result else None
    return str(found)[:16].replace("T", " ") if found else None
