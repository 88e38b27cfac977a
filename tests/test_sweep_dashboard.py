"""The dashboard of a study: its page in a browser, what is attached to trials, and what it refuses."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import sweep_stand_in
import yaml
from command_server import CommandServer
from started import Started
from sweep_stand_in import GRID

pytest.importorskip(
    "optuna_dashboard", reason="optuna-dashboard is not installed: pip install 'lightning-pocket[sweep-dashboard]'"
)

from lightning_pocket.reports.pictures import write_png
from lightning_pocket.sweeps import dashboard
from lightning_pocket.sweeps.artifacts import Attachments, pictures_of
from lightning_pocket.sweeps.claims import Claims
from lightning_pocket.sweeps.outcome import outcomes
from lightning_pocket.sweeps.read import read_sweep
from lightning_pocket.sweeps.start import Request, open_study
from lightning_pocket.sweeps.study_storage import JOURNAL

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TEXT = {"source": "A paper, Table 2", "notes": ["The numbers are made up."]}
OPTIONS = {"headless", "no-sandbox", "disable-gpu", "no-first-run", "virtual-time-budget=15000", "dump-dom"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POCKET_SWEEP_STORAGE", raising=False)
    monkeypatch.setattr("lightning_pocket.sweeps.start.resolve", sweep_stand_in.resolve)


@pytest.fixture
def study(tmp_path):
    """A study of eight trials whose first three have ended, with pictures that differ."""
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID | TEXT), encoding="utf-8")
    request = Request(tmp_path / "grid.yaml", read_sweep(tmp_path / "grid.yaml"), tmp_path / "study", ())
    made = request.begin()
    for _ in range(3):
        finish(made)
    return made


def finish(study):
    """End the next trial of a study as a worker does, with a picture."""
    claims = Claims(study)
    claimed = claims.claim()
    run = f"trials/{claimed.slot:03d}"
    commands = [["pocket", "fit", "--config=a b", f"--run_dir=study/{run}"], ["pocket", "test", f"--run_dir={run}"]]
    claims.note(claimed, run=run, commands=commands)
    write_png(study.folder / run / "test" / "pictures" / "case_1.png", picture(claimed.slot))
    claims.complete(claimed, [sum(claimed.point.values())])


def picture(number):
    return np.full((20, 30, 3), 10 * number, dtype=np.uint8)


def attached(study):
    """Return the attached files as the storage holds them: of which trial, by which name, with which content."""
    known = study.storage.get_study_system_attrs(0)
    found = {}
    for key, value in known.items():
        if "artifacts:" in key and json.loads(value):
            described = json.loads(value)
            owner = key.split(":")[2] if key.startswith("dashboard:") else None
            found[owner, described["filename"]] = (study.folder / "artifacts" / described["artifact_id"]).read_bytes()
    return found


def note_of(study, trial=None):
    from optuna_dashboard._note import get_note_from_system_attrs

    return get_note_from_system_attrs(study.storage.get_study_system_attrs(0), trial)


class Server(CommandServer):
    """`pocket sweep dashboard` of the study in this folder."""

    def __init__(self, *options, environment=None):
        super().__init__("sweep", "dashboard", "study", *options, environment=environment)
        self.address = re.search(r"http://\S+", self.said)[0]
        self.root = self.address.partition("/dashboard")[0]

    def get(self, path):
        with urllib.request.urlopen(self.root + path, timeout=10) as answer:
            return answer.read()

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(10), self.process.stdout.read().decode()


def visit(address, folder):
    """Return the page as headless Chromium has it when all is loaded, and what it was made to ask for."""
    log = folder / "network.json"
    arguments = [f"--{option}" for option in (*OPTIONS, f"user-data-dir={folder / 'profile'}", f"log-net-log={log}")]
    arguments += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", address]
    result = subprocess.run([CHROMIUM, *arguments], capture_output=True, encoding="utf-8", timeout=60, check=True)
    events = json.loads(log.read_text(encoding="utf-8"))
    begins = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event["params"] for event in events["events"] if event["type"] == begins and "params" in event]
    # Without an origin are those of the browser itself, which have no name server here.
    return result.stdout, [entry["url"] for entry in begun if str(entry.get("initiator")).startswith("http")]


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_shows_a_trial_with_its_picture_and_its_commands(study, tmp_path):
    with Server("--no_open") as server:
        page, asked = visit(f"{server.address}/trials?numbers=2", tmp_path / "browser")
        shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
        assert "Trial 2 (trial_id=2)" in shown
        assert "Complete" in shown
        assert "x 0.2" in shown
        assert "pocket fit" in shown, "the note"
        assert "case_1.png" in shown
        (source,) = re.findall(r'<img[^>]*src="([^"]*/artifacts/[^"]*)"', page)
        assert server.get(source) == (study.folder / "trials/002/test/pictures/case_1.png").read_bytes()
        assert f"{server.root}{source}" in asked
        assert f"{server.root}/static/bundle.js" in asked
        assert {urlsplit(url).netloc for url in asked} == {urlsplit(server.root).netloc}


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="looks for sockets and processes in /proc")
@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_listens_on_loopback_alone_and_ends_with_nothing_left(number):
    with Server("--no_open") as server:
        studies = json.loads(server.get("/api/studies"))["study_summaries"]
        assert [entry["study_name"] for entry in studies] == ["study"]
        port = urlsplit(server.root).port
        lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]]
        listening = [words[1] for words in lines if words[3] == "0A" and words[1].endswith(f":{port:04X}")]
        assert listening == [f"0100007F:{port:04X}"]
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text(encoding="utf-8")
        assert children == "", "nothing else was started"
        assert server.stop(number) == (0, "")
        with pytest.raises(urllib.error.URLError):
            server.get("/api/studies")


@pytest.mark.usefixtures("study")
def test_a_free_port_where_the_usual_one_is_taken(fails):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = fails(["sweep", "dashboard", "study", "--no_open", f"--port={port}"])
        assert f"--port {port}: cannot be listened on (Address already in use)" in line
        with dashboard._listen(None) as first, dashboard._listen(None) as second:
            assert first.server_port != second.server_port
            assert {first.server_address[0], second.server_address[0]} == {"127.0.0.1"}
    assert "--port 70000" in fails(["sweep", "dashboard", "study", "--no_open", "--port=70000"])


@pytest.mark.usefixtures("study")
def test_the_browser_of_the_desktop_is_shown_the_address(tmp_path):
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" >> opened\n')
    browser.chmod(0o755)
    with Server(environment={"BROWSER": f"{browser} %s"}) as server:
        deadline = time.monotonic() + 10
        while not Path("opened").is_file() or not Path("opened").read_text(encoding="utf-8").endswith("\n"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert Path("opened").read_text(encoding="utf-8") == f"{server.address}\n"


def test_everything_is_attached_once_and_trials_stay_as_they_are(study):
    (study.folder / "figures").mkdir()
    (study.folder / "figures" / "history.svg").write_text("<svg/>")
    before = study.trials()
    attachments = Attachments(study, 8)
    assert attachments.refresh() == 4
    pictures = {
        (str(slot), "case_1.png"): Path(f"study/trials/{slot:03d}/test/pictures/case_1.png").read_bytes()
        for slot in range(3)
    }
    assert attached(study) == pictures | {(None, "history.svg"): b"<svg/>"}
    assert study.trials() == before
    again, _ = open_study(study.folder, None)
    size = (study.folder / JOURNAL).stat().st_size
    assert Attachments(again, 8).refresh() == 4
    assert (study.folder / JOURNAL).stat().st_size == size, "nothing is written twice"

    finish(study)
    (study.folder / "figures" / "history.svg").write_text("<svg>later</svg>")
    assert attachments.refresh() == 5
    found = attached(study)
    assert found["3", "case_1.png"] == Path("study/trials/003/test/pictures/case_1.png").read_bytes()
    assert found[None, "history.svg"] == b"<svg>later</svg>"
    assert len(list((study.folder / "artifacts").iterdir())) == len(found) == 5


def test_what_readers_do_to_notes_and_files_is_kept(study):
    from optuna_dashboard._note import save_note_with_version

    Attachments(study, 8).refresh()
    assert note_of(study)["body"].startswith("# Grid\n\nA paper, Table 2\n\n- The numbers are made up.")
    assert note_of(study, 1)["body"] == (
        "Trial 1: x=0.1, y=0.5\n\n```bash\npocket fit '--config=a b' --run_dir=study/trials/001\n"
        "pocket test --run_dir=trials/001\n```"
    )
    assert note_of(study, 5)["body"] == "", "it waits"
    save_note_with_version(study.storage, 0, 1, 2, "mine")
    (key,) = (key for key in study.storage.get_study_system_attrs(0) if key.startswith("dashboard:artifacts:1:"))
    study.storage.set_study_system_attr(0, key, "null")
    assert Attachments(study, 8).refresh() == 2
    assert note_of(study, 1)["body"] == "mine"
    assert set(attached(study)) == {("0", "case_1.png"), ("2", "case_1.png")}


def test_a_failed_trial_s_note_says_why(study):
    claims = Claims(study)
    claims.fail(claims.claim(), "the loss is not finite")
    Attachments(study, 8).refresh()
    assert note_of(study, 3)["body"] == "Trial 3: x=0.2, y=0.5\n\nthe loss is not finite"


def test_pictures_of_a_run_are_those_of_its_test_or_of_the_last_validation(tmp_path):
    for name in ("epoch_0010_a.png", "epoch_0020_a.png", "epoch_0020_b.png"):
        write_png(tmp_path / "pictures" / name, picture(1))
    assert [file.name for file in pictures_of(tmp_path, 8)] == ["epoch_0020_a.png", "epoch_0020_b.png"]
    assert [file.name for file in pictures_of(tmp_path, 1)] == ["epoch_0020_a.png"]
    for name in ("b.png", "a.png"):
        write_png(tmp_path / "test" / "pictures" / name, picture(1))
    (tmp_path / "test" / "roc.svg").write_text("<svg/>")
    assert [file.name for file in pictures_of(tmp_path, 2)] == ["roc.svg", "a.png"]
    assert pictures_of(tmp_path / "nothing", 8) == []


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/api/studies", "127.0.0.1:8080", "200 OK"),
        ("GET", "/api/studies", "localhost:9000", "200 OK"),
        ("PUT", "/api/studies/0/3/note", "localhost", "200 OK"),
        ("GET", "/api/studies", "elsewhere.org:8080", "403 Forbidden"),
        ("GET", "/api/studies", "127.0.0.1.elsewhere.org", "403 Forbidden"),
        ("DELETE", "/api/studies/0", "127.0.0.1:8080", "403 Forbidden"),
        ("POST", "/api/trials/3/tell", "127.0.0.1:8080", "403 Forbidden"),
    ],
)
def test_other_pages_and_changes_are_refused(method, path, host, status):
    def app(_, start_response):
        start_response("200 OK", [("Access-Control-Allow-Origin", "*"), ("Content-Type", "image/png")])
        return [b"private"]

    answers = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": host}
    body = b"".join(dashboard.guarded(app)(environ, lambda *answer: answers.append(answer)))
    ((said, headers),) = answers
    assert said == status
    assert (body == b"private") == (status == "200 OK")
    assert "Access-Control-Allow-Origin" not in dict(headers)


def test_a_study_of_somebody_else_is_shown_without_pictures(study, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    said = []
    monkeypatch.setattr(Attachments, "refresh", refuse)
    monkeypatch.setattr(dashboard._Server, "serve_forever", lambda _: None)
    dashboard.serve(study, None, 8, said.append)
    assert said[0] == f"No pictures or notes: {study.folder} cannot be written (Permission denied)."
    assert said[1].startswith("http://127.0.0.1:")


@pytest.mark.usefixtures("study")
def test_what_is_missing_is_one_line(fails, monkeypatch):
    assert "no study here" in fails(["sweep", "dashboard", "nothing", "--no_open"])
    assert "--pictures -1: expected 0 or more" in fails(["sweep", "dashboard", "study", "--pictures=-1"])
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    line = fails(["sweep", "dashboard", "study", "--no_open"])
    assert "optuna-dashboard is not installed: pip install 'lightning-pocket[sweep-dashboard]'" in line


@pytest.mark.e2e
def test_a_worker_is_not_disturbed(tmp_path):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID | {"trials": 4}), encoding="utf-8")
    command = ["sweep", "grid.yaml", "--output=study", "--jobs=2"]
    rounds = 0
    worker = Started("sweep_stand_in:main", command, env=os.environ | {"STAND_IN": str(tmp_path)})
    while worker.poll() is None:
        if Path("study/study.json").is_file():
            Attachments(open_study(Path("study"), None)[0], 8).refresh()
            rounds += 1
        time.sleep(0.01)
    assert worker.returncode == 0
    assert rounds > 5
    study, _ = open_study(Path("study"), None)
    assert [outcome.state for outcome in outcomes(study)] == ["done"] * 4
    trained = [
        line.split()[1] for line in Path("log").read_text(encoding="utf-8").splitlines() if line.startswith("trained")
    ]
    assert sorted(trained) == [f"trials/{slot:03d}" for slot in range(4)]
    Attachments(study, 8).refresh()
    assert "pocket fit" in note_of(study, 3)["body"]
