"""Search settings, or go through a grid of them: an Optuna study of ordinary runs, by one process or many."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.errors import PocketError

if TYPE_CHECKING:
    from lightning_pocket.sweeps.report import SweepReport
    from lightning_pocket.sweeps.start import Request
    from lightning_pocket.sweeps.study import SweepStudy

_DESCRIPTION = """\
FILE is a YAML file, or the name of a shipped study, such as pocketnet_stop_doubling. Each trial is a `pocket fit` and a
`pocket test`, printed before it starts, in DIR/trials/NNN. The same command continues a study that was stopped; several
of them, on one machine or on several that share DIR, divide the trials among themselves.

The study is kept in DIR/study.journal, or in a database: --storage postgresql+psycopg://USER:PASSWORD@HOST/NAME, or
better the environment variable POCKET_SWEEP_STORAGE; @FILE reads the URL from a file.

  pocket sweep status DIR    all trials, and how long the others will take
  pocket sweep best DIR      the best trial, or the front of several objectives, and the commands that repeat it
  pocket sweep export DIR    trials.csv, table.md and table.tex, and table.csv beside published numbers
  pocket sweep plot DIR      index.html, a page with the verdict, figures and tables; the figures alone in figures
  pocket sweep dashboard DIR    the page of optuna-dashboard, with pictures of the runs and notes

What follows `--` are options of `pocket fit` for every run, such as -- --trainer.max_epochs=20."""


def sweep(arguments: list[str]) -> None:
    """Run a study, or look at one.

    Args:
        arguments: Options of this command, and after ``--`` those of ``pocket fit`` for every run.

    Raises:
        PocketError: If the file or an option is wrong, the storage cannot be reached, or a trial failed.
    """
    from lightning_pocket.sweeps.study_storage import unreachable_is_one_line

    with unreachable_is_one_line():
        _do(arguments)


def _do(arguments: list[str]) -> None:
    actions: dict[str, Callable[[SweepStudy, SweepReport], None]] = {
        "status": _status,
        "best": _best,
        "export": _export,
        "plot": _plot,
    }
    if arguments and arguments[0] in actions:
        _look(arguments[0], arguments[1:], actions[arguments[0]])
        return
    if arguments and arguments[0] == "dashboard":
        _dashboard(arguments[1:])
        return
    _check_action(arguments, list(actions))
    own, more = _split(arguments)
    options = _parser().parse_args(own)
    if options.jobs < 1:
        raise PocketError(f"--jobs {options.jobs}: expected 1 or more.")
    for name in ("trials", "timeout", "grace"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise PocketError(f"--{name} {value:g}: expected more than 0.")
    _run(_request(options, more), options)


def _check_action(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Refuse what is nearly the name of an action, followed by a folder."""
    from difflib import get_close_matches

    if len(arguments) < 2 or arguments[1].startswith("-") or Path(arguments[0]).is_file():
        return
    close = get_close_matches(arguments[0], [*known, "dashboard"], n=1)
    if close:
        raise PocketError(f"pocket sweep {arguments[0]}: there is no such action. Did you mean {close[0]}?")


def _request(options: argparse.Namespace, more: Sequence[str]) -> Request:
    from dataclasses import replace

    from lightning_pocket.sweeps.read import find_sweep, read_sweep
    from lightning_pocket.sweeps.start import Request, cache_option
    from lightning_pocket.sweeps.study_storage import check_installed, storage_url

    check_installed()
    file = find_sweep(options.file)
    content = read_sweep(file)
    folder = Path(options.output or Path("runs") / file.stem)
    if options.trials is not None:
        content = replace(content, trials=options.trials)
    extra = (*cache_option(options.cache), *_in_one_piece(more))
    for option in extra:
        name = option.removeprefix("--").partition("=")[0]
        if name in content.space.set_options or name in ("run_dir", "fresh", "seed_everything"):
            raise PocketError(f"--{name}: is set for each trial by the study; leave it out.")
    return Request(file, content, folder, extra, storage_url(options.storage), options.grace)


