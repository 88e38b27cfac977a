"""Run a table of experiments, such as those of the PocketNet paper, and set ours beside the published numbers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.tested import is_tested

if TYPE_CHECKING:
    from lightning_pocket.reports.collect import RunResult
    from lightning_pocket.studies.table import ExperimentTable, Row

#: Names the data of a run; alone where they are not known.
_CACHE = "--data.init_args.cache="
_DESCRIPTION = """\
FILE is a YAML file, or the name of a shipped one, such as pocketnet_table1. Every row whose data are named with --cache
is trained and tested by `pocket crossval`, or by `pocket fit` and `pocket test` where it has no folds. The commands are
printed first. What is done is not done again; the same command continues where it stopped. A table that needs no
training, such as pocketnet_table3, is made by `pocket profile`.

DIR then holds table.csv, table.md, table.tex and index.html, and DIR/runs/ROW the runs. Rows without data show the
published numbers alone."""


def table(arguments: list[str]) -> None:
    """Run the rows of a table, and write what they came to.

    Args:
        arguments: Options of this command, and after ``--`` those of ``pocket fit`` for every run.

    Raises:
        PocketError: If the file or an option is wrong, or a row failed.
    """
    own, more = _split(arguments)
    options = _parser().parse_args(own)
    from lightning_pocket.studies.table import read_table

    experiments = read_table(options.file)
    if experiments.profile:
        _profile(experiments.profile, options, more)
        return
    caches = _caches(options.cache, experiments)
    wanted = [experiments.row(name) for name in _names(options.rows)] or experiments.rows
    folder = Path(options.output or Path("runs") / Path(options.file).stem)
    if folder.is_file():
        raise PocketError(f"--output {folder}: is a file. Name a folder.")
    if options.jobs < 1:
        raise PocketError(f"--jobs {options.jobs}: expected 1 or more.")
    if options.folds is not None and options.folds < 2:
        raise PocketError(f"--folds {options.folds}: expected 2 or more.")
    commands = {
        row.name: experiments.commands(
            row, folder / "runs" / row.name, caches.get(row.task, ""), options.folds, more, options.jobs
        )
        for row in experiments.rows
        if row.configs
    }
    runs = [row.name for row in wanted if row.configs and row.task in caches]
    _check_folds([(commands[name][0], caches[experiments.row(name).task]) for name in runs])
    for command in (command for name in runs for command in commands[name]):
        print(shlex.join(["pocket", *command]))
    for task in dict.fromkeys(row.task for row in wanted if row.configs and row.task not in caches):
        left_out = [row.name for row in wanted if row.configs and row.task == task]
        print(f"not run (no cache for {task}): {', '.join(left_out)}")
    if not options.dry_run:
        _finish(experiments, folder, commands, runs, options.margin)


def _profile(name: str, options: argparse.Namespace, more: Sequence[str]) -> None:
    """Hand a table that needs no training to `pocket profile`."""
    given = [f"--output={options.output}"] if options.output else []
    command = ["profile", name, *given, *([f"--networks={options.rows}"] if options.rows else []), *more]
    print(shlex.join(["pocket", *command]))
    if not options.dry_run:
        from lightning_pocket.commands.profile import profile

        profile(command[1:])


def _finish(
    experiments: ExperimentTable,
    folder: Path,
    commands: Mapping[str, Sequence[Sequence[str]]],
    runs: Sequence[str],
    margin: float,
) -> None:
    """Run rows and write the table; rows that fail do not stop the others."""
    from lightning_pocket.reports.comparison import Criteria
    from lightning_pocket.studies.table_report import TableReport

    reasons = {name: _run(commands[name], folder / "runs" / name, experiments.checkpoint) for name in runs}
    failed = {name: reason for name, reason in reasons.items() if reason}
    results: dict[str, RunResult] = {}
    states = {row.name: _state(row, failed, commands.get(row.name, [])) for row in experiments.rows}
    made: list[Sequence[str]] = []
    for name, lines in commands.items():
        result = None if name in failed else _result(folder / "runs" / name)
        if result is None:
            continue
        recorded = shlex.split(str(result.manifest.get("command", "")))[1:]
        # What has just run has looked at all settings itself.
        if name not in runs and not _belongs(recorded, lines, result.path, experiments.checkpoint):
            states[name] = "other settings"
            print(f"not shown (other settings): {name}, which was made by: {shlex.join(['pocket', *recorded])}")
            continue
        results[name] = result
        made += [recorded, *lines[1:]]
    TableReport(experiments, results, states, made, Criteria(margin=margin)).write(folder)
    print(f"\npage: {folder / 'index.html'}")
    if failed:
        listed = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise PocketError(f"{len(failed)} of {len(runs)} rows failed ({listed}). Their messages are above.")


def _run(commands: Sequence[Sequence[str]], run: Path, checkpoint: str) -> str:
    """Run the commands of a row and return why it failed, empty where it did not."""
    from lightning_pocket.launch import run_tied

    for arguments in commands:
        if arguments[0] == "test" and is_tested(run, checkpoint):
            continue
        print(f"\n$ {shlex.join(['pocket', *arguments])}", flush=True)
        status = run_tied(arguments)
        if status:
            return f"`pocket {arguments[0]}` ended with status {status}"
    return ""


def _result(run: Path) -> RunResult | None:
    """Return what a row left, None where it is not there or not complete."""
    from lightning_pocket.reports.collect import read_run

    if not any((run / name).is_file() for name in ("manifest.json", "crossval.json")):
        return None
    result = read_run(run)
    done = result.subjects and result.manifest.get("finished") is not False
    return replace(result, name=run.name) if done else None


def _belongs(recorded: Sequence[str], commands: Sequence[Sequence[str]], run: Path, checkpoint: str) -> bool:
    """Whether a row was made and tested by the commands that the table has for it now.

    Folder and number of jobs may differ, and the data where they are not named now.
    """
    free = ("--run_dir=", "--jobs=", *([_CACHE] if _CACHE in commands[0] else []))
    made, now = ([part for part in line if not part.startswith(free)] for line in (recorded, commands[0]))
    return made == now and (len(commands) == 1 or is_tested(run, checkpoint))


def _state(row: Row, failed: Mapping[str, str], commands: Sequence[Sequence[str]]) -> str:
    """Return what stands in the place of ours where a row has no result."""
    if not commands:
        return "published only"
    if row.name in failed:
        return "failed"
    return f"not run (no cache for {row.task})" if _CACHE in commands[0] else "not run"


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide arguments at the first ``--``."""
    given = list(arguments)
    if "--" not in given:
        return given, []
    place = given.index("--")
    return given[:place], given[place + 1 :]


