"""How a cross-validation divides its folds among processes; the trainings are stood in for by quick ones."""

import csv
import json
import os
import shlex
import signal
import socket
import time
from pathlib import Path

import pytest
import yaml
from started import Started

from lightning_pocket.errors import PocketError
from lightning_pocket.locks import FileLock
from lightning_pocket.reports.tested import is_tested, read_tested, record_test, state_of
from lightning_pocket.storage import write_csv, write_json, write_text
from lightning_pocket.studies.crossval import Plan
from lightning_pocket.studies.jobs import environments, places, visible_devices
from lightning_pocket.studies.out_of_fold import collect

#: What `pocket crossval` imports.
IMPORTS = ("lightning_pocket.studies.crossval", "lightning_pocket.studies.jobs")
FOLDS = "subject,fold,split,group\n" + "".join(f"case_{n},{n % 3},,\n" for n in range(7))


@pytest.fixture
def home(tmp_path):
    """Settings of the stand-in, with data of three folds."""
    folder = tmp_path / "stand_in"
    folder.mkdir()
    (folder / "folds.csv").write_text(FOLDS)
    (folder / "tested.csv").write_text(FOLDS)
    split = {"file": str(folder / "folds.csv"), "fold": 0}
    settings = {"data": {"init_args": {"split": split}}, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def start(home, tmp_path):
    """Start a cross-validation in a process of its own; nothing outlives the test."""
    processes = []

    def run(*options, folder=tmp_path / "out"):
        command = ["crossval", f"--run_dir={folder}", *options]
        process = Started("stand_in:main", command, env=os.environ | {"STAND_IN": str(home)}, imports=IMPORTS)
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(process, status=0):
    output, errors = process.communicate(timeout=50)
    assert process.returncode == status, output + errors
    assert "Traceback" not in errors
    return output + errors


def noted(home):
    return [tuple(line.split()) for line in (home / "log").read_text().splitlines()]


def wait_for(home, *event):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [line for line in noted(home) if line[:2] == event] if (home / "log").exists() else []
        if found:
            return int(found[-1][2])
        time.sleep(0.02)
    raise AssertionError(f"{event} never happened")


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def rows(folder):
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_case_is_tested_once_by_the_fold_that_holds_it_out(start, home, tmp_path):
    output = finish(start())
    assert [(row["subject"], row["fold"]) for row in rows(tmp_path / "out")] == [
        (f"case_{n}", str(n % 3)) for n in range(7)
    ]
    assert [event[:2] for event in noted(home)] == [
        (what, fold) for fold in "012" for what in ("fit", "trained", "test")
    ]
    assert "0.3000 ± 0.2160 (0.3000)" in output  # 0.0 to 0.6 in steps of 0.1: std of 0, ..., 6 is sqrt(28 / 6)
    record = json.loads((tmp_path / "out" / "crossval.json").read_text(encoding="utf-8"))
    assert record["folds"] == [0, 1, 2]
    assert record["cases"] == 7
    assert record["parameters"] == 7
    assert record["warnings"] == []
    assert sorted(record["runs"]) == ["0", "1", "2"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_killed_parent_leaves_no_child_and_continues_with_its_fold(start, home, tmp_path):
    (home / "seconds_2").write_text("40")
    parent = start()
    child = wait_for(home, "fit", "2")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)
    (home / "seconds_2").unlink()
    before = len(noted(home))
    output = finish(start())
    assert [event[:2] for event in noted(home)[before:]] == [("fit", "2"), ("trained", "2"), ("test", "2")]
    assert output.count("is trained and tested") == 2
    assert len(rows(tmp_path / "out")) == 7
    assert not list((tmp_path / "out").glob(".fold*"))  # no lock is left


def test_a_killed_child_is_a_failed_fold_that_continues(start, home, tmp_path):
    (home / "seconds_1").write_text("40")
    parent = start()
    os.kill(wait_for(home, "fit", "1"), signal.SIGKILL)
    output = finish(parent, status=1)
    assert "fold 1: `pocket fit` failed with status -9" in output
    assert "2 of 3 folds are done; without results: 1" in output
    assert {row["fold"] for row in rows(tmp_path / "out")} == {"0", "2"}
    (home / "seconds_1").unlink()
    before = len(noted(home))
    finish(start())
    assert {event[1] for event in noted(home)[before:]} == {"1"}


def test_ctrl_c_ends_the_children(start, home):
    (home / "seconds_0").write_text("40")
    parent = start()
    child = wait_for(home, "fit", "0")
    parent.send_signal(signal.SIGINT)  # to the parent alone, as `kill -INT` does
    assert "the same command continues where it stopped" in finish(parent, status=130)
    assert not is_running(child)


def test_two_processes_at_once_never_do_a_fold_twice(start, home, tmp_path):
    for fold in "012":
        (home / f"seconds_{fold}").write_text("1.5")
    first, second = start(), start()
    outputs = [finish(first), finish(second)]
    assert sorted(event[1] for event in noted(home) if event[0] == "fit") == ["0", "1", "2"]
    assert sorted(event[1] for event in noted(home) if event[0] == "test") == ["0", "1", "2"]
    assert all("7 cases: mean" in output for output in outputs)  # both wait for all results
    others = [f"process {process.pid} on {socket.gethostname()} since" for process in (second, first)]
    assert any(other in output for other, output in zip(others, outputs, strict=True))
    assert len(rows(tmp_path / "out")) == 7


def test_several_jobs_work_at_once(start, home):
    for fold in "012":
        (home / f"seconds_{fold}").write_text("1")
    finish(start("--jobs=3"))
    events = [event[0] for event in noted(home)]
    assert events.index("trained") >= 3  # all three had begun before one ended


def test_a_failing_fold_does_not_stop_the_others(start, home, tmp_path):
    (home / "fails_0").touch()
    output = finish(start(), status=1)
    assert "1 of 3 folds failed. fold 0: `pocket fit` failed with status 1: the loss is not a number; log: " in output
    assert "the loss is not a number" in (tmp_path / "out" / "fold_0.log").read_text()
    assert {row["fold"] for row in rows(tmp_path / "out")} == {"1", "2"}


def test_some_folds_only_and_then_the_others(start, home, tmp_path):
    assert "2 of 3 folds are done; without results: 1." in finish(start("--only=0,2"))
    assert "warning" not in finish(start())
    assert sorted(event[1] for event in noted(home) if event[0] == "fit") == ["0", "1", "2"]
    finish(start("--only=1", "--fresh"))
    assert [event[1] for event in noted(home) if event[0] == "fit"].count("1") == 2
    assert len(rows(tmp_path / "out")) == 7


def test_a_run_that_was_trained_again_is_tested_again(start, home, tmp_path):
    finish(start())
    manifest = tmp_path / "out" / "fold_1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"finished_at": "later"}))
    before = len(noted(home))
    finish(start())
    assert [event[:2] for event in noted(home)[before:]] == [("test", "1")]


def test_a_fold_that_was_tested_otherwise_by_hand_is_tested_again(start, home, tmp_path):
    finish(start())
    before, expected = len(noted(home)), rows(tmp_path / "out")
    (tmp_path / "out" / "fold_0" / "test" / "cases.csv").write_text("subject,dice,hd95_mm\ncase_0,1,0\n")
    record_test(tmp_path / "out" / "fold_1", read_tested(tmp_path / "out" / "fold_1") | {"checkpoint": "best"})
    finish(start())
    assert [event[:2] for event in noted(home)[before:]] == [("test", "0"), ("test", "1")]
    assert rows(tmp_path / "out") == expected


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "best"},
        {"checkpoint": "elsewhere/last.ckpt"},
        {"largest_component": ["liver"]},
        {"changed": "model.init_args.inference.overlap: 0.5 -> 0.9"},
        {"data": "of another cache"},
        {"split": ["case_0"]},
        {"trained": "before"},
    ],
    ids=str,
)
def test_a_run_is_tested_by_its_own_weights_settings_and_data(tmp_path, change):
    write_json(tmp_path / "manifest.json", {"finished_at": "now", "data": {"hash": "a", "split": {"test": ["x"]}}})
    write_csv(tmp_path / "test" / "cases.csv", ["subject", "dice"], [{"subject": "x", "dice": 0.5}])
    record = {"checkpoint": "last", "largest_component": False, "changed": ""}
    record |= state_of(tmp_path, {"hash": "a", "split": {"test": ["x"]}})
    record_test(tmp_path, record)
    assert is_tested(tmp_path, "last", {})
    assert not is_tested(tmp_path, "last", {"model": {"init_args": {"largest_component": True}}})
    record_test(tmp_path, record | change)
    assert not is_tested(tmp_path, "last", {})


