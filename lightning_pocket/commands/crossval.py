"""Train and test a run for every fold of the data, and put their results together."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.errors import PocketError

if TYPE_CHECKING:
    from lightning_pocket.studies.crossval import Plan

_DESCRIPTION = """\
For each fold `pocket fit` trains a run in DIR/fold_K that holds the fold out, and `pocket test` tests it there. What
they print is in DIR/fold_K.log. DIR/cases.csv then has every case once, scored by the network that has not seen it, and
DIR/fold_K/test/predictions its label map. The same command continues where it stopped; several of them, on one machine
or on several that share the folder, divide the folds among themselves.

The folds are those that `pocket prepare` recorded (--num_folds), or those of --data.init_args.split.file.

Every other option is one of `pocket fit`, such as --config segment_volumes; `pocket fit --help` explains them."""


def crossval(arguments: list[str]) -> None:
    """Run a cross-validation.

    Args:
        arguments: Options of this command, and those of ``pocket fit``.

    Raises:
        PocketError: If an option is wrong, or a fold failed.
    """
    known, rest = _parser().parse_known_args(arguments)
    from lightning_pocket.studies.crossval import FOLD_KEY, Plan, check_folder, find_folds
    from lightning_pocket.studies.run_settings import resolve_settings

    for argument in rest:
        name = argument.partition("=")[0]
        if name in {f"--{FOLD_KEY}", "--ckpt_path", "--print_config"}:
            raise PocketError(f"{name}: has no meaning for all folds alike. Leave it out, or give it to `pocket fit`.")
    if known.jobs < 1:
        raise PocketError(f"--jobs: is {known.jobs}; expected at least 1.")
    settings = resolve_settings(rest)
    folds, expected = find_folds(settings, known.folds)
    plan = Plan(
        folder=Path(known.run_dir),
        options=tuple(rest),
        checkpoint=known.checkpoint,
        settings=settings,
        folds=folds,
        wanted=_wanted(known.only, folds),
        expected=expected,
        fresh=known.fresh,
    )
    check_folder(plan)
    _run(plan, known.jobs)


def _run(plan: Plan, jobs: int) -> None:
    from lightning_pocket.reports.fold_summary import print_folds
    from lightning_pocket.reports.job_progress import JobProgress
    from lightning_pocket.reports.run_summary import summarize_folds
    from lightning_pocket.studies import out_of_fold
    from lightning_pocket.studies.crossval import CASES
    from lightning_pocket.studies.jobs import places
    from lightning_pocket.studies.shared_jobs import SharedJobs

    began = time.monotonic()
    work = [plan.fold(number).name for number in plan.wanted]
    epochs = plan.settings["trainer"].get("max_epochs") or 0
    at_once = places(min(jobs, len(work)), plan.settings)
    with out_of_fold.begun(plan) as plan, JobProgress(work, epochs if epochs > 0 else None) as progress:
        failures = SharedJobs([plan.job(number) for number in plan.wanted], at_once, progress).run()
    results = out_of_fold.collect(plan)
    out_of_fold.write(plan, results, failures)
    if results.rows:
        print()
        print_folds(results.rows, f"{plan.folder}, {plan.checkpoint} checkpoints")
        print(f"written: {plan.folder / CASES}")
        print(summarize_folds(plan.folder, time.monotonic() - began, _next(plan, len(results.done))))
    for text in results.warnings:
        print(f"warning: {text}", file=sys.stderr)
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise PocketError(f"{len(failures)} of {len(plan.wanted)} folds failed. {reasons}")


def _next(plan: Plan, done: int) -> list[list[str]]:
    """Return the commands that go on from here: with the folds that are missing, or with all of them."""
    if done < len(plan.folds):
        return [plan.command]
    maps = list((plan.fold(plan.folds[0]).run.path / "test" / "predictions").glob("*.nii.gz"))  # not those of images
    return [["report", str(plan.folder)], *([["postprocess", str(plan.folder)]] if maps else [])]


def _wanted(only: str | None, folds: tuple[int, ...]) -> tuple[int, ...]:
    if only is None:
        return folds
    names = [name.strip() for name in only.split(",")]
    known = {str(number): number for number in folds}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PocketError(
            f"--only {only}: there is no fold {unknown[0]!r}; the folds are {', '.join(known)}. Separate them by "
            "commas."
        )
    return tuple(dict.fromkeys(known[name] for name in names))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pocket crossval",
        usage="pocket crossval --run_dir DIR [options] [options of pocket fit]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--run_dir", required=True, metavar="DIR", help="Folder of the cross-validation.")
    parser.add_argument("--folds", type=int, metavar="K", help="How many folds the data must have; any by default.")
    parser.add_argument("--only", metavar="K,L", help="Work on these folds only, numbered from 0.")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="Folds at a time, a GPU each in turn (1).")
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), default="last", help="Checkpoint of each run to test (last)."
    )
    parser.add_argument("--fresh", action="store_true", help="Start over the folds that are there.")
    return parser
