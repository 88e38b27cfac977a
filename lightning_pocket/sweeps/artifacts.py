"""Pictures and notes for the dashboard, stored beside the trials of a study: these stay as they ended."""

from __future__ import annotations

import filecmp
import hashlib
import json
import mimetypes
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_pocket.storage import partial_path

from .outcome import Outcome, outcomes
from .study import SweepStudy

#: Of a study's folder: where its attached files are, and its charts.
ARTIFACTS, FIGURES = "artifacts", "figures"
#: In a run folder, those that say most first: of the test, else of the last validation.
_CHARTS, _TESTED, _VALIDATED = "test/*.svg", "test/pictures/*.png", "pictures/epoch_*.png"
#: The version of a note that nobody has edited in the dashboard, which counts up.
_OURS = 1


@dataclass(frozen=True)
class Artifact:
    """A file that the dashboard shows with a trial, or with the study.

    Args:
        trial: How the storage calls the trial; None for the study.
        name: What the dashboard calls the file.
        file: The file.
    """

    trial: int | None
    name: str
    file: Path

    @property
    def identifier(self) -> str:
        """Name of the copy: always the same for the same trial and name, so that nothing is attached twice."""
        return hashlib.sha256(f"{self.trial}|{self.name}".encode()).hexdigest()[:32]

    @property
    def key(self) -> str:
        """The study's attribute in which the dashboard looks for it.

        What Optuna attaches to a trial is an attribute of the trial, which a trial that has ended cannot get any more.
        """
        owner = "artifacts:" if self.trial is None else f"dashboard:artifacts:{self.trial}:"
        return owner + self.identifier

    def describe(self) -> str:
        """Return the attribute's value."""
        kind, encoding = mimetypes.guess_type(self.name)
        fields = {"artifact_id": self.identifier, "filename": self.name, "encoding": encoding}
        return json.dumps(fields | {"mimetype": kind or "application/octet-stream"})


class Attachments:
    """Attaches the pictures that runs have left, the charts of the study, and notes with the commands of each trial.

    It writes attributes of the study alone, and never those of a trial.

    Args:
        study: The study.
        pictures: How many pictures of each run.
    """

    def __init__(self, study: SweepStudy, pictures: int) -> None:
        self.study = study
        self.pictures = pictures
        self.folder = study.folder / ARTIFACTS
        self._identifiers: dict[int, int] = {}

    def refresh(self) -> int:
        """Attach what is new.

        Returns:
            How many files are attached now.

        Raises:
            OSError: If the folder, or the journal of the study, cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        identifier = self.study.storage.get_study_id_from_name(self.study.name)
        known = self.study.storage.get_study_system_attrs(identifier)
        found = outcomes(self.study)
        count = 0
        for artifact in self._artifacts(found):
            if known.get(artifact.key) == "null":  # somebody has removed it in the dashboard
                continue
            try:
                _copy(artifact.file, self.folder / artifact.identifier)
            except FileNotFoundError:  # its run has just begun anew
                continue
            if artifact.key not in known:
                self.study.storage.set_study_system_attr(identifier, artifact.key, artifact.describe())
            count += 1
        texts: dict[int | None, str] = {None: describe_study(self.study)}
        texts |= {self._identifier(o): describe_trial(self.study, o) for o in found if o.state != "waiting"}
        self._write_notes(identifier, texts)
        return count

    def _artifacts(self, found: Sequence[Outcome]) -> Iterator[Artifact]:
        figures = self.study.folder / FIGURES
        for file in sorted([*figures.glob("*.svg"), *figures.glob("*.png")]):
            yield Artifact(None, file.name, file)
        for outcome in found:
            run = str(outcome.trial.user_attrs.get("run", ""))
            if not run or outcome.state not in ("done", "pruned") or outcome.same_as is not None:
                continue
            trial = self._identifier(outcome)
            for place, _ in self.study.sweep.places():
                for file in pictures_of(self.study.folder / run / place, self.pictures):
                    yield Artifact(trial, " ".join([*place.split("/"), file.name]).strip(), file)

    def _identifier(self, outcome: Outcome) -> int:
        """Return how the storage calls a trial; a database is asked once."""
        number = outcome.trial.number
        if number not in self._identifiers:
            self._identifiers[number] = self.study.identifier(number)
        return self._identifiers[number]

    def _write_notes(self, identifier: int, texts: Mapping[int | None, str]) -> None:
        """Write the notes of trials, and of the study, that are new and that no reader has edited."""
        from optuna_dashboard._note import get_note_from_system_attrs, save_note_with_version

        known = dict(self.study.storage.get_study_system_attrs(identifier))
        for trial, text in texts.items():
            note = get_note_from_system_attrs(known, trial)
            if note["version"] <= _OURS and note["body"] != text:
                save_note_with_version(self.study.storage, identifier, trial, _OURS, text)


def pictures_of(run: Path, most: int) -> list[Path]:
    """Return pictures of a run: charts of its test and tested cases, or the validation cases of its last epoch.

    Args:
        run: Folder of the run.
        most: How many at most.
    """
    found = [*sorted(run.glob(_CHARTS)), *sorted(run.glob(_TESTED))]
    if not found:
        drawn = sorted(run.glob(_VALIDATED))
        found = [file for file in drawn if file.name.split("_")[1] == drawn[-1].name.split("_")[1]]
    return found[:most]


def describe_study(study: SweepStudy) -> str:
    """Return the note of a study, as Markdown."""
    sweep = study.sweep
    parts = [f"# {sweep.title}", sweep.source, "\n".join(f"- {note}" for note in sweep.notes)]
    parts += [f"Takes: {sweep.takes}" if sweep.takes else "", _code([f"pocket sweep best {study.folder}"])]
    return "\n\n".join(part for part in parts if part)


def describe_trial(study: SweepStudy, outcome: Outcome) -> str:
    """Return the note of a trial, as Markdown: its point, why it has no result, and its commands."""
    known = outcome.trial.user_attrs
    said = outcome.remark if outcome.state != "running" else ""  # a worker is named by its lease, which changes
    parts = [f"Trial {outcome.slot}: {study.sweep.space.show(outcome.point)}", said.replace("`", "")]
    parts += [_code([shlex.join(command) for command in known.get("commands", [])])]
    return "\n\n".join(part for part in parts if part)


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```bash", *lines, "```"]) if lines else ""


def _copy(source: Path, target: Path) -> None:
    """Copy a file, unless that was done before."""
    if target.is_file() and filecmp.cmp(source, target):
        return
    partial = partial_path(target)
    shutil.copy2(source, partial)
    partial.replace(target)