def _run(request: Request, options: argparse.Namespace) -> None:
    """Work on a study until nothing is left to do, and write its tables."""
    if options.dry_run:
        _show_plan(request)
        return
    from lightning_pocket.reports.job_progress import JobProgress
    from lightning_pocket.studies.jobs import places
    from lightning_pocket.sweeps.worker import Worker

    study = request.begin()
    if request.sweep.trials is not None:
        study.extend(request.sweep.trials)
    study.refill(retry_failed=options.retry_failed)
    settings = study.study.user_attrs["settings"]
    limit = options.timeout or request.sweep.time_limit
    epochs = (settings.get("trainer") or {}).get("max_epochs") or 0
    epochs *= len(request.sweep.places())
    with JobProgress([], epochs if epochs > 0 else None) as progress:
        Worker(
            study,
            request.more,
            places(options.jobs, settings),
            progress,
            request.identify,
            time.monotonic() + limit if limit else float("inf"),
        ).run()
    _finish(study, request)


def _finish(study: SweepStudy, request: Request) -> None:
    from lightning_pocket.sweeps.outcome import outcomes, tally
    from lightning_pocket.sweeps.page import write_page
    from lightning_pocket.sweeps.report import SweepReport

    report = SweepReport(request.sweep, outcomes(study), request.folder, request.more)
    files = [*report.write(), write_page(study, report)[0]]
    _print_tables(report)
    print(f"\nwritten: {', '.join(map(str, files))}")
    count = tally(study)
    if not count.is_over:
        print(f"{count.ended} of {count.total} trials have ended; the same command goes on.")
    if count.is_over and count.failed == count.total:
        reasons = {outcome.remark for outcome in report.outcomes}
        raise PocketError(f"{request.folder}: every trial failed: {'; '.join(sorted(reasons))}")
    if count.failed:
        raise PocketError(
            f"{request.folder}: {count.failed} of {count.total} trials failed; --retry_failed tries them again."
        )


def _show_plan(request: Request) -> None:
    """Check everything, and print the commands of the trials that are known."""
    points = request.sweep.points()[: request.sweep.count]
    base, resolved = request.check(needs_data=False)
    first: dict[str, int] = {}
    for slot, (point, found) in enumerate(zip(points, resolved, strict=False)):
        runs = request.runs(slot, point, base.settings)
        twin = first.setdefault(found.identity, slot)
        print(f"{runs.name}: {request.sweep.space.show(point)}; {found.parameters:,} parameters")
        if twin != slot:
            print(f"  the same network and settings as trial {twin}, which is trained for both")
            continue
        for command in runs.commands(everything=True):
            print(shlex.join(["pocket", *command]))
    if not points:
        sampler, point = request.sweep.sampler.name, request.sweep.space.samples()[0]
        print(f"{request.sweep.trials} trials, drawn by {sampler}; such as {request.sweep.space.show(point)}")
        for command in request.runs(0, point, base.settings).commands(everything=True):
            print(shlex.join(["pocket", *command]))
    if request.sweep.takes:
        print(f"takes: {request.sweep.takes}")


