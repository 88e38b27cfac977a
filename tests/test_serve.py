"""`pocket serve`: what its pages show, and what the server refuses."""

import html
import json
import os
import re
import signal
import socket
import time
from urllib.parse import quote

import pytest

pytest.importorskip("starlette", reason="needs starlette: pip install 'lightning-pocket[serve]'")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'lightning-pocket[serve]'")

from served_results import DEAD, HOSTILE, SECRET, Server, hold, log, make_results, rows_of, write_run

from lightning_pocket.cli import main
from lightning_pocket.serving import server
from lightning_pocket.serving.folder import ServedFolder
from lightning_pocket.serving.runs import state_of
from lightning_pocket.storage import write_json


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory)


@pytest.fixture(scope="module")
def served(results):
    with Server(results) as started:
        yield started


def test_lists_what_there_is(served):
    page = served.get("/")
    rows = rows_of(page)
    assert sorted(rows) == sorted(["broken", "cv", "deep/pocket", "full", "going", "linked", HOSTILE])
    assert rows["full"][1:] == [
        "full", "finished", "2", "0.7500", "0.7000", "351,188", "n/a", "1.0", "run", "2026-01-02 03:04",
    ]  # fmt: skip
    assert {name: cells[2] for name, cells in rows.items()} == {
        "broken": "unreadable",
        "cv": "unreadable",
        "deep/pocket": "finished",
        "full": "finished",
        "going": "training",
        "linked": "finished",
        HOSTILE: "finished",
    }
    assert "7 runs: 1 training, 4 finished, 2 unreadable." in page
    assert 'href="/files/report.html"' in page
    assert 'href="/files/study/table.csv"' in page


def test_names_are_text_and_lead_to_their_runs(served):
    page = served.get("/")
    assert "<script>alert" not in page
    address = html.unescape(re.search(r'href="(/run/a%20[^"]*)"', page)[1])
    assert address == f"/run/{quote(HOSTILE)}"
    shown = served.get(address)
    assert f"<h1>{html.escape(HOSTILE)}</h1>" in shown
    assert "<script>alert" not in shown
    _, headers, _ = served.ask(html.unescape(re.search(r'<img src="([^"]*)"', shown)[1]))
    assert headers["content-type"] == "image/png"
    assert "<script>alert" not in served.get(f"/compare?run={quote(HOSTILE)}&run=full")
    assert "<script>alert" not in served.get(
        "/?filter=%3Cscript%3Ealert(1)%3C/script%3E&sort=%22%3E%3Cscript%3Ealert(1)"
    )


def test_filters_and_sorts(served):
    assert list(rows_of(served.get("/?filter=POCKET+deep"))) == ["deep/pocket"]
    assert set(rows_of(served.get("/?state=training"))) == {"going"}
    by_size = list(rows_of(served.get("/?sort=parameters&order=down")))
    assert by_size[:5] == ["full", "deep/pocket", "going", HOSTILE, "linked"]
    assert set(by_size[5:]) == {"broken", "cv"}  # what is not known comes last
    assert list(rows_of(served.get("/?sort=parameters&order=up")))[1:5] == [HOSTILE, "going", "deep/pocket", "full"]
    page = served.get("/?sort=tested&order=down&filter=f")
    assert re.search(r'aria-sort="descending"><a href="/\?filter=f&amp;sort=tested&amp;order=up">test</a>', page)


