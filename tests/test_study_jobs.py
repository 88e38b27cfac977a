"""Jobs of studies: several at once, failures, and work that another process does."""

import itertools
import threading
import time
from pathlib import Path

import pytest
from study_files import stub

from lightning_pocket.storage import write_text
from lightning_pocket.studies.jobs import Job
from lightning_pocket.studies.shared_jobs import SharedJobs


class Shown:
    """Stands for the progress on a terminal."""

    live = True

    def __init__(self) -> None:
        self.said: list[str] = []
        self.states: dict[str, str] = {}
        self.epochs: dict[str, int | None] = {}

    def say(self, name: str, text: str) -> None:
        self.said.append(f"{name}: {text}")

    def show(self, name: str, state: str, epoch: int | None) -> None:
        self.states[name] = state
        self.epochs[name] = epoch


def job(folder: Path, name: str, *commands: list[str]) -> Job:
    return Job(name, folder / name, folder / "logs" / f"{name}.log", lambda: commands, lambda: _is_there(folder, name))


def _is_there(folder: Path, name: str) -> bool:
    log = folder / "logs" / f"{name}.log"
    return log.is_file() and "test 1" in log.read_text(encoding="utf-8")


def test_jobs_go_on_after_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, tmp_path)
    shown = Shown()
    jobs = [job(tmp_path, "bad", ["fit", "fail"], ["test"]), job(tmp_path, "good", ["fit"], ["test"])]
    jobs.append(job(tmp_path, "empty", ["fit"]))
    failures = SharedJobs(jobs, [{}], shown).run()
    assert list(failures) == ["bad", "empty"]
    assert failures["bad"].startswith("`pocket fit` failed with status 1: no more room")
    assert failures["empty"].startswith("its commands left no result")
    said = [text for text in shown.said if ": pocket" in text]
    assert said == ["bad: pocket fit fail", "good: pocket fit", "good: pocket test", "empty: pocket fit"]
    assert shown.states == {"bad": "failed", "good": "done", "empty": "failed"}
    log = (tmp_path / "logs" / "good.log").read_text(encoding="utf-8")
    assert [line.split()[0] for line in log.splitlines() if line and " $ " not in line] == ["fit", "test"]
    assert SharedJobs(jobs[1:2], [{}], shown).run() == {}
    assert shown.said[-1] == "good: is trained and tested"
    assert not list(tmp_path.glob(".*"))  # no lock is left


def test_as_many_jobs_run_at_once_as_there_are_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, tmp_path)
    jobs = [job(tmp_path, str(number), ["test"]) for number in range(4)]
    assert SharedJobs(jobs, [{"PLACE": "a"}, {"PLACE": "b"}], Shown()).run() == {}
    lines = [job.log.read_text(encoding="utf-8").split()[-4:] for job in jobs]
    spans = [(place, float(start), float(end)) for _, start, end, place in lines]
    together = [(a, b) for a, b in itertools.combinations(spans, 2) if a[1] < b[2] and b[1] < a[2]]
    assert together
    assert all(a[0] != b[0] for a, b in together)


def test_a_job_that_was_interrupted_is_not_shown_as_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, tmp_path)

    class Interrupted(Shown):
        def show(self, name: str, state: str, epoch: int | None) -> None:
            super().show(name, state, epoch)
            if state == "test":
                raise KeyboardInterrupt

    shown = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        SharedJobs([job(tmp_path, "a", ["test"]), job(tmp_path, "b", ["test"])], [{}], shown).run()
    assert shown.states == {"a": "interrupted"}


def test_a_job_of_another_process_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, tmp_path)
    shown, work = Shown(), job(tmp_path, "a", ["test"])
    taken = work.lock
    assert taken.acquire()

    def other() -> None:
        time.sleep(0.5)
        write_text(work.log, "test 1")
        taken.release()

    first = threading.Thread(target=other)
    first.start()
    assert SharedJobs([work], [{}], shown).run() == {}
    first.join()
    assert "works on it; its result will be used" in shown.said[0]
    assert shown.said[1:] == ["a: is trained and tested"]
