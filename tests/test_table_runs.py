"""Runs of a table that several processes make at the same time."""

import json
import sys
import threading
import time

import pytest

from lightning_pocket import launch
from lightning_pocket.locks import FileLock
from lightning_pocket.studies.table_runs import TableRuns

#: Stands for `pocket`: fails where another process works in the same folder, and takes a while.
STUB = """
import json, pathlib, sys, time
command, run = sys.argv[2], pathlib.Path(sys.argv[3].partition("=")[2])
with open(sys.argv[1], "a") as file:
    file.write(json.dumps([command, run.name]) + "\\n")
run.mkdir(parents=True, exist_ok=True)
with (run / "busy").open("x"):
    time.sleep(0 if (run / "trained").exists() else 0.3)
if run.name == "broken":
    sys.exit(3)
(run / "trained").touch()
(run / "busy").unlink()
"""
ROWS = ["a", "b", "broken", "c"]


@pytest.fixture
def log(tmp_path, monkeypatch):
    (tmp_path / "stub.py").write_text(STUB, encoding="utf-8")
    file = tmp_path / "commands.jsonl"
    monkeypatch.setattr(launch, "program", lambda: [sys.executable, str(tmp_path / "stub.py"), str(file)])
    return file


def runs(tmp_path, rows=ROWS):
    return TableRuns(
        tmp_path / "runs", {row: [["fit", f"--run_dir={tmp_path / 'runs' / row}"]] for row in rows}, "last"
    )


def test_each_run_is_worked_on_by_one_process_at_a_time(tmp_path, log, capfd):
    found = {}
    workers = [threading.Thread(target=lambda n=n: found.update({n: runs(tmp_path).run()})) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert {name: sorted(failures) for name, failures in found.items()} == {0: ["broken"], 1: ["broken"]}
    assert "works on it; its result will be used" in capfd.readouterr().out
    assert {json.loads(line)[1] for line in log.read_text(encoding="utf-8").splitlines()} == set(ROWS)
    assert not list((tmp_path / "runs").glob(".*.lock"))


def test_a_run_of_another_process_is_left_for_later(tmp_path, log):
    (tmp_path / "runs").mkdir()
    lock = FileLock(tmp_path / "runs" / ".a.table.lock")
    assert lock.acquire()
    worker = threading.Thread(target=runs(tmp_path, ["a", "b"]).run, daemon=True)
    worker.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "runs" / "b" / "trained").exists():
        assert worker.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "runs" / "a").exists()
    lock.release()
    worker.join(30)
    assert [json.loads(line)[1] for line in log.read_text(encoding="utf-8").splitlines()] == ["b", "a"]


def test_a_cross_validation_is_joined(tmp_path, log):
    (tmp_path / "runs").mkdir()
    assert FileLock(tmp_path / "runs" / ".a.table.lock").acquire()
    table = TableRuns(tmp_path / "runs", {"a": [["crossval", f"--run_dir={tmp_path / 'runs' / 'a'}"]]}, "last")
    assert table.run() == {}
    assert json.loads(log.read_text(encoding="utf-8")) == ["crossval", "a"]
