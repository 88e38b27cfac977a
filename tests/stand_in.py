"""Stands in for ``pocket`` where a test needs many quick trainings: takes the same arguments, leaves the same files.

``STAND_IN`` names a folder: ``settings.yaml`` is what ``--print_config`` prints, ``log`` gets a line for each command,
``seconds_K`` holds how long a training of fold K takes at most (it ends when the file is gone), ``fails_K`` lets it
fail, and ``tested.csv`` which cases a fold tests.
"""

import csv
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import yaml
from started import tied

from lightning_pocket.cli import main as pocket
from lightning_pocket.launch import end_with_parent
from lightning_pocket.reports.tested import record_test, state_of


def home():
    return Path(os.environ["STAND_IN"])


def note(text):
    with (home() / "log").open("a") as file:
        file.write(f"{text} {os.getpid()}\n")


def value(name):
    return next((a.partition("=")[2] for a in sys.argv if a.startswith(f"--{name}=")), None)


def fit(settings, run, fold):
    note(f"fit {fold}")
    seconds = home() / f"seconds_{fold}"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    settings["data"]["init_args"]["split"]["fold"] = int(fold)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "manifest.json").write_text(json.dumps({"finished": False, "epochs": 0}))
    end = time.monotonic() + (float(seconds.read_text()) if seconds.is_file() else 0)
    while seconds.is_file() and time.monotonic() < end:
        time.sleep(0.02)
    if (home() / f"fails_{fold}").exists():
        sys.stderr.write("pocket: error: the loss is not a number\n")
        raise SystemExit(1)
    (run / "checkpoints" / "last.ckpt").write_text("weights")
    manifest = {"finished": True, "epochs": 1, "parameters": 7, "train_seconds": 1.5}
    manifest["finished_at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    (run / "manifest.json").write_text(json.dumps(manifest))
    note(f"trained {fold}")


def test(run):
    fold = run.name.removeprefix("fold_")
    note(f"test {fold}")
    with (home() / "tested.csv").open(newline="") as file:
        cases = [row["subject"] for row in csv.DictReader(file) if row["fold"] == fold]
    (run / "test").mkdir(exist_ok=True)
    rows = "".join(f"{subject},0.{subject[-1]},{subject[-1]}\n" for subject in cases)
    (run / "test" / "cases.csv").write_text(f"subject,dice,hd95_mm\n{rows}")
    tested = {"checkpoint": value("ckpt_path"), "largest_component": False, "changed": "", "seconds": 0.5}
    record_test(run, state_of(run, {}) | tested)


def print_config(*_, **__):
    return SimpleNamespace(returncode=0, stdout=(home() / "settings.yaml").read_text(), stderr="")


def main():
    end_with_parent()
    command = sys.argv[1]
    if command == "fit":
        settings = yaml.safe_load((home() / "settings.yaml").read_text())
        fit(settings, Path(value("run_dir")), value("data.init_args.split.fold"))
    elif command == "test":
        test(Path(value("run_dir")))
    else:
        with (
            mock.patch("lightning_pocket.studies.jobs.start_tied", tied("stand_in:main")),
            mock.patch("lightning_pocket.studies.run_settings.subprocess", SimpleNamespace(run=print_config)),
        ):
            pocket()
