"""Predict, without a GPU, and measure what networks cost: parameters, operations, memory and time, side by side."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.errors import PocketError

if TYPE_CHECKING:
    from lightning_pocket.costs.details import Layers
    from lightning_pocket.costs.plan import Candidate, Plan
    from lightning_pocket.costs.run import Profiler, Row, Settings
    from lightning_pocket.reports.table_files import Table

_DESCRIPTION = """\
TARGET is a network to look at; several are compared with the first. Each is

  segment_volumes,pocket     configs of `pocket fit`, separated by commas
  runs/pocket                the folder of a run, or a checkpoint
  pocketnet_figure3          a profile of configs/profiles, or a YAML file of one: networks, batches and patches
  pocket=segment_volumes,... any of the first two with a name of its own

Instead of TARGET, --config A --config B names the configs of one network. Options of `pocket fit`, such as
--model.init_args.network.init_args.widths.base 16, change every network that is given by configs.

Nothing is allocated to predict. --measure trains and uses each network for a few steps on random images; on a CPU the
peak is that of a process of its own. With --output DIR (a profile of configs/profiles has DIR = runs/NAME) each result
is kept, so that the same command continues where it stopped, and DIR holds index.html, table.csv, table.md and
table.tex. `--output page.html` and `--table FILE` write one file."""


def profile(arguments: list[str]) -> None:
    """Show what networks cost.

    Args:
        arguments: Options of this command and those of `pocket fit`.

    Raises:
        PocketError: If an option or a config is wrong.
    """
    options, more = _parse(arguments)
    from lightning_pocket.costs.plan import parse_batches, parse_patches
    from lightning_pocket.reports.table_files import check_table_path

    plan = _plan(options, more)
    batches = parse_batches(options.batch) if options.batch else ()
    patches = parse_patches(options.patch) if options.patch else ()
    plan = _resize(plan, batches, patches, options)
    output = Path(options.output) if options.output else _default_output(options)
    if options.table:
        check_table_path("--table", Path(options.table))
    if output is not None and output.is_file() != (output.suffix == ".html") and output.exists():
        raise PocketError(f"--output {output}: expected a folder, or a file that ends in .html.")
    _check(options)
    if options.data_only:
        _show_loading(plan, options)
        return
    _run(plan, options, output, shlex.join(["pocket", "profile", *arguments]))


def _check(options: argparse.Namespace) -> None:
    """Refuse options that mean nothing."""
    if options.fit is not None and options.fit <= 0:
        raise PocketError(f"--fit {options.fit:g}: expected the memory in GiB, such as 16.")
    if options.steps < 2:
        raise PocketError(f"--steps {options.steps}: expected at least 2; the first is not timed.")
    if options.seconds <= 0:
        raise PocketError(f"--seconds {options.seconds:g}: expected more than 0.")
    if options.data_only:
        for key in ("output", "table"):
            if getattr(options, key):
                raise PocketError(f"--{key}: --data_only prints, and writes no files. Leave it out.")


def _show_loading(plan: Plan, options: argparse.Namespace) -> None:
    """Measure the data's way to each network, and say what limits it."""
    from lightning_pocket.costs.loading import loading_table, measure_loading
    from lightning_pocket.costs.records import Records
    from lightning_pocket.costs.run import Profiler
    from lightning_pocket.costs.tables import print_aligned
    from lightning_pocket.profiling.loader import what_limits

    profiler = Profiler(plan, _settings(plan, options), Records(None), print)
    for grid in plan.grids:
        for candidate in grid.candidates:
            for batch, patch in profiler.points(candidate, grid.batches, grid.patches):
                stages, workers = measure_loading(profiler.recipe(candidate), batch, patch, options.seconds)
                print_aligned(loading_table(candidate.label, batch, patch, stages))
                print(what_limits(stages, workers))


