"""Several processes on one study in a real PostgreSQL server, and where its password is not."""

import contextlib
import json
import os
import re
import signal
import threading
from pathlib import Path

import postgresql_server
import pytest
import sweep_stand_in
import yaml
from started import tied
from sweep_stand_in import GRID
from test_sweep_workers import Workers, is_alive

from lightning_pocket.errors import PocketError
from lightning_pocket.sweeps.outcome import outcomes
from lightning_pocket.sweeps.start import open_study
from lightning_pocket.sweeps.study_storage import open_storage, unreachable_is_one_line

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(postgresql_server.obstacle()), reason=postgresql_server.obstacle() or "none"),
]


class DatabaseWorkers(Workers):
    """Processes whose study is in a database; its URL is in the environment of this process."""

    imports = (*Workers.imports, "psycopg", "optuna.storages._rdb.storage", "sqlalchemy.dialects.postgresql.psycopg")

    def study(self):
        return open_study(self.folder, os.environ["POCKET_SWEEP_STORAGE"])[0]

    def outcomes(self):
        return outcomes(self.study())


@pytest.fixture(scope="module")
def server():
    with postgresql_server.running() as made:
        yield made


@pytest.fixture
def workers(server, tmp_path, request, monkeypatch):
    name = re.sub(r"\W+", "_", request.node.name)[:40]
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", server.make(name))
    monkeypatch.setenv("PGPASSWORD", server.password)
    made = DatabaseWorkers(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def environment(process):
    return Path(f"/proc/{process}/environ").read_bytes()


def command_lines():
    """Return the command lines of all processes, as ``ps`` shows them to everybody."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes())
        except OSError:  # it has just ended
            continue
    return b"\n".join(found)


def test_two_workers_take_every_point_exactly_once(workers, server):
    (workers.home / "seconds").write_text("0.2")
    space = GRID["space"] | {"x": {"type": "categorical", "choices": [0.1, 0.2, 0.3]}}
    content = GRID | {"space": space}
    both = [workers.start(content), workers.start(content)]  # at the same moment, on a database without tables
    assert [process.wait(120) for process in both] == [0, 0], (workers.home / "output").read_text(encoding="utf-8")
    assert workers.count("trained") == {f"{slot:03d}": 1 for slot in range(6)}
    trained = {outcome.slot: outcome.values for outcome in workers.outcomes()}
    expected = [x + y for x in (0.1, 0.2, 0.3) for y in (0.0, 0.5)]
    assert [trained[slot][0] for slot in range(6)] == pytest.approx(expected)
    assert len(workers.study().trials()) == 6
    leases = {outcome.trial.user_attrs["lease"]["pid"] for outcome in workers.outcomes()}
    assert leases == {process.pid for process in both}, "both have worked"
    files = [path for path in workers.home.rglob("*") if path.is_file()]
    assert {"study.json", "003.log", "config.yaml", "output"} <= {path.name for path in files}
    assert not [path for path in files if server.password.encode() in path.read_bytes()]
    assert "://pocket:***@127.0.0.1" in (workers.folder / "study.json").read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_worker_s_trial_is_retried_and_no_training_knows_the_password(workers, server):
    (workers.home / "seconds").write_text("60")
    content = GRID | {"trials": 4}
    killed = workers.start(content, program=True)
    workers.wait_for(lambda: len(workers.log()) == 1)
    training = int(workers.log()[0][1])
    other = workers.start(content, program=True)
    workers.wait_for(lambda: len(workers.log()) == 2)
    secret = server.password.encode()
    assert secret in environment(killed.pid), "a worker needs it"
    assert not [process for _, process in workers.log() if secret in environment(process)]
    assert secret not in command_lines()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    workers.wait_for(lambda: not is_alive(training))
    (workers.home / "seconds").unlink()
    assert other.wait(120) == 0, (workers.home / "output").read_text(encoding="utf-8")
    assert workers.count("fit") == {f"{slot:03d}": 1 + (slot == 0) for slot in range(4)}
    assert workers.count("trained") == {f"{slot:03d}": 1 for slot in range(4)}
    found = workers.outcomes()
    assert [outcome.state for outcome in found] == ["done"] * 4
    assert found[0].trial.number == 4, "a trial of its own in the storage"
    assert found[0].trial.user_attrs["run"] == "trials/000"


def text_of(workers):
    return (workers.home / "output").read_text(encoding="utf-8")


@contextlib.contextmanager
def away(server, name):
    """Make a database refuse everybody, and end the connections that it has."""
    import psycopg

    where = {"host": "127.0.0.1", "port": server.port, "user": postgresql_server.USER, "password": server.password}
    with psycopg.connect(**where, dbname="postgres", autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
        yield connection.execute(ends, [name]).fetchone()[0]
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def test_trainings_outlive_a_database_that_is_away_for_a_while(workers, server):
    (workers.home / "seconds").write_text("60")
    worker = workers.start(GRID | {"trials": 2}, ["--grace=30"])
    workers.wait_for(lambda: workers.count("fit") == {"000": 1})
    name = os.environ["POCKET_SWEEP_STORAGE"].rpartition("/")[2]
    with away(server, name) as ended:
        assert ended, "the worker was connected"
        (workers.home / "seconds").unlink()
        workers.wait_for(lambda: "does not answer" in text_of(workers))
        workers.wait_for(lambda: workers.count("trained") == {"000": 1})
    assert worker.wait(120) == 0, text_of(workers)
    assert "answers again" in text_of(workers)
    assert workers.count("trained") == {"000": 1, "001": 1}
    assert [outcome.state for outcome in workers.outcomes()] == ["done"] * 2
    assert len(workers.study().trials()) == 2, "none was begun again"


def test_a_database_that_stays_away_ends_a_worker_with_one_line(workers, server):
    (workers.home / "seconds").write_text("60")
    worker = workers.start(GRID | {"trials": 2}, ["--grace=2"])
    workers.wait_for(lambda: workers.count("fit") == {"000": 1})
    with away(server, os.environ["POCKET_SWEEP_STORAGE"].rpartition("/")[2]):
        assert worker.wait(120) == 1
    assert "Traceback" not in text_of(workers)
    (line,) = [line for line in text_of(workers).splitlines() if line.startswith("pocket: error: ")]
    assert "has not answered for 2 s" in line
    assert server.password not in text_of(workers)


@contextlib.contextmanager
def hanging(server, name):
    """Let the processes of a server that serve a database answer nothing, and keep their connections."""
    import psycopg

    where = {"host": "127.0.0.1", "port": server.port, "user": postgresql_server.USER, "password": server.password}
    with psycopg.connect(**where, dbname="postgres", autocommit=True) as connection:
        asked = "SELECT pid FROM pg_stat_activity WHERE datname = %s"
        processes = [process for (process,) in connection.execute(asked, [name]).fetchall()]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield len(processes)
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def test_a_database_that_hangs_is_one_line_and_then_another_connection_is_made(workers, server, monkeypatch):
    monkeypatch.setattr("lightning_pocket.sweeps.database_options.ANSWER_S", 0.5)
    url = os.environ["POCKET_SWEEP_STORAGE"]
    storage = open_storage(url, workers.folder, 100)
    assert storage.get_all_studies() == []
    with hanging(server, url.rpartition("/")[2]) as stopped:
        assert stopped, "it was connected"
        # The connection that is asked first whether it is alive is replaced: the server itself takes new ones.
        assert storage.get_all_studies() == []
    engine = storage.engine
    said = re.escape("does not answer (the server has not answered for 0.5 s)")
    with pytest.raises(PocketError, match=said), unreachable_is_one_line(), engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(30)")
    assert storage.get_all_studies() == []


def test_workers_wait_for_the_one_that_makes_the_tables_but_not_for_ever(workers, monkeypatch):
    """As long as that takes, even where the server says nothing for longer than a server may be silent."""
    import psycopg

    monkeypatch.setattr("lightning_pocket.sweeps.database_options.ANSWER_S", 0.5)
    url = os.environ["POCKET_SWEEP_STORAGE"]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(7061774)")
        with monkeypatch.context() as patch:
            patch.setattr("lightning_pocket.sweeps.study_storage._TABLES_S", 1.0)
            with pytest.raises(PocketError, match="another worker has been making its tables for 1 s"):
                open_storage(url, workers.folder, 100)
        ends = threading.Timer(1.5, lambda: connection.execute("SELECT pg_advisory_unlock(7061774)"))
        ends.start()
        assert open_storage(url, workers.folder, 100).get_all_studies() == []
        ends.join()


@pytest.fixture
def in_this_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setattr("lightning_pocket.studies.jobs.start_tied", tied("sweep_stand_in:main"))
    monkeypatch.setattr("lightning_pocket.sweeps.start.resolve", sweep_stand_in.resolve)
    Path("grid.yaml").write_text(yaml.safe_dump(GRID), encoding="utf-8")


@pytest.mark.usefixtures("in_this_process")
def test_what_keeps_a_worker_from_the_database_is_one_line_without_the_password(server, fails, monkeypatch):
    wrong = "wr0ng-secret"
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", server.url("postgres", wrong))
    line = fails(["sweep", "grid.yaml"])
    assert "cannot be reached" in line
    assert "password authentication failed" in line
    assert "://pocket:***@127.0.0.1" in line
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", server.url("nothing", None))
    lines = [line, fails(["sweep", "grid.yaml"])]
    assert 'database "nothing" does not exist' in lines[1]
    closed = server.url("postgres", wrong).replace(f":{server.port}/", f":{postgresql_server.free_port()}/")
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", closed)
    lines.append(fails(["sweep", "grid.yaml"]))
    assert "onnection refused" in lines[2]
    for line in lines:
        assert len(line.splitlines()) == 1
        assert wrong not in line
        assert server.password not in line
    assert not Path("runs").exists()
    assert not Path("log").exists(), "nothing was trained"


def test_the_dashboard_shows_a_study_of_the_database_and_no_password(workers, server):
    dashboard = pytest.importorskip("optuna_dashboard")
    from lightning_pocket.sweeps.artifacts import Attachments

    assert workers.start(GRID | {"trials": 1}).wait(120) == 0, (workers.home / "output").read_text(encoding="utf-8")
    picture = workers.folder / "trials/000/test/pictures/case.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"picture")
    study = workers.study()
    assert Attachments(study, 8).refresh() == Attachments(study, 8).refresh() > 0
    app = dashboard.wsgi(study.storage)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/1", "HTTP_HOST": "127.0.0.1"}
    page = b"".join(app(environ, lambda *_: None)).decode()
    (trial,) = json.loads(page)["trials"]
    assert [artifact["filename"] for artifact in trial["artifacts"]] == ["case.png"]
    assert "pocket fit" in trial["note"]["body"]
    assert server.password not in page
