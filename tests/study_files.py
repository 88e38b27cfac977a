"""Files that studies write, and a program that stands for the one that they start."""

import csv
import sys
from pathlib import Path

import pytest


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace ``pocket`` by a program that says when it ran and where, and fails on demand."""
    tmp_path.mkdir(exist_ok=True)
    script = tmp_path / "stub.py"
    script.write_text(
        "import os, sys, time\n"
        "start = time.time()\n"
        "time.sleep(0.4)\n"
        "print(sys.argv[1], start, time.time(), os.environ.get('PLACE'))\n"
        "sys.exit('pocket: error: no more room' if 'fail' in sys.argv else 0)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("lightning_pocket.launch.program", lambda: [sys.executable, str(script)])