def _run(plan: Plan, options: argparse.Namespace, output: Path | None, command: str) -> None:
    """Compute the rows, print them and write the files."""
    from lightning_pocket.costs.output import CostReport, claim
    from lightning_pocket.costs.records import Records
    from lightning_pocket.costs.run import Profiler, device_name
    from lightning_pocket.costs.tables import CostTables

    settings = _settings(plan, options)
    table = Path(options.table) if options.table else None
    claim(output, table, command)
    folder = output if output is not None and output.suffix != ".html" else None
    records = Records(None if folder is None else folder / "results", options.fresh)
    profiler = Profiler(plan, settings, records, lambda text: print(f"{text} ...", file=sys.stderr, flush=True))
    costs = CostTables(plan, profiler.rows())
    if all(row.problem and not row.predicted for row in costs.rows):
        raise PocketError(f"nothing could be computed: {costs.rows[0].problem}")
    report = CostReport(
        costs,
        _layers(profiler, costs.rows) if options.layers else [],
        _limits(profiler, costs.rows, options.fit),
        device_name(settings.device) if settings.measure else "",
        command,
    )
    report.print()
    report.write(output, table)
    if settings.measure and any(row.problem for row in costs.rows) and not any(row.measured for row in costs.rows):
        raise SystemExit(1)  # what was asked for could not be done


def _layers(profiler: Profiler, rows: Sequence[Row]) -> list[Layers]:
    """Return the layers of each network, with its first batch and patch."""
    from lightning_pocket.costs.details import Layers, layer_records

    return [
        Layers(
            row.candidate.label,
            row.batch,
            row.patch,
            layer_records(row.candidate.label, profiler.recipe(row.candidate), row.batch, row.patch),
        )
        for row in _first_rows(rows)
    ]


def _limits(profiler: Profiler, rows: Sequence[Row], budget_gib: float | None) -> list[Table]:
    """Return what fits a memory, for each network with its first batch and patch."""
    from lightning_pocket.costs.details import fit_line, fit_table

    if budget_gib is None:
        return []
    lines = []
    for row in _first_rows(rows):
        profiler.say(f"what fits {budget_gib:g} GiB: {row.candidate.label}")
        recipe = profiler.recipe(row.candidate)
        lines.append(fit_line(row, recipe, profiler.settings.predict_for, 1024 * budget_gib, profiler.say))
    return [fit_table(lines, budget_gib)] if lines else []


def _first_rows(rows: Sequence[Row]) -> list[Row]:
    return list({(row.grid, row.candidate): row for row in reversed(rows) if not row.problem}.values())[::-1]


def _settings(plan: Plan, options: argparse.Namespace) -> Settings:
    import torch

    from lightning_pocket.costs.run import Settings

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise PocketError("--device cuda: torch finds no GPU. `pocket doctor` says why; --device cpu measures here.")
    measure = plan.measure if options.measure is None else options.measure
    return Settings(options.precision, measure, device, options.predict_for, options.steps, options.seconds)


def _plan(options: argparse.Namespace, more: Sequence[str]) -> Plan:
    """Return what the targets ask for."""
    from lightning_pocket.costs.plan import Grid, Plan, parse_targets
    from lightning_pocket.costs.plan_file import is_plan, read_plan

    if options.config:
        options.targets.insert(0, ",".join(options.config))
    if not options.targets:
        raise PocketError("TARGET: is missing. Name configs, a run or a profile, such as segment_volumes,pocket.")
    plans = [target for target in options.targets if is_plan(target)]
    if plans and (len(options.targets) > 1 or more):
        raise PocketError(f"{plans[0]}: is a profile of its own. Give it alone, without options of `pocket fit`.")
    if plans:
        return read_plan(plans[0])
    given = more
    if options.cache:
        more = [*more, f"--data.init_args.cache={options.cache}"]
    candidates = parse_targets(options.targets, more)
    if given and all(candidate.run is not None for candidate in candidates):
        raise PocketError(
            f"{given[0].partition('=')[0]}: changes networks that are named by configs, but {candidates[0].label} is a "
            "run as it was trained. Name configs, or leave it out."
        )
    names = [candidate.variant for candidate in candidates]
    title = "Costs of " + " and ".join(names) if len(names) < 4 else f"Costs of {len(names)} networks"
    return Plan(title, (Grid("", candidates),))