@pytest.mark.parametrize(
    "target",
    [
        "/files/../outside/secret.txt",
        "/files/..%2foutside/secret.txt",
        "/files/%2e%2e/outside/secret.txt",
        "/files/%2e%2e%2foutside%2fsecret.txt",
        "/files/%252e%252e/outside/secret.txt",
        "/files/..%5coutside%5csecret.txt",
        "/files/full/../../outside/secret.txt",
        "/files/study/./leads_out.txt",
        "/files/full/../report.html",
        "/files/./report.html",
        "/files//etc/passwd",
        "/files/%2fetc/passwd",
        "/files/leads_out/secret.txt",
        "/files/leads_out/run/manifest.json",
        "/files/study/leads_out.txt",
        "/files/.env",
        "/files/.hidden/secret.txt",
        "/files/%2eenv",
        "/files/to_hidden.txt",
        "/files/going/.lock",
        "/files/pipe.txt",
        "/files/full",
        "/files/full/",
        "/files/",
        "/files/full%00.txt",
        "/files/report.html/",
        "/files/" + "a" * 300,
        "/files/%ff%fe",
        "/run/../outside/run",
        "/run/leads_out/run",
        "/run/%2e%2e/outside/run",
        "/run/study",
        "/curves/leads_out/run",
        "/curves/..%2foutside%2frun",
        "/assets/..%2f..%2ferrors.py",
        "/assets/app.py",
        "/../../../etc/passwd",
        "http://127.0.0.1/files/../outside/secret.txt",
        "/etc/passwd",
    ],
)
def test_reads_nothing_outside_its_folder(served, target):
    status, _, body = served.ask(target)
    assert status == 404
    assert SECRET not in body
    assert "root:" not in body


def test_links_within_the_folder_are_followed(served):
    assert served.get("/files/within.csv") == "a,b\n1,2\n"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "127.0.0.2", "[::1]:80", "localhost.:1", ""]
)
@pytest.mark.parametrize("target", ["/", "/files/report.html", "/assets/serve.js"])
def test_refuses_hosts_that_are_not_this_machine(served, host, target):
    status, _, body = served.ask(target, host=host, version="1.1" if host else "1.0")
    assert status == 403
    assert len(body) < 100


def test_answers_to_both_names_of_this_machine(served):
    for host in ("localhost", f"localhost:{served.port}", "127.0.0.1"):
        assert served.ask("/", host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "MKCOL"])
def test_only_reads(served, results, method):
    before = sorted(results.rglob("*"))
    for target in ("/", "/files/report.html", "/nothing"):
        status, headers, _ = served.ask(target, method, headers=["Content-Length: 0"])
        assert status == 405
        assert headers["allow"] == "GET, HEAD"
    assert sorted(results.rglob("*")) == before


def test_heads_have_no_body(served):
    status, headers, body = served.ask("/files/report.html", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["content-length"]) > 1000


