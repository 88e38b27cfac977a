"""Which case belongs to which fold or split: read from a file, or made."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lightning_pocket.data.groups import GroupKey, draw_order, group_key
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import write_csv

SPLITS = ("train", "val", "test")
_FOLDS = 5  # made where nobody says how many
#: What mends a group that comes apart.
ONE_PLACE = "give all cases of a group (a patient) the same fold or split"
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class Assignment:
    """Where one case belongs.

    Args:
        fold: Index of the cross-validation fold in which the case is held out, from 0; None for none.
        split: "train", "val" or "test" where the data set fixes it; None where the folds decide.
        group: What must not come apart when cases are drawn, such as a patient; None for a case of its own.
    """

    fold: int | None = None
    split: str | None = None
    group: str | None = None

    @property
    def place(self) -> str:
        """What decides when the case trains and when it tests: its split, else its fold."""
        fold = "no fold or split" if self.fold is None else f"fold {self.fold}"
        return self.split or fold


def stem(name: str) -> str:
    """Return a file name without folder and image suffix."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    suffix = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def parse_assignment(fold: str, split: str, where: str) -> Assignment:
    """Turn the text of two table cells into an assignment.

    Args:
        fold: A number from 0, or blank.
        split: "train", "val", "test", or blank.
        where: Names file and line in errors.

    Returns:
        The assignment; blank cells give None.

    Raises:
        PocketError: If a cell holds something else.
    """
    fold, split = fold.strip(), split.strip()
    if fold and not (fold.isascii() and fold.isdigit()):
        raise PocketError(f"{where}: fold is '{fold}', expected a whole number from 0 or nothing.")
    if split and split not in SPLITS:
        raise PocketError(f"{where}: split is '{split}', expected one of {', '.join(SPLITS)} or nothing.")
    return Assignment(int(fold) if fold else None, split or None)


def read_folds(path: str | Path, subjects: Collection[str] = ()) -> dict[str, Assignment]:
    """Read a CSV file of folds.

    Args:
        path: CSV file with a header: ``subject`` or ``file`` (folder, image suffix and nnU-Net's ``_0000`` are
            dropped), and ``fold`` or ``split`` or both; other columns but ``group`` are ignored.
        subjects: Known subjects; a file whose name, with or without suffix, is one of them keeps that name.

    Returns:
        The assignment of each subject, in the order of the file.

    Raises:
        PocketError: If the file cannot be read, lacks a column, repeats a subject, or holds a bad fold or split.
    """
    path = Path(path)
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PocketError(f"{path}: the fold file cannot be read ({error}).") from error
    header = [name.strip() for name in rows[0]] if rows else []
    key = next((name for name in ("subject", "file") if name in header), None)
    if key is None or not {"fold", "split"} & set(header):
        found = ", ".join(header) or "nothing"
        raise PocketError(f"{path}: columns are {found}; expected 'subject' or 'file', and 'fold' or 'split' or both.")
    known = set(subjects)
    folds: dict[str, Assignment] = {}
    for number, cells in enumerate(rows[1:], start=2):
        row = dict(zip(header, cells, strict=False))
        if not any(cell.strip() for cell in cells):
            continue
        name = row.get(key, "").strip()
        subject = _subject(name, known) if key == "file" else name
        if subject in folds or not subject:
            finding = f"subject '{subject}' appears twice" if subject else f"no {key} is given"
            raise PocketError(f"{path}, line {number}: {finding}; give each subject one line.")
        place = parse_assignment(row.get("fold", ""), row.get("split", ""), f"{path}, line {number}")
        folds[subject] = replace(place, group=row.get("group", "").strip() or None)
    return folds


def _subject(file: str, subjects: Collection[str]) -> str:
    name = file.replace("\\", "/").rsplit("/", 1)[-1]  # 2D images may be called after the whole name of their file
    if name in subjects:
        return name
    name = stem(name)
    return name if name in subjects else name.removesuffix("_0000")


def match_folds(folds: Mapping[str, Assignment], subjects: Sequence[str], source: str) -> dict[str, Assignment]:
    """Check that folds cover the subjects and nothing else.

    Args:
        folds: Assignment of each subject.
        subjects: Subjects of the data set.
        source: Names the file of the folds in errors.

    Returns:
        The same assignments in the order of ``subjects``.

    Raises:
        PocketError: If a subject is unknown, missing, or has neither fold nor split.
    """
    known = set(subjects)
    unknown = [subject for subject in folds if subject not in known]
    if unknown:
        raise PocketError(f"{source}: {_listed(unknown)} not in the data set; remove the lines or mend the names.")
    places = {subject: folds.get(subject, Assignment()) for subject in subjects}
    missing = [subject for subject, place in places.items() if place.fold is None and place.split is None]
    if missing:
        raise PocketError(f"{source}: {_listed(missing)} without fold and split; give each case of the data set one.")
    return places


def _listed(subjects: Sequence[str], most: int = 5) -> str:
    names = ", ".join(f"'{subject}'" for subject in subjects[:most])
    more = f" and {len(subjects) - most} more" if len(subjects) > most else ""
    return f"{len(subjects)} subject{'s' if len(subjects) > 1 else ''} ({names}{more})"


def parted_groups(folds: Mapping[str, Assignment]) -> dict[str, str]:
    """Return the groups whose cases are in several places, and where they are, as ``train (a, b) and test (c)``.

    Args:
        folds: Assignment of each subject.
    """
    places: dict[str, dict[str, list[str]]] = {}
    for subject, assignment in folds.items():
        if assignment.group:
            places.setdefault(assignment.group, {}).setdefault(assignment.place, []).append(subject)
    return {
        group: " and ".join(f"{place} ({_first(subjects)})" for place, subjects in parts.items())
        for group, parts in places.items()
        if len(parts) > 1
    }


