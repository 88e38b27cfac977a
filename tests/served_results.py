"""A folder of results, and the server of `pocket serve` over it."""

import html
import json
import os
import re
import socket

import numpy as np
import pytest
from command_server import CommandServer

pytest.importorskip("starlette", reason="needs starlette: pip install 'lightning-pocket[serve]'")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'lightning-pocket[serve]'")

from lightning_pocket.reports.page import Page
from lightning_pocket.reports.pictures import write_png
from lightning_pocket.storage import write_csv, write_json

HOSTILE = "a \"q\" '<script>alert(1)</script>' ä & %2e #1?"
SECRET = "the secret of another folder"
DEAD = 2**22 + 1  # larger than any process number


def write_run(path, parameters, dice, **manifest):
    content = {"parameters": parameters, "finished": True, "epochs": 2, "steps": 40, "seed": 7, "train_seconds": 60.0}
    content |= {"started_at": "2026-01-02T03:04:05+00:00", "command": f"pocket fit --run_dir={path.name}"} | manifest
    write_json(path / "manifest.json", content)
    log(path, 2)
    if dice:
        rows = [{"subject": f"case_{i}", "dice": value, "dice_core": value} for i, value in enumerate(dice)]
        write_csv(path / "test" / "cases.csv", ["subject", "dice", "dice_core"], rows)
        write_png(path / "test" / "pictures" / "case_0.png", np.full((4, 4, 3), 90, np.uint8))
    return path


def log(path, epochs):
    """Write the metrics of a run as its logger does, one row an epoch."""
    rows = [
        {"epoch": e, "step": 20 * e, "train/loss": 1 / (e + 1), "val/dice": 1 - 0.5 / (e + 1)} for e in range(epochs)
    ]
    write_csv(path / "metrics.csv", ["epoch", "step", "train/loss", "val/dice"], rows)


def hold(path, process):
    lock = {"host": socket.gethostname(), "pid": process, "since": "2026-01-02T03:04:05.000+00:00"}
    (path / ".lock").write_text(json.dumps(lock), encoding="utf-8")


def make_results(tmp_path_factory):
    """A folder of results, and beside it one that nobody may read."""
    base = tmp_path_factory.mktemp("serve")
    outside = base / "outside"
    write_run(outside / "run", 5, [0.1], command=SECRET)
    (outside / "secret.txt").write_text(SECRET, encoding="utf-8")
    root = base / "results"
    cases = np.linspace(0.5, 0.9, 12)
    write_run(root / "full", 351_188, list(cases))
    write_run(root / "deep" / "pocket", 29_796, list(cases - 0.01))
    write_run(root / "going", 1000, [], finished=False)
    hold(root / "going", os.getpid())
    write_run(root / HOSTILE, 9, [0.4])
    (root / "broken").mkdir()
    (root / "broken" / "manifest.json").write_text("{", encoding="utf-8")
    write_json(root / "study" / "study.json", {})
    (root / "study" / "table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (root / "study" / "data.json").write_text("{}", encoding="utf-8")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "secret.txt").write_text(SECRET, encoding="utf-8")
    (root / ".env").write_text(SECRET, encoding="utf-8")
    (root / "leads_out").symlink_to(outside)
    (root / "study" / "leads_out.txt").symlink_to(outside / "secret.txt")
    (root / "to_hidden.txt").symlink_to(root / ".env")
    (root / "within.csv").symlink_to(root / "study" / "table.csv")
    os.mkfifo(root / "pipe.txt")
    linked = write_run(root / "linked", 6, [0.2])
    (linked / "config.yaml").symlink_to(outside / "secret.txt")
    write_json(
        root / "cv" / "crossval.json", {"runs": {"0": {"run": "../../outside/run"}}, "folds": [0], "command": "x"}
    )
    Page("A report").write(root / "report.html")
    return root


class Server(CommandServer):
    """`pocket serve`."""

    def __init__(self, *arguments):
        super().__init__("serve", *arguments, "--no_open")
        self.address = re.search(r"http://\S+/", self.said)[0]
        self.port = int(re.search(r":(\d+)/", self.address)[1])

    def ask(self, target, method="GET", host=None, version="1.1", headers=()):
        """Send a request as it is; return status, headers and body."""
        host = f"127.0.0.1:{self.port}" if host is None else host
        lines = [f"{method} {target} HTTP/{version}", "Connection: close", *headers]
        lines += [f"Host: {host}"] if host else []
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        named = {key.lower(): value for key, value in (field.split(": ", 1) for field in fields)}
        return int(status.split()[1]), named, body.decode(errors="replace")

    def get(self, target):
        status, _, body = self.ask(target)
        assert status == 200, (target, status, body[-600:])
        return body


def rows_of(page):
    """Return the rows of the list: name -> texts of the cells."""
    found = {}
    for name, row in re.findall(r'<tr data-run="(.*?)">(.*?)</tr>', page):
        cells = [html.unescape(re.sub(r"<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        found[html.unescape(name)] = cells
    return found