def test_other_pages_of_the_browser_read_nothing(served, results):
    script = results / "report_files" / "volumes_0123456789abcdef.js"
    script.parent.mkdir(exist_ok=True)
    script.write_text('pocketVolumes("0123456789abcdef", "");', encoding="utf-8")
    for site in ("cross-site", "same-site"):
        for target in ("/", "/files/report.html", "/files/report_files/other.js", "/curves/full"):
            fetched = served.ask(target, headers=[f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: no-cors"])
            assert fetched[0] == 403
        named = f"/files/report_files/{script.name}"
        status, headers, _ = served.ask(named, headers=[f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: no-cors"])
        assert (status, headers["cross-origin-resource-policy"]) == (200, "cross-origin")
        followed = served.ask("/", headers=[f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: navigate"])
        assert followed[0] == 200
    assert served.ask("/")[1]["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("report.html", "text/html; charset=utf-8"),
        ("study/table.csv", "text/csv; charset=utf-8"),
        ("study/data.json", "application/json"),
        ("full/test/pictures/case_0.png", "image/png"),
    ],
)
def test_files_have_their_types_and_no_rights(served, name, kind):
    status, headers, _ = served.ask(f"/files/{name}")
    assert (status, headers["content-type"]) == (200, kind)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in headers["content-security-policy"]


def test_own_pages_run_no_inline_scripts(served):
    for target in ("/", "/run/full", "/nothing"):
        _, headers, body = served.ask(target)
        assert "default-src 'none'; script-src 'self';" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert not re.search(r"<script>|\son\w+=|javascript:", body)


def test_compares_runs(served):
    page = served.get("/compare?run=deep/pocket&run=full")
    assert "deep/pocket and full compared" in page
    assert "Wilcoxon" in page
    assert "351,188" in page
    status, _, body = served.ask("/compare?run=full")
    assert (status, "Choose two or more runs" in body) == (400, True)
    assert served.ask("/compare?run=deep/pocket&run=../outside/run")[0] == 404
    status, _, body = served.ask("/compare?run=deep/pocket&run=broken")
    assert (status, "is not valid JSON" in body) == (400, True)
    going = served.get("/compare?run=deep/pocket&run=going")
    assert "going: training goes on" in going


def test_a_run_appears_and_its_curves_grow(served, results):
    assert "later" not in rows_of(served.get("/"))
    run = write_run(results / "later", 11, [], finished=False, epochs=1)
    hold(run, os.getpid())
    try:
        assert rows_of(served.get("/"))["later"][2:7] == ["training", "1", "0.7500", "n/a", "11"]
        assert served.get("/curves/later").count("validation, epoch") == 2
        log(run, 5)
        write_json(
            run / "manifest.json", json.loads((run / "manifest.json").read_text(encoding="utf-8")) | {"epochs": 4}
        )
        curves = served.get("/curves/later")
        assert curves.count("validation, epoch") == 5
        assert "epoch 5" in curves
        (run / ".lock").unlink()
        assert ">stopped<" in served.get("/curves/later")
        write_json(
            run / "manifest.json", json.loads((run / "manifest.json").read_text(encoding="utf-8")) | {"finished": True}
        )
        assert ">finished<" in served.get("/curves/later")
    finally:
        for file in (run / "metrics.csv", run / "manifest.json"):
            file.unlink()


def test_states(tmp_path):
    run = write_run(tmp_path / "run", 1, [])
    assert state_of(run, {"finished": True}) == "finished"
    assert state_of(run, {"finished": False}) == "stopped"
    write_json(run / "error.json", {})
    assert state_of(run, {"finished": False}) == "failed"
    hold(run, DEAD)
    assert state_of(run, {"finished": False}) == "failed"
    hold(run, os.getpid())
    assert state_of(run, {"finished": False}) == "training"
    (run / ".lock").write_text(json.dumps({"host": "another", "pid": DEAD}), encoding="utf-8")
    assert state_of(run, {"finished": False}) == "training"  # it has just written something
    for name in ("metrics.csv", "manifest.json", "error.json"):
        os.utime(run / name, (time.time() - 3600,) * 2)
    assert state_of(run, {"finished": False}) == "failed"
    (run / ".lock").write_text("{", encoding="utf-8")
    assert state_of(run, {"finished": False}) == "failed"


def test_a_folder_that_is_a_run_itself(results):
    folder = ServedFolder(results / "full")
    with Server(folder.path) as started:
        assert list(rows_of(started.get("/"))) == ["."]
        assert 'href="/run/"' in started.get("/")
        assert 'href="/files/manifest.json"' in started.get("/run/")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_when_told(results, number):
    with Server(results, "--port", 0) as started:
        assert started.ask("/")[0] == 200
        began = time.monotonic()
        started.process.send_signal(number)
        assert started.process.wait(10) == 0
        assert time.monotonic() - began < 5
        assert started.process.stdout.read() == b""


def test_a_port_that_is_taken(results, fails):
    with socket.create_server((server.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        said = fails(["serve", str(results), "--port", str(port), "--no_open"])
        assert f"--port {port}: cannot be listened on (Address already in use). Name another one." in said
    with server.listen(None) as first, server.listen(None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
        assert first.getsockname()[0] == second.getsockname()[0] == "127.0.0.1"


def test_bad_input_is_told_in_a_line(tmp_path, fails, monkeypatch):
    assert "no such folder" in fails(["serve", str(tmp_path / "none")])
    assert "--port 99999999" in fails(["serve", str(tmp_path), "--port", "99999999"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'lightning-pocket[serve]'" in fails(["serve", str(tmp_path)])


def test_the_browser_is_opened_only_if_wanted(results, monkeypatch):
    opened = []
    monkeypatch.setattr(server, "open_page", opened.append)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    main(["serve", str(results), "--no_open"])
    assert opened == []
    main(["serve", str(results)])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", opened[0])
