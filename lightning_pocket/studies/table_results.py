"""What the runs of a table of experiments have left on disk."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_pocket.reports.collect import RunResult, read_run
from lightning_pocket.reports.seeds import SeededRuns
from lightning_pocket.reports.tested import is_tested

from .table import IN_FOLDER, PREPARED, ExperimentTable, Row

Commands = Mapping[str, Sequence[Sequence[str]]]
#: Names the data of a run; alone where they are not known.
_DATA = (f"--{PREPARED}=", f"--{IN_FOLDER}=")


@dataclass
class TableResults:
    """What there is of each row.

    Args:
        rows: Runs that are done, by the name of the row; rows without any are not in it.
        states: Why a row has no result, by its name.
        made: Commands that made the runs.
        remarks: What was left out, and why, for people.
    """

    rows: dict[str, SeededRuns] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    made: list[Sequence[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_results(
    table: ExperimentTable, folder: Path, commands: Commands, just_run: Collection[str], failed: Collection[str]
) -> TableResults:
    """Read the runs of all rows.

    Args:
        table: The table.
        folder: Folder of all runs.
        commands: What makes and tests each run now, by its place.
        just_run: Places of the runs that these commands have just made.
        failed: Places of those that failed.
    """
    results = TableResults()
    for row in table.rows:
        places = table.places(row)
        found = []
        for place in places:
            result = None if place in failed else _read(folder / place)
            if result is None:
                continue
            recorded = shlex.split(str(result.manifest.get("command", "")))[1:]
            # What has just run has looked at all settings itself.
            if place not in just_run and not _belongs(recorded, commands[place], result.path, table.checkpoint):
                results.states[row.name] = "other settings"
                made = shlex.join(["pocket", *recorded])
                results.remarks.append(f"not shown (other settings): {place}, which was made by: {made}")
                continue
            found.append(result)
            results.made += [recorded, *commands[place][1:]]
        if found:
            results.rows[row.name] = SeededRuns(row.name, found, len(places))
        results.states.setdefault(row.name, _state(row, places, failed, commands))
    return results


def _read(run: Path) -> RunResult | None:
    """Return what a run left, None where it is not there or not complete."""
    if not any((run / name).is_file() for name in ("manifest.json", "crossval.json")):
        return None
    result = read_run(run)
    done = result.subjects and result.manifest.get("finished") is not False
    return replace(result, name=run.name) if done else None


def _belongs(recorded: Sequence[str], commands: Sequence[Sequence[str]], run: Path, checkpoint: str) -> bool:
    """Whether a run was made and tested by the commands that the table has for it now.

    Folder and number of jobs may differ, and the data where they are not named now.
    """
    free = ("--run_dir=", "--jobs=", *(name for name in _DATA if name in commands[0]))
    made, now = ([part for part in line if not part.startswith(free)] for line in (recorded, commands[0]))
    return made == now and (len(commands) == 1 or is_tested(run, checkpoint))


def _state(row: Row, places: Collection[str], failed: Collection[str], commands: Commands) -> str:
    """Return what stands in the place of ours where a row has no result."""
    if not places:
        return "published only"
    if any(place in failed for place in places):
        return "failed"
    unnamed = any(name in commands[place][0] for place in places for name in _DATA)
    return f"not run (no cache for {row.task})" if unnamed else "not run"