def test_folds_of_other_data_are_not_put_together(start, tmp_path):
    finish(start())
    folder, manifest = tmp_path / "out", tmp_path / "out" / "fold_1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data": {"hash": "b"}}))
    record_test(folder / "fold_1", json.loads((folder / "fold_1" / "test" / "test.json").read_text()) | {"data": "b"})
    settings = yaml.safe_load((folder / "fold_0" / "config.yaml").read_text())
    plan = Plan(folder, (), "last", settings, (0, 1, 2), (0, 1, 2), None)
    with pytest.raises(PocketError, match="fold 1 was trained on differently prepared data than fold 0") as caught:
        collect(plan)
    assert "--fresh --only 1" in str(caught.value)
    write_text(folder / "fold_2" / "config.yaml", yaml.safe_dump(settings | {"seed_everything": 1}))
    with pytest.raises(PocketError, match=r"fold_2 was trained with other settings \(data.*seed_everything: 1 -> None"):
        collect(plan)


def test_the_command_to_continue_deletes_nothing_and_leaves_nothing_out(start, home, tmp_path):
    options = ["--trainer.max_epochs=1", "--config", "mine"]
    finish(start("--only", "0,1", "--jobs=2", "--fresh", "--checkpoint=best", *options))
    record = json.loads((tmp_path / "out" / "crossval.json").read_text())
    command = shlex.split(record["command"])
    own = [f"--run_dir={tmp_path / 'out'}", "--folds=3", "--checkpoint=best"]
    assert command == ["pocket", "crossval", *own, *options]
    before = len(noted(home))
    finish(start(*command[3:]))
    assert {event[1] for event in noted(home)[before:]} == {"2"}


