"""A table of experiments, as its YAML file says: rows, what each one runs, and numbers that were published."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Option, Run, configs_folder, find_config
from lightning_pocket.reports.collect import ERRORS, OVERLAPS

from .yaml_fields import checked_fields, suggest

#: Numbers of a paper by metric.
Scores = dict[str, float | str]
Checkpoint = Literal["last", "best"]
_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_NUMBER = r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?"
_SCORE = re.compile(rf"(?P<mean>{_NUMBER})(\s*±\s*{_NUMBER})?", re.IGNORECASE)
PARAMETERS = "params_M"
#: Options of ``pocket fit`` that name data: prepared, or in a folder.
PREPARED, IN_FOLDER = "data.init_args.cache", "data.init_args.folder"
#: Metrics that a table can show.
METRICS = ("dice", "hd95_mm", "asd_mm", "hd95_px", "asd_px", "surface_dice", "auc", "accuracy", *OVERLAPS, *ERRORS)


@dataclass(frozen=True)
class Row:
    """One experiment.

    Args:
        name: Name of its folder, and what the command line calls it.
        label: What readers call it; by default its name.
        task: Name of its data: ``--cache TASK=FOLDER`` tells where they are.
        configs: Configs of ``pocket fit``; none for a row that only shows published numbers.
        options: Options of ``pocket fit`` on top, by their dotted name. In texts ``{runs}`` stands for the folder of
            all runs and ``{seed}`` for the seed: ``{runs}/teacher/seed_{seed}`` is a run of the row ``teacher``, which
            must stand above.
        folds: Folds of the cross-validation; 1 for one run that is tested on the cases it holds out. None for what
            the table says.
        seed: Seed of the runs; None for what the table says.
        seeds: Seeds of its runs, of a table with seeds; none for those of the table.
        data: Option that names its data: ``data.init_args.cache`` for a prepared data set, ``data.init_args.folder``
            for a folder that is read as it is.
        compare_to: Name of the row that it is compared with.
        published: Numbers to stand beside ours: ``params_M``, and for a metric such as ``dice`` its mean, with
            ``± standard deviation`` as text, ``dice_median`` and ``dice_p``.
    """

    name: str
    task: str = ""
    label: str = ""
    configs: list[str] = field(default_factory=list)
    options: dict[str, Option] = field(default_factory=dict)
    folds: int | None = None
    seed: int | None = None
    seeds: list[int] = field(default_factory=list)
    data: str = PREPARED
    compare_to: str = ""
    published: Scores = field(default_factory=dict)

    def mean(self, metric: str) -> float | None:
        """Return the published mean of a metric, None where there is none."""
        value = self.published.get(metric)
        found = _SCORE.fullmatch(str(value).strip()) if value is not None else None
        return float(found["mean"]) if found else None

    def score(self, metric: str) -> str:
        """Return the published score as readers see it: mean ± standard deviation (median)."""
        middle = self.published.get(f"{_short(metric)}_median")
        said = str(self.published.get(metric, ""))
        return said if middle is None else f"{said} ({middle})"

    def p(self, metric: str) -> str:
        """Return the published p value, empty where there is none."""
        return str(self.published.get(f"{_short(metric)}_p", ""))


@dataclass(frozen=True)
class ExperimentTable:
    """A table of experiments.

    Args:
        title: Its heading.
        rows: Its rows.
        source: Where the published numbers are from.
        notes: What a reader must know to compare ours with them.
        metrics: Metrics that it shows.
        folds: Folds of the cross-validation of its rows.
        seed: Seed of the runs.
        seeds: Several seeds instead: every row is one run for each, and is shown with mean and standard deviation over
            them.
        checkpoint: Weights of each run that are tested.
        profile: Profile of `configs/profiles` that makes the table instead of rows: nothing is trained for it.
        axis: Option of rows whose numbers are the horizontal axis of the charts; without one each row is a strip.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    source: str = ""
    notes: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=lambda: ["dice", "hd95_mm", "asd_mm"])
    folds: int = 5
    seed: int = 0
    seeds: list[int] = field(default_factory=list)
    checkpoint: Checkpoint = "last"
    profile: str = ""
    axis: str = ""

    def row(self, name: str) -> Row:
        """Return the row of a name.

        Raises:
            PocketError: If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise PocketError(f"there is no row {name!r}.{suggest(name, names)}")

    def places(self, row: Row) -> dict[str, int]:
        """Return the folder of each run of a row, below that of all runs, and its seed; none of a published row."""
        if not row.configs:
            return {}
        if self.seeds:
            return {f"{row.name}/seed_{seed}": seed for seed in row.seeds or self.seeds}
        return {row.name: self.seed if row.seed is None else row.seed}

    def commands(
        self,
        row: Row,
        place: str,
        folder: Path,
        cache: str,
        folds: int | None = None,
        more: Sequence[str] = (),
        jobs: int = 1,
    ) -> list[list[str]]:
        """Return the arguments of ``pocket`` that train and test a run of a row.

        Args:
            row: The row.
            place: Which of its runs, a key of :meth:`places`.
            folder: Folder of all runs.
            cache: Folder that ``pocket prepare`` wrote.
            folds: Folds of rows that are cross-validated, instead of those of the table.
            more: Options of ``pocket fit`` on top.
            jobs: Folds at a time.
        """
        run = folder / place
        seed = self.places(row)[place]
        given = {name: _fill(value, folder, seed) for name, value in row.options.items()}
        options = given | {row.data: cache, "seed_everything": seed}
        fit = [*Run(tuple(row.configs), options).argv()[1:], *more]
        count = self.folds if row.folds is None else row.folds
        if count == 1:
            return [
                ["fit", f"--run_dir={run}", *fit],
                ["test", f"--run_dir={run}", f"--ckpt_path={self.checkpoint}"],
            ]
        at_once = [] if jobs == 1 else [f"--jobs={jobs}"]
        of_crossval = [f"--folds={folds or count}", f"--checkpoint={self.checkpoint}", *at_once]
        return [["crossval", f"--run_dir={run}", *of_crossval, *fit]]


def read_table(name: str) -> ExperimentTable:
    """Read a table.

    Args:
        name: YAML file, or the name of one in ``configs/tables``.

    Raises:
        PocketError: If there is no such table, or it is not as expected.
    """
    path = _find(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise PocketError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    given = checked_fields(content, ExperimentTable, str(path))
    entries = given.get("rows", [])
    rows = [Row(**checked_fields(entry, Row, f"{path}: rows[{index}]")) for index, entry in enumerate(entries)]
    table = ExperimentTable(**given | {"rows": rows})
    _check(table, path)
    return table


def _fill(value: Option, runs: Path, seed: int) -> Option:
    """Return the value of an option with the places of other runs; other braces stay as they are."""
    if not isinstance(value, str):
        return value
    return value.replace("{runs}", str(runs)).replace("{seed}", str(seed))


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    try:
        return find_config(name, ("tables",))
    except PocketError:
        known = sorted(file.stem for file in (configs_folder() / "tables").glob("*.yaml"))
        raise PocketError(f"{name}: no such file, and no shipped table has this name.{suggest(name, known)}") from None


def _check(table: ExperimentTable, path: Path) -> None:
    """Refuse what would fail after hours, or be shown wrongly."""
    if not table.rows and not table.profile:
        raise PocketError(f"{path}: rows is empty; give at least one.")
    if table.rows and table.profile:
        raise PocketError(f"{path}: has rows and a profile; give one of the two.")
    if table.checkpoint not in get_args(Checkpoint):
        raise PocketError(f"{path}: checkpoint is {table.checkpoint!r}, expected last or best.")
    _check_names(str(path), "metrics", table.metrics, METRICS)
    _check_axis(table, str(path))
    _check_folds(str(path), table.folds)
    _check_seeds(table, str(path))
    names = [row.name for row in table.rows]
    for row in table.rows:
        where = f"{path}: row {row.name}"
        if not _NAME.fullmatch(row.name) or names.count(row.name) > 1:
            raise PocketError(f"{where}: expected a name of its own, of letters, digits, dots, - and _.")
        if row.compare_to == row.name or (row.compare_to and row.compare_to not in names):
            raise PocketError(f"{where}: compare_to is {row.compare_to!r}, expected another row.")
        _check_row(row, where)


def _check_axis(table: ExperimentTable, where: str) -> None:
    values = {row.name: row.options[table.axis] for row in table.rows if table.axis in row.options}
    wrong = [name for name, value in values.items() if not isinstance(value, (int, float)) or not value > 0]
    if table.axis and (wrong or not values):
        found = f"row {wrong[0]} has {values[wrong[0]]!r}" if wrong else "no row has this option"
        raise PocketError(f"{where}: axis is {table.axis}, but {found}. Expected numbers above 0.")


def _check_row(row: Row, where: str) -> None:
    if row.configs and not row.task:
        raise PocketError(f"{where}: has no task; name its data, as in --cache TASK=FOLDER.")
    _check_folds(where, row.folds)
    if row.data not in (PREPARED, IN_FOLDER):
        raise PocketError(f"{where}: data is {row.data!r}, expected {PREPARED} or {IN_FOLDER}.")
    for config in row.configs:
        find_config(config)
    allowed = [PARAMETERS, *(key for m in METRICS for key in (m, f"{_short(m)}_median", f"{_short(m)}_p"))]
    _check_names(where, "published", row.published, allowed)
    for key, value in row.published.items():
        if not _SCORE.fullmatch(str(value).strip()):
            raise PocketError(f"{where}: published {key} is {value!r}, expected a number, or mean ± deviation.")


def _check_folds(where: str, folds: int | None) -> None:
    if folds is not None and folds < 1:
        raise PocketError(f"{where}: folds is {folds}, expected 1 for one run, or more.")


def _check_seeds(table: ExperimentTable, where: str) -> None:
    given = table.seeds
    for place, seeds in ((where, given), *((f"{where}: row {row.name}", row.seeds) for row in table.rows)):
        if any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
            raise PocketError(f"{place}: seeds is {seeds}, expected whole numbers from 0, each once.")
    own = [row.name for row in table.rows if row.seed is not None]
    alone = [row.name for row in table.rows if row.seeds and not given]
    if alone:
        raise PocketError(f"{where}: row {alone[0]}: has seeds, but the table has none. Give the table some.")
    if given and own:
        raise PocketError(f"{where}: row {own[0]}: has a seed, but the table has seeds. Give one of the two.")


def _check_names(where: str, key: str, names: Sequence[str] | Mapping[str, Any], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed:
            raise PocketError(f"{where}: {key} has no {name!r}.{suggest(str(name), allowed)}")


def _short(metric: str) -> str:
    return metric.removesuffix("_mm")
