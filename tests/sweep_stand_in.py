"""Stands in for ``pocket`` where a test needs a sweep of quick trainings: takes the same arguments, leaves such files.

``STAND_IN`` names a folder: ``log`` gets a line for each training that begins and ends, with its process; ``seconds``
holds how long a training takes at most (it ends when the file is gone), and each line of ``fails`` an option with which
it fails, and what it says then. The score of a run is the sum of ``--x`` and ``--y``; ``--z`` changes nothing. With
``STAND_IN_PROGRAM`` a study starts its trainings as ``pocket`` does, instead of forking them.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import yaml
from started import tied

from lightning_pocket.cli import main as pocket
from lightning_pocket.launch import end_with_parent
from lightning_pocket.reports.tested import record_test, state_of
from lightning_pocket.run_folder import RunFolder

#: A study for it: ``x`` and ``y`` are what the score is made of.
GRID = {
    "title": "Grid",
    "configs": ["segment_volumes"],
    "space": {
        "x": {"type": "categorical", "choices": [0.1, 0.2, 0.3, 0.4]},
        "y": {"type": "categorical", "choices": [0.0, 0.5]},
    },
    "objectives": [{"metric": "dice", "direction": "maximize"}],
}
SETTINGS = {"model": {"init_args": {}}, "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1}}


def home():
    return Path(os.environ["STAND_IN"])


def note(text):
    with (home() / "log").open("a", encoding="utf-8") as file:
        file.write(f"{text} {os.getpid()}\n")


def values(options):
    return dict(option.removeprefix("--").split("=", 1) for option in options if "=" in option)


def resolve(options):
    """Stands in for the process that resolves settings: everything but x and y makes no difference."""
    from lightning_pocket.sweeps.resolve import Resolved

    found = []
    for entry in options:
        given = values(entry)
        unknown = [key for key in given if key not in ("x", "y", "z", "config", "trainer.max_epochs")]
        problem = f"unrecognized arguments: --{unknown[0]}" if unknown else ""
        settings = SETTINGS | {"epochs": given.get("trainer.max_epochs", "2")}
        identity = hashlib.sha256(repr((given.get("x"), given.get("y"))).encode()).hexdigest()
        found.append(Resolved(settings, identity, 7, ["val/dice", "val/loss"], False, problem))
    return found


def fit(run, given, options):
    if os.environ.get("POCKET_SWEEP_STORAGE"):
        sys.exit("a training needs no password")
    with RunFolder(run).locked():  # refuses where another one trains here
        train(run, given, options)


def train(run, given, options):
    note(f"fit {run.parent.name}/{run.name}")
    seconds = home() / "seconds"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    (run / "manifest.json").write_text(json.dumps({"finished": False, "epochs": 0}), encoding="utf-8")
    end = time.monotonic() + (float(seconds.read_text(encoding="utf-8")) if seconds.is_file() else 0)
    while seconds.is_file() and time.monotonic() < end:
        time.sleep(0.02)
    fails = (home() / "fails").read_text(encoding="utf-8").splitlines() if (home() / "fails").is_file() else []
    for option, _, said in (line.partition(" ") for line in fails):
        if option in options:
            sys.stderr.write(f"pocket: error: {said}\n")
            raise SystemExit(1)
    score = float(given.get("x", 0)) + float(given.get("y", 0)) + 0.01 * int(given["seed_everything"])
    if "trainer.callbacks.folder" in given:
        report(Path(given["trainer.callbacks.folder"]), score)
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "last.ckpt").write_text("weights")
    (run / "metrics.csv").write_text(f"epoch,step,val/dice\n0,1,{score / 2}\n1,2,{score / 4}\n")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    manifest = {"finished": True, "epochs": 2, "parameters": 7, "finished_at": now, "score": score, "best_epoch": 1}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    note(f"trained {run.parent.name}/{run.name}")


def report(folder, score):
    """Do what the callback that reports to a pruner does, and wait for the verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reports.jsonl").write_text(json.dumps({"epoch": 1, "value": score}) + "\n")
    end = time.monotonic() + 1
    while not (folder / "stop").is_file() and time.monotonic() < end:
        time.sleep(0.02)


def profile(output):
    output.mkdir(parents=True)
    (output / "table.csv").write_text("network,parameters,macs,train_mib\nUNet,7,1234,5.5\n")


def shrink(checkpoint, made):
    note(f"shrunk {made.name}")
    run = checkpoint.parents[1]
    shutil.rmtree(made, ignore_errors=True)
    (made / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "manifest.json", "checkpoints/last.ckpt"):
        shutil.copy(run / name, made / name)
    layer = {"name": "a", "kernels": [8, 3], "sizes": {"3x3": 2, "1x1": 1}, "macs_formula": [500, 77]}
    record = {"parameters": [7, 4], "macs": [1234, 400], "macs_formula": [1234, 300], "layers": [layer]}
    origin = {"sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    times = {"plain": [4.0, 3.0], "folded": [5.0, 1.0]}
    (made / "shrink.json").write_text(json.dumps(record | {"shrunk_from": origin, "milliseconds": times}))


def test(run, checkpoint):
    score = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["score"]
    (run / "test").mkdir(exist_ok=True)
    (run / "test" / "cases.csv").write_text(f"subject,dice\na,{score - 0.1}\nb,{score + 0.1}\n")
    record_test(run, state_of(run, {}) | {"checkpoint": checkpoint, "largest_component": False, "changed": ""})


def main():
    end_with_parent()
    command, *rest = sys.argv[1:]
    given = values(rest)
    if command == "fit":
        fit(Path(given["run_dir"]), given, rest)
    elif command == "test":
        test(Path(given["run_dir"]), given["ckpt_path"])
    elif command == "shrink":
        shrink(Path(rest[0]), Path(given["output"]))
    elif command == "profile":
        profile(Path(given["output"]))
    else:
        forked = mock.patch("lightning_pocket.studies.jobs.start_tied", tied("sweep_stand_in:main"))
        program = mock.patch("lightning_pocket.launch.program", return_value=[sys.executable, __file__])
        chosen = program if "STAND_IN_PROGRAM" in os.environ else forked
        with chosen, mock.patch("lightning_pocket.sweeps.start.resolve", resolve):
            pocket()


if __name__ == "__main__":
    main()