def _resize(
    plan: Plan, batches: tuple[int, ...], patches: tuple[tuple[int, ...], ...], options: argparse.Namespace
) -> Plan:
    """Put what the command line says in the place of what the plan says."""
    grids = plan.grids
    if batches:
        grids = tuple(replace(grid, batches=batches, cpu_batches=(), cpu_skip=False) for grid in grids)
    if patches:
        grids = tuple(replace(grid, patches=patches, cpu_patches=(), cpu_skip=False) for grid in grids)
    if options.networks:
        wanted = [name.strip() for name in options.networks.split(",")]
        grids = tuple(replace(grid, candidates=_chosen(grid.candidates, wanted)) for grid in grids)
    for key, given in (("in_channels", options.in_channels), ("classes", options.classes)):
        if given is not None and given < 1:
            raise PocketError(f"--{key} {given}: expected at least 1.")
    return replace(
        plan,
        grids=grids,
        in_channels=options.in_channels or plan.in_channels,
        num_classes=options.classes or plan.num_classes,
    )


def _chosen(candidates: tuple[Candidate, ...], wanted: Sequence[str]) -> tuple[Candidate, ...]:
    known = list(dict.fromkeys(name for c in candidates for name in (c.name or c.variant,)))
    for name in wanted:
        if name not in known:
            raise PocketError(f"--networks {name}: there is none of this name; there are {', '.join(known)}.")
    return tuple(candidate for candidate in candidates if (candidate.name or candidate.variant) in wanted)


def _default_output(options: argparse.Namespace) -> Path | None:
    """Return the folder of a profile that has a name; what is asked for once is only printed."""
    from lightning_pocket.costs.plan_file import is_plan

    named = len(options.targets) == 1 and is_plan(options.targets[0]) and not options.data_only
    return Path("runs") / Path(options.targets[0]).stem if named else None


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Divide options into ours and, as those have a dot in their names, those of `pocket fit`."""
    parser = _parser()
    ours: list[str] = []
    theirs: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, separator, _ = argument.partition("=")
        if argument.startswith("--") and "." in name:
            theirs.append(argument if separator else f"{argument}={next(rest, '')}")
        else:
            ours.append(argument)
    options, unknown = parser.parse_known_args(ours)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else "See `pocket profile --help`."
        raise PocketError(f"{unknown[0]}: there is no such option. {hint}")
    return options, theirs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pocket profile",
        usage="pocket profile TARGET ... [options] [options of pocket fit]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET", help="What to look at; see above.")
    add("--config", action="append", metavar="NAME", help="Config of one network, instead of TARGET.")
    add("--networks", metavar="A,B", help="Networks of a profile to look at, such as U-Net; all of them by default.")
    add("--batch", metavar="1,4,8", help="Patches or images per step (what the settings say).")
    add("--patch", metavar="64x64x64,...", help="Voxels along each axis (what the settings say).")
    add("--precision", metavar="P", help="32-true, bf16-mixed, 16-mixed, ... (what the settings say).")
    add("--in_channels", type=int, metavar="N", help="Channels of the images (those of the data, else 1).")
    add("--classes", type=int, metavar="N", help="Classes with background (those of the data, else 2).")
    add("--cache", metavar="DIR", help="Prepared data: tells channels and classes, and feeds --data_only.")
    add("--measure", action=argparse.BooleanOptionalAction, help="Measure too (what a profile says, else no).")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="Where to measure (a GPU if there is one).")
    add("--predict_for", choices=("cuda", "cpu"), default="cuda", help="Where the memory is predicted (cuda: a GPU).")
    add("--steps", type=int, default=5, metavar="N", help="Steps of a measurement (5).")
    add("--fit", type=float, metavar="GIB", help="Find the largest batch and patch that train in this memory.")
    add("--layers", action="store_true", help="Show each layer.")
    add("--data_only", "--data-only", action="store_true", help="Measure the loading of the data instead.")
    add("--seconds", type=float, default=2.0, metavar="S", help="How long each stage of loading is measured (2).")
    add("--output", metavar="PATH", help="Folder of all results, or an HTML file.")
    add("--table", metavar="FILE", help="File of the table: .csv, .md, .tex or .txt.")
    add("--fresh", action="store_true", help="Compute again what the folder holds.")
    return parser
