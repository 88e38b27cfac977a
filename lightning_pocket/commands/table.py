"""Run a table of experiments, such as those of the PocketNet paper, and set ours beside the published numbers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.errors import PocketError

if TYPE_CHECKING:
    from lightning_pocket.studies.table import ExperimentTable

_DESCRIPTION = """\
FILE is a YAML file, or the name of a shipped one, such as pocketnet_table1. Every row whose data are named with --cache
is trained and tested by `pocket crossval`, or by `pocket fit` and `pocket test` where it has no folds. The commands are
printed first. What is done is not done again; the same command continues where it stopped. Given several times at once,
with a GPU each (CUDA_VISIBLE_DEVICES) or on machines that share DIR, its processes share the runs. A table that needs
no training, such as pocketnet_table3, is made by `pocket profile`.

DIR then holds table.csv, table.md, table.tex, index.html and charts, and DIR/runs/ROW the runs, or DIR/runs/ROW/seed_N
where the table has several seeds. Rows without data show the published numbers alone."""


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
        place: experiments.commands(
            row, place, folder / "runs", caches.get(row.task, ""), options.folds, more, options.jobs
        )
        for row in experiments.rows
        for place in experiments.places(row)
    }
    runs = {place: caches[row.task] for row in wanted if row.task in caches for place in experiments.places(row)}
    _check_folds([(commands[place][0], cache) for place, cache in runs.items()])
    for command in (command for place in runs for command in commands[place]):
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
    runs: Collection[str],
    margin: float,
) -> None:
    """Run rows and write the table; runs that fail do not stop the others."""
    from lightning_pocket.reports.comparison import Criteria
    from lightning_pocket.studies.table_report import TableReport
    from lightning_pocket.studies.table_results import read_results
    from lightning_pocket.studies.table_runs import TableRuns, mark_seeds

    mark_seeds(experiments, folder / "runs", runs)
    failed = TableRuns(folder / "runs", {place: commands[place] for place in runs}, experiments.checkpoint).run()
    results = read_results(experiments, folder / "runs", commands, runs, failed)
    for remark in results.remarks:
        print(remark)
    TableReport(experiments, results.rows, results.states, results.made, Criteria(margin=margin)).write(folder)
    print(f"\npage: {folder / 'index.html'}")
    if failed:
        listed = "; ".join(f"{place}: {reason}" for place, reason in failed.items())
        what = "runs" if experiments.seeds else "rows"
        raise PocketError(f"{len(failed)} of {len(runs)} {what} failed ({listed}). Their messages are above.")


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide arguments at the first ``--``."""
    given = list(arguments)
    if "--" not in given:
        return given, []
    place = given.index("--")
    return given[:place], given[place + 1 :]


def _caches(given: Sequence[str], experiments: ExperimentTable) -> dict[str, str]:
    """Return the prepared data of each task, or its folder where it is read as it is."""
    from lightning_pocket.studies.table import IN_FOLDER

    tasks = list(dict.fromkeys(row.task for row in experiments.rows if row.configs))
    read = {row.task for row in experiments.rows if row.data == IN_FOLDER}
    caches = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or name not in tasks:
            raise PocketError(f"--cache {text}: expected TASK=FOLDER; the tasks of this table are {', '.join(tasks)}.")
        if name in read and Path(path).is_dir():
            caches[name] = path
            continue
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