def _first(subjects: Sequence[str], most: int = 3) -> str:
    return ", ".join(subjects[:most]) + (f" and {len(subjects) - most} more" if len(subjects) > most else "")


def check_groups(folds: Mapping[str, Assignment], source: str) -> None:
    """Refuse groups that are partly trained on and partly tested on: such a test says too much.

    Args:
        folds: Assignment of each subject.
        source: Names the origin of the folds in errors.

    Raises:
        PocketError: If cases of one group are in several folds or splits.
    """
    parted = parted_groups(folds)
    for group, where in parted.items():
        more = f" ({len(parted) - 1} more groups come apart too)" if len(parted) > 1 else ""
        raise PocketError(f"{source}: group '{group}' is in {where}{more}; {ONE_PLACE}.")


def make_folds(
    subjects: Iterable[str],
    num_folds: int,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
) -> dict[str, Assignment]:
    """Deal subjects into folds of equal size, each with its share of every class.

    The result depends on the names, not on their order. Groups are dealt largest first, each to the fold that has
    least of its classes by then, or is smallest where several have. So without groups the folds differ by at most one
    subject of each class, and with groups of one class alone by at most the size of the largest group.

    Args:
        subjects: Names of the subjects.
        num_folds: Number of folds; 1 puts everything into fold 0.
        seed: Changes who comes together.
        groups: Group of a subject (a patient with several scans); a group is never split. Subjects that are not
            listed are groups of their own.
        classes: Class of each subject; without it all are of one class.

    Returns:
        The fold of each subject, in the given order.

    Raises:
        PocketError: If there are fewer groups than folds.
    """
    subjects = list(subjects)
    group_of = {subject: group_key(subject, (groups or {}).get(subject)) for subject in subjects}
    contents: dict[GroupKey, Counter[str]] = {}
    for subject, group in group_of.items():
        contents.setdefault(group, Counter())[classes[subject] if classes else ""] += 1
    if not 1 <= num_folds <= len(contents):
        remedy = f"set it from 2 to {len(contents)}" if len(contents) > 1 else "let it train alone with --split 1,0,0"
        number = f"{len(contents)} independent case{'' if len(contents) == 1 else 's'}"
        raise PocketError(f"num_folds: {num_folds} folds of {number}; {remedy}.")

    def order(group: GroupKey) -> tuple[int, list[tuple[str, int]], bytes]:
        content = contents[group]
        return -content.total(), sorted(content.items()), draw_order(group, seed)

    totals = sum(contents.values(), Counter())
    loads: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    fold_of: dict[GroupKey, int] = {}
    for group in sorted(contents, key=order):
        fold_of[group] = _emptiest(loads, contents[group], totals)
        loads[fold_of[group]] += contents[group]
    return {subject: Assignment(fold=fold_of[group_of[subject]]) for subject in subjects}


def _emptiest(loads: Sequence[Counter[str]], content: Counter[str], totals: Counter[str]) -> int:
    """Return the fold with the smallest share of the classes of a group, or of those the smallest, or the first."""

    def burden(fold: int) -> tuple[float, int]:
        load = loads[fold]
        share = sum(count / totals[name] * (load[name] / totals[name]) for name, count in sorted(content.items()))
        return share, load.total()

    return min(range(len(loads)), key=burden)


def assign(
    given: Mapping[str, Assignment],
    file: Path | None,
    num_folds: int | None,
    seed: int = 0,
    classes: Mapping[str, str] | None = None,
) -> dict[str, Assignment]:
    """Return fold and split of each case: from a file, else from the data set, else made.

    Args:
        given: What the data set fixes for each case; its groups are kept, and never split.
        file: CSV file of folds; None for none.
        num_folds: Number of folds to make of the cases without a split, whatever their folds are; None makes five, of
            data without folds.
        seed: Seed of the folds to make.
        classes: Class of each case, for folds that have their share of every class.

    Raises:
        PocketError: If the file does not fit the cases, there are too few cases, or a group comes apart; if folds are
            asked for and every case has a split.
    """
    subjects = list(given)
    if file is not None:
        folds = match_folds(read_folds(file, subjects), subjects, str(file))
    elif num_folds is None and any(place.fold is not None for place in given.values()):
        folds = match_folds(given, subjects, "fold column")
    else:
        free = [subject for subject, place in given.items() if place.split is None]
        if num_folds is not None and not free:
            raise PocketError(
                f"num_folds: is {num_folds}, but the data set gives every case a split (train, val or test); leave the "
                "option out, or say who is in which fold with --folds."
            )
        groups = {subject: given[subject].group or "" for subject in free}
        folds = {subject: replace(place, fold=None) for subject, place in given.items()}
        folds |= make_folds(free, num_folds or _FOLDS, seed, groups, classes) if free else {}
    found = {subject: replace(folds[subject], group=folds[subject].group or given[subject].group) for subject in given}
    check_groups(found, str(file or "fold and split of the data set"))
    return found


def write_folds(path: Path, folds: Mapping[str, Assignment]) -> None:
    """Write folds as CSV with the columns subject, fold, split, group.

    Args:
        path: File to write.
        folds: Assignment of each subject; the order is kept.
    """
    rows = [{"subject": subject} | asdict(assignment) for subject, assignment in folds.items()]
    write_csv(path, ["subject", "fold", "split", "group"], rows)
