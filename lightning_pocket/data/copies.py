"""Finds volumes that are in a data set under several names: one of them may train and another test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_pocket.data.checks import Fault, Inspection
from lightning_pocket.data.folds import Assignment
from lightning_pocket.data.layouts import Case

_REMEDY = "keep one of them, or give them one group"
_MOST_NAMED = 4  # cases of one image that a warning names


def volume_copies(
    cases: Sequence[Case], inspections: Sequence[Inspection], assignments: Iterable[Assignment]
) -> list[Fault]:
    """Return a warning for each image that several cases share, unless they are of one group, which never parts.

    Args:
        cases: The cases.
        inspections: What was found in each.
        assignments: Fold, split and group of each, as far as they are known.
    """
    copies: dict[str, list[tuple[Case, Assignment]]] = {}
    for case, found, assignment in zip(cases, inspections, assignments, strict=True):
        if found.digest is not None:
            copies.setdefault(found.digest, []).append((case, assignment))
    return [_fault(same) for same in copies.values() if _may_part(same)]


def _may_part(same: Sequence[tuple[Case, Assignment]]) -> bool:
    """Tell whether nothing keeps copies together; one name given twice is another fault."""
    groups = {assignment.group for _, assignment in same}
    return len({case.subject for case, _ in same}) > 1 and (None in groups or len(groups) > 1)


def _fault(same: Sequence[tuple[Case, Assignment]]) -> Fault:
    shown = ", ".join(_named(case, assignment) for case, assignment in same[:_MOST_NAMED])
    more = f" and {len(same) - _MOST_NAMED} more" if len(same) > _MOST_NAMED else ""
    first = same[0][0]
    return Fault(first.subject, str(first.images[0]), f"copies of one image: {shown}{more}", _REMEDY, "warning")


def _named(case: Case, assignment: Assignment) -> str:
    known = assignment.fold is not None or assignment.split is not None
    return f"{case.subject} ({assignment.place})" if known else case.subject