def _caches(given: Sequence[str], experiments: ExperimentTable) -> dict[str, str]:
    """Return the prepared data of each task."""
    tasks = list(dict.fromkeys(row.task for row in experiments.rows if row.configs))
    caches = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or name not in tasks:
            raise PocketError(f"--cache {text}: expected TASK=FOLDER; the tasks of this table are {', '.join(tasks)}.")
        if not (Path(path) / "dataset.json").is_file():
            raise PocketError(f"--cache {text}: no prepared data here (no dataset.json). Run `pocket prepare` first.")
        caches[name] = path
    return caches


def _check_folds(runs: Sequence[tuple[Sequence[str], str]]) -> None:
    """Refuse cross-validations whose prepared data have another number of folds, before anything runs."""
    from lightning_pocket.data.folds import read_folds

    for command, cache in runs:
        asked = next((int(part.partition("=")[2]) for part in command if part.startswith("--folds=")), None)
        file = Path(cache) / "folds.csv"
        if asked is None or not file.is_file() or any(part.startswith("--data.init_args.split") for part in command):
            continue
        found = len({place.fold for place in read_folds(file).values() if place.fold is not None})
        if found != asked:
            raise PocketError(
                f"{cache}: the data have {found} folds, the table asks for {asked}. Prepare them with --num_folds "
                f"{asked}, or give --folds {found}."
            )


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pocket table",
        usage="pocket table FILE --cache TASK=FOLDER ... [options] [-- options of pocket fit]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="YAML file of the table, or the name of a shipped one.")
    parser.add_argument(
        "--cache",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK=FOLDER",
        help="Prepared data of a task; rows of other tasks are not run.",
    )
    parser.add_argument("--output", metavar="DIR", help="Folder of the runs and the table (runs/NAME of the table).")
    parser.add_argument("--rows", metavar="A,B", help="Run these rows only.")
    parser.add_argument("--dry_run", action="store_true", help="Print the commands, and do nothing.")
    parser.add_argument("--folds", type=int, metavar="K", help="Folds of the cross-validation, instead of the table's.")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="Folds at a time (1).")
    parser.add_argument(
        "--margin", type=float, default=0.01, metavar="M", help='Score that would not matter, for "no worse" (0.01).'
    )
    return parser
