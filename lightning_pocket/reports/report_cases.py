"""The cases of a report: the worst and the best with their pictures, and the scores of all."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json

from .collect import RunResult, metric_of
from .comparison_tables import METRICS
from .page import NOT_KNOWN, Page
from .pictures import picture_name
from .statistics_tables import metric_name
from .viewer import ViewedCase, add_viewer

_WORST = 2  # cases from the low end that are shown, beside the median and the best one
_MOST_RUNS = 6  # runs whose pictures of a case are shown
_WIDTH = 720  # pixels of a picture, which is shown at half of this
_QUALITY = 80
_VOLUMES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class _Chosen:
    """A case that tells something, and what."""

    subject: str
    why: str


def add_cases(page: Page, results: Sequence[RunResult], volumes: int, output: Path) -> None:
    """Add the worst and the best cases in a viewer of volumes or as pictures, and a table of all.

    Args:
        page: Where they are added.
        results: The runs; the first tested one ranks the cases.
        volumes: Cases of each run for the viewer.
        output: File of the page.
    """
    ranked = next((result for result in results if result.subjects and "dice" in result.scores), None)
    tested = [result for result in results if result.subjects and result.scores]
    if not tested:
        return
    page.section("Cases")
    if ranked is not None:
        finite = [subject for subject, value in ranked.by_case("dice").items() if math.isfinite(value)]
        shown = _worst_and_best(_telling(ranked, finite))[:volumes]
        viewed = _add_volumes(page, ranked, tested[:_MOST_RUNS], shown, output)
        add_pictures(page, ranked, tested, viewed)
    add_case_table(page, tested)


def _add_volumes(
    page: Page, ranked: RunResult, tested: Sequence[RunResult], chosen: Sequence[_Chosen], output: Path
) -> set[str]:
    """Add the viewer, and return the cases that it shows; none where their files are not there."""
    of_run = f" of {ranked.name}" if len(tested) > 1 else ""
    cases = {entry: [_viewed(result, entry, of_run) for result in tested] for entry in chosen}
    found = [case for viewed in cases.values() for case in viewed if case is not None]
    if not found:
        return set()
    page.subsection("Volumes")
    try:
        add_viewer(page, found, output)
    except PocketError as error:  # such as an image that was replaced: the rest of the report needs none
        page.paragraph(f"No volumes are shown. {error}", "note")
        return set()
    return {entry.subject for entry, viewed in cases.items() if all(viewed)}


def add_case_table(page: Page, tested: Sequence[RunResult]) -> None:
    """Add the scores of every case, which readers open: of one run all of them, of several the means over the classes.

    Args:
        page: Where the table is added.
        tested: The runs.
    """
    columns = list(dict.fromkeys(c for result in tested for c in result.scores if metric_of(c)))
    if len(tested) > 1:
        columns = [column for column in columns if column == metric_of(column)]
    pairs = [(result, column) for column in columns for result in tested]
    if not pairs:
        return
    subjects = list(dict.fromkeys(subject for result in tested for subject in result.subjects))
    names = [metric_name(c) if len(tested) == 1 else f"{metric_name(c)}, {r.name}" for r, c in pairs]
    cells = [{subject: _show(c, value) for subject, value in r.by_case(c).items()} for r, c in pairs]
    rows = [[subject, *(column.get(subject, NOT_KNOWN) for column in cells)] for subject in subjects]
    page.markup(f"<details><summary>Scores of all {len(subjects)} cases</summary>")
    page.table(["case", *names], rows, "Test scores of every case, as in test/cases.csv.")
    page.markup("</details>")


def thumbnail(picture: Path) -> bytes:
    """Return a picture as a small WebP file.

    Args:
        picture: PNG file.
    """
    from PIL import Image

    with Image.open(picture) as image:
        shown = image.convert("RGB")
    if shown.width > _WIDTH:
        shown = shown.resize((_WIDTH, round(shown.height * _WIDTH / shown.width)), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    shown.save(data, format="WEBP", quality=_QUALITY)
    return data.getvalue()


def has_pictures(result: RunResult) -> bool:
    """Whether the test of a run has left a picture of some case."""
    return any(_picture(result, subject) for subject in result.subjects)


def add_pictures(page: Page, ranked: RunResult, tested: Sequence[RunResult], viewed: Collection[str] = ()) -> None:
    """Add the worst, the median and the best case that have a picture, of each run beside each other.

    Args:
        page: Where they are added.
        ranked: The run whose scores rank the cases.
        tested: The runs; of more than six the first six are shown.
        viewed: Cases that the page shows already.
    """
    finite = [subject for subject, value in ranked.by_case("dice").items() if math.isfinite(value)]
    drawn = [subject for subject in finite if _picture(ranked, subject)]
    if not drawn:
        if not viewed:
            page.paragraph("The test has left no pictures: the callback PredictionImages draws them.", "note")
        return
    some = len(drawn) < len(finite)
    if some:
        page.paragraph(
            f"{len(drawn)} of the {len(ranked.subjects)} test cases have a picture (max_test_cases of "
            "PredictionImages); the worst and the best are those among them.",
            "note",
        )
    for entry in _telling(ranked, drawn):
        if entry.subject not in viewed:
            page.subsection(f"{entry.subject}: {entry.why} case of {ranked.name}{' with a picture' if some else ''}")
            _add_case(page, entry.subject, tested[:_MOST_RUNS])


def _add_case(page: Page, subject: str, tested: Sequence[RunResult]) -> None:
    pictures = []
    for result in tested:
        file = _picture(result, subject)
        if file is None:
            continue
        scored = _scored(result, subject)
        alt = f"Image, ground truth and prediction of {result.name} for {subject}{scored}"
        try:
            pictures.append((thumbnail(file), alt, f"{result.name}{scored}."))
        except OSError:  # half copied, say: the rest of the page needs it not
            page.paragraph(f"{file}: cannot be read as a picture.", "note")
    page.pictures(pictures)


def _telling(result: RunResult, subjects: Sequence[str]) -> list[_Chosen]:
    """Return the worst, the median and the best of some cases by Dice, and what each is."""
    dice = result.by_case("dice")
    order = sorted(subjects, key=lambda subject: dice[subject])
    words = {0: "worst", 1: "second worst"} if len(order) > 3 else {0: "worst"}
    places = [*list(words)[:_WORST], len(order) // 2, len(order) - 1]
    found: dict[str, str] = {}
    for place, why in zip(places, [*words.values(), "median", "best"], strict=True):
        if order:
            found.setdefault(order[place], why)
    return [_Chosen(subject, why) for subject, why in found.items()]


def _worst_and_best(chosen: Sequence[_Chosen]) -> list[_Chosen]:
    """Return the worst case, the best, then the others."""
    return [*chosen[:1], *chosen[:0:-1]]


def _picture(result: RunResult, subject: str) -> Path | None:
    return _file(result.path, f"pictures/{picture_name(subject)}")


def _file(run: Path, name: str) -> Path | None:
    """Return a file that a test left in a run, or in a fold of a cross-validation."""
    here = run / "test" / name
    if here.is_file():
        return here
    return next((file for fold in sorted(run.glob("fold_*")) if (file := fold / "test" / name).is_file()), None)


def _viewed(result: RunResult, chosen: _Chosen, of_run: str) -> ViewedCase | None:
    """Return a case for the viewer; None where its files are not there, or are no volumes.

    Args:
        result: The run.
        chosen: The case.
        of_run: Names the run by whose scores it was chosen, where there are several.
    """
    prediction = _file(result.path, f"predictions/{chosen.subject}.nii.gz")
    cache = Path(str(result.manifest.get("data", {}).get("cache") or ""))
    record = cache / "cases" / chosen.subject / "case.json"
    if prediction is None or not record.is_file():
        return None
    sources = [Path(source["path"]) for source in read_json(record).get("sources", [])]
    if len(sources) < 2 or not all(source.is_file() and source.name.endswith(_VOLUMES) for source in sources):
        return None
    data: dict[str, Any] = read_json(cache / "dataset.json")
    classes = list(data["classes"])
    values = data.get("preprocessing", {}).get("label_values") or []
    return ViewedCase(
        name=f"{chosen.subject}, {result.name}",
        image=sources[0],
        truth=sources[-1],
        prediction=prediction,
        classes=classes,
        caption=f"{_scored(result, chosen.subject).removeprefix(', ')}; the {chosen.why} case{of_run}.".lstrip("; "),
        values=values if len(values) == len(classes) else (),
    )


def _scored(result: RunResult, subject: str) -> str:
    value = result.by_case("dice").get(subject)
    return "" if value is None else f", Dice {value:.3f}"


def _show(column: str, value: float) -> str:
    form = METRICS.get(metric_of(column) or column, ("", ".3g"))[1]
    return f"{value:{form}}" if math.isfinite(value) else NOT_KNOWN
