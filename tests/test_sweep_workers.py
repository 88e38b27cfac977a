"""Several processes on one study: every point once, and nothing lost when one is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sweep_stand_in
import yaml
from started import Started
from sweep_stand_in import GRID

from lightning_pocket.locks import FileLock
from lightning_pocket.reports.job_progress import JobProgress
from lightning_pocket.studies.jobs import RunningJob
from lightning_pocket.sweeps.claims import Claims
from lightning_pocket.sweeps.interrupts import Interrupts
from lightning_pocket.sweeps.leases import Leases
from lightning_pocket.sweeps.outcome import outcomes, tally
from lightning_pocket.sweeps.read import read_sweep
from lightning_pocket.sweeps.runs import TrialRuns
from lightning_pocket.sweeps.samplers import Pruner
from lightning_pocket.sweeps.start import open_study
from lightning_pocket.sweeps.study import MOST_LOST, SweepStudy
from lightning_pocket.sweeps.study_storage import JOURNAL, open_storage
from lightning_pocket.sweeps.twins import find_twin
from lightning_pocket.sweeps.worker import Worker


class Workers:
    """Processes of ``pocket sweep`` on one study, with a program that stands for training."""

    imports: tuple[str, ...] = ("optuna", "lightning_pocket.sweeps.start", "lightning_pocket.sweeps.worker")

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "study"
        self.processes: list[Started | subprocess.Popen[bytes]] = []

    def start(self, content=GRID, options=(), program=False):
        """Start a worker; as ``pocket`` is started, and starts its trainings, where ``program`` is true."""
        file = self.home / "grid.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        environment = {**os.environ, "STAND_IN": str(self.home)}
        command = ["sweep", str(file), f"--output={self.folder}", *options]
        with (self.home / "output").open("ab") as output:
            if program:
                environment["STAND_IN_PROGRAM"] = "1"
                real = [sys.executable, sweep_stand_in.__file__, *command]
                process = subprocess.Popen(real, env=environment, stdout=output, stderr=output)
            else:
                process = Started("sweep_stand_in:main", command, None, output, output, environment, self.imports)
        self.processes.append(process)
        return process

    def log(self):
        """Return the lines of the log: what happened, and the process that did it."""
        file = self.home / "log"
        return (
            [line.rpartition(" ")[::2] for line in file.read_text(encoding="utf-8").splitlines()]
            if file.is_file()
            else []
        )

    def count(self, event):
        return Counter(what.split("/")[-1] for what, _ in self.log() if what.startswith(event))

    def wait_for(self, condition, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.home / "output").read_text(encoding="utf-8")
            time.sleep(0.05)

    def outcomes(self):
        study, _ = open_study(self.folder, None)
        return outcomes(study)


@pytest.fixture
def workers(tmp_path):
    made = Workers(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_workers_take_every_point_exactly_once(workers):
    (workers.home / "seconds").write_text("0.2")
    both = [workers.start(options=["--jobs=2"]), workers.start()]
    assert [process.wait(120) for process in both] == [0, 0], (workers.home / "output").read_text(encoding="utf-8")
    assert workers.count("trained") == {f"{slot:03d}": 1 for slot in range(8)}
    trained = {outcome.slot: outcome.values for outcome in workers.outcomes()}
    expected = [x + y for x in (0.1, 0.2, 0.3, 0.4) for y in (0.0, 0.5)]
    assert [trained[slot][0] for slot in range(8)] == pytest.approx(expected)
    leases = {outcome.trial.user_attrs["lease"]["pid"] for outcome in workers.outcomes()}
    assert leases == {process.pid for process in both}, "both have worked"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_worker_s_trial_is_retried_and_its_training_does_not_run_on(workers):
    (workers.home / "seconds").write_text("60")
    content = GRID | {"trials": 3}
    killed = workers.start(content, program=True)
    workers.wait_for(lambda: len(workers.log()) == 1)
    training = int(workers.log()[0][1])
    other = workers.start(content, program=True)
    workers.wait_for(lambda: len(workers.log()) == 2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    workers.wait_for(lambda: not is_alive(training))
    (workers.home / "seconds").unlink()
    assert other.wait(120) == 0, (workers.home / "output").read_text(encoding="utf-8")
    assert workers.count("fit") == {f"{slot:03d}": 1 + (slot == 0) for slot in range(3)}
    assert workers.count("trained") == {f"{slot:03d}": 1 for slot in range(3)}
    outcomes = workers.outcomes()
    assert [outcome.state for outcome in outcomes] == ["done"] * 3
    assert outcomes[0].trial.number == 3, "a trial of its own in the storage, in the same folder"
    assert outcomes[0].trial.user_attrs["run"] == "trials/000"


def test_an_interrupted_study_goes_on_where_it_stopped(workers):
    (workers.home / "seconds").write_text("60")
    first = workers.start(options=["--jobs=2"])
    workers.wait_for(lambda: len(workers.log()) == 2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(120) == 130
    assert [outcome.state for outcome in workers.outcomes()] == ["waiting"] * 8
    (workers.home / "seconds").unlink()
    assert workers.start().wait(120) == 0
    assert workers.count("trained") == {f"{slot:03d}": 1 for slot in range(8)}


def test_a_worker_that_writes_nothing_any_more_is_taken_for_dead():
    own, other = Leases(grace_s=100), Leases(grace_s=100)
    lease = other.new() | {"pid": os.getppid()}
    assert not own.has_ended(lease, None), "the process lives"
    elsewhere = lease | {"machine": "another"}
    assert not own.has_ended(elsewhere, None)
    old = elsewhere | {"time": "2020-01-01T00:00:00+00:00"}
    assert own.has_ended(old, None)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert own.has_ended(lease | {"pid": int(ended.stdout)}, None)


def test_a_lease_of_an_earlier_process_with_this_number_has_ended():
    earlier = Leases().new()  # the process id is that of this process, the worker another
    assert Leases().has_ended(earlier, None)


def test_a_torn_line_of_a_killed_writer_is_removed(tmp_path):
    storage = open_storage(None, tmp_path, 100)
    optuna.create_study(study_name="a", storage=storage)
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole + b'{"op_code": 4, "wor')
    storage = open_storage(None, tmp_path, 100)
    optuna.create_study(study_name="b", storage=storage)
    lines = (tmp_path / JOURNAL).read_text(encoding="utf-8").splitlines()
    assert lines[: len(whole.splitlines())] == whole.decode().splitlines(), "nothing that was whole is lost"
    assert len(lines) > len(whole.splitlines())
    assert all(json.loads(line) for line in lines)
    assert {summary.study_name for summary in optuna.get_all_study_summaries(storage)} == {"a", "b"}


def test_points_that_two_processes_let_wait_are_run_once(workers):
    """Without a shared folder the lock around the making of a study is not shared either."""
    (workers.home / "seconds").write_text("60")
    first = workers.start()
    workers.wait_for(lambda: len(workers.log()) == 1)
    study, _ = open_study(workers.folder, None)
    for slot in (0, 3):
        study.study.enqueue_trial(dict(study.points[slot]), user_attrs={"slot": slot})
    (workers.home / "seconds").unlink()
    assert first.wait(120) == 0
    assert workers.count("trained") == {f"{slot:03d}": 1 for slot in range(8)}
    assert [outcome.state for outcome in workers.outcomes()] == ["done"] * 8
    assert [trial.user_attrs.get("ended") for trial in study.trials()] == [None] * 8 + ["double"] * 2


def test_a_trial_that_ends_its_workers_is_given_up(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(GRID | {"trials": 1}))
    study = SweepStudy(read_sweep(file), "one", tmp_path, open_storage(None, tmp_path, 100), 100)
    study.begin({}, {}, [""] * 8)
    attempts = 0
    while (claimed := Claims(study).claim()) is not None:
        attempts += 1
        silent = {"time": "2020-01-01T00:00:00+00:00"}
        study.storage.set_trial_user_attr(study.identifier(claimed.number), "lease", silent)
        assert (tally(study).running, tally(study).ended) == (0, 0)
        study.refill()
    assert attempts == 4
    assert tally(study).is_over
    assert tally(study).failed == 1
    study.refill(retry_failed=True)
    assert Claims(study).claim() is not None


def test_only_one_process_at_a_time_makes_a_study(workers):
    workers.folder.mkdir()
    lock = FileLock(workers.folder / ".study.lock")
    assert lock.acquire()
    process = workers.start()
    time.sleep(3)
    assert not workers.log(), "it waits"
    lock.release()
    assert process.wait(120) == 0


def text_of(workers):
    return (workers.home / "output").read_text(encoding="utf-8")


def test_the_trial_of_a_silent_worker_that_lives_is_neither_lost_nor_trained_twice(workers):
    (workers.home / "seconds").write_text("60")
    content, options = GRID | {"trials": 1}, ["--grace=2"]
    silent = workers.start(content, options)
    workers.wait_for(lambda: len(workers.log()) == 1)
    silent.send_signal(signal.SIGSTOP)
    other = workers.start(content, options)
    workers.wait_for(lambda: "still trains in its folder" in text_of(workers))
    (workers.home / "seconds").unlink()
    assert other.wait(120) == 0, text_of(workers)
    silent.send_signal(signal.SIGCONT)
    assert silent.wait(120) == 0, text_of(workers)
    assert text_of(workers).count(" pocket test ") == 1
    assert workers.count("fit") == workers.count("trained") == {"000": 1}
    assert [outcome.state for outcome in workers.outcomes()] == ["done"]
    assert "was taken over by another worker" in text_of(workers)
    assert "taken over from a worker that was lost (1 of" in text_of(workers)


def test_a_worker_goes_on_with_others_while_it_waits_for_a_trial_that_is_the_same(workers):
    (workers.home / "seconds").write_text("60")
    same = {"type": "categorical", "choices": [1, 2]}
    content = GRID | {"space": {"x": {"type": "categorical", "choices": [0.1, 0.2]}, "z": same}}
    both = [workers.start(content)]
    workers.wait_for(lambda: workers.count("fit") == {"000": 1})
    both.append(workers.start(content))
    workers.wait_for(lambda: workers.count("fit") == {"000": 1, "002": 1})
    (workers.home / "seconds").unlink()
    assert [process.wait(120) for process in both] == [0, 0], text_of(workers)
    assert workers.count("trained") == {"000": 1, "002": 1}
    assert [outcome.same_as for outcome in workers.outcomes()] == [None, 0, None, 2]


def test_two_workers_that_look_at_the_same_moment_train_one_of_two_that_are_the_same(stand_in, monkeypatch):
    """The second trial looks for its like just before the first one says what it comes to, and begins just after."""
    (stand_in / "seconds").write_text("60")
    same = {"type": "categorical", "choices": [1, 2]}
    file = stand_in / "grid.yaml"
    file.write_text(yaml.safe_dump(GRID | {"space": {"x": {"type": "categorical", "choices": [0.1]}, "z": same}}))
    sweep, workers = read_sweep(file), []
    for _ in range(2):
        made = SweepStudy(sweep, "study", stand_in, open_storage(None, stand_in, 100), 100)
        made.begin({}, sweep_stand_in.SETTINGS, ["same", "same"])
        progress = JobProgress([], None)
        workers.append(Worker(made, (), [{}], progress, lambda _: ("same", "")))
    first, second = workers
    first._take_next()
    looks, look = [], find_twin

    def look_and_be_overtaken(*arguments):
        result = look(*arguments)
        looks.append(result)
        if len(looks) == 1:
            first._look_after(first._works[0])
        return result

    monkeypatch.setattr("lightning_pocket.sweeps.worker.find_twin", look_and_be_overtaken)
    second._take_next()
    try:
        second._look_after(second._works[0])
        begun = [work.claimed.slot for worker in workers for work in worker._works if work.running]
    finally:
        RunningJob.stop([work.running for worker in workers for work in worker._works if work.running])
    assert looks[0] is None
    assert begun == [0]


@pytest.fixture
def study(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(GRID | {"trials": 1}))
    made = SweepStudy(read_sweep(file), "one", tmp_path, open_storage(None, tmp_path, 100), 100)
    made.begin({}, {}, [""] * 8)
    return made


def test_a_trial_that_was_interrupted_waits_again_however_often_workers_were_lost(study):
    for _ in range(MOST_LOST):
        claimed = Claims(study).claim()
        silent = {"time": "2020-01-01T00:00:00+00:00"}
        study.storage.set_trial_user_attr(study.identifier(claimed.number), "lease", silent)
        study.refill()
    claims = Claims(study)
    for _ in range(2):
        claims.give_back(claims.claim())
        study.refill()
    claimed = claims.claim()
    assert claimed is not None
    assert claimed.trial.user_attrs["lost"] == MOST_LOST
    assert not tally(study).is_over


def test_a_trial_whose_point_cannot_be_drawn_waits_again_and_does_not_count_as_lost(study, monkeypatch):
    claims = Claims(study)
    with monkeypatch.context() as patch:
        patch.setattr(type(study.sweep.space), "suggest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            claims.claim()
    claims.give_back_astray()
    study.refill()
    assert claims.claim().trial.user_attrs.get("lost", 0) == 0


def test_a_lease_is_renewed_by_its_worker_alone(study):
    claims = Claims(study)
    claimed = claims.claim()
    assert claims.renew(claimed)
    other = Claims(SweepStudy(study.sweep, study.name, study.folder, open_storage(None, study.folder, 100), 100))
    assert not other.renew(claimed)
    study.storage.set_trial_user_attr(study.identifier(claimed.number), "ended", "lost")
    study.storage.set_trial_state_values(study.identifier(claimed.number), optuna.trial.TrialState.FAIL)
    assert not claims.renew(claimed)
    assert not claims.complete(claimed, [1.0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_waits_until_a_trial_has_changed_hands(number):
    interrupts, done = Interrupts(), []

    def take(signals):
        with interrupts.held():
            for _ in range(signals):
                os.kill(os.getpid(), number)
            done.append(signals)

    before = signal.getsignal(number)
    with interrupts.watched():
        for signals in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                take(signals)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        take(0)
    assert done == [1, 0], "a second one is not put off"
    assert signal.getsignal(number) is before


def test_a_trial_of_a_process_that_is_gone_is_not_shown_as_running(study):
    claimed = Claims(study).claim()
    assert [outcome.state for outcome in outcomes(study)] == ["running"]
    assert tally(study).running == 1
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    lease = study.leases.new() | {"worker": "another", "pid": int(ended.stdout)}
    study.storage.set_trial_user_attr(study.identifier(claimed.number), "lease", lease)
    (outcome,) = outcomes(study)
    assert (outcome.state, outcome.remark) == ("interrupted", f"process {lease['pid']} on {lease['host']} is gone")
    assert (tally(study).running, tally(study).ended) == (0, 0)


def test_commands_that_repeat_a_trial_have_no_word_of_a_pruner(study):
    pruner = Pruner("median")
    runs = TrialRuns(replace(study.sweep, pruner=pruner), study.folder, 0, {"x": 0.1, "y": 0.5})
    (begun, *_), (shown, *_) = runs.commands(), runs.commands(everything=True)
    assert f"--trainer.callbacks.folder={runs.pruning}" in begun
    assert [option for option in begun if "trainer.callbacks" not in option] == shown