def test_two_processes_that_start_over_share_the_work(start, home, tmp_path):
    finish(start())
    (home / "seconds_1").write_text("40")
    before = len(noted(home))
    first = start("--fresh")
    while ("fit", "1") not in [event[:2] for event in noted(home)[before:]]:  # until fold 0 is done again
        time.sleep(0.02)
        assert first.poll() is None
    second = start("--fresh")
    while "works on it" not in (said := second.read()[0]):
        time.sleep(0.02)
        assert second.poll() is None
    (home / "seconds_1").unlink()
    finish(second)
    finish(first)
    assert said.startswith("fold 0: is trained and tested\n")
    assert sorted(event[1] for event in noted(home)[before:] if event[0] == "fit") == ["0", "1", "2"]
    assert len(rows(tmp_path / "out")) == 7
    before = len(noted(home))
    finish(start("--fresh", "--only=0"))  # nobody is at work: it starts over once more
    assert [event[:2] for event in noted(home)[before:]] == [("fit", "0"), ("trained", "0"), ("test", "0")]
    assert not list((tmp_path / "out").glob(".*"))


def test_missing_and_repeated_cases_are_told(start, home, tmp_path):
    changed = FOLDS.replace("case_4,1", "case_1,0")  # case_4 is not scored, case_1 twice
    (home / "tested.csv").write_text(changed)
    output = finish(start())
    assert "warning: 1 case is tested by more than one fold, such as 'case_1'" in output
    assert "warning: 1 case is missing, such as 'case_4'" in output
    assert [row["subject"] for row in rows(tmp_path / "out")] == ["case_0", "case_2", "case_3", "case_5", "case_6"]


def test_other_settings_are_refused_before_any_training(start, home):
    finish(start("--only=0"))
    settings = yaml.safe_load((home / "settings.yaml").read_text())
    settings["trainer"]["max_epochs"] = 9
    (home / "settings.yaml").write_text(yaml.safe_dump(settings))
    before = noted(home)
    output = finish(start(), status=1)
    assert "fold_0 was trained with other settings (trainer.max_epochs: 1 -> 9)" in output
    assert noted(home) == before
    finish(start("--fresh"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds=5"], "--folds 5: the data have 3 folds"),
        (["--only=0,7"], "--only 0,7: there is no fold '7'; the folds are 0, 1, 2"),
        (["--jobs=0"], "--jobs: is 0; expected at least 1"),
        (["--data.init_args.split.fold=1"], "--data.init_args.split.fold: has no meaning for all folds alike"),
    ],
)
def test_wrong_options_are_one_line(start, tmp_path, options, message):
    output = finish(start(*options), status=1)
    assert message in output
    assert len(output.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(start, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "does not look like a cross-validation, it holds thesis.tex" in finish(
        start(folder=tmp_path / "mine"), status=1
    )


def test_data_of_one_fold_are_refused(start, home):
    (home / "folds.csv").write_text("subject,fold\na,0\nb,0\n")
    assert "has 1 fold; cross-validation needs two or more" in finish(start(), status=1)


def test_jobs_share_gpus_and_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environments(1, [], 8) == [{}]
    assert environments(1, ["4", "1"], 8) == [{"CUDA_VISIBLE_DEVICES": "4"}]  # one GPU each, however many at a time
    found = environments(3, ["0", "1"], 8)
    assert [entry["CUDA_VISIBLE_DEVICES"] for entry in found] == ["0", "1", "0"]
    assert {entry["OMP_NUM_THREADS"] for entry in found} == {"2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_devices({"trainer": {"accelerator": "auto", "devices": "auto"}}) == ["2", "5"]
    assert visible_devices({"trainer": {"accelerator": "cpu", "devices": "auto"}}) == []
    for devices in (2, "-1", [0, 1], "0,1"):
        assert visible_devices({"trainer": {"accelerator": "auto", "devices": devices}}) == []


def test_jobs_share_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [entry["OMP_NUM_THREADS"] for entry in places(2, {"trainer": {"accelerator": "cpu"}})] == ["4", "4"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_lock_ends_with_its_process_even_if_a_forked_child_lives_on(tmp_path):
    """A worker of a data loader may outlive a killed training by seconds."""
    reading, writing = os.pipe()
    holder = os.fork()
    if not holder:
        taken = FileLock(tmp_path / "lock").acquire()
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
        os.write(writing, f"{taken:d} {child}".encode())
        os._exit(0)
    os.waitpid(holder, 0)
    taken, child = os.read(reading, 100).split()
    try:
        assert taken == b"1"
        assert is_running(int(child))
        assert FileLock(tmp_path / "lock").acquire()
    finally:
        os.kill(int(child), signal.SIGKILL)
