"""Processes of `pocket table`."""

import subprocess
import sys
import time
from pathlib import Path

import pytest


def test_a_dry_run_does_not_wait_for_torch():
    code = (
        "import sys; from lightning_pocket.cli import main; main(['table', 'pocketnet_table1', '--dry_run']); "
        "print('heavy:', {'torch', 'scipy', 'jsonargparse'} & set(sys.modules) or 'nothing')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("heavy: nothing\n")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_it_runs_ends_when_the_table_is_killed(tmp_path):
    mark = tmp_path / "pid"
    child = (
        "import os, time; from pathlib import Path; from lightning_pocket.launch import end_with_parent; "
        "end_with_parent(); time.sleep(0.2); "
        f"Path({str(mark)!r}).with_suffix('.new').write_text(str(os.getpid())); "
        f"Path({str(mark)!r}).with_suffix('.new').rename({str(mark)!r}); time.sleep(60)"
    )
    parent = (
        "import sys; from lightning_pocket import launch; "
        f"launch.program = lambda: [sys.executable, '-c', {child!r}]; launch.run_tied([])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    deadline = time.monotonic() + 15
    while not mark.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    running = Path(f"/proc/{mark.read_text(encoding='utf-8')}")
    assert _alive(running)
    process.kill()
    process.wait()
    while _alive(running) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(running)


def _alive(process):
    try:
        return "Z" not in (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