def _look(action: str, arguments: Sequence[str], show: Callable[[SweepStudy, SweepReport], None]) -> None:
    parser = argparse.ArgumentParser(prog=f"pocket sweep {action}", description=(show.__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", metavar="DIR", help="Folder of the study.")
    parser.add_argument("--storage", metavar="URL", help="Database of the study, where it is in one.")
    options = parser.parse_args(arguments)
    from lightning_pocket.sweeps.outcome import outcomes
    from lightning_pocket.sweeps.report import SweepReport
    from lightning_pocket.sweeps.start import open_study
    from lightning_pocket.sweeps.study_storage import storage_url

    study, more = open_study(Path(options.folder), storage_url(options.storage))
    show(study, SweepReport(study.sweep, outcomes(study), study.folder, more))


def _dashboard(arguments: Sequence[str]) -> None:
    """Serve the page of optuna-dashboard for a study, on this machine alone."""
    parser = argparse.ArgumentParser(prog="pocket sweep dashboard", description=_dashboard.__doc__)
    add = parser.add_argument
    add("folder", metavar="DIR", help="Folder of the study.")
    add("--storage", metavar="URL", help="Database of the study, where it is in one.")
    add("--port", type=int, metavar="N", help="Where to listen (8080, or a free one).")
    add("--pictures", type=int, default=8, metavar="N", help="Pictures of each run to show with its trial (8).")
    add("--no_open", action="store_true", help="Print the address only, and open no browser.")
    options = parser.parse_args(arguments)
    if options.pictures < 0:
        raise PocketError(f"--pictures {options.pictures}: expected 0 or more.")
    from lightning_pocket.sweeps.dashboard import check_installed, serve
    from lightning_pocket.sweeps.start import open_study
    from lightning_pocket.sweeps.study_storage import storage_url

    check_installed()
    study, _ = open_study(Path(options.folder), storage_url(options.storage))
    serve(study, options.port, options.pictures, lambda line: print(line, flush=True), not options.no_open)


def _status(study: SweepStudy, report: SweepReport) -> None:
    """Show all trials, and how long the others will take."""
    from lightning_pocket.reports.durations import show_duration
    from lightning_pocket.sweeps.outcome import remaining_s, tally

    _print_tables(report)
    count = tally(study)
    waiting = count.total - count.ended - count.running
    print(f"\n{count.ended} of {count.total} trials have ended, {count.running} run, {waiting} wait.")
    left = remaining_s(study, max(1, count.running))
    if left is not None:
        print(f"About {show_duration(left)} left, with {max(1, count.running)} at a time.")


def _best(study: SweepStudy, report: SweepReport) -> None:
    """Show the best trial, or those for which no other is as good in all objectives and better in one, and commands."""
    from lightning_pocket.sweeps.report import show_measured

    found = report.best()
    if not found:
        raise PocketError(f"{study.folder}: no trial is done yet.")
    for outcome in found:
        values = ", ".join(f"{metric} {show_measured(entry, metric)}" for metric, entry in outcome.results.items())
        print(f"trial {outcome.slot}: {study.sweep.space.show(outcome.point)}\n  {values}")
        print(f"  run: {study.folder / str(outcome.trial.user_attrs.get('run', ''))}\nto train and test it again:")
        print("\n".join(report.repeated(outcome)))


def _export(_: SweepStudy, report: SweepReport) -> None:
    """Write all trials as CSV, and the tables as CSV, Markdown and LaTeX."""
    print(f"written: {', '.join(map(str, report.write()))}")


def _plot(study: SweepStudy, report: SweepReport) -> None:
    """Write a page with the verdict, figures and tables, and these as files too; of a study that runs as well."""
    from lightning_pocket.sweeps.page import write_page

    tables = report.write()
    page, *figures = write_page(study, report)
    drawn = f", and {len(figures)} figures in {figures[0].parent}" if figures else ""
    print(f"written: {', '.join(map(str, [*tables, page]))}{drawn}")


def _print_tables(report: SweepReport) -> None:
    from lightning_pocket.reports.tables import print_table

    for table in (report.trials(), report.published()):
        if table is not None:
            shown = table.filled()
            print_table(shown.header, shown.rows, title=f"\n{shown.title}")
            print(report.spread_note)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide arguments at the first ``--``."""
    given = list(arguments)
    place = given.index("--") if "--" in given else len(given)
    return given[:place], given[place + 1 :]


def _in_one_piece(options: Sequence[str]) -> list[str]:
    """Return options as ``--name=value``, also where a space stood between the two."""
    found: list[str] = []
    for option in options:
        if option.startswith("--") or not found or "=" in found[-1]:
            found.append(option)
        else:
            found[-1] = f"{found[-1]}={option}"
    return found


def _parser() -> argparse.ArgumentParser:
    from lightning_pocket.sweeps.leases import GRACE_S

    parser = argparse.ArgumentParser(
        prog="pocket sweep",
        usage="pocket sweep FILE [options] [-- options of pocket fit]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="YAML file of the study, or the name of a shipped one.")
    add("--cache", metavar="FOLDER", help="Prepared data of all trials.")
    add("--output", metavar="DIR", help="Folder of the study (runs/NAME of the file).")
    add("--jobs", type=int, default=1, metavar="N", help="Trials at a time, a GPU each in turn (1).")
    add("--trials", type=int, metavar="N", help="How many trials, or points of a grid (what the file says).")
    add("--timeout", type=float, metavar="S", help="Seconds after which no other trial is begun.")
    add("--storage", metavar="URL", help="Database of the study, or @FILE that holds its URL (a file in DIR).")
    add("--grace", type=float, default=GRACE_S, metavar="S", help="Seconds after which a silent worker is dead (300).")
    add("--retry_failed", action="store_true", help="Try the trials again that failed.")
    add("--dry_run", action="store_true", help="Check everything, print the commands, and do nothing.")
    return parser
